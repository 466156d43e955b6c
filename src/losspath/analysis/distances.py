"""How far apart two methods' parameters are, and the states of a path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from losspath.arguments import GRID, RESOLUTION, checked, of_type, optional, range_of
from losspath.distances import Euclidean
from losspath.errors import ArgumentError, PathError
from losspath.geometry.gram import stretches
from losspath.geometry.grid import Grid
from losspath.geometry.plane import PrincipalPlane
from losspath.geometry.walk import RandomWalk
from losspath.methods import SampledPCA
from losspath.recording.joint import Runs, as_path
from losspath.recording.paths import StateSequence

Floats = npt.NDArray[np.float64]

_FITTED = of_type("losspath.geometry.plane:PrincipalPlane", "make one by fit_plane(path)")
# T × T numbers: 512 MiB.
_MOST_STATES = 8192

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
        random_walk: the share that a random walk has; None where it is not known.
    """

    x: Floats
    y: Floats
    distance: Floats
    path: Floats
    explained_variance_ratio: Floats
    labels: tuple[str, ...] = ("PC 1", "PC 2")
    starts: tuple[int, ...] = (0,)
    random_walk: RandomWalk | None = None

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
    return DistanceMap(
        grid.x,
        grid.y,
        distance,
        path.coordinates,
        path.explained_variance_ratio,
        plane.labels,
        path.starts,
        plane.random_walk,
    )


def state_distances(path: StateSequence | npt.ArrayLike | Runs) -> Floats:
    """The Euclidean distance between any two states of a path, or of several runs.

    One pass over the path, a stretch of all states' parameters at a time, so that states of any
    size fit into memory. Where training came back to where it had been, far from the diagonal is
    small. Of sketches the distances are right to about ``path.sketch.relative_error``.

    Args:
        path: T states of P numbers, T ≤ 8,192; take ``path.window(stride=n)`` of more.

    Returns:
        (T, T) ‖θ_i − θ_j‖₂, right to about 1e-8 of the largest of them; NaN or infinite where a
        state is not finite.

    Raises:
        PathError: more states.

    Example:
        >>> state_distances([[0.0, 0.0], [3.0, 4.0]]).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    states = as_path(path)
    count = len(states)
    if count > _MOST_STATES:
        stride = -(-count // _MOST_STATES)
        raise PathError(
            f"expected at most {_MOST_STATES:,} states, as each has a distance to each, got "
            f"{count:,}; take every so many: path.window(stride={stride})"
        )
    gram = np.zeros((count, count))
    with np.errstate(invalid="ignore", over="ignore"):
        for _, part in stretches(states):
            # What all have in common would take digits; one that is not finite would take all.
            finite = np.flatnonzero(np.isfinite(part).all(axis=1))
            if len(finite):
                part -= part[finite[len(finite) // 2]].copy()
            gram += part @ part.T
        squares = np.diag(gram)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * gram, 0.0))
    np.fill_diagonal(distances, np.where(np.isfinite(squares), 0.0, np.nan))
    return distances
