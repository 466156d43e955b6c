"""What a surface method is: a rule that lifts points of a plane into parameter space."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse

from losspath.arguments import described
from losspath.distances import Distance
from losspath.errors import ArgumentError
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Mean = Literal["log-loss", "loss"]
"""How losses of several vectors at a point are averaged: see `Method.is_logarithmic`."""


@dataclass(frozen=True)
class Lift:
    """The parameter vectors at which points of a plane are evaluated, and what share each has.

    Vector v is o + U·places[v] + Σ_i w_vi·r_i, with the plane's origin o and basis U, the residuals
    r_i of the states and weights w_v, and counts with share[v] for the point point[v].

    Attributes:
        places: (V, 2) where vectors project to.
        weights: (V, T) of the states' residuals; or (S, T), dense or a sparse array of scipy, of
            which vectors share rows: those of one row lie on a plane, a sheet.
        point: (V,) the number of the point, ascending.
        share: (V,) shares; those of a point sum to one.
        sheet: (V,) which row of the weights each vector has; None where each has its own, or all
            have the only one.
        buffers: (G, T) weights of the states that a point has its recorded buffers of; None where
            each vector has those of its own weights.
    """

    places: Floats
    weights: Floats | Any
    point: Indices
    share: Floats
    sheet: Indices | None = None
    buffers: Floats | None = None

    @classmethod
    def of_points(cls, places: Floats, weights: Floats) -> Lift:
        """One vector for each point."""
        return cls(places, weights, np.arange(len(places)), np.ones(len(places)))

    def __len__(self) -> int:
        """V."""
        return len(self.places)

    def weights_of(self, vectors: Indices) -> Floats:
        """(n, T) the weights of some vectors."""
        sheets = self.sheet
        if sheets is None:
            sheets = np.arange(len(self)) % self.weights.shape[0]
        rows = self.weights[sheets[vectors]]
        found: Floats = cast(Any, rows).toarray() if issparse(rows) else rows
        return found

    def buffers_of(self, vectors: Indices) -> Floats:
        """(n, T) the weights of states that some vectors have their recorded buffers of."""
        if self.buffers is None:
            return self.weights_of(vectors)
        buffers: Floats = self.buffers[self.point[vectors]]
        return buffers


@dataclass(frozen=True)
class Method(ABC):
    """A rule that lifts points of a plane into parameter space. Its fields are its options.

    Most are rules for the weights of the states' residuals: one vector for each point, with
    ``weights``. One that averages *losses* of several vectors overrides ``lift``, and so does one
    whose vectors do not project onto the points that they are drawn at.
    """

    name: ClassVar[str]
    is_flat: ClassVar[bool] = False
    """Whether the weights are the same at every point, so that the points lie on a plane."""
    has_sheets: ClassVar[bool] = False
    """Whether vectors of different points lie on common planes: see `Lift.sheet`."""

    @property
    def vectors_at_a_point(self) -> int:
        """How many vectors a point has at most."""
        return 1

    @property
    def is_logarithmic(self) -> bool:
        """Whether a point has the mean of its vectors' log-losses, where all are positive."""
        return False

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
