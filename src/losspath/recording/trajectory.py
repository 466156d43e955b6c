"""Reading a recorded path back: every state checked before it is handed out."""

from __future__ import annotations

import operator
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ArgumentError, DamagedError, PathError, StoreError, wrap_os_errors
from losspath.files import digest_of
from losspath.parameters import Layout, load_parameters
from losspath.recording import store

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


class Trajectory:
    """A recorded path: T states θ_0 … θ_{T−1} of P parameters, and the losses between them.

    ``len(path)`` is T; ``path[i]`` is a copy of state i, of shape (P,); ``path[a:b]`` of shape
    (b−a, P). Every state's bytes are checked against the digest that was taken when it was
    recorded, the first time it is read. Reading never writes, and works while a recorder is still
    writing (what was committed when the trajectory was opened is seen).

    Args:
        directory: where a `Recorder` wrote.

    Raises:
        StoreError: there is no trajectory, it has no state yet, or it is of another version.
        DamagedError: recorded bytes are missing or are not those that were written.

    Example:
        >>> path = Trajectory("runs/mine")  # doctest: +SKIP
        >>> path[0].shape, path.losses.shape  # doctest: +SKIP
    """

    def __init__(self, directory: str | PathLike[str]) -> None:
        self.directory = Path(directory)
        self._header = store.read_header(self.directory)
        self._contents = store.read_contents(self.directory, self._header)
        if not len(self):
            raise StoreError(f"{self.directory} holds no recorded state yet")
        self._checked = np.zeros(len(self), bool)

    def __len__(self) -> int:
        return len(self._contents.records)

    def __repr__(self) -> str:
        return f"Trajectory({str(self.directory)!r}): {len(self):,} × {self.parameter_count:,}"

    def __reduce__(self) -> tuple[type[Trajectory], tuple[str]]:
        # Other processes open the files themselves.
        return type(self), (str(self.directory.resolve()),)

    @property
    def layout(self) -> Layout:
        """Names, shapes and places of the parameters (and buffers) in a stored row."""
        return self._header.layout

    @property
    def parameter_count(self) -> int:
        """P, the length of a state."""
        return self.layout.parameter_count

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the states."""
        return np.dtype(self._header.dtype)

    @property
    def every(self) -> int:
        """A state was stored at every so many steps."""
        return self._header.every

    @property
    def metadata(self) -> dict[str, Any]:
        """What was passed to the recorder as ``metadata``."""
        return self._header.metadata

    @property
    def closed(self) -> bool:
        """Whether the recorder was closed; False while it runs and after it was killed."""
        return self._contents.closed

    @property
    def tail_bytes(self) -> int:
        """Bytes on disk that no commit vouches for: a recording in progress, or one cut off."""
        return sum(self._contents.tail.values())

    @cached_property
    def steps(self) -> npt.NDArray[np.int64]:
        """(T,): the number of optimiser steps taken before each state."""
        steps: npt.NDArray[np.int64] = self._contents.records["step"].astype(np.int64)
        steps.flags.writeable = False
        return steps

    @property
    def all_losses(self) -> npt.NDArray[np.float64]:
        """One loss for each step taken, also where ``every`` left out states.

        ``all_losses[t]`` is the loss at θ_t whose gradient leads to the next state.
        """
        return self._contents.losses.copy()

    @cached_property
    def losses(self) -> npt.NDArray[np.float64]:
        """(T−1,): the recorded loss *at* state t, whose gradient leads on from it.

        With ``every=k`` these are the losses at the stored states; `all_losses` has the others.
        The last state has none.
        """
        losses: npt.NDArray[np.float64] = self._contents.losses[self.steps[:-1]]
        losses.flags.writeable = False
        return losses

    @cached_property
    def digest(self) -> str:
        """Identifies states, steps, losses and layout; the same however the run was cut up."""
        return digest_of(
            self.layout.to_json(), self._header.dtype, self._contents.records, self._contents.losses
        )

    @overload
    def __getitem__(self, index: int) -> States: ...
    @overload
    def __getitem__(self, index: slice) -> States: ...
    def __getitem__(self, index: int | slice) -> States:
        if isinstance(index, slice):
            start, stop, stride = index.indices(len(self))
            if stride == 1:
                return self.read(start, max(start, stop))
            chosen = range(start, stop, stride)
            rows = np.empty((len(chosen), self.parameter_count), self.dtype)
            for row, position in enumerate(chosen):
                self.read(position, position + 1, rows[row : row + 1])
            return rows
        position = operator.index(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"state {index} of a path of {len(self)} states")
        state: States = self.read(position, position + 1)[0]
        return state

    def read(self, start: int, stop: int, out: States | None = None) -> States:
        """A copy of the states start … stop−1.

        Args:
            start: first state, 0 ≤ start ≤ stop.
            stop: one past the last state, at most T.
            out: array (stop−start, P) of the path's dtype to read into: fresh memory costs more
                than reading, so a pass over the path uses the same again and again.

        Returns:
            Array of shape (stop−start, P).

        Raises:
            DamagedError: a state's bytes are not those that were recorded.
        """
        if not 0 <= start <= stop <= len(self):
            raise ArgumentError(f"expected 0 ≤ start ≤ stop ≤ {len(self)}, got {start} and {stop}")
        count = self.parameter_count
        if out is not None and (out.shape, out.dtype) != ((stop - start, count), self.dtype):
            raise ArgumentError(
                f"expected an array {(stop - start, count)} of {self.dtype} to read into, "
                f"got {out.shape} of {out.dtype}"
            )
        if out is None:
            out = np.empty((stop - start, count), self._header.row_dtype)
        if self.layout.row_size == count and out.flags.c_contiguous:
            rows = out
        else:
            rows = np.empty((stop - start, self.layout.row_size), self._header.row_dtype)
        self._read_checked(rows, start)
        if rows is not out:
            out[:] = rows[:, :count]
        return out

    def _read_checked(self, rows: States, start: int) -> None:
        """Fills whole rows, parameters and buffers, from state `start` on."""
        stop = start + len(rows)
        self._read_into(rows, start)
        unchecked = np.flatnonzero(~self._checked[start:stop])
        digests = self._contents.records["digest"]
        for position in unchecked.tolist():
            if store.row_digest(rows[position]) != digests[start + position]:
                raise DamagedError(
                    f"{self.directory} is damaged: state {start + position} has other bytes than "
                    f"were recorded; `losspath repair {self.directory}` cuts the run back to the "
                    "last good state"
                )
        self._checked[start:stop] = True

    def _read_into(self, rows: States, start: int) -> None:
        path = self.directory / store.STATES
        view = rows.reshape(-1).view(np.uint8).data
        with wrap_os_errors(f"read {path}"), path.open("rb", buffering=0) as file:
            file.seek(start * self._header.row_bytes)
            while view:
                count = file.readinto(view)
                if not count:
                    raise DamagedError(f"{path} is cut: a state that was recorded is missing")
                view = view[count:]

    def window(self, start: int = 0, stop: int | None = None, stride: int = 1) -> Window:
        """The states start, start+stride, … before stop, without reading them.

        Args:
            start: first state; negative counts from the end.
            stop: one past the last; None for the end.
            stride: take every so many.

        Returns:
            A path that `compute_surface` and the others take like this one.
        """
        if stride < 1:
            raise ArgumentError(f"expected a window with a stride ≥ 1, got {stride}")
        return Window(self, range(*slice(start, stop, stride).indices(len(self))))

    def buffers(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Copies of the floating-point buffers that the model had at state `index`, by name.

        Running statistics of normalisation layers are such; a state is the parameters alone.
        """
        position = range(len(self))[index]
        row = np.empty((1, self.layout.row_size), self._header.row_dtype)
        self._read_checked(row, position)
        return {
            entry.name: row[0, entry.place].reshape(entry.shape)
            for entry in self.layout.entries
            if entry.kind == "buffer"
        }

    def load_into(self, model: torch.nn.Module, index: int, *, buffers: bool = False) -> None:
        """Copies state `index` into a model's parameters; the store stays as it is.

        Args:
            model: the network that was recorded.
            index: which state; negative counts from the end.
            buffers: also copy the floating-point buffers of the moment, such as running statistics.

        Raises:
            ModelError: the model is not the network that was recorded.
        """
        model_layout = Layout.of(model, dtype="float64", allow_complex=True)
        self.layout.check_same(model_layout, str(self.directory), "the model")
        load_parameters(model, self[index])
        recorded = self.buffers(index) if buffers else {}
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in recorded:
                    real = torch.view_as_real(buffer) if buffer.is_complex() else buffer
                    real.copy_(torch.from_numpy(recorded[name]))


