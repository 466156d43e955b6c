"""The points of a grid in the order in which a surface is refined, and their parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt

from losspath.evaluation.points import Affine, Points, Rows
from losspath.geometry.blend import blend
from losspath.geometry.blend import group_size as blend_size
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane
from losspath.methods import Method, PathGeometry
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

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
            if not all(number in done for _, numbers in together for number in numbers.tolist()):
                yield from self._blended(together, done)

    def _blended(
        self, together: list[tuple[int, Indices]], done: Collection[int]
    ) -> Iterator[tuple[int, Indices, Points]]:
        """The groups of one pass over the path."""
        everything = self.grid.points[np.concatenate([numbers for _, numbers in together])]
        if self.method.is_flat:
            blended = None
        else:
            weights = self.method.weights(everything, self.geometry)
            places = self.method.places(everything, weights, self.geometry)
            blended = blend(self.path, self.plane, places, weights)
        for level, numbers in together:
            if blended is not None:
                points: Points = Rows(np.stack(list(islice(blended, len(numbers)))))
            else:
                points = self.on_plane(self.grid.points[numbers])
            if not all(number in done for number in numbers.tolist()):
                yield level, numbers, points

    def on_plane(self, points: Floats) -> Affine:
        """Points of a flat method."""
        places = self.method.places(points, np.empty((0, 0)), self.geometry)
        return Affine(self.origin, self.plane.basis.T, places)

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
