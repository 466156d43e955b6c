"""Where the files are that a run refers to, and whether they are as they were."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from losspath.errors import StoreError, wrap_os_errors
from losspath.importing.formats import INDEX

# What changed longer ago than this (nanoseconds) has another time once it changes again.
_SETTLED = 2_000_000_000

Signature = tuple[tuple[str, int, int, int, int], ...]


def noted(place: Path, run: Path) -> dict[str, str]:
    """What a run notes of a file or folder that it refers to."""
    try:
        relative = os.path.relpath(place.resolve(), run.resolve())
    except ValueError:  # on another drive
        relative = str(place)
    return {"path": str(place), "relative": relative}


def places_of(note: Mapping[str, str], run: Path) -> list[Path]:
    """Where something is that a run refers to, the likeliest place first.

    Where run and files were moved together, they lie to each other as before.

    Raises:
        StoreError: it is not there any more.
    """
    relative = Path(os.path.normpath(run / note["relative"]))
    there = [place for place in (Path(note["path"]), relative) if place.exists()]
    if not there:
        raise StoreError(
            f"{run} refers to {note['path']}, which is not there any more; put it back, or import "
            "the checkpoints again with --link from where they are now"
        )
    return list(dict.fromkeys(there))


def signature_of(place: Path) -> Signature:
    """What changes when the files of a checkpoint do; the newest time of each comes last."""
    folder = place if place.is_dir() else place.parent
    is_alone = not place.is_dir() and not place.name.endswith(INDEX)
    with wrap_os_errors(f"read {place}"):
        files = [place] if is_alone else sorted(folder.iterdir())
        found = [(file, file.stat()) for file in files if file.is_file()]
    return tuple(
        (file.name, s.st_ino, s.st_size, s.st_mtime_ns, max(s.st_mtime_ns, s.st_ctime_ns))
        for file, s in found
    )


def is_settled(signature: Signature) -> bool:
    """Whether another signature would tell of any change from now on.

    What was written a moment ago may be written again without its time being another.
    """
    now = time.time_ns()
    return all(now - changed > _SETTLED for *_, changed in signature)
