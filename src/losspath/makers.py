"""Who made a run: a program that trains knows more of its runs than the path.

A package says so by an entry point of the group ``losspath.makers``. It names a function
``(directory, metadata, data_dir)`` that returns a `MadeRun` for a run of its own, and None for any
other. It is asked about every run that a command opens, so its module should import little.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from losspath.analysis.steps import StepSizes
from losspath.errors import LosspathWarning, RunError, StoreError
from losspath.evaluation.objective import Objective
from losspath.recording.trajectory import StateSequence

GROUP = "losspath.makers"


@dataclass(frozen=True)
class Kind:
    """What runs that differ in their seeds alone have in common.

    Attributes:
        parts: it in words, as `MadeRun.parts`.
        key: what is equal for these runs and for no other.
    """

    parts: tuple[str, ...]
    key: Hashable


@dataclass(frozen=True)
class BrokenFile:
    """A file that the maker keeps in a run and that cannot be read.

    Attributes:
        file: the file.
        problem: a `DamagedError` where its bytes are not those that were written; `losspath repair`
            then moves it aside. Any other error leaves it where it is.
        then: what follows from its being moved, in words.
    """

    file: Path
    problem: StoreError
    then: str


class MadeRun:
    """A run, and what its maker knows of it.

    As it stands it is the run of a loop of one's own, of which nothing is known. A maker derives
    from it and overrides what it knows.

    Args:
        directory: the run.
        metadata: as the recorder was given it.
        data_dir: where to look for the data; None for where training found them.
    """

    def __init__(
        self, directory: Path, metadata: Mapping[str, Any], data_dir: Path | None = None
    ) -> None:
        self.directory = directory
        self.metadata = metadata
        self.data_dir = data_dir

    @property
    def title(self) -> str:
        """The run as figures name it."""
        return self.directory.resolve().name

    @property
    def parts(self) -> tuple[str, ...]:
        """What the run is made of, in words: network, data, and all else; or its name alone."""
        return (self.directory.resolve().name,)

    @property
    def seed(self) -> int | None:
        """Its seed; None where it is not known."""
        return None

    @property
    def kind(self) -> Kind | None:
        """What it has in common with runs of other seeds; None for a run that is like no other."""
        return None

    @property
    def config(self) -> Mapping[str, Any] | None:
        """What the training depended on, as JSON values; `data_digest` is not shown to people."""
        return None

    @property
    def data(self) -> str | None:
        """What it was trained on, so that runs of different data are told apart; None: unknown."""
        return None

    @property
    def rate(self) -> float | None:
        """The learning rate of plain gradient descent; None where it is another, or changes."""
        return None

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes, in the order of the targets."""
        return None

    def history(self) -> list[dict[str, float | int | None]]:
        """Losses and accuracies by epoch, as rows that `History.of` takes; none were kept: empty.

        Raises:
            StoreError: they cannot be read.
        """
        return []

    def training_objective(self, samples: int | None = None) -> Objective:
        """The loss on training data.

        Args:
            samples: how many samples; None for as many as the maker takes as a rule. All there are
                where these are fewer.

        Raises:
            RunError: network or data are not known, or not as they were.
        """
        raise self._unknown()

    def validation_objective(self) -> Objective:
        """The loss on validation data.

        Raises:
            RunError: network or data are not known, or not as they were.
        """
        raise self._unknown()

    def forks(
        self, count: int, seed: int, on_step: Callable[[int, int], object] | None = None
    ) -> Sequence[StateSequence]:
        """Trainings that go on from states of the run with other batches, each for 1 to 3 % of it.

        Args:
            count: how many.
            seed: of the choice of states, and of the batches.
            on_step: called with (steps taken, steps in all).

        Returns:
            Paths whose first state is one of the run; none where the maker cannot train on.
        """
        return ()

    def forget_data(self) -> None:
        """Lets go of the data, once an objective has what it needs of them."""

    def named(self, sizes: StepSizes) -> StepSizes:
        """The run's step sizes with what they should say of it in their provenance."""
        return sizes

    def broken_files(self) -> Iterable[BrokenFile]:
        """Files of the maker's own in the run that cannot be read."""
        return ()

    def _unknown(self) -> RunError:
        return RunError(
            f"{self.directory} was recorded by a training loop of your own, so its network and "
            "data are not known here; pass --objective FILE.py:FUNCTION, or use "
            "losspath.compute_surface and losspath.interpolate in Python"
        )


Maker = Callable[[Path, Mapping[str, Any], Path | None], MadeRun | None]


def made_by(directory: Path, metadata: Mapping[str, Any], data_dir: Path | None = None) -> MadeRun:
    """A run as its maker knows it.

    Args:
        directory: the run.
        metadata: as its trajectory has it.
        data_dir: where to look for the data; None for where training found them.

    Returns:
        What the first maker that knows the run says of it, in the order of the makers' names; a
        plain `MadeRun` where none does.
    """
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        try:
            maker: Maker = entry.load()
        except Exception as cause:  # a package that is broken spoils no run that is not its own
            warnings.warn(
                f"the maker of runs {entry.name!r} ({entry.value}) cannot be loaded, so its runs "
                f"are not known: {type(cause).__name__}: {cause}",
                LosspathWarning,
                stacklevel=2,
            )
            continue
        made = maker(directory, metadata, data_dir)
        if made is not None:
            return made
    return MadeRun(directory, metadata, data_dir)
