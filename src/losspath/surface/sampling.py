"""Where to evaluate: samplers are asked for points, and told what was found there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from losspath.evaluation.quantities import LOSS, Evaluation
from losspath.geometry.grid import Grid

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

# A first picture of at most so many points is not kept waiting for measurements.
_FIRST_POINTS = 25


@dataclass(frozen=True)
class Ask:
    """Points to evaluate.

    Attributes:
        numbers: (G,) which points, by the sampler's numbers.
        points: (G, 2) where they are in the plane.
        is_awaited: whether someone waits for them, so that nothing is to be measured before.
    """

    numbers: Indices
    points: Floats
    is_awaited: bool


class Sampler(ABC):
    """Says where to evaluate next; how that is done is nothing to it.

    `ask` gives what to evaluate now, and `tell` takes each result, in whatever order they come.
    What is asked for must not depend on results that were kept of an earlier run, but by way of
    `tell`: a computation that was stopped is then the same as one that was not.
    """

    @property
    @abstractmethod
    def total(self) -> int:
        """How many points there will be in all, or at most."""

    @abstractmethod
    def ask(self) -> list[Ask]:
        """What to evaluate next; nothing where all is known, or where results are waited for.

        What is asked for together shares a pass over the path.
        """

    @abstractmethod
    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Takes the result at a point."""


class GridSampler(Sampler):
    """All points of a grid, coarse first and then finer; see `Grid.levels`.

    Args:
        grid: the grid.
        only: (n,) the numbers of the points that are wanted; None for all.

    Attributes:
        grid: the grid.
        evaluated: (m·n,) which points are known.
        values: (m·n,) by name each quantity that was found, NaN where it is not known.
    """

    def __init__(self, grid: Grid, only: Indices | None = None) -> None:
        self.grid = grid
        self._levels = grid.levels() if only is None else [only]
        self._asked = 0
        count = len(grid.points)
        self.evaluated = np.zeros(count, bool)
        self.values: dict[str, Floats] = {LOSS: np.full(count, np.nan)}

    @property
    def total(self) -> int:
        """The number of points that are wanted."""
        return sum(map(len, self._levels))

    def ask(self) -> list[Ask]:
        """All levels but the last together, and then the last."""
        # The first picture waits for the path to be read once, for few points.
        last = len(self._levels) - 1
        asked = range(self._asked, last if self._asked < last else last + 1)
        self._asked = asked.stop
        points, before = self.grid.points, np.cumsum([len(level) for level in self._levels])
        return [
            Ask(self._levels[n], points[self._levels[n]], bool(before[n] <= _FIRST_POINTS))
            for n in asked
        ]

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Takes the result at a point."""
        for name, value in evaluation.values.items():
            if name not in self.values:
                self.values[name] = np.full(len(self.evaluated), np.nan)
            self.values[name][number] = value
        self.evaluated[number] = True

    @property
    def done(self) -> int:
        """How many points are known."""
        return int(self.evaluated.sum())

    @property
    def complete_levels(self) -> int:
        """How many of the first levels are known."""
        whole = [bool(self.evaluated[numbers].all()) for numbers in self._levels]
        return [*whole, False].index(False)

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return len(self._levels)


class PointSampler(Sampler):
    """Given points, in their order.

    Args:
        points: (G, 2) coordinates in the plane.
    """

    def __init__(self, points: Floats) -> None:
        self._points: Floats | None = points
        self.found: list[Evaluation | None] = [None] * len(points)

    @property
    def total(self) -> int:
        """The number of points."""
        return len(self.found)

    def ask(self) -> list[Ask]:
        """All points, once."""
        points, self._points = self._points, None
        return [] if points is None else [Ask(np.arange(len(points)), points, False)]

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Takes the result at a point."""
        self.found[number] = evaluation
