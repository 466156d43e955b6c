"""A run that is being recorded: the training thread's side."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from losspath.errors import ArgumentError, StoreError
from losspath.recording import chain, store
from losspath.recording.chain import Entry, SideBlob
from losspath.recording.keeping import keep_state, look_at_last, warn_of_last
from losspath.recording.locking import RunLock, keep, let_go
from losspath.recording.numbers import not_after
from losspath.recording.schedules import Schedule, When
from losspath.recording.settings import SettingsReader, changed
from losspath.recording.snapshots import LATE_SECONDS, Coming, Snapshot, call_now_and_then
from losspath.recording.state import StateReader
from losspath.recording.turns import Turns
from losspath.recording.watch import Comparison, Known, SideWatch
from losspath.recording.writing import Writer

# Large side tensors of a newest state stay in its entry, and are written if it is still the newest
# at the next commit, as long as they are no larger together than this.
_HELD_BYTES = 16 << 20
# A newest state that is too large to be copied at every step is kept this often (seconds).
_KEEP_SECONDS = 1.0
# One that is gathered from several processes is kept after so many times what gathering takes.
_KEEP_SHARE = 20


class Session:
    """Records states of a model in a run whose lock is held.

    Args:
        directory: the run.
        header: its header.
        state: reads the model.
        settings: reads the numbers that it is set to.
        lock: of the run.
        base: what is there.
        schedule: at which steps states are kept.
        sizes: how much waits to be written at a time.

    Attributes:
        writer: set before anything is recorded.
        closing: whether `close` was called.
        is_closed: whether it is done.
        is_copy: whether this is a copy in a forked process.
    """

    def __init__(
        self,
        directory: Path,
        header: store.Header,
        state: StateReader,
        settings: SettingsReader,
        lock: RunLock,
        base: Entry,
        schedule: Schedule,
        sizes: chain.Sizes,
    ) -> None:
        self.directory, self.lock = directory, lock
        self._keeps = schedule.keeps
        self._waits = isinstance(schedule, When)  # for the loss, to ask a function
        self._state = state
        self._watch = SideWatch(directory)
        self._settings = settings
        self.chain = chain.Chain(base, header.row_size, header.torch_dtype, sizes)
        self.first = self.chain.tail()
        self.closing = self.is_closed = self.is_copy = self._is_quiet = False
        self._turns = Turns()
        self._failures = 0
        self._coming: Coming | None = None
        self._late: threading.Thread | None = None
        self.writer: Writer

    def begin(self, writer: Writer, first_step: int = 0) -> None:
        """Starts the writer, and records the state that the model is in if it is not there.

        Args:
            writer: follows the chain.
            first_step: the step of the first state of a run that is begun.
        """
        self.writer = writer
        writer.done = self.let_go
        self.chain.wait, self.chain.wake = writer.wait_written, writer.wake
        del self.first  # the writer follows the chain, and what is written is let go
        writer.start()
        last = self.chain.last()
        if last.kind == chain.BASE and not last.has_state:
            kind = chain.INITIAL if last.row_step < 0 else chain.AGAIN
            tensors = self._state.tensors()
            step = first_step if kind == chain.INITIAL else max(last.step, 0)
            self._append(last, kind, step, float("nan"), {}, tensors)
            writer.flush_to = self.chain.last().ordinal
            writer.wake()

    @property
    def step(self) -> int:
        """The last step that was recorded."""
        coming = self._coming
        return max(0, self.chain.last().step if coming is None else coming.step)

    @property
    def unchanged(self) -> int:
        """At how many steps no parameter changed."""
        self._settle()
        return self.chain.last().unchanged

    def record(
        self,
        loss: float | torch.Tensor,
        step: int | None,
        values: Mapping[str, float | torch.Tensor],
    ) -> None:
        """Records a step; true once it returns, and absent or whole if it raises."""
        try:
            if not self._turns.take():
                raise StoreError(
                    "record() was called while record() runs in the same thread, as by a signal "
                    "handler; set a flag there, and record in the training loop"
                )
            tensors = self._state.tensors()
            self._take_over()
            last = self.chain.last()
            if step is None:
                step = last.step + 1
            elif step <= last.step:
                raise ArgumentError(not_after(last.step, step))
            snapshot = None if self._waits else self._state.snapshot(tensors)
            if snapshot is None or not snapshot.has_room(loss, values):
                numbers = {name: float(value) for name, value in values.items()}
                self._append(last, chain.RECORD, step, float(loss), numbers, tensors)
            else:
                in_row = self._keeps(step, last.row_step, last.step, math.nan)
                kept = in_row, self._settings.read(last.settings)
                row = self._state.row_on_device(tensors)
                self._coming = snapshot.capture(row, step, loss, values, kept)
                if self._late is None:
                    self._late = call_now_and_then(self._take_over_if_late)
            if self.closing:
                raise StoreError(f"the recorder was closed before step {step} was recorded")
        finally:
            self._turns.give()

    def _take_over(self) -> None:
        """Appends the step whose state was on its way from the device, if there is one."""
        coming, last = self._coming, self.chain.last()
        # An interrupt may have come between the two last lines.
        if coming is not None and coming.step > last.step:
            loss, values, row = coming.wait()
            self._append(last, chain.RECORD, coming.step, loss, values, [row], coming=coming)
        self._coming = None

    def _settle(self) -> None:
        """Takes over what is on its way, in a turn of its own; within another call it is that's."""
        try:
            if self._turns.take():
                self._take_over()
        finally:
            self._turns.give()

    def _take_over_if_late(self) -> bool:
        """Appends what no next call comes for; False once there is no more."""
        coming = self._coming
        if coming is not None and time.monotonic() - coming.time > LATE_SECONDS:
            self._settle()
        return not (self.closing or self.is_copy)

    def note(self, loss: float | None, step: int, values: dict[str, float]) -> None:
        """Records a step without its state, which is not known: of a log between two checkpoints.

        Args:
            loss: the loss whose gradient led to the step; None where it is not known either.
            step: after the last one.
            values: named numbers.
        """
        self._settle()
        last = self.chain.last()
        if step <= last.step:
            raise ArgumentError(not_after(last.step, step))
        segment, end = self.chain.with_room(0)
        self.chain.append(segment, chain.noted(last, loss, step, tuple(values.items()), end))

    def _append(
        self,
        last: Entry,
        kind: int,
        step: int,
        loss: float,
        values: dict[str, float],
        tensors: Iterable[torch.Tensor],
        looked: Comparison | None = None,
        coming: Coming | None = None,
    ) -> None:
        source: StateReader | Snapshot = self._state if coming is None else coming.snapshot
        now = time.monotonic() if coming is None else coming.time
        in_row = kind == chain.INITIAL if coming is None else coming.in_row
        if kind == chain.RECORD and coming is None:
            in_row = self._keeps(step, last.row_step, last.step, loss)
        known: Known = last.known
        blobs: tuple[SideBlob, ...] = ()
        # What is too large to be copied at every step is kept where it has to be, and by the clock.
        is_sharded = self._state.group is not None
        pause = (
            max(_KEEP_SECONDS, _KEEP_SHARE * self._state.seconds) if is_sharded else _KEEP_SECONDS
        )
        is_kept = in_row or kind == chain.AGAIN or now - last.kept_time >= pause
        are_sides_kept = True
        if source.sides or known.digests:
            looked = looked or self._watch.compare(source.sides, last.known)
            known, changes, gone = looked
            held = sum(len(change.content) for change in changes)
            are_sides_kept = is_kept or held <= _HELD_BYTES
            if are_sides_kept and (changes or gone):
                hand_over = in_row or held > _HELD_BYTES
                blobs = self.chain.blobs(step, changes, tuple(gone), hand_over)
        is_kept = is_kept or not (self.chain.in_pieces or is_sharded)
        has_state = is_kept and are_sides_kept
        row = last.rows if in_row else -1
        segment, begin, end, digest = keep_state(self.chain, row, has_state, source, tensors)
        named = tuple(values.items())
        settings = last.settings
        if kind != chain.AGAIN:  # which has no room for them: they wait for the next record
            settings = self._settings.read(settings) if coming is None else coming.settings
        if settings is not last.settings:
            named += changed(last.settings, settings)
        mark = self._state.mark() if digest is None else None
        is_same = kind == chain.RECORD and digest is not None and digest == last.digest
        # By position, as names would cost more than all else here, but for the copy.
        entry = Entry(
            kind,
            last.ordinal + 1,
            step,
            loss,
            row,
            last.rows + in_row,
            step if in_row else last.row_step,
            has_state,
            digest,
            begin,
            end,
            last.unchanged + is_same,
            known.key,
            known if in_row else last.known,
            blobs,
            named,
            settings,
            now,
            now if has_state else last.kept_time,
            mark,
        )
        self.chain.append(segment, entry)

    def refuse(self, error: Exception) -> None:
        """Nobody else has to know."""

    def leave(self) -> None:
        """Nobody else takes part."""

    # -- the end --------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Raises `StoreError` where nothing more can be recorded."""
        if self.is_copy:
            raise StoreError(
                f"this is a copy of the recorder of {self.directory} in a forked process, which "
                "cannot record; make the Recorder in the process that trains"
            )
        self.writer.check()
        if self.closing:
            raise StoreError("the recorder is closed")

    def flush(self) -> None:
        """Returns once everything recorded is durable."""
        try:
            if self._turns.take():  # else what runs is not recorded yet
                self._keep_last()
        finally:
            self._turns.give()
        ordinal = self.chain.last().ordinal
        writer = self.writer
        writer.flush_to = max(writer.flush_to, ordinal)
        writer.wake()
        chain.poll(lambda: writer.durable >= ordinal or writer.has_ended())
        writer.check_ended()

    def close(self) -> None:
        """Makes everything durable and lets go; can be called again, wherever it was interrupted.

        Raises:
            StoreError: something could not be written; called again, it is tried again.
        """
        if self.is_copy or self.is_closed:
            return
        self.closing = True
        if not self.lock.is_held and not self.writer.is_done:
            self._take_up()
        try:
            self._turns.take()  # or it is within a call, which ends with an error
            self.writer.try_again()
            is_kept, problem = self._append_end()
        finally:
            self._turns.give()
        self.writer.wake()
        if threading.current_thread() is self.writer.thread:
            return  # a garbage collection in the writer's own thread, which goes on to the end
        chain.poll(lambda: self.writer.has_ended() or (self._is_quiet and self.writer.is_stuck))
        if not self.writer.has_ended():
            return  # it goes on to the end once it may begin
        if not self.writer.is_done:
            self.writer.let_go()
        self.let_go()
        self.writer.check_ended()
        self.is_closed = True
        if problem is not None:
            raise problem
        if not is_kept:
            warn_of_last(self.directory, self.step, self._state.is_alone)

    def _take_up(self) -> None:
        """Takes the lock again that a failed `close` let go, if the run is as it was left."""
        self.writer.check_own()
        self.lock.acquire()
        try:
            self.writer.check_own()
        except BaseException:
            self.lock.release()
            raise

    def _append_end(self) -> tuple[bool, Exception | None]:
        """Appends what ends a run; whether its last state is kept, and what went wrong there."""
        problem: Exception | None = None
        is_kept = True
        if self.chain.last().kind != chain.CLOSING:
            try:
                is_kept = self._keep_last()
            except Exception as error:
                if self.writer.has_ended():  # as the disk is full: what came is told there
                    return True, None
                self._failures += 1
                if self._failures == 1:
                    raise  # to be called again
                problem = error  # what was recorded before is to be closed all the same
            self._append_closing()
        return is_kept, problem

    def _append_closing(self) -> None:
        segment = self.chain.tail()
        end = segment.items[-1].end if segment.items else 0
        self.chain.append(segment, chain.closing(segment.last(), end))

    def let_go(self) -> None:
        """Releases the lock; can be called again, from any thread."""
        if not self.is_copy:
            self.lock.release()
            let_go(self)

    def close_quietly(self) -> None:
        """Closes it and raises nothing: the process ends, or nobody has the recorder any more."""
        self._state.is_alone = self._is_quiet = True  # no other process knows of this
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(Exception):
                self.close()
            self.close()

    def become_copy(self) -> None:
        """Called in a forked child."""
        self.is_copy = True
        self.lock.leave_to_parent()

    def abandon(self) -> None:
        """Lets go of a run that could not be opened to the end."""
        self.closing = self.is_closed = True
        self.let_go()

    def keep_open(self) -> None:
        """Notes that the run is open, so that it is closed when the process ends."""
        keep(self)

    def _keep_last(self) -> bool:
        """Keeps the last state where it is not, if the model is still in it."""
        self._take_over()
        last = self.chain.last()
        is_kept, again = look_at_last(self._state, self._watch, last)
        if again is not None:
            self._append(last, chain.AGAIN, last.step, float("nan"), {}, *again)
        return is_kept
