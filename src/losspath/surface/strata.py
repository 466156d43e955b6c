"""Vectors near a path that no picture of it was made of, and their losses."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.points import Rows
from losspath.evaluation.quantities import Evaluation
from losspath.evaluation.recorded import PathObjective
from losspath.geometry.blend import blend, group_size
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_WEIGHT_BYTES = 64 << 20  # of weights of states that are there at a time
# A ball is of the covariance of so large a part of a run, and of no fewer states.
_PART, _LEAST = 75, 5


@dataclass(frozen=True)
class Blends:
    """Vectors that are blends of a path's states.

    Attributes:
        weights: (n, T) sparse, rows that sum to one: the vectors are weights @ states.
        buffers: (n, T) sparse, the same for recorded buffers.
        block: (n,) which vectors are of one origin, and not independent of each other.
    """

    weights: csr_array
    buffers: csr_array
    block: Indices

    def __len__(self) -> int:
        return len(self.block)

    def places(self, path: Projection) -> Floats:
        """(n, 2): where they project to, as the plane is linear."""
        places: Floats = self.weights @ path.coordinates
        return places


def chords(path: Projection, count: int, generator: np.random.Generator) -> Blends:
    """Places on chords between pairs of a run's states, chosen at random.

    Args:
        path: of two states or more.
        count: how many.
        generator: where chance comes from.
    """
    rows = []
    for first, stop in _runs_of(path, count, 2, generator):
        one, other = generator.choice(np.arange(first, stop), 2, replace=False)
        alpha = generator.uniform(0.1, 0.9)
        rows.append({int(one): 1 - alpha, int(other): alpha})
    weights = _sparse(rows, len(path))
    return Blends(weights, weights, np.arange(len(rows)))


def balls(path: Projection, count: int, generator: np.random.Generator) -> Blends:
    """Draws of the path's own distribution about places of it, two at each.

    A draw is Σ_j w_j θ_j of k states in a row, with random shares w of which the sum is one and the
    sum of squares too, as they are for a state itself: draws have the mean and the covariance of
    the states, and are as far from the mean as states are where these lie in as many directions.
    Half as many places as draws, at random over the path.

    Args:
        path: of three states or more.
        count: how many draws.
        generator: where chance comes from.
    """
    rows, buffers = [], []
    for first, stop in _runs_of(path, count // 2, 3, generator):
        size = min(stop - first, max(_LEAST, (stop - first) // _PART))
        begin = int(generator.integers(first, stop - size + 1))
        for _ in range(2):
            z = generator.standard_normal(size)
            z -= z.mean()
            shares = 1 / size + z * np.sqrt((1 - 1 / size) / np.square(z).sum())
            rows.append(dict(zip(range(begin, begin + size), shares.tolist(), strict=True)))
            buffers.append({begin + size // 2: 1.0})
    pairs = np.arange(len(rows)) // 2
    return Blends(_sparse(rows, len(path)), _sparse(buffers, len(path)), pairs)


def together(parts: Sequence[Blends]) -> Blends:
    """All vectors of several, in their order."""
    weights, buffers = (vstack([getattr(p, n) for p in parts]) for n in ("weights", "buffers"))
    blocks = np.concatenate([each.block for each in parts])
    return Blends(csr_array(weights), csr_array(buffers), blocks)


def _runs_of(
    path: Projection, count: int, least: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Which run each of some choices is in, by the number of states; none of too short runs."""
    bounds = [(a, b) for a, b in pairwise([*path.starts, len(path)]) if b - a >= least]
    if not bounds:
        return []
    lengths = np.array([stop - first for first, stop in bounds])
    return [bounds[i] for i in generator.choice(len(bounds), count, p=lengths / lengths.sum())]


def _sparse(rows: Sequence[dict[int, float]], states: int) -> csr_array:
    """(n, T) of rows by state."""
    row = [number for number, each in enumerate(rows) for _ in each]
    column = [state for each in rows for state in each]
    values = [value for each in rows for value in each.values()]
    return csr_array((values, (row, column)), shape=(len(rows), states))


Known = MutableMapping[int, Evaluation]
"""What was found already, by number; what is found is put into it."""


def losses_of_blends(
    path: StateSequence,
    plane: Plane,
    projection: Projection,
    bound: PathObjective,
    blends: Blends,
    known: Known,
) -> Floats:
    """(n,) the losses of blends, with the buffers that they have.

    Args:
        path: the states.
        plane: any; blends do not depend on it but by rounding.
        projection: the path as it shows it.
        bound: the loss along the path.
        blends: the vectors.
        known: by the number of the blend; what is there is not evaluated.
    """
    engine, places = Engine(bound.objective), blends.places(projection)
    size = min(engine.group_size, group_size(plane), max(1, _WEIGHT_BYTES // (8 * len(path))))
    for start in range(0, len(blends), size):
        some = np.arange(start, min(start + size, len(blends)))
        done = {number for number in range(len(some)) if start + number in known}
        if len(done) == len(some):
            continue
        rows = blend(path, plane, places[some], blends.weights[some].toarray())
        shares = blends.buffers[some].toarray()
        sides = bound.sides_of_points(places[some], shares, projection.coordinates)
        points = Rows(np.stack(list(rows)), sides)
        for found in engine.evaluate(points, done=done, measure=False):
            for number, evaluation in found:
                known[start + number] = evaluation
    return np.array([known[number].loss for number in range(len(blends))])
