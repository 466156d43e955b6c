"""The numbers that the thesis's claims are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import generic_filter
from scipy.stats import rankdata, spearmanr

from losspath.analysis.interpolation import Interpolation
from losspath.analysis.steps import StepSizes
from losspath.methods import Averaged, PathGeometry
from losspath.surface import Surface

Floats = npt.NDArray[np.float64]

_DRAWS = 1000  # of the bootstrap
# A bump is looked for in the first share of the steps, and measured against the share after it.
_BUMP, _AFTER = 0.2, (0.2, 0.4)

Direction = Literal["climb", "decline", "are level"]

CLIMB, DECLINE = 1.1, 0.9
"""Steps climb or decline if their mean size behind the bump changes by more than a tenth."""


@dataclass(frozen=True)
class Development:
    """How the size of the steps develops.

    Attributes:
        mean: the mean size.
        bump: the highest of a hundred means in the first fifth of the steps, over the mean of the
            next fifth; above 1 for a bump.
        trend: the mean of the last tenth over that of the third tenth, behind the bump: above 1 for
            a climb, below for a decline.
        order: Spearman's correlation of size and time behind the bump, 1 for a steady climb.
    """

    mean: float
    bump: float
    trend: float
    order: float

    @property
    def direction(self) -> Direction:
        """Where the steps go behind the bump."""
        if self.trend > CLIMB:
            return "climb"
        return "decline" if self.trend < DECLINE else "are level"

    @classmethod
    def of(cls, sizes: StepSizes, share: float = 1.0) -> Development:
        """Of the first share of a run's steps."""
        values = sizes.sizes[: max(20, round(share * len(sizes.sizes)))]
        means = np.array([part.mean() for part in np.array_split(values, min(100, len(values)))])
        count = len(means)
        first = means[: max(1, round(_BUMP * count))]
        after = means[round(_AFTER[0] * count) : max(round(_AFTER[1] * count), 1)]
        tenth = max(1, count // 10)
        third = means[2 * tenth : 3 * tenth]
        behind = means[2 * tenth :]
        varies = len(behind) > 2 and np.ptp(behind) > 0
        order = spearmanr(np.arange(len(behind)), behind).statistic if varies else 0.0
        return cls(
            mean=float(values.mean()),
            bump=float(first.max() / after.mean()),
            trend=float(means[-tenth:].mean() / third.mean()),
            order=float(order) if np.isfinite(order) else 0.0,
        )


def chord(surface: Surface, line: Interpolation) -> tuple[Floats, Floats]:
    """What a surface says along the line between the path's ends, and the exact losses of it.

    Args:
        surface: the surface.
        line: the losses between the first and the last state, by the surface's objective.
    """
    start, end = surface.path[0], surface.path[-1]
    points = start + line.alpha[:, None] * (end - start)
    return surface.at(points), line.loss[0]


def chord_error(surface: Surface, line: Interpolation) -> float:
    """The median of |surface − exact| / exact along the line between the ends."""
    read, exact = chord(surface, line)
    return float(np.nanmedian(np.abs(read - exact) / np.abs(exact)))


def state_error(surface: Surface) -> float:
    """The median of |ground − own loss| / own loss over the states that a surface has losses of."""
    return float(np.nanmedian(surface.state_errors))


def rise(values: Floats) -> float:
    """The largest climb on the way along values, as a share of their whole fall."""
    finite = values[np.isfinite(values)]
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


def effective_states(geometry: PathGeometry, points: Floats, temperature: float) -> float:
    """How many states a point is blended from: the median of exp(entropy of the weights)."""
    weights = Averaged(temperature=temperature).weights(points, geometry)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(np.where(weights > 0, weights * np.log(weights), 0.0), axis=1)
    return float(np.median(np.exp(entropy)))


def area_under_curve(
    good: Sequence[bool], scores: Sequence[float], seed: int = 0
) -> tuple[float, float, float]:
    """The chance that a good run has a higher score than a bad one, and its 95 % interval.

    Args:
        good: which runs ended well.
        scores: the predictor; a score that is not finite counts as the lowest.
        seed: of the bootstrap over runs.

    Returns:
        The area and the ends of its interval; NaN where all runs ended alike.
    """
    labels, values = np.array(good, bool), np.array(scores, float)
    finite = values[np.isfinite(values)]
    values = np.where(np.isfinite(values), values, (finite.min() if len(finite) else 0.0) - 1.0)
    if labels.all() or not labels.any():
        return float("nan"), float("nan"), float("nan")
    chosen = np.random.default_rng(seed).integers(0, len(labels), (_DRAWS, len(labels)))
    drawn = _areas(labels[chosen], values[chosen])
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(_areas(labels[None], values[None])[0]), float(low), float(high)


def _areas(labels: npt.NDArray[np.bool_], values: Floats) -> Floats:
    """The area of each row, as Mann and Whitney's U; NaN for rows of one kind."""
    ranks = rankdata(values, axis=1)
    good, bad = labels.sum(axis=1), (~labels).sum(axis=1)
    above = np.sum(ranks * labels, axis=1) - good * (good + 1) / 2
    areas: Floats = np.divide(
        above, good * bad, out=np.full(len(ranks), np.nan), where=good * bad > 0
    )
    return areas
