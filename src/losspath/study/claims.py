"""What the thesis claims, each held against numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["holds", "holds in part", "does not hold", "not judged"]

HOLDS: Verdict = "holds"
IN_PART: Verdict = "holds in part"
FAILS: Verdict = "does not hold"
NOT_JUDGED: Verdict = "not judged"

VERDICTS: tuple[Verdict, ...] = (HOLDS, IN_PART, FAILS, NOT_JUDGED)


@dataclass(frozen=True)
class Check:
    """One thing that a claim says, and whether it was found.

    Attributes:
        what: what was measured, in words with its numbers.
        found: whether it is as the claim says; None where it could not be told.
    """

    what: str
    found: bool | None


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
    def measured(self) -> list[str]:
        """What was measured, in words, with a mark of whether it was found."""
        marks = {True: "✓", False: "✗", None: "–"}
        return [f"{marks[check.found]} {check.what}" for check in self.checks]


def verdict_of(found: Sequence[bool | None]) -> Verdict:
    """A verdict from what was found; nothing holds of which a part could not be told."""
    told = [each for each in found if each is not None]
    if not told:
        return NOT_JUDGED
    if all(told) and len(told) == len(found):
        return HOLDS
    return IN_PART if any(told) else FAILS


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Mean and standard deviation in words."""
    numbers = np.array(values, float)
    if len(numbers) == 1:
        return format(float(numbers[0]), form)
    return f"{numbers.mean():{form}} ± {numbers.std(ddof=1):{form}}"


def all_above(values: Sequence[float], limit: float) -> bool | None:
    """Whether every seed's value is above a limit; None without any value."""
    return all(value > limit for value in values) if len(values) else None


def all_below(values: Sequence[float], limit: float) -> bool | None:
    """Whether every seed's value is below a limit; None without any value."""
    return all(value < limit for value in values) if len(values) else None


def separated(lower: Sequence[float], upper: Sequence[float]) -> bool | None:
    """Whether all of some seeds' values are below all of others'; None without any."""
    if not len(lower) or not len(upper):
        return None
    return max(lower) < min(upper)
