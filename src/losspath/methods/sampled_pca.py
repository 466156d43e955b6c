"""From the nearest state to the plane through the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay, QhullError

from losspath.arguments import one_of
from losspath.distances import Euclidean
from losspath.geometry.projection import Projection
from losspath.methods.method import Floats, Method

Side = Literal["centre", "hull"]


@dataclass(frozen=True)
class SampledPCA(Method):
    """Between the nearest state q and the plane, thesis eq. 6.3 and 6.4.

    On the centre's side of the path, w = d_C / (d_C + d_P) at q, with d_P = ‖g − p_q‖ and
    d_C = ‖g − c‖ for the centre c of the path's box: 1 on the path, 0 at the centre. Behind the
    path, and where both distances are 0, w = 1.

    Args:
        side: what counts as the centre's side:
            "centre": (g − p_q)·(c − p_q) ≥ 0. Mirroring an axis mirrors the surface.
            "hull": g lies in the convex hull of the path ("within a convex area of the path" in
            the thesis's text).
    """

    name: ClassVar[str] = "sampled-pca"
    sides: ClassVar[tuple[str, ...]] = get_args(Side)
    side: str = "centre"

    def __post_init__(self) -> None:
        one_of(self.sides)("side", self.side)

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): at most one weight in each row, between 0 and 1."""
        nearest = Euclidean().nearest(points, path)
        share = self.state_weights(points, nearest, path)
        weights = np.zeros((len(points), len(path)))
        weights[np.arange(len(points)), nearest] = share
        return weights

    def state_weights(
        self, points: Floats, nearest: npt.NDArray[np.intp], path: Projection
    ) -> Floats:
        """(G,): the weight of each point's nearest state."""
        state = path.coordinates[nearest]
        to_state = np.linalg.norm(points - state, axis=1)
        to_center = np.linalg.norm(points - path.center, axis=1)
        total = to_state + to_center
        share = np.divide(to_center, total, out=np.ones(len(points)), where=total > 0)
        weights: Floats = np.where(self.inside(points, state, path), share, 1.0)
        return weights

    def inside(self, points: Floats, state: Floats, path: Projection) -> npt.NDArray[np.bool_]:
        """(G,): which points lie on the centre's side of their nearest states.

        Args:
            points: (G, 2) coordinates in the plane.
            state: (G, 2) those of each point's nearest state.
            path: the path as the plane shows it.
        """
        if self.side == "hull":
            return _in_hull(points, path.coordinates)
        product = np.sum((points - state) * (path.center - state), axis=1)
        inside: npt.NDArray[np.bool_] = product >= 0
        return inside


def _in_hull(points: Floats, path: Floats) -> npt.NDArray[np.bool_]:
    try:
        inside: npt.NDArray[np.bool_] = Delaunay(path).find_simplex(points) >= 0
    except QhullError:  # a path on a line has no inside
        inside = np.zeros(len(points), bool)
    return inside
