"""States of a path themselves: their losses, and which of them stand for the path."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.points import Rows
from losspath.evaluation.objective import Objective
from losspath.evaluation.quantities import ACCURACY, LOSS, Evaluation, columns_of
from losspath.evaluation.recorded import PathObjective, along
from losspath.geometry.spacing import spread_states as spread_states
from losspath.recording.trajectory import StateSequence
from losspath.surface.surface import StateLosses

Floats = npt.NDArray[np.float64]


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


def evaluate_states(
    path: StateSequence, objective: Objective, index: npt.NDArray[np.int64]
) -> StateLosses:
    """What is measured at states themselves, each with its own recorded buffers."""
    return losses_of(path, along(objective, path), index)


def losses_of(
    path: StateSequence, bound: PathObjective, index: npt.NDArray[np.int64]
) -> StateLosses:
    """The losses of states, by an objective that is bound to the path."""
    engine = Engine(bound.objective)
    found: list[Evaluation] = []
    for start in range(0, len(index), engine.group_size):
        group = index[start : start + engine.group_size].tolist()
        states = np.concatenate([path.read(i, i + 1) for i in group])
        sides = [bound.sides_of(i) or {} for i in group] if bound.varies else None
        for finished in engine.evaluate(Rows(states, sides), measure=False):
            found += [evaluation for _, evaluation in finished]
    values = columns_of(found)
    return StateLosses(index, values.pop(LOSS), values.pop(ACCURACY, None), values)
