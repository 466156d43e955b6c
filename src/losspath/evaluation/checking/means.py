"""Whether losses are means over samples, whatever else is in their batch."""

from __future__ import annotations

from typing import Any

import torch

from losspath.errors import ObjectiveError
from losspath.evaluation.base import BaseObjective
from losspath.evaluation.checking.counting import ROUNDING, counted, is_close, mean_of, spread
from losspath.evaluation.data import Batch, map_tensors, rows_of
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.quantities import ACCURACY, LOSS, Count

_HALF_ROUNDING = 1e-2

WHOLE = (
    "what is of a whole batch (contrastive, ranking, a shared graph) goes through "
    "Objective.of_batches(model, [batch, ...], loss)"
)


def check_means(
    objective: BaseObjective,
    evaluator: Evaluator,
    batch: Batch,
    vector: torch.Tensor,
    whole: Count,
    outputs: Any,
    moves: dict[str, float],
) -> None:
    """Refuses losses that are no means over samples, and outputs that depend on their neighbours.

    Args:
        objective: the objective.
        evaluator: where the vector is written.
        batch: what is evaluated.
        vector: the vector.
        whole: what was counted of the batch there.
        outputs: the model's there.
        moves: how far each mean moves between very different parameters.

    Raises:
        ObjectiveError: the batch's means are not those of its parts.
    """
    if batch.size < 2:
        return
    evaluator.write(vector)
    third = max(1 if batch.size < 4 else 2, batch.size // 3)
    parts = [taken(batch, slice(0, third)), taken(batch, slice(third, None))]
    sums = [counted(evaluator, part) for part in parts]
    is_rows = isinstance(outputs, torch.Tensor) and outputs.shape[:1] == (batch.size,)
    if is_rows and objective.takes_one_tensor and not objective.reads_pass:
        _check_loss(evaluator, outputs, batch, moves)
    _check_mean(objective, whole, sums, "batch", outputs, batch, moves)


def _check_loss(
    evaluator: Evaluator, outputs: torch.Tensor, batch: Batch, moves: dict[str, float]
) -> None:
    """One by one: a mean with weights of its own hides in large parts."""
    count = min(batch.size, 64) // 2 * 2
    few = spread(batch.size, count, batch.targets)

    def count_some(some: torch.Tensor) -> Count:
        try:
            return evaluator.objective.count_outputs(outputs[some], taken(batch, some))
        finally:
            evaluator.restore()

    for size in (1, 2):  # a squeeze() may leave nothing of one
        try:
            parts = [count_some(some) for some in torch.split(few, size)]
        except Exception:
            continue
        _check_mean(evaluator.objective, count_some(few), parts, "loss", outputs, batch, moves)
        return


def _check_mean(
    objective: BaseObjective,
    whole: Count,
    parts: list[Count],
    what: str,
    outputs: Any,
    batch: Batch,
    moves: dict[str, float],
) -> None:
    is_half = not objective.widens or torch.is_autocast_enabled(objective.device.type)
    tolerance = _HALF_ROUNDING if is_half else ROUNDING
    for name in whole:
        if name == ACCURACY:
            continue
        mean = mean_of([whole[name]])
        again = mean_of([part[name] for part in parts])
        if is_close(mean, again, tolerance, None if is_half else moves.get(name)):
            continue
        subject = "loss_fn" if name == LOSS else f"metric {name}"
        if what == "loss":
            raise ObjectiveError(
                f"expected {subject} to return a mean over samples, but it gives {mean:.6g} for a "
                f"batch and {again:.6g} as the mean over its parts; use a mean, or return "
                f"(sum, weight); {WHOLE}{_hint(objective, outputs, batch.targets)}"
            )
        raise ObjectiveError(
            f"the outputs for a sample depend on what else is in its batch ({mean:.6g} against "
            f"{again:.6g} in two parts), so the loss depends on the batch size; look for batch "
            "statistics that are used in evaluation mode, or for a mean over something else than "
            "samples, as over tokens that are not ignored: return (sum, weight) for that"
            f"; {WHOLE}{_hint(objective, outputs, batch.targets)}"
        )


def _hint(objective: BaseObjective, outputs: Any, targets: Any) -> str:
    """What to write for a loss of torch's that divides by something else than samples."""
    loss_fn = objective.loss_fn
    if getattr(loss_fn, "reduction", None) == "mean" and isinstance(targets, torch.Tensor):
        if isinstance(getattr(loss_fn, "weight", None), torch.Tensor):
            return (
                "; with class weights w that is lambda outputs, targets: (cross_entropy(outputs, "
                "targets, weight=w, reduction='sum'), w[targets].sum())"
            )
        ignored = getattr(loss_fn, "ignore_index", None)
        if ignored is not None and bool((targets == ignored).any()):
            return (
                "; with targets to ignore that is lambda outputs, targets: (cross_entropy(outputs, "
                f"targets, ignore_index={ignored}, reduction='sum'), "
                f"(targets != {ignored}).sum())"
            )
    return _broadcast(outputs, targets)


def _broadcast(outputs: Any, targets: Any) -> str:
    """A hint where outputs (N, 1) and targets (N,) make a table of N × N differences."""
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return ""
    if outputs.shape == targets.shape or targets.numel() != outputs.numel():
        return ""
    return (
        f"; outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} "
        "are broadcast against each other: give both one shape, as by outputs.squeeze(1)"
    )


def taken(batch: Batch, chosen: Any) -> Batch:
    """Some samples of a batch."""
    args, kwargs, targets = map_tensors(
        (batch.args, batch.kwargs, batch.targets), lambda tensor: rows_of(tensor, chosen)
    )
    size = len(range(batch.size)[chosen]) if isinstance(chosen, slice) else len(chosen)
    return Batch(args, kwargs, targets, size)
