"""The plane itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from losspath.geometry.projection import Projection
from losspath.methods.method import Floats, Method


@dataclass(frozen=True)
class PCA(Method):
    """The loss on the principal plane: w = 0, thesis eq. 6.1.

    What is drawn is the plane through the mean of the states; the states themselves lie off it by
    their residuals, so their losses differ from the surface they are drawn on.
    """

    name: ClassVar[str] = "pca"
    is_flat: ClassVar[bool] = True

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): zeros."""
        return np.zeros((len(points), len(path)))
