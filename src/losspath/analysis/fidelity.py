"""How far a picture of a path holds, in its full form: with what the picture was not made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from losspath.analysis.evidence import HELD_OUT, Evidence, Vectors
from losspath.arguments import (
    OBJECTIVE,
    PLANE,
    checked,
    count,
    described,
    executor,
    file,
    function,
    optional,
)
from losspath.errors import ArgumentError, PathError
from losspath.evaluation.execution.journal import Progress
from losspath.evaluation.objective import Objective
from losspath.files import digest_of
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane
from losspath.methods import DEFAULT, Method
from losspath.recording.joint import Runs, as_run
from losspath.recording.trajectory import StateSequence, as_path
from losspath.surface import Fidelity, Landscape, Surface
from losspath.surface.finding import open_journal
from losspath.surface.judging import SEED, Heights, Judged, Judging, fidelity_of, floor_of
from losspath.surface.refining import Options, refined

Floats = npt.NDArray[np.float64]


def _paths(name: str, value: object) -> list[StateSequence]:
    if not isinstance(value, (list, tuple)):
        raise ArgumentError(f"expected {name} as a list of paths, got {described(value)}")
    return [as_run(each) for each in value]


@checked(
    objective=OBJECTIVE,
    plane=optional(PLANE),
    forks=optional(_paths),
    control=optional(lambda name, value: as_run(value)),
    count=count(4, 100_000),
    seed=count(),
    executor=optional(executor),
    checkpoint=optional(file),
    progress=optional(function),
)
def measure_fidelity(
    path: StateSequence | npt.ArrayLike | Runs,
    objective: Objective,
    method: str | Method = DEFAULT,
    resolution: int = 19,
    *,
    plane: Plane | None = None,
    forks: Sequence[StateSequence | npt.ArrayLike] | None = None,
    control: StateSequence | npt.ArrayLike | None = None,
    count: int = 60,
    seed: int = SEED,
    executor: Executor | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Fidelity:
    """Measures how far the surface around a path holds for vectors that it was not made of.

    Four strata of equal weight, however many vectors they have:

    - "held-out": five stretches of the path, a fifth of it in all, of which neither the plane nor
      the method knows: both are made anew without them, and the surface of that is judged. A plane
      that is given, and is no principal one, stays.
    - "chords": places on chords between two random states of a run.
    - "balls": draws of the path's own distribution around places on it.
    - "forks": states of trainings that went on from a state of the path with other batches.

    It costs a surface, the points around held-out states of another, `count` evaluations for each
    stratum, and those of 300 states.
    `Surface.fidelity` has the cheap form, of chords and balls alone.

    Args:
        path: the recorded path, or an array (T, P) of states, or several runs.
        objective: the loss.
        method: the rule, as of `compute_surface`.
        resolution: grid lines an axis.
        plane: any plane; by default the path's principal one.
        forks: paths that begin near the path, recorded as any other: each of 1 to 3 % of its
            length tells most. None where there are none.
        control: another run of the same network, from another start: the picture should have no
            skill there.
        count: vectors of each stratum, about.
        seed: of the choice of vectors and stretches.
        executor: evaluates the surfaces' points in other processes.
        checkpoint: a file that keeps every point as it is done, with another beside it for the
            surface without the stretches, which are others with another `count` or `seed`.
        progress: called with (points done, points in all), of the first surface and then of both.

    Returns:
        The numbers; also those of each stratum.

    Raises:
        PathError: the path has no plane, or fewer than two states.
        ModelError: a path is of another network than the objective's model.
        ArgumentError: an unknown method, or a resolution below 3.
        StoreError: the checkpoint belongs to another computation or cannot be written.
        WorkerError: the executor lost its workers.
    """
    states = as_path(path)
    if len(states) < 2:
        raise PathError(f"expected a path of two states or more, got {len(states)}")
    landscape = Landscape(states, objective, method, plane=plane)
    grid = Grid.around(landscape.projection.coordinates, resolution)
    computed = _Computed(executor, checkpoint, progress)
    surface = computed.surface(landscape, grid)
    evidence = Evidence.of(landscape, forks=forks, control=control, count=count, seed=seed)
    return judge(landscape, surface, evidence, resolution, computed.surface)


SurfaceOn = Callable[[Landscape, Grid, Floats], Surface]
"""Computes the surface of a landscape on a grid, as far as it is read at places (k, 2)."""


def judge(
    landscape: Landscape,
    surface: Surface,
    evidence: Evidence,
    resolution: int,
    surface_on: SurfaceOn,
) -> Fidelity:
    """The fidelity of a surface that is there.

    Args:
        landscape: what it is a surface of.
        surface: the surface.
        evidence: of a landscape of the same path, plane and objective, by whichever method.
        resolution: lines an axis of the surface without held-out stretches.
        surface_on: computes the surface without held-out stretches, around these.
    """
    losses = [evidence.states.loss, *(each.losses for each in evidence.vectors)]
    heights = Heights.of(surface, np.concatenate(losses))
    judging = replace(landscape.ground(surface), states=evidence.states).judging(heights)
    by_name = dict.fromkeys((each.name for each in evidence.vectors), judging)
    if evidence.without is not None:
        without = evidence.without.with_method(landscape.asked)
        own = Grid.around(without.projection.coordinates, resolution)
        (places,) = (each.places for each in evidence.vectors if each.name == HELD_OUT)
        ground = without.ground(surface_on(without, own, places))
        by_name[HELD_OUT] = replace(ground, states=evidence.states_without).judging(heights)

    def judged(each: Vectors, by: Judging) -> Judged:
        return by(each.name, each.places, each.losses, each.block)

    found = [judged(each, by_name[each.name]) for each in evidence.vectors]
    other = None if evidence.control is None else judged(evidence.control, judging)
    return replace(
        fidelity_of(found, heights, floor_of(found), other),
        provenance=surface.provenance
        | {"count": evidence.count, "seed": evidence.seed}
        | {"explained_variance_ratio": surface.explained_variance_ratio.tolist()},
    )


def fidelity_key(
    landscape: Landscape,
    grid: Grid,
    forks: Sequence[StateSequence],
    control: StateSequence | None,
    count: int,
    seed: int,
) -> str:
    """A digest of everything that `judge` depends on."""
    others = [each.digest for each in [*forks, *([] if control is None else [control])]]
    return digest_of("fidelity", landscape.key(grid), others, len(forks), count, seed)


@dataclass
class _Computed:
    """Surfaces that are computed alike, with one count of what is done."""

    executor: Executor | None
    checkpoint: str | PathLike[str] | None
    progress: Progress | None
    done: int = 0

    def surface(self, landscape: Landscape, grid: Grid, around: Floats | None = None) -> Surface:
        before = self.done

        def told(done: int, total: int) -> None:
            self.done = before + done
            if self.progress:
                self.progress(self.done, before + total)

        place = None if self.checkpoint is None else Path(self.checkpoint)
        if place is not None and around is not None:
            key = bare_key(landscape, grid, around)
            place = place.with_name(f"{place.name}.held-out-{key[:8]}")
        return bare_surface(
            landscape, grid, around, executor=self.executor, checkpoint=place, progress=told
        )


def bare_surface(
    landscape: Landscape,
    grid: Grid,
    around: Floats | None = None,
    *,
    executor: Executor | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Surface:
    """A surface with the losses of the path's ends alone, which is to be judged by `Evidence`.

    Args:
        landscape: what it is a surface of.
        grid: the points.
        around: (k, 2) places where alone it is read, so that other points are not evaluated; None
            for everywhere.
        executor: evaluates the points in other processes; None for this one.
        checkpoint: keeps every point as it is done; None for none.
        progress: called with (points done, points in all).
    """
    only = None if around is None else grid.around_places(around)
    key = bare_key(landscape, grid, around)
    with open_journal(checkpoint, key, landscape.objective, executor) as journal:
        options = Options(2, executor, journal, progress, fidelity=False, only=only)
        return deque(refined(landscape, grid, options, key), maxlen=1).pop()


def bare_key(landscape: Landscape, grid: Grid, around: Floats | None = None) -> str:
    """A digest of everything that `bare_surface` depends on."""
    key = landscape.key(grid)
    return key if around is None else digest_of(key, "around", grid.around_places(around))
