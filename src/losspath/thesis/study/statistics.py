"""What numbers of a few seeds say: means, comparisons seed by seed, and chances with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Values = Sequence[float] | Floats

_DRAWS = 1000  # of the bootstrap


def spread(values: Values, form: str = ".3g") -> str:
    """Mean and standard deviation in words, both to the digits of the deviation's second."""
    numbers = np.array(values, float)
    if len(numbers) == 1 or not np.isfinite(numbers).all():
        return format(float(numbers.mean()), form)
    mean, deviation = float(numbers.mean()), float(numbers.std(ddof=1))
    if not form.endswith("%") and deviation > 0:
        form = f".{min(4, max(0, 1 - int(np.floor(np.log10(deviation)))))}f"
    return f"{mean:{form}} ± {deviation:{form.lstrip('+')}}"


def agreed(found: Iterable[bool]) -> bool | None:
    """What all seeds say; None where they disagree, or there are none."""
    told = {bool(each) for each in found}
    return told.pop() if len(told) == 1 else None


def all_of(found: Sequence[bool | None]) -> bool | None:
    """Whether several things are all so; None where one could not be told, and none is not so."""
    if False in found:
        return False
    return None if None in found else True


def all_above(values: Values, limit: float) -> bool | None:
    """Whether every seed's value is above a limit; None where seeds disagree."""
    return agreed(value > limit for value in values)


def all_below(values: Values, limit: float) -> bool | None:
    """Whether every seed's value is below a limit; None where seeds disagree."""
    return agreed(value < limit for value in values)


def separated(lower: Values, upper: Values) -> bool | None:
    """Whether all of some seeds' values are below all of others'; None where they overlap."""
    if not len(lower) or not len(upper):
        return None
    if max(lower) < min(upper):
        return True
    return False if min(lower) >= max(upper) else None


def paired_below(lower: Values, upper: Values) -> bool | None:
    """Whether one value is below the other with every seed; None where seeds disagree."""
    return agreed(low < high for low, high in zip(lower, upper, strict=True))


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


def area_under_curve(
    good: Sequence[bool] | npt.NDArray[np.bool_], scores: Values, level: float = 0.95, seed: int = 0
) -> Area:
    """The area under the curve of receiver and operator, as Mann and Whitney's U.

    Args:
        good: which runs ended well.
        scores: the predictor; a score that is not finite counts as the lowest.
        level: of the interval.
        seed: of the bootstrap over runs, none of which may be much like another.
    """
    count = len(good)
    chosen = np.random.default_rng(seed).integers(0, count, (_DRAWS, count))
    times = np.array([np.bincount(draw, minlength=count) for draw in chosen], float)
    sums = [np.sum(times @ each * times, axis=1) for each in _pairs(good, scores)]
    totals = [float(each.sum()) for each in _pairs(good, scores)]
    return _area(totals, sums, level)


def concordance(
    groups: Sequence[tuple[Values, Values]], level: float = 0.95, seed: int = 0
) -> Area:
    """The share of pairs of a group of which the better one has the higher score; ties are halves.

    Args:
        groups: how good each run of a group is, and its score; one that is not finite counts as
            the lowest.
        level: of the interval.
        seed: of the bootstrap over groups.
    """
    by_group = np.array([[each.sum() for each in _pairs(*group)] for group in groups])
    if not by_group.size:
        return _NO_AREA
    chosen = np.random.default_rng(seed).integers(0, len(groups), (_DRAWS, len(groups)))
    return _area([*by_group.sum(axis=0)], [*by_group[chosen].sum(axis=1).T], level)


def _pairs(good: npt.ArrayLike, scores: Values) -> tuple[Floats, Floats]:
    """(n, n) twice: how far a pair is told rightly, and whether the first of it is the better."""
    better = np.subtract.outer(_ranked(good), _ranked(good)) > 0
    told = np.sign(np.subtract.outer(_ranked(scores), _ranked(scores)))
    return np.where(better, (1 + told) / 2, 0.0), better.astype(float)


def _ranked(scores: npt.ArrayLike) -> Floats:
    """Scores with a number below all others for those that are not finite."""
    values = np.array(scores, float)
    finite = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, (finite.min() if len(finite) else 0.0) - 1.0)


def _area(totals: Values, drawn: Sequence[Floats], level: float) -> Area:
    """From what is right, of all pairs: in what was measured, and in each draw of it."""
    (right, pairs), (some_right, some_pairs) = totals, drawn
    if not pairs:
        return _NO_AREA
    areas = np.full(_DRAWS, np.nan)
    np.divide(some_right, some_pairs, out=areas, where=some_pairs > 0)
    low, high = np.nanquantile(areas, ((1 - level) / 2, (1 + level) / 2))
    return Area(float(right / pairs), float(low), float(high))
