"""Some states of any path."""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ArgumentError
from losspath.files import digest_of
from losspath.parameters import Layout
from losspath.recording.joint import JointPath
from losspath.recording.paths import States, StateSequence, check_range, columns, starts_of
from losspath.recording.sketch import Sketch, sketch_of


class Selection:
    """Some states of a path, in order, as a path of its own.

    Unlike a window they need not be evenly spaced, and the path may be any.

    Args:
        path: T states of P numbers.
        indices: which, ascending; at least one.
    """

    def __init__(self, path: StateSequence, indices: npt.ArrayLike) -> None:
        self._path: Any = path
        self.indices = np.asarray(indices, np.int64)
        ascending = self.indices.ndim == 1 and bool(np.all(np.diff(self.indices) > 0))
        if not (ascending and self.indices.size):
            raise ArgumentError("expected indices of states, ascending and at least one")
        if self.indices[0] < 0 or self.indices[-1] >= len(path):
            raise ArgumentError(
                f"expected indices of the path's {len(path)} states, got {self.indices[0]} to "
                f"{self.indices[-1]}"
            )
        self.records_sides = getattr(path, "records_sides", hasattr(path, "side_key"))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def parameter_count(self) -> int:
        """P."""
        return int(self._path.parameter_count)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the states."""
        found: np.dtype[Any] = self._path.dtype
        return found

    @cached_property
    def digest(self) -> str:
        """Identifies the content."""
        return digest_of("selection", self._path.digest, self.indices)

    @property
    def starts(self) -> dict[str, int]:
        """By the name of each run that is left, its first state."""
        named = starts_of(self._path)
        firsts = np.searchsorted(self.indices, list(named.values())).tolist()
        stops = [*firsts[1:], len(self)]
        pairs = zip(named, firsts, stops, strict=True)
        return {name: first for name, first, stop in pairs if first < stop}

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """(T−1,): the recorded loss at each state but the last; NaN where none is known."""
        return recorded_losses(self._path)[self.indices][:-1]

    @property
    def notes(self) -> list[str]:
        """What must be known of the whole path."""
        return list(getattr(self._path, "notes", []))

    @property
    def sketch(self) -> Sketch | None:
        """What states were projected by: see `Trajectory.sketch`."""
        return sketch_of(self._path)

    @property
    def layout(self) -> Layout | None:
        """Names, shapes and places of the parameters in a state; None of arrays."""
        found: Layout | None = getattr(self._path, "layout", None)
        return found

    def layout_in(self, names: Container[str]) -> Layout | None:
        """The layout with a network's own names: see `Trajectory.layout_in`."""
        in_names = getattr(self._path, "layout_in", None)
        found: Layout | None = in_names(names) if in_names else self.layout
        return found

    @property
    def side_kinds(self) -> dict[str, str]:
        """The kind of every side tensor of the path: see `Trajectory.side_kinds`."""
        return dict(getattr(self._path, "side_kinds", {}))

    def sides(self, index: int) -> dict[str, torch.Tensor]:
        """The side tensors of a state: see `Trajectory.sides`."""
        at = int(self.indices[index])
        found: dict[str, torch.Tensor] = self._path.sides(at) if self.records_sides else {}
        return found

    def side_key(self, index: int) -> str:
        """Equal for states of the same side tensors: see `Trajectory.side_key`."""
        return str(self._path.side_key(int(self.indices[index]))) if self.records_sides else ""

    def read(self, start: int, stop: int, out: States | None = None) -> States:
        """A copy of the states start … stop−1: see `Trajectory.read`."""
        start, stop, out = check_range(self, start, stop, out)
        if out is None:
            out = np.empty((stop - start, self.parameter_count), self.dtype)
        chosen = self.indices[start:stop]
        done = 0
        for part in np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1):
            if len(part):  # states in a row are read at once
                to = out[done : done + len(part)]
                self._path.read(int(part[0]), int(part[-1]) + 1, to)
                done += len(part)
        return out

    def read_columns(self, start: int, stop: int, states: Sequence[int]) -> States:
        """(n, stop−start): the numbers start … stop−1 of some of the states."""
        return columns(self._path, start, stop, self.indices[np.asarray(states, int)].tolist())


def recorded_losses(path: StateSequence) -> npt.NDArray[np.float64]:
    """(T,) the losses that were recorded at states; NaN where none was, as at the last of a run."""
    if isinstance(path, JointPath):
        return np.concatenate([recorded_losses(run) for run in path.runs.values()])
    losses = np.full(len(path), np.nan)
    losses[: len(path) - 1] = getattr(path, "losses", losses[:-1])
    return losses
