"""What files a run's results are in, and whether they are what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from losspath.analysis import barriers, dynamics, interpolation, steps
from losspath.cli import jobs
from losspath.errors import DamagedError, StoreError
from losspath.evaluation import journal
from losspath.files import load_archive, read_document
from losspath.geometry import plane
from losspath.surface import value

# Every kind of archive: how its files' names begin, what it is called in them, and its version.
ARCHIVES: dict[str, tuple[str, int]] = {
    "barriers": ("barriers", barriers.FORMAT_VERSION),
    "dynamics": ("dynamics", dynamics.FORMAT_VERSION),
    "interpolation": ("interpolation", interpolation.FORMAT_VERSION),
    "plane": ("plane", plane.FORMAT_VERSION),
    "states": ("state losses", jobs.STATES_VERSION),
    "steps": ("step sizes", steps.FORMAT_VERSION),
    "surface": ("surface", value.FORMAT_VERSION),
}


def _check_archive(file: Path) -> None:
    kind, version = ARCHIVES[file.name.partition("-")[0]]
    load_archive(file, kind, version)


def _check_journal(file: Path) -> None:
    if not journal.is_readable(file):
        raise DamagedError(f"{file} is damaged")


# How each kind of file is checked, by the end of its name: results, and checkpoints of them.
_CHECKS: dict[str, Callable[[Path], object]] = {
    ".npz": _check_archive,
    ".points": _check_journal,
    ".states": read_document,
}


def damage_of(file: Path) -> StoreError | None:
    """What is wrong with a result or a checkpoint of one.

    Args:
        file: any file; one of no kind that is known here has nothing wrong.

    Returns:
        A `DamagedError` where bytes are surely not what was written; another `StoreError` where the
        file cannot be read now, or by this version; None where it is sound.
    """
    check = _CHECKS.get(file.suffix)
    if check is None or (check is _check_archive and file.name.partition("-")[0] not in ARCHIVES):
        return None
    try:
        check(file)
    except StoreError as error:
        return error
    return None
