"""How far the thread that writes a run has come: one value, that is replaced whole."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from losspath.recording import chain


@dataclass
class Progress:
    """What was written so far, and taken to be told of at the next commit.

    The thread works on a copy, which takes the place of the one before by one assignment. So what
    failed anywhere is done again from there: rows, pieces and slots lie where they lay.

    Attributes:
        segment: the one that is written, and `index` of its next item.
        written: how many segments are written.
        records, rows: how many there are.
        serial: of the next slot.
        pending: rows of slots that wait for the next commit; `names` are those that have a number.
        slots: their bytes, once all that they vouch for is durable; nothing else comes before them.
        place: of the newest state in its file.
        newest: the newest state that has no row, its numbers, and where in `pending` it belongs.
        ordinal, step: of the last entry that was taken.
        oldest: when the first of them was recorded; None where nothing waits.
        durable: the ordinal of the last entry that is durable.
        saw_closing: whether the run ends there, and `ended` whether that is written.
    """

    segment: chain.Segment
    records: int
    rows: int
    serial: int
    names: dict[str, int]
    place: int
    index: int = 0
    written: int = 0
    pending: list[tuple[int, ...]] = field(default_factory=list)
    slots: bytes = b""
    newest: tuple[chain.Entry, memoryview | bytes | None, int] | None = None
    ordinal: int = 0
    step: int = 0
    oldest: float | None = None
    durable: int = 0
    saw_closing: bool = False
    ended: bool = False

    def copy(self) -> Progress:
        """Another one, that can be changed."""
        return replace(self, pending=list(self.pending), names=dict(self.names))

    def keep_newest(self) -> None:
        """Copies the newest state, as its buffer will be used again."""
        if self.newest is not None and isinstance(self.newest[1], memoryview):
            entry, row, at = self.newest
            self.newest = entry, bytes(row or b""), at
