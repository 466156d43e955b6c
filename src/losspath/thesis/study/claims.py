"""What the thesis claims, each held against numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import kendalltau

Verdict = Literal["holds", "holds in part", "does not hold", "not judged"]

HOLDS: Verdict = "holds"
IN_PART: Verdict = "holds in part"
FAILS: Verdict = "does not hold"
NOT_JUDGED: Verdict = "not judged"

VERDICTS: tuple[Verdict, ...] = (HOLDS, IN_PART, FAILS, NOT_JUDGED)


AS_DRAWN, REPAIRED, BOTH = "as drawn", "repaired", "as drawn and repaired"
"""Variants of surfaces: as the thesis's program draws them, without its defects, and where that is
the same."""


@dataclass(frozen=True)
class Check:
    """One thing that a claim says, and whether it was found.

    Attributes:
        what: what was measured, in words with its numbers.
        found: whether it is as the claim says; None where it could not be told.
        variant: of which surfaces, where a claim is judged of several.
    """

    what: str
    found: bool | None
    variant: str = ""


@dataclass(frozen=True)
class Judgment:
    """A claim with what was measured of it.

    Attributes:
        subject: what it is about.
        claim: what the thesis says.
        checks: what was measured.
        figure: name of the figure that shows it.
    """

    subject: str
    claim: str
    checks: tuple[Check, ...]
    figure: str = ""

    @property
    def verdict(self) -> Verdict:
        """Holds if all checks found what it says, in part if some did and others not or unknown."""
        return verdict_of([check.found for check in self.checks])

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict of each variant; of a claim that is judged once, by an empty name."""
        variants = dict.fromkeys(check.variant for check in self.checks)
        if AS_DRAWN in variants or REPAIRED in variants:
            variants.pop(BOTH, None)
        return {name: verdict_of([each.found for each in self.of(name)]) for name in variants}

    def of(self, variant: str) -> list[Check]:
        """The checks that a variant is judged by."""
        return [check for check in self.checks if check.variant in (variant, BOTH)]

    @property
    def measured(self) -> list[str]:
        """What was measured, in words, with a mark of whether it was found."""
        marks = {True: "✓", False: "✗", None: "–"}
        return [
            f"{marks[check.found]} {check.variant and check.variant + ': '}{check.what}"
            for check in self.checks
        ]


def verdict_of(found: Sequence[bool | None]) -> Verdict:
    """A verdict from what was found; nothing holds of which a part could not be told."""
    told = [each for each in found if each is not None]
    if not told:
        return NOT_JUDGED
    if all(told) and len(told) == len(found):
        return HOLDS
    return IN_PART if any(told) else FAILS


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Mean and standard deviation in words, both to the digits of the deviation's second."""
    numbers = np.array(values, float)
    if len(numbers) == 1 or not np.isfinite(numbers).all():
        return format(float(numbers.mean()), form)
    mean, deviation = float(numbers.mean()), float(numbers.std(ddof=1))
    if not form.endswith("%") and deviation > 0:
        form = f".{min(4, max(0, 1 - int(np.floor(np.log10(deviation)))))}f"
    return f"{mean:{form}} ± {deviation:{form}}"


def agreed(found: Iterable[bool]) -> bool | None:
    """What all seeds say; None where they disagree, or there are none."""
    told = list(found)
    if not told or (any(told) and not all(told)):
        return None
    return told[0]


def all_of(found: Sequence[bool | None]) -> bool | None:
    """Whether several things are all so; None where one could not be told, and none is not so."""
    if False in found:
        return False
    return None if None in found else True


def all_above(values: Sequence[float], limit: float) -> bool | None:
    """Whether every seed's value is above a limit; None where seeds disagree."""
    return agreed(value > limit for value in values)


def all_below(values: Sequence[float], limit: float) -> bool | None:
    """Whether every seed's value is below a limit; None where seeds disagree."""
    return agreed(value < limit for value in values)


def separated(lower: Sequence[float], upper: Sequence[float]) -> bool | None:
    """Whether all of some seeds' values are below all of others'; None where they overlap."""
    if not len(lower) or not len(upper):
        return None
    if max(lower) < min(upper):
        return True
    return False if min(lower) >= max(upper) else None


def paired_below(lower: Sequence[float], upper: Sequence[float]) -> bool | None:
    """Whether one value is below the other with every seed; None where seeds disagree."""
    return agreed(low < high for low, high in zip(lower, upper, strict=True))


def check_ranks(words: str, one: Sequence[float], other: Sequence[float], sign: int) -> Check:
    """Whether two quantities rise together (sign 1) or against each other (sign −1).

    Found if Kendall's τ has that sign with p < 0.05, not found if it has the other; the words say
    when it has.
    """
    result = kendalltau(one, other)
    told = f"{words} {result.statistic:.2f} (p = {result.pvalue:.2g})"
    if not result.pvalue < _SIGNIFICANT:
        return Check(told, None)
    found = bool(result.statistic * sign > 0)
    return Check(told if found else f"{told}: the reverse", found)


_SIGNIFICANT = 0.05
