"""The chain that a recorder hands states over by: one list grows, and nothing else is shared.

The training thread appends to the last segment of a chain, the writer follows with a cursor of its
own. A `record` call becomes true by exactly one operation, the append of an `Entry`, which holds
everything that later calls depend on. What an exception leaves behind before it, copied bytes and
pieces of a row, is overwritten by the next attempt. So an exception may come at any line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from losspath.recording.settings import Settings
from losspath.recording.sides import Described
from losspath.recording.watch import Change, Known

BUFFERS = 3  # go round: one being filled, one waiting, one being written
_POLL_SECONDS = 0.0005

# Side tensors from this size on go into a blob of their own. Those of a state that has a row are
# handed over before its entry.
_LARGE_BYTES = 1 << 20

# What an entry is.
BASE, INITIAL, RECORD, AGAIN, CLOSING = range(5)


class Sizes(NamedTuple):
    """How much waits to be written at a time.

    Attributes:
        buffer: the most bytes of a buffer.
        preferred: the bytes of a buffer of small rows; side tensors that wait beside it.
        items: the most rows of a buffer.
    """

    buffer: int = 16 << 20
    preferred: int = 4 << 20
    items: int = 512


class Buffer:
    """Room for rows, with the views that rows are copied and hashed through made once.

    Making a view costs a training step as much as copying a tenth of a small network through it.

    Args:
        row_size: the numbers of a row.
        size: the numbers of the buffer; fewer than a row's where rows go through in pieces.
        dtype: the rows' dtype.

    Attributes:
        numbers: all of it.
        rows: the whole rows that find room in it.
        row_bytes: the bytes of each.
    """

    def __init__(self, row_size: int, size: int, dtype: torch.dtype) -> None:
        # Memory made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            self.numbers = torch.empty(size, dtype=dtype, device="cpu")
            self._bytes = self.numbers.view(torch.uint8).numpy().data
            begins = range(0, size - row_size + 1, row_size)
            self.rows = [self.numbers[begin : begin + row_size] for begin in begins]
            self.row_bytes = [self.bytes(begin, row_size) for begin in begins]

    def bytes(self, begin: int, count: int) -> memoryview:
        """The bytes of `count` numbers from `begin` on."""
        width = self.numbers.dtype.itemsize
        return self._bytes[begin * width : (begin + count) * width]


class Piece(NamedTuple):
    """A part of a row that is larger than a buffer.

    Attributes:
        row: the number of its row; −1 for the newest state.
        offset: where in the row, in numbers.
        begin: where in the buffer.
        end: where in the buffer it ends.
    """

    row: int
    offset: int
    begin: int
    end: int


class SideBlob:
    """Side tensors that go into one blob; the writer notes where it put them.

    Args:
        step: of the state.
        tensors: what they are.
        digests: the digest of each.
        contents: the bytes of each.
        gone: names that are gone.
        end: where the last row in the buffer ends, as of everything in a segment.
    """

    def __init__(
        self,
        step: int,
        tensors: tuple[Described, ...],
        digests: tuple[int, ...],
        contents: tuple[bytes, ...],
        gone: tuple[str, ...],
        end: int,
    ) -> None:
        self.step, self.tensors, self.digests, self.contents = step, tensors, digests, contents
        self.gone, self.end = gone, end
        self.nbytes = sum(map(len, contents))
        self.slot: tuple[int, int, int, int] | None = None  # offset, digest, length, form


class Entry(NamedTuple):
    """A `record` call, whole.

    Attributes:
        kind: what it is: BASE for what was there before, INITIAL, RECORD, AGAIN for the newest
            state told once more, or CLOSING.
        ordinal: how many entries there are up to it.
        step: its step.
        loss: the loss that led to it; None where it is not known.
        row: the number of its row; −1 for none.
        rows: how many rows there are up to it.
        row_step: the step of the last of them.
        has_state: whether its state is kept, in a row or as the newest.
        digest: of its row; None where that of what was there before is not known.
        begin: where its row is in the buffer; −1 where it went through in pieces or is not kept.
        end: where in the buffer all up to it ends.
        unchanged: how many records up to it left all parameters as they were.
        key: of its side tensors.
        known: the side tensors as the last row has them.
        blobs: those that differ from the last row's.
        values: named numbers.
        settings: plain numbers that modules hold.
        time: when it was recorded, as `time.monotonic` counts.
        kept_time: when a state was last kept.
        mark: of a state that was neither kept nor digested, what tells whether it is still there.
    """

    kind: int
    ordinal: int
    step: int
    loss: float | None = 0.0
    row: int = -1
    rows: int = 0
    row_step: int = -1
    has_state: bool = False
    digest: int | None = None
    begin: int = -1
    end: int = 0
    unchanged: int = 0
    key: int = 0
    known: Known = Known()
    blobs: tuple[SideBlob, ...] = ()
    values: tuple[tuple[str, float], ...] = ()
    settings: Settings = ()
    time: float = 0.0
    kept_time: float = 0.0
    mark: int | None = None


def noted(
    last: Entry, loss: float | None, step: int, values: tuple[tuple[str, float], ...], end: int
) -> Entry:
    """What is known of a step without its state, after the last entry."""
    return last._replace(
        kind=RECORD,
        ordinal=last.ordinal + 1,
        step=step,
        loss=loss,
        row=-1,
        has_state=False,
        digest=None,
        begin=-1,
        end=end,
        blobs=(),
        values=values,
        time=time.monotonic(),
        mark=None,
    )


def closing(last: Entry, end: int) -> Entry:
    """The end of a run, after the last entry."""
    return last._replace(
        kind=CLOSING,
        ordinal=last.ordinal + 1,
        row=-1,
        begin=-1,
        end=end,
        blobs=(),
        values=(),
        time=time.monotonic(),
    )


Item = Piece | SideBlob | Entry


class Segment:
    """Items whose rows are in one buffer.

    Args:
        number: its place in the chain.
        buffer: for its rows.
        base: the last entry before it.
    """

    def __init__(self, number: int, buffer: Buffer, base: Entry) -> None:
        self.number, self.buffer, self.base = number, buffer, base
        self.items: list[Item] = []
        self.next: Segment | None = None
        self.side_bytes = 0  # that wait in it, or more

    def last(self) -> Entry:
        """The last entry in it or before it."""
        items = self.items
        if items and type(items[-1]) is Entry:  # nearly always, and asked at every step
            return items[-1]
        return next((item for item in reversed(items) if type(item) is Entry), self.base)


class Chain:
    """The training thread's end of a chain.

    Args:
        base: what was there before.
        row_size: the numbers of a row.
        dtype: the rows' dtype.
        sizes: of its buffers.

    Attributes:
        row_size: the numbers of a row.
        in_pieces: whether rows are larger than a buffer.
        wait: returns once so many segments are written.
        wake: tells the writer that a segment is full.
    """

    def __init__(self, base: Entry, row_size: int, dtype: torch.dtype, sizes: Sizes) -> None:
        self.row_size, self._dtype, self._sizes = row_size, dtype, sizes
        row_bytes = row_size * dtype.itemsize
        # Whole rows; a row that is larger than a buffer goes through in pieces.
        rows = min(max(1, sizes.preferred // row_bytes), sizes.buffer // row_bytes, sizes.items)
        self.in_pieces = rows == 0
        self._size = rows * row_size or max(1, sizes.buffer // dtype.itemsize)
        self._buffers: list[Buffer | None] = [None] * BUFFERS
        self._segment = Segment(0, self._buffer(0), base)
        self.wait: Callable[[int], None] = lambda number: None
        self.wake: Callable[[], None] = lambda: None

    def _buffer(self, number: int) -> Buffer:
        buffer = self._buffers[number % BUFFERS]
        if buffer is None:
            buffer = Buffer(self.row_size, self._size, self._dtype)
            self._buffers[number % BUFFERS] = buffer
        return buffer

    def tail(self) -> Segment:
        """The last segment."""
        segment = self._segment
        while (following := segment.next) is not None:
            segment = following
        self._segment = segment
        return segment

    def last(self) -> Entry:
        """The last entry."""
        segment = self._segment
        return (segment if segment.next is None else self.tail()).last()

    def with_room(self, numbers: int) -> tuple[Segment, int]:
        """The last segment and where in its buffer there is room; waits for a buffer if need be.

        Args:
            numbers: how many are to find room in one piece.
        """
        segment = self._segment
        if segment.next is not None:
            segment = self.tail()
        items = segment.items
        end = items[-1].end if items else 0
        full = end + numbers > self._size or segment.side_bytes > self._sizes.preferred
        if full or len(items) >= self._sizes.items:
            return self.advance(segment), 0
        return segment, end

    def advance(self, segment: Segment) -> Segment:
        """Begins a new segment after the last one."""
        number = segment.number + 1
        self.wait(number + 1 - BUFFERS)  # whoever had the buffer before must be written
        new = Segment(number, self._buffer(number), segment.last())
        segment.next = new
        self.wake()
        return new

    def append(self, segment: Segment, item: Item) -> None:
        """Hands something over; of an entry, the one operation that makes it true."""
        if type(item) is SideBlob:
            segment.side_bytes += item.nbytes
        elif type(item) is Entry and item.blobs:
            segment.side_bytes += sum(blob.nbytes for blob in item.blobs)
        segment.items.append(item)

    def blobs(
        self, step: int, changes: list[Change], gone: tuple[str, ...], hand_over: bool
    ) -> tuple[SideBlob, ...]:
        """Blobs of what changed; large ones are handed over before their entry, if at all.

        So few wait at a time. They are written wherever they are, and of a state that another takes
        the place of in vain.
        """
        blobs: list[SideBlob] = []
        small: list[Change] = []
        for change in changes:
            is_large = len(change.content) >= _LARGE_BYTES
            part = [change] if is_large else [*small, change]
            if is_large or sum(len(each.content) for each in part) >= _LARGE_BYTES:
                segment, end = self.with_room(0) if hand_over else (None, 0)
                blobs.append(_blob(step, part, (), end))
                if segment is not None:
                    self.append(segment, blobs[-1])
                part = []
            if not is_large:
                small = part
        if small or gone:
            blobs.append(_blob(step, small, gone, 0))
        return tuple(blobs)


def _blob(step: int, changes: list[Change], gone: tuple[str, ...], end: int) -> SideBlob:
    return SideBlob(
        step,
        tuple(change.described for change in changes),
        tuple(change.digest for change in changes),
        tuple(change.content for change in changes),
        gone,
        end,
    )


def poll(reached: Callable[[], bool]) -> None:
    """Waits until something holds; an exception may come at any time."""
    while not reached():
        time.sleep(_POLL_SECONDS)
