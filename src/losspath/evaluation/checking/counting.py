"""Counting one batch, for checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from losspath.evaluation.base import BaseObjective
from losspath.evaluation.data import Batch, map_tensors, tensors_in
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.quantities import Count, Sum

# A mean over parts may differ from the whole by the rounding of float32 sums.
ROUNDING = 1e-4
# What rounding of the loss itself may be, as a share of what a tolerance allows.
_OWN_ROUNDING = 0.02

# How many rare targets are looked for, and among how many.
_RARE = 64
_MOST_TARGETS, _WIDEST = 1 << 24, 1 << 17


def counted(evaluator: Evaluator, batch: Batch) -> Count:
    """Sums over a batch at the vector that was written."""
    try:
        return evaluator.objective.count_batch(evaluator.replica.model, copied(batch))
    finally:
        evaluator.restore()


def far_from(objective: BaseObjective, own: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Numbers beside the model's own, the same at every call.

    Args:
        objective: says which numbers are one parameter's.
        own: (P,) the model's.
        scale: how far beside, in standard deviations of each parameter; None for numbers that have
            nothing to do with the model's, as where those are not finite.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    vector = own.double().clone()
    for entry in objective.layout.parameters:
        values = vector[entry.place]
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float32, device="cpu")
        finite = torch.isfinite(values)
        if scale is None or not bool(finite.all()):
            fan_in = max(1, int(np.prod(entry.shape[1:])))
            values.copy_(noise / fan_in**0.5)
        else:
            size = float(values.pow(2).mean().sqrt()) if values.numel() else 0.0
            values.add_(noise * (scale * (size or 0.1)))
    return vector


def spread(size: int, count: int, targets: Any) -> torch.Tensor:
    """Numbers of samples from all over the data, which may be sorted, with every class among them.

    Args:
        size: how many samples there are.
        count: how many to take.
        targets: their targets; of whole numbers among them each one is taken along, at most
            `_RARE` of them and half of the samples, the rarest first.

    Returns:
        `count` numbers in order, or `size` of them where there are fewer.
    """
    count = min(size, count)
    even = torch.linspace(0, size - 1, count, dtype=torch.float64, device="cpu").long()
    if count == size or not count:
        return even
    missing: dict[int, None] = {}
    for tensor in tensors_in(targets):
        is_whole = not (tensor.is_floating_point() or tensor.is_complex())
        if is_whole and tensor.layout == torch.strided and tensor.shape[:1] == (size,):
            missing.update(dict.fromkeys(_missing(tensor.reshape(size, -1).cpu(), even)))
    chosen = list(missing)[: count // 2]
    if not chosen:
        return even
    rest = torch.linspace(
        0, size - 1, count - len(chosen), dtype=torch.float64, device="cpu"
    ).long()
    taken = dict.fromkeys([*chosen, *rest.tolist(), *even.tolist()])
    return torch.tensor(sorted(list(taken)[:count]), device="cpu")


def _missing(targets: torch.Tensor, chosen: torch.Tensor) -> list[int]:
    """A sample for each number among the targets that the chosen ones lack, the rarest first."""
    width = targets.shape[1]
    if not width or targets.numel() > _MOST_TARGETS:
        return []
    lowest, highest = int(targets.min()), int(targets.max())
    if highest - lowest > _WIDEST:  # numbers of things rather than classes
        return []
    values = targets.numpy().reshape(-1).astype(np.int64) - lowest
    counts = np.bincount(values)
    first = np.zeros(len(counts), np.int64)
    first[values[::-1]] = np.arange(len(values))[::-1]
    counts[targets[chosen].numpy().reshape(-1).astype(np.int64) - lowest] = 0
    order = np.argsort(counts, kind="stable")
    return [int(first[value]) // width for value in order[counts[order] > 0][:_RARE]]


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


def is_close(one: float, other: float, tolerance: float, moves: float | None = None) -> bool:
    """Whether two means are the same but for rounding; NaN is like NaN.

    Args:
        one: a mean.
        other: another.
        tolerance: what may differ, as a share of their size.
        moves: how much the mean moves between parameters that are tried, where that is known; a
            large constant hides nothing then, and a loss near zero is allowed what it rounds by.
    """
    if one == other or (one != one and other != other):
        return True
    size = max(abs(one), abs(other))
    if moves and np.isfinite(moves):
        size = max(min(size, moves), _OWN_ROUNDING * size, 1e-6 * min(moves, 1.0))
    return bool(abs(one - other) <= tolerance * max(size, 1e-30))
