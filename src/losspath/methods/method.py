"""What a surface method is: a rule that lifts points of a plane into parameter space."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from losspath.arguments import described
from losspath.distances import Distance
from losspath.errors import ArgumentError
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lift:
    """The parameter vectors at which points of a plane are evaluated, and what share each has.

    Vector v is o + U·places[v] + Σ_i weights[v, i]·r_i, with the plane's origin o and basis U and
    the residuals r_i of the states, and counts with share[v] for the point point[v].

    Attributes:
        places: (V, 2) where vectors project to.
        weights: (V, T) of the states' residuals; (1, T) where all vectors have the same, so that
            they lie on a plane themselves.
        point: (V,) the number of the point, ascending.
        share: (V,) shares; those of a point sum to one.
    """

    places: Floats
    weights: Floats
    point: npt.NDArray[np.intp]
    share: Floats

    @classmethod
    def of_points(cls, places: Floats, weights: Floats) -> Lift:
        """One vector for each point."""
        return cls(places, weights, np.arange(len(places)), np.ones(len(places)))


@dataclass(frozen=True)
class Method(ABC):
    """A rule that lifts points of a plane into parameter space. Its fields are its options.

    Most are rules for the weights of the states' residuals: one vector for each point, with
    ``weights``. One that averages *losses* of several vectors overrides ``lift``, and so does one
    whose vectors do not project onto the points that they are drawn at.
    """

    name: ClassVar[str]
    vectors_at_a_point: ClassVar[int] = 1
    is_flat: ClassVar[bool] = False
    """Whether the weights are the same at every point, so that the points lie on a plane."""

    @abstractmethod
    def weights(self, points: Floats, path: Projection) -> Floats:
        """The weights of the states' residuals.

        Args:
            points: (G, 2) coordinates in the plane.
            path: the path as the plane shows it.

        Returns:
            Array (G, T).
        """

    def lift(self, points: Floats, path: Projection) -> Lift:
        """At which vectors points are evaluated, and what share each has.

        Args:
            points: (G, 2) coordinates in the plane.
            path: the path as the plane shows it.
        """
        some = points[:1] if self.is_flat else points
        weights = np.asarray(self.weights(some, path))
        if weights.shape != (len(some), len(path)):
            raise ArgumentError(
                f"expected the method {self.name} to give weights ({len(some)}, {len(path)}), one "
                f"for each point and state, got {described(weights)}"
            )
        return Lift.of_points(points, weights)

    def bind(self, path: StateSequence, plane: Plane, projection: Projection) -> Method:
        """The method with what it needs of the states themselves, beyond the projection.

        Most need nothing. What is returned has the same options.

        Args:
            path: T states of P numbers.
            plane: of two axes.
            projection: the path as the plane shows it.
        """
        return self

    def resolve(self, path: Projection) -> Method:
        """The method with options that depend on the path ("auto") replaced by their values."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Name and options, for provenance. A distance is among them where it is not the usual."""
        options: dict[str, Any] = {"name": self.name}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, Distance):
                options[field.name] = dataclasses.asdict(value) if _is_value(value) else value
            elif not _is_usual(value, field):
                options[field.name] = value.to_json()
        return options

    def describe(self) -> str:
        """The method and its options as a figure names them."""
        options = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Distance):
                options += [] if _is_usual(value, field) else [f"{field.name} {value.describe()}"]
            elif value is True:
                options.append(field.name.replace("_", " "))
            elif value != field.default or field.name == "temperature":
                shown = f"{value:.3g}" if isinstance(value, float) else str(value)
                options.append(f"{field.name} {shown}")
        return self.name + (f" ({', '.join(options)})" if options else "")


def _is_value(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _is_usual(distance: Distance, field: dataclasses.Field[Any]) -> bool:
    """Whether a distance is an option's default, bound to states or not."""
    usual = field.default
    return isinstance(usual, Distance) and distance.to_json() == usual.to_json()
