"""Points of a plane, or of a line between two states, evaluated again and again in other ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike

import numpy as np
import numpy.typing as npt

from losspath.analysis.interpolation import check_positions, interpolation_key, state_of
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.journal import Progress, Section, open_checkpoint
from losspath.evaluation.execution.points import Affine, Points, Rows
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.evaluation.quantities import Evaluation
from losspath.evaluation.recorded import PathObjective, along
from losspath.recording.trajectory import StateSequence
from losspath.surface import Landscape
from losspath.surface.lifted import Group, LiftedPlane
from losspath.surface.running import Combine, Found, evaluated, vectors_evaluated
from losspath.surface.sampling import Ask, PointSampler

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Round:
    """One evaluation of all points.

    Attributes:
        bound: the loss along the path.
        shift: (P,) what is added to every vector; None for nothing.
        engine_type: what evaluates vectors.
        combine: makes what is found at a point; None for the mean.
    """

    bound: PathObjective
    shift: Floats | None = None
    engine_type: type[Engine] = Engine
    combine: Combine | None = None


class OnPlane:
    """Points of a plane.

    Args:
        landscape: lifts them.
        points: (G, 2) coordinates.
    """

    def __init__(self, landscape: Landscape, points: Floats) -> None:
        self.landscape, self.points = landscape, points
        self.path = landscape.path
        self.bound = along(landscape.objective, landscape.path)
        self.is_logarithmic = landscape.method.is_logarithmic
        self._lifted = _Shifted(
            landscape.path, landscape.plane, landscape.projection, landscape.method
        )

    def __len__(self) -> int:
        """G."""
        return len(self.points)

    def found(self, how: Round, journal: Section | None) -> Iterator[Found]:
        """What is found at points that are not in the journal."""
        self._lifted.shift = how.shift
        yield from evaluated(
            self._lifted,
            how.bound,
            PointSampler(self.points),
            journal,
            engine_type=how.engine_type,
            combine=how.combine,
        )


class _Shifted(LiftedPlane):
    """Vectors with something added to them."""

    shift: Floats | None = None

    def groups(self, asks: list[Ask], size: int, done: Sequence[int] = ()) -> Iterator[Group]:  # type: ignore[override]
        """The same groups, shifted."""
        for group in super().groups(asks, size, done):
            moved = ((numbers, _moved(points, self.shift)) for numbers, points in group.parts)
            yield replace(group, parts=moved)


def _moved(points: Points, shift: Floats | None) -> Points:
    if shift is None:
        return points
    if isinstance(points, Affine):
        return replace(points, origin=points.origin + shift)
    return replace(points, values=points.values + shift)


class OnLine:
    """Positions on the straight line between two states, for the whole model.

    Args:
        path: the states.
        objective: the loss.
        start: index of the first; negative counts from the end.
        end: of the second.
        positions: (A,) α, 0 at the first and 1 at the second.

    Raises:
        ArgumentError: there is no such state, the two are the same, or no two positions.
    """

    is_logarithmic = False

    def __init__(
        self, path: StateSequence, objective: Objective, start: int, end: int, positions: Floats
    ) -> None:
        self.path, self.positions = path, positions
        check_positions(positions)
        self.states = state_of(path, start), state_of(path, end)
        self.ends = start % len(path), end % len(path)
        self.bound = along(objective, path)
        self._objective = objective

    def __len__(self) -> int:
        """A."""
        return len(self.positions)

    @cached_property
    def key(self) -> str:
        """What the losses depend on."""
        return interpolation_key(self.path, self._objective, self.ends, self.positions, False)

    def found(self, how: Round, journal: Section | None) -> Iterator[Found]:
        """What is found at positions that are not in the journal."""
        first, second = self.states
        engine = how.engine_type(how.bound.objective)
        if journal is not None:
            engine = how.engine_type(how.bound.objective, journal.remembered, journal.keep_config)
        numbers = np.arange(len(self))
        parts = []
        for start in range(0, len(self), engine.group_size):
            some = numbers[start : start + engine.group_size]
            alpha = self.positions[some, None]
            # The ends as they are: 0·∞ must not spoil one where the other is not finite.
            with np.errstate(invalid="ignore"):
                rows = (1 - alpha) * first + alpha * second
            rows = np.where(alpha == 0, first, np.where(alpha == 1, second, rows))
            parts.append((some, _moved(Rows(rows), how.shift)))
        done = set(journal.done) if journal else set()

        def sides_at(some: npt.NDArray[np.intp]) -> list[Sides] | None:
            between = (how.bound.between(*self.ends, a) for a in self.positions[some].tolist())
            return [sides for sides in between if sides is not None] or None

        for finished in vectors_evaluated(engine, parts, sides_at, len(self), done, measure=False):
            if how.combine is None:
                yield finished
            else:
                yield [(number, how.combine([each], [1.0])) for number, each in finished]


Places = OnPlane | OnLine


def rounds_evaluated(
    places: Places,
    rounds: Sequence[Callable[[], Round]],
    key: str,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> list[list[Evaluation]]:
    """What is found at all points in each of some rounds, one round after the other.

    Args:
        places: the points.
        rounds: each makes a round when its turn comes, so that one at a time is in memory.
        key: of all that is found.
        checkpoint: a file that keeps every point as it is done.
        progress: called with (points done, points in all).
    """
    total, done = len(places) * len(rounds), 0
    results = []
    with open_checkpoint(checkpoint, key, places.bound.objective) as journal:
        for number, make in enumerate(rounds):
            section = Section(journal, number * len(places), len(places)) if journal else None
            known = dict(section.done) if section else {}
            done += len(known)
            if known and progress:
                progress(done, total)
            if len(known) < len(places):
                for found in places.found(make(), section):
                    for point, evaluation in found:
                        known[point] = evaluation
                        if section:
                            section.add(point, evaluation)
                    done += len(found)
                    if progress:
                        progress(done, total)
            results.append([known[point] for point in range(len(places))])
    return results
