"""What is left of a damaged run of the first format.

Its index vouches for records and losses, commit by commit, and its records for rows; so one file
that is damaged can often be told from the others. A row is taken when its digest is right, a loss
when its commit's is; nothing else is believed. Where one bit of a header, a line of the index or a
commit's losses is wrong, the digest says which.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from losspath.errors import wrap_os_errors
from losspath.files import document_in
from losspath.recording import format1
from losspath.recording.format1 import INDEX, LOSS, LOSSES, RECORD, RECORDS, STATES, Commit
from losspath.recording.header import Header

# A bit is looked for in as many bytes as this: each try costs a digest of all of them.
_MENDABLE_BYTES = 8 << 10


@dataclass(frozen=True)
class Salvaged:
    """The rows and losses that are what was recorded.

    Attributes:
        records: step and digest, one for each row of ``states.bin``.
        whole: which rows have the bytes that were recorded.
        losses: one for each step; NaN where nothing vouches for it.
        closed: whether the run was closed.
        lines: what is damaged, and what is lost by it.
    """

    records: npt.NDArray[Any]
    whole: npt.NDArray[np.bool_]
    losses: npt.NDArray[np.float64]
    closed: bool
    lines: list[str]


def mended(raw: bytes, is_right: Callable[[bytes], bool]) -> bytes | None:
    """The bytes with the one bit changed that makes them right; None if there is none."""
    if len(raw) > _MENDABLE_BYTES:
        return None
    tried = bytearray(raw)
    for place in range(len(raw)):
        for bit in range(8):
            tried[place] ^= 1 << bit
            if is_right(bytes(tried)):
                return bytes(tried)
            tried[place] ^= 1 << bit
    return None


def mended_document(path: Path) -> dict[str, Any] | None:
    """The content of a JSON document of which one bit is wrong; None if more is."""
    with wrap_os_errors(f"read {path}"):
        raw = path.read_bytes()
    found = mended(raw, lambda tried: document_in(tried) is not None)
    return None if found is None else document_in(found)


def salvage(directory: Path, header: Header) -> Salvaged:
    """What is left of a run of the first format; of a sound one, all of it.

    Args:
        directory: the run.
        header: its header.
    """
    with wrap_os_errors(f"read {directory}"):
        raw = {
            name: path.read_bytes() if (path := directory / name).exists() else b""
            for name in (INDEX, RECORDS, LOSSES)
        }
        rows = _digests_of_rows(directory / STATES, header)
    commits, wrong = _commits(raw[INDEX])
    stored = np.frombuffer(raw[RECORDS][: len(raw[RECORDS]) // RECORD.itemsize * 16], RECORD)
    records, changed = _records(stored, rows, commits, header.every)
    whole = np.zeros(len(records), bool)
    count = min(len(records), len(rows))
    whole[:count] = rows[:count] == records["digest"][:count]
    counted = commits[-1].states if commits else 0
    kept = np.flatnonzero(whole)
    end = max(counted, int(kept[-1]) + 1 if len(kept) else 0)
    records, whole = records[:end], whole[:end]
    losses, unknown = _losses(raw[LOSSES], commits, int(records["step"].max(initial=0)))
    lines = [line for line, happened in ((wrong, wrong), (changed, changed)) if happened]
    if end > counted:
        lines.append(f"{end - counted:,} states that no line of {INDEX} counts are whole")
    if not whole.all():
        lines.append(f"{np.count_nonzero(~whole):,} states have other bytes than were recorded")
    if unknown is not None:
        lines.append(unknown)
    closed = end == counted and bool(commits) and commits[-1].closed
    return Salvaged(records, whole, losses, closed, lines)


def _digests_of_rows(path: Path, header: Header) -> npt.NDArray[np.uint64]:
    def digests() -> Iterator[int]:
        if path.exists():
            with path.open("rb") as file:
                while len(row := file.read(header.row_bytes)) == header.row_bytes:
                    yield xxhash.xxh3_64_intdigest(row)

    return np.fromiter(digests(), np.uint64)


def _commits(raw: bytes) -> tuple[list[Commit], str]:
    """The commits of an index, and what is wrong with it, if anything is."""
    commits: list[Commit] = []
    wrong, check, at = "", "", 0
    while at < len(raw):
        end = raw.find(b"\n", at) + 1
        commit = _commit(raw[at:end], check)
        if commit is None:
            # The wrong bit may be that of a line's end.
            stops = (end, raw.find(b"\n", end) + 1, len(raw)) if end else (len(raw),)
            parts = (_mended_line(raw[at:stop], check) for stop in stops)
            part = next((part for part in parts if part is not None), None)
            if part is None:
                torn = not end  # a line that was cut off is no damage
                return commits, wrong if torn else f"line {len(commits) + 1} of {INDEX} is damaged"
            wrong = f"one bit of line {len(commits) + 1} of {INDEX} was wrong"
            raw = raw[:at] + part + raw[at + len(part) :]
            continue
        commits.append(commit)
        check = json.loads(raw[at:end])[-1]
        at = end
    return commits, wrong


def _commit(line: bytes, before: str) -> Commit | None:
    try:
        *body, _ = json.loads(line)
        commit = Commit(*body)
        return commit if commit.line(before)[0] == line else None
    except (ValueError, TypeError, RecursionError):
        return None


def _mended_line(raw: bytes, before: str) -> bytes | None:
    return mended(raw, lambda tried: _commit(tried[: tried.find(b"\n") + 1], before) is not None)


def _records(
    stored: npt.NDArray[Any], rows: npt.NDArray[np.uint64], commits: list[Commit], every: int
) -> tuple[npt.NDArray[Any], str]:
    """Steps and digests, and what is wrong with those that are stored, if anything is."""
    total = max([len(stored), *(commit.states for commit in commits[-1:])])
    found = np.zeros(total, RECORD)
    found["step"] = np.arange(total) * every
    found["digest"][: len(stored)] = stored["digest"]
    # But for the last, a state's place gives its step; nothing else was ever stored.
    if total and len(stored) == total:
        last, most = int(stored["step"][-1]), (total - 1) * every
        if most - every < last <= most:
            found["step"][-1] = last
    wrong, start = "", 0
    for commit in commits:
        part = slice(start, commit.states)
        if _matches(stored[part], commit, start):
            found[part] = stored[part]
        else:
            wrong = f"{RECORDS} has other bytes than were written"
            computed = _computed(rows[part], commit, start, every)
            if computed is not None:
                found[part] = computed
        start = commit.states
    return found, wrong


def _matches(records: npt.NDArray[Any], commit: Commit, start: int) -> bool:
    whole = len(records) == commit.states - start
    return whole and format1.digest(records) == commit.records_digest


def _computed(
    rows: npt.NDArray[np.uint64], commit: Commit, start: int, every: int
) -> npt.NDArray[Any] | None:
    """Records as the rows themselves give them, if the index vouches for these."""
    if len(rows) < commit.states - start:
        return None
    records = np.zeros(len(rows), RECORD)
    records["step"] = np.arange(start, commit.states) * every
    records["digest"] = rows
    for last in (records["step"][-1] if len(rows) else 0, commit.losses):
        records["step"][-1:] = last
        if _matches(records, commit, start):
            return records
    return None


def _losses(
    raw: bytes, commits: list[Commit], last_step: int
) -> tuple[npt.NDArray[np.float64], str | None]:
    """The losses, NaN where nothing vouches for them, and how many of these there are."""
    count = max([last_step, *(commit.losses for commit in commits[-1:])])
    losses = np.full(count, np.nan)
    known, start, wrong = 0, 0, False
    for commit in commits:
        size = (commit.losses - start) * LOSS.itemsize
        is_right = functools.partial(_is_right, size, commit)
        stored = raw[start * LOSS.itemsize :][:size]
        part = stored if is_right(stored) else mended(stored, is_right)
        wrong |= part is not stored
        if part is not None:
            losses[start : commit.losses] = np.frombuffer(part, LOSS)
            known += commit.losses - start
        start = commit.losses
    if known < count:
        return losses, f"nothing vouches for {count - known:,} losses; they are NaN now"
    return losses, f"one bit of {LOSSES} was wrong" if wrong else None


def _is_right(size: int, commit: Commit, raw: bytes) -> bool:
    return len(raw) == size and xxhash.xxh3_64_hexdigest(raw) == commit.losses_digest
