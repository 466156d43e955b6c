"""Every error and warning of the package.

All errors that a user or a damaged file can cause derive from `LosspathError`, so that one
``except`` clause catches them and the command line can print each in one line. A message says what
was expected, what came, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LosspathError(Exception):
    """Base class of every error that the package raises on purpose."""


class ArgumentError(LosspathError, ValueError):
    """An argument is outside what the function accepts."""


class StateIndexError(ArgumentError, IndexError):
    """A path has no state of that index."""


class StoreError(LosspathError):
    """A directory or file of recorded data cannot be read or written."""


class DamagedError(StoreError):
    """Stored bytes are missing or are not the bytes that were written."""


class ExistsError(StoreError, FileExistsError):
    """A directory already holds a run, and the call did not say what to do with it."""


class BusyError(StoreError):
    """Another process is writing to the same place."""


class ModelError(LosspathError):
    """A model cannot be recorded, or is not the model that was recorded."""


class ObjectiveError(LosspathError):
    """A loss over a model and data is not well defined."""


class UnsupportedError(LosspathError):
    """A model's forward pass cannot be recorded as a graph of calls; the message says why."""


class WorkerError(LosspathError):
    """Worker processes were lost, or what they need cannot be sent to them."""


class PathError(LosspathError, ValueError):
    """A path has no plane: too few states, a constant path, or states that are not finite."""


class DataError(LosspathError):
    """A data set is missing, damaged, or not in a layout that can be read."""


class RunError(LosspathError):
    """A run of the command line cannot go on as asked."""


class MissingExtraError(LosspathError, ImportError):
    """Something needs an optional dependency that is not installed."""


class LosspathWarning(UserWarning):
    """Something was done, but a reader of the result should know about it."""


@contextmanager
def wrap_os_errors(action: str, error: type[LosspathError] = StoreError) -> Iterator[None]:
    """Raises `error` in place of an OSError (disk full, read-only, missing) during `action`.

    Args:
        action: what was being done, continuing the words "cannot", such as "write runs/a".
        error: the class of the error to raise.

    Raises:
        LosspathError: of the given class, chained to the OSError.
    """
    try:
        yield
    except LosspathError:
        raise
    except OSError as cause:
        reason = cause.strerror or str(cause) or type(cause).__name__
        raise error(f"cannot {action}: {reason}") from cause
