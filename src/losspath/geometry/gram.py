"""Principal components of few large states, by the Gram matrix of the states.

A path of T states of P numbers has at most T − 1 components, which are combinations of its states.
With G = X Xᵀ for the centred states X (T, P) and G u = λ u, a component is Xᵀ u / √λ [1, sec. 6]. G
is T × T and is summed over stretches of parameters, so that beside the plane itself no more than a
stretch of each state is in memory.

References:
    [1] L. Sirovich, "Turbulence and the dynamics of coherent structures", Quarterly of Applied
    Mathematics 45 (1987) 561-571.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from losspath.geometry.pca import (
    Axes,
    Pass,
    complete,
    determined_by,
    refuse_non_finite,
    refuse_same,
)
from losspath.recording.paths import StateSequence, columns

Floats = npt.NDArray[np.float64]

_STRETCH_BYTES = 64 << 20  # of a stretch of all states, in float64
_MOST_STATES = 2048
# Numbers of a state from which on a block of directions, which other ways need, is large: 512 MiB.
_LARGE = (512 << 20) // (7 * 8)


def is_for(path: StateSequence) -> bool:
    """Whether a path has few states that are large."""
    return path.parameter_count > _LARGE and len(path) <= _MOST_STATES


def fit(path: StateSequence, components: int) -> tuple[Floats, Axes, Pass]:
    """The mean, the principal axes, and the path along them.

    Args:
        path: T states of P numbers.
        components: k, the number of axes.

    Raises:
        PathError: a state is not finite, or all are the same.
    """
    count, size = len(path), path.parameter_count
    mean, gram, magnitude = np.empty(size), np.zeros((count, count)), 0.0
    for place, part in stretches(path):
        with np.errstate(over="ignore", invalid="ignore"):
            magnitude += float(np.sum(np.square(part)))
            # Differences from the first state keep the digits that a common offset would take.
            first = part[0].copy()
            part -= first
            middle = part.mean(axis=0)
            part -= middle
            gram += part @ part.T
        mean[place] = first + middle
    if not np.isfinite(magnitude):
        refuse_non_finite(path)
    if not gram.any():
        refuse_same(path)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    noise = float(np.finfo(path.dtype).eps) ** 2 * magnitude / count / 12
    determined, gap = determined_by(values / count, components, noise)
    coordinates, squares = np.zeros((count, components)), np.zeros(count)
    basis = np.zeros((size, components))
    scale = vectors[:, :determined] / np.sqrt(values[:determined])
    for place, part in stretches(path, mean):
        basis[place, :determined] = part.T @ scale
        coordinates += part @ basis[place]
        squares += np.sum(np.square(part), axis=1)
    # √λ of a small λ has few digits, as G has them relative to its largest.
    lengths = np.sqrt(np.sum(np.square(basis[:, :determined]), axis=0))
    basis[:, :determined] /= lengths
    coordinates[:, :determined] /= lengths
    if determined < components:
        basis = complete(basis[:, :determined], components)
    residual = _residual(path, mean, basis, coordinates)
    lengths = np.zeros(count)
    own = np.diag(gram)
    lengths[1:] = np.sqrt(np.maximum(own[1:] + own[:-1] - 2 * np.diag(gram, 1), 0.0))
    return mean, Axes(basis, determined, gap), Pass(coordinates, squares, residual, lengths)


def _residual(path: StateSequence, mean: Floats, basis: Floats, coordinates: Floats) -> float:
    """How far axes are from being eigenvectors, as `Pass` has it."""
    values = np.sum(coordinates**2, axis=0)
    off = np.zeros(len(values))
    for place, part in stretches(path, mean):
        off += np.sum(np.square(part.T @ coordinates - basis[place] * values), axis=0)
    return float(np.sqrt(off.max()) / max(values.max(), np.finfo(float).tiny))


def stretches(path: StateSequence, mean: Floats | None = None) -> Iterator[tuple[slice, Floats]]:
    """Stretches of parameters: where, and (T, n) the numbers of all states there in float64."""
    length = max(1, _STRETCH_BYTES // (8 * len(path)))
    for start in range(0, path.parameter_count, length):
        place = slice(start, min(start + length, path.parameter_count))
        part = columns(path, place.start, place.stop).astype(np.float64)
        if mean is not None:
            part -= mean[place]
        yield place, part
