"""One scale from heights to colours, for one surface or for several that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import Colormap, LogNorm, Normalize

from losspath.arguments import checked, text
from losspath.figures.style import check_group
from losspath.surface import ACCURACY, CLIP, LOSS, Surface, value_named
from losspath.surface.surface import LOGARITHMIC

Floats = npt.NDArray[np.float64]

_LEVELS = 40


@dataclass(frozen=True)
class HeightScale:
    """From heights of surfaces to colours.

    Attributes:
        low: the smallest height that is drawn.
        high: the largest; larger ones are drawn as "over".
        logarithmic: whether colours follow the logarithm.
        clipped: whether heights above `high` exist.
        limit: what `high` is when clipped, in words.
        height: what is drawn: "loss", "accuracy" or another quantity.
    """

    low: float
    high: float
    logarithmic: bool
    clipped: bool
    limit: str = ""
    height: str = LOSS

    @classmethod
    @checked(height=text)
    def of(cls, surfaces: Sequence[Surface], height: str = LOSS) -> HeightScale:
        """The scale that shows these surfaces, and the states' own values on them.

        Of losses from the smallest finite one to the largest, but to no more than 1.5 times the
        initial loss where that is positive and some of the surface is below it; logarithmic where
        the range is wider than a factor of 12. Of accuracies from 0 to 1. Of other quantities, of
        which it is not known what is good, from the smallest to the largest, evenly.

        Args:
            surfaces: at least one.
            height: "loss", "accuracy" or another quantity that all of them have.

        Raises:
            ArgumentError: no surface, or one that lacks the quantity.
        """
        check_group(surfaces, Surface, "a Surface", "at least one surface")
        parts = [value_named(s.values, height, "height").reshape(-1) for s in surfaces]
        parts += [s.states.values[height] for s in surfaces if height in s.states.values]
        values = np.concatenate(parts)
        finite = values[np.isfinite(values)]
        if len(finite) == 0 or height == ACCURACY:
            return cls(0.0, 1.0, False, False, height=height)
        low, high = float(finite.min()), float(finite.max())
        if height != LOSS:
            return cls(*_with_margin(low, high), False, False, height=height)
        limit = CLIP * surfaces[0].initial_loss
        lowest = min(_least(surface.loss) for surface in surfaces)
        clipped = bool(limit > 0 and lowest < limit < high)
        if clipped:
            high = limit
        low, high = _with_margin(low, high)
        logarithmic = low > 0 and high / low > LOGARITHMIC
        words = f"{CLIP:g} × the initial loss" if clipped else ""
        return cls(low, high, logarithmic, clipped, words)

    @property
    def levels(self) -> Floats:
        """Borders of the filled contours."""
        space = np.geomspace if self.logarithmic else np.linspace
        levels: Floats = space(self.low, self.high, _LEVELS + 1)
        # Rounding must not push the extremes off the scale.
        levels[0], levels[-1] = self.low, self.high
        return levels

    @property
    def norm(self) -> Normalize:
        """The matplotlib norm."""
        kind = LogNorm if self.logarithmic else Normalize
        return kind(self.low, self.high)

    @property
    def cmap(self) -> Colormap:
        """Viridis, dark for small losses and for large accuracies.

        Over the scale and not finite are a grey and a white that viridis has not.
        """
        name = "viridis_r" if self.height == ACCURACY else "viridis"
        return mpl.colormaps[name].with_extremes(over="#d9d9d9", bad="white")

    @property
    def is_share(self) -> bool:
        """Whether heights are written as percentages."""
        return self.height == ACCURACY


def _with_margin(low: float, high: float) -> tuple[float, float]:
    if high - low > 1e-9 * max(abs(high), abs(low)):
        return low, high
    # Constant to rounding: contours of noise would mean nothing.
    margin = max(abs(low), 1e-12) * 0.05
    return low - margin, high + margin


def _least(losses: Floats) -> float:
    """The smallest finite loss; infinite if there is none."""
    return float(np.min(losses, where=np.isfinite(losses), initial=np.inf))
