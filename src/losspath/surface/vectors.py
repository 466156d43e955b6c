"""The vectors of points, in sets that are evaluated together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from losspath.evaluation.execution.points import Affine, Points, Rows
from losspath.geometry.blend import blend, group_size
from losspath.geometry.plane import Plane
from losspath.methods import Lift
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Part = tuple[Indices, Points]
"""Numbers of vectors, and the vectors."""

# Fewer vectors than these on a sheet are evaluated sooner as vectors with nothing in common.
_FEW = 4


def rows_of(vectors: Iterable[Floats]) -> Rows:
    """Vectors with nothing in common."""
    return Rows(np.stack(list(vectors)))


def on_sheets(lift: Lift, path: StateSequence, plane: Plane) -> Iterator[Part]:
    """A lift's vectors, those that lie on one sheet together.

    Args:
        lift: with a sheet for each vector.
        path: T states of P numbers.
        plane: that sheets are parallel to.

    Yields:
        Each vector once.
    """
    assert lift.sheet is not None
    order = np.argsort(lift.sheet, kind="stable")
    sheets = np.split(order, np.flatnonzero(np.diff(lift.sheet[order])) + 1)
    for vectors in (sheet for sheet in sheets if len(sheet) >= _FEW):
        (origin,) = blend(path, plane, np.zeros((1, 2)), lift.weights_of(vectors[:1]))
        yield vectors, Affine(origin, plane.basis.T, lift.places[vectors])
    rest = np.concatenate([*(sheet for sheet in sheets if len(sheet) < _FEW), order[:0]])
    size = group_size(plane)
    for start in range(0, len(rest), size):
        some = rest[start : start + size]
        yield some, rows_of(blend(path, plane, lift.places[some], lift.weights_of(some)))
