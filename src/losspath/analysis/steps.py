"""The size of the steps that training took."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ArgumentError, PathError
from losspath.files import load_archive, save_archive
from losspath.geometry.pca import blocks
from losspath.recording.trajectory import StateSequence, as_path

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class StepSizes:
    """Sizes of the steps between a path's states.

    Attributes:
        sizes: (T−1,) s_t = ‖θ_{t+1} − θ_t‖₂; NaN or infinite where a state is not finite.
        steps: (T,) the number of optimiser steps taken before each state. Where it grows by more
            than one, states were left out, and the size is of several steps together.
        losses: (T−1,) the recorded loss at each state but the last; NaN where there is none.
        provenance: where the numbers come from, as JSON values.
    """

    sizes: Floats
    steps: npt.NDArray[np.int64] = field(repr=False)
    losses: Floats = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    def binned(self, bins: int = 100) -> tuple[Floats, Floats, Floats]:
        """Means over equal bins of successive steps.

        Args:
            bins: how many, 100 in the thesis; a path with fewer steps has a bin for each. Bins
                differ in length by one step at most.

        Returns:
            (bins,) arrays: the middle of each bin in optimiser steps, the mean size, and the mean
            loss.
        """
        if bins < 1:
            raise ArgumentError(f"expected at least one bin, got {bins}")
        edges = _edges(len(self.sizes), bins)
        widths = np.diff(edges)
        middles = (self.steps[edges[:-1]] + self.steps[edges[1:]]) / 2
        means = [
            np.add.reduceat(values, edges[:-1]) / widths for values in (self.sizes, self.losses)
        ]
        return middles, means[0], means[1]

    def averaged(self, parts: int) -> StepSizes:
        """The same in fewer numbers: means over equal parts, for many runs that are compared.

        Args:
            parts: how many; sizes that are no more are given back as they are.

        Returns:
            Mean sizes of single steps and mean losses, with the steps where the parts begin.
        """
        if parts >= len(self.sizes):
            return self
        _, sizes, losses = self.binned(parts)
        edges = _edges(len(self.sizes), parts)
        provenance = {**self.provenance, "averaged": parts}
        return StepSizes(sizes, self.steps[edges], losses, provenance)

    def save(self, path: str | PathLike[str]) -> None:
        """Saves the sizes as ``.npz``."""
        arrays = {"sizes": self.sizes, "steps": self.steps, "losses": self.losses}
        save_archive(Path(path), "step sizes", FORMAT_VERSION, arrays, self.provenance)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> StepSizes:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), "step sizes", FORMAT_VERSION)
        return cls(**arrays, provenance=provenance)


def _edges(count: int, bins: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, count, min(bins, count) + 1).round().astype(np.int64)


def even_states(count: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of at most so many of `count` states, evenly, the first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def step_sizes(path: StateSequence | npt.ArrayLike) -> StepSizes:
    """Measures the size of every step of a path.

    Args:
        path: the recorded path, or an array (T, P) of states; T ≥ 2.

    Returns:
        The sizes, with the recorded losses.

    Raises:
        PathError: fewer than two states.
    """
    recorded = as_path(path)
    count = len(recorded)
    if count < 2:
        raise PathError("a path of one state has no steps; record at least one")
    sizes = np.empty(count - 1)
    last: torch.Tensor | None = None
    for start, rows in blocks(recorded, 2 * recorded.dtype.itemsize + 8):
        if last is not None:
            sizes[start - 1] = _norm(rows[:1] - last)[0]
        if len(rows) > 1:
            sizes[start : start + len(rows) - 1] = _norm(rows[1:] - rows[:-1])
        last = rows[-1:].clone()
    losses = getattr(recorded, "losses", np.full(count - 1, np.nan))
    steps = getattr(recorded, "steps", np.arange(count))
    provenance = {"path_digest": recorded.digest, "states": count}
    return StepSizes(sizes, np.array(steps), np.array(losses, np.float64), provenance)


def step_cosines(path: StateSequence | npt.ArrayLike) -> Floats:
    """The cosine between successive steps of a path.

    Near 1 where training goes straight on, near −1 where it goes back and forth across a valley.
    Steps of mini-batches are noisy: means over many tell more than one.

    Args:
        path: the recorded path, or an array (T, P) of states; T ≥ 3.

    Returns:
        (T−2,) the cosine of θ_{t+2} − θ_{t+1} and θ_{t+1} − θ_t; NaN where a step has no length.

    Raises:
        PathError: fewer than three states.
    """
    recorded = as_path(path)
    count = len(recorded)
    if count < 3:
        raise PathError("successive steps have a cosine from three states on; record more")
    cosines = np.empty(count - 2)
    before: torch.Tensor | None = None
    for start, rows in blocks(recorded, 4 * recorded.dtype.itemsize + 16):
        known = rows if before is None else torch.cat([before, rows])
        steps = known[1:].double() - known[:-1].double()
        if len(steps) > 1:
            norms = torch.linalg.vector_norm(steps, dim=1)
            values = torch.linalg.vecdot(steps[1:], steps[:-1]) / (norms[1:] * norms[:-1])
            first = start - (0 if before is None else len(before))
            cosines[first : first + len(values)] = values.numpy()
        before = known[-2:].clone()
    return np.clip(cosines, -1.0, 1.0)


def _norm(differences: torch.Tensor) -> Floats:
    norms: Floats = torch.linalg.vector_norm(differences, dim=1, dtype=torch.float64).numpy()
    return norms
