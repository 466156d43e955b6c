"""How far a picture of a path holds, in its full form: with what the picture was not made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

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
from losspath.evaluation.recorded import along
from losspath.files import digest_of
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane, PrincipalPlane
from losspath.methods import Method
from losspath.recording.joint import Runs, as_run
from losspath.recording.selection import Selection
from losspath.recording.trajectory import StateSequence, as_path
from losspath.surface import Fidelity, Landscape, StateLosses, Surface
from losspath.surface.judging import (
    SEED,
    Ground,
    Heights,
    Judged,
    fidelity_of,
    floor_of,
    near_path,
)
from losspath.surface.states import losses_of
from losspath.surface.strata import Blends, losses_of_blends

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# So many stretches are held out, each this part of the path.
_STRETCHES, _PART = 5, 0.04
_STATES = 150  # whose losses alone are what a picture has to tell more than
_ROW = 6  # states of a control run that count as one block, as they lie in a row
_HELD_OUT = "held-out"
# A path needs so many states for a stretch to be held out.
_LEAST = 12


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
    method: str | Method = "averaged",
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

    It costs two surfaces, `count` evaluations for each stratum, and those of 300 states.
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
            surface without the stretches.
        progress: called with (points done, points in all), of both surfaces.

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
    held = held_out(landscape.projection.starts, len(states), np.random.default_rng(seed))
    computed = _Computed(executor, checkpoint, progress, len(grid.points) * (2 if held else 1))
    surface = computed.surface(landscape, grid)
    evidence = Evidence.of(landscape, forks=forks, control=control, count=count, seed=seed)
    surface_on = partial(computed.surface, label=".held-out")
    return judge(landscape, surface, evidence, resolution, surface_on)


SurfaceOn = Callable[[Landscape, Grid], Surface]
"""Computes the surface of a landscape on a grid."""


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
        surface_on: computes the surface without held-out stretches.
    """
    ground = replace(landscape.ground(surface), states=evidence.states)
    grounds = {each.name: ground for each in evidence.vectors}
    if evidence.without is not None:
        without = evidence.without.with_method(landscape.asked)
        own = Grid.around(without.projection.coordinates, resolution)
        grounds[_HELD_OUT] = replace(
            without.ground(surface_on(without, own)), states=evidence.states_without
        )
    losses = [evidence.states.loss, *(each.losses for each in evidence.vectors)]
    heights = Heights.of(surface, np.concatenate(losses))

    def judged(each: _Vectors, ground: Ground) -> Judged:
        return ground.judged(each.name, each.places, each.losses, each.block, heights)

    found = [judged(each, grounds[each.name]) for each in evidence.vectors]
    other = None if evidence.control is None else judged(evidence.control, ground)
    return replace(
        fidelity_of(found, heights, floor_of(found), other),
        provenance=surface.provenance | {"count": evidence.count, "seed": evidence.seed},
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


def held_out(
    starts: Sequence[int], states: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Stretches of a path (first, stop) that do not touch, and no end of a run is in them.

    Args:
        starts: the first state of each run.
        states: how many there are.
        generator: where chance comes from.

    Returns:
        None of a path that is too short.
    """
    if states < _LEAST:
        return []
    length = max(1, round(_PART * states))
    taken = np.zeros(states + 1, bool)  # and what lies beside a stretch
    for first, stop in pairwise([*starts, states]):
        taken[[first, stop - 1]] = True
    taken[states] = True
    found: list[tuple[int, int]] = []
    for _ in range(_STRETCHES):
        # A stretch may begin where nothing is taken in it.
        sums = np.concatenate([[0], np.cumsum(taken)])
        free = np.flatnonzero(sums[length:] - sums[:-length] == 0)
        if not len(free):
            break
        first = int(generator.choice(free))
        found.append((first, first + length))
        taken[max(first - 1, 0) : first + length + 1] = True
    return sorted(found)


@dataclass
class _Computed:
    """Surfaces that are computed alike, with one count of what is done."""

    executor: Executor | None
    checkpoint: str | PathLike[str] | None
    progress: Progress | None
    total: int
    done: int = 0

    def surface(self, landscape: Landscape, grid: Grid, label: str = "") -> Surface:
        before = self.done

        def told(done: int, _: int) -> None:
            self.done = before + done
            if self.progress:
                self.progress(self.done, max(self.total, self.done))

        place = None if self.checkpoint is None else Path(self.checkpoint)
        place = place and place.with_name(place.name + label)
        return bare_surface(landscape, grid, self.executor, place, told)


def bare_surface(
    landscape: Landscape,
    grid: Grid,
    executor: Executor | None,
    checkpoint: Path | None,
    progress: Progress,
) -> Surface:
    """A surface with the losses of the path's ends alone, which is to be judged by `Evidence`."""
    return landscape.surface(
        grid=grid,
        states=2,
        executor=executor,
        checkpoint=checkpoint,
        progress=progress,
        fidelity=False,
    )


@dataclass(frozen=True)
class _Vectors:
    """Vectors of one stratum: places in the plane, losses, and which are of one origin."""

    name: str
    places: Floats
    losses: Floats
    block: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Evidence:
    """Losses that surfaces are held against, which no method has a part in.

    So they are evaluated once for all methods.

    Attributes:
        states: of many states, whose losses alone are what a picture has to tell more than.
        vectors: of each stratum.
        control: of another run; None where there is none.
        without: a landscape without the held-out stretches; None of a path that is too short.
        states_without: of many of its states.
        count: vectors of each stratum, about.
        seed: of their choice.
    """

    states: StateLosses
    vectors: list[_Vectors]
    control: _Vectors | None
    without: Landscape | None
    states_without: StateLosses | None
    count: int
    seed: int

    @classmethod
    def of(
        cls,
        landscape: Landscape,
        *,
        forks: Sequence[StateSequence | npt.ArrayLike] | None = None,
        control: StateSequence | npt.ArrayLike | None = None,
        count: int = 60,
        seed: int = SEED,
    ) -> Evidence:
        """Evaluates it for a landscape; for arguments see `measure_fidelity`."""
        bound = along(landscape.objective, landscape.path)
        shown = landscape.projection

        def vectors(name: str, blends: Blends, places: Floats) -> _Vectors:
            where = (landscape.path, landscape.plane, shown, bound)
            return _Vectors(name, places, losses_of_blends(*where, blends, {}), blends.block)

        found = [
            vectors(name, blends, blends.places(shown))
            for name, blends in near_path(shown, count, seed).items()
        ]
        stretches = held_out(shown.starts, len(landscape.path), np.random.default_rng(seed))
        without = _without(landscape, stretches) if stretches else None
        if without is not None:
            blends = _states_in(stretches, len(landscape.path), count)
            chosen = Selection(landscape.path, blends.weights.indices)
            places = without.plane.projection(chosen).coordinates
            found.append(vectors(_HELD_OUT, blends, places))
        if forks:
            # Without the states that they begin at.
            found.append(_of_paths("forks", landscape, forks, count, begins=1))
        other = None
        if control is not None:
            whole = _of_paths("control", landscape, [control], count)
            other = replace(whole, block=np.arange(len(whole.block)) // _ROW)
        return cls(
            states=landscape.states(_STATES),
            vectors=found,
            control=other,
            without=without,
            states_without=None if without is None else without.states(_STATES),
            count=count,
            seed=seed,
        )


def _without(landscape: Landscape, stretches: Sequence[tuple[int, int]]) -> Landscape:
    """The landscape as it were without some stretches of the path."""
    kept = np.ones(len(landscape.path), bool)
    for first, stop in stretches:
        kept[first:stop] = False
    others = Selection(landscape.path, np.flatnonzero(kept))
    plane = None if isinstance(landscape.plane, PrincipalPlane) else landscape.plane
    return landscape.of(others, plane)


def _states_in(stretches: Sequence[tuple[int, int]], states: int, count: int) -> Blends:
    """States of stretches themselves, evenly."""
    each = max(1, count // len(stretches))
    chosen, block = list[int](), list[int]()
    for number, (first, stop) in enumerate(stretches):
        some = np.unique(np.linspace(first, stop - 1, each).round().astype(int)).tolist()
        chosen += some
        block += [number] * len(some)
    places = (np.arange(len(chosen)), chosen)
    weights = csr_array((np.ones(len(chosen)), places), shape=(len(chosen), states))
    return Blends(weights, weights, np.array(block))


def _of_paths(
    name: str,
    landscape: Landscape,
    paths: Sequence[StateSequence | npt.ArrayLike],
    count: int,
    begins: int = 0,
) -> _Vectors:
    """States of other paths, evenly over each."""
    places, losses, block = [], [], []
    for number, given in enumerate(paths):
        path = as_path(given)
        first = min(begins, len(path) - 1)
        some = max(1, count // len(paths))
        chosen = np.unique(np.linspace(first, len(path) - 1, some).round().astype(int))
        bound = along(landscape.objective, path)
        losses.append(losses_of(path, bound, chosen).loss)
        rows = (path.read(index, index + 1) for index in chosen.tolist())
        places.append(np.concatenate([landscape.plane.project(row) for row in rows]))
        block.append(np.full(len(chosen), number))
    return _Vectors(name, np.concatenate(places), np.concatenate(losses), np.concatenate(block))
