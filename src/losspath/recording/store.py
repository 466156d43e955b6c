"""The trajectory store: plain append-only files and an index that vouches for their bytes.

A directory holds

========================  =====================================================================
``trajectory.json``       format, version, dtype, layout table, ``every``; carries its own digest
``states.bin``            rows of ``row_size`` little-endian numbers, nothing between them
``records.bin``           for each row its step (int64) and the XXH3-64 of its bytes (uint64)
``losses.bin``            one float64 for each step
``index.jsonl``           one line for each commit: how many states and losses there are now,
                          digests of the new records and losses, and a check over the line and the
                          one before
========================  =====================================================================

A commit writes and syncs the data first and then the index line; a state counts once its line is
there. So the records and losses are vouched for by the index, the rows by their records, and bytes
that no line vouches for are a tail that readers ignore. Readers never write.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from losspath.errors import ArgumentError, DamagedError, StoreError, wrap_os_errors
from losspath.files import read_document, sync_directory, write_atomically, write_document
from losspath.parameters import Layout

FORMAT = "losspath trajectory"
VERSION = 1

META = "trajectory.json"
STATES = "states.bin"
RECORDS = "records.bin"
LOSSES = "losses.bin"
INDEX = "index.jsonl"
DATA_FILES = (STATES, RECORDS, LOSSES, INDEX)

RECORD = np.dtype([("step", "<i8"), ("digest", "<u8")])
LOSS = np.dtype("<f8")

# Rows are synced, and their pages given back, in portions of this size. A page cache that grows
# with the recording costs a training step more than the recording itself (see the design page).
_SYNC_BYTES = 8 << 20


@dataclass(frozen=True)
class Header:
    """What does not change over a trajectory's life.

    Attributes:
        layout: what lies where in a row.
        dtype: "float32" or "float64".
        every: a state is stored at every so many steps.
        metadata: JSON values of the caller's.
    """

    layout: Layout
    dtype: str
    every: int
    metadata: dict[str, Any]

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """The dtype of a stored number."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """The bytes of a stored row."""
        return self.layout.row_size * self.row_dtype.itemsize


@dataclass(frozen=True)
class Commit:
    """One line of the index: totals after it, digests of what it added."""

    states: int
    losses: int
    records_digest: str
    losses_digest: str
    closed: bool

    def line(self, before: str) -> tuple[bytes, str]:
        """The line, and its check, which chains it to the check of the line before."""
        body = [self.states, self.losses, self.records_digest, self.losses_digest, self.closed]
        check = xxhash.xxh3_64_hexdigest(json.dumps([before, *body]).encode())
        return json.dumps([*body, check]).encode() + b"\n", check


@dataclass(frozen=True)
class Contents:
    """What the index vouches for.

    Attributes:
        commits: the index, line by line.
        check: the last line's check.
        records: step and digest of every state.
        losses: every loss.
        tail: bytes beyond what the index vouches for, by file name.
        damage: why reading stopped early; None when the store is whole.
    """

    commits: list[Commit]
    check: str
    records: npt.NDArray[Any]
    losses: npt.NDArray[np.float64]
    tail: dict[str, int]
    damage: str | None

    @property
    def closed(self) -> bool:
        """Whether the last writer closed the trajectory."""
        return bool(self.commits) and self.commits[-1].closed


def exists(directory: Path) -> bool:
    """Whether a trajectory was begun in this directory."""
    return (directory / META).exists()


def write_header(directory: Path, header: Header) -> None:
    """Begins a store: makes the empty files, then the header that makes them a store."""
    with wrap_os_errors(f"write {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        for name in DATA_FILES:
            (directory / name).write_bytes(b"")
        sync_directory(directory)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": header.dtype,
        "every": header.every,
        "layout": header.layout.to_json(),
        "metadata": header.metadata,
    }
    write_document(directory / META, content)


def read_header(directory: Path) -> Header:
    """Reads a store's header.

    Raises:
        StoreError: there is no store, or it is of another format or version.
        DamagedError: the header is not what was written.
    """
    if not exists(directory):
        raise StoreError(
            f"{directory} holds no recorded trajectory"
            + ("" if directory.is_dir() else ": there is no such directory")
        )
    content = read_document(directory / META)
    if content.get("format") != FORMAT:
        raise StoreError(f"{directory / META} is not a {FORMAT}")
    if content.get("version") != VERSION:
        raise StoreError(
            f"{directory} is in version {content.get('version')} of the trajectory format; this "
            f"version of losspath reads {VERSION}"
        )
    return Header(
        layout=Layout.from_json(content["layout"]),
        dtype=str(content["dtype"]),
        every=int(content["every"]),
        metadata=dict(content["metadata"]),
    )


def _parse_index(raw: bytes) -> tuple[list[Commit], str, int, str | None]:
    """Commits, the last check, the bytes of whole good lines, and what is wrong after them."""
    commits: list[Commit] = []
    check, good = "", 0
    while (end := raw.find(b"\n", good)) >= 0:
        try:
            *body, written = json.loads(raw[good:end])
            commit = Commit(*body)
            line, expected = commit.line(check)
        except (ValueError, TypeError, RecursionError):
            line = b""
        if line != raw[good : end + 1] or written != expected:
            return commits, check, good, f"line {len(commits) + 1} of the index is damaged"
        before = (commits[-1].states, commits[-1].losses) if commits else (0, 0)
        if commit.states < before[0] or commit.losses < before[1]:
            return commits, check, good, f"line {len(commits) + 1} of the index is out of order"
        commits.append(commit)
        check, good = expected, end + 1
    return commits, check, good, None


def read_contents(directory: Path, header: Header, tolerant: bool = False) -> Contents:
    """Reads and checks everything but the rows.

    Args:
        directory: the store.
        header: its header.
        tolerant: on damage, return what comes before it and say why in `Contents.damage`.

    Raises:
        DamagedError: bytes that the index vouches for are missing or wrong.
    """
    with wrap_os_errors(f"read {directory}"):
        # The index first: a writer may append while we read, and data precede their line.
        raw = _read(directory / INDEX)
        commits, check, good, damage = _parse_index(raw)
        records_raw = _read(directory / RECORDS)
        losses_raw = _read(directory / LOSSES)
        states_path = directory / STATES
        states_bytes = states_path.stat().st_size if states_path.exists() else 0
    records = np.frombuffer(records_raw[: len(records_raw) // 16 * 16], RECORD)
    losses = np.frombuffer(losses_raw[: len(losses_raw) // 8 * 8], LOSS)
    kept: list[Commit] = []
    states = values = 0
    for number, commit in enumerate(commits, 1):
        wrong = _check_commit(commit, records[states:], losses[values:], states, values)
        if wrong is None and states_bytes < commit.states * header.row_bytes:
            wrong = f"{STATES} is cut: {states_bytes:,} bytes, {commit.states:,} rows expected"
        if wrong is not None:
            damage = f"{wrong} (line {number} of the index vouches for it)"
            break
        kept.append(commit)
        states, values = commit.states, commit.losses
    if damage is not None and not tolerant:
        raise DamagedError(
            f"{directory} is damaged: {damage}; `losspath repair {directory}` cuts it back to the "
            "last good state"
        )
    tail = {
        STATES: states_bytes - states * header.row_bytes,
        RECORDS: len(records_raw) - states * RECORD.itemsize,
        LOSSES: len(losses_raw) - values * LOSS.itemsize,
        INDEX: len(raw) - good,
    }
    return Contents(
        commits=kept,
        check=check if len(kept) == len(commits) else _chain(kept),
        records=records[:states],
        losses=losses[:values].astype(np.float64),
        tail={name: size for name, size in tail.items() if size > 0},
        damage=damage,
    )


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _chain(commits: list[Commit]) -> str:
    check = ""
    for commit in commits:
        _, check = commit.line(check)
    return check


def _check_commit(
    commit: Commit,
    records: npt.NDArray[Any],
    losses: npt.NDArray[np.float64],
    states: int,
    values: int,
) -> str | None:
    new_records = records[: commit.states - states]
    new_losses = losses[: commit.losses - values]
    if len(new_records) < commit.states - states:
        return f"{RECORDS} is cut"
    if len(new_losses) < commit.losses - values:
        return f"{LOSSES} is cut"
    if digest(new_records) != commit.records_digest:
        return f"{RECORDS} has other bytes than were written"
    if digest(new_losses) != commit.losses_digest:
        return f"{LOSSES} has other bytes than were written"
    return None


def digest(array: npt.NDArray[Any]) -> str:
    """The XXH3-64 of an array's bytes, in hex."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).view(np.uint8).data)


