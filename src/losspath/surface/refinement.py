"""Where a surface is not yet known: points of nested grids, which others predict or do not.

Each grid has about twice as many lines as the one before. A point is predicted from the coarser
grid by cubic interpolation through the four nearest lines of each axis, the interpolating
subdivision of Deslauriers and Dubuc [1]. The surprise, by how much what was found there differs,
says how far off points of the next grid can be: where the surface is smooth, surprises fall to a
sixteenth from grid to grid, at a cliff they stay. Points are evaluated where that is more than a
tolerance, as in multiresolution schemes for shocks [2], and all others are interpolated. As a ridge
can lie between the points of a coarse grid, no cell of two grids before the last is left before one
point inside it was looked at; where that is a surprise, the cell is gone through.

References:
    [1] G. Deslauriers and S. Dubuc, "Symmetric iterative interpolation processes", Constructive
    Approximation 5 (1989) 49-68.
    [2] A. Harten, "Adaptive multiresolution schemes for shock computations", Journal of
    Computational Physics 115 (1994) 319-338.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
Lines = tuple[Indices, Indices]

# Lines an axis up to which all points are evaluated: coarser grids predict nothing.
_WHOLE = 9
# How much of a surprise points of the next grid, and those beside it, are expected to have: more
# than the sixteenth of a smooth surface, and as much as at a kink.
_DECAY = 0.5
_FEW = 24  # points that are not worth a pass over the path without those of the next grid
_ALL = 1.0  # the drawn range, where nothing is known
_SEED = 5  # of where cells are looked into, so that a picture is the same each time


@dataclass(frozen=True)
class Forecast:
    """What is known of a surface, and what is predicted of the rest.

    Attributes:
        heights: (m, n) found or interpolated; NaN where a point beside it is not finite.
        errors: (m, n) what interpolated heights may be off by; 0 where they were found.
        wanted: (k,) numbers of points to evaluate next, those with the largest errors first; none
            where no error is above the tolerance.
    """

    heights: Floats
    errors: Floats
    wanted: Indices


class Refinement:
    """Chooses points of a grid.

    Args:
        x: (n,) coordinates of its columns.
        y: (m,) coordinates of its rows.
    """

    def __init__(self, x: Floats, y: Floats) -> None:
        self._axes = y, x
        self.shape = len(y), len(x)
        nested = [_nested(length) for length in self.shape]
        depth = max(map(len, nested))
        self._lattices: list[Lines] = [
            (nested[0][min(k, len(nested[0]) - 1)], nested[1][min(k, len(nested[1]) - 1)])
            for k in range(depth)
        ]
        self._cells = self._make_cells()

    @property
    def first(self) -> Indices:
        """The numbers of the points of the coarsest grid."""
        return self._numbers(self._lattices[0]).reshape(-1)

    @property
    def whole(self) -> Indices:
        """The numbers of the other points that are always evaluated."""
        grids = [lines for lines in self._lattices if max(map(len, lines)) <= _WHOLE]
        return np.setdiff1d(
            self._numbers((grids or self._lattices)[-1 if grids else 0]), self.first
        )

    def forecast(self, heights: Floats, known: Flags, tolerance: float, top: float) -> Forecast:
        """What is known and predicted, and what to evaluate next.

        Args:
            heights: (m, n) what was found, as shares of the drawn range. Those that are not finite
                are of a kind of their own, and their border is gone after.
            known: (m, n) which points were evaluated; all of the coarsest grid.
            tolerance: an error up to this is none.
            top: heights above it are as good as it.
        """
        heights = np.where(np.isfinite(heights), heights, np.nan)
        values = heights[np.ix_(*self._lattices[0])]
        errors = np.zeros(values.shape)
        alarm = np.full(values.shape, _ALL)  # by how much points beside these were a surprise
        surprises = np.zeros(self.shape)
        wanted, worst = np.zeros(0, np.intp), np.zeros(0)
        for old, new in pairwise(self._lattices):
            step, at = _Step.between(self._axes, old, new), np.ix_(*new)
            told, there, found = step.predicted(values), known[at], heights[at]
            seen = there & step.fresh
            apart = np.where(seen, _apart(found, told, top), 0.0)
            beside, inherited = _DECAY * _widened(apart), _DECAY * step.largest(alarm)
            expected = np.where(step.fresh, np.maximum(inherited, beside), 0.0)
            expected = np.maximum(step.largest(errors), expected)
            errors = np.where(there, 0.0, expected)
            values = np.where(there, found, told)
            open_ = ~there & ((errors > tolerance) | (max(errors.shape) <= _WHOLE))
            if len(wanted) < _FEW:
                wanted = np.concatenate([wanted, self._numbers(new)[open_]])
                worst = np.concatenate([worst, errors[open_]])
            surprises[at] = np.where(seen, apart, surprises[at])
            alarm = np.where(_widened(seen) > 0, _widened(apart), inherited)
        if len(wanted) < _FEW:
            more, worse = self._beyond(known, surprises, tolerance)
            wanted, worst = np.concatenate([wanted, more]), np.concatenate([worst, worse])
        order = np.argsort(-worst, kind="stable")
        return Forecast(
            values, errors, np.array(list(dict.fromkeys(wanted[order].tolist())), np.intp)
        )

    def filled(self, values: Floats, known: Flags) -> Floats:
        """(m, n) values that were found at known points, and what they predict at others."""
        values = np.where(np.isfinite(values), values, np.nan)
        found = values[np.ix_(*self._lattices[0])]
        for old, new in pairwise(self._lattices):
            at = np.ix_(*new)
            told = _Step.between(self._axes, old, new).predicted(found)
            found = np.where(known[at], values[at], told)
        return found

    def _beyond(self, known: Flags, surprises: Floats, tolerance: float) -> tuple[Indices, Floats]:
        """Points in cells that were not looked into, or that hold a surprise, and how large."""
        looks = [look for cell, look in self._cells if not known[cell].any()]
        if looks:
            return np.array(looks, np.intp), np.zeros(len(looks))
        worst = np.zeros(self.shape)
        for cell, _ in self._cells:
            if (most := surprises[cell].max()) > tolerance:
                worst[cell] = np.maximum(worst[cell], most)
        inside = np.zeros(self.shape, bool)
        inside[np.ix_(*self._lattices[max(len(self._lattices) - 2, 0)])] = True
        found = np.flatnonzero((worst > 0) & inside & ~known)
        return found, worst.reshape(-1)[found]

    def _numbers(self, lines: Lines) -> Indices:
        """(r, c): the numbers of a grid's points."""
        rows, columns = lines
        numbers: Indices = rows[:, None] * self.shape[1] + columns[None]
        return numbers

    def _make_cells(self) -> list[tuple[tuple[Indices, ...], int]]:
        """For each cell of the grid two before the last, its points and the one to look at."""
        generator = np.random.default_rng(_SEED)
        rows, columns = self._lattices[max(len(self._lattices) - 3, 0)]
        cells = []
        for top, bottom in pairwise(rows.tolist()):
            for left, right in pairwise(columns.tolist()):
                inside = np.zeros(self.shape, bool)
                inside[top : bottom + 1, left : right + 1] = True
                inside[np.ix_((top, bottom), (left, right))] = False
                if inside.any():
                    look = int(generator.choice(np.flatnonzero(inside)))
                    cells.append((np.nonzero(inside), look))
        return cells


