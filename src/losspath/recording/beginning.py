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


def begin_session(
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
) -> Session:
    """Takes the lock of a run, opens it, and starts what writes it.

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

    Raises:
        ExistsError, BusyError, ModelError, StoreError: as `Recorder` says.
    """
    prepare_directory(directory, existing)
    session: Session | None = None
    writer: Writer | None = None
    lock = RunLock(directory, store.LOCK)
    try:
        lock.acquire()
        begins = existing != "resume" or (may_begin and not store.exists(directory))
        opened = open_run(
            *(directory, header, state, existing, None if begins else step),
            across_holes=across_holes,
            made_again=made_again,
        )
        session = Session(directory, header, state, settings, lock, opened.base, schedule, sizes)
        writer = Writer(
            *(directory, schedule != Every(), header.row_size, session.first),
            *(opened, commit_seconds),
            keeps_rows=not header.is_linked,
        )
        session.begin(writer, step or 0)
        session.keep_open()
    except BaseException:
        if writer is not None:
            writer.abandon()
        if session is not None:
            session.abandon()
        lock.release()
        raise
    return session
