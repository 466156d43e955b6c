"""States of a path themselves: their losses, and which of them stand for the path."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.arguments import checked, count
from losspath.evaluation.engine import Engine
from losspath.evaluation.objective import Objective
from losspath.evaluation.points import Rows
from losspath.evaluation.recorded import PathObjective, along
from losspath.recording.trajectory import StateSequence
from losspath.surface.value import StateLosses

Floats = npt.NDArray[np.float64]

_COUNT = count(2, 1_000_000)
_DISTANCES = 1 << 22  # between states and places along the path, looked at together


def check_same_network(path: StateSequence, objective: Objective) -> None:
    """Raises `ModelError` unless the path's states are of the objective's model."""
    along(objective, path)


def path_fingerprint(path: StateSequence, bound: PathObjective) -> list[object]:
    """What tells one loss from another by its values at states of a path, as JSON values."""
    return bound.fingerprint(_probed(path), probes_of(path))


def _probed(path: StateSequence) -> list[int]:
    """The first state, one in the middle and the last."""
    return sorted({0, len(path) // 2, len(path) - 1})


def probes_of(path: StateSequence) -> npt.NDArray[Any]:
    """(k, P): the first state, one in the middle and the last."""
    return np.concatenate([path.read(index, index + 1) for index in _probed(path)])


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


def evaluate_states(
    path: StateSequence, objective: Objective, index: npt.NDArray[np.int64]
) -> StateLosses:
    """The losses of states themselves, each with its own recorded buffers."""
    return losses_of(path, along(objective, path), index)


def losses_of(
    path: StateSequence, bound: PathObjective, index: npt.NDArray[np.int64]
) -> StateLosses:
    """The losses of states, by an objective that is bound to the path."""
    engine = Engine(bound.objective)
    losses: list[float] = []
    for start in range(0, len(index), engine.group_size):
        group = index[start : start + engine.group_size].tolist()
        states = np.concatenate([path.read(i, i + 1) for i in group])
        sides = [bound.sides_of(i) for i in group] if bound.varies else None
        for finished in engine.evaluate(Rows(states), measure=False, sides=sides):
            losses += [evaluation.loss for _, evaluation in finished]
    return StateLosses(index, np.array(losses))