@dataclass(frozen=True)
class _Step:
    """From a grid to the next.

    Attributes:
        fresh: (r, c) which points the grid before has not.
        cubic: for each axis, (new, old) weights of the four nearest lines.
        corners: for each axis, (new, old) weights of the two nearest lines.
    """

    fresh: Flags
    cubic: tuple[Floats, Floats]
    corners: tuple[Floats, Floats]

    @classmethod
    def between(cls, axes: tuple[Floats, Floats], old: Lines, new: Lines) -> _Step:
        places = [(axis[o], axis[n]) for axis, o, n in zip(axes, old, new, strict=True)]
        first, second = (np.isin(n, o) for n, o in zip(new, old, strict=True))
        cubic, corners = (
            (_lagrange(*places[0], count), _lagrange(*places[1], count)) for count in (4, 2)
        )
        return cls(~(first[:, None] & second[None]), cubic, corners)

    def predicted(self, values: Floats) -> Floats:
        """The new grid's values: cubic where the old one's are finite, else bilinear or NaN."""
        bad = ~np.isfinite(values)
        clean = np.where(bad, 0.0, values)
        found = self.cubic[0] @ clean @ self.cubic[1].T
        for weights, otherwise in (
            (self.cubic, self.corners[0] @ clean @ self.corners[1].T),
            (self.corners, np.nan),
        ):
            touched = (weights[0] != 0) @ bad.astype(float) @ (weights[1] != 0).T > 0
            found = np.where(touched, otherwise, found)
        return found

    def largest(self, values: Floats) -> Floats:
        """The largest of the old grid's values at the corners of the cell."""
        # Of a line that is one of the old ones, both are that line.
        (low, high), (left, right) = (
            (np.argmax(of > 0, axis=1), of.shape[1] - 1 - np.argmax(of[:, ::-1] > 0, axis=1))
            for of in self.corners
        )
        rows = np.maximum(values[low], values[high])
        found: Floats = np.maximum(rows[:, left], rows[:, right])
        return found


def _lagrange(old: Floats, new: Floats, count: int) -> Floats:
    """(new, old): weights of the nearest lines, of the polynomial through so many."""
    count = min(count, len(old))
    weights = np.zeros((len(new), len(old)))
    cell = np.clip(np.searchsorted(old, new, side="right") - 1, 0, max(len(old) - 2, 0))
    for row, place in enumerate(new):
        if (same := np.flatnonzero(old == place)).size:
            weights[row, same] = 1.0
            continue
        start = int(np.clip(cell[row] - (count - 2) // 2, 0, len(old) - count))
        some = old[start : start + count]
        for k in range(count):
            others = np.delete(some, k)
            weights[row, start + k] = np.prod((place - others) / (some[k] - others))
    return weights


def _apart(found: Floats, told: Floats, top: float) -> Floats:
    """How far two heights are apart; by the whole range where only one of them is a number."""
    apart = np.abs(np.minimum(found, top) - np.minimum(told, top))
    one, other = np.isnan(found), np.isnan(told)
    return np.where(one & other, 0.0, np.where(one ^ other, _ALL, apart))


def _widened(values: npt.NDArray[Any]) -> Floats:
    """The largest value of a point and its eight neighbours."""
    around = sliding_window_view(np.pad(values.astype(float), 1, mode="edge"), (3, 3))
    widest: Floats = around.max(axis=(2, 3))
    return widest


def _nested(count: int) -> list[Indices]:
    """Indices of 3, 5, 9, 17, … of `count` lines, each among the next, and at last of all."""
    nested = []
    parts = 2
    while parts < count - 1:
        nested.append(np.linspace(0, count - 1, parts + 1).round().astype(np.intp))
        parts *= 2
    return [*nested, np.arange(count)]
