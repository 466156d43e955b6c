"""How much of its variance a random walk has in a plane: what a path's own share is held against.

A walk of many steps in many dimensions has most of its variance along its first two principal
components [1, 2]: a high share is no sign of structure. The walk here has the path's own steps in
length, one by one, and independent directions, each as likely as any other. So it holds for
whatever states were recorded, and is a closer match than a walk of equal steps where these shrink,
as they do in training.

With T states, state i of a run is Σ_{k ≤ i} ℓ_k u_k from its first. Let K (T, T) be the map from
the u to centred states. In many dimensions the u are orthogonal, so the covariance has the
eigenvalues λ of Kᵀ K, and component j has the share λ_j / tr Kᵀ K [1]; for equal steps these fall
as 1 / j².

In P dimensions u_k · u_l has the variance 1/P. To first order in 1/P the sum s of the first shares
then has the variance (2/P) Σ_{k ≠ l} A_kl², with A = (Σ_j λ_j q_j q_jᵀ − s Kᵀ K) / tr Kᵀ K over
these j and their eigenvectors q. With few parameters walks are drawn instead.

References:
    [1] J. Antognini and J. Sohl-Dickstein, "PCA of high dimensional random walks with comparison to
    neural network training", NeurIPS 2018.
    [2] E. Lorch, "Visualizing deep network training trajectories with PCA", ICML Workshop on
    Visualization for Deep Learning, 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import LinearOperator, eigsh

from losspath.arguments import checked, count, one_of
from losspath.geometry import pca
from losspath.recording.joint import Runs
from losspath.recording.trajectory import StateSequence, as_path, starts_of

Floats = npt.NDArray[np.float64]

_DENSE = 400  # states up to which all eigenvalues are computed
_MORE = 12  # eigenvalues beyond those asked for, which have nearly all of the sum of squares
_FEW = 100  # parameters below which the first order in 1/P is not enough
_WALKS, _LEAST_WALKS, _DRAWN = 200, 20, 4_000_000  # walks that are drawn; numbers in all, about


@dataclass(frozen=True)
class RandomWalk:
    """The share of variance that a random walk has along its own principal components.

    Attributes:
        shares: (k,) along each component, as a mean over walks.
        deviation: the standard deviation of their sum from one walk to another.
    """

    shares: Floats
    deviation: float

    def describe(self, share: float, several: bool = False) -> str:
        """A path's share of variance with that of the walk beside it, in words.

        Args:
            share: of the path.
            several: whether it is of several runs.
        """
        points = 100 * self.deviation
        spread = f" ± {points:.1g}%" if points >= 0.05 else ""
        whose, walk = "path's", "a random walk with its"
        if several:
            whose, walk = "paths'", "random walks with their"
        told = f"{self.shares.sum():.0%}{spread}"
        return f"{share:.0%} of the {whose} variance ({walk} step lengths: {told})"

    def to_json(self) -> dict[str, Any]:
        """The numbers by name, as JSON values."""
        return {"shares": self.shares.tolist(), "deviation": self.deviation}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RandomWalk:
        """What `to_json` gave."""
        return cls(np.array(values["shares"], np.float64), float(values["deviation"]))


@checked(components=count(1, 100), steps=one_of(("own", "equal")), seed=count(0))
def random_walk_variance(
    path: StateSequence | npt.ArrayLike | Runs,
    components: int = 2,
    *,
    steps: Literal["own", "equal"] = "own",
    seed: int = 0,
) -> RandomWalk:
    """The share of variance that a random walk like a path has along its principal components.

    Hold `Projection.explained_variance_ratio` of the path's principal plane against it: `fit_plane`
    has it as `PrincipalPlane.random_walk`, and captions say it.

    Several runs are walks from their own first states, which stay where they are. A sketched path
    is a walk in as many dimensions as its sketches have.

    Args:
        path: T states of P numbers, or several runs.
        components: k, how many components.
        steps: "own": the walk's steps are as long as those from each recorded state to the next;
            "equal": the variance of all training steps is the same [1], so that between two
            recorded states it is as their distance in steps, where that is known.
        seed: of the walks that are drawn, for networks of fewer than 100 parameters.

    Raises:
        PathError: fewer than two states, states that are all the same, or not finite.

    References:
        [1] J. Antognini and J. Sohl-Dickstein, "PCA of high dimensional random walks with
        comparison to neural network training", NeurIPS 2018.
    """
    states = as_path(path)
    lengths = _lengths(states) if steps == "own" else _equal_lengths(states)
    return walk_of(lengths, states, components, seed)


def walk_of(lengths: Floats, path: StateSequence, components: int, seed: int = 0) -> RandomWalk:
    """The walk of a path whose steps are known.

    Args:
        lengths: (T,) the way to each state from the one before it.
        path: the path.
        components: how many.
        seed: of the walks that are drawn.
    """
    walk = _Walk.of(lengths, path)
    if not walk.trace > 0:
        pca.refuse_same(path)
    if path.parameter_count < _FEW:
        return _drawn(walk, path.parameter_count, components, seed)
    values, vectors = walk.eigen(components + _MORE)
    shares = np.zeros(components)
    top = min(components, len(values))
    shares[:top] = values[:top] / walk.trace
    variance = walk.variance(values, vectors, top) * 2 / path.parameter_count
    return RandomWalk(shares, float(np.sqrt(variance)))


def _lengths(path: StateSequence) -> Floats:
    lengths, last = np.empty(len(path)), None
    for first, rows in pca.doubled(path):
        lengths[first : first + len(rows)] = pca.step_norms(rows, last)
        last = rows[-1].clone()
    if not np.isfinite(lengths).all():
        pca.refuse_non_finite(path)
    return lengths


def _equal_lengths(path: StateSequence) -> Floats:
    runs = getattr(path, "runs", {"": path}).values()
    steps = [np.asarray(getattr(run, "steps", np.arange(len(run)))) for run in runs]
    return np.concatenate([np.sqrt(np.diff(each, prepend=each[:1])) for each in steps])


@dataclass(frozen=True)
class _Walk:
    """The map from directions of steps to centred states, of one run or several.

    Attributes:
        lengths: (T,) of the step to each state; 0 for the first of a run.
        starts: (R,) the first state of each run.
        places: (R, r) where each run begins, in as many dimensions as these need.
    """

    lengths: Floats
    starts: npt.NDArray[np.int64]
    places: Floats

    @classmethod
    def of(cls, lengths: Floats, path: StateSequence) -> _Walk:
        starts = np.array(list(starts_of(path).values()))
        lengths = lengths.copy()
        lengths[starts] = 0.0
        return cls(lengths, starts, _places(path, starts.tolist()))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(R,) states in each run."""
        return np.diff([*self.starts, len(self.lengths)])

    def states(self, directions: Floats) -> Floats:
        """(…, T, n) centred states from (…, T + r, n) directions of steps and of places."""
        count = len(self.lengths)
        moved = np.cumsum(self.lengths[:, None] * directions[..., :count, :], axis=-2)
        begun = self.places @ directions[..., count:, :] - moved[..., self.starts, :]
        moved += np.repeat(begun, self.sizes, axis=-2)
        moved -= moved.mean(axis=-2, keepdims=True)
        return moved

    def transposed(self, states: Floats) -> Floats:
        """(T + r, n): the transpose of `states`."""
        behind = np.cumsum((states - states.mean(axis=0))[::-1], axis=0)[::-1]
        ends = np.concatenate([behind[self.starts[1:]], np.zeros_like(behind[:1])])
        whole = behind[self.starts] - ends
        steps = self.lengths[:, None] * (behind - np.repeat(ends, self.sizes, axis=0))
        return np.concatenate([steps, self.places.T @ whole])

    @property
    def diagonal(self) -> Floats:
        """(T,): the diagonal of Kᵀ K for steps: ℓ² n (T − n) / T with n states from the step on."""
        count = len(self.lengths)
        behind = np.repeat(self.starts + self.sizes, self.sizes) - np.arange(count)
        diagonal: Floats = self.lengths**2 * behind * (count - behind) / count
        return diagonal

    @property
    def between(self) -> Floats:
        """(r, r): the part of Kᵀ K for places, which no chance is in."""
        mean = self.sizes @ self.places / len(self.lengths)
        away = self.places - mean
        between: Floats = (away * self.sizes[:, None]).T @ away
        return between

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues."""
        return float(self.diagonal.sum() + np.trace(self.between))

    def eigen(self, most: int) -> tuple[Floats, Floats]:
        """The largest eigenvalues of Kᵀ K, descending, and their vectors (T + r, n)."""
        size = len(self.lengths) + self.places.shape[1]
        if size <= max(_DENSE, 2 * most):
            product = self.transposed(self.states(np.eye(size)))
            values, vectors = np.linalg.eigh((product + product.T) / 2)
        else:
            operator = LinearOperator(
                (size, size),
                matvec=lambda x: self.transposed(self.states(x.reshape(-1, 1)))[:, 0],
                dtype=np.float64,
            )
            start = np.random.default_rng(0).standard_normal(size)
            values, vectors = eigsh(operator, most, v0=start)
        order = np.argsort(values)[::-1][:most]
        return np.maximum(values[order], 0.0), vectors[:, order]

    def variance(self, values: Floats, vectors: Floats, top: int) -> float:
        """Σ A_kl² over pairs k ≠ l that chance is in: see the module."""
        share = values[:top].sum() / self.trace
        weights = np.where(np.arange(len(values)) < top, 1 - share, -share) * values
        count, own = len(self.lengths), vectors[:, :top] * values[:top]
        diagonal = np.sum(own[:count] * vectors[:count, :top], axis=1) - share * self.diagonal
        places = own[count:] @ vectors[count:, :top].T - share * self.between
        chance = np.sum(weights**2) - np.sum(diagonal**2) - np.sum(places**2)
        return max(float(chance), 0.0) / self.trace**2


def _places(path: StateSequence, starts: Sequence[int]) -> Floats:
    """(R, R − 1) coordinates of states from the first of them, with their distances; (1, 0) of one.

    Two states at a time are in memory.
    """
    rows = len(starts)
    if rows == 1:
        return np.zeros((1, 0))

    def state(number: int) -> Floats:
        found: Floats = path.read(starts[number], starts[number] + 1)[0].astype(np.float64)
        return found

    squares = np.zeros((rows, rows))
    for i in range(rows):
        one = state(i)
        for j in range(i):
            squares[i, j] = squares[j, i] = float(np.sum(np.square(state(j) - one)))
    products = (squares[:, :1] + squares[:1] - squares) / 2
    values, vectors = np.linalg.eigh(products)
    places: Floats = vectors[:, 1:] * np.sqrt(np.maximum(values[1:], 0.0))
    return places


def _drawn(walk: _Walk, size: int, components: int, seed: int) -> RandomWalk:
    """Of walks in a few dimensions: the mean and the deviation over those that are drawn."""
    generator = np.random.default_rng(seed)
    count, places = len(walk.lengths), min(walk.places.shape[1], size)
    # Places of runs have no more dimensions than there are; those of least extent come first.
    held = _Walk(walk.lengths, walk.starts, walk.places[:, walk.places.shape[1] - places :])
    walks = int(np.clip(_DRAWN // (count * size), _LEAST_WALKS, _WALKS))
    found = np.zeros((walks, components))
    for number in range(walks):
        directions = generator.standard_normal((count, size))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        states = held.states(np.concatenate([directions, np.eye(places, size)]))
        product = states @ states.T if count < size else states.T @ states
        values = np.linalg.eigvalsh(product)[::-1]
        found[number, : min(components, len(values))] = values[:components] / values.sum()
    return RandomWalk(found.mean(axis=0), float(found.sum(axis=1).std()))
