"""How much a surface may cost."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from losspath.errors import ArgumentError
from losspath.recording.selection import Selection
from losspath.recording.trajectory import StateSequence, starts_of

_EXPECTED = (
    'expected a budget as seconds ("5s"), as recorded epochs ("1epoch", "0.5epochs"), as a number '
    'of points, each over all samples (200), or as "auto"'
)

# Numbers of states that a plane is fitted to and vectors are blended of in about a sixth of a
# second: some ten passes, on a core of a server of 2020.
_NUMBERS = 2.5e6
_LEAST_STATES = 100


@dataclass(frozen=True)
class Budget:
    """What a surface may cost: time, or evaluations; time runs from when this is made.

    Attributes:
        asked: the budget in words.
        seconds: of wall time, planes and everything else included; None for any.
        points: evaluations of points, each over all samples; one over a tenth of them is a tenth
            of one. Those of states, of standard errors and of the fidelity do not count. None for
            any.
        began: when time began to run, as `time.monotonic` counts.
    """

    asked: str
    seconds: float | None = None
    points: float | None = None
    began: float = field(default_factory=lambda: time.monotonic())

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit; else a surface is done when its errors are small."""
        return self.seconds is not None or self.points is not None

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self.began

    @property
    def seconds_left(self) -> float:
        """Seconds that are left; below zero where it is overdrawn, infinite where none count."""
        return math.inf if self.seconds is None else self.seconds - self.elapsed

    def states_of(self, path: StateSequence) -> StateSequence:
        """The path, or as many of its states, evenly and with both ends of each run, as time lets.

        By their number alone, and not by how quick the machine is, so that a surface that is gone
        on with is of the same states.
        """
        numbers = len(path) * path.parameter_count
        if self.seconds is None or numbers <= _NUMBERS * self.seconds:
            return path
        share = max(_NUMBERS * self.seconds / numbers, _LEAST_STATES / len(path))
        starts = [*starts_of(path).values(), len(path)]
        chosen = [
            np.linspace(first, stop - 1, max(2, round(share * (stop - first)))).round()
            for first, stop in pairwise(starts)
        ]
        return Selection(path, np.unique(np.concatenate(chosen).astype(np.int64)))

    def again(self) -> Budget:
        """The same for another surface, from now on."""
        return replace(self, began=time.monotonic())

    @classmethod
    def of(cls, value: object, epoch_seconds: float | None = None) -> Budget:
        """What a caller gave.

        Args:
            value: "5s", "1epoch", a number of points, "auto", or a budget that runs already.
            epoch_seconds: how long one recorded epoch took; None where that is not known.

        Raises:
            ArgumentError: it is none of these, or epochs where none is known.
        """
        if isinstance(value, Budget):
            return value
        text = str(value).strip() if not isinstance(value, bool) else ""
        if text == "auto":
            return cls("auto")
        form = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][0-9]+)?)\s*(s|epochs?|)", text)
        if (
            not isinstance(value, (str, int, float))
            or form is None
            or not 0 < float(form[1]) < math.inf
        ):
            raise ArgumentError(f"{_EXPECTED}, all above zero and finite; got {value!r}")
        number, unit = float(form[1]), form[2]
        if not unit and (isinstance(value, float) or not number.is_integer()):
            raise ArgumentError(
                f"{_EXPECTED}; got {value!r}: for seconds give {f'{number:g}s'!r}, for points a "
                "whole number"
            )
        if unit == "s":
            return cls(f"{number:g} s", seconds=number)
        if not unit:
            points = "point" if number == 1 else "points"
            return cls(f"{number:g} {points} over all samples", points=number)
        if epoch_seconds is None or not epoch_seconds > 0:
            raise ArgumentError(
                f"{text} cannot be told in seconds, as the run does not say how long an epoch took "
                "(those of `losspath train` do); give seconds, as 5s"
            )
        epochs = f"{number:g} epoch{'' if number == 1 else 's'}"
        seconds = number * epoch_seconds
        return cls(f"{epochs} of training ({seconds:.3g} s)", seconds=seconds)

    @classmethod
    def checked(cls, name: str, value: object) -> Budget:
        """Checks an argument; see `losspath.arguments`."""
        return cls.of(value)
