"""The command that repairs a run."""

from __future__ import annotations

from pathlib import Path

from losspath.cli.console import say
from losspath.cli.runs import RESULTS
from losspath.errors import DamagedError, LosspathError, wrap_os_errors
from losspath.evaluation.journal import is_readable
from losspath.files import load_archive, read_document
from losspath.recording.repair import repair_trajectory
from losspath.reference.checkpoints import damaged_checkpoints
from losspath.reference.training import HISTORY

_KINDS = {
    "surface": "surface",
    "plane": "plane",
    "interpolation": "interpolation",
    "steps": "step sizes",
    "states": "state losses",
}


def repair_run(directory: Path) -> None:
    """Cuts the trajectory back to its last good state and removes other damaged files."""
    lines = repair_trajectory(directory)
    for file in damaged_checkpoints(directory):
        _remove(file)
        lines.append(f"removed the damaged {file.name}; training goes on from an earlier state")
    if _is_damaged_document(directory / HISTORY):
        _remove(directory / HISTORY)
        lines.append(f"removed the damaged {HISTORY}; `losspath train` writes it again")
    for file in sorted((directory / RESULTS).glob("*")):
        if _is_damaged_result(file):
            _remove(file)
            lines.append(f"removed the damaged {RESULTS}/{file.name}; it can be computed again")
    for line in lines:
        say(f"{directory}: {line}")
    if not lines:
        say(f"{directory}: nothing to repair")


def _remove(file: Path) -> None:
    with wrap_os_errors(f"remove {file}"):
        file.unlink(missing_ok=True)


def _is_damaged_document(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        read_document(file)
    except DamagedError:
        return True
    return False


def _is_damaged_result(file: Path) -> bool:
    kind = _KINDS.get(file.name.partition("-")[0])
    if file.suffix == ".points":
        return not is_readable(file)
    if kind is None or file.suffix != ".npz":
        return False
    try:
        load_archive(file, kind, 1)
    except LosspathError:
        return True
    return False
