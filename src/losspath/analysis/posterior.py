"""Draws of parameters around a point: of the path's own last states, or of the loss's curvature."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from losspath.errors import ArgumentError, ObjectiveError, PathError
from losspath.evaluation.derivatives import trained_parameters
from losspath.evaluation.fisher import Fisher
from losspath.evaluation.recorded import PathObjective
from losspath.recording.trajectory import StateSequence, starts_of

Floats = npt.NDArray[np.float64]

# SWAG is of 20 states of the last quarter of training in its authors' experiments.
_STATES, _PART, _LEAST = 20, 0.25, 3
# Samples of a part whose gradients are squared, at most, and the least number of parts.
_BATCH, _PARTS = 8, 64
_ROUNDS = 100  # of the prior's precision


class Posterior(Protocol):
    """A distribution of parameters, without its mean."""

    def shift(self, draw: int) -> Floats:
        """(P,) a draw minus the mean: the same each time for the same number."""


class Swag:
    """SWAG [1]: a normal distribution with half the covariance of the path's last states.

    The other half is of its diagonal alone: Σ = ½ (diag(σ²) + D Dᵀ / (K−1)), with the deviations
    D (P, K) of K states from their mean and their variances σ². K = 20 states, evenly over the last
    quarter of the path. Running statistics are those of the point that is shifted, where [1]
    estimates them anew: ``Objective(..., buffers="recalibrated")`` does that.

    Args:
        path: one run.
        seed: of all draws.

    Raises:
        ArgumentError: several runs.
        PathError: fewer than three states in the last quarter, or states that are not finite.

    References:
        [1] W. Maddox, T. Garipov, P. Izmailov, D. Vetrov and A. G. Wilson, "A simple baseline for
        Bayesian uncertainty in deep learning", NeurIPS 2019.
    """

    def __init__(self, path: StateSequence, seed: int) -> None:
        _refuse_several(path, "swag")
        first = int((1 - _PART) * len(path))
        chosen = np.linspace(first, len(path) - 1, _STATES).round().astype(int)
        self._index: list[int] = np.unique(chosen).tolist()
        if len(self._index) < _LEAST:
            raise PathError(
                f"expected a path of {_LEAST / _PART:.0f} states or more, of whose last quarter "
                f"SWAG is, got {len(path)}"
            )
        self._path, self._seed = path, seed
        base = self._state(self._index[0])  # sums of what is left lose fewer digits
        total, squares = np.zeros_like(base), np.zeros_like(base)
        for index in self._index:
            difference = self._state(index) - base
            total += difference
            squares += np.square(difference)
        count = len(self._index)
        self._mean = base + total / count
        self._deviation = np.sqrt(np.maximum(squares / count - np.square(total / count), 0.0))
        if not np.isfinite(self._mean).all():
            raise PathError(
                "expected finite states in the last quarter of the path, of which SWAG is; take "
                "the states before they are not (--states, or path[:n])"
            )

    def _state(self, index: int) -> Floats:
        state: Floats = self._path.read(index, index + 1)[0].astype(np.float64)
        return state

    def shift(self, draw: int) -> Floats:
        """(P,) a draw minus the mean; the states are read for it."""
        generator = np.random.default_rng((self._seed, draw))
        factors = generator.standard_normal(len(self._index)) / np.sqrt(len(self._index) - 1)
        shift: Floats = self._deviation * generator.standard_normal(len(self._mean))
        for index, factor in zip(self._index, factors.tolist(), strict=True):
            shift += factor * (self._state(index) - self._mean)
        shift /= np.sqrt(2)
        return shift


class Laplace:
    """Laplace's approximation at the path's last state, with a diagonal precision [1].

    The precision of parameter j is H_j + λ: H, the diagonal of the empirical Fisher matrix over the
    objective's samples, whose losses count as negative log-likelihoods; λ, the precision of a
    normal prior around zero that has the largest evidence [2], λ = Σ_j H_j/(H_j + λ) / ‖θ‖².

    Args:
        bound: the loss along the path.
        path: one run.
        seed: of all draws.

    Raises:
        ArgumentError: several runs.
        ObjectiveError: the loss has no curvature at the last state, or none that is finite.

    References:
        [1] E. Daxberger, A. Kristiadi, A. Immer, R. Eschenhagen, M. Bauer and P. Hennig, "Laplace
        redux: effortless Bayesian deep learning", NeurIPS 2021.
        [2] D. MacKay, "Bayesian interpolation", Neural Computation 4 (1992) 415-447.
    """

    def __init__(self, bound: PathObjective, path: StateSequence, seed: int) -> None:
        _refuse_several(path, "laplace")
        last = len(path) - 1
        state = path.read(last, last + 1)[0].astype(np.float64)
        size = int(np.clip(len(bound.objective) // _PARTS, 1, _BATCH))
        objective = bound.objective.with_parts_of(min(size, bound.objective.batch_size))
        diagonal = Fisher(objective, state, bound.sides_of(last)).diagonal()
        is_trained = np.zeros(len(state), bool)
        for entry in trained_parameters(objective):
            is_trained[entry.place] = True
        curvature, norm = diagonal[is_trained], float(np.square(state[is_trained]).sum())
        if not np.isfinite(curvature).all() or not curvature.any():
            raise ObjectiveError(
                "expected a loss with finite gradients that differ between samples at the path's "
                "last state, of which Laplace's approximation is; take another source"
            )
        precision = 1.0
        for _ in range(_ROUNDS):
            precision = float((curvature / (curvature + precision)).sum()) / norm
        self._deviation = np.zeros(len(state))
        self._deviation[is_trained] = 1 / np.sqrt(curvature + precision)
        self._seed = seed

    def shift(self, draw: int) -> Floats:
        """(P,) a draw minus the mean."""
        generator = np.random.default_rng((self._seed, draw))
        shift: Floats = self._deviation * generator.standard_normal(len(self._deviation))
        return shift


def _refuse_several(path: StateSequence, source: str) -> None:
    if len(starts_of(path)) > 1:
        raise ArgumentError(
            f"expected one run for the source {source!r}, which is of a run's last states, got "
            f"{len(starts_of(path))}; take each by itself"
        )
