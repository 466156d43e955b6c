"""Paths: sequences of states, recorded or in memory."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import PathError
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
        array = np.asarray(states)
        if array.ndim != 2 or 0 in array.shape:
            raise PathError(f"expected states of shape (T, P), got {array.shape}")
        if not np.issubdtype(array.dtype, np.floating):
            raise PathError(f"expected states of a floating-point dtype, got {array.dtype}")
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
        if out is None:
            return self._states[start:stop].copy()
        out[:] = self._states[start:stop]
        return out


def as_path(path: StateSequence | npt.ArrayLike) -> StateSequence:
    """A path as given, or an array (T, P) or tensor as a path.

    Raises:
        PathError: an array of another shape.
    """
    if isinstance(path, StateSequence):
        return path
    if isinstance(path, torch.Tensor):
        narrow = path.is_floating_point() and path.element_size() < 4
        return ArrayPath((path.float() if narrow else path).detach().cpu().numpy())
    return ArrayPath(path)
