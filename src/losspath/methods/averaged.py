"""Blends of all states, the near ones most."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from losspath.arguments import flag, number
from losspath.errors import ArgumentError
from losspath.geometry.projection import Projection
from losspath.methods.method import Floats, Method


@dataclass(frozen=True)
class Averaged(Method):
    """A softmax of distances in the plane: w_i ∝ exp(−d_i/τ), thesis eq. 6.5 and 6.6.

    τ → 0 is `Sampled`, τ → ∞ is `PCA`. The weights depend on the unit that distances have, hence
    on the scale of the path, and on how densely in time it was recorded; τ is a choice that the
    picture depends on.

    Args:
        temperature: τ, in the unit of the parameters' distances; 1.0 in the thesis. "auto" takes
            Scott's rule for the bandwidth of a kernel in two dimensions, τ = σ·T^(−1/6), with the
            root-mean-square deviation σ of the T states along an axis of the plane; it follows
            the path's scale and spacing. (D. W. Scott, Multivariate Density Estimation, 1992.)
        arc_length: weight each state by the length of path that it stands for (half the way to
            the state before and half to the next, in the plane), so that the density of recording
            does not matter.
        literal: without the in-plane term, as eq. 6.6 is printed: the blend Σ w_i θ_i itself,
            which does not project onto the point that it is drawn at.
    """

    name: ClassVar[str] = "averaged"
    temperature: float | Literal["auto"] = 1.0
    arc_length: bool = False
    literal: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, str):
            number(above=0)('temperature (or "auto")', self.temperature)
        elif self.temperature != "auto":
            raise ArgumentError(f'expected a temperature > 0 or "auto", got {self.temperature!r}')
        flag("arc_length", self.arc_length)
        flag("literal", self.literal)

    def resolve(self, path: Projection) -> Averaged:
        """The method with its temperature as a number."""
        if self.temperature != "auto":
            return self
        spread = float(np.sqrt(np.mean(self._squares(path)) / 2))
        return dataclasses.replace(self, temperature=spread * len(path) ** (-1 / 6))

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): rows that sum to one."""
        temperature = self.resolve(path).temperature
        assert temperature != "auto"
        exponents = self._distances(points, path)
        # Distances to the nearest, so that the largest weight is exp(0) however far the point is.
        exponents -= exponents.min(axis=1, keepdims=True)
        weights = np.exp(exponents / -temperature)
        if self.arc_length:
            weights *= _arc_lengths(path.coordinates)
        weights /= weights.sum(axis=1, keepdims=True)
        return weights

    def places(self, points: Floats, weights: Floats, path: Projection) -> Floats:
        """(G, 2): the points, or in the literal variant where the blends project."""
        return weights @ path.coordinates if self.literal else points

    def _distances(self, points: Floats, path: Projection) -> Floats:
        return path.distances(points)

    def _squares(self, path: Projection) -> Floats:
        squares: Floats = np.sum((path.coordinates - path.coordinates.mean(axis=0)) ** 2, axis=1)
        return squares


@dataclass(frozen=True)
class AveragedND(Averaged):
    """The same with distances in all of parameter space, thesis eq. 6.5.

    d_i is the distance of state i from the plane's point θ̄ + U g, so
    d_i² = ‖g − p_i‖² + ‖r_i‖²: states far off the plane count less.

    Args:
        temperature: as for `Averaged`; "auto" takes σ from the states' distances in all of
            parameter space.
        arc_length: as for `Averaged`.
        literal: as for `Averaged`.
    """

    name: ClassVar[str] = "averaged-nd"

    def _distances(self, points: Floats, path: Projection) -> Floats:
        distances: Floats = np.hypot(path.distances(points), path.residual_norms)
        return distances

    def _squares(self, path: Projection) -> Floats:
        squares: Floats = super()._squares(path) + path.residual_norms**2
        return squares


def _arc_lengths(path: Floats) -> Floats:
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    lengths = np.zeros(len(path))
    lengths[:-1] += steps / 2
    lengths[1:] += steps / 2
    # States that stand for no length at all still have to share the weight of a point.
    floor = 1e-12 * max(float(lengths.max()), float(np.finfo(float).tiny))
    floored: Floats = np.maximum(lengths, floor)
    return floored
