"""The size of the steps that training took."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from losspath.arguments import WHOLE, checked, file, range_of
from losspath.errors import ArgumentError, LosspathWarning, PathError
from losspath.evaluation.path_notes import path_notes
from losspath.files import load_archive, save_archive
from losspath.geometry import gram
from losspath.geometry.pca import blocks
from losspath.recording.schedules import Pairs
from losspath.recording.trajectory import StateSequence, as_run

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class StepSizes:
    """Sizes of the steps between a path's states.

    Attributes:
        sizes: (T−1,) s_t = ‖θ_{t+1} − θ_t‖₂ over the recorded parameters; NaN or infinite where a
            state is not finite, and NaN where states between the two were lost.
        steps: (T,) the number of optimiser steps taken before each state. Where it grows by more
            than one, states were left out, and the size is of several steps together.
        losses: (T−1,) the recorded loss at each state but the last; NaN where there is none.
        provenance: where the numbers come from, as JSON values; under "holes" the indices of sizes
            that are not known, as states between were lost.
    """

    archive: ClassVar[tuple[str, int]] = ("step sizes", FORMAT_VERSION)
    sizes: Floats
    steps: npt.NDArray[np.int64] = field(repr=False)
    losses: Floats = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        return f"StepSizes: {len(self.sizes):,} sizes, {range_of(self.sizes)}"

    @property
    def holes(self) -> tuple[int, ...]:
        """Indices of sizes that are NaN as states between were lost."""
        return tuple(self.provenance.get("holes", ()))

    @checked(bins=WHOLE)
    def known(self, bins: int = 100) -> npt.NDArray[np.int64]:
        """How many sizes the mean of each bin is of: all in it, but for those across lost states.

        Args:
            bins: as for `binned`.
        """
        edges = _edges(len(self.sizes), bins)
        return np.add.reduceat(self._is_known, edges[:-1], dtype=np.int64)

    @property
    def _is_known(self) -> npt.NDArray[np.bool_]:
        known = np.ones(len(self.sizes), bool)
        known[list(self.holes)] = False
        return known

    @checked(bins=WHOLE)
    def binned(self, bins: int = 100) -> tuple[Floats, Floats, Floats]:
        """Means over equal bins of successive steps.

        Args:
            bins: how many, 100 in the thesis; a path with fewer steps has a bin for each. Bins
                differ in length by one step at most.

        Returns:
            (bins,) arrays: the middle of each bin in optimiser steps, the mean size, and the mean
            loss. Sizes across lost states do not count (see `known`); a bin of nothing else has
            NaN, as has one with a state that is not finite.
        """
        if bins < 1:
            raise ArgumentError(f"expected at least one bin, got {bins}")
        edges = _edges(len(self.sizes), bins)
        middles = (self.steps[edges[:-1]] + self.steps[edges[1:]]) / 2
        sizes = np.where(self._is_known, self.sizes, 0.0)
        with np.errstate(invalid="ignore"):
            mean_sizes = np.add.reduceat(sizes, edges[:-1]) / self.known(bins)
        mean_losses = np.add.reduceat(self.losses, edges[:-1]) / np.diff(edges)
        return middles, mean_sizes, mean_losses

    @checked(parts=WHOLE)
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
        if self.holes:
            provenance["holes"] = np.flatnonzero(self.known(parts) == 0).tolist()
        return StepSizes(sizes, self.steps[edges], losses, provenance)

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves the sizes as ``.npz``."""
        arrays = {"sizes": self.sizes, "steps": self.steps, "losses": self.losses}
        save_archive(Path(path), *self.archive, arrays, self.provenance)

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> StepSizes:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), *cls.archive)
        return cls(**arrays, provenance=provenance)


def _edges(count: int, bins: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, count, min(bins, count) + 1).round().astype(np.int64)


