"""What the thesis claims, each held against numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import kendalltau

from losspath.thesis.study.statistics import Values
from losspath.thesis.study.table import Table

Verdict = Literal["holds", "holds in part", "does not hold", "not judged"]

HOLDS: Verdict = "holds"
IN_PART: Verdict = "holds in part"
FAILS: Verdict = "does not hold"
NOT_JUDGED: Verdict = "not judged"

VERDICTS: tuple[Verdict, ...] = (HOLDS, IN_PART, FAILS, NOT_JUDGED)

MARKS = {True: "✓", False: "✗", None: "–"}

DRAWN, REPAIRED, BOTH = "as drawn", "repaired", "as drawn and repaired"
"""Variants of surfaces: as the thesis's program draws them, without its defects, and where that is
the same."""

_SIGNIFICANT = 0.05


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
        if DRAWN in variants or REPAIRED in variants:
            variants.pop(BOTH, None)
        return {name: verdict_of([each.found for each in self.of(name)]) for name in variants}

    def of(self, variant: str) -> list[Check]:
        """The checks that a variant is judged by."""
        return [check for check in self.checks if check.variant in (variant, BOTH)]

    @property
    def measured(self) -> list[str]:
        """What was measured, in words, with a mark of whether it was found."""
        return [
            f"{MARKS[check.found]} {check.variant and check.variant + ': '}{check.what}"
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


Checks = Callable[[Table], Iterable[Check]]


@dataclass(frozen=True)
class Judge:
    """A claim of the thesis, and how to check it.

    Attributes:
        subject: what it is about.
        claim: what the thesis says; ``{scale}`` stands for the study's scale.
        checks: holds it against the measurements.
        figure: name of the figure that shows it.
    """

    subject: str
    claim: str
    checks: Checks
    figure: str = ""

    def __call__(self, table: Table) -> Judgment:
        """Judges by a table alone."""
        claim = self.claim.format(scale=table.plan.scale)
        return Judgment(self.subject, claim, tuple(self.checks(table)), self.figure)


def check_ranks(words: str, one: Values, other: Values, sign: int) -> Check:
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
