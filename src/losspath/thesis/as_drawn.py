"""The methods as the thesis's program drew them, or as the thesis printed them, errors included.

For comparison with its figures: `losspath surface RUN --method pca-as-drawn`. Parameters are
evaluated that do not project onto the point that they are drawn at, so pictures are displaced.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from losspath.geometry.projection import Projection
from losspath.methods import PCA, Averaged, AveragedND, Lift, SampledPCA

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PCAAsDrawn(PCA):
    """The plane through the average of the path's four extreme states.

    These have the smallest and the largest coordinate on each axis. Their average is drawn at the
    middle of the path's box, but projects elsewhere.
    """

    name: ClassVar[str] = "pca-as-drawn"

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): a quarter for each of the four extreme states."""
        weights = np.zeros((len(points), len(path)))
        for extreme in _extremes(path):
            weights[:, extreme] += 0.25
        return weights

    def lift(self, points: Floats, path: Projection) -> Lift:
        """One vector a point, all displaced alike."""
        lift = super().lift(points, path)
        return dataclasses.replace(lift, places=points + _displacement(path))


@dataclass(frozen=True)
class SampledPCAAsDrawn(SampledPCA):
    """Between the nearest state and `PCAAsDrawn`, thesis eq. 6.4 with 6.1.

    Args:
        side: what counts as the centre's side of the path, one of `SampledPCA`'s or
            "above", "below": g lies there of q along the second axis. The program has the first;
            which of the two it is depends there on the arbitrary sign of a principal direction.
            "sign": g and c lie on the same side of q along the second axis.
    """

    name: ClassVar[str] = "sampled-pca-as-drawn"
    sides: ClassVar[tuple[str, ...]] = (*SampledPCA.sides, "sign", "above", "below")
    side: str = "above"

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): the nearest state's weight, and a quarter of the rest for each extreme state."""
        weights, rest = self._split(points, path)
        for extreme in _extremes(path):
            weights[:, extreme] += rest / 4
        return weights

    def _split(self, points: Floats, path: Projection) -> tuple[Floats, Floats]:
        """(G, T) and (G,): the weights of nearest states, and what they leave for the plane."""
        weights = super().weights(points, path)
        return weights, 1 - weights.sum(axis=1)

    def lift(self, points: Floats, path: Projection) -> Lift:
        """One vector a point, displaced by the plane's part in it."""
        lift = super().lift(points, path)
        _, rest = self._split(points, path)
        return dataclasses.replace(lift, places=points + rest[:, None] * _displacement(path))

    def inside(self, points: Floats, state: Floats, path: Projection) -> npt.NDArray[np.bool_]:
        """(G,): which points lie on the centre's side of their nearest states."""
        if self.side not in ("sign", "above", "below"):
            return super().inside(points, state, path)
        towards = {"sign": path.center[1] - state[:, 1], "above": 1.0, "below": -1.0}[self.side]
        inside: npt.NDArray[np.bool_] = (points[:, 1] - state[:, 1]) * towards >= 0
        return inside


@dataclass(frozen=True)
class AveragedAsPrinted(Averaged):
    """The blend Σ w_i θ_i without the term in the plane, as thesis eq. 6.6 is printed."""

    name: ClassVar[str] = "averaged-as-printed"
    temperature: float | Literal["auto"] = 1.0  # the thesis's

    def lift(self, points: Floats, path: Projection) -> Lift:
        """One vector a point, where the blends project."""
        return _where_blends_project(super().lift(points, path), path)


@dataclass(frozen=True)
class AveragedNDAsPrinted(AveragedND):
    """The same by distances in all of parameter space, thesis eq. 6.5."""

    name: ClassVar[str] = "averaged-nd-as-printed"
    temperature: float | Literal["auto"] = 1.0  # the thesis's

    def lift(self, points: Floats, path: Projection) -> Lift:
        """One vector a point, where the blends project."""
        return _where_blends_project(super().lift(points, path), path)


def _where_blends_project(lift: Lift, path: Projection) -> Lift:
    return dataclasses.replace(lift, places=lift.weights @ path.coordinates)


def _extremes(path: Projection) -> list[int]:
    """The four states with the smallest and the largest coordinate on each axis."""
    low, high = path.coordinates.argmin(axis=0), path.coordinates.argmax(axis=0)
    return [int(low[0]), int(high[0]), int(low[1]), int(high[1])]


def _displacement(path: Projection) -> Floats:
    """(2,): where the average of the extremes is, from the middle of the box.

    The program draws the one at the other.
    """
    displacement: Floats = path.coordinates[_extremes(path)].mean(axis=0) - path.center
    return displacement
