"""The straight line's length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from losspath.distances.distance import Distance, Floats
from losspath.geometry.projection import Projection


@dataclass(frozen=True)
class Euclidean(Distance):
    """The Euclidean distance in the plane, d_i = ‖g − p_i‖₂, in the unit of the parameters.

    It does not depend on how the plane's axes are turned. The thesis's distance.
    """

    name: ClassVar[str] = "euclidean"

    def distances(self, points: Floats, path: Projection) -> Floats:
        """(G, T): √((g₁ − p_i1)² + (g₂ − p_i2)²)."""
        x = points[:, 0, None] - path.coordinates[None, :, 0]
        y = points[:, 1, None] - path.coordinates[None, :, 1]
        distances: Floats = np.hypot(x, y, out=x)
        return distances


@dataclass(frozen=True)
class EuclideanND(Euclidean):
    """The Euclidean distance in all dimensions, from the plane's point o + U g to state θ_i.

    d_i² = ‖o + U g − θ_i‖² = ‖g − p_i‖² + ‖r_i‖², as the residual r_i is orthogonal to the plane.
    So the projection has all that is needed, and all states count. States far off the plane are
    far.
    """

    name: ClassVar[str] = "euclidean-nd"
    in_plane: ClassVar[bool] = False

    def distances(self, points: Floats, path: Projection) -> Floats:
        """(G, T): √(‖g − p_i‖² + ‖r_i‖²)."""
        distances = super().distances(points, path)
        return np.hypot(distances, path.residual_norms, out=distances)
