"""Runs of the first format, which are read and no longer written.

``states.bin`` has rows of the parameters and then the floating-point buffers; ``records.bin`` for
each row its step (int64) and the XXH3-64 of its bytes (uint64); ``losses.bin`` one float64 for each
step; ``index.jsonl`` one line for each commit: how many states and losses there are then, digests
of the new records and losses, whether the run was closed, and a check over the line and the check
of the line before. A state counts once a line counts it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from losspath.errors import DamagedError, wrap_os_errors
from losspath.recording.contents import Contents
from losspath.recording.header import Header
from losspath.recording.slots import SLOT, Stream

STATES = "states.bin"
RECORDS = "records.bin"
LOSSES = "losses.bin"
INDEX = "index.jsonl"
DATA_FILES = (STATES, RECORDS, LOSSES, INDEX)

RECORD = np.dtype([("step", "<i8"), ("digest", "<u8")])
LOSS = np.dtype("<f8")


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


def parse_index(raw: bytes) -> tuple[list[Commit], int, str | None]:
    """Commits, the bytes of whole good lines, and what is wrong after them."""
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
            return commits, good, f"line {len(commits) + 1} of the index is damaged"
        before = (commits[-1].states, commits[-1].losses) if commits else (0, 0)
        if commit.states < before[0] or commit.losses < before[1]:
            return commits, good, f"line {len(commits) + 1} of the index is out of order"
        commits.append(commit)
        check, good = expected, end + 1
    return commits, good, None


def read_contents(directory: Path, header: Header) -> Contents:
    """What the index vouches for.

    Raises:
        DamagedError: bytes that the index vouches for are missing or wrong.
    """
    with wrap_os_errors(f"read {directory}"):
        # The index first: bytes precede the line that counts them.
        raw = {name: _read(directory / name) for name in (INDEX, RECORDS, LOSSES)}
        states_path = directory / STATES
        size = states_path.stat().st_size if states_path.exists() else 0
    commits, good, damage = parse_index(raw[INDEX])
    records = np.frombuffer(raw[RECORDS][: len(raw[RECORDS]) // 16 * 16], RECORD)
    losses = np.frombuffer(raw[LOSSES][: len(raw[LOSSES]) // 8 * 8], LOSS)
    states = values = 0
    for number, commit in enumerate(commits, 1):
        wrong = _check(commit, records[states:], losses[values:], states, values)
        if wrong is None and size < commit.states * header.row_bytes:
            wrong = f"{STATES} is cut: {size:,} bytes, {commit.states:,} rows expected"
        if wrong is not None:
            damage = f"{wrong} (line {number} of the index vouches for it)"
            break
        states, values = commit.states, commit.losses
    if damage is not None:
        raise DamagedError(
            f"{directory} is damaged: {damage}; `losspath repair {directory}` keeps every state "
            "that is whole"
        )
    tail = {
        STATES: size - states * header.row_bytes,
        RECORDS: len(raw[RECORDS]) - states * RECORD.itemsize,
        LOSSES: len(raw[LOSSES]) - values * LOSS.itemsize,
        INDEX: len(raw[INDEX]) - good,
    }
    closed = bool(commits) and commits[-1].closed
    return contents_of(directory, header, records[:states], losses[:values], closed, tail)


def contents_of(
    directory: Path,
    header: Header,
    records: npt.NDArray[Any],
    losses: npt.NDArray[Any],
    closed: bool,
    tail: dict[str, int],
) -> Contents:
    """What records and losses say."""
    steps = records["step"].astype(np.int64)
    values = losses.astype(np.float64)
    at_states = np.full(max(0, len(steps) - 1), np.nan)
    known = steps[:-1] < len(values)
    at_states[known] = values[steps[:-1][known]]
    digests = records["digest"].astype(np.uint64)
    return Contents(
        steps=steps,
        rows=np.arange(len(steps), dtype=np.int64),
        digests=digests,
        # The digest is of parameters and buffers, so states of one key have the same buffers.
        keys=digests.copy() if header.buffers else np.zeros(len(steps), np.uint64),
        loss_steps=np.arange(1, len(values) + 1, dtype=np.int64),
        all_losses=values,
        losses=at_states,
        holes=(),
        unchanged=int(np.count_nonzero(digests[1:] == digests[:-1])),
        closed=closed,
        values={},
        sides=RowBuffers(directory / STATES, header, steps),
        stream=Stream(np.zeros(0, SLOT), np.zeros(0, np.int64), 0),
        tail={name: count for name, count in tail.items() if count > 0},
    )


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _check(
    commit: Commit,
    records: npt.NDArray[Any],
    losses: npt.NDArray[Any],
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


class RowBuffers:
    """The buffers that rows of the first format end with."""

    def __init__(self, path: Path, header: Header, steps: npt.NDArray[np.int64]) -> None:
        self._path, self._header, self._steps = path, header, steps

    def kinds(self) -> dict[str, str]:
        """The kind of every side tensor that there was, by name."""
        return {entry.name: "buffer" for entry in self._header.buffers}

    def tensors(self, step: int, newest: bool, key: int) -> dict[str, torch.Tensor]:
        """The buffers of a state, in the dtype that the model had."""
        header = self._header
        found: dict[str, torch.Tensor] = {}
        if not header.buffers:
            return found
        position = int(np.searchsorted(self._steps, step))
        with wrap_os_errors(f"read {self._path}"), self._path.open("rb") as file:
            file.seek(position * header.row_bytes)
            raw = file.read(header.row_bytes)
        if len(raw) < header.row_bytes or xxhash.xxh3_64_intdigest(raw) != key:
            raise DamagedError(
                f"{self._path.parent} is damaged: state {position} has other bytes than were "
                f"recorded; `losspath repair {self._path.parent}` keeps every other state"
            )
        row = torch.from_numpy(np.frombuffer(raw, header.row_dtype).astype(header.dtype))
        for entry in header.buffers:
            value = row[entry.place].view(entry.shape)
            dtype = getattr(torch, entry.dtype)
            if dtype.is_complex:
                value = torch.complex(value[..., 0], value[..., 1])
            found[entry.name] = value.to(dtype)
        return found

    def digests(self, step: int, newest: bool) -> dict[str, int]:
        """None: the first format has digests of whole rows alone."""
        return {}
