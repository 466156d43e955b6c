"""One scale from losses to colours, for one surface or for several that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import Colormap, LogNorm, Normalize

from losspath.analysis.comparison import CLIP
from losspath.figures.style import check_group
from losspath.surface import Surface

Floats = npt.NDArray[np.float64]

_LEVELS = 40
# A range wider than this is drawn on a logarithmic scale.
_LOGARITHMIC = 12.0


@dataclass(frozen=True)
class LossScale:
    """From losses to colours.

    Attributes:
        low: the smallest loss that is drawn.
        high: the largest; larger ones are drawn as "over".
        logarithmic: whether colours follow the logarithm.
        clipped: whether losses above `high` exist.
        limit: what `high` is when clipped, in words.
    """

    low: float
    high: float
    logarithmic: bool
    clipped: bool
    limit: str = ""

    @classmethod
    def of(cls, surfaces: Sequence[Surface]) -> LossScale:
        """The scale that shows these surfaces, and the states' own losses on them.

        From the smallest finite loss to the largest, but to no more than 1.5 times the initial
        loss where that is positive and some of the ground is below it; logarithmic where the
        range is wider than a factor of 12.
        """
        check_group(surfaces, Surface, "a Surface", "at least one surface")
        parts = [part.reshape(-1) for s in surfaces for part in (s.loss, s.states.loss)]
        values = np.concatenate(parts)
        finite = values[np.isfinite(values)]
        if len(finite) == 0:
            return cls(0.0, 1.0, False, False)
        low, high = float(finite.min()), float(finite.max())
        limit = CLIP * surfaces[0].initial_loss
        ground = min(_least(surface.loss) for surface in surfaces)
        clipped = bool(limit > 0 and ground < limit < high)
        if clipped:
            high = limit
        if not high - low > 1e-9 * max(abs(high), abs(low)):
            # Constant to rounding: contours of noise would mean nothing.
            margin = max(abs(low), 1e-12) * 0.05
            low, high = low - margin, high + margin
        logarithmic = low > 0 and high / low > _LOGARITHMIC
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
        """Viridis; over the scale and not finite are a grey and a white that viridis has not."""
        return mpl.colormaps["viridis"].with_extremes(over="#d9d9d9", bad="white")


def _least(losses: Floats) -> float:
    """The smallest finite loss; infinite if there is none."""
    return float(np.min(losses, where=np.isfinite(losses), initial=np.inf))
