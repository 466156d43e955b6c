"""Losses as shares of the range that is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from losspath.surface.judging import Heights
from losspath.surface.surface import Surface

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shares:
    """From losses to shares of the drawn range: 0 is the least loss, 1 the largest that is drawn.

    Of logarithms where all losses are positive, as pictures show them. Shares are not clipped at 1.

    Attributes:
        is_logarithmic: whether of logarithms.
        low: the loss, or its logarithm, of share 0.
        span: from there to that of share 1.
    """

    is_logarithmic: bool
    low: float
    span: float

    @classmethod
    def of(cls, surface: Surface) -> Shares:
        """Those of a surface, which need not be complete."""
        heights = Heights.of(surface, np.zeros(0))
        known = np.concatenate([surface.loss.reshape(-1), surface.states.loss])
        known = known[np.isfinite(known)]
        if not len(known):
            return cls(False, 0.0, 1.0)
        low, top = heights.low, min(heights.top, float(known.max()))
        if heights.is_logarithmic:
            low, top = float(np.log(low)), float(np.log(top))
        # Constant to rounding is a range all the same, so that nothing is gone after in noise.
        return cls(
            heights.is_logarithmic, low, max(top - low, 1e-9 * max(abs(low), abs(top), 1e-12))
        )

    def __call__(self, losses: Floats) -> Floats:
        """Shares; NaN of what has none."""
        with np.errstate(all="ignore"):
            found = np.log(losses) if self.is_logarithmic else np.asarray(losses, np.float64)
            shares: Floats = (found - self.low) / self.span
        return shares

    def losses(self, shares: Floats) -> Floats:
        """Losses of shares."""
        found = self.low + self.span * shares
        with np.errstate(over="ignore"):
            losses: Floats = np.exp(found) if self.is_logarithmic else found
        return losses
