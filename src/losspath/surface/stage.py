"""A surface within a budget, as far as it is known over one number of samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from losspath.evaluation.quantities import Evaluation
from losspath.geometry.grid import Grid
from losspath.surface.correction import Correction
from losspath.surface.costs import Costs
from losspath.surface.refinement import Forecast
from losspath.surface.refining import Options, Surveyed
from losspath.surface.sampling import Ask, Sampler
from losspath.surface.shares import Shares

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

_PIECE = 32  # points that are evaluated before time is looked at


class Decider(Protocol):
    """Decides on the points of a stage, and is told what they cost.

    Attributes:
        landscape: over all samples.
        grid: the finest grid.
        options: what is asked of the surface.
        count: how many samples there are.
        costs: what points have taken.
        coarsest: numbers of the points of the coarsest grid.
    """

    landscape: Surveyed
    grid: Grid
    options: Options
    count: int
    costs: Costs
    coarsest: Indices

    def early(self, stage: Stage) -> Indices:
        """Points that are asked for with the first ones."""

    def decide(self, stage: Stage) -> Indices:
        """The points to evaluate next; none where the stage is over."""


class Stage(Sampler):
    """Points over one number of samples: those that were known before, and then what is wanted.

    Args:
        run: decides on points.
        samples: how many.
        first: (G,) points that are evaluated in any case.

    Attributes:
        samples: how many there are in fact.
        landscape: over these samples.
        found: what is known, by the number of the point.
        ends: the losses of the path's ends.
        standard_error: the largest one of those that were measured, or that of the correction;
            NaN before.
        is_told: whether states over more samples were evaluated, to tell what these are off by.
        correction: what they told; None before, and where too few of them have a loss.
        forecast: the surface as it is known, in shares; None before the first points are known.
        shares: from losses to shares.
    """

    def __init__(self, run: Decider, samples: int, first: Indices) -> None:
        self.landscape = run.landscape.over(samples)
        self.samples = len(self.landscape.objective)
        self.first, self.found = first, dict[int, Evaluation]()
        began = time.monotonic()
        self.ends = self.landscape.states(run.options.states, ends=True)
        run.costs.states = time.monotonic() - began
        self.standard_error = 0.0 if self.samples == run.count else np.nan
        self.forecast: Forecast | None = None
        self.is_told = False
        self.correction: Correction | None = None
        self.shares = Shares(False, 0.0, 1.0)
        self._run, self._points = run, run.grid.points
        self._kept: Mapping[int, Evaluation] = (
            run.options.journal.done if run.options.journal else {}
        )
        self._asked: Indices | None = None
        self._began, self._times = time.monotonic(), list[float]()

    @property
    def total(self) -> int:
        """The grid's number of points."""
        return len(self._points)

    @property
    def is_begun(self) -> bool:
        """Whether what has to be evaluated in any case is known."""
        return all(number in self.found for number in self.first.tolist())

    @property
    def known(self) -> Flags:
        """(m·n,) which points are known."""
        known = np.zeros(self.total, bool)
        known[list(self.found)] = True
        return known

    def ask(self) -> list[Ask]:
        """The first points, and then those that are decided on as all before are known."""
        if self._asked is None:
            self._asked = np.concatenate([self.first, self._run.early(self)])
        elif all(number in self.found for number in self._asked.tolist()):
            self._note_costs()
            self._asked = self._run.decide(self)
        else:
            return []
        numbers = self._asked + self.samples * self.total
        self._began, self._times = time.monotonic(), []
        for number in numbers.tolist():
            if number in self._kept:
                self._take(number, self._kept[number])
        # In pieces, so that time is looked at in between; all share one pass over the path.
        points = self._points[self._asked]
        ends = [0, *range(self._few, len(numbers), _PIECE), len(numbers)]
        return [Ask(numbers[a:b], points[a:b], True) for a, b in pairwise(ends) if a < b]

    @property
    def _few(self) -> int:
        """How many are in the first piece, whose time holds what a call takes in any case."""
        asked = 0 if self._asked is None else len(self._asked)
        return min(len(self._run.coarsest), max(1, asked // 3))

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Takes the result at a point."""
        self._take(number, evaluation)
        self._times.append(time.monotonic())

    def _note_costs(self) -> None:
        """Tells what the points took that were evaluated since the last ones were asked for."""
        if self._times:
            now, count, some = time.monotonic(), len(self._times), self._few
            later = max(0, count - some)
            since = now - self._times[some - 1] if later else 0.0
            work = float(self.samples)
            self._run.costs.note(count * work, now - self._began, later * work, since)

    def _take(self, number: int, evaluation: Evaluation) -> None:
        """Keeps a result; those of an earlier call cost what they did."""
        self.found[number % self.total] = evaluation
        self._run.costs.points += self.samples / self._run.count
