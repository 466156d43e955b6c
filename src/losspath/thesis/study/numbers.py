"""How steps develop and what surfaces are like, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import generic_filter, laplace
from scipy.stats import spearmanr, theilslopes

from losspath.analysis.interpolation import Interpolation
from losspath.analysis.steps import StepSizes
from losspath.geometry.projection import Projection
from losspath.methods import Averaged
from losspath.surface import Surface

Floats = npt.NDArray[np.float64]

# Developments are read off so many means, as the thesis draws them.
_MEANS = 100
# A bump is looked for in the first share of them, and measured against what follows after a pause.
_BUMP, _PAUSE, _AFTER = 0.25, 0.1, 0.2
# Where the bump is over, or Adam's first steps are, at the latest from here on.
_BEHIND = 0.05

_LEAST = 10  # steps that are looked at


@dataclass(frozen=True)
class Development:
    """How the size of the steps develops.

    Attributes:
        mean: the mean size.
        bump: the highest of a hundred means in the first quarter of the steps, over the lowest
            before it or the mean of what follows, whichever is less: 1 where there is no hill.
        trend: by what the sizes are multiplied from behind the bump to the end, by a line through
            the logarithms of the means (Theil and Sen's): above 1 for a climb.
        order: Spearman's correlation of size and time behind the bump, 1 for a steady climb; NaN
            where a size is not finite.
    """

    mean: float
    bump: float
    trend: float
    order: float

    @classmethod
    def of(cls, sizes: StepSizes, share: float = 1.0) -> Development:
        """Of the first share of a run's steps."""
        values = sizes.sizes[: max(_LEAST, round(share * len(sizes.sizes)))]
        parts = np.array_split(values, min(_MEANS, len(values)))
        means = np.array([part.mean() for part in parts])
        if not np.isfinite(means).all():
            return cls(float(means.mean()), float("nan"), float("nan"), float("nan"))
        count = len(means)
        peak = int(means[: max(1, round(_BUMP * count))].argmax())
        begin = min(peak + round(_PAUSE * count), count - 1)
        after = means[begin : begin + max(1, round(_AFTER * count))].mean()
        bump = min(means[peak] / means[: peak + 1].min(), means[peak] / after)
        # Without a hill there is nothing to wait for but the first steps.
        start = peak if bump > 1 else 0
        behind = means[min(start + max(1, round(_BEHIND * count)), count - 3) :]
        return cls(
            mean=float(values.mean()),
            bump=max(1.0, float(bump)),
            trend=_trend(behind),
            order=_order(behind),
        )


def _trend(values: Floats) -> float:
    if len(values) < 2 or np.any(values <= 0):
        return float("nan")
    slope = float(theilslopes(np.log(values)).slope)
    return float(np.exp(slope * (len(values) - 1)))


def _order(values: Floats) -> float:
    if np.ptp(values) == 0:
        return 0.0
    return float(spearmanr(np.arange(len(values)), values).statistic)


def fall(sizes: StepSizes, share: float = 1.0) -> float:
    """Of the batch loss, from the first tenth of the first share of the steps to its last."""
    losses = sizes.losses[: max(_LEAST, round(share * len(sizes.losses)))]
    tenth = max(1, len(losses) // 10)
    return float(losses[:tenth].mean() - losses[-tenth:].mean())


def linear_path(surface: Surface, line: Interpolation) -> tuple[Floats, Floats]:
    """What a surface says along the line between the path's ends, and the exact losses of it.

    Args:
        surface: the surface.
        line: the losses between the first and the last state, by the surface's objective.
    """
    start, end = surface.path[0], surface.path[-1]
    points = start + line.alpha[:, None] * (end - start)
    return surface.at(points), line.loss[0]


def linear_path_error(surface: Surface, line: Interpolation) -> float:
    """The largest |surface − exact| on the line between the ends, as a share of exact's range.

    The eye, which the thesis judges by, compares curves on a linear axis.
    """
    read, exact = linear_path(surface, line)
    span = float(np.nanmax(exact) - np.nanmin(exact))
    return float(np.nanmax(np.abs(read - exact))) / span if span > 0 else float("inf")


def roughness(surface: Surface) -> float:
    """How jagged the ground is: the mean |Laplacian| of its losses, as a share of their range."""
    loss = np.where(np.isfinite(surface.loss), surface.loss, np.nanmax(surface.loss))
    inside = laplace(loss)[1:-1, 1:-1]
    return float(np.abs(inside).mean() / np.ptp(loss))


def state_error(surface: Surface) -> float:
    """The median of |ground − own loss| / own loss over the states that a surface has losses of."""
    return float(np.nanmedian(surface.state_errors))


def rise(values: Floats) -> float:
    """The largest climb on the way along values, as a share of their whole fall."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan")
    lowest = np.minimum.accumulate(finite)
    fall = float(finite[0] - finite.min())
    return float((finite - lowest).max() / fall) if fall > 0 else float("inf")


def extremes(surface: Surface) -> int:
    """Local minima and maxima of the ground: points below or above all eight neighbours."""
    loss = np.where(np.isfinite(surface.loss), surface.loss, np.nanmax(surface.loss))

    def is_extreme(window: Floats) -> float:
        others = np.delete(window, 4)
        return float(window[4] < others.min() or window[4] > others.max())

    inside = generic_filter(loss, is_extreme, size=3)[1:-1, 1:-1]
    return int(inside.sum())


def effective_states(path: Projection, points: Floats, temperature: float) -> float:
    """How many states a point is blended from: the median of exp(entropy of the weights)."""
    weights = Averaged(temperature=temperature).weights(points, path)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(np.where(weights > 0, weights * np.log(weights), 0.0), axis=1)
    return float(np.median(np.exp(entropy)))
