"""The commands that repair a run and bring it to the store's newest format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from losspath.cli.console import say
from losspath.cli.results import damage_of
from losspath.cli.runs import RESULTS
from losspath.errors import BusyError, DamagedError, StoreError
from losspath.evaluation.journal import sound_part
from losspath.files import move_aside, only_writer, read_document, write_atomically
from losspath.recording.migrate import migrate
from losspath.recording.repair import repair_trajectory
from losspath.reference.checkpoints import checkpoint_files, is_intact
from losspath.reference.training import HISTORY, is_trained


def repair_run(directory: Path) -> None:
    """Repairs the trajectory, and moves other damaged files aside; deletes nothing."""
    done = 0
    # Each line is said as it is done, as what comes after it may fail.
    for lines in (repair_trajectory, _repair_training, _repair_results):
        for line in lines(directory):
            say(f"{directory}: {line}")
            done += 1
    if not done:
        say(f"{directory}: nothing to repair")


def migrate_run(directory: Path) -> None:
    """Brings a run of the first format over to the second."""
    for line in migrate(directory) or ["nothing to do: it is of the newest format"]:
        say(f"{directory}: {line}")


def _repair_training(directory: Path) -> Iterator[str]:
    for file in checkpoint_files(directory):
        yield from _make_way(file, directory, "training goes on from an earlier state")
    if (directory / HISTORY).exists() and is_trained(directory):  # or it is the caller's own
        yield from _make_way(directory / HISTORY, directory, "`losspath train` writes it again")


def _repair_results(directory: Path) -> Iterator[str]:
    for file in sorted((directory / RESULTS).glob("*")):
        yield from _make_way(file, directory, "it can be computed again")


def _make_way(file: Path, directory: Path, then: str) -> Iterator[str]:
    """Moves a file aside if it is damaged, and says so; one that cannot be read now is left."""
    name = file.relative_to(directory)
    problem = _damage(file)
    if isinstance(problem, DamagedError):
        if file.suffix == ".points":
            yield from _cut_journal(file, directory)
        else:
            moved = move_aside(file, directory).relative_to(directory)
            yield f"moved the damaged {name} to {moved}; {then}"
    elif problem is not None:
        yield f"left {name} alone: {problem}"


def _damage(file: Path) -> StoreError | None:
    try:
        if file.suffix == ".safetensors" and not is_intact(file):
            return DamagedError(f"{file} is damaged")
        if file.name == HISTORY:
            read_document(file)
    except StoreError as error:
        return error
    return damage_of(file)


def _cut_journal(file: Path, directory: Path) -> Iterator[str]:
    """Keeps a journal's lines before the damaged one; all of it as it was goes aside."""
    name = file.relative_to(directory)
    try:
        with only_writer(file.with_name(file.name + ".lock"), str(file)):
            sound = sound_part(file)
            if sound is None:
                return
            moved = move_aside(file, directory).relative_to(directory)
            if sound:
                write_atomically(file, lambda opened: opened.write(sound))
    except BusyError as error:
        yield f"left {name} alone: {error}"
        return
    points = max(sound.count(b"\n") - 1, 0)
    yield f"moved the damaged {name} to {moved}; {points:,} points before the damage are kept"
