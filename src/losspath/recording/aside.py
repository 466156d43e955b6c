"""Putting what must make way beside a run, as a run of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from losspath.errors import wrap_os_errors
from losspath.files import new_aside, sync_directory
from losspath.recording import slots, store
from losspath.recording.header import copy_header

_COPIED_BYTES = 8 << 20


def copy_dropped(directory: Path, header: store.Header, table: slots.Slots, kept: int) -> str:
    """Copies the states and records behind the first `kept` slots into a new ``aside-<n>``.

    It is a run that can be read like any other.

    Args:
        directory: the run; it is left as it is.
        header: its header.
        table: its slots.
        kept: how many of them stay.

    Returns:
        What was done.

    Raises:
        StoreError: there is no room, or the like; then nothing is left of the attempt.
    """
    aside = new_aside(directory)
    try:
        with wrap_os_errors(f"put later states of {directory} aside"):
            count = _copy(directory, aside, header, table, kept)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return f"{count:,} later records, with their states, were put into {aside}"


def _copy(directory: Path, aside: Path, header: store.Header, table: slots.Slots, kept: int) -> int:
    own = table.copy()
    is_record = own["kind"] == slots.RECORD
    dropped = np.arange(len(own)) >= kept
    with_row = is_record & dropped & (own["a"] >= 0)
    first = int(own["a"][with_row].min()) if with_row.any() else 0
    own["a"][with_row] -= first
    # Names and side tensors of before are those of the states that come after, too.
    needed = dropped | np.isin(own["kind"], (slots.NAME, slots.SIDE))
    raw = slots.renumbered(own[needed], 0, 0).tobytes()
    for name in (store.RECORDS, store.RECORDS_COPY):
        (aside / name).write_bytes(raw)
    if with_row.any():
        count = int(own["a"][with_row].max()) + 1
        at = first * header.row_bytes
        _copy_bytes(directory / store.STATES, aside / store.STATES, at, count * header.row_bytes)
    else:
        (aside / store.STATES).touch()
    for name in (store.SIDES, store.NEWEST):
        if (directory / name).exists():
            size = (directory / name).stat().st_size
            _copy_bytes(directory / name, aside / name, 0, size)
    copy_header(directory, aside)
    for path in aside.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(aside)
    return int(np.count_nonzero(is_record & dropped))


def _copy_bytes(source: Path, target: Path, at: int, count: int) -> None:
    if not source.exists():  # lost, as its records say
        target.touch()
        return
    with source.open("rb") as reader, target.open("wb") as writer:
        reader.seek(at)
        while count and (piece := reader.read(min(count, _COPIED_BYTES))):
            writer.write(piece)
            count -= len(piece)
