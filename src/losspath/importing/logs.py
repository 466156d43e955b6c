"""Losses that a training script logged, by step."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from losspath.errors import ArgumentError, DamagedError, wrap_os_errors
from losspath.importing.formats import TRAINER_STATE
from losspath.recording.trainers import safe

_LOSSES = ("loss", "train_loss", "train/loss", "train_loss_step", "training_loss", "Train/Loss")
_STEPS = ("step", "global_step", "iteration", "Step")


@dataclass
class Log:
    """What was logged.

    Attributes:
        losses: the training loss by step.
        values: other named numbers by step.
    """

    losses: dict[int, float] = field(default_factory=dict)
    values: dict[int, dict[str, float]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], step: int, loss: str | None) -> None:
        """Takes along what a row says; a later row of the same step stands for an earlier one."""
        for name, value in row.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if name == loss:
                self.losses[step] = float(value)
            elif name not in _STEPS:
                self.values.setdefault(step, {})[safe(name)] = float(value)

    def between(self, before: int, step: int) -> list[int]:
        """The steps behind one state and before the next at which anything was logged."""
        return sorted(each for each in {*self.losses, *self.values} if before < each < step)

    def loss_at(self, step: int) -> float:
        """The loss that was logged at a step; NaN for none."""
        return self.losses.get(step, math.nan)


def read_log(losses: Path | None, column: str | None, places: Iterable[Path]) -> Log:
    """What was logged, from a file or from what a trainer keeps with its checkpoints.

    Args:
        losses: a CSV file or a ``trainer_state.json``; None for that of the newest checkpoint.
        column: of the loss.
        places: the checkpoints, in the order of their steps.

    Raises:
        ArgumentError: the file has no such columns.
        DamagedError: it cannot be read.
    """
    if losses is None:
        states = [place / TRAINER_STATE for place in places if (place / TRAINER_STATE).exists()]
        return _of_trainer(states[-1], column) if states else Log()
    if losses.suffix == ".json":
        return _of_trainer(losses, column)
    return _of_table(losses, column)


def check_one_history(places: Iterable[Path]) -> None:
    """Refuses checkpoints whose trainers logged other losses at the same steps.

    A trainer keeps with each checkpoint all that it logged before it, so that those of one training
    agree. Where a folder was trained into twice, old checkpoints lie among new ones.

    Args:
        places: the checkpoints, in the order of their steps; those without a log agree with all.

    Raises:
        ArgumentError: two of them contradict each other.
    """
    known: dict[int, tuple[Path, float, Decimal]] = {}
    for place in places:
        own = _losses_beside(place)
        unit = unit_of(own.values())
        for step, loss in own.items():
            first, there, coarse = known.setdefault(step, (place, loss, unit))
            if are_others(there, loss, max(coarse, unit)):
                raise ArgumentError(
                    f"expected checkpoints of one training, got {first}, whose {TRAINER_STATE} has "
                    f"a loss of {there} at step {step}, and {place}, whose has {loss}; give a "
                    "pattern of those of one training, as where a folder was trained into twice"
                )


def unit_of(losses: Iterable[float]) -> Decimal:
    """One in the last decimal place that numbers are written with: 0.0001 for 4.3541 and 4.35."""
    exponents = [Decimal(repr(loss)).as_tuple().exponent for loss in losses if math.isfinite(loss)]
    return Decimal(1).scaleb(min((int(each) for each in exponents), default=0))


def are_others(one: float, other: float, unit: Decimal) -> bool:
    """Whether numbers differ by more than rounding to a unit makes of equal ones."""
    if not (math.isfinite(one) and math.isfinite(other)):
        return not (one == other or (math.isnan(one) and math.isnan(other)))
    return abs(Decimal(repr(one)) - Decimal(repr(other))) > unit


def _losses_beside(place: Path) -> dict[int, float]:
    """The losses that a trainer kept with a checkpoint; none where it kept no log."""
    file = place / TRAINER_STATE
    try:
        return _of_trainer(file, None).losses if file.exists() else {}
    except DamagedError:  # of what is taken from it, `read_log` tells
        return {}


def _of_trainer(file: Path, column: str | None) -> Log:
    with wrap_os_errors(f"read {file}"):
        try:
            rows = json.loads(file.read_text())["log_history"]
            log = Log()
            for row in rows:
                log.add(row, int(row["step"]), column or "loss")
            if column is not None and not log.losses:
                names = ", ".join(dict.fromkeys(name for row in rows for name in row))
                raise ArgumentError(f"expected {column} to be logged in {file}, got {names}")
        except ArgumentError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise DamagedError(f"{file} has no history of a trainer: {cause!r}") from cause
    return log


def _of_table(file: Path, column: str | None) -> Log:
    with wrap_os_errors(f"read {file}"):
        try:
            with file.open(newline="", encoding="utf-8-sig") as opened:
                reader = csv.DictReader(opened, restkey="", restval="")
                rows, names = list(reader), list(reader.fieldnames or ())
        except (UnicodeDecodeError, csv.Error) as cause:
            raise DamagedError(f"{file} is no table of values: {cause}") from cause
    step = _column(file, names, None, _STEPS, "a step")
    loss = _column(file, names, column, _LOSSES, "the loss, say which (loss_column=)")
    log = Log()
    for number, row in enumerate(rows, 2):
        if not row[step]:
            continue
        values = _numbers({name: row[name] for name in names})
        if not values.get(step, 0.5).is_integer() or (row[loss] and loss not in values):
            raise DamagedError(f"line {number} of {file} has no number as {step} or {loss}")
        log.add(values, int(values[step]), loss)
    return log


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Those of a row's fields that are numbers; tables have words in some of their columns."""
    found = {}
    for name, text in row.items():
        try:
            found[name] = float(text)
        except (TypeError, ValueError):
            continue
    return found


def _column(
    file: Path, names: list[str], given: str | None, usual: Iterable[str], what: str
) -> str:
    wanted = [given] if given is not None else [*usual]
    for name in wanted:
        if name in names:
            return name
    raise ArgumentError(
        f"expected {file} to have a column for {what}, named {' or '.join(wanted)}, got "
        f"{', '.join(names) or 'none'}"
    )
