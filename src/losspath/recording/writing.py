"""The thread that writes what a recorder hands over, and what it writes with."""

from __future__ import annotations

import contextlib
import functools
import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import xxhash

from losspath.errors import StoreError
from losspath.recording import chain, sides, slots, store
from losspath.recording.disk import Files
from losspath.recording.opening import Opened
from losspath.recording.progress import Progress
from losspath.recording.syncing import Syncing

# The time between two looks at what is there to be written.
LOOK_SECONDS = 0.25
BEGIN_SECONDS = 5.0  # in which a thread begins, unless something keeps it from that

_FILES = store.DATA_FILES
_FILES_OF_ROWS = tuple(name for name in _FILES if name != store.NEWEST)


class Writer:
    """Follows a chain, and writes; keeps an error that stays for the training thread to find.

    What fails once is done again after a moment, from what the buffers hold still. When it fails
    again the thread ends, and `try_again` begins anew.

    Args:
        directory: the run.
        has_newest: whether there is a newest state, as not every state has a row.
        row_size: the numbers of a row.
        first: the segment that the chain begins with.
        opened: where recording goes on.
        commit_seconds: how long a state may wait until it is made durable.
        keeps_rows: whether rows are written, or only what vouches for them.

    Attributes:
        error: what ended the thread; None as long as all is well.
        flush_to: the ordinal of the entry that is to become durable at once.
        abandoned: whether the thread is to end where it is.
        done: called in the thread when a run that was closed is written.
    """

    def __init__(
        self,
        directory: Path,
        has_newest: bool,
        row_size: int,
        first: chain.Segment,
        opened: Opened,
        commit_seconds: float,
        keeps_rows: bool = True,
    ) -> None:
        self._keeps_rows = keeps_rows
        self.error: BaseException | None = None
        self.flush_to = 0
        self.abandoned = False
        self.done: Callable[[], object] = lambda: None
        self.thread = self._new_thread()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._row_size, self._width = row_size, first.buffer.numbers.dtype.itemsize
        self._generation = opened.generation
        self._commit_seconds = commit_seconds
        self._now = Progress(
            segment=first,
            records=opened.records,
            rows=first.base.rows,
            serial=opened.serial,
            names=dict(opened.names or {}),
            place=opened.place,
        )
        self._sizes: dict[str, int] = {}  # of the files, when they were let go
        self._is_begun = self._is_over = False
        self._runs, self._started = False, math.inf  # a line of it, and since when it may
        # A state whose row was lost is told again as the newest.
        again = first.base.row_step >= 0 and not first.base.has_state
        self._files = Files(directory, _FILES if has_newest or again else _FILES_OF_ROWS)
        self._syncing = Syncing(self._files)
        write = functools.partial(self._syncing.write, store.SIDES)
        self._sides = sides.SideWriter(write, self._files.size(store.SIDES))

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="losspath-writer", daemon=True)

    @property
    def written(self) -> int:
        """How many segments are written."""
        return self._now.written

    @property
    def durable(self) -> int:
        """The ordinal of the last entry that is durable."""
        return self._now.durable

    def start(self) -> None:
        """Starts the thread."""
        self._runs, self._started = False, time.monotonic()
        self.thread.start()
        self._is_begun = True

    def abandon(self) -> None:
        """Ends the thread where it is, and closes the files; what is durable stays."""
        self.abandoned = True
        self.wake()
        while not self._is_over and self.thread in threading.enumerate():
            time.sleep(0.001)
        self._files.close()

    @property
    def is_stuck(self) -> bool:
        """Whether the thread cannot begin, as in a garbage collection within `threading`'s lock."""
        return not self._runs and time.monotonic() - self._started > BEGIN_SECONDS

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

    @property
    def is_done(self) -> bool:
        """Whether a run that was closed is written to its end."""
        return self._now.ended

    def try_again(self) -> None:
        """Begins anew where an error ended the thread: the disk may have room by now."""
        if self._is_begun and self.has_ended() and not self._now.ended:
            self.error, self._is_over = None, False
            self.thread = self._new_thread()
            self.start()

    def let_go(self) -> None:
        """Notes how large the files are, so that what others do to them is seen."""
        self._sizes = self._files.sizes()

    def check_own(self) -> None:
        """Raises where somebody else recorded in the run after it was let go.

        Raises:
            StoreError: what is held still has no place there any more.
        """
        self._files.check_there()
        if self._sizes not in ({}, self._files.sizes()):
            raise StoreError(
                f"{self._files.directory} was changed after this recorder had failed, so what it "
                "still held cannot be added any more"
            )

    def check_ended(self) -> None:
        """Raises what ended the thread, if it has ended before its time."""
        self._is_over = self.has_ended()
        self.check()

    def check(self) -> None:
        """Raises what went wrong.

        Raises:
            StoreError: something could not be written.
        """
        if self.error is None and (not self._is_over or self._now.ended):
            return
        reason = str(self.error or "the thread that writes has ended")
        reason = reason or type(self.error).__name__
        raise StoreError(
            f"recording stopped: {reason}; what was durable before is intact in "
            f"{self._files.directory}, and close() tries to write the rest again"
        ) from self.error

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        failed, self._runs = False, True
        try:
            while not self._now.ended and not self.abandoned:
                try:
                    self._look()
                except Exception:
                    if failed or self._now.ended:
                        raise
                    failed = True
                    time.sleep(LOOK_SECONDS)  # it may have been for a moment
                    continue
                failed = False
                if not self._now.ended:
                    self._rest()
            self._files.close()
            if self._now.ended:
                self.done()
        except BaseException as error:  # the training thread raises it
            if not self._now.ended:
                self.error = error
        finally:
            self._is_over = True

    def _rest(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=max(0.001, min(LOOK_SECONDS, self._commit_seconds / 6)))
            while True:
                self._wake.get_nowait()

    def _look(self) -> None:
        """Writes full segments, and all of the last one where it is due."""
        self._syncing.mend(self._check_rows)
        now = self._now.copy()
        if now.slots:
            self._append_slots(now)
        while (following := now.segment.next) is not None and not now.ended:
            self._write_items(now)
            if now.saw_closing:
                break
            now.keep_newest()
            now.segment, now.index = following, 0
            now.written += 1
            self._now = now.copy()
            if self._is_due(now):
                self._commit(now)
        if not now.ended and self._is_due(now):
            self._write_items(now)
            self._commit(now)

    def _is_due(self, now: Progress) -> bool:
        entries = [i for i in now.segment.items[now.index :] if type(i) is chain.Entry]
        oldest = now.oldest
        if oldest is None:
            if not entries:
                return False
            oldest = entries[0].time
        return (
            now.saw_closing
            or time.monotonic() - oldest >= self._commit_seconds
            or self.flush_to > now.durable
            or any(entry.kind == chain.CLOSING for entry in entries)
        )

    def _write_items(self, now: Progress) -> None:
        """Writes what the segment holds by now; rows that follow each other at once."""
        if now.saw_closing:  # whatever comes after it was told that it came too late
            return
        items, buffer = now.segment.items, now.segment.buffer
        begin = end = row = 0  # of the rows that are gathered
        for item in items[now.index :]:
            if type(item) is chain.Entry:
                if item.begin >= 0 and item.row >= 0:
                    count = (end - begin) // self._row_size
                    if begin == end or item.begin != end or item.row != row + count:
                        self._write_rows(buffer, begin, end, row)
                        begin, row = item.begin, item.row
                    end = item.end
                self._take(now, item, buffer)
            elif isinstance(item, chain.SideBlob):
                self._write_blob(item)
            elif isinstance(item, chain.Piece):
                self._write_piece(now, buffer, item)
            now.index += 1
            if now.saw_closing:
                break
        self._write_rows(buffer, begin, end, row)

    def _write_rows(self, buffer: chain.Buffer, begin: int, end: int, row: int) -> None:
        if end > begin and self._keeps_rows:
            raw = buffer.bytes(begin, end - begin)
            self._syncing.write(store.STATES, raw, row * self._row_size * self._width)

    def _check_rows(self, name: str, begin: int) -> None:
        """Raises where a row has not the bytes any more that were written."""
        if name != store.STATES or not self._keeps_rows:
            return
        size = self._row_size * self._width
        for kind, _, step, row, digest, *_ in self._now.pending:
            if kind == slots.RECORD and row >= 0 and row * size >= begin:
                raw = self._files.read(store.STATES, size, row * size)
                if xxhash.xxh3_64_intdigest(raw) != digest:
                    raise StoreError(f"the disk lost the state of step {step}")

    def _write_piece(self, now: Progress, buffer: chain.Buffer, piece: chain.Piece) -> None:
        raw = buffer.bytes(piece.begin, piece.end - piece.begin)
        if piece.row >= 0 and not self._keeps_rows:
            return
        if piece.row >= 0:
            at = piece.row * self._row_size + piece.offset
            self._syncing.write(store.STATES, raw, at * self._width)
            return
        if piece.offset == 0 and now.newest is not None and now.oldest is not None:
            self._commit(now)  # its place is about to be written again
        at = (1 - now.place) * self._row_size + piece.offset
        self._syncing.write(store.NEWEST, raw, at * self._width)

    def _write_blob(self, blob: chain.SideBlob) -> None:
        if blob.slot is None:
            form = sides.form_payload(blob.tensors, blob.gone)
            blob.slot = self._sides.append(blob.step, form, blob.digests, blob.contents)
            blob.contents = ()

    # -- entries --------------------------------------------------------------------------------

    def _take(self, now: Progress, entry: chain.Entry, buffer: chain.Buffer) -> None:
        """Turns an entry into slots that wait for the next commit."""
        now.ordinal = entry.ordinal
        if now.oldest is None:
            now.oldest = entry.time
        if entry.kind == chain.CLOSING:
            now.saw_closing = True
            now.step = entry.step
            return
        if entry.row >= 0:
            now.newest = None
            now.rows = entry.rows
            now.pending += self._side_slots(entry, 0)
        elif entry.has_state:
            row = buffer.bytes(entry.begin, self._row_size) if entry.begin >= 0 else None
            now.newest = entry, row, len(now.pending)
        if entry.kind == chain.AGAIN:
            return
        for name, value in entry.values:
            if name not in now.names:
                now.names[name] = len(now.names)
                now.pending += slots.name_rows(now.names[name], name)
            number = now.names[name]
            now.pending.append((slots.VALUE, 0, entry.step, number, 0, 0, slots.bits(value)))
        flags = slots.INITIAL if entry.kind == chain.INITIAL else 0
        flags |= slots.NO_DIGEST if entry.digest is None else 0
        flags |= slots.NO_LOSS if entry.loss is None else 0
        loss = slots.bits(math.nan if entry.loss is None else entry.loss)
        now.pending.append(
            (slots.RECORD, flags, entry.step, entry.row, entry.digest or 0, entry.key, loss)
        )
        now.records += 1

    def _side_slots(self, entry: chain.Entry, flags: int) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        for blob in entry.blobs:
            self._write_blob(blob)
            assert blob.slot is not None
            offset, digest, length, form = blob.slot
            rows.append((slots.SIDE, flags, entry.step, offset, digest, length, form))
        return rows

    def _write_newest(self, now: Progress) -> None:
        """Writes the newest state beside the one before it, and its slots before its RECORD."""
        if now.newest is None:
            return
        entry, row, at = now.newest
        place = 1 - now.place
        if row is not None:
            self._syncing.write(store.NEWEST, row, place * len(row))
        rows = self._side_slots(entry, slots.OF_NEWEST)
        rows.append((slots.NEWEST, 0, entry.step, place, entry.digest or 0, entry.key, 0))
        now.pending[at:at] = rows
        now.newest = None
        now.place = place

    def _commit(self, now: Progress) -> None:
        """Makes everything that was taken durable, in the order that readers rely on."""
        self._files.check_there()
        self._write_newest(now)
        if now.saw_closing:
            end = now.rows * self._row_size * self._width if self._keeps_rows else 0
            self._syncing.cut(store.STATES, end)
            now.pending.append((slots.CLOSE, 1, now.step, now.records, now.rows, 0, 0))
        self._syncing.sync()
        now.slots = slots.sealed(now.pending, now.serial, self._generation).tobytes()
        self._now = now.copy()
        self._append_slots(now)

    def _append_slots(self, now: Progress) -> None:
        """Appends slots of which all is durable; done again, it writes the same bytes."""
        try:
            for name in (store.RECORDS, store.RECORDS_COPY):
                self._files.write(name, now.slots, now.serial * slots.SLOT_BYTES)
                self._files.sync(name)
            now.serial += len(now.pending)
            now.durable, now.ended = now.ordinal, now.saw_closing
            now.pending, now.slots, now.oldest = [], b"", None
            self._now = now.copy()
        except BaseException:
            if self._now.saw_closing and not self._now.ended:  # what could not be closed is not
                for name in (store.RECORDS, store.RECORDS_COPY):
                    with contextlib.suppress(StoreError):
                        end = self._now.serial + len(self._now.pending) - 1
                        self._files.cut(name, end * slots.SLOT_BYTES)
            raise
