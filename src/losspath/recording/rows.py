"""Reading the rows of a run, each checked the first time."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from losspath.errors import DamagedError, StoreError, wrap_os_errors
from losspath.recording import store
from losspath.recording.contents import Contents
from losspath.recording.newest import KEPT_BYTES
from losspath.recording.paths import States

_LINKED = "losspath.importing.links:LinkedRows"


def reader_of(
    directory: Path, header: store.Header, contents: Contents, newest: States | None
) -> RowReader:
    """What reads the states of a run: see `RowReader`."""
    kind = pkgutil.resolve_name(_LINKED) if header.is_linked else RowReader
    reader: RowReader = kind(directory, header, contents, newest)
    return reader


class RowReader:
    """Reads the states of a run as whole rows.

    Args:
        directory: the run.
        header: its header.
        contents: what is in it.
        newest: the row of a newest state that is written beside the others, if it was kept.

    Attributes:
        contents: what is in the run, and what it refers to.
    """

    def __init__(
        self, directory: Path, header: store.Header, contents: Contents, newest: States | None
    ) -> None:
        self._directory, self._header = directory, header
        self.contents, self._newest = contents, newest
        self._checked = np.zeros(len(contents.steps), bool)

    def check_newest(self) -> None:
        """Reads the last state, if it is no larger than what is kept of one."""
        if self._header.row_bytes <= KEPT_BYTES:
            row = np.empty((1, self._header.row_size), self._header.row_dtype)
            self.read(row, len(self._checked) - 1)

    def read(self, rows: States, start: int) -> None:
        """Fills whole rows from state `start` on, and checks those that were not checked yet.

        Args:
            rows: array (n, row size) of the rows' dtype.
            start: the first state.

        Raises:
            DamagedError: a state's bytes are missing or are not those that were recorded.
        """
        stop = start + len(rows)
        self._fill(rows, start)
        unchecked = np.flatnonzero(~self._checked[start:stop])
        digests = self.contents.digests
        for position in unchecked.tolist():
            if store.row_digest(rows[position]) != digests[start + position]:
                raise self._damage(f"state {start + position} has other bytes than were recorded")
        self._checked[start:stop] = True

    def columns(self, start: int, stop: int, states: Sequence[int]) -> States:
        """The numbers start … stop−1 of some states; states are checked whole the first time.

        Raises:
            DamagedError: a state's bytes are missing or are not those that were recorded.
        """
        header = self._header
        for index in [each for each in states if not self._checked[each]]:
            self.read(np.empty((1, header.row_size), header.row_dtype), index)
        found = np.empty((len(states), stop - start), header.row_dtype)
        offset = start * header.row_dtype.itemsize
        for row, index in zip(found, states, strict=True):
            number = int(self.contents.rows[index])
            if number < 0 and self._newest is not None:
                row[:] = self._newest[0, start:stop]
            else:
                self._read_into(row, number, offset)
        return found

    def _fill(self, rows: States, start: int) -> None:
        numbers = self.contents.rows[start : start + len(rows)]
        # Rows that follow each other on disk are read at once.
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            if len(part) == 0:
                continue
            first = int(numbers[part[0]])
            if first < 0 and self._newest is not None:
                rows[part[0]] = self._newest[0]
            else:
                self._read_into(rows[part[0] : part[-1] + 1], first)

    def _read_into(self, rows: States, number: int, offset: int = 0) -> None:
        """Reads from a row on, which is −1 − p for the newest state at place p.

        Args:
            rows: to read into.
            number: of the row.
            offset: the byte in it to begin at.
        """
        name, place = (store.STATES, number) if number >= 0 else (store.NEWEST, -1 - number)
        path = self._directory / name
        view = rows.reshape(-1).view(np.uint8).data
        with wrap_os_errors(f"read {path}"), path.open("rb", buffering=0) as file:
            file.seek(place * self._header.row_bytes + offset)
            while view:
                count = file.readinto(view)
                if not count:
                    raise self._damage(f"{name} is cut: a state that was recorded is missing")
                view = view[count:]

    def _damage(self, what: str) -> DamagedError:
        """What to raise where bytes are not those recorded; other states may be there by now."""
        try:
            now = store.read_contents(self._directory, store.read_header(self._directory)).digests
        except StoreError:
            now = self.contents.digests
        if not np.array_equal(now[: len(self._checked)], self.contents.digests):
            return DamagedError(
                f"{self._directory} has changed since this trajectory was opened (recorded anew, "
                f"gone on from an earlier state, or repaired): {what}; open it again by "
                "Trajectory(directory)"
            )
        return DamagedError(
            f"{self._directory} is damaged: {what}; `losspath repair {self._directory}` keeps "
            "every other state"
        )
