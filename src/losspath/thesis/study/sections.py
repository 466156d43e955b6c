"""A part of a study: what it needs, what it draws, and what it judges."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from matplotlib.figure import Figure

from losspath.thesis.study.judgments import Checks, Judge
from losspath.thesis.study.plan import Plan
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.results import Result
from losspath.thesis.study.table import Table

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Picture:
    """A figure of the study.

    Attributes:
        name: of its file.
        caption: what to see in it.
        draw: draws it of measurements and result files, and with its caption if it takes one.
    """

    name: str
    caption: str
    draw: Callable[..., Figure]

    @property
    def captioned(self) -> bool:
        """Whether the caption stands in the figure itself."""
        return "caption" in inspect.signature(self.draw).parameters

    def drawn(self, table: Table, files: ResultFiles) -> Figure:
        """The figure."""
        return self.draw(table, files, **({"caption": self.caption} if self.captioned else {}))

    def of_each(self, data: Iterable[str]) -> list[Picture]:
        """One for each data set, if the caption has a place for its title; or this one."""
        if "{data}" not in self.caption:
            return [self]
        return [
            Picture(
                self.name.format(number=number, suffix=f"-{number}" if number else ""),
                self.caption.format(data=title),
                partial(self.draw, data=title),
            )
            for number, title in enumerate(data)
        ]


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the study; its pictures, claims and notes are the functions that join it.

    Attributes:
        name: what ``--only`` calls it: the thesis's figure where there is one.
        title: over the part.
        needs: the results that its pictures and judgments are made of.
        pictures: its figures, those of each data set as one.
        judges: hold claims against the measurements.
        notes: what else the measurements say, in sentences with their numbers.
    """

    name: str
    title: str
    needs: Callable[[Plan], list[Result[Any]]]
    pictures: list[Picture] = field(default_factory=list)
    judges: list[Judge] = field(default_factory=list)
    notes: list[Callable[[Table], str]] = field(default_factory=list)

    def pictures_of(self, plan: Plan) -> list[Picture]:
        """All figures of a study."""
        return [each for one in self.pictures for each in one.of_each(plan.scale.data)]

    def picture(self, name: str, caption: str, **options: Any) -> Callable[[F], F]:
        """Adds a figure, which the decorated function draws.

        Args:
            name: of its file.
            caption: what to see in it.
            options: what else the function takes.
        """

        def add(draw: F) -> F:
            self.pictures.append(Picture(name, caption, partial(draw, **options)))
            return draw

        return add

    def claim(self, subject: str, claim: str, figure: str = "") -> Callable[[Checks], Checks]:
        """Adds a claim, whose checks the decorated function makes.

        Args:
            subject: what it is about.
            claim: what the thesis says; ``{scale}`` stands for the study's scale.
            figure: name of the figure that shows it.
        """

        def add(checks: Checks) -> Checks:
            self.judges.append(Judge(subject, claim, checks, figure))
            return checks

        return add

    def note(self, tell: Callable[[Table], str]) -> Callable[[Table], str]:
        """Adds what the decorated function says."""
        self.notes.append(tell)
        return tell


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown.

    Args:
        names: of the columns.
        rows: the cells.
    """
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
