"""Sets of parameter vectors, in forms whose structure an evaluation can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ArgumentError
from losspath.evaluation.isolation.replica import Sides
from losspath.parameters import Layout

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """Points on a line, a plane or a space of a few dimensions: origin + coefficients · directions.

    Attributes:
        origin: (P,) a parameter vector.
        directions: (k, P). Parameters along which all directions are zero are the same at every
            point, and what depends on them alone is computed once.
        coefficients: (G, k), one row for each point.
        sides: as of `Rows`.
    """

    origin: Floats
    directions: Floats
    coefficients: Floats
    sides: Sequence[Sides] | None = None

    def __post_init__(self) -> None:
        shapes = np.shape(self.origin), np.shape(self.directions), np.shape(self.coefficients)
        if [len(shape) for shape in shapes] != [1, 2, 2] or (
            shapes[1] != (shapes[2][1], shapes[0][0])
        ):
            raise ArgumentError(
                "expected an origin (P,), directions (k, P) and coefficients (G, k), got shapes "
                f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
            )

    def __len__(self) -> int:
        return len(self.coefficients)

    def part(self, start: int, stop: int) -> Affine:
        """The points start … stop−1."""
        sides = self.sides and self.sides[start:stop]
        return Affine(self.origin, self.directions, self.coefficients[start:stop], sides)

    def vectors(self) -> Floats:
        """(G, P): the points."""
        vectors: Floats = self.coefficients @ self.directions
        vectors += self.origin
        return vectors

    def changing(self, layout: Layout) -> frozenset[str]:
        """Names of the parameters and side tensors that differ between points."""
        moved = (
            entry.name
            for entry in layout.parameters
            if np.any(self.directions[:, entry.place] != 0.0)
        )
        return frozenset([*moved, *_differing(self.sides)])


@dataclass(frozen=True)
class Rows:
    """Points with nothing in common.

    Attributes:
        values: (G, P) parameter vectors.
        sides: side tensors (buffers, frozen parameters) of each point by name, where points differ
            in them; None where all have those of the objective.
    """

    values: Floats
    sides: Sequence[Sides] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, stop: int) -> Rows:
        """The points start … stop−1."""
        return Rows(self.values[start:stop], self.sides and self.sides[start:stop])

    def vectors(self) -> Floats:
        """(G, P): the points."""
        return self.values

    def changing(self, layout: Layout) -> frozenset[str]:
        """Names of the parameters, all of them, and of the side tensors that differ."""
        names = [entry.name for entry in layout.parameters]
        return frozenset([*names, *_differing(self.sides)])


Points = Affine | Rows


def sides_at(points: Points, number: int) -> Sides | None:
    """A point's side tensors; None for those of the objective."""
    return None if points.sides is None else points.sides[number]


def _differing(sides: Sequence[Sides] | None) -> list[str]:
    first, *others = sides or [{}]
    return [n for n in first if not all(_is_same(first[n], each.get(n)) for each in others)]


def _is_same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is other or one is None or other is None:
        return one is other
    return (one.shape, one.dtype) == (other.shape, other.dtype) and torch.equal(one, other)