def even_states(count: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of at most so many of `count` states, evenly, the first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def step_sizes(path: StateSequence | npt.ArrayLike) -> StepSizes:
    """Measures the size of every step of a path.

    Only what is recorded counts: frozen parameters are no part of it, and memory that two
    parameters share counts once. Where a path has holes, the distance between the states around one
    is no step, and its size is NaN.

    Args:
        path: the recorded path, or an array (T, P) of states; T ≥ 2.

    Returns:
        The sizes, with the recorded losses.

    Raises:
        PathError: fewer than two states.

    Warns:
        LosspathWarning: states were rounded to bfloat16, and steps are no longer than what that
            moved them by.
    """
    recorded = as_run(path)
    count = len(recorded)
    if count < 2:
        raise PathError("a path of one state has no steps; record at least one")
    sizes = _products_of_large(recorded)[0] if gram.is_for(recorded) else _sizes(recorded)
    losses = getattr(recorded, "losses", np.full(count - 1, np.nan))
    steps = getattr(recorded, "steps", np.arange(count))
    provenance: dict[str, Any] = {
        "path_digest": recorded.digest,
        "states": count,
        **path_notes(recorded),
    }
    lost, between = _holes_of(recorded), _between_pairs(recorded)
    if holes := sorted({*lost, *between}):
        sizes[holes] = np.nan
        provenance["holes"] = holes
        provenance |= {"between_pairs": len(holes) - len(lost)} if between else {}
    if getattr(recorded, "is_rounded", False):
        _warn_of_rounding(recorded, sizes)
    return StepSizes(sizes, np.array(steps), np.array(losses, np.float64), provenance)


def _sizes(path: StateSequence) -> Floats:
    sizes = np.empty(len(path) - 1)
    last: torch.Tensor | None = None
    for start, rows in blocks(path, 2 * path.dtype.itemsize + 8):
        if last is not None:
            sizes[start - 1] = _norm(rows[:1] - last)[0]
        if len(rows) > 1:
            sizes[start : start + len(rows) - 1] = _norm(rows[1:] - rows[:-1])
        last = rows[-1:].clone()
    return sizes


def _products_of_large(path: StateSequence) -> tuple[Floats, Floats]:
    """Norms of steps, and products of successive ones, of few states that are large.

    A stretch of all states' parameters is in memory at a time.
    """
    squares, products = np.zeros(len(path) - 1), np.zeros(max(0, len(path) - 2))
    with np.errstate(invalid="ignore", over="ignore"):
        for _, part in gram.stretches(path):
            steps = np.diff(part, axis=0)
            squares += np.einsum("ij,ij->i", steps, steps)
            products += np.einsum("ij,ij->i", steps[1:], steps[:-1])
    return np.sqrt(squares), products


def _warn_of_rounding(path: StateSequence, sizes: Floats) -> None:
    """Warns where steps drown in the rounding of states to bfloat16."""
    exponents = np.frexp(path.read(0, 1)[0].astype(np.float64))[1]
    # Two states are each off by a uniform error of one unit in the last of 8 binary digits.
    rounding = math.sqrt(2 * float(np.sum(4.0 ** (exponents - 8))) / 12)
    size = float(np.median(sizes[np.isfinite(sizes)])) if np.isfinite(sizes).any() else 0.0
    if size < 2 * rounding:
        warnings.warn(
            f"half of the steps are no longer than {size:.2g}, and rounding states to bfloat16 "
            f"moved them by {rounding:.2g}: their sizes and directions say little; record float32",
            LosspathWarning,
            stacklevel=3,
        )


def step_cosines(path: StateSequence | npt.ArrayLike) -> Floats:
    """The cosine between successive steps of a path.

    Near 1 where training goes straight on, near −1 where it goes back and forth across a valley.
    Steps of mini-batches are noisy: means over many tell more than one.

    Args:
        path: the recorded path, or an array (T, P) of states; T ≥ 3.

    Returns:
        (T−2,) the cosine of θ_{t+2} − θ_{t+1} and θ_{t+1} − θ_t; NaN where a step has no length,
        and where states were lost in one of the two.

    Raises:
        PathError: fewer than three states.
    """
    recorded = as_run(path)
    count = len(recorded)
    if count < 3:
        raise PathError("successive steps have a cosine from three states on; record more")
    if gram.is_for(recorded):
        norms, products = _products_of_large(recorded)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = products / (norms[1:] * norms[:-1])
    else:
        cosines = _cosines(recorded)
    for hole in {*_holes_of(recorded), *_between_pairs(recorded)}:
        cosines[max(0, hole - 1) : hole + 1] = np.nan
    return np.clip(cosines, -1.0, 1.0)


def _cosines(path: StateSequence) -> Floats:
    cosines = np.empty(len(path) - 2)
    before: torch.Tensor | None = None
    for start, rows in blocks(path, 4 * path.dtype.itemsize + 16):
        known = rows if before is None else torch.cat([before, rows])
        steps = known[1:].double() - known[:-1].double()
        if len(steps) > 1:
            norms = torch.linalg.vector_norm(steps, dim=1)
            values = torch.linalg.vecdot(steps[1:], steps[:-1]) / (norms[1:] * norms[:-1])
            first = start - (0 if before is None else len(before))
            cosines[first : first + len(values)] = values.numpy()
        before = known[-2:].clone()
    return cosines


def _between_pairs(path: StateSequence) -> list[int]:
    """Where states of a run of pairs are no pair, and so lie many steps apart."""
    schedule = getattr(path, "schedule", None) or {}
    if schedule.get("name") != Pairs.name:
        return []
    found: list[int] = np.flatnonzero(np.diff(path.steps) != 1).tolist()  # type: ignore[attr-defined]
    return found


def _holes_of(path: StateSequence) -> tuple[int, ...]:
    """Indices i of states after which states were lost, so that i+1 is not the next."""
    return tuple(getattr(path, "holes", ()))


def _norm(differences: torch.Tensor) -> Floats:
    norms: Floats = torch.linalg.vector_norm(differences, dim=1, dtype=torch.float64).numpy()
    return norms
