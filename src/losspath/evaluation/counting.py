"""Counting one batch, for checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from losspath.errors import ObjectiveError
from losspath.evaluation.data import Batch, map_tensors, tensors_in
from losspath.evaluation.quantities import Count, Sum

if TYPE_CHECKING:
    from losspath.evaluation.evaluator import Evaluator

# A mean over parts may differ from the whole by the rounding of float32 sums.
ROUNDING = 1e-4


def counted(evaluator: Evaluator, batch: Batch) -> Count:
    """Sums over a batch at the vector that was written."""
    try:
        return evaluator.objective.count_batch(evaluator.replica.model, copied(batch))
    finally:
        evaluator.restore()


def failed(batch: Batch, cause: Exception) -> ObjectiveError:
    """What to raise where the model or the loss raises an error of its own."""
    shapes = [
        f"{tuple(t.shape)} {str(t.dtype)[6:]}" for t in tensors_in((batch.args, batch.kwargs))
    ]
    reason = str(cause).strip().splitlines()
    return ObjectiveError(
        f"the model or the loss fails on the data (tensors {', '.join(shapes) or 'none'}): "
        f"{type(cause).__name__}: {reason[0] if reason else ''}; expected what one step of the "
        "training loop computes of a batch"
    )


def copied(batch: Batch) -> Batch:
    """A copy, that a model or a loss may write to."""
    args, kwargs, targets = map_tensors(
        (batch.args, batch.kwargs, batch.targets), torch.Tensor.clone
    )
    return Batch(args, kwargs, targets, batch.size)


def mean_of(sums: list[Sum]) -> float:
    """The mean of parts that were summed."""
    weight = sum(part[1] for part in sums)
    return sum(part[0] for part in sums) / weight if weight else float("nan")


def is_close(one: float, other: float, tolerance: float) -> bool:
    """Whether two means are the same but for rounding; NaN is like NaN."""
    if one == other or (one != one and other != other):
        return True
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-6)
