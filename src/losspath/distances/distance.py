"""What a distance is: how far points of a plane are from the states of a path."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from losspath.arguments import described
from losspath.errors import ArgumentError
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_NUMBERS = 1 << 16  # of distances in a block: 0.5 MiB, which the cache of a core holds


@dataclass(frozen=True)
class Distance(ABC):
    """How far points of a plane are from the states of a path. Its fields are its options.

    Methods take one as their option ``distance``: `losspath.methods.Sampled` goes to the nearest
    state by it, `losspath.methods.Averaged` weighs states by it. One of your own is a frozen
    dataclass with a ``name`` and ``distances``. Two classes that measure differently need two
    names, as the name and the options are what a kept surface is known by.

    Example:
        The larger of the differences along the two axes (Chebyshev's distance):

        >>> from dataclasses import dataclass
        >>> import numpy as np
        >>> from losspath import Projection
        >>> from losspath.distances import Distance
        >>> from losspath.methods import Sampled
        >>> @dataclass(frozen=True)
        ... class Chebyshev(Distance):
        ...     name = "chebyshev"
        ...
        ...     def distances(self, points, path):
        ...         return np.abs(points[:, None] - path.coordinates[None]).max(axis=2)
        >>> states = np.array([[3.0, 3.0], [0.0, 4.0]])
        >>> path = Projection(states, np.zeros(2), total_variance=5.0, path_digest="an example")
        >>> origin = np.zeros((1, 2))
        >>> Chebyshev().distances(origin, path).tolist()
        [[3.0, 4.0]]
        >>> Sampled(distance=Chebyshev()).weights(origin, path).tolist()  # the first is nearest
        [[1.0, 0.0]]
        >>> Sampled().weights(origin, path).tolist()  # by Euclid the second is: √18 and 4
        [[0.0, 1.0]]
        >>> Sampled(distance=Chebyshev()).describe()
        'sampled (distance chebyshev)'
    """

    name: ClassVar[str]
    in_plane: ClassVar[bool] = True
    """Whether it is measured in the plane, so that it is zero between a state and its own place.
    Distances in all dimensions are those from the plane's points o + U g to the states."""

    @abstractmethod
    def distances(self, points: Floats, path: Projection) -> Floats:
        """The distances between points and states.

        Args:
            points: (G, 2) coordinates in the plane.
            path: the path as the plane shows it.

        Returns:
            Array (G, T), never negative; infinite for states that are left out.
        """

    def bind(self, path: StateSequence, plane: Plane, projection: Projection) -> Distance:
        """The same with what it needs of the states themselves, read from the path here.

        Distances that know the states by the projection alone are returned as they are.

        Args:
            path: T states of P numbers.
            plane: of two axes.
            projection: the path as the plane shows it.
        """
        return self

    def states_of(self, path: Projection) -> Indices:
        """Which states have a distance, ascending; all of them but where the path is thinned."""
        return np.arange(len(path))

    def points_at_once(self, path: Projection) -> int:
        """How many points `in_blocks` asks the distances of at a time."""
        return max(1, _NUMBERS // len(path))

    def spread(self, path: Projection) -> float:
        """How far the states are spread: the root-mean-square distance from their mean, over √2.

        In the plane's Euclidean distance this is the states' root-mean-square deviation along an
        axis. By another distance it is the same share of the path, in that distance's own unit.
        Of several runs each state counts from its own run's mean, so that it is no matter how far
        runs are from each other.
        """
        states, squares = self.states_of(path), []
        for first, stop in pairwise([*path.starts, len(path)]):
            mean = path.coordinates[first:stop].mean(axis=0, keepdims=True)
            of_run = states[(first <= states) & (states < stop)]
            ((_, distances, _),) = self.in_blocks(mean, path)
            squares.append(distances[0, of_run] ** 2)
        return float(np.sqrt(np.mean(np.concatenate(squares)) / 2))

    def in_blocks(self, points: Floats, path: Projection) -> Iterator[tuple[slice, Floats, Floats]]:
        """Streams distances, so that memory is bounded however many points and states there are.

        Args:
            points: (G, 2) coordinates in the plane.
            path: the path as the plane shows it.

        Yields:
            Which points, their distances (n, T), and the least distance of each (n,).

        Raises:
            ArgumentError: they are no distances: another shape, not a number, or negative.
        """
        size = self.points_at_once(path)
        for start in range(0, len(points), size):
            some = points[start : start + size]
            distances = np.asarray(self.distances(some, path))
            if distances.shape != (len(some), len(path)):
                raise ArgumentError(
                    f"expected the distance {self.name} to give numbers "
                    f"({len(some)}, {len(path)}), one for each point and state, got "
                    f"{described(distances)}; see losspath.distances.Distance"
                )
            least = distances.min(axis=1)
            if not (np.isfinite(least) & (least >= 0)).all():
                raise ArgumentError(
                    f"expected the distance {self.name} to give numbers ≥ 0, and a finite one for "
                    f"each point, got {least[~(np.isfinite(least) & (least >= 0))][0]} as a "
                    "point's least; see losspath.distances.Distance"
                )
            yield slice(start, start + len(some)), distances, least

    def nearest(self, points: Floats, path: Projection) -> Indices:
        """(G,): the state nearest to each point (G, 2); of states equally near, the earliest."""
        nearest = np.empty(len(points), np.intp)
        for some, distances, _ in self.in_blocks(points, path):
            nearest[some] = distances.argmin(axis=1)
        return nearest

    def to_json(self) -> dict[str, Any]:
        """Name and options, which `distance_named` makes it of again."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def describe(self) -> str:
        """The distance as a figure names it, with options that are not as usual."""
        options = [
            f"{field.name.replace('_', ' ')} {getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return self.name + (f" ({', '.join(options)})" if options else "")


@dataclass(frozen=True)
class OfStates(Distance):
    """A distance in all dimensions that needs the states themselves: see `bind`."""

    in_plane: ClassVar[bool] = False

    @abstractmethod
    def bind(self, path: StateSequence, plane: Plane, projection: Projection) -> Bound:
        """The same with what it needs of the states."""

    def distances(self, points: Floats, path: Projection) -> Floats:
        """Refused, as a projection has no states."""
        raise ArgumentError(
            f"expected the distance {self.name} with the states that it is measured to, got it "
            "without; compute_surface and Landscape give it those, and so does "
            "method.bind(path, plane, plane.projection(path))"
        )


class Bound(Distance):
    """A distance with what it needs of the states; its name and options are as without.

    Args:
        option: the distance.
    """

    in_plane: ClassVar[bool] = False

    def __init__(self, option: OfStates) -> None:
        self.option = option

    # Each is of its own states.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{self.option!r} of states"

    def to_json(self) -> dict[str, Any]:
        """Name and options."""
        return self.option.to_json()

    def describe(self) -> str:
        """The distance as a figure names it."""
        return self.option.describe()
