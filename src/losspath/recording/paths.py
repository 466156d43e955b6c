"""Paths: sequences of states, recorded or in memory."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from losspath.arguments import WHOLE, described
from losspath.errors import ArgumentError, PathError, StateIndexError
from losspath.files import digest_of

States = npt.NDArray[Any]


@runtime_checkable
class StateSequence(Protocol):
    """What geometry and analysis need of a path: T states of P numbers, read in blocks."""

    def __len__(self) -> int:
        """T."""

    @property
    def parameter_count(self) -> int:
        """P."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the states."""

    @property
    def digest(self) -> str:
        """Identifies the content."""

    def read(self, start: int, stop: int, out: States | None = None) -> States:
        """A copy of the states start … stop−1, of shape (stop−start, P), in `out` if given."""


class ArrayPath:
    """A path held in memory.

    Args:
        states: array (T, P) of floats.
    """

    def __init__(self, states: npt.ArrayLike) -> None:
        array = _as_array(states)
        if array.ndim != 2 or 0 in array.shape:
            raise PathError(
                f"expected states of shape (T, P), got {array.shape}; a row is one state, with all "
                "parameters in it"
            )
        if not np.issubdtype(array.dtype, np.floating):
            raise PathError(
                f"expected states of a floating-point dtype, got {array.dtype}; convert them by "
                f"{'.view(float)' if array.dtype.kind == 'c' else '.astype(float)'}"
            )
        # Half precisions widen exactly; torch lacks other byte orders and long doubles.
        single = np.dtype(np.float32) if array.dtype.itemsize <= 4 else np.dtype(np.float64)
        self._states = np.ascontiguousarray(array, single)

    def __len__(self) -> int:
        return len(self._states)

    @property
    def parameter_count(self) -> int:
        """P."""
        return int(self._states.shape[1])

    @cached_property
    def digest(self) -> str:
        """Identifies the content."""
        return digest_of(self._states)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the states."""
        return self._states.dtype

    def read(self, start: int, stop: int, out: States | None = None) -> States:
        """A copy of the states start … stop−1: see `Trajectory.read`."""
        start, stop, out = check_range(self, start, stop, out)
        if out is None:
            return self._states[start:stop].copy()
        out[:] = self._states[start:stop]
        return out

    def read_columns(self, start: int, stop: int, states: Sequence[int]) -> States:
        """(n, stop−start): a copy of the numbers start … stop−1 of some states."""
        return self._states[np.asarray(states, np.intp), start:stop]


def columns(
    path: StateSequence, start: int, stop: int, states: Sequence[int] | None = None
) -> States:
    """The numbers start … stop−1 of every state, or of some: an array (n, stop−start) of its own.

    Paths that can read a part of each state have a method ``read_columns``; of others whole states
    are read.

    Args:
        path: T states of P numbers.
        start: 0 ≤ start ≤ stop.
        stop: at most P.
        states: which; all by default.
    """
    chosen = range(len(path)) if states is None else states
    if hasattr(path, "read_columns"):
        found: States = path.read_columns(start, stop, chosen)
        return found
    found = np.empty((len(chosen), stop - start), path.dtype)
    row = np.empty((1, path.parameter_count), path.dtype)
    for place, index in enumerate(chosen):
        found[place] = path.read(index, index + 1, row)[0, start:stop]
    return found


def starts_of(path: StateSequence) -> dict[str, int]:
    """By the name of each run that a path is of, its first state; ``{"": 0}`` of a single one."""
    starts: dict[str, int] = getattr(path, "starts", {"": 0})
    return starts


def ends_of(starts: Sequence[int], count: int) -> list[int]:
    """The first and the last state of each run.

    Args:
        starts: the first state of each.
        count: how many states all have together.
    """
    lasts = [start - 1 for start in (*starts[1:], count)]
    return sorted({*starts, *lasts})


def state_index(index: int, states: int) -> int:
    """The place of a state that may be counted from the end.

    Raises:
        StateIndexError: there is none; it is an IndexError too, as iteration wants.
        ArgumentError: it is no whole number.
    """
    try:
        index = operator.index(index)
    except Exception:  # torch's tensors raise what they like
        raise ArgumentError(
            f"expected the index of a state as a whole number, got {described(index)}"
        ) from None
    if not -states <= index < states:
        raise StateIndexError(
            f"expected the index of one of {states:,} states, at most {states - 1:,}, got {index}"
        )
    return range(states)[index]


def state_written(text: str, count: int) -> int:
    """The place of a state that is given as a number, "first" or "last".

    Args:
        text: as given; a negative number counts from the end. The last of several runs is that
            of the last run.
        count: how many states there are.

    Raises:
        ArgumentError: there is no such state.
    """
    names = {"first": 0, "last": count - 1}
    try:
        index = names[text] if text in names else int(text)
    except ValueError:
        index = count
    if not -count <= index < count:
        raise ArgumentError(
            f"expected a state as a number from 0 to {count - 1} (negative: from the end), "
            f'"first" or "last", got {text!r}'
        )
    return index % count


def check_range(
    path: StateSequence, start: int, stop: int, out: States | None
) -> tuple[int, int, States | None]:
    """What `StateSequence.read` is asked for, as integers.

    Raises:
        ArgumentError: there are no such states, or they do not fit into `out`.
    """
    start, stop = WHOLE("start", start), WHOLE("stop", stop)
    if not 0 <= start <= stop <= len(path):
        raise ArgumentError(f"expected 0 ≤ start ≤ stop ≤ {len(path)}, got {start} and {stop}")
    shape = (stop - start, path.parameter_count)
    if out is not None and not (
        isinstance(out, np.ndarray) and (out.shape, out.dtype) == (shape, path.dtype)
    ):
        raise ArgumentError(
            f"expected an array {shape} of {path.dtype} to read into, got {described(out)}"
        )
    return start, stop, out


_EXPECTED = "expected a path as a Trajectory, or an array (T, P) of states"


def _as_array(states: Any) -> npt.NDArray[Any]:
    if isinstance(states, (str, bytes, PathLike)):
        raise PathError(f"{_EXPECTED}, got {states!r}; open a run by losspath.Trajectory(…)")
    if isinstance(states, (list, tuple)):
        rows = [_as_numpy(row) for row in states]
        lengths = sorted({row.shape for row in rows})
        if len(lengths) > 1:
            raise PathError(
                f"{_EXPECTED} that all have the same length, got states of shapes "
                f"{lengths[0]} and {lengths[-1]}"
            )
        return np.asarray(rows)
    return _as_numpy(states)


def _as_numpy(value: Any) -> npt.NDArray[Any]:
    try:
        if isinstance(value, torch.Tensor):
            narrow = value.is_floating_point() and value.element_size() < 4
            return (value.float() if narrow else value).detach().cpu().resolve_conj().numpy()
        array = np.asarray(value)
    except Exception as cause:
        raise PathError(
            f"{_EXPECTED}, got {type(value).__name__}, of which no array can be made: {cause}"
        ) from None
    if array.dtype.kind not in "biufc":
        raise PathError(f"{_EXPECTED}, got {type(value).__name__}; open a run by Trajectory(…)")
    return array
