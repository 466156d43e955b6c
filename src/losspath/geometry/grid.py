"""The grid of points in a path's plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from losspath.arguments import RESOLUTION, as_floats, checked, floats, number, range_of
from losspath.errors import ArgumentError

Floats = npt.NDArray[np.float64]

# Lines closer than this, relative to the box, are one line.
_SAME = 1e-9
# An axis along which the path extends less than this, relative to the other, has no width of its
# own to draw.
_FLAT = 1e-9


@dataclass(frozen=True)
class Grid:
    """A rectangular grid.

    Attributes:
        x: (n,) increasing coordinates of the vertical lines.
        y: (m,) increasing coordinates of the horizontal lines.
    """

    x: Floats
    y: Floats

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            values = as_floats(f"grid.{name}", "a list of finite numbers", getattr(self, name))
            if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
                raise ArgumentError(
                    f"expected grid.{name} as a list of finite numbers, got {values.tolist()!s:.60}"
                )
            if np.any(np.diff(values) <= 0):
                raise ArgumentError(
                    f"expected grid.{name} to increase strictly, got {values.tolist()!s:.60}; sort "
                    "it, and leave out what is twice there"
                )
            object.__setattr__(self, name, values)

    def __repr__(self) -> str:
        sides = f"x {range_of(self.x)}, y {range_of(self.y)}"
        return f"Grid: {len(self.x)} × {len(self.y)} points, {sides}"

    @property
    def points(self) -> Floats:
        """(m·n, 2): every point, row by row (y outer, x inner), as a surface (m, n) is stored."""
        x, y = np.meshgrid(self.x, self.y)
        return np.stack([x.reshape(-1), y.reshape(-1)], axis=1)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n): lines along y, lines along x."""
        return len(self.y), len(self.x)

    def levels(self) -> list[npt.NDArray[np.intp]]:
        """The numbers of all points, from a coarse grid to this one.

        Each level with those before it is a grid of 3, 5, 9, … lines an axis, spread evenly over
        the lines there are; the last level is the rest. The order within a level is that of
        `points`.
        """
        axes = [_nested(length) for length in self.shape]
        seen = np.zeros(self.shape, bool)
        levels = []
        for level in range(max(map(len, axes))):
            rows, columns = (lines[min(level, len(lines) - 1)] for lines in axes)
            new = np.zeros(self.shape, bool)
            new[np.ix_(rows, columns)] = True
            levels.append(np.flatnonzero(new & ~seen))
            seen |= new
        return levels

    def around_places(self, places: Floats) -> npt.NDArray[np.intp]:
        """The numbers of the points that reading a surface at some places needs.

        Args:
            places: (k, 2) coordinates in the plane.

        Returns:
            Ascending: the corners of cells that have a place; none of places outside the grid.
        """
        inside, corners = np.ones(len(places), bool), []
        for values, place in zip((self.x, self.y), places.T, strict=True):
            inside &= (place >= values[0]) & (place <= values[-1])
            first = np.searchsorted(values, place, side="right")[:, None] - [1, 0]
            # The last line belongs to the last cell; a grid of one line has no second.
            first -= (place == values[-1])[:, None]
            corners.append(np.clip(first, 0, len(values) - 1))
        columns, rows = (each[inside] for each in corners)  # (k, 2) each
        wanted = np.zeros(self.shape, bool)
        wanted[rows[:, :, None], columns[:, None, :]] = True
        return np.flatnonzero(wanted)

    @classmethod
    @checked(path=floats("(T, 2)", ndim=2), resolution=RESOLUTION, margin=number(above=0))
    def around(cls, path: npt.ArrayLike, resolution: int = 19, margin: float = 0.6) -> Grid:
        """The grid around a path: even lines over its bounding box, and the start's and end's.

        Args:
            path: (T, 2) coordinates of the states.
            resolution: lines an axis, at least 3: ``resolution − 2`` even ones, then one through
                the start and one through the end. Lines that coincide are one, so an axis can
                have fewer. 19 in the thesis.
            margin: half-width of the grid as a share of the box's width; 0.6 in the thesis, which
                leaves a tenth of the box on each side.

        Returns:
            The grid. An axis along which the path does not move gets the other axis's width.

        Raises:
            ArgumentError: resolution < 3, margin ≤ 0, or coordinates that are not finite.
        """
        coordinates: Floats = np.asarray(path, np.float64)
        if coordinates.shape[1] != 2 or len(coordinates) == 0:
            raise ArgumentError(
                f"expected path coordinates (T, 2), got {coordinates.shape}; those of a path are "
                "fit_plane(path).path.coordinates"
            )
        if not np.isfinite(coordinates).all():
            raise ArgumentError("expected finite path coordinates, got some that are not finite")
        center = (coordinates.min(axis=0) + coordinates.max(axis=0)) / 2
        width = box_sides(coordinates)
        ends = coordinates[[0, -1]]
        x, y = (
            _lines(center[axis], margin * width[axis], resolution - 2, ends[:, axis])
            for axis in (0, 1)
        )
        return cls(x, y)


def box_sides(coordinates: Floats) -> Floats:
    """(2,): the sides of the box around places (k, 2), which are the units of pictures.

    A side along which they do not move is as long as the other; 1 of a single place.
    """
    sides: Floats = np.ptp(coordinates, axis=0)
    if not sides.max() > 0:
        return np.ones(2)
    return np.where(sides > _FLAT * sides.max(), sides, sides.max())


def _nested(count: int) -> list[npt.NDArray[np.intp]]:
    """Indices of 3, 5, 9, … of `count` lines, each among the next, and at last of all."""
    nested = []
    few = 3
    while 2 * few <= count + 1:
        nested.append(np.linspace(0, count - 1, few).round().astype(np.intp))
        few = 2 * few - 1
    return [*nested, np.arange(count)]


def _lines(center: float, half_width: float, count: int, through: Floats) -> Floats:
    if count == 1:
        even = np.array([center])
    else:
        even = np.linspace(center - half_width, center + half_width, count)
    # The path's own lines come first, so that a line they share with the even ones is exactly
    # theirs: the start and the end are grid points, not neighbours of grid points.
    lines: list[float] = []
    for line in (*through.tolist(), *even.tolist()):
        if all(abs(line - other) > _SAME * half_width for other in lines):
            lines.append(line)
    if len(lines) == 1:  # a single line has no width to draw
        lines += [center - half_width, center + half_width]
    return np.array(sorted(lines))
