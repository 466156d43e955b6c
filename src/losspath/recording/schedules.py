"""At which steps a recorder keeps the state."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from losspath.arguments import count, function
from losspath.errors import ArgumentError

Condition = Callable[[int, float], bool]


@dataclass(frozen=True)
class Schedule(ABC):
    """Which states are kept beside the first and the newest one. Losses are kept at every step."""

    name: ClassVar[str]

    @abstractmethod
    def keeps(self, step: int, last: int, before: int, loss: float) -> bool:
        """Whether the state at a step is kept.

        Args:
            step: the step.
            last: the step of the last state that was kept.
            before: the step that was recorded last.
            loss: the loss that led to the step.
        """

    def to_json(self) -> dict[str, Any]:
        """Name and options, which a run is known by when recording goes on."""
        return {"name": self.name, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Every(Schedule):
    """One state at every so many steps; of epochs, with their number of steps.

    Args:
        steps: how many.
    """

    name: ClassVar[str] = "every"
    steps: int = 1

    def __post_init__(self) -> None:
        count(1)("steps", self.steps)

    def keeps(self, step: int, last: int, before: int, loss: float) -> bool:
        """At the first record in each stretch of so many steps."""
        return step // self.steps != last // self.steps


@dataclass(frozen=True)
class LogSpaced(Schedule):
    """States at steps that are even on a logarithmic scale: training moves most at its start.

    Args:
        per_decade: how many from a step to ten times it; all steps at first, where these are
            closer together than whole numbers.
    """

    name: ClassVar[str] = "log-spaced"
    per_decade: int = 50

    def __post_init__(self) -> None:
        count(1)("per_decade", self.per_decade)

    def keeps(self, step: int, last: int, before: int, loss: float) -> bool:
        """At the first record in each stretch."""
        return self._stretch(step) != self._stretch(last)

    def _stretch(self, step: int) -> int:
        return math.floor(self.per_decade * math.log10(step)) if step > 0 else -1


@dataclass(frozen=True)
class Pairs(Schedule):
    """Two states in a row at every so many steps: the true size of a step, for few states.

    Step sizes of such a run are those of the pairs alone.

    Args:
        every: steps from one pair to the next, at least 3.
    """

    name: ClassVar[str] = "pairs"
    every: int = 100

    def __post_init__(self) -> None:
        count(3)("every", self.every)

    def keeps(self, step: int, last: int, before: int, loss: float) -> bool:
        """At the first two records of each stretch of so many steps."""
        if step != before + 1:
            raise ArgumentError(
                f"expected steps one by one, as a run of pairs has, got step {step} after {before}"
            )
        begins = step // self.every != last // self.every
        return begins or (last % self.every == 0 and step == last + 1)


@dataclass(frozen=True)
class When(Schedule):
    """States at which a condition holds.

    Args:
        condition: a function of the step and of the loss that led to it.
    """

    name: ClassVar[str] = "when"
    condition: Condition = dataclasses.field(default=lambda step, loss: True)

    def __post_init__(self) -> None:
        function("condition", self.condition)

    def keeps(self, step: int, last: int, before: int, loss: float) -> bool:
        """Where the condition says so."""
        return bool(self.condition(step, loss))

    def to_json(self) -> dict[str, Any]:
        """The name alone: functions are not compared."""
        return {"name": self.name}
