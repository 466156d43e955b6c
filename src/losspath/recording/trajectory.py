"""Reading a recorded path back: every state checked before it is handed out."""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from losspath.arguments import MODEL, WHOLE, checked, file, flag, optional
from losspath.errors import ArgumentError, StoreError
from losspath.files import digest_of
from losspath.parameters import Layout, named_parameters
from losspath.recording import slots, store
from losspath.recording.arrays import as_array, read_only
from losspath.recording.joint import JointPath, as_path, as_run
from losspath.recording.loading import check_not_lost, load_state
from losspath.recording.newest import read_run
from losspath.recording.notes import notes_of
from losspath.recording.paths import (
    ArrayPath,
    States,
    StateSequence,
    check_range,
    starts_of,
    state_index,
)
from losspath.recording.rows import reader_of
from losspath.recording.settings import MARK
from losspath.recording.sketch import Sketch, check_whole
from losspath.recording.window import Window

__all__ = ["ArrayPath", "JointPath", "StateSequence", "Trajectory", "Window"]
__all__ += ["as_path", "as_run", "starts_of"]


class Trajectory:
    """A recorded path: T states θ_0 … θ_{T−1} of P parameters, and the losses between them.

    ``len(path)`` is T; ``path[i]`` is a copy of state i, of shape (P,); ``path[a:b]`` of shape
    (b−a, P). Every state's bytes are checked against the digest that was taken when it was
    recorded, the first time it is read. Reading never writes, and works while a recorder is still
    writing (what was durable when the trajectory was opened is seen). Runs of the first format are
    read like those of the second.

    Args:
        directory: where a `Recorder` wrote.

    Raises:
        StoreError: there is no trajectory, it has no state yet, or it is of another version.
        DamagedError: recorded bytes are missing or are not those that were written.

    Example:
        >>> path = Trajectory("runs/mine")  # doctest: +SKIP
        >>> path[0].shape, path.losses.shape  # doctest: +SKIP
    """

    @checked(directory=file)
    def __init__(self, directory: str | PathLike[str]) -> None:
        self.directory = Path(directory).absolute()  # the process may go elsewhere
        self._header = store.read_header(self.directory)
        found = read_run(self.directory, self._header)
        self._contents, self._newest, self._is_behind = found
        if not len(self):
            raise StoreError(f"{self.directory} holds no recorded state yet")
        self._rows = reader_of(self.directory, self._header, self._contents, self._newest)
        if not self.closed and self._newest is None and self._contents.rows[-1] < 0:
            self._rows.check_newest()

    def __len__(self) -> int:
        return len(self._contents.steps)

    def __repr__(self) -> str:
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        size = f"{len(self):,} × {self.parameter_count:,}"
        return f"Trajectory({str(self.directory)!r}): {size}{notes}"

    def __reduce__(self) -> tuple[type[Trajectory], tuple[str]]:
        # Other processes open the files themselves.
        return type(self), (str(self.directory.resolve()),)

    @property
    def layout(self) -> Layout:
        """Names, shapes and places of the parameters in a state, or in what it is a sketch of."""
        return self._header.layout

    def layout_in(self, names: Container[str]) -> Layout:
        """The layout, with its parameters called as in a network whose parameters these are.

        It is `layout`, but for runs of the first format, or of checkpoints, of a network whose only
        child is called ``module``, as what DDP and DataParallel add is.

        Raises:
            PathError: states are sketches, that no parameters can be made of.
        """
        check_whole(self)
        return self._header.layout_in(names)

    @property
    def parameter_count(self) -> int:
        """P, the length of a state; of a sketch where the run keeps those."""
        return self.sketch.size if self.sketch else self.layout.parameter_count

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the states."""
        return self._header.state_dtype

    @property
    def sketch(self) -> Sketch | None:
        """What states were projected by, where the run keeps sketches of them; None otherwise."""
        return self._header.sketch

    @property
    def is_linked(self) -> bool:
        """Whether states are in checkpoints that the run refers to, and not in itself."""
        return self._header.is_linked

    @property
    def is_rounded(self) -> bool:
        """Whether states were rounded to bfloat16, from parameters of more digits."""
        return self._header.is_rounded

    @property
    def every(self) -> int:
        """A state was stored at every so many steps."""
        return self._header.every

    @property
    def schedule(self) -> dict[str, Any] | None:
        """Which states were stored, where it is not one at `every` so many steps."""
        return self._header.schedule

    @property
    def format_version(self) -> int:
        """The version of the format that the run is in."""
        return self._header.version

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
        """Bytes on disk that nothing vouches for: a recording in progress, or one cut off."""
        return sum(self._contents.tail.values())

    @property
    def unchanged_steps(self) -> int:
        """At how many steps no parameter changed, as where mixed precision skips a step."""
        return self._contents.unchanged

    @property
    def holes(self) -> tuple[int, ...]:
        """Indices i such that states between i and i+1 were lost; a repair leaves such holes."""
        return self._contents.holes

    @property
    def notes(self) -> list[str]:
        """One line for each thing that who looks at a picture of this path must know.

        None for a run that is whole and closed.
        """
        return notes_of(self, self._contents, self._is_behind, len(self._without_sides))

    @cached_property
    def steps(self) -> npt.NDArray[np.int64]:
        """(T,): the step of each state: how many optimiser steps were taken before it.

        Where steps were given to `Recorder.record`, they are those.
        """
        return read_only(self._contents.steps)

    @property
    def all_losses(self) -> npt.NDArray[np.float64]:
        """(M,): one loss for each call of `Recorder.record`, also where ``every`` left out states.

        ``all_losses[t]`` is the loss whose gradient led to the state at step ``loss_steps[t]``.
        """
        return self._contents.all_losses.copy()

    @property
    def loss_steps(self) -> npt.NDArray[np.int64]:
        """(M,): the step that each of `all_losses` led to."""
        return self._contents.loss_steps.copy()

    @cached_property
    def losses(self) -> npt.NDArray[np.float64]:
        """(T−1,): the recorded loss *at* state t, whose gradient leads on from it.

        It is the one of the first `Recorder.record` after the state; NaN where that was lost. With
        ``every=k`` these are the losses at the stored states; `all_losses` has the others. The last
        state has none.
        """
        return read_only(self._contents.losses)

    @property
    def values(self) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """Named numbers that were passed to `Recorder.record`: steps and values by name."""
        return {
            name: (steps.copy(), values.copy())
            for name, (steps, values) in self._contents.values.items()
            if not name.startswith(MARK)
        }

    @property
    def settings(self) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """Numbers and flags that modules of the user's own held as plain attributes, by name.

        The steps at which each was set anew, from the first state on, and to what; flags as 0 and
        1. A whole number that counts calls ends with NaN. They are no part of a state: a model is
        evaluated with those that it has.
        """
        return {
            name.removeprefix(MARK): (steps.copy(), values.copy())
            for name, (steps, values) in self._contents.values.items()
            if name.startswith(MARK)
        }

    @cached_property
    def digest(self) -> str:
        """Identifies states, side tensors, steps, losses and layout; however the run was cut up."""
        found = self._rows.contents
        return digest_of(
            self.layout.to_json(),
            self._header.dtype,
            *(found.steps, found.digests, found.keys, found.loss_steps, found.all_losses),
            list(found.holes),
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
        position = self._position(index)
        state: States = self.read(position, position + 1)[0]
        return state

    def _position(self, index: int) -> int:
        return state_index(index, len(self))

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
        start, stop, out = check_range(self, start, stop, out)
        count = self.parameter_count
        header = self._header
        if out is None:
            out = np.empty((stop - start, count), header.state_dtype)
        if (header.row_size, header.row_dtype) == (count, out.dtype) and out.flags.c_contiguous:
            rows = out
        else:
            rows = np.empty((stop - start, header.row_size), header.row_dtype)
        self._rows.read(rows, start)
        if rows is not out:
            out[:] = self._as_numbers(rows[:, :count])
        return out

    def _as_numbers(self, rows: States) -> States:
        """The numbers of stored rows: of bfloat16, the upper half of a float32."""
        if self._header.dtype != "bfloat16":
            return rows
        return (rows.astype(np.uint32) << 16).view(np.float32)

    def read_columns(self, start: int, stop: int, states: Sequence[int]) -> States:
        """(n, stop−start): the numbers start … stop−1 of some states.

        Raises:
            DamagedError: a state's bytes are not those that were recorded.
        """
        return self._as_numbers(self._rows.columns(start, stop, states))

    @checked(start=WHOLE, stop=optional(WHOLE), stride=WHOLE)
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

    def sides(self, index: int) -> dict[str, torch.Tensor]:
        """Copies of the side tensors at state `index`: buffers, and parameters not in the rows.

        By canonical name, on the CPU, each in its own dtype and shape. Of a run of the first format
        they are its floating-point buffers.

        Raises:
            DamagedError: their bytes are missing or are not those that were recorded.
        """
        place, found = self._position(index), self._rows.contents
        newest = bool(found.rows[place] < 0)
        return found.sides.tensors(int(found.steps[place]), newest, int(found.keys[place]))

    @cached_property
    def _without_sides(self) -> frozenset[int]:
        """The steps of states of whose side tensors some were found lost at a repair."""
        found = self._contents
        table = found.stream.slots
        if not np.any((table["kind"] == slots.LOST) & (table["flags"] == slots.SIDE)):
            return frozenset()
        return frozenset(store.without_sides(found).tolist())

    @cached_property
    def side_kinds(self) -> dict[str, str]:
        """The kind of every side tensor that the run had at any time: "buffer" or "frozen"."""
        return self._rows.contents.sides.kinds()

    def side_key(self, index: int) -> str:
        """Equal for two states if and only if their side tensors are the same; reads no tensor.

        In a run of the first format with buffers, states of equal buffers may differ in it.
        """
        return f"{int(self._rows.contents.keys[self._position(index)]):016x}"

    def buffers(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Copies of the buffers that the model had at state `index`, by name.

        Running statistics of normalisation layers are such; a state is the parameters alone.
        NumPy has no bfloat16 and no float8, which become float32.
        """
        return {
            name: as_array(tensor)
            for name, tensor in self.sides(index).items()
            if self.side_kinds[name] == "buffer"
        }

    @checked(model=MODEL, buffers=flag)
    def load_into(self, model: torch.nn.Module, index: int, *, buffers: bool = False) -> None:
        """Copies state `index` into a model's parameters; the store stays as it is.

        Frozen parameters that were recorded are copied too. Parameters are found by their canonical
        names, so wrappers and what is frozen make no difference.

        Args:
            model: the network that was recorded.
            index: which state; negative counts from the end.
            buffers: also copy the buffers of the moment, such as running statistics. Those that the
                model does not have are left out with a warning.

        Raises:
            ModelError: the model is not the network that was recorded.
            PathError: the run keeps sketches of states.
            DamagedError: the state's frozen parameters or, if asked for, its buffers are lost.
        """
        check_whole(self)
        state, kinds = self[index], self.side_kinds
        is_lost = int(self.steps[self._position(index)]) in self._without_sides
        if is_lost and not buffers:
            check_not_lost(model, self.layout, kinds, self)
            kinds = {}
        sides = self.sides(index) if buffers or "frozen" in kinds.values() else {}
        names = frozenset(name for name, _ in named_parameters(model))
        if prefix := self._header.prefix_in(names):
            sides = {prefix + name: tensor for name, tensor in sides.items()}
            kinds = {prefix + name: kind for name, kind in kinds.items()}
        load_state(model, self.layout_in(names), state, sides, kinds, buffers, self)
