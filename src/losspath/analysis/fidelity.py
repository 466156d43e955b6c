"""How far a picture of a path holds, in its full form: with what the picture was not made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
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
from losspath.surface import Fidelity, Landscape, Surface
from losspath.surface.judging import SEED, Ground, Heights, fidelity_of, floor_of, near_path
from losspath.surface.states import losses_of
from losspath.surface.strata import Blends

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# So many stretches are held out, each this part of the path.
_STRETCHES, _PART = 5, 0.04
_STATES = 150  # whose losses alone are what a picture has to tell more than
_ROW = 6  # states of a control run that count as one block, as they lie in a row
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
    held = held_out(landscape.projection.starts, len(states), np.random.default_rng(seed))
    total = Grid.around(landscape.projection.coordinates, resolution).points.shape[0]
    computed = _Computed(resolution, executor, checkpoint, progress, total * (2 if held else 1))
    surface = computed.surface(landscape, "")
    return judge(
        landscape,
        surface,
        lambda other: computed.surface(other, ".held-out"),
        forks=forks,
        control=control,
        count=count,
        seed=seed,
    )


def judge(
    landscape: Landscape,
    surface: Surface,
    surface_of: Callable[[Landscape], Surface],
    *,
    forks: Sequence[StateSequence | npt.ArrayLike] | None = None,
    control: StateSequence | npt.ArrayLike | None = None,
    count: int = 60,
    seed: int = SEED,
) -> Fidelity:
    """The fidelity of a surface that is there; for arguments see `measure_fidelity`.

    Args:
        landscape: what it is a surface of.
        surface: the surface.
        surface_of: computes the surface of another landscape, as this one was.
        forks: other trainings.
        control: another run.
        count: vectors of each stratum, about.
        seed: of the choice.
    """
    ground = _ground(landscape, surface)
    found: list[_Found] = []
    for name, blends in near_path(ground, count, seed).items():
        places, losses = blends.places(ground.projection), ground.losses(blends)
        found.append(_Found(name, ground, places, losses, blends.block))
    generator = np.random.default_rng(seed)
    stretches = held_out(landscape.projection.starts, len(landscape.path), generator)
    if stretches:
        found.append(_held_out(landscape, ground, stretches, surface_of, count))
    if forks:
        found.append(_forks(landscape, ground, forks, count))
    heights = Heights.of(surface, np.concatenate([each.losses for each in found]))
    judged = [
        each.ground.judged(each.name, each.places, each.losses, each.block, heights)
        for each in found
    ]
    other = None
    if control is not None:
        places, losses, block = _states_of(landscape, [control], count)
        other = ground.judged("control", places, losses, np.arange(len(block)) // _ROW, heights)
    return replace(
        fidelity_of(judged, heights, floor_of(judged), other),
        provenance=surface.provenance
        | {"count": count, "seed": seed}
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

    resolution: int
    executor: Executor | None
    checkpoint: str | PathLike[str] | None
    progress: Progress | None
    total: int
    done: int = 0

    def surface(self, landscape: Landscape, label: str) -> Surface:
        before = self.done

        def told(done: int, _: int) -> None:
            self.done = before + done
            if self.progress:
                self.progress(self.done, max(self.total, self.done))

        place = None if self.checkpoint is None else Path(self.checkpoint)
        return landscape.surface(
            self.resolution,
            executor=self.executor,
            checkpoint=None if place is None else place.with_name(place.name + label),
            progress=told,
            fidelity=False,
        )


@dataclass
class _Found:
    """Vectors of one stratum: the picture that they are held against, places, losses, blocks."""

    name: str
    ground: Ground
    places: Floats
    losses: Floats
    block: npt.NDArray[np.intp]


def _ground(landscape: Landscape, surface: Surface) -> Ground:
    """A surface, held against what many states' losses tell."""
    return replace(landscape.ground(surface), states=landscape.states(_STATES))


def _held_out(
    landscape: Landscape,
    ground: Ground,
    stretches: Sequence[tuple[int, int]],
    surface_of: Callable[[Landscape], Surface],
    count: int,
) -> _Found:
    """States of stretches, and the picture that was made without these."""
    path = landscape.path
    kept = np.ones(len(path), bool)
    for first, stop in stretches:
        kept[first:stop] = False
    others = Selection(path, np.flatnonzero(kept))
    plane = None if isinstance(landscape.plane, PrincipalPlane) else landscape.plane
    without = landscape.of(others, plane)
    surface = surface_of(without)
    each = max(1, count // len(stretches))
    chosen, block = list[int](), list[int]()
    for number, (first, stop) in enumerate(stretches):
        some = np.unique(np.linspace(first, stop - 1, each).round().astype(int)).tolist()
        chosen += some
        block += [number] * len(some)
    blends = _of_states(np.array(chosen), len(path), np.array(block))
    shown = without.plane.projection(Selection(path, np.array(chosen)))
    losses = ground.losses(blends)
    return _Found("held-out", _ground(without, surface), shown.coordinates, losses, blends.block)


def _of_states(chosen: npt.NDArray[np.intp], states: int, block: npt.NDArray[np.intp]) -> Blends:
    """States themselves."""
    shape = (len(chosen), states)
    weights = csr_array((np.ones(len(chosen)), (np.arange(len(chosen)), chosen)), shape=shape)
    return Blends(weights, weights, block)


def _forks(
    landscape: Landscape,
    ground: Ground,
    forks: Sequence[StateSequence | npt.ArrayLike],
    count: int,
) -> _Found:
    """States of other trainings, without those that they begin at."""
    return _Found("forks", ground, *_states_of(landscape, forks, count, begins=1))


def _states_of(
    landscape: Landscape,
    paths: Sequence[StateSequence | npt.ArrayLike],
    count: int,
    begins: int = 0,
) -> tuple[Floats, Floats, npt.NDArray[np.intp]]:
    """Places, losses and blocks of states of other paths, evenly over each."""
    places, losses, block = [], [], []
    for number, given in enumerate(paths):
        path = as_path(given)
        first = min(begins, len(path) - 1)
        some = max(1, count // len(paths))
        chosen = np.unique(np.linspace(first, len(path) - 1, some).round().astype(int))
        bound = along(landscape.objective, path)
        losses.append(losses_of(path, bound, chosen).loss)
        places.append(np.concatenate(list(_projected(landscape.plane, path, chosen))))
        block.append(np.full(len(chosen), number))
    return np.concatenate(places), np.concatenate(losses), np.concatenate(block)


def _projected(plane: Plane, path: StateSequence, chosen: Indices) -> Iterator[Floats]:
    for index in chosen.tolist():
        yield plane.project(path.read(index, index + 1))
