"""The trajectory store, second format: rows, side tensors, and two copies of what vouches for them.

A directory holds

====================================  =========================================================
``trajectory.json``                   format, version, dtype, layout table, ``every``, metadata;
and ``trajectory.copy.json``          each carries its own digest; keys that are not known are
                                      passed over
``states.bin``                        rows of P little-endian numbers, nothing between them
``newest.bin``                        with ``every`` > 1, two places for the newest state
``sides.bin``                         blobs of buffers and frozen parameters: `losspath.recording.
                                      sides`
``records.bin``                       slots of 64 bytes, each with its own check: `losspath.
and ``records.copy.bin``              recording.slots`
``.lock``                             held by who writes
====================================  =========================================================

A writer syncs rows, side tensors and the newest state, then appends slots to ``records.bin`` and
syncs, and then to the copy. A state counts once its slot is there. So the slots vouch for all
other bytes, and bytes that none vouches for are a tail that readers ignore. Readers never write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from losspath.errors import DamagedError, wrap_os_errors
from losspath.recording import format1, slots
from losspath.recording.contents import Contents, Sides
from losspath.recording.header import (
    LINKS,
    META,
    META_COPY,
    VERSION,
    Header,
    damaged_copies,
    exists,
    read_header,
    write_header,
)
from losspath.recording.sides import SideLog, key_of

STATES = "states.bin"
NEWEST = "newest.bin"
SIDES = "sides.bin"
RECORDS = "records.bin"
RECORDS_COPY = "records.copy.bin"
LOCK = ".lock"
DATA_FILES = (STATES, NEWEST, SIDES, RECORDS, RECORDS_COPY)
ALL_FILES = (META, META_COPY, LINKS, *DATA_FILES)

__all__ = [
    "ALL_FILES",
    "DATA_FILES",
    "LINKS",
    "LOCK",
    "META",
    "META_COPY",
    "NEWEST",
    "RECORDS",
    "RECORDS_COPY",
    "SIDES",
    "STATES",
    "VERSION",
    "Contents",
    "Header",
    "contents_of",
    "exists",
    "read_contents",
    "read_copies",
    "read_header",
    "read_stream",
    "row_digest",
    "told_slots",
    "without_sides",
    "write_header",
]


def row_digest(row: npt.NDArray[Any]) -> int:
    """The XXH3-64 of a row's bytes."""
    return xxhash.xxh3_64_intdigest(row.view(np.uint8).data)


def read_stream(directory: Path) -> slots.Stream:
    """What the two copies of the slots hold together; files that are missing are empty."""
    return slots.merge(read_copies(directory))


def read_copies(directory: Path) -> dict[str, bytes]:
    """The bytes of both copies of the slots; files that are missing are empty."""
    with wrap_os_errors(f"read {directory}"):
        return {name: _read(directory / name) for name in (RECORDS, RECORDS_COPY)}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def read_contents(directory: Path, header: Header) -> Contents:
    """What a run of either format holds; everything but the rows and side tensors is checked.

    Raises:
        DamagedError: something is missing that both copies of what vouches for it lack, or rows.
    """
    if header.version == 1:
        return format1.read_contents(directory, header)
    # The slots first: a writer may append while we read, and bytes precede their slot.
    stream = read_stream(directory)
    if stream.contradictory:
        raise DamagedError(
            f"{directory} is damaged: {RECORDS} and {RECORDS_COPY} say different things, as where "
            f"one was copied from another run; `losspath repair {directory}` finds out which"
        )
    contents = contents_of(directory, header, stream)
    if len(stream.missing):
        raise DamagedError(
            f"{directory} is damaged: {len(stream.missing):,} of {len(stream):,} records are right "
            f"in neither copy; `losspath repair {directory}` keeps everything else"
        )
    with wrap_os_errors(f"read {directory}"):
        size = (directory / STATES).stat().st_size if (directory / STATES).exists() else 0
    rows = int(contents.rows.max(initial=-1)) + 1
    if header.is_linked:  # rows are in checkpoints, which are checked as they are read
        size = rows * header.row_bytes
    if size < rows * header.row_bytes:
        raise DamagedError(
            f"{directory} is damaged: {STATES} is cut: {size:,} bytes, {rows:,} rows expected; "
            f"`losspath repair {directory}` keeps those that are whole"
        )
    contents.tail.update(_tail(directory, header, stream, size))
    # A writer has not come to a copy that ends earlier yet, or did not come to it any more.
    behind = () if contents.closed else stream.behind
    contents.mended.extend(name for name in stream.mended if name not in behind)
    contents.mended.extend(damaged_copies(directory))
    return contents


def _tail(directory: Path, header: Header, stream: slots.Stream, size: int) -> dict[str, int]:
    rows = stream.slots["a"][stream.slots["kind"] == slots.RECORD].max(initial=-1) + 1
    tail = {STATES: size - int(rows) * header.row_bytes, RECORDS: stream.torn}
    return {name: count for name, count in tail.items() if count > 0}


