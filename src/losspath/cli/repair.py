"""The commands that repair a run and bring it to the store's newest format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from losspath.cli.console import say
from losspath.cli.runs import RESULTS
from losspath.errors import BusyError, DamagedError, StoreError
from losspath.evaluation.execution.journal import sound_part
from losspath.files import move_aside, only_writer, write_atomically
from losspath.makers import made_by
from losspath.recording import store
from losspath.recording.migrate import migrate
from losspath.recording.repair import repair_trajectory
from losspath.results import damage_of


def repair_run(directory: Path) -> None:
    """Repairs the trajectory, and moves other damaged files aside; deletes nothing."""
    done = 0
    # Each line is said as it is done, as what comes after it may fail.
    for lines in (repair_trajectory, _repair_makers, _repair_results):
        for line in lines(directory):
            say(f"{directory}: {line}")
            done += 1
    if not done:
        say(f"{directory}: nothing to repair")


def migrate_run(directory: Path) -> None:
    """Brings a run of the first format over to the second."""
    for line in migrate(directory) or ["nothing to do: it is of the newest format"]:
        say(f"{directory}: {line}")


def _repair_makers(directory: Path) -> Iterator[str]:
    """Files that the program which made the run keeps in it."""
    made = made_by(directory, store.read_header(directory).metadata)
    for broken in made.broken_files():
        yield from _make_way(broken.file, broken.problem, directory, broken.then)


def _repair_results(directory: Path) -> Iterator[str]:
    for file in sorted((directory / RESULTS).glob("*")):
        yield from _make_way(file, damage_of(file), directory, "it can be computed again")


def _make_way(file: Path, problem: StoreError | None, directory: Path, then: str) -> Iterator[str]:
    """Moves a file aside if it is damaged, and says so; one that cannot be read now is left."""
    name = file.relative_to(directory)
    if isinstance(problem, DamagedError):
        if file.suffix == ".points":
            yield from _cut_journal(file, directory)
        else:
            moved = move_aside(file, directory).relative_to(directory)
            yield f"moved the damaged {name} to {moved}; {then}"
    elif problem is not None:
        yield f"left {name} alone: {problem}"


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
