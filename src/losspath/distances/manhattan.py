"""The sum of the differences along the axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.spatial.distance import cdist

from losspath.arguments import count
from losspath.distances.distance import Bound, Distance, Floats, Indices, OfStates
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.geometry.spacing import spread_states
from losspath.recording.paths import States
from losspath.recording.trajectory import StateSequence

_STATES_BYTES = 64 << 20  # of states that are read together
_DISTANCE_BYTES = 64 << 20  # of distances of points for which the states are read once
_PART_BYTES = 2 << 20  # of points and states over a part of the parameters


@dataclass(frozen=True)
class Manhattan(Distance):
    """The Manhattan distance in the plane, d_i = |g₁ − p_i1| + |g₂ − p_i2|, in their unit.

    What is equally far is a square that stands on a corner, so it depends on how the axes are
    turned, though not on their signs. On an axis through a state it is the Euclidean distance,
    and on the diagonals √2 times that.
    """

    name: ClassVar[str] = "manhattan"

    def distances(self, points: Floats, path: Projection) -> Floats:
        """(G, T): |g₁ − p_i1| + |g₂ − p_i2|."""
        x = points[:, 0, None] - path.coordinates[None, :, 0]
        y = points[:, 1, None] - path.coordinates[None, :, 1]
        np.abs(x, out=x)
        x += np.abs(y, out=y)
        return x


@dataclass(frozen=True)
class ManhattanND(OfStates):
    """The Manhattan distance in all dimensions, d_i = ‖o + U g − θ_i‖₁.

    In many dimensions it tells near from far better than the Euclidean does [1]. It depends on the
    parameters' own axes, not on the plane's. Unlike squares, its terms do not split into a part
    in the plane and one off it, so a point costs P operations for each state. It is therefore
    measured to some states of the path alone; the others are left out, and have no weight. The
    distances themselves are exact, and where the path has no more states than are asked for
    nothing is left out.

    Args:
        states: to how many states at most, evenly by arc length in the plane, the first and last
            among them. A grid of G points costs G·P·states additions; at the default of 100 that
            is little beside the losses over some thousand samples. States are read again for
            each group of points.

    References:
        [1] C. C. Aggarwal, A. Hinneburg and D. A. Keim, "On the surprising behavior of distance
        metrics in high dimensional space", ICDT 2001.
    """

    name: ClassVar[str] = "manhattan-nd"
    states: int = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", count(2, 1_000_000)("states", self.states))

    def bind(self, path: StateSequence, plane: Plane, projection: Projection) -> Bound:
        """The same with the states that it is measured to."""
        chosen = np.arange(len(path))
        if len(path) > self.states:  # states that lie on each other count as often as they are
            chosen = spread_states(projection.coordinates, self.states, projection.starts)
        return _ManhattanTo(self, path, plane, chosen)


class _ManhattanTo(Bound):
    """The Manhattan distance to some states."""

    name = ManhattanND.name

    def __init__(
        self, option: ManhattanND, path: StateSequence, plane: Plane, chosen: Indices
    ) -> None:
        super().__init__(option)
        self.path, self.plane, self.chosen = path, plane, chosen

    def states_of(self, path: Projection) -> Indices:
        return self.chosen

    def points_at_once(self, path: Projection) -> int:
        return max(1, _DISTANCE_BYTES // (8 * len(path)))

    def distances(self, points: Floats, path: Projection) -> Floats:
        origin, basis = self.plane.origin, self.plane.basis
        distances = np.full((len(points), len(path)), np.inf)
        for chosen, rows in self._read():
            sums = np.zeros((len(points), len(rows)))
            length = max(1, _PART_BYTES // (8 * (len(points) + len(rows))))
            for start in range(0, len(origin), length):
                part = slice(start, start + length)
                vectors = origin[part] + points @ basis[part].T
                sums += cdist(vectors, rows[:, part].astype(np.float64), "cityblock")
            distances[:, chosen] = sums
        return distances

    def _read(self) -> Iterator[tuple[Indices, States]]:
        """States, as many at a time as fit."""
        size = self.path.parameter_count
        together = max(1, _STATES_BYTES // (self.path.dtype.itemsize * size))
        buffer = np.empty((min(together, len(self.chosen)), size), self.path.dtype)
        for start in range(0, len(self.chosen), together):
            some = self.chosen[start : start + together]
            for row, index in enumerate(some.tolist()):
                self.path.read(index, index + 1, buffer[row : row + 1])
            yield some, buffer[: len(some)]