class Window:
    """Some states of a path, in order: see `Trajectory.window`."""

    def __init__(self, path: Trajectory, indices: range) -> None:
        if len(indices) == 0 or indices.step < 1:
            raise ArgumentError(
                f"expected a window that holds states of the path's {len(path)} in their order, "
                f"got {indices}"
            )
        self._path = path
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def layout(self) -> Layout:
        """The layout of the path."""
        return self._path.layout

    @property
    def parameter_count(self) -> int:
        """P."""
        return self._path.parameter_count

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """(T,): the number of optimiser steps taken before each state."""
        return self._path.steps[self.indices]

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """(T−1,): the recorded loss at each state but the last."""
        return self._path.losses[self.indices[:-1]]

    @property
    def all_losses(self) -> npt.NDArray[np.float64]:
        """One loss for each step of the whole run: see `Trajectory.all_losses`."""
        return self._path.all_losses

    @property
    def digest(self) -> str:
        """Identifies the content."""
        return digest_of(self._path.digest, [self.indices.start, len(self), self.indices.step])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the states."""
        return self._path.dtype

    def read(self, start: int, stop: int, out: States | None = None) -> States:
        """A copy of the window's states start … stop−1: see `Trajectory.read`."""
        chosen = self.indices[start:stop]
        if chosen.step == 1:
            return self._path.read(chosen.start, chosen.stop, out)
        if out is None:
            out = np.empty((len(chosen), self.parameter_count), self._path.dtype)
        for position, index in enumerate(chosen):
            self._path.read(index, index + 1, out[position : position + 1])
        return out


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
