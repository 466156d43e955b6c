"""Turning runs of the first format into the second, whole or salvaged.

Everything is written into a directory within the run, read again and compared. Renaming that
directory is the moment from which the run is the new one; what follows is moving the old files
aside and the new ones into place, which goes on wherever it was stopped.
"""

from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from losspath.errors import DamagedError, StoreError, wrap_os_errors
from losspath.files import (
    move_aside,
    new_aside,
    only_writer,
    read_document,
    sync_directory,
    sync_file,
    write_all,
    write_document,
)
from losspath.recording import format1, sides, slots, store
from losspath.recording.header import MIGRATED, VERSION, Header, read_header, write_header
from losspath.recording.salvage import Salvaged, salvage

# Where new files are written, and where they are once they are whole.
BEGUN = "migrating"
READY = MIGRATED
_ASIDE = "aside.json"

OLD_FILES = (store.META, *format1.DATA_FILES)
NEW_FILES = (store.STATES, store.SIDES, store.RECORDS, store.RECORDS_COPY)
_HEADERS = (store.META_COPY, store.META)


def migrate(directory: Path) -> list[str]:
    """Turns a run of the first format into one of the second; keeps the old files aside.

    Args:
        directory: a run that nobody is writing to.

    Returns:
        One line for each thing that was done; empty where the run is of the second format.

    Raises:
        StoreError: there is no run, or the disk is full, say; then the run is as it was, or this
            can be called again.
        DamagedError: the run is damaged; `repair_trajectory` brings over what is left of it.
        BusyError: somebody is writing to it.
    """
    if not (directory / READY).is_dir() and read_header(directory).version != 1:
        return []
    with only_writer(directory / store.LOCK, f"to {directory}"):
        if not (directory / READY).is_dir():
            header = read_header(directory)
            format1.read_contents(directory, header)  # a damaged run is refused
            found = salvage(directory, header)
            if not found.whole.all():
                raise DamagedError(
                    f"{directory} is damaged: {found.lines[0]}; `losspath repair {directory}` "
                    "keeps every state that is whole"
                )
            stage(directory, header, found)
        return finish(directory)


def stage(directory: Path, header: Header, found: Salvaged) -> None:
    """Writes what was found as a run of the second format, ready to be moved into place."""
    begun = directory / BEGUN
    with wrap_os_errors(f"write {begun}"):
        if begun.exists():
            shutil.rmtree(begun)  # this module's own, and not whole
        begun.mkdir()
        aside = new_aside(directory)
        try:
            _write(begun, directory, header, found)
            _verify(begun, directory, header, found)
            write_document(begun / _ASIDE, {"aside": aside.name})
            begun.rename(directory / READY)
        except BaseException:
            if begun.exists():
                shutil.rmtree(begun, ignore_errors=True)
                aside.rmdir()
            raise
        sync_directory(directory)


def finish(directory: Path) -> list[str]:
    """Moves old files aside and new ones into place; goes on where it was stopped."""
    ready = directory / READY
    if not (ready / _ASIDE).exists():  # stopped before its last line
        ready.rmdir()
        return []
    aside = directory / str(read_document(ready / _ASIDE)["aside"])
    with wrap_os_errors(f"move new files into {directory}"):
        # The header first, so that no reader takes new files for the old run's. A name that is
        # still among the new files has not been taken by one of them.
        for name in OLD_FILES:
            moved = name not in (*NEW_FILES, *_HEADERS) or (ready / name).exists()
            if moved and (directory / name).exists():
                move_aside(directory / name, directory, aside)
        for name in (*NEW_FILES, *_HEADERS):
            if (ready / name).exists():
                (ready / name).rename(directory / name)
        sync_directory(directory)
        (ready / _ASIDE).unlink()
        ready.rmdir()
        sync_directory(directory)
    return [f"brought over to format {VERSION}; the files of format 1 are kept in {aside.name}"]


# --------------------------------------------------------------------------------------------------
# Writing


def _write(target: Path, source: Path, header: Header, found: Salvaged) -> None:
    """All files of the new run, synced; lost rows leave their places empty."""
    old = _numbers_by_step(found)
    records: list[tuple[int, ...]] = []
    buffers = format1.RowBuffers(source / format1.STATES, header, found.records["step"])
    with (
        _open(source / format1.STATES) as read,
        (target / store.STATES).open("wb", buffering=0) as rows,
        (target / store.SIDES).open("wb", buffering=0) as blobs,
    ):
        log = _SideWriter(blobs)
        for step in range(_steps(found) + 1):
            number = old.get(step, -1)
            flags, digest, row = slots.INITIAL if step == 0 else 0, 0, -1
            if number < 0:
                flags |= slots.NO_DIGEST
            elif not found.whole[number]:
                flags |= slots.NO_DIGEST | slots.ROW_LOST
                row = number
            else:
                row = number
                digest = _copy_row(read, rows, header, number)
                key = int(found.records["digest"][number])
                records += log.changes(step, buffers.tensors(step, False, key))
            loss = found.losses[step - 1] if step else np.nan
            records.append(
                (slots.RECORD, flags, step, row, digest, log.key, slots.bits(float(loss)))
            )
        for file in (rows, blobs):
            sync_file(file.fileno())
    if found.closed:
        states = len(found.records)
        records.append((slots.CLOSE, 1, _steps(found), _steps(found) + 1, states, 0, 0))
    raw = slots.sealed(records, 0, 0).tobytes()
    for name in (store.RECORDS, store.RECORDS_COPY):
        with (target / name).open("wb", buffering=0) as file:
            write_all(file.fileno(), raw)
            sync_file(file.fileno())
    write_header(target, replace(header, version=VERSION, buffers=()))


