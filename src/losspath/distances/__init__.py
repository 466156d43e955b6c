"""Distances between points of a plane and the states of a path, which methods take as an option.

In the plane: `Euclidean`, `Manhattan`, `Mahalanobis`. From the plane's points to the states in all
dimensions, under the same names with "-nd": `EuclideanND`, `ManhattanND`, `MahalanobisND`.

>>> from losspath.methods import Averaged
>>> Averaged("auto", distance="manhattan").describe()
'averaged (temperature auto, distance manhattan)'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from losspath.arguments import described
from losspath.discovery import classes_by_name
from losspath.distances.distance import Distance
from losspath.distances.euclidean import Euclidean, EuclideanND
from losspath.distances.mahalanobis import Mahalanobis, MahalanobisND
from losspath.distances.manhattan import Manhattan, ManhattanND
from losspath.errors import ArgumentError

__all__ = [
    "DISTANCES",
    "Distance",
    "Euclidean",
    "EuclideanND",
    "Mahalanobis",
    "MahalanobisND",
    "Manhattan",
    "ManhattanND",
    "distance_named",
]

OWN: tuple[type[Distance], ...] = (
    *(Euclidean, Manhattan, Mahalanobis),
    *(EuclideanND, ManhattanND, MahalanobisND),
)
"""The package's own, whose code counts as known: other distances are keyed by their code."""

DISTANCES: dict[str, type[Distance]] = classes_by_name(
    *(__name__, __path__, Distance, OWN),  # type: ignore[type-abstract]
)
"""By name; those in all dimensions end with "-nd"."""


def distance_named(distance: str | Mapping[str, Any] | Distance) -> Distance:
    """A distance as given, or by its name with its default options, or of what `to_json` gave.

    Args:
        distance: the distance, its name among `DISTANCES`, or its name and options.

    Raises:
        ArgumentError: no distance has this name, or it has not these options.
    """
    if isinstance(distance, Distance):
        return distance
    options = dict(distance) if isinstance(distance, Mapping) else {"name": distance}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in DISTANCES:
        names = ", ".join(DISTANCES)
        raise ArgumentError(
            f"expected distance among {names}, or as an object such as Manhattan(), got "
            f"{described(distance)}"
        )
    try:
        return DISTANCES[name](**options)
    except TypeError:
        raise ArgumentError(
            f"expected options that the distance {name} has, got {', '.join(map(str, options))}"
        ) from None
