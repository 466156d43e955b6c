"""What training runs are compared by: step sizes, and losses and accuracies by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.analysis.steps import StepSizes, even_states
from losspath.arguments import OBJECTIVE, checked, count, range_of
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.objective import Objective
from losspath.evaluation.path_notes import path_notes
from losspath.evaluation.recorded import along
from losspath.recording.trajectory import StateSequence, as_run

Floats = npt.NDArray[np.float64]
Series = tuple[npt.NDArray[np.int64], Floats]

MOST_VALUES = 8
"""Named numbers of runs that have room in a figure."""


@dataclass(frozen=True)
class History:
    """Losses and accuracies over whole data sets, before the first step and after every epoch.

    Attributes:
        epoch: (E,) epochs done; NaN for a run without epochs.
        step: (E,) optimiser steps taken.
        training_loss: (E,) NaN where there is none, as in all that follow.
        training_accuracy: (E,) shares of 1.
        validation_loss: (E,).
        validation_accuracy: (E,).
        provenance: where the numbers come from, as JSON values; nothing where that was not kept.
    """

    epoch: Floats
    step: Floats
    training_loss: Floats
    training_accuracy: Floats
    validation_loss: Floats
    validation_accuracy: Floats
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        losses = f"training loss {range_of(self.training_loss)}"
        losses += f", validation loss {range_of(self.validation_loss)}"
        return f"History: {len(self.epoch):,} rows, {losses}"

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, float | None]]) -> History:
        """From rows that hold these names, as `train` keeps them."""
        columns: dict[str, Any] = {
            each.name: np.array([_number(row.get(each.name)) for row in rows])
            for each in fields(cls)
            if each.name != "provenance"
        }
        return cls(**columns)


@checked(objective=OBJECTIVE, states=count(1))
def measure_history(
    path: StateSequence | npt.ArrayLike, objective: Objective, states: int = 25
) -> History:
    """The history of a run that kept none, as one objective has it.

    Args:
        path: the recorded path.
        objective: its loss and accuracy stand as those of training. Recorded states have the
            buffers that were recorded with them.
        states: how many states are evaluated, evenly in time, first and last among them.

    Returns:
        A history by step, without epochs and without validation.

    Raises:
        ModelError: the path is of another network than the objective's model.
    """
    path = as_run(path)
    on = along(objective, path)
    index = even_states(len(path), states)
    steps = np.asarray(getattr(path, "steps", np.arange(len(path))), float)
    evaluator = Evaluator(on.objective)
    found = [
        evaluator.evaluate(path.read(i, i + 1)[0], sides=on.sides_of(i)) for i in index.tolist()
    ]
    unknown = np.full(len(index), np.nan)
    return History(
        epoch=unknown,
        step=steps[index],
        training_loss=np.array([each.loss for each in found]),
        training_accuracy=np.array([_number(each.accuracy) for each in found]),
        validation_loss=unknown,
        validation_accuracy=unknown,
        provenance={
            "path_digest": path.digest,
            **on.objective.provenance,
            "has_buffers": on.describes_buffers,
            **path_notes(path),
        },
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class RunCurves:
    """What a run is compared with others by.

    Attributes:
        sizes: the size of its steps.
        history: its losses and accuracies, if they were kept.
        seed: its seed, if that is known.
        values: named numbers that were recorded with its steps: the steps, and the values.
    """

    sizes: StepSizes
    history: History | None = field(default=None, repr=False)
    seed: int | None = None
    values: Mapping[str, Series] = field(default_factory=dict, repr=False)

    @property
    def steps_per_epoch(self) -> float | None:
        """Optimiser steps in an epoch; None where no epoch is known."""
        if self.history is None or len(self.history.epoch) < 2:
            return None
        if not np.isfinite(self.history.epoch[-1]):
            return None
        return float(self.history.step[-1] / self.history.epoch[-1])

    def final(self, name: str) -> float:
        """The last value of a column of the history; NaN where there is none."""
        if self.history is None or not len(self.history.epoch):
            return float("nan")
        return float(getattr(self.history, name)[-1])


def binned_series(series: Series, parts: int) -> tuple[Floats, Floats]:
    """Means of a named number over equal parts of its steps.

    Args:
        series: (n,) steps and (n,) values.
        parts: how many; all of them where these are no more.

    Returns:
        The middles of the parts, and the mean of what is finite in each.
    """
    steps, values = (np.asarray(each, np.float64) for each in series)
    known = np.isfinite(values)
    if not known.any():
        return steps[:0], values[:0]
    several = [
        np.array_split(each[known], min(parts, int(known.sum()))) for each in (steps, values)
    ]
    middles, means = (np.array([part.mean() for part in each]) for each in several)
    return middles, means


@dataclass(frozen=True)
class Spread:
    """A quantity over several runs that differ in nothing but their seeds.

    Attributes:
        count: runs with a finite value.
        mean: their mean; NaN for none.
        low: the smallest.
        high: the largest.
        deviation: the standard deviation (of a sample, n − 1); NaN for fewer than two.
    """

    count: int
    mean: float
    low: float
    high: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some numbers; those that are not finite do not count."""
        finite = np.array([value for value in values if np.isfinite(value)])
        if not len(finite):
            return cls(0, *[float("nan")] * 4)
        deviation = float(finite.std(ddof=1)) if len(finite) > 1 else float("nan")
        return cls(
            len(finite), float(finite.mean()), float(finite.min()), float(finite.max()), deviation
        )
