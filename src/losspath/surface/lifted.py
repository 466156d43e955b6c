"""A plane lifted into parameter space: which vectors its points stand for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt

from losspath.arguments import as_floats, described
from losspath.distances import OWN as OWN_DISTANCES
from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.code import code_beside
from losspath.evaluation.execution.points import Affine
from losspath.geometry.blend import blend
from losspath.geometry.blend import group_size as blend_size
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.methods import OWN as OWN_METHODS
from losspath.methods import Lift, Method
from losspath.recording.trajectory import StateSequence
from losspath.surface.sampling import Ask
from losspath.surface.vectors import Part, on_sheets, rows_of

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_WEIGHT_BYTES = 64 << 20  # of weights, of points that are blended in one pass
_SHEET_POINTS = 256  # that are lifted together where vectors share planes


@dataclass(frozen=True)
class Group:
    """Points that are evaluated together.

    Attributes:
        numbers: (G,) which points, by the sampler's numbers.
        lift: their vectors, as the method says.
        parts: the same, to be evaluated.
        is_awaited: whether someone waits for them.
    """

    numbers: Indices
    lift: Lift
    parts: Iterable[Part]
    is_awaited: bool


class LiftedPlane:
    """Which parameter vectors the points of a plane stand for.

    A point g stands for one vector or several, as the method says. For most methods it is one,
    θ(g) = o + U g + Σ_i w_i(g) r_i, with the plane's origin o and basis U and the residuals r_i of
    the path's states off the plane.

    Args:
        path: the states.
        plane: of two axes.
        projection: the path as the plane shows it.
        method: the rule, with options that depend on the path as numbers.
    """

    def __init__(
        self, path: StateSequence, plane: Plane, projection: Projection, method: Method
    ) -> None:
        self.path, self.plane, self.projection, self.method = path, plane, projection, method

    def lift(self, points: Floats) -> Lift:
        """The vectors of points (G, 2), as coordinates and weights of states."""
        return self.method.lift(points, self.projection)

    def parameters(self, points: npt.ArrayLike) -> Iterator[Floats]:
        """Streams the parameters at points, where each is one vector.

        Args:
            points: (G, 2) coordinates in the plane.

        Yields:
            For each point in order, its parameters (P,) in float64.

        Raises:
            UnsupportedError: the method averages losses of several vectors; `vectors` has them.
        """
        for _, share, vector in self.vectors(points):
            if share != 1.0:
                raise UnsupportedError(
                    f"the method {self.method.name} has several vectors at a point; take them, "
                    "with their shares, from vectors(points)"
                )
            yield vector

    def vectors(self, points: npt.ArrayLike) -> Iterator[tuple[int, float, Floats]]:
        """Streams number of the point, share and parameters (P,) of all vectors at points."""
        places = as_points(points)
        size = self.points_at_once(blend_size(self.plane))
        for start in range(0, len(places), size):
            lift = self.lift(places[start : start + size])
            weights = lift.weights_of(np.arange(len(lift)))
            blended = blend(self.path, self.plane, lift.places, weights)
            for point, share, vector in zip(lift.point, lift.share, blended, strict=True):
                yield start + int(point), float(share), vector

    def points_at_once(self, vectors: int) -> int:
        """How many points have at most so many vectors, as whole ones and at least one.

        Vectors that share planes take no room before they are evaluated.
        """
        if self.method.has_sheets:
            return _SHEET_POINTS
        room = min(vectors, max(1, _WEIGHT_BYTES // (8 * len(self.path))))
        return max(1, room // self.method.vectors_at_a_point)

    def parts_of(self, lift: Lift) -> Iterator[Part]:
        """The vectors of a method whose points lie on a plane, or on some."""
        if self.method.is_flat:
            yield np.arange(len(lift)), Affine(self.origin, self.plane.basis.T, lift.places)
        else:
            yield from on_sheets(lift, self.path, self.plane)

    @cached_property
    def origin(self) -> Floats:
        """(P,) the parameters that project to the plane's zero, of a method that is a plane."""
        weights = self.lift(np.zeros((1, 2))).weights
        (origin,) = blend(self.path, self.plane, np.zeros((1, 2)), weights)
        return origin

    def groups(self, asks: list[Ask], size: int, done: Collection[int] = ()) -> Iterator[Group]:
        """Points to evaluate together, which share passes over the path where memory lets them.

        Groups never depend on what is done: a matrix product may round differently for another
        number of rows, and a surface that was stopped must equal one that was not.

        Args:
            asks: the points.
            size: at most so many vectors together.
            done: numbers of points that are not needed; a group that has no other is left out.
        """
        for together in self._passes(asks, size):
            if not all(is_done(ask.numbers, done) for ask in together):
                yield from self._blended(together, done)

    def parts(self, asks: list[Ask], size: int) -> Iterator[Ask]:
        """The same points, at most so many vectors at a time."""
        count = self.points_at_once(size)
        for ask in asks:
            for start in range(0, len(ask.numbers), count):
                some = slice(start, start + count)
                yield Ask(ask.numbers[some], ask.points[some], ask.is_awaited)

    def _passes(self, asks: list[Ask], size: int) -> Iterator[list[Ask]]:
        room = self.points_at_once(blend_size(self.plane))
        together: list[Ask] = []
        for ask in self.parts(asks, min(size, blend_size(self.plane))):
            if together and sum(len(one.numbers) for one in [*together, ask]) > room:
                yield together
                together = []
            together.append(ask)
        yield together

    def _blended(self, together: list[Ask], done: Collection[int]) -> Iterator[Group]:
        """The groups of one pass over the path."""
        lifts = [self.lift(ask.points) for ask in together]
        if self.method.is_flat or self.method.has_sheets:
            for ask, lift in zip(together, lifts, strict=True):
                if not is_done(ask.numbers, done):
                    yield Group(ask.numbers, lift, self.parts_of(lift), ask.is_awaited)
            return
        places = np.concatenate([lift.places for lift in lifts])
        weights = np.concatenate([lift.weights for lift in lifts])
        blended = blend(self.path, self.plane, places, weights)
        for ask, lift in zip(together, lifts, strict=True):
            rows = rows_of(islice(blended, len(lift)))
            if not is_done(ask.numbers, done):
                yield Group(ask.numbers, lift, [(np.arange(len(lift)), rows)], ask.is_awaited)


def as_points(points: npt.ArrayLike) -> Floats:
    """Coordinates (G, 2) in a plane.

    Raises:
        ArgumentError: another shape, or numbers that are not finite.
    """
    places: Floats = as_floats("points", "numbers (G, 2)", points)
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise ArgumentError(
            f"expected points as finite coordinates (G, 2) in the plane, got {described(points)}; "
            "coordinates of states are what plane.project(states) gives"
        )
    return places


def is_done(numbers: Indices, done: Collection[int]) -> bool:
    """Whether all points are among those that are done."""
    return all(number in done for number in numbers.tolist())


def codes_of(method: Method) -> list[str]:
    """The code of a method and its distance where they are not the package's own."""
    distance = getattr(method, "distance", None)
    distance = getattr(distance, "option", distance)  # that is bound to states
    own = {*OWN_METHODS, *OWN_DISTANCES}
    kinds = [type(rule) for rule in (method, distance) if rule is not None]
    return [code_beside(kind) for kind in kinds if kind not in own]
