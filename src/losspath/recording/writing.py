"""The thread that writes what a recorder hands over, and what it writes with."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from losspath.errors import StoreError
from losspath.recording import chain, sides, slots, store
from losspath.recording.disk import Files
from losspath.recording.opening import Opened

# The time between two looks at what is there to be written.
LOOK_SECONDS = 0.25

# Rows are synced, and their pages given back, in portions of this size. A page cache that grows
# with the recording costs a training step more than the recording itself (see the design page).
SYNC_BYTES = 8 << 20

_FILES = store.DATA_FILES
_FILES_OF_ROWS = tuple(name for name in _FILES if name != store.NEWEST)


class Writer:
    """Follows a chain, and writes; keeps its first error for the training thread to find.

    Args:
        directory: the run.
        every: a row at every so many steps; with more than one there is a newest state.
        row_size: the numbers of a row.
        first: the segment that the chain begins with.
        opened: where recording goes on.
        commit_seconds: how long a state may wait until it is made durable.

    Attributes:
        error: the first error, after which nothing more is written; None as long as all is well.
        written: how many segments are written.
        durable: the ordinal of the last entry that is durable.
        flush_to: the ordinal of the entry that is to become durable at once.
        abandoned: whether the thread is to end where it is.
        done: called in the thread when a run that was closed is written.
    """

    def __init__(
        self,
        directory: Path,
        every: int,
        row_size: int,
        first: chain.Segment,
        opened: Opened,
        commit_seconds: float,
    ) -> None:
        self.error: BaseException | None = None
        self.written = self.durable = self.flush_to = 0
        self.abandoned = False
        self.done: Callable[[], object] = lambda: None
        self.thread = threading.Thread(target=self._run, name="losspath-writer", daemon=True)
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._segment, self._index = first, 0
        self._row_size, self._width = row_size, first.buffer.numbers.dtype.itemsize
        self._serial, self._generation = opened.serial, opened.generation
        self._names = dict(opened.names or {})
        self._records, self._rows = opened.records, first.base.rows
        self._place = opened.place
        self._commit_seconds = commit_seconds
        self._forms: dict[bytes, int] = {}
        self._pending: list[tuple[int, ...]] = []
        self._ordinal = self._step = 0
        self._oldest: float | None = None
        self._newest: tuple[chain.Entry, memoryview | bytes | None, int] | None = None
        self._unsynced = {store.STATES: 0, store.SIDES: 0, store.NEWEST: 0}
        self._saw_closing = self._ended = False
        self._is_begun = self._is_over = False
        # A state whose row was lost is told again as the newest, whatever `every` is.
        again = first.base.row_step >= 0 and not first.base.has_state
        self._files = Files(directory, _FILES if every > 1 or again else _FILES_OF_ROWS)
        self._sides_end = -(-self._files.size(store.SIDES) // 8) * 8

    def start(self) -> None:
        """Starts the thread."""
        self.thread.start()
        self._is_begun = True

    def abandon(self) -> None:
        """Ends the thread where it is, and closes the files; what is durable stays."""
        self.abandoned = True
        self.wake()
        while not self._is_over and self.thread in threading.enumerate():
            time.sleep(0.001)
        self._files.close()

    def has_ended(self) -> bool:
        """Whether the thread has ended."""
        # Not `is_alive`: interrupted at the wrong moment it takes a living thread for an ended one.
        return self._is_over or (self._is_begun and self.thread not in threading.enumerate())

    def wake(self) -> None:
        """Lets the thread look now; lost or needless calls do not matter."""
        self._wake.put(None)

    def wait_written(self, number: int) -> None:
        """Waits until so many segments are written, and raises what went wrong."""
        if self.written < number:
            chain.poll(lambda: self.written >= number or self.has_ended())
            self.check_ended()
        self.check()

    def check_ended(self) -> None:
        """Raises what ended the thread, if it has ended before its time."""
        self._is_over = self.has_ended()
        self.check()

    def check(self) -> None:
        """Raises what went wrong.

        Raises:
            StoreError: something could not be written.
        """
        if self.error is None and (self._ended or not self._is_over):
            return
        reason = str(self.error or "the thread that writes has ended")
        reason = reason or type(self.error).__name__
        raise StoreError(
            f"recording stopped: {reason}; what was durable before is intact in "
            f"{self._files.directory}"
        ) from self.error

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ended and not self.abandoned:
                self._look()
                if not self._ended:
                    self._rest()
            self._files.close()
            if self._ended:
                self.done()
        except BaseException as error:  # the training thread raises it
            if not self._ended:
                self.error = error
            self._files.close()
        finally:
            self._is_over = True

    def _rest(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=max(0.001, min(LOOK_SECONDS, self._commit_seconds / 6)))
            while True:
                self._wake.get_nowait()

    def _look(self) -> None:
        """Writes full segments, and all of the last one where it is due."""
        while (following := self._segment.next) is not None:
            self._write_items()
            if self._saw_closing:
                break
            self._keep_newest()
            self._segment, self._index = following, 0
            self.written += 1
            if self._is_due():
                self._commit()
        if self._is_due():
            self._write_items()
            self._commit()

    def _is_due(self) -> bool:
        entries = [i for i in self._segment.items[self._index :] if type(i) is chain.Entry]
        oldest = self._oldest
        if oldest is None:
            if not entries:
                return False
            oldest = entries[0].time
        return (
            self._saw_closing
            or time.monotonic() - oldest >= self._commit_seconds
            or self.flush_to > self.durable
            or any(entry.kind == chain.CLOSING for entry in entries)
        )

    def _write_items(self) -> None:
        """Writes what the segment holds by now; rows that follow each other at once."""
        items, buffer = self._segment.items, self._segment.buffer
        begin = end = row = 0  # of the rows that are gathered
        for item in items[self._index :]:
            if type(item) is chain.Entry:
                if item.begin >= 0 and item.row >= 0:
                    count = (end - begin) // self._row_size
                    if begin == end or item.begin != end or item.row != row + count:
                        self._write_rows(buffer, begin, end, row)
                        begin, row = item.begin, item.row
                    end = item.end
                self._take(item, buffer)
            elif isinstance(item, chain.SideBlob):
                self._write_blob(item)
            elif isinstance(item, chain.Piece):
                self._write_piece(buffer, item)
            self._index += 1
            if self._saw_closing:  # whatever comes after it was told that it came too late
                break
        self._write_rows(buffer, begin, end, row)

    def _write_rows(self, buffer: chain.Buffer, begin: int, end: int, row: int) -> None:
        if end > begin:
            raw = buffer.bytes(begin, end - begin)
            self._write(store.STATES, raw, row * self._row_size * self._width)

    def _write(self, name: str, raw: bytes | memoryview, offset: int) -> None:
        self._files.write(name, raw, offset)
        self._unsynced[name] += len(raw)
        if self._unsynced[name] >= SYNC_BYTES:
            self._sync(name)

    def _sync(self, name: str) -> None:
        if self._unsynced[name]:
            self._files.sync(name)
            self._unsynced[name] = 0

    def _write_piece(self, buffer: chain.Buffer, piece: chain.Piece) -> None:
        raw = buffer.bytes(piece.begin, piece.end - piece.begin)
        if piece.row >= 0:
            at = piece.row * self._row_size + piece.offset
            self._write(store.STATES, raw, at * self._width)
            return
        if piece.offset == 0 and self._newest is not None and self._oldest is not None:
            self._commit()  # its place is about to be written again
        at = (1 - self._place) * self._row_size + piece.offset
        self._write(store.NEWEST, raw, at * self._width)

    def _write_blob(self, blob: chain.SideBlob) -> None:
        if blob.slot is not None:
            return
        payload = sides.form_payload(blob.tensors, blob.gone)
        form = self._forms.get(payload)
        if form is None:
            digest = xxhash.xxh3_64_intdigest(payload)
            head = sides.head(sides.FORM, blob.step, len(payload), digest, 0)
            form = self._append_sides([head, payload])
            self._forms[payload] = form
        parts = [np.array(blob.digests, "<u8").tobytes(), *blob.contents]
        hasher = xxhash.xxh3_64()
        for part in parts:
            hasher.update(part)
        length = sum(map(len, parts))
        head = sides.head(sides.DATA, blob.step, length, hasher.intdigest(), form)
        offset = self._append_sides([head, *parts])
        blob.slot = (offset, hasher.intdigest(), length, form)
        blob.contents = ()

    def _append_sides(self, parts: list[bytes]) -> int:
        offset = at = self._sides_end
        parts.append(sides.padding(sum(map(len, parts))))
        small = sum(map(len, parts)) < 1 << 20
        for part in [b"".join(parts)] if small else parts:
            self._write(store.SIDES, part, at)
            at += len(part)
        self._sides_end = at
        return offset

    # -- entries --------------------------------------------------------------------------------

    def _take(self, entry: chain.Entry, buffer: chain.Buffer) -> None:
        """Turns an entry into slots that wait for the next commit."""
        self._ordinal = entry.ordinal
        if self._oldest is None:
            self._oldest = entry.time
        if entry.kind == chain.CLOSING:
            self._saw_closing = True
            self._step = entry.step
            return
        if entry.row >= 0:
            self._newest = None
            self._rows = entry.rows
            self._pending += self._side_slots(entry, 0)
        elif entry.has_state:
            row = buffer.bytes(entry.begin, self._row_size) if entry.begin >= 0 else None
            self._newest = entry, row, len(self._pending)
        if entry.kind == chain.AGAIN:
            return
        for name, value in entry.values:
            if name not in self._names:
                self._names[name] = len(self._names)
                self._pending += slots.name_rows(self._names[name], name)
            number = self._names[name]
            self._pending.append((slots.VALUE, 0, entry.step, number, 0, 0, slots.bits(value)))
        flags = slots.INITIAL if entry.kind == chain.INITIAL else 0
        loss = slots.bits(entry.loss)
        self._pending.append(
            (slots.RECORD, flags, entry.step, entry.row, entry.digest or 0, entry.key, loss)
        )
        self._records += 1

    def _side_slots(self, entry: chain.Entry, flags: int) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        for blob in entry.blobs:
            self._write_blob(blob)
            assert blob.slot is not None
            offset, digest, length, form = blob.slot
            rows.append((slots.SIDE, flags, entry.step, offset, digest, length, form))
        return rows

    def _keep_newest(self) -> None:
        """Copies the newest state, as its buffer will be used again."""
        if self._newest is not None and isinstance(self._newest[1], memoryview):
            entry, row, at = self._newest
            self._newest = entry, bytes(row or b""), at

    def _write_newest(self) -> None:
        """Writes the newest state beside the one before it, and its slots before its RECORD."""
        if self._newest is None:
            return
        entry, row, at = self._newest
        place = 1 - self._place
        if row is not None:
            self._write(store.NEWEST, row, place * len(row))
        rows = self._side_slots(entry, slots.OF_NEWEST)
        rows.append((slots.NEWEST, 0, entry.step, place, entry.digest or 0, entry.key, 0))
        self._pending[at:at] = rows
        self._newest = None
        self._place = place

    def _commit(self) -> None:
        """Makes everything that was taken durable, in the order that readers rely on."""
        self._files.check_there()
        self._write_newest()
        if self._saw_closing:
            self._files.cut(store.STATES, self._rows * self._row_size * self._width)
            self._unsynced[store.STATES] += 1
            self._pending.append((slots.CLOSE, 1, self._step, self._records, self._rows, 0, 0))
        for name in self._unsynced:
            self._sync(name)
        self._append_slots()
        self.durable = self._ordinal
        self._pending, self._oldest = [], None

    def _append_slots(self) -> None:
        raw = slots.sealed(self._pending, self._serial, self._generation).tobytes()
        try:
            for name in (store.RECORDS, store.RECORDS_COPY):
                self._files.write(name, raw, self._serial * slots.SLOT_BYTES)
                self._files.sync(name)
            self._serial += len(self._pending)
            self._ended = self._saw_closing
        except BaseException:
            if self._saw_closing:  # a run that could not be closed is not closed
                for name in (store.RECORDS, store.RECORDS_COPY):
                    with contextlib.suppress(StoreError):
                        end = self._serial + len(self._pending) - 1
                        self._files.cut(name, end * slots.SLOT_BYTES)
            raise
