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
from losspath.recording.selection import recorded_losses
from losspath.recording.trajectory import StateSequence
from losspath.surface.surface import StateLosses

Floats = npt.NDArray[np.float64]

# Losses of so many states that differ from recorded ones by this factor are told of.
_FEW, _FACTOR = 3, 2.0


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


def loss_notes(path: StateSequence, states: StateLosses) -> dict[str, list[str]]:
    """What the losses of states say beside those that were recorded, for provenance.

    Recorded losses are of batches, with dropout and whatever training adds, so they are not the
    objective's. But a factor of two and more, where both go on along the path, mostly means another
    loss, other data or another network than the training's.

    Args:
        path: the states.
        states: losses of some, by the objective.
    """
    recorded, index = recorded_losses(path), states.index
    around = max(1, len(path) // 100)
    near = [recorded[max(0, i - around) : i + around + 1] for i in index.tolist()]
    there = np.array([np.nanmean(each) if np.isfinite(each).any() else np.nan for each in near])
    known = np.isfinite(there) & np.isfinite(states.loss)
    if not np.isfinite(states.loss).any():
        return {"loss_notes": ["the loss is finite at none of the states that were evaluated"]}
    own, there = states.loss[known], there[known]
    if len(own) < _FEW or min(own.min(), there.min()) <= 0:
        return {}
    ratio = float(np.exp(np.median(np.log(own / there))))
    if 1 / _FACTOR < ratio < _FACTOR:
        return {}
    middle = int(np.argsort(own / there)[len(own) // 2])
    told = (
        f"at state {index[known][middle]} the objective's loss is {own[middle]:.3g}, and "
        f"{there[middle]:.3g} was recorded: unless dropout or augmentation explain so much, the "
        "objective has another loss, other data or another network than training"
    )
    return {"loss_notes": [told]}
