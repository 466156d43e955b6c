"""Some states of a recorded path."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ArgumentError
from losspath.files import digest_of
from losspath.parameters import Layout
from losspath.recording.paths import States, check_range, state_index
from losspath.recording.sketch import Sketch

if TYPE_CHECKING:
    from losspath.recording.trajectory import Trajectory


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
    def directory(self) -> Path:
        """Where the path was recorded."""
        return self._path.directory

    @property
    def layout(self) -> Layout:
        """The layout of the path."""
        return self._path.layout

    def layout_in(self, names: Container[str]) -> Layout:
        """The layout with a network's own names: see `Trajectory.layout_in`."""
        return self._path.layout_in(names)

    @property
    def parameter_count(self) -> int:
        """P."""
        return self._path.parameter_count

    @property
    def sketch(self) -> Sketch | None:
        """What states were projected by: see `Trajectory.sketch`."""
        return self._path.sketch

    @property
    def is_rounded(self) -> bool:
        """Whether states were rounded to bfloat16."""
        return self._path.is_rounded

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """(T,): the step of each state."""
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
    def loss_steps(self) -> npt.NDArray[np.int64]:
        """The step that each of `all_losses` led to."""
        return self._path.loss_steps

    @property
    def digest(self) -> str:
        """Identifies the content."""
        return digest_of(self._path.digest, [self.indices.start, len(self), self.indices.step])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the states."""
        return self._path.dtype

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the path."""
        return self._path.metadata

    @property
    def closed(self) -> bool:
        """Whether the recorder of the path was closed."""
        return self._path.closed

    @property
    def values(self) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """Named numbers of the whole run: see `Trajectory.values`."""
        return self._path.values

    @property
    def settings(self) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """Plain numbers of the user's own modules: see `Trajectory.settings`."""
        return self._path.settings

    @property
    def notes(self) -> list[str]:
        """What must be known of the whole run: see `Trajectory.notes`."""
        return self._path.notes

    @property
    def holes(self) -> tuple[int, ...]:
        """Indices i such that states between the window's states i and i+1 were lost."""
        holes, indices = np.array(self._path.holes), np.array(self.indices)
        if not len(holes):
            return ()
        lost = np.searchsorted(holes, indices)  # how many holes lie before each state
        return tuple(np.flatnonzero(np.diff(lost)).tolist())

    @property
    def side_kinds(self) -> dict[str, str]:
        """The kind of every side tensor of the run: see `Trajectory.side_kinds`."""
        return self._path.side_kinds

    def sides(self, index: int) -> dict[str, torch.Tensor]:
        """The side tensors at the window's state `index`: see `Trajectory.sides`."""
        return self._path.sides(self._at(index))

    def side_key(self, index: int) -> str:
        """Equal for states of the same side tensors: see `Trajectory.side_key`."""
        return self._path.side_key(self._at(index))

    def buffers(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """The buffers at the window's state `index`: see `Trajectory.buffers`."""
        return self._path.buffers(self._at(index))

    def load_into(self, model: torch.nn.Module, index: int, *, buffers: bool = False) -> None:
        """Copies the window's state `index` into a model: see `Trajectory.load_into`."""
        self._path.load_into(model, self._at(index), buffers=buffers)

    def _at(self, index: int) -> int:
        return self.indices[state_index(index, len(self))]

    def read(self, start: int, stop: int, out: States | None = None) -> States:
        """A copy of the window's states start … stop−1: see `Trajectory.read`."""
        start, stop, out = check_range(self, start, stop, out)
        chosen = self.indices[start:stop]
        if chosen.step == 1:
            return self._path.read(chosen.start, chosen.stop, out)
        if out is None:
            out = np.empty((len(chosen), self.parameter_count), self._path.dtype)
        for position, index in enumerate(chosen):
            self._path.read(index, index + 1, out[position : position + 1])
        return out

    def read_columns(self, start: int, stop: int, states: Sequence[int]) -> States:
        """(n, stop−start): the numbers start … stop−1 of some of the window's states."""
        return self._path.read_columns(start, stop, [self._at(index) for index in states])
