"""A run as the command line sees it: its path, its network and its data."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losspath.cli.console import busy, say
from losspath.cli.sources import value_of
from losspath.errors import ArgumentError, LosspathError, StoreError
from losspath.importing.files import hint_at_checkpoints
from losspath.recording import store
from losspath.recording.sketch import check_whole
from losspath.recording.trajectory import JointPath, StateSequence, Trajectory

if TYPE_CHECKING:
    from losspath.analysis.runs import History
    from losspath.evaluation.objective import Objective
    from losspath.geometry.plane import Plane, PrincipalPlane
    from losspath.makers import MadeRun
    from losspath.results import ResultStore

RESULTS = "results"
FIGURES = "figures"
_LONG = 60  # letters of a title
_NAMED = 20  # runs that are listed


@dataclass
class Run:
    """A recorded run and what its commands need.

    Attributes:
        directory: the run.
        data_dir: where to look for the data; None for where training found them.
        objective_source: FILE.py:FUNCTION that returns an `Objective`, for runs of one's own.
        states: which states to take, as START:STOP:STEP.
        out: where results go; None for under the run.
        others: more runs, of the same network and data, that go into its plane.
    """

    directory: Path
    data_dir: Path | None = None
    objective_source: str | None = None
    states: str | None = None
    out: Path | None = None
    others: tuple[Path, ...] = ()

    @cached_property
    def trajectory(self) -> Trajectory:
        """The whole recorded path; what a reader of it must know is said once."""
        check_one_run(self.directory)
        trajectory = Trajectory(self.directory)
        for note in trajectory.notes:
            say(f"{self.directory}: {note}")
        return trajectory

    @cached_property
    def path(self) -> StateSequence:
        """The states that were asked for, of one run or of all."""
        runs = [self, *(replace(self, directory=place, others=()) for place in self.others)]
        paths = [run._window() for run in runs]
        if len(paths) == 1:
            return paths[0]
        for other in runs[1:]:
            if self.made.data != other.made.data:
                raise ArgumentError(
                    f"expected runs of the same data, as a surface has one objective, got "
                    f"{self.made.data} in {self.directory} and {other.made.data} in "
                    f"{other.directory}"
                )
        return JointPath(paths)

    def _window(self) -> StateSequence:
        if self.states is None:
            return self.trajectory
        try:
            numbers = [int(part) if part else None for part in self.states.split(":")]
        except ValueError:
            numbers = []
        if not 2 <= len(numbers) <= 3:
            raise ArgumentError(
                f"expected --states as START:STOP or START:STOP:STEP, got {self.states!r}"
            )
        start, stop, step = [*numbers, None][:3]
        stride = 1 if step is None else step
        count = len(self.trajectory)
        if stride > 0 and not range(count)[start:stop:stride]:
            raise ArgumentError(
                f"expected --states that take some of the {count:,} states, got {self.states!r}"
            )
        return self.trajectory.window(start or 0, stop, stride)

    @property
    def results(self) -> Path:
        """Where results go."""
        return (self.out or self.directory) / RESULTS

    @property
    def store(self) -> ResultStore:
        """Results under their keys."""
        from losspath.results import ResultStore

        return ResultStore(self.results)

    @property
    def figures(self) -> Path:
        """Where figures go."""
        return (self.out or self.directory) / FIGURES

    def check_place(self, place: Path) -> None:
        """Refuses a directory that cannot be written, before anything long is done for it.

        Args:
            place: `results` or `figures`, which need not be there yet.

        Raises:
            StoreError: nothing can be written there.
        """
        todo = "choose another directory (--out DIR)" if self.out else "give another by --out DIR"
        check_writable(place, todo)

    @cached_property
    def made(self) -> MadeRun:
        """The run as the program that made it knows it."""
        from losspath.makers import made_by

        check_one_run(self.directory)
        metadata = store.read_header(self.directory).metadata
        return made_by(self.directory, metadata, self.data_dir)

    @property
    def title(self) -> str:
        """The run as figures name it, or the runs."""
        if self.others:
            assert isinstance(self.path, JointPath)
            names = ", ".join(self.path.runs)
            return names if len(names) < _LONG else f"{len(self.path.runs)} runs"
        try:
            return self.made.title
        except LosspathError:
            return self.directory.resolve().name

    @property
    def history(self) -> History | None:
        """Losses and accuracies by epoch; None for a run that kept none."""
        from losspath.analysis.runs import History

        rows = self.made.history()
        return History.of(rows) if rows else None

    @property
    def recorded_values(self) -> Mapping[str, Any]:
        """Named numbers that were recorded with the run's steps: steps and values by name."""
        found: Mapping[str, Any] = getattr(self.path, "values", {})
        return found

    def training_objective(self, samples: int | None) -> Objective:
        """The loss on training data.

        Args:
            samples: how many samples; None for as many as the run's maker takes as a rule. All
                there are where these are fewer.

        Raises:
            ArgumentError: a number of samples for an objective of one's own.
            PathError: the run keeps no states that a loss could be of.
        """
        check_whole(self.trajectory)
        if self.objective_source is not None:
            if samples is not None:
                raise ArgumentError(
                    "--samples does not go with --objective, whose function chooses its own data"
                )
            return _load_objective(self.objective_source)
        objective = self.made.training_objective(samples)
        there = len(objective)
        if samples is not None and there < samples:
            say(f"the training set has {there:,} samples, fewer than {samples:,}: all are used")
        return objective

    def validation_objective(self) -> Objective:
        """The loss on validation data."""
        check_whole(self.trajectory)
        if self.objective_source is not None:
            return _load_objective(self.objective_source)
        return self.made.validation_objective()

    def plane(self, name: str, objective: Objective) -> Plane:
        """A plane by its name; those that take long are computed once and kept."""
        from losspath.geometry.plane import fit_plane

        if name != "pca":
            return self._named_plane(name, objective)
        if (found := self.kept_plane()) is not None:
            return found
        self.check_place(self.results)
        say(f"fitting the plane of {len(self.path):,} states")
        with busy("fitting the plane"):
            plane = fit_plane(self.path)
        self.store.save(plane, self.path.digest)
        return plane

    def kept_plane(self) -> PrincipalPlane | None:
        """The principal plane, if it was fitted before."""
        from losspath.geometry.plane import PrincipalPlane

        found = self.store.find(PrincipalPlane, self.path.digest)
        # Planes that were kept before random walks were measured are fitted again.
        return None if found is None or found.random_walk is None else found

    def _named_plane(self, name: str, objective: Objective) -> Plane:
        from losspath.planes import PLANES, plane_named
        from losspath.planes.kept import KeptPlane, plane_key

        label = name.partition(":")[0]
        kind = PLANES.get(label)
        if kind is None or not kind.is_kept:
            with busy(f"making the plane {name}"):
                return plane_named(name, self.path, objective)
        with busy(f"looking for the plane {name}"):
            key = plane_key(name, self.path, objective)
            kept = self.store.find(KeptPlane, key, label)
        if kept is None:
            self.check_place(self.results)
            with busy(f"making the plane {name}"):
                made = plane_named(name, self.path, objective)
            kept = KeptPlane(made, {"key": key, "name": name})
            self.store.save(kept, key, label)
        return kept.plane


