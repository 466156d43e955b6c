"""Which states stand for a path."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from losspath.arguments import checked, count

Floats = npt.NDArray[np.float64]

_COUNT = count(2, 1_000_000)
_DISTANCES = 1 << 22  # between states and places along the path, looked at together


@checked(count=_COUNT)
def spread_states(path: Floats, count: int) -> npt.NDArray[np.int64]:
    """Indices of at most `count` states, evenly by arc length, the first and last among them."""
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    wanted = np.linspace(0.0, along[-1], count)
    nearest: set[int] = set()
    for some in np.array_split(wanted, 1 + count * len(path) // _DISTANCES):
        nearest.update(np.abs(along[None, :] - some[:, None]).argmin(axis=1).tolist())
    return np.array(sorted({0, *nearest, len(path) - 1}), np.int64)
