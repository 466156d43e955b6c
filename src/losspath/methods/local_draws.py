"""The mean of the losses of draws: vectors as far off the plane as states near a point are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from losspath.arguments import count, number, one_of
from losspath.errors import ArgumentError
from losspath.geometry.projection import Projection
from losspath.methods.averaged import Averaged
from losspath.methods.method import Floats, Lift, Mean, Method

# Of Scott's rule for the bandwidth, which is for densities; for means of states it is too wide.
_NARROW = 0.1
# Beside the seed, so that a path that somebody drew by the same seed has no part in the noise.
_STREAM = 20262


@dataclass(frozen=True)
class LocalDraws(Method):
    """The mean *loss* of draws from the states' own distribution off the plane, near a point.

    With weights w_i of the states by their distance in the plane, w_i ∝ exp(−d_i/h), a point has
    vectors o + U g + r̄ + Σ_i √w_i ξ_i (r_i − r̄) with the residuals r_i of the states, their mean
    r̄ = Σ_i w_i r_i, and ξ_i independent and normal of variance 1. These are draws of the normal
    distribution whose mean and covariance are the weighted ones of the residuals. Their mean
    square, ‖r̄‖² + Σ_i w_i ‖r_i − r̄‖², is that of the states themselves, however wide h is: so a
    loss that is a quadratic off the plane has the expectation that states have, and no floor on
    which training never walks, as blends of states have.

    A second way to what `LocalPlanes` is for. The same ξ belong to all points, so that the surface
    is as smooth as the loss and the weights are, which planes through single states are not; but
    between its states the path tells it nothing, so it is as wrong on a straight line as a blend.
    Draws come in pairs ±ξ, whose mean is that of the distribution exactly.

    Args:
        draws: how many vectors a point has, an even number.
        bandwidth: h, in the parameters' unit. "auto" is a tenth of the temperature that `Averaged`
            has by "auto": of held-out states, wider ones were further off, and a twentieth was
            nearer by a hundredth, and rougher (benchmarks/results/tuning.txt).
        mean: "log-loss" or "loss", as of `LocalPlanes`.
        seed: of ξ.
    """

    name: ClassVar[str] = "local-draws"
    draws: int = 8
    bandwidth: float | Literal["auto"] = "auto"
    mean: str = "log-loss"
    seed: int = 0

    def __post_init__(self) -> None:
        count(2)("draws", self.draws)
        if self.draws % 2:
            raise ArgumentError(f"expected draws in pairs, an even number, got {self.draws}")
        if not isinstance(self.bandwidth, str):
            number(above=0)('bandwidth (or "auto")', self.bandwidth)
        elif self.bandwidth != "auto":
            raise ArgumentError(f'expected a bandwidth > 0 or "auto", got {self.bandwidth!r}')
        one_of(get_args(Mean))("mean", self.mean)
        count()("seed", self.seed)

    @property
    def vectors_at_a_point(self) -> int:
        """How many vectors a point has."""
        return self.draws

    @property
    def is_logarithmic(self) -> bool:
        """Whether a point has the mean of its vectors' log-losses, where all are positive."""
        return self.mean == "log-loss"

    def resolve(self, path: Projection) -> LocalDraws:
        """The method with its bandwidth as a number."""
        if self.bandwidth != "auto":
            return self
        wide = Averaged("auto").resolve(path).temperature
        return dataclasses.replace(self, bandwidth=_NARROW * float(wide))

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): the weights of states in the distribution, which sum to one."""
        bandwidth = self.resolve(path).bandwidth
        assert bandwidth != "auto"
        return Averaged(bandwidth).weights(points, path)

    def lift(self, points: Floats, path: Projection) -> Lift:
        """At each point, the draws, of equal shares; buffers are those of the mean."""
        means = self.weights(points, path)
        roots, noise = np.sqrt(means), self.noise(len(path))
        weights = np.empty((len(points), self.draws, len(path)))
        for drawn, one in zip(weights.transpose(1, 0, 2), noise, strict=True):
            away = roots * one
            # So that rows sum to one: Σ √w ξ (r − r̄) as weights of r.
            drawn[:] = means + away - means * away.sum(axis=1, keepdims=True)
        point = np.repeat(np.arange(len(points)), self.draws)
        return Lift(
            points[point],
            weights.reshape(-1, len(path)),
            point,
            np.full(len(point), 1.0 / self.draws),
            buffers=means,
        )

    def noise(self, states: int) -> Floats:
        """(draws, T): ξ, first of one sign and then of the other."""
        generator = np.random.default_rng([_STREAM, self.seed])
        half = generator.standard_normal((self.draws // 2, states))
        return np.concatenate([half, -half])
