"""The newest state of a run that is being recorded, whose place is written again as one reads.

It has two places by turns, and reading what vouches for a long run takes longer than it lasts. So
both are read first: what was durable at that time is among them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from losspath.errors import wrap_os_errors
from losspath.recording import slots, store
from losspath.recording.locking import is_locked
from losspath.recording.paths import States

# Of rows that are no larger the newest is kept; larger ones are read where they are asked for.
KEPT_BYTES = 64 << 20
_TRIES = 3


class Found(NamedTuple):
    """A run as it was opened.

    Attributes:
        contents: what its slots say, up to the last state that is there.
        newest: the row of a state that has none in ``states.bin``, where it was kept.
        is_behind: whether the newest state was left out, as another took its place meanwhile.
    """

    contents: store.Contents
    newest: States | None = None
    is_behind: bool = False


def read_run(directory: Path, header: store.Header) -> Found:
    """What a run holds, and its newest state, whether or not it is being recorded.

    Raises:
        DamagedError: as `store.read_contents` does.
    """
    for number in range(_TRIES):
        before = _places(directory, header)
        contents = store.read_contents(directory, header)
        if contents.closed or not len(contents.rows) or contents.rows[-1] >= 0 or not before:
            return Found(contents)
        if (row := before.get(int(contents.digests[-1]))) is not None:
            return Found(contents, row)
        # A run that nobody writes any more is damaged, which reading the state says.
        if not is_locked(directory / store.LOCK) and before.keys() == (
            _places(directory, header).keys()
        ):
            return Found(contents)
        earlier = _up_to_one_of(directory, header, contents, before)
        if earlier is not None or number == _TRIES - 1:
            return earlier or Found(_up_to_last_row(directory, header, contents), is_behind=True)
    raise AssertionError("the last try returns")


def _places(directory: Path, header: store.Header) -> dict[int, States]:
    """The rows in both places, as far as they are whole, by their digests."""
    path, found = directory / store.NEWEST, {}
    if header.version == 1 or header.row_bytes > KEPT_BYTES:
        return {}
    with wrap_os_errors(f"read {path}"):
        if not path.exists():
            return {}
        with path.open("rb") as file:
            while len(raw := file.read(header.row_bytes)) == header.row_bytes > 0:
                row = np.frombuffer(bytearray(raw), header.row_dtype)
                found[store.row_digest(row)] = row[None]
    return found


def _up_to_one_of(
    directory: Path, header: store.Header, contents: store.Contents, rows: dict[int, States]
) -> Found | None:
    """The run as it was when one of some rows was its newest state; None if none of them ever was.

    Where all of them are older than the last row, that is the last state.
    """
    table = contents.stream.slots
    digests = np.fromiter(rows, np.uint64, len(rows))
    known = np.flatnonzero((table["kind"] == slots.NEWEST) & np.isin(table["b"], digests))
    if not len(known):
        return None
    newest = table[known[-1]]
    if len(contents.steps) > 1 and newest["step"] <= contents.steps[-2]:
        return Found(_up_to_last_row(directory, header, contents))
    cut = _cut(directory, header, contents, int(newest["step"]))
    is_there = len(cut.rows) and cut.rows[-1] < 0 and cut.digests[-1] == newest["b"]
    return Found(cut, rows[int(newest["b"])]) if is_there else None


def _up_to_last_row(
    directory: Path, header: store.Header, contents: store.Contents
) -> store.Contents:
    """The run as it was when it had no newest state besides its rows."""
    step = int(contents.steps[-2]) if len(contents.steps) > 1 else -1
    return _cut(directory, header, contents, step)


def _cut(
    directory: Path, header: store.Header, contents: store.Contents, step: int
) -> store.Contents:
    table = contents.stream.slots
    records = np.flatnonzero((table["kind"] == slots.RECORD) & (table["step"] <= step))
    end = int(records[-1]) + 1 if len(records) else 0
    # Told again at a resume, a newest state comes after its record.
    while (
        end < len(table)
        and table["step"][end] == step
        and (table["kind"][end] in (slots.SIDE, slots.NEWEST))
    ):
        end += 1
    stream = replace(contents.stream, slots=table[:end])
    cut = store.contents_of(directory, header, stream)
    cut.tail.update(contents.tail)
    cut.mended.extend(contents.mended)
    return cut
