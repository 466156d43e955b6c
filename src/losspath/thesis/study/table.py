"""All measurements of a study in one long table: what its claims are judged by."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.thesis.study.plan import Plan
from losspath.thesis.study.results import Run

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Measurement:
    """One number of one run.

    Attributes:
        data: the title of the data set.
        network: the network's name.
        optimizer: "sgd" or "adam".
        dropout: the share of features that are dropped.
        lr: the learning rate.
        rates: "constant", or the form in which another run's step sizes are the rates.
        epochs: that the run took.
        seed: of the run.
        method: that the surface is by, for a number of one.
        setting: what is not as usual about that surface, or what part of the run it is of.
        quantity: what was measured.
        value: the number; NaN where it is not defined.
    """

    data: str
    network: str
    optimizer: str
    dropout: float
    lr: float
    rates: str
    epochs: int
    seed: int
    method: str
    setting: str
    quantity: str
    value: float

    @classmethod
    def of(
        cls, run: Run, quantity: str, value: float, method: str = "", setting: str = ""
    ) -> Measurement:
        """A number of a run.

        Args:
            run: the run.
            quantity: what was measured.
            value: the number.
            method: that the surface is by.
            setting: what is not as usual about it.
        """
        fields = (*_columns(run), method, setting, quantity, float(value))
        return cls(*fields)

    @property
    def key(self) -> tuple[Any, ...]:
        """Everything but the value."""
        return dataclasses.astuple(self)[:-1]


def _columns(run: Run) -> tuple[Any, ...]:
    """The first columns, which tell runs apart."""
    config = run.config
    rates = "constant" if run.rates_from is None else config.lr_form
    own = (config.network, config.optimizer, config.dropout, config.lr)
    return (run.data, *own, rates, run.epochs, config.seed)


class Table:
    """Measurements of a study's runs.

    Args:
        plan: which runs there are.
        rows: the measurements.

    Attributes:
        plan: as given.
        rows: as given.
    """

    def __init__(self, plan: Plan, rows: Iterable[Measurement]) -> None:
        self.plan = plan
        self.rows = tuple(rows)
        self._values = {row.key: row.value for row in self.rows}

    def of(self, runs: Iterable[Run], quantity: str, method: str = "", setting: str = "") -> Floats:
        """A quantity of some runs, in their order.

        Args:
            runs: the runs.
            quantity: the quantity.
            method: of the surface that it is measured on.
            setting: what is not as usual about that, or what part of the run it is of.

        Raises:
            KeyError: it was not measured.
        """
        keys = ((*_columns(run), method, setting, quantity) for run in runs)
        return np.array([self._values[key] for key in keys])

    def values(self, quantity: str, method: str = "", setting: str = "", **options: Any) -> Floats:
        """A quantity of a run with every seed of the study.

        Args:
            quantity: the quantity.
            method: of the surface that it is measured on.
            setting: what is not as usual about that, or what part of the run it is of.
            options: the run, as `Plan.run` takes it: data, network, optimizer, dropout.

        Raises:
            KeyError: it was not measured.
        """
        return self.of(self.plan.runs(**options), quantity, method, setting)

    def settings(self, quantity: str, **options: Any) -> list[str]:
        """The settings that a quantity of a run was measured at, seed by seed.

        Args:
            quantity: the quantity.
            options: the run, as `Plan.run` takes it.
        """
        return [
            row.setting
            for run in self.plan.runs(**options)
            for row in self.rows
            if row.quantity == quantity and row.key[:8] == _columns(run)
        ]

    def csv(self) -> str:
        """The rows, sorted, with a line of names above; numbers to nine digits."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Measurement))
        for row in sorted(self.rows):
            writer.writerow(_text(value) for value in dataclasses.astuple(row))
        return out.getvalue()


def _text(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
