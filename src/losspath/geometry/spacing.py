"""Which states stand for a path."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from losspath.arguments import checked, count
from losspath.geometry.projection import step_lengths
from losspath.recording.paths import ends_of

Floats = npt.NDArray[np.float64]

_COUNT = count(2, 1_000_000)
_STATES = 100  # that stand for a path where its extent is measured
_DISTANCES = 1 << 22  # between states and places along the path, looked at together


@checked(count=_COUNT)
def spread_states(path: Floats, count: int, starts: Sequence[int] = (0,)) -> npt.NDArray[np.int64]:
    """Indices of at most `count` states, evenly by arc length, the first and last among them.

    Args:
        path: (T, 2) their coordinates.
        count: at most so many; of several runs both ends of each in any case.
        starts: the first state of each run; from one to the next there is no length.
    """
    along = np.concatenate([[0.0], np.cumsum(step_lengths(path, starts))])
    ends = ends_of(starts, len(path))
    wanted = np.linspace(0.0, along[-1], max(2, count - len(ends) + 2))
    nearest: set[int] = set()
    for some in np.array_split(wanted, 1 + count * len(path) // _DISTANCES):
        nearest.update(np.abs(along[None, :] - some[:, None]).argmin(axis=1).tolist())
    return np.array(sorted({*nearest, *ends}), np.int64)


def extent_of(path: Floats, starts: Sequence[int] = (0,)) -> float:
    """How far a path extends: the root-mean-square deviation of its places along an axis.

    Of places evenly by arc length, so that it does not matter where training stayed for long, and
    about the mean of each run's own, so that it does not matter how far runs are from each other;
    about that of all where runs have no extent of their own.

    Args:
        path: (T, 2) coordinates of the states.
        starts: the first state of each run.
    """
    chosen = spread_states(path, _STATES, starts)
    bounds = np.searchsorted(chosen, [*starts, len(path)]).tolist()
    places = path[chosen]
    runs = [
        places[first:stop] - places[first:stop].mean(axis=0) for first, stop in pairwise(bounds)
    ]
    for deviations in (np.concatenate(runs), places - places.mean(axis=0)):
        extent = float(np.sqrt(np.mean(deviations**2)))
        if extent > 0:
            return extent
    return 0.0
