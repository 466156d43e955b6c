"""Beginning to record in a directory, or going on there."""

from __future__ import annotations

from pathlib import Path

from losspath.recording import chain, store
from losspath.recording.locking import RunLock
from losspath.recording.opening import Existing, open_run, prepare_directory
from losspath.recording.schedules import Every, Schedule
from losspath.recording.session import Session
from losspath.recording.settings import SettingsReader
from losspath.recording.state import StateReader
from losspath.recording.writing import Writer


class Beginning:
    """What is taken and started as a recording begins, and let go where that fails.

    Args:
        directory: the run; begun if there is none.
        header: what is to be recorded.
        state: reads the model.
        settings: reads the numbers that it is set to.
        schedule: at which steps states are kept.
        existing: what to do with a run that is there.
        step: the step that the model is at.
        sizes: how much waits to be written at a time.
        commit_seconds: how long a state may wait until it is made durable.
        across_holes: whether to go on from a step after states that were lost.
        made_again: the caller makes states after `step` again, the same ones, so they are cut off.
        may_begin: whether a run is begun at `step` where there is none to resume.
    """

    def __init__(
        self,
        directory: Path,
        header: store.Header,
        state: StateReader,
        settings: SettingsReader,
        schedule: Schedule,
        existing: Existing,
        step: int | None,
        *,
        sizes: chain.Sizes,
        commit_seconds: float,
        across_holes: bool = False,
        made_again: bool = False,
        may_begin: bool = False,
    ) -> None:
        self._directory, self._header, self._state = directory, header, state
        self._settings, self._schedule = settings, schedule
        self._existing, self._step = existing, step
        self._sizes, self._commit_seconds = sizes, commit_seconds
        self._across_holes, self._made_again = across_holes, made_again
        self._may_begin = may_begin
        self._session: Session | None = None
        self._writer: Writer | None = None
        self._lock = RunLock(directory, store.LOCK)

    def begin(self) -> Session:
        """Takes the lock of the run, opens it, and starts what writes it.

        Raises:
            ExistsError, BusyError, ModelError, StoreError: as `Recorder` says.
        """
        directory, header, existing = self._directory, self._header, self._existing
        prepare_directory(directory, existing)
        self._lock.acquire()
        begins = existing != "resume" or (self._may_begin and not store.exists(directory))
        opened = open_run(
            *(directory, header, self._state, existing, None if begins else self._step),
            across_holes=self._across_holes,
            made_again=self._made_again,
        )
        session = self._session = Session(
            *(directory, header, self._state, self._settings),
            *(self._lock, opened.base, self._schedule, self._sizes),
        )
        self._writer = Writer(
            *(directory, self._schedule != Every(), header.row_size, session.first),
            *(opened, self._commit_seconds),
            keeps_rows=not header.is_linked,
        )
        session.begin(self._writer, self._step or 0)
        session.keep_open()
        return session

    def abandon(self) -> None:
        """Lets go of all that was taken, wherever it ended; what is durable stays."""
        if self._writer is not None:
            self._writer.abandon()
        if self._session is not None:
            self._session.abandon()
        self._lock.release()