def contents_of(directory: Path, header: Header, stream: slots.Stream) -> Contents:
    """What a stream of slots says; missing slots are passed over as if they were LOST.

    Args:
        directory: of the run.
        header: its header.
        stream: its slots.
    """
    table = stream.slots
    kinds = table["kind"]
    records = np.flatnonzero(kinds == slots.RECORD)
    of_losses = records[(table["flags"][records] & (slots.INITIAL | slots.NO_LOSS)) == 0]
    with_row = (table["a"][records] >= 0) & ((table["flags"][records] & slots.ROW_LOST) == 0)
    states = records[with_row]
    told = told_slots(table)
    newest = _newest(table, states, told)
    if newest is not None:
        states = np.append(states, newest)
    rows = table["a"][states].copy()
    if newest is not None:
        rows[-1] = -1 - rows[-1]
    return Contents(
        steps=table["step"][states].astype(np.int64),
        rows=rows.astype(np.int64),
        digests=table["b"][states].astype(np.uint64),
        keys=table["c"][states].astype(np.uint64),
        loss_steps=table["step"][of_losses].astype(np.int64),
        all_losses=slots.floats(table["d"][of_losses]),
        losses=_losses(table, states),
        holes=_holes(table, rows, states),
        lost_ends=_lost_ends(table, rows, states),
        unchanged=_unchanged(table[records]),
        closed=bool(len(table)) and int(kinds[-1]) == slots.CLOSE,
        values=_values(table[: int(records[-1]) + 1 if len(records) else 0]),
        sides=SideLog(directory / SIDES, table[told & (kinds == slots.SIDE)]),
        stream=stream,
    )


def told_slots(table: slots.Slots) -> npt.NDArray[np.bool_]:
    """Which slots count: those up to the last record, and what tells its state again after it."""
    records = np.flatnonzero(table["kind"] == slots.RECORD)
    if not len(records):
        return np.zeros(len(table), bool)
    last = int(records[-1])
    # Told again where recording was closed or gone on with.
    again: npt.NDArray[np.bool_] = table["step"] == table["step"][last]
    return again | (np.arange(len(table)) <= last)


def _newest(
    table: slots.Slots, states: npt.NDArray[Any], told: npt.NDArray[np.bool_]
) -> int | None:
    """The place of the slot of the newest state, if it is newer than the last row."""
    places = np.flatnonzero((table["kind"] == slots.NEWEST) & told)
    if not len(places):
        return None
    if len(states) and table["step"][places[-1]] <= table["step"][states[-1]]:
        return None
    return int(places[-1])


def _losses(table: slots.Slots, states: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The loss of the `record` call that came after each state but the last; NaN where lost."""
    is_told = (table["kind"] == slots.RECORD) & ((table["flags"] & slots.NO_LOSS) == 0)
    tells = np.flatnonzero(is_told | slots.lost_records(table))
    # A newest state's slot lies before the record of its own step.
    after = tells[np.searchsorted(tells, states[:-1], side="right")]
    losses = slots.floats(table["d"][after])
    losses[table["kind"][after] != slots.RECORD] = np.nan
    return losses


def _holes(table: slots.Slots, rows: npt.NDArray[Any], states: npt.NDArray[Any]) -> tuple[int, ...]:
    """Positions of states after which others were lost."""
    gap = np.zeros(max(0, len(rows) - 1), bool)
    ordinary = rows >= 0
    pairs = ordinary[1:] & ordinary[:-1]
    gap[pairs] = np.diff(rows)[pairs] != 1
    if len(rows) > 1 and not ordinary[-1]:
        between = table[states[-2] + 1 : states[-1]]
        lost_row = (between["kind"] == slots.RECORD) & (between["a"] >= 0)
        gap[-1] = bool(np.any(slots.lost_records(between) | lost_row))
    return tuple(np.flatnonzero(gap).tolist())


def _lost_ends(
    table: slots.Slots, rows: npt.NDArray[Any], states: npt.NDArray[Any]
) -> tuple[int, int]:
    """How many states were lost before the first that is there, and after the last."""
    if not len(states):
        return 0, 0
    row_lost = (table["kind"] == slots.RECORD) & ((table["flags"] & slots.ROW_LOST) != 0)
    row_lost |= slots.lost_records(table)
    before = int(rows[0]) if rows[0] >= 0 else int(np.count_nonzero(row_lost[: states[0]]))
    after = row_lost[states[-1] :]
    if slots.lost_records(table[-1:]).any():  # the last slot of all may as well be a CLOSE
        after = after[:-1]
    # Without a row, the last state is that of a NEWEST slot.
    newest = (table["kind"] == slots.LOST) & (table["flags"] == slots.NEWEST)
    is_newest_lost = np.any(newest & (table["step"] > table["step"][states[-1]]))
    return before, int(np.count_nonzero(after)) + int(is_newest_lost)


def without_sides(found: Contents, log: Sides | None = None) -> npt.NDArray[np.int64]:
    """The steps of states whose side tensors are not all there, in a log other than theirs."""
    log = found.sides if log is None else log
    lacking = [
        step
        for step, row, key in zip(
            found.steps.tolist(), found.rows.tolist(), found.keys.tolist(), strict=True
        )
        if key_of(log.digests(step, row < 0).values()) != key
    ]
    return np.array(lacking, np.int64)


def _unchanged(records: slots.Slots) -> int:
    """How many records have the parameters of the one before."""
    known = (records["flags"] & slots.NO_DIGEST) == 0
    same = records["b"][1:] == records["b"][:-1]
    return int(np.count_nonzero(same & known[1:] & known[:-1]))


def _values(
    table: slots.Slots,
) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    names = slots.names(table)
    values = table[table["kind"] == slots.VALUE]
    found = {}
    for number, name in names.items():
        own = values[values["a"] == number]
        found[name] = own["step"].astype(np.int64), slots.floats(own["d"])
    return found