def check_one_run(directory: Path) -> None:
    """Refuses a directory of runs or of checkpoints that is given for a run, and names them.

    Args:
        directory: what else is wrong with it is told when the run is opened.

    Raises:
        StoreError: it holds runs, or checkpoints, and is no run.
    """
    runs: list[str] = []
    hint = ""
    with suppress(OSError):
        if not store.exists(directory):
            runs = sorted(str(each) for each in directory.iterdir() if store.exists(each))
            hint = hint_at_checkpoints(directory)
    if runs:
        named = ", ".join(runs[:_NAMED]) + (", …" if len(runs) > _NAMED else "")
        count = "a run" if len(runs) == 1 else f"{len(runs):,} runs"
        hint = f" but {count}; give one: {named}"
    if hint:
        raise StoreError(f"{directory} holds no recorded trajectory itself{hint}")


def check_writable(place: Path, todo: str) -> None:
    """Refuses a directory that nothing can be written into; it need not be there yet.

    Args:
        place: the directory.
        todo: what the message says to do.

    Raises:
        StoreError: nothing can be written there.
    """
    there = place
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        # Tried out, as permissions do not tell of disks that cannot be written.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as cause:
        reason = cause.strerror or cause
        raise StoreError(f"cannot write into {place}: {reason}; {todo}") from cause


def _load_objective(source: str) -> Objective:
    from losspath.evaluation.objective import Objective

    objective = value_of(source, "--objective")
    if not isinstance(objective, Objective):
        raise ArgumentError(
            f"expected {source} to return a losspath.Objective, got {type(objective).__name__}"
        )
    return objective
