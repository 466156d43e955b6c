"""Who writes a run: its lock, and what becomes of open recorders when the process ends or forks.

A recorder that is not closed is closed as the interpreter exits, and on SIGTERM and SIGHUP where
nobody else handles them. In a forked child there is a copy of it without its thread: it writes
nothing, and leaves the lock to the parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import filelock

from losspath.errors import BusyError, wrap_os_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What ends a process unless it is handled: a scheduler's, and that of a terminal that is closed.
_ENDING = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

# A reader that asks whether a run is being written holds the lock for a moment.
_PATIENCE_SECONDS = 0.1


class OpenRun(Protocol):
    """A run that this process writes."""

    lock: RunLock

    def close_quietly(self) -> None:
        """Closes it and raises nothing."""

    def become_copy(self) -> None:
        """Called in a forked child."""


_open_runs: dict[int, OpenRun] = {}  # by their id
_children: set[int] = set()  # this process, once it closes its runs as a child ends


class RunLock:
    """The lock of a run, which goes with this process at the latest.

    Args:
        directory: the run.
        name: of the lock file in it.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._lock = filelock.FileLock(directory / name, thread_local=False)
        self._place: os.stat_result | None = None

    def is_of(self, place: os.stat_result) -> bool:
        """Whether it was taken of a directory, whatever that is called by now."""
        return self._place is not None and os.path.samestat(self._place, place)

    @property
    def is_held(self) -> bool:
        """Whether it was taken and not let go."""
        return self._lock.is_locked

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            BusyError: a recorder of this process has it, or another process.
            StoreError: the lock file cannot be made.
        """
        check_not_open(self._directory)
        with wrap_os_errors(f"lock {self._directory}"):
            try:
                self._lock.acquire(timeout=_PATIENCE_SECONDS, poll_interval=0.02)
            except filelock.Timeout:
                raise BusyError(
                    f"another process is writing to {self._directory}; wait for it to end, or "
                    "stop it"
                ) from None
            self._place = self._directory.stat()

    def release(self) -> None:
        """Lets go; can be called again."""
        self._lock.release(force=True)

    def leave_to_parent(self) -> None:
        """Forgets the lock in a forked child, where releasing it would take it from the parent."""
        context: Any = getattr(self._lock, "_context", None)
        descriptor = getattr(context, "lock_file_fd", None)
        if descriptor is not None:
            context.lock_file_fd = None
            with contextlib.suppress(OSError):
                os.close(descriptor)


def check_not_open(directory: Path) -> None:
    """Raises where this process records in a directory.

    Raises:
        BusyError: a recorder of this process has it.
    """
    try:
        place = directory.stat()
    except OSError:  # there is none
        return
    if any(run.lock.is_of(place) for run in list(_open_runs.values())):
        raise BusyError(
            f"a Recorder of this very process is recording to {directory}; close() that one first, "
            "or record in another directory"
        )


def is_locked(path: Path) -> bool:
    """Whether a living writer holds a lock file; False where the system does not tell.

    Nothing is written, and the lock is held for a moment only where nobody else has it.
    """
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def keep(run: OpenRun) -> None:
    """Notes that a run is open."""
    _open_runs[id(run)] = run
    _close_at_the_end_of_a_child()
    if _may_set_handlers():
        for number in _ENDING:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _close_and_end)


def let_go(run: OpenRun) -> None:
    """Notes that a run is no longer open; can be called again, and from any thread."""
    _open_runs.pop(id(run), None)
    if not _open_runs and _may_set_handlers():
        _restore_handler()


def _close_at_the_end_of_a_child() -> None:
    """Children of `multiprocessing` end without calling what `atexit` and weakref keep to call."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None or os.getpid() in _children:
        return
    from multiprocessing import util

    _children.add(os.getpid())
    util.Finalize(None, _close_all, exitpriority=100)


def _close_all() -> None:
    for run in list(_open_runs.values()):
        run.close_quietly()


def _may_set_handlers() -> bool:
    return threading.current_thread() is threading.main_thread()


def _restore_handler() -> None:
    for number in _ENDING:
        if signal.getsignal(number) is _close_and_end:
            signal.signal(number, signal.SIG_DFL)


def _close_and_end(number: int, frame: FrameType | None) -> None:
    _close_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _after_fork_in_child() -> None:
    for run in list(_open_runs.values()):
        run.become_copy()
    _open_runs.clear()
    with contextlib.suppress(ValueError):  # forked from another thread than the main one
        _restore_handler()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
