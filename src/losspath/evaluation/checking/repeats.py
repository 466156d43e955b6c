"""Whether an evaluation can be repeated, and what else than its outputs a loss takes of it."""

from __future__ import annotations

from typing import Any

import torch

from losspath.errors import ObjectiveError
from losspath.evaluation.base import BaseObjective
from losspath.evaluation.checking.counting import ROUNDING, copied, counted, is_close
from losspath.evaluation.counter import copied_value
from losspath.evaluation.data import Batch, Samples, tensors_in
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.quantities import Count


def check_repeats(
    objective: BaseObjective, evaluator: Evaluator, batch: Batch, vector: torch.Tensor
) -> tuple[Count, Count, Any]:
    """Two evaluations of one vector must be equal, with one of half of it in between.

    Finds out on the way whether the loss takes more from a pass than its outputs.

    Returns:
        What was counted of the batch at the vector and at half of it, and the outputs at the
        vector; None where the objective is one of batches.
    """
    half = vector * 0.5
    evaluator.write(vector)
    first = counted(evaluator, batch)
    if isinstance(objective.data, Samples):
        outputs = evaluator.outputs(copied(batch))
        # The loss may write into what it is given. A graph is not copied: there is another pass.
        is_graph = objective.needs_gradients
        spare = evaluator.outputs(copied(batch)) if is_graph else copied_value(outputs)
        evaluator.write(half)
        at_half = evaluator.outputs(copied(batch))  # what hooks keep is of this pass by now
        evaluator.write(vector)
        objective.reads_pass = not _is_told_by(objective, evaluator, spare, batch, first)
        evaluator.write(half)
        if objective.reads_pass or is_graph:
            halved = counted(evaluator, batch)
        else:
            halved = _count_of(objective, evaluator, at_half, batch)
        evaluator.write(vector)
        second, again = one_pass(objective, evaluator, batch)
    else:
        outputs = again = None  # the losses are compared
        evaluator.write(half)
        halved = counted(evaluator, batch)
        evaluator.write(vector)
        second = counted(evaluator, batch)
    tolerance = 0.0 if objective.device.type == "cpu" else 1e-5  # sums in no fixed order
    same = all(is_close(first[name][0], second[name][0], tolerance) for name in first)
    if not same or _outputs_differ(tensors_in(outputs), tensors_in(again), tolerance):
        raise ObjectiveError(
            "two evaluations of the same state differ, so there is no surface to draw: the model "
            "is random even in evaluation mode (look for dropout or noise that ignores "
            "model.eval()), or keeps something from one call to the next (a hidden state, a "
            "counter, a cache that is changed in place): reset it in forward(). Noise that is "
            "meant can be an input, or drawn by a loss over batches after torch.manual_seed(0)"
        )
    return first, halved, outputs


def one_pass(objective: BaseObjective, evaluator: Evaluator, batch: Batch) -> tuple[Count, Any]:
    """What is counted of samples at the vector that was written, and the model's outputs.

    One forward pass, or two for a loss that takes more from a pass than its outputs.
    """
    if objective.reads_pass or objective.needs_gradients:
        return counted(evaluator, batch), evaluator.outputs(copied(batch))
    outputs = evaluator.outputs(copied(batch))
    return _count_of(objective, evaluator, copied_value(outputs), batch), outputs


def _count_of(objective: BaseObjective, evaluator: Evaluator, outputs: Any, batch: Batch) -> Count:
    try:
        return objective.count_outputs(outputs, copied(batch))
    finally:
        evaluator.restore()


def _is_told_by(
    objective: BaseObjective, evaluator: Evaluator, outputs: Any, batch: Batch, first: Count
) -> bool:
    """Whether outputs alone give the loss, after another pass: no hook keeps a part of it."""
    try:
        again = _count_of(objective, evaluator, outputs, batch)
    except Exception:
        return False
    return all(is_close(again[name][0], first[name][0], ROUNDING / 100) for name in first)


def _outputs_differ(one: list[torch.Tensor], other: list[torch.Tensor], tolerance: float) -> bool:
    return len(one) != len(other) or any(
        a.shape != b.shape
        or not torch.allclose(
            a.to(b.dtype), b, rtol=tolerance, atol=tolerance, equal_nan=b.is_floating_point()
        )
        for a, b in zip(one, other, strict=True)
    )
