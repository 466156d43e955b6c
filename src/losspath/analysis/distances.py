"""How far apart two methods' parameters are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from losspath.arguments import GRID, RESOLUTION, checked, of_type, optional, range_of
from losspath.distances import Euclidean
from losspath.errors import ArgumentError
from losspath.geometry.grid import Grid
from losspath.geometry.plane import PrincipalPlane
from losspath.methods import SampledPCA

Floats = npt.NDArray[np.float64]

_FITTED = of_type("losspath.geometry.plane:PrincipalPlane", "make one by fit_plane(path)")
_SAMPLED_PCA = of_type("losspath.methods:SampledPCA", "leave it out for the default one")


@dataclass(frozen=True)
class DistanceMap:
    """The distance in parameter space between ``sampled`` and ``sampled-pca`` (thesis Fig. 6.8).

    Attributes:
        x: (n,) coordinates of the grid's columns.
        y: (m,) coordinates of its rows.
        distance: (m, n) ‖θ_sampled(g) − θ_sampled-pca(g)‖₂ = (1 − w(g))·‖r_q‖ at each point, for
            its nearest state q.
        path: (T, 2) the states' coordinates.
        explained_variance_ratio: (2,) the share of the path's variance along x and y.
        labels: what the axes are called.
        starts: the first state of each run that the path is of.
    """

    x: Floats
    y: Floats
    distance: Floats
    path: Floats
    explained_variance_ratio: Floats
    labels: tuple[str, ...] = ("PC 1", "PC 2")
    starts: tuple[int, ...] = (0,)

    def __repr__(self) -> str:
        size = f"{len(self.x)} × {len(self.y)} points"
        return f"DistanceMap: {size}, distance {range_of(self.distance)}"


@checked(plane=_FITTED, resolution=RESOLUTION, grid=optional(GRID), method=optional(_SAMPLED_PCA))
def distance_map(
    plane: PrincipalPlane,
    resolution: int = 19,
    *,
    grid: Grid | None = None,
    method: SampledPCA | None = None,
) -> DistanceMap:
    """Maps how far ``sampled-pca`` moves each point's parameters away from ``sampled``.

    Needs no model and no states, as both differ by a share of one residual.

    Args:
        plane: the path's plane.
        resolution: grid lines an axis; see `Grid.around`.
        grid: the grid, instead of `resolution`.
        method: the rule for ``sampled-pca``, with its default options when not given.

    Raises:
        ArgumentError: a rule that moves more than one residual.
    """
    if method is not None and type(method).lift is not SampledPCA.lift:
        raise ArgumentError(
            f"expected method as SampledPCA, or one that differs from it in its weights alone, got "
            f"{method.name}, whose parameters lie elsewhere"
        )
    path = plane.path
    grid = grid or Grid.around(path.coordinates, resolution)
    method = method or SampledPCA()
    nearest = Euclidean().nearest(grid.points, path)
    share = 1.0 - method.state_weights(grid.points, nearest, path)
    distance = (share * path.residual_norms[nearest]).reshape(grid.shape)
    ratio = path.explained_variance_ratio
    return DistanceMap(grid.x, grid.y, distance, path.coordinates, ratio, plane.labels, path.starts)