def _open(path: Path) -> BinaryIO:
    """A file of rows; one that is missing has none."""
    return path.open("rb") if path.exists() else io.BytesIO()


def _numbers_by_step(found: Salvaged) -> dict[int, int]:
    """The number of each row by its step."""
    return {int(step): number for number, step in enumerate(found.records["step"].tolist())}


def _steps(found: Salvaged) -> int:
    return max(len(found.losses), int(found.records["step"].max(initial=0)))


def _copy_row(read: BinaryIO, rows: Any, header: Header, number: int) -> int:
    """Copies the parameters of a row; returns their digest."""
    read.seek(number * header.row_bytes)
    count = header.layout.row_size * header.row_dtype.itemsize
    raw = read.read(count)
    rows.seek(number * count)
    write_all(rows.fileno(), raw)
    return store.row_digest(np.frombuffer(raw, np.uint8))


class _SideWriter:
    """Writes side tensors of successive states, each when it has changed."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._end = 0
        self._forms: dict[bytes, int] = {}
        self._known: dict[str, int] = {}

    @property
    def key(self) -> int:
        """The key of the side tensors as they are now."""
        return sides.key_of(self._known.values())

    def changes(self, step: int, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[int, ...]]:
        """Writes what changed; gives the slot that says so, if anything did."""
        described, marks, contents = [], [], []
        for name, tensor in tensors.items():
            content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            dtype = str(tensor.dtype).removeprefix("torch.")
            one = sides.Described(name, dtype, tuple(tensor.shape), "buffer")
            mark = one.digest(content)
            if self._known.get(name) != mark:
                self._known[name] = mark
                described.append(one)
                marks.append(mark)
                contents.append(content)
        if described:
            payload = sides.form_payload(described)
            if payload not in self._forms:
                self._forms[payload] = self._blob(sides.FORM, step, payload, 0)
            form = self._forms[payload]
            data = struct.pack(f"<{len(marks)}Q", *marks) + b"".join(contents)
            place = self._blob(sides.DATA, step, data, form)
            digest = store.row_digest(np.frombuffer(data, np.uint8))
            yield slots.SIDE, 0, step, place, digest, len(data), form

    def _blob(self, what: int, step: int, payload: bytes, form: int) -> int:
        place = self._end
        digest = store.row_digest(np.frombuffer(payload, np.uint8))
        raw = sides.head(what, step, len(payload), digest, form) + payload
        raw += sides.padding(len(payload))
        write_all(self._file.fileno(), raw)
        self._end += len(raw)
        return place


# --------------------------------------------------------------------------------------------------
# Reading it again


def _verify(target: Path, source: Path, header: Header, found: Salvaged) -> None:
    """Raises `StoreError` unless every row, loss and buffer is read as it was."""
    new = store.read_contents(target, read_header(target))
    kept = found.records[found.whole]
    same = (
        np.array_equal(new.steps, kept["step"])
        and np.array_equal(new.all_losses, found.losses, equal_nan=True)
        and new.closed == found.closed
    )
    buffers = format1.RowBuffers(source / format1.STATES, header, found.records["step"])
    with (
        _open(source / format1.STATES) as old_rows,
        (target / store.STATES).open("rb") as rows,
    ):
        size = header.layout.row_size * header.row_dtype.itemsize
        for place, number in enumerate(np.flatnonzero(found.whole).tolist() if same else []):
            old_rows.seek(number * header.row_bytes)
            raw = old_rows.read(size)
            rows.seek(int(new.rows[place]) * size)
            step, key = int(kept["step"][place]), int(kept["digest"][place])
            same &= rows.read(size) == raw
            same &= store.row_digest(np.frombuffer(raw, np.uint8)) == int(new.digests[place])
            old_sides = buffers.tensors(step, False, key)
            new_sides = new.sides.tensors(step, False, int(new.keys[place]))
            same &= old_sides.keys() == new_sides.keys() and all(
                _bytes(tensor) == _bytes(new_sides[name]) for name, tensor in old_sides.items()
            )
    if not same:
        raise StoreError(
            f"cannot bring {source} over to format {VERSION}: what was written is not read "
            "as it was; the run is left as it is"
        )


def _bytes(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tuple(tensor.shape), raw


__all__ = ["finish", "migrate", "stage"]
