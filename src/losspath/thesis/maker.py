"""The runs that `losspath train` made, as the commands see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losspath.analysis.steps import StepSizes
from losspath.errors import DamagedError, LosspathError, RunError, StoreError
from losspath.files import read_document
from losspath.makers import BrokenFile, Kind, MadeRun
from losspath.thesis.checkpoints import checkpoint_files, is_intact
from losspath.thesis.config import TrainingConfig
from losspath.thesis.records import (
    HISTORY,
    Row,
    config_in,
    identity_in,
    read_history,
    training_config,
)
from losspath.thesis.schedules import name_sizes

if TYPE_CHECKING:
    from losspath.evaluation.objective import Objective
    from losspath.recording.trajectory import StateSequence
    from losspath.thesis.datasets import Dataset


def open_run(
    directory: Path, metadata: Mapping[str, Any], data_dir: Path | None
) -> TrainedRun | None:
    """The run, if `losspath train` made it."""
    identity = identity_in(metadata)
    return None if identity is None else TrainedRun(directory, metadata, data_dir, identity)


class TrainedRun(MadeRun):
    """A run that `losspath train` made. Its data are loaded when an objective is asked for."""

    def __init__(
        self,
        directory: Path,
        metadata: Mapping[str, Any],
        data_dir: Path | None,
        identity: dict[str, Any],
    ) -> None:
        super().__init__(directory, metadata, data_dir)
        self._identity = identity

    @cached_property
    def _config(self) -> TrainingConfig:
        return config_in(self._identity)

    @property
    def title(self) -> str:
        """Network, data and optimiser; the directory's name where this version knows them not."""
        try:
            return self._config.title
        except LosspathError:
            return super().title

    @property
    def parts(self) -> tuple[str, ...]:
        """Network, data, optimiser with its rate, the rest."""
        return self._config.parts

    @property
    def seed(self) -> int:
        """The seed."""
        return self._config.seed

    @property
    def data(self) -> str:
        """The data set's name and the beginning of its content's digest."""
        return f"{self._config.data} ({str(self._identity.get('data_digest'))[:8]})"

    @property
    def kind(self) -> Kind:
        """The configuration without its seed."""
        config = _without_seeds(self._config)
        return Kind(config.parts, config)

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration, with the digests of data and rates."""
        return self._identity

    @property
    def rate(self) -> float | None:
        """The learning rate of SGD without momentum or schedule."""
        config = self._config
        plain = config.optimizer == "sgd" and not config.momentum
        return config.lr if plain and config.lr_schedule == "constant" else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the data set."""
        return tuple(self._dataset.classes)

    def history(self) -> list[Row]:
        """A row before the first step and one after each epoch."""
        return read_history(self.directory) if (self.directory / HISTORY).exists() else []

    def training_objective(self, samples: int | None = None) -> Objective:
        """The loss on the first samples of the fixed permutation of the training set.

        Args:
            samples: how many; None for 10,000, as in the thesis. All there are where these are
                fewer.

        Raises:
            RunError: the data are not those that it was trained on.
        """
        from losspath.thesis.objectives import SAMPLES, training_objective

        count = SAMPLES if samples is None else samples
        return training_objective(self._config, self._dataset, count)

    def validation_objective(self) -> Objective:
        """The loss on the whole validation set."""
        from losspath.thesis.objectives import validation_objective

        return validation_objective(self._config, self._dataset)

    def forks(
        self, count: int, seed: int, on_step: Callable[[int, int], object] | None = None
    ) -> Sequence[StateSequence]:
        """The run trained again up to some states, and on from there with other batches."""
        from losspath.thesis.forks import forks_of

        return forks_of(self.directory, self._config, self._dataset, count, seed, on_step)

    @cached_property
    def _dataset(self) -> Dataset:
        from losspath.thesis.datasets import load_dataset

        name = self._config.data
        dataset = load_dataset(name, self.data_dir or self.metadata.get("data_dir"))
        if dataset.digest != self._identity.get("data_digest"):
            raise RunError(
                f"the data named {name!r} are not those that {self.directory} was trained on; "
                "look at --data-dir"
            )
        return dataset

    def forget_data(self) -> None:
        """Lets go of the data set."""
        self.__dict__.pop("_dataset", None)

    def named(self, sizes: StepSizes) -> StepSizes:
        """With the run's name and seed, as other runs may take them for rates."""
        return name_sizes(sizes, self._config)

    def broken_files(self) -> Iterator[BrokenFile]:
        """Checkpoints and the history."""
        for file in checkpoint_files(self.directory):
            if (problem := _checkpoint_problem(file)) is not None:
                yield BrokenFile(file, problem, "training goes on from an earlier state")
        file = self.directory / HISTORY
        if file.exists():
            try:
                read_document(file)
            except StoreError as error:
                yield BrokenFile(file, error, "`losspath train` writes it again")


def _checkpoint_problem(file: Path) -> StoreError | None:
    try:
        return None if is_intact(file) else DamagedError(f"{file} is damaged")
    except StoreError as error:
        return error


def _without_seeds(config: TrainingConfig) -> TrainingConfig:
    """What all seeds of a run share, also where each takes its rates from a run of its own seed."""
    schedule = config.lr_schedule
    kind, _, source = schedule.partition(":")
    if kind == "steps":
        with suppress(RunError, StoreError):
            schedule = f"steps:{_source_name(Path(source))}"
    return dataclasses.replace(config, seed=0, lr_schedule=schedule)


def _source_name(source: Path) -> str:
    """What all seeds of a run share that rates are taken from, or of its saved step sizes."""
    if source.is_dir():
        config = training_config(source)
        return config.directory_name.replace(f"-seed{config.seed}", "")
    provenance = StepSizes.load(source).provenance
    name = str(provenance.get("run", source))
    return name.replace(f"-seed{provenance.get('seed')}", "")
