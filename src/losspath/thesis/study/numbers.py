"""The numbers that the thesis's claims are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import generic_filter, laplace
from scipy.stats import rankdata, spearmanr, theilslopes

from losspath.analysis.interpolation import Interpolation
from losspath.analysis.steps import StepSizes
from losspath.geometry.projection import Projection
from losspath.methods import Averaged
from losspath.surface import Surface

Floats = npt.NDArray[np.float64]

_DRAWS = 1000  # of the bootstrap
# Developments are read off so many means, as the thesis draws them.
_MEANS = 100
# A bump is looked for in the first share of them, and measured against what follows after a pause.
_BUMP, _PAUSE, _AFTER = 0.25, 0.1, 0.2
# Where the bump is over, or Adam's first steps are, at the latest from here on.
_BEHIND = 0.05

LEAST = 10
"""Steps that are looked at at least."""

GUESS = 0.15
"""Accuracy below which a network of ten classes does no better than a guess."""

Direction = Literal["climb", "decline", "are level", "cannot be told"]

CLIMB, DECLINE = 1.05, 0.95
"""Steps climb or decline if the line through their sizes does by more than a twentieth."""


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

    @property
    def direction(self) -> Direction:
        """Where the steps go behind the bump."""
        if not np.isfinite(self.trend):
            return "cannot be told"
        if self.trend > CLIMB:
            return "climb"
        return "decline" if self.trend < DECLINE else "are level"

    @classmethod
    def of(cls, sizes: StepSizes, share: float = 1.0) -> Development:
        """Of the first share of a run's steps."""
        values = sizes.sizes[: max(LEAST, round(share * len(sizes.sizes)))]
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
    if np.any(values <= 0):
        return float("nan")
    slope = float(theilslopes(np.log(values)).slope)
    return float(np.exp(slope * (len(values) - 1)))


def _order(values: Floats) -> float:
    if np.ptp(values) == 0:
        return 0.0
    return float(spearmanr(np.arange(len(values)), values).statistic)


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


@dataclass(frozen=True)
class Area:
    """A chance with its interval: of two runs, the better one has the higher score.

    Attributes:
        value: 0.5 if the score tells nothing; NaN where no two runs differ.
        low: the interval's lower end.
        high: its upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}…{self.high:.2f})"


_NO_AREA = Area(*[float("nan")] * 3)


def _ends(drawn: Floats, level: float) -> tuple[float, float]:
    low, high = np.nanquantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _ranked(scores: Sequence[float]) -> Floats:
    """Scores with a number below all others for those that are not finite."""
    values = np.array(scores, float)
    finite = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, (finite.min() if len(finite) else 0.0) - 1.0)


def area_under_curve(
    good: Sequence[bool], scores: Sequence[float], level: float = 0.95, seed: int = 0
) -> Area:
    """The area under the curve of receiver and operator, as Mann and Whitney's U.

    Args:
        good: which runs ended well.
        scores: the predictor; a score that is not finite counts as the lowest.
        level: of the interval.
        seed: of the bootstrap over runs, none of which may be much like another.
    """
    labels, values = np.array(good, bool), _ranked(scores)
    if labels.all() or not labels.any():
        return _NO_AREA
    chosen = np.random.default_rng(seed).integers(0, len(labels), (_DRAWS, len(labels)))
    drawn = _areas(labels[chosen], values[chosen])
    return Area(float(_areas(labels[None], values[None])[0]), *_ends(drawn, level))


def concordance(
    groups: Sequence[tuple[Sequence[float], Sequence[float]]], level: float = 0.95, seed: int = 0
) -> Area:
    """The share of pairs of a group of which the better one has the higher score; ties are halves.

    Args:
        groups: how good each run of a group is, and its score; one that is not finite counts as
            the lowest.
        level: of the interval.
        seed: of the bootstrap over groups.
    """
    right, pairs = np.zeros(len(groups)), np.zeros(len(groups))
    for number, (good, scores) in enumerate(groups):
        order = np.sign(np.subtract.outer(_ranked(good), _ranked(good)))
        told = np.sign(np.subtract.outer(_ranked(scores), _ranked(scores)))
        differ = order > 0
        right[number] = np.sum((1 + told[differ]) / 2)
        pairs[number] = differ.sum()
    if not pairs.any():
        return _NO_AREA
    chosen = np.random.default_rng(seed).integers(0, len(groups), (_DRAWS, len(groups)))
    counts = pairs[chosen].sum(axis=1)
    drawn = np.divide(
        right[chosen].sum(axis=1), counts, out=np.full(_DRAWS, np.nan), where=counts > 0
    )
    return Area(float(right.sum() / pairs.sum()), *_ends(drawn, level))


def _areas(labels: npt.NDArray[np.bool_], values: Floats) -> Floats:
    """The area of each row, as Mann and Whitney's U; NaN for rows of one kind."""
    ranks = rankdata(values, axis=1)
    good, bad = labels.sum(axis=1), (~labels).sum(axis=1)
    above = np.sum(ranks * labels, axis=1) - good * (good + 1) / 2
    areas: Floats = np.divide(
        above, good * bad, out=np.full(len(ranks), np.nan), where=good * bad > 0
    )
    return areas
