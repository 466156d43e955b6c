"""Blends of all states, the near ones most."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from losspath.arguments import flag, number
from losspath.distances import DISTANCES, Distance, Euclidean, EuclideanND, distance_named
from losspath.errors import ArgumentError
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection, step_lengths
from losspath.methods.method import Floats, Method
from losspath.recording.trajectory import StateSequence

_EUCLIDEAN, _EUCLIDEAN_ND = Euclidean(), EuclideanND()
_STATES = 100  # at most, that count for the bandwidth
# An extent of less than this share of the path's size is what rounding leaves of none.
_NO_SPREAD = 1e-9


@dataclass(frozen=True)
class Averaged(Method):
    """A softmax of distances in the plane: w_i ∝ exp(−d_i/τ), thesis eq. 6.5 and 6.6.

    This is a Nadaraya-Watson blend [1, 2] of the states' residuals with an exponential kernel. With
    the term in the plane it blends the planes through the single states, θ_i + U (g − p_i), each
    parallel to the one that is drawn: the form of Shepard's interpolation with a local plane at
    each place [3], whose slopes are all the same here.

    τ → 0 is `Sampled` by the same distance, τ → ∞ is `PCA`: τ is a choice that the picture depends
    on. A number means what it does by the unit that distances have, hence by the scale of the path
    (but for Mahalanobis distances, which have no unit).

    Args:
        temperature: τ. "auto", the default, follows the path's own scale and spacing, by Scott's
            rule for the bandwidth of a kernel in two dimensions: τ = σ·n^(−1/6) [4], with σ the
            root-mean-square distance of the states from their run's mean, over √2: for the
            Euclidean distance their root-mean-square deviation along an axis of the plane; and n
            the number of states, but at most 100: states that follow each other closely are no
            independent samples, and a path is the same however densely it was recorded. By
            another distance about as many states are blended, whatever its unit. Or a number in
            the distance's unit: for the Euclidean and the Manhattan distance that of the
            parameters, for Mahalanobis' the standard deviation of the path. 1.0 in the thesis.
        arc_length: weight each state by the length of path that it stands for (half the way to
            the state before and half to the next, in the plane and Euclidean), so that it does not
            matter where along the path recording was denser.
        distance: d, a `losspath.distances.Distance` or its name; Euclidean in the plane by
            default, as in the thesis.

    References:
        [1] E. A. Nadaraya, "On estimating regression", Theory of Probability and its Applications
        9 (1964) 141-142.
        [2] G. S. Watson, "Smooth regression analysis", Sankhyā A 26 (1964) 359-372.
        [3] R. Franke and G. Nielson, "Smooth interpolation of large sets of scattered data",
        International Journal for Numerical Methods in Engineering 15 (1980) 1691-1704.
        [4] D. W. Scott, Multivariate Density Estimation, 1992.
    """

    name: ClassVar[str] = "averaged"
    temperature: float | Literal["auto"] = "auto"
    arc_length: bool = False
    distance: Distance | str | Mapping[str, Any] = _EUCLIDEAN

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, str):
            number(above=0)('temperature (or "auto")', self.temperature)
        elif self.temperature != "auto":
            raise ArgumentError(f'expected a temperature > 0 or "auto", got {self.temperature!r}')
        flag("arc_length", self.arc_length)
        object.__setattr__(self, "distance", distance_named(self.distance))

    def bind(self, path: StateSequence, plane: Plane, projection: Projection) -> Averaged:
        """The method with what its distance needs of the states."""
        bound = distance_named(self.distance).bind(path, plane, projection)
        return dataclasses.replace(self, distance=bound)

    def resolve(self, path: Projection) -> Averaged:
        """The method with its temperature as a number."""
        if self.temperature != "auto":
            return self
        return dataclasses.replace(
            self, temperature=_bandwidth(distance_named(self.distance), path)
        )

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): rows that sum to one."""
        temperature = self.resolve(path).temperature
        assert temperature != "auto"
        distance = distance_named(self.distance)
        lengths = np.zeros(len(path))
        if self.arc_length:
            states = distance.states_of(path)
            starts = np.searchsorted(states, path.starts)
            lengths[states] = _arc_lengths(path.coordinates[states], starts.tolist())
        weights = np.empty((len(points), len(path)))
        for some, distances, least in distance.in_blocks(points, path):
            block = weights[some]
            # From the nearest on, so that the largest weight is exp(0) however far the point is.
            np.subtract(distances, least[:, None], out=block)
            block /= -temperature
            np.exp(block, out=block)
            if self.arc_length:
                block *= lengths
            block /= block.sum(axis=1, keepdims=True)
        return weights


@dataclass(frozen=True)
class AveragedND(Averaged):
    """The same with distances in all of parameter space, thesis eq. 6.5.

    d_i is the distance of state i from the plane's point θ̄ + U g, so by Euclid
    d_i² = ‖g − p_i‖² + ‖r_i‖²: states far off the plane count less.

    Args:
        temperature: as for `Averaged`; "auto" takes σ from the states' distances in all of
            parameter space.
        arc_length: as for `Averaged`.
        distance: one in all dimensions, or its name with or without "-nd"; Euclidean by default,
            as in the thesis.
    """

    name: ClassVar[str] = "averaged-nd"
    distance: Distance | str | Mapping[str, Any] = _EUCLIDEAN_ND

    def __post_init__(self) -> None:
        distance = self.distance
        if isinstance(distance, str) and f"{distance}-nd" in DISTANCES:
            object.__setattr__(self, "distance", f"{distance}-nd")
        super().__post_init__()
        found = distance_named(self.distance)
        if found.in_plane:
            raise ArgumentError(
                f"expected a distance in all dimensions, got {found.name}, which is one in the "
                "plane; give EuclideanND(), ManhattanND() or MahalanobisND(), or use averaged"
            )


def _bandwidth(distance: Distance, path: Projection) -> float:
    """Scott's rule for a path: see `Averaged`."""
    count = min(len(distance.states_of(path)), _STATES)
    sizes = np.hypot(np.linalg.norm(path.coordinates, axis=1), path.residual_norms)
    extent = float(np.ptp(path.coordinates, axis=0).max())
    if extent > _NO_SPREAD * sizes.max() or not distance.in_plane:
        whole = distance.spread(dataclasses.replace(path, starts=(0,)))
        own = distance.spread(path) if len(path.starts) > 1 else whole
        # Runs of one state each have none of their own.
        spread = own if own > _NO_SPREAD * whole else whole
        if spread > 0:
            return float(spread * count ** (-1 / 6))
    # All states are at one place, and alike at any temperature that rounding is small beside.
    return float(sizes.max()) or 1.0


def _arc_lengths(coordinates: Floats, starts: Sequence[int]) -> Floats:
    steps = step_lengths(coordinates, starts)
    lengths = np.zeros(len(coordinates))
    lengths[:-1] += steps / 2
    lengths[1:] += steps / 2
    # States that stand for no length at all still have to share the weight of a point.
    floor = 1e-12 * max(float(lengths.max()), float(np.finfo(float).tiny))
    floored: Floats = np.maximum(lengths, floor)
    return floored