def row_digest(row: npt.NDArray[Any]) -> int:
    """The XXH3-64 of a row's bytes."""
    return xxhash.xxh3_64_intdigest(row.view(np.uint8).data)


def cut_back(directory: Path, contents: Contents, states: int, losses: int) -> Contents:
    """Cuts a store back to its first `states` states and `losses` losses, tail included.

    The caller holds the writer's lock. The index is replaced first, so that a crash in between
    leaves only a tail.
    """
    if states > len(contents.records) or losses > len(contents.losses):
        raise ArgumentError("a store can only be cut back, not extended")
    kept = [c for c in contents.commits if c.states <= states and c.losses <= losses]
    done = (kept[-1].states, kept[-1].losses) if kept else (0, 0)
    if done != (states, losses):
        kept.append(
            Commit(
                states=states,
                losses=losses,
                records_digest=digest(contents.records[done[0] : states]),
                losses_digest=digest(contents.losses[done[1] : losses]),
                closed=False,
            )
        )
    lines, check = b"", ""
    for commit in kept:
        line, check = commit.line(check)
        lines += line
    header = read_header(directory)
    sizes = {
        STATES: states * header.row_bytes,
        RECORDS: states * RECORD.itemsize,
        LOSSES: losses * LOSS.itemsize,
    }
    write_atomically(directory / INDEX, lambda file: file.write(lines))
    with wrap_os_errors(f"cut {directory} back"):
        for name, size in sizes.items():
            with (directory / name).open("r+b") as file:
                file.truncate(size)
                os.fsync(file.fileno())
    return Contents(
        commits=kept,
        check=check,
        records=contents.records[:states],
        losses=contents.losses[:losses],
        tail={},
        damage=None,
    )


