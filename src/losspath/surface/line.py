"""What is measured along a straight line in a plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from losspath.evaluation.quantities import LOSS

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """What is measured along a straight line in a plane.

    Attributes:
        alpha: (A,) positions: 0 at one end and 1 at the other.
        points: (A, 2) their coordinates in the plane.
        values: by name, (A,) each quantity: "loss", "accuracy" if known, metrics.
    """

    alpha: Floats = field(repr=False)
    points: Floats = field(repr=False)
    values: Mapping[str, Floats]

    def __repr__(self) -> str:
        names = ", ".join(self.values)
        return f"Line: {len(self.alpha)} positions, {names}"

    @property
    def loss(self) -> Floats:
        """(A,) the loss."""
        return self.values[LOSS]
