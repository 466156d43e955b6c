"""The plane moved to the nearest state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from losspath.geometry.projection import Projection
from losspath.methods.method import Floats, Method


@dataclass(frozen=True)
class Sampled(Method):
    """The plane through the nearest state: w = 1 at that state, thesis eq. 6.2.

    Exact on the path. Where the nearest state changes, the surface jumps; of states equally near,
    the earliest counts.
    """

    name: ClassVar[str] = "sampled"

    def weights(self, points: Floats, path: Projection) -> Floats:
        """(G, T): one 1 in each row."""
        weights = np.zeros((len(points), len(path)))
        weights[np.arange(len(points)), path.nearest(points)] = 1.0
        return weights
