"""The plane moved to the nearest state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from losspath.distances import Distance, Euclidean, distance_named
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.methods.method import Floats, Method
from losspath.recording.trajectory import StateSequence

_EUCLIDEAN = Euclidean()


@dataclass(frozen=True)
class Sampled(Method):
    """The plane through the nearest state: w = 1 at that state, thesis eq. 6.2.

    This is nearest-neighbour interpolation [1] of the residuals: a Voronoi diagram of the states,
    with a plane of its own in each cell. By a distance in the plane it is exact on the path. By one
    in all dimensions it need not be: a state far off the plane can be farther from its own place
    than another state is. Where the nearest state changes, the surface jumps; of states equally
    near, the earliest counts.

    Args:
        distance: what "nearest" means: a `losspath.distances.Distance` or its name; Euclidean in
            the plane by default, as in the thesis.

    References:
        [1] T. M. Cover and P. E. Hart, "Nearest neighbor pattern classification", IEEE
        Transactions on Information Theory 13 (1967) 21-27.
    """

    name: ClassVar[str] = "sampled"
    distance: Distance | str | Mapping[str, Any] = _EUCLIDEAN

    def __post_init__(self) -> None:
        object.__setattr__(self, "distance", distance_named(self.distance))

    def bind(self, path: StateSequence, plane: Plane, projection: Projection) -> Sampled:
        """The method with what its distance needs of the states."""
        bound = distance_named(self.distance).bind(path, plane, projection)
        return dataclasses.replace(self, distance=bound)

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): one 1 in each row."""
        nearest = distance_named(self.distance).nearest(points, path)
        weights = np.zeros((len(points), len(path)))
        weights[np.arange(len(points)), nearest] = 1.0
        return weights
