"""The mean of the losses on planes through real states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, get_args

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from losspath.arguments import count, number, one_of
from losspath.geometry.grid import box_sides
from losspath.geometry.projection import Projection
from losspath.geometry.spacing import spread_states
from losspath.methods.method import Floats, Lift, Mean, Method

# Of the pairs of states that chords go between. Fixed, so that a picture is the same each time.
_SEED = 20231
# Where more anchors than are asked for are as near as each other, all of them count, so that
# rounding does not choose; what has less than this share is not evaluated.
_TIE, _LEAST = 1e-9, 1e-6


@dataclass(frozen=True)
class LocalPlanes(Method):
    """The mean *loss* of planes through anchors near a point, each parallel to the drawn one.

    An anchor a is a vector θ_a = o + U p_a + r_a with the residual r_a off the plane; its plane is
    θ_a(g) = o + U g + r_a. A point has the weighted mean of its nearest anchors' losses,

        S(g) = Σ_a s_a(g) L(θ_a(g)),  s_a ∝ ((1 − d_a/R + ε) / d_a)^p where d_a ≤ R, else 0,

    with the distances d_a = ‖g − p_a‖ and that of the next anchor, R: modified Shepard weights [1],
    a partition of unity. The surface is smooth where losses are, exact at each anchor, and follows
    the path's scale. With ε = 1e-9, anchors that are all as near have equal shares.

    A mean of weights has a lower loss than the weights that it is a mean of, so `PCA` and every
    blend of parameters draw a floor on which training never walks. Here losses are averaged, of
    vectors that lie as far off the plane as real states do.

    Anchors are states of the path, evenly by arc length in the plane; vectors of the straight line
    from the start to the end of each run, which states say nothing of; and vectors on chords
    between pairs of a run's states, chosen at random by a fixed seed, for the plane between them.
    None of the latter two is within `reach` of a state: a straight line may cross the path in the
    plane though not in parameter space, and has another loss there, of which a picture has room
    for one. Near the path, states tell the loss.

    Args:
        states: how many states are anchors; both ends of each run in any case.
        line: how many vectors of each run's line from its start to its end, without these, and
            before those near a state are left out.
        chords: how many vectors on chords, likewise; of several runs as many in each as it has
            states.
        neighbours: how many anchors a point has, which is what it costs: so many evaluations.
        mean: "log-loss": the geometric mean of losses, as pictures show them by their logarithm;
            where one is not positive it is the plain mean. "loss": the plain mean, the expectation.
            Other quantities have the plain mean.
        power: p > 0. The surface has a slope at an anchor where p > 1, and none but its plane's
            there, so that for a large p it is flat around each; 2 in [1].
        reach: how near to the path states alone are anchors, as a part of the sides of the path's
            box in the plane, along each axis. By default just over a step of the usual grid,
            0.075: a line that is nearer is drawn over the path. 0 leaves nothing out.

    References:
        [1] R. Franke and G. Nielson, "Smooth interpolation of large sets of scattered data",
        International Journal for Numerical Methods in Engineering 15 (1980) 1691-1704.
    """

    name: ClassVar[str] = "local-planes"
    has_sheets: ClassVar[bool] = True
    states: int = 100
    line: int = 25
    chords: int = 100
    neighbours: int = 4
    mean: str = "log-loss"
    power: float = 1.5
    reach: float = 0.08

    def __post_init__(self) -> None:
        count(2)("states", self.states)
        count(0)("line", self.line)
        count(0)("chords", self.chords)
        count(1)("neighbours", self.neighbours)
        one_of(get_args(Mean))("mean", self.mean)
        number(above=0)("power", self.power)
        number(least=0)("reach", self.reach)

    @property
    def vectors_at_a_point(self) -> int:
        """How many vectors a point has at most."""
        return self.neighbours

    @property
    def is_logarithmic(self) -> bool:
        """Whether a point has the mean of its vectors' log-losses, where all are positive."""
        return self.mean == "log-loss"

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): the mean weights of the states' residuals, by the anchors' shares."""
        lift = self.lift(points, path)
        weights = np.zeros((len(points), len(path)))
        shared = lift.share[:, None] * lift.weights_of(np.arange(len(lift)))
        np.add.at(weights, lift.point, shared)
        return weights

    def lift(self, points: Floats, path: Projection) -> Lift:
        """At each point, the vectors on its anchors' planes."""
        anchors = self.anchors(path)
        shares = self._shares(points, anchors @ path.coordinates)
        point, sheet = np.nonzero(shares)
        return Lift(points[point], anchors, point, shares[point, sheet], sheet)

    def anchors(self, path: Projection) -> csr_array:
        """(A, T): each anchor as weights of states, which sum to one."""
        rows, columns, values = [], [], []
        for row, (states, weights) in enumerate(self._anchors(path)):
            rows += [row] * len(states)
            columns += states
            values += weights
        shape = (rows[-1] + 1, len(path))
        anchors = csr_array((values, (rows, columns)), shape=shape)
        places = path.coordinates / box_sides(path.coordinates)
        beside, _ = cKDTree(places).query(anchors @ places)
        return anchors[(np.diff(anchors.indptr) == 1) | (beside >= self.reach)]

    def _anchors(self, path: Projection) -> Iterator[tuple[list[int], list[float]]]:
        """The states that each anchor is made of, and their weights."""
        for state in spread_states(path.coordinates, self.states, path.starts).tolist():
            yield [state], [1.0]
        bounds = [(a, b) for a, b in pairwise([*path.starts, len(path)]) if b - a > 1]
        for first, stop in bounds:
            for alpha in np.linspace(0.0, 1.0, self.line + 2)[1:-1].tolist():
                yield [first, stop - 1], [1.0 - alpha, alpha]
        generator = np.random.default_rng(_SEED)
        shares = np.cumsum([0, *(stop - first for first, stop in bounds)]) / len(path)
        numbers = np.diff(np.round(shares * self.chords).astype(int)).tolist()
        for (first, stop), some in zip(bounds, numbers, strict=True):
            for _ in range(some):
                one, other = generator.integers([first, first], [stop, stop - 1]).tolist()
                alpha = float(generator.uniform())
                yield [one, other + (other >= one)], [1.0 - alpha, alpha]

    def _shares(self, points: Floats, anchors: Floats) -> Floats:
        """(G, A): the share of each anchor, zero of those that are not among the nearest."""
        distances = cdist(points, anchors)
        some = min(self.neighbours, len(anchors))
        radius = np.full((len(points), 1), np.inf)  # where there is no next anchor
        if some < len(anchors):
            radius = np.partition(distances, some, axis=1)[:, some : some + 1]
        nearest = distances.min(axis=1, keepdims=True)
        # In units of the nearest distance, so that nothing overflows however near an anchor is.
        shares = np.divide(nearest, distances, out=np.ones_like(distances), where=distances > 0)
        inside = np.isfinite(radius) & (radius > 0)
        part = np.divide(distances, radius, out=np.zeros_like(distances), where=inside)
        shares *= np.where(part <= 1 + _TIE, np.maximum(1 - part, 0) + _TIE, 0)
        shares **= self.power
        shares[shares < _LEAST * shares.max(axis=1, keepdims=True)] = 0.0
        found: Floats = shares / shares.sum(axis=1, keepdims=True)
        return found
