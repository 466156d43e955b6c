"""What surfaces of a path are held against: losses that no method has a part in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from losspath.evaluation.recorded import along
from losspath.geometry.plane import PrincipalPlane
from losspath.recording.selection import Selection
from losspath.recording.trajectory import StateSequence, as_path
from losspath.surface import Landscape, StateLosses
from losspath.surface.judging import SEED, near_path
from losspath.surface.states import losses_of
from losspath.surface.strata import Blends, losses_of_blends

Floats = npt.NDArray[np.float64]

HELD_OUT = "held-out"
# So many stretches are held out, each this part of the path.
_STRETCHES, _PART = 5, 0.04
_STATES = 150  # whose losses alone are what a picture has to tell more than
_ROW = 6  # states of a control run that count as one block, as they lie in a row
# A path needs so many states for a stretch to be held out.
_LEAST = 12


@dataclass(frozen=True)
class Vectors:
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
    vectors: list[Vectors]
    control: Vectors | None
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
        stretches: bool = True,
    ) -> Evidence:
        """Evaluates it for a landscape; for arguments see `measure_fidelity`.

        Without held-out stretches where ``stretches`` is not set: no other plane is fitted then.
        """
        bound = along(landscape.objective, landscape.path)
        shown = landscape.projection

        def vectors(name: str, blends: Blends, places: Floats) -> Vectors:
            where = (landscape.path, landscape.plane, shown, bound)
            return Vectors(name, places, losses_of_blends(*where, blends, {}), blends.block)

        found = [
            vectors(name, blends, blends.places(shown))
            for name, blends in near_path(shown, count, seed).items()
        ]
        length, generator = len(landscape.path), np.random.default_rng(seed)
        held = held_out(shown.starts, length, generator) if stretches else []
        without = _without(landscape, held) if held else None
        if without is not None:
            blends = _states_in(held, length, count)
            chosen = Selection(landscape.path, blends.weights.indices)
            places = without.plane.projection(chosen).coordinates
            found.append(vectors(HELD_OUT, blends, places))
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
) -> Vectors:
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
    return Vectors(name, np.concatenate(places), np.concatenate(losses), np.concatenate(block))
