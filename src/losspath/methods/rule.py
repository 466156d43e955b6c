"""What a surface method is."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PathGeometry:
    """What a rule may know of a path: its shadow in the plane, and how far off it is.

    Attributes:
        path: (T, 2) coordinates of the states in the plane.
        residual_norms: (T,) distances of the states from the plane.
        center: (2,) the middle of the path's bounding box.
    """

    path: Floats
    residual_norms: Floats
    center: Floats

    @property
    def extremes(self) -> list[int]:
        """The four states with the smallest and the largest coordinate on each axis."""
        low, high = self.path.argmin(axis=0), self.path.argmax(axis=0)
        return [int(low[0]), int(high[0]), int(low[1]), int(high[1])]

    @property
    def displacement(self) -> Floats:
        """(2,): where the average of the extremes is, from the middle of the box.

        The thesis's program draws the one at the other.
        """
        displacement: Floats = self.path[self.extremes].mean(axis=0) - self.center
        return displacement

    def distances(self, points: Floats) -> Floats:
        """(G, T): distances in the plane between points (G, 2) and the states."""
        x = points[:, 0, None] - self.path[None, :, 0]
        y = points[:, 1, None] - self.path[None, :, 1]
        distances: Floats = np.hypot(x, y)
        return distances

    def nearest(self, points: Floats) -> npt.NDArray[np.intp]:
        """(G,): the state nearest to each point in the plane; of equals the earliest."""
        nearest: npt.NDArray[np.intp] = self.distances(points).argmin(axis=1)
        return nearest


@dataclass(frozen=True)
class Method(ABC):
    """A rule for the weights of states at a point. Its fields are its options."""

    name: ClassVar[str]
    is_flat: ClassVar[bool] = False
    """Whether the weights are the same at every point, so that the points lie on a plane, and
    `places` does not look at them."""

    @abstractmethod
    def weights(self, points: Floats, geometry: PathGeometry) -> Floats:
        """The weights of the states' residuals.

        Args:
            points: (G, 2) coordinates in the plane.
            geometry: the path.

        Returns:
            Array (G, T).
        """

    def places(self, points: Floats, weights: Floats, geometry: PathGeometry) -> Floats:
        """(G, 2): where in the plane the parameters lie that are evaluated for each point.

        The points themselves, but for variants that reproduce a displaced picture.
        """
        return points

    def resolve(self, geometry: PathGeometry) -> Method:
        """The method with options that depend on the path ("auto") replaced by their values."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Name and options, for provenance."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def describe(self) -> str:
        """The method and its options as a figure names them."""
        options = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is True:
                options.append(field.name.replace("_", " "))
            elif value != field.default or field.name == "temperature":
                shown = f"{value:.3g}" if isinstance(value, float) else str(value)
                options.append(f"{field.name} {shown}")
        return self.name + (f" ({', '.join(options)})" if options else "")
