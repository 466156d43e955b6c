"""The plane itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from losspath.arguments import flag
from losspath.geometry.projection import Projection
from losspath.methods.method import Floats, Method, displacement, extremes


@dataclass(frozen=True)
class PCA(Method):
    """The loss on the principal plane: w = 0, thesis eq. 6.1.

    What is drawn is the plane through the mean of the states; the states themselves lie off it by
    their residuals, so their losses differ from the surface they are drawn on.

    Args:
        literal: what the thesis's program drew: the plane through the average of the four extreme
            states (smallest and largest coordinate on each axis), drawn at the middle of the
            path's box. That average projects elsewhere, so the picture is displaced.
    """

    name: ClassVar[str] = "pca"
    is_flat: ClassVar[bool] = True
    literal: bool = False

    def __post_init__(self) -> None:
        flag("literal", self.literal)

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): zeros, or a quarter for each of the four extreme states."""
        weights = np.zeros((len(points), len(path)))
        if self.literal:
            for extreme in extremes(path):
                weights[:, extreme] += 0.25
        return weights

    def places(self, points: Floats, weights: Floats, path: Projection) -> Floats:
        """(G, 2): the points, or in the literal variant the points displaced."""
        if not self.literal:
            return points
        displaced: Floats = points + displacement(path)
        return displaced