class Writer:
    """Appends to a store. The caller holds the writer's lock and has cut off any tail."""

    def __init__(self, directory: Path, contents: Contents) -> None:
        self._directory = directory
        self._check = contents.check
        self._states = len(contents.records)
        self._losses = len(contents.losses)
        self._unsynced = 0
        with wrap_os_errors(f"write {directory}"):
            self._files = {name: (directory / name).open("ab", buffering=0) for name in DATA_FILES}

    def write_rows(self, rows: memoryview) -> None:
        """Appends bytes of rows; they count from the next commit on."""
        with wrap_os_errors(f"write {self._directory / STATES}"):
            self._write(STATES, rows)
            self._unsynced += rows.nbytes
            if self._unsynced >= _SYNC_BYTES:
                self._sync_rows()

    def commit(
        self, steps: Sequence[int], digests: Sequence[int], losses: Sequence[float], closed: bool
    ) -> None:
        """Makes rows written since the last commit, and these losses, count.

        Args:
            steps: the step of each new row.
            digests: the `row_digest` of each.
            losses: the new losses.
            closed: whether the writer is done.
        """
        records = np.zeros(len(steps), RECORD)
        records["step"], records["digest"] = steps, digests
        values = np.asarray(losses, LOSS)
        entry = Commit(
            states=self._states + len(records),
            losses=self._losses + len(values),
            records_digest=digest(records),
            losses_digest=digest(values),
            closed=closed,
        )
        line, check = entry.line(self._check)
        with wrap_os_errors(f"write {self._directory}"):
            if len(records):
                self._sync_rows()
                self._write(RECORDS, memoryview(records.tobytes()))
                self._sync(RECORDS)
            if len(values):
                self._write(LOSSES, memoryview(values.tobytes()))
                self._sync(LOSSES)
            self._write(INDEX, memoryview(line))
            self._sync(INDEX)
        self._states, self._losses, self._check = entry.states, entry.losses, check

    def close(self) -> None:
        """Closes the files; what was not committed stays a tail."""
        for file in self._files.values():
            file.close()

    def _write(self, name: str, data: memoryview) -> None:
        view = data.cast("B")
        while view:
            view = view[self._files[name].write(view) :]

    def _sync_rows(self) -> None:
        self._sync(STATES)
        self._unsynced = 0
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._files[STATES].fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _sync(self, name: str) -> None:
        os.fdatasync(self._files[name].fileno())
