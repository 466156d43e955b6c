"""Sets of parameter vectors, in forms whose structure an evaluation can use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from losspath.errors import ArgumentError
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
    """

    origin: Floats
    directions: Floats
    coefficients: Floats

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
        return Affine(self.origin, self.directions, self.coefficients[start:stop])

    def vectors(self) -> Floats:
        """(G, P): the points."""
        vectors: Floats = self.coefficients @ self.directions
        vectors += self.origin
        return vectors

    def changing(self, layout: Layout) -> frozenset[str]:
        """Names of the parameters that differ between points."""
        return frozenset(
            entry.name
            for entry in layout.parameters
            if np.any(self.directions[:, entry.place] != 0.0)
        )


@dataclass(frozen=True)
class Rows:
    """Points with nothing in common.

    Attributes:
        values: (G, P) parameter vectors.
    """

    values: Floats

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, stop: int) -> Rows:
        """The points start … stop−1."""
        return Rows(self.values[start:stop])

    def vectors(self) -> Floats:
        """(G, P): the points."""
        return self.values

    def changing(self, layout: Layout) -> frozenset[str]:
        """Names of the parameters: all of them."""
        return frozenset(entry.name for entry in layout.parameters)


Points = Affine | Rows
