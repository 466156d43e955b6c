"""A surface on all points of a grid, coarse first and then finer."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from losspath.evaluation.execution.journal import Journal, Kept, Progress
from losspath.evaluation.objective import Objective
from losspath.geometry.grid import Grid
from losspath.methods import Method
from losspath.surface.fidelity import Fidelity
from losspath.surface.running import Found
from losspath.surface.sampling import GridSampler, Sampler
from losspath.surface.shares import Shares
from losspath.surface.strata import Known
from losspath.surface.surface import StateLosses, Surface

Floats = npt.NDArray[np.float64]


class Surveyed(Protocol):
    """What a surface is computed of: see `losspath.surface.landscape.Landscape`."""

    objective: Objective
    method: Method

    def over(self, samples: int) -> Self:
        """The same over some of the samples."""

    def states(self, states: int | StateLosses, *, ends: bool = False) -> StateLosses:
        """The losses of states."""

    def found(self, sampler: Sampler, *how: Any) -> Generator[Found]:
        """What is found at points."""

    def standard_errors(self, points: Floats, shares: Shares, of: int) -> Floats:
        """How far points are off for the samples."""

    def provenance(self, key: str) -> dict[str, Any]:
        """What a surface depends on."""

    def surface_of(
        self,
        grid: Grid,
        values: Mapping[str, Floats],
        evaluated: npt.NDArray[np.bool_],
        states: StateLosses,
        provenance: dict[str, Any],
    ) -> Surface:
        """A surface of values."""

    def fidelity(self, surface: Surface, *, known: Known | None = None) -> Fidelity | None:
        """How far it holds."""


@dataclass(frozen=True)
class Options:
    """What is asked of a surface; see `losspath.compute_surface`.

    Attributes:
        states: how many states are evaluated themselves, or their losses.
        executor: evaluates points elsewhere; None for here.
        journal: keeps points as they are done.
        progress: is told of points.
        fidelity: whether it is measured.
        only: the numbers of the points that are wanted; None for all of the grid.
    """

    states: int | StateLosses
    executor: Executor | None
    journal: Journal | None
    progress: Progress | None
    fidelity: bool
    only: npt.NDArray[np.intp] | None = None


def refined(landscape: Surveyed, grid: Grid, options: Options, key: str) -> Iterator[Surface]:
    """The surface on ever more points of a grid, and at last on all.

    Args:
        landscape: what it is a surface of.
        grid: the points.
        options: what else was asked.
        key: identifies the surface.
    """
    journal, progress, states = options.journal, options.progress, options.states
    sampler, notes = GridSampler(grid, options.only), list[str]()
    provenance = landscape.provenance(key)

    def shown(known: StateLosses) -> Surface:
        told = provenance | {"evaluation": list(notes)}
        return landscape.surface_of(grid, sampler.values, sampler.evaluated, known, told)

    for number, evaluation in journal.done.items() if journal else ():
        if number < len(grid.points):
            sampler.tell(number, evaluation)
    if progress and sampler.done:
        progress(sampler.done, sampler.total)
    known, level = landscape.states(states, ends=True), sampler.complete_levels
    for found in landscape.found(sampler, journal, notes, options.executor, key):
        for number, evaluation in found:
            if journal:
                journal.add(number, evaluation)
            sampler.tell(number, evaluation)
            if progress:
                progress(sampler.done, sampler.total)
        if level < (level := sampler.complete_levels) < sampler.levels:
            yield shown(known)
            if states is not known:
                states = known = landscape.states(states)
    whole = shown(landscape.states(states))
    if options.fidelity:
        # What it evaluates is kept behind the points.
        kept = {} if journal is None else Kept(journal, len(grid.points))
        whole = replace(whole, fidelity=landscape.fidelity(whole, known=kept))
    yield whole
