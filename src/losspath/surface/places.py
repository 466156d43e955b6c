"""The points of a grid in the order in which a surface is refined, and their parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt

from losspath.evaluation.points import Affine, Points, Rows
from losspath.evaluation.recorded import PathObjective
from losspath.evaluation.replica import Sides
from losspath.geometry.blend import blend
from losspath.geometry.blend import group_size as blend_size
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane
from losspath.methods import Method, PathGeometry
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

# A first picture of at most so many points is not kept waiting for measurements.
_FIRST_POINTS = 25

_WEIGHT_BYTES = 64 << 20  # of weights, of points that are blended in one pass


@dataclass(frozen=True)
class Places:
    """Where a surface is evaluated.

    Attributes:
        path: the states.
        method: the rule, resolved.
        plane: the path's plane.
        grid: the points.
    """

    path: StateSequence
    method: Method
    plane: Plane
    grid: Grid

    @cached_property
    def geometry(self) -> PathGeometry:
        """What the rule may know of the path."""
        return PathGeometry(self.plane.path, self.plane.residual_norms, self.grid.center)

    @cached_property
    def levels(self) -> list[Indices]:
        """Numbers of the points, level by level; see `Grid.levels`."""
        return self.grid.levels()

    def is_awaited(self, level: int) -> bool:
        """Whether someone waits for a level, so that nothing is to be measured before it."""
        return sum(len(numbers) for numbers in self.levels[: level + 1]) <= _FIRST_POINTS

    def ranges(self, size: int) -> Iterator[tuple[int, Indices]]:
        """Level and numbers of points to evaluate together, at most `size`, in order."""
        for level, numbers in enumerate(self.levels):
            for start in range(0, len(numbers), size):
                yield level, numbers[start : start + size]

    def groups(
        self, size: int, done: Collection[int] = ()
    ) -> Iterator[tuple[int, Indices, Points]]:
        """Level, numbers and parameters of points to evaluate together.

        Groups never depend on what is done: a matrix product may round differently for another
        number of rows, and a surface that was stopped must equal one that was not.

        Args:
            size: at most so many points together.
            done: numbers of points that are not needed; a group that has no other is left out.
        """
        for together in self._passes(size):
            if not all(is_done(numbers, done) for _, numbers in together):
                yield from self._blended(together, done)

    def _blended(
        self, together: list[tuple[int, Indices]], done: Collection[int]
    ) -> Iterator[tuple[int, Indices, Points]]:
        """The groups of one pass over the path."""
        places, weights = self.placed(np.concatenate([numbers for _, numbers in together]))
        blended = None if weights is None else blend(self.path, self.plane, places, weights)
        start = 0
        for level, numbers in together:
            if blended is None:
                chosen = places[start : start + len(numbers)]
                points: Points = Affine(self.origin, self.plane.basis.T, chosen)
            else:
                points = Rows(np.stack(list(islice(blended, len(numbers)))))
            start += len(numbers)
            if not is_done(numbers, done):
                yield level, numbers, points

    def sides(self, bound: PathObjective, numbers: Indices) -> list[Sides] | None:
        """Side tensors of points; None where the objective has those of all of them."""
        if not bound.varies:
            return None
        places, weights = self.placed(numbers)
        return bound.sides_of_points(places, weights, self.plane.path)

    def placed(self, numbers: Indices) -> tuple[Floats, Floats | None]:
        """Where in the plane points lie, (G, 2), and the states' weights, (G, T).

        There are no weights for a flat method, whose points `origin` and the plane give.
        """
        points = self.grid.points[numbers]
        if self.method.is_flat:
            return self.method.places(points, np.empty((0, 0)), self.geometry), None
        weights = self.method.weights(points, self.geometry)
        return self.method.places(points, weights, self.geometry), weights

    @cached_property
    def origin(self) -> Floats:
        """(P,) the parameters at the plane's zero, of a flat method."""
        weights = self.method.weights(self.grid.points[:1], self.geometry)
        (origin,) = blend(self.path, self.plane, np.zeros((1, 2)), weights)
        return origin

    def _passes(self, size: int) -> Iterator[list[tuple[int, Indices]]]:
        """Groups that are blended in one pass over the path.

        All levels but the last share one where they can: the path is read as seldom as may be.
        """
        room = min(blend_size(self.plane), max(1, _WEIGHT_BYTES // (8 * len(self.path))))
        last = len(self.levels) - 1
        together: list[tuple[int, Indices]] = []
        count = 0
        for level, numbers in self.ranges(min(size, room)):
            begins_last = level == last and together and together[-1][0] < last
            if together and (begins_last or count + len(numbers) > room):
                yield together
                together, count = [], 0
            together.append((level, numbers))
            count += len(numbers)
        yield together


def is_done(numbers: Indices, done: Collection[int]) -> bool:
    """Whether all points are among those that are done."""
    return all(number in done for number in numbers.tolist())
