"""The learning rate of each step of a reference training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from losspath.analysis.rates import learning_rates
from losspath.analysis.steps import StepSizes, step_sizes
from losspath.errors import RunError, StoreError
from losspath.files import digest_of
from losspath.recording.trajectory import Trajectory
from losspath.thesis.config import TrainingConfig


def name_sizes(sizes: StepSizes, config: TrainingConfig) -> StepSizes:
    """Step sizes that know the run and seed they are of, where they are another run's rates."""
    named = {"run": config.directory_name, "seed": config.seed}
    return dataclasses.replace(sizes, provenance={**sizes.provenance, **named})


class Schedule(Protocol):
    """A learning rate for each step."""

    @property
    def digest(self) -> str | None:
        """Identifies what the configuration does not say; None where it says all."""

    def check(self, steps: int) -> None:
        """Raises `RunError` where so many steps have no rates."""

    def rate(self, step: int) -> float:
        """The learning rate of a step, the first being 0."""


@dataclass(frozen=True)
class Decay:
    """The rate multiplied by a factor every so many steps (torch's ``StepLR``).

    Attributes:
        lr: the first rate.
        every: steps.
        factor: 1 for a constant rate.
    """

    lr: float
    every: int = 1
    factor: float = 1.0
    digest: None = None

    def check(self, steps: int) -> None:
        """Every step has a rate."""

    def rate(self, step: int) -> float:
        """Lr · factor^⌊step/every⌋."""
        return float(self.lr * self.factor ** (step // self.every))


@dataclass(frozen=True)
class Recorded:
    """Rates that were computed before.

    Attributes:
        rates: (S,) one for each step.
        source: where they come from, for messages.
    """

    rates: npt.NDArray[np.float64] = field(repr=False)
    source: str

    @property
    def digest(self) -> str:
        """Identifies the rates."""
        return digest_of(self.rates)

    def check(self, steps: int) -> None:
        """Refuses more steps than there are rates."""
        if steps > len(self.rates):
            raise RunError(
                f"{self.source} gives learning rates for {len(self.rates):,} steps and {steps:,} "
                "are to be taken; train for fewer epochs, or take a longer run"
            )

    def rate(self, step: int) -> float:
        """The rate of a step."""
        return float(self.rates[step])


def make_schedule(config: TrainingConfig, batches: int) -> Schedule:
    """The schedule of a training.

    Args:
        config: the training.
        batches: steps in an epoch.

    Raises:
        StoreError: the run that it takes its rates from is not there.
        ArgumentError: that run has no step sizes that could be rates.
    """
    kind, _, rest = config.lr_schedule.partition(":")
    if kind == "step-decay":
        epochs, factor = rest.split(":")
        return Decay(config.lr, int(epochs) * batches, float(factor))
    if kind == "steps":
        source = Path(rest)
        if not source.exists():
            raise StoreError(f"there is no run and no file of step sizes at {source}")
        sizes = step_sizes(Trajectory(source)) if source.is_dir() else StepSizes.load(source)
        rates = learning_rates(
            sizes, config.lr_form, smooth=config.lr_smooth, mean=config.lr, seed=config.seed
        )
        return Recorded(rates, rest)
    return Decay(config.lr)
