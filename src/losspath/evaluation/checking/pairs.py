"""Whether what a loss over batches returns is weighted as its caller means."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from losspath.errors import LosspathWarning, ObjectiveError
from losspath.evaluation.base import BaseObjective
from losspath.evaluation.checking.counting import far_from
from losspath.evaluation.containers import copied_array, leaves_in, map_tensors
from losspath.evaluation.data import has_size, length_of, rows_of, size_of
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.quantities import LOSS, Sum, summed
from losspath.parameters import flatten_parameters

# A loss is a mean, not a sum, where it is this share of the sum over two halves, or less.
_OF_SUM = 0.75
_ROUNDING = 1e-3
_TINY = 1e-6  # added to a weight, so that it is never zero

Pairs = dict[str, Sum]


def check_results(objective: BaseObjective) -> None:
    """Warns, and notes, where results of batches are most likely not weighted as they are meant.

    A pair is taken as (sum, weight): a weight does not move with the parameters, and both numbers
    add up over the parts of a batch. A mean is weighted by the size of the batch, which must show,
    and does not add up.

    Args:
        objective: the objective, of batches.

    Raises:
        ObjectiveError: a single number is the sum over its batch.
    """
    buffers, parts = objective.buffers, objective.data.parts()
    if buffers == "recalibrated":  # over all data, at every vector
        objective.buffers = "model"
    try:
        # The first, one in the middle, and the last, which is often smaller.
        chosen = sorted({0, len(parts) // 2, len(parts) - 1})
        _check(objective, [objective.data.load(parts[number]).args[0] for number in chosen])
    finally:
        objective.buffers = buffers


def _check(objective: BaseObjective, batches: list[Any]) -> None:
    evaluator = Evaluator(objective)
    own = torch.from_numpy(flatten_parameters(objective.model, objective.layout)).double()
    far = far_from(objective, own, 1.0)
    with evaluator.lent():
        found = [_pairs_at(objective, evaluator, own, batch) for batch in batches]
        if len(batches) > 1:
            _check_sums(objective, evaluator, (own, far, -far), batches[0])
        reason = ""
        for batch, pairs in zip(batches, found, strict=True):
            if not pairs:
                continue
            moved = [_pairs_at(objective, evaluator, vector, batch) for vector in (far, -far)]
            halves = [_pairs_at(objective, evaluator, own, half) for half in _halved(batch)]
            for name, pair in pairs.items():
                reason = reason or _doubt(pair, _named(moved, name), _named(halves, name))
    if reason:
        _tell(
            objective,
            f"the loss returns a pair, taken as (sum, weight), but {reason}",
            'return the mean alone, or a dict {"loss": mean, "accuracy": …} for several quantities',
        )
    if len(batches) > 1 and not any(LOSS in pairs for pairs in found):
        _check_sizes(objective, batches)


def _named(found: list[Pairs], name: str) -> list[Sum]:
    return [pairs[name] for pairs in found if name in pairs]


def _pairs_at(
    objective: BaseObjective, evaluator: Evaluator, vector: torch.Tensor, batch: Any
) -> Pairs:
    """The pairs that the loss returns for a batch, by name; none where it fails."""
    evaluator.write(vector)
    found = _results(objective, evaluator, batch)
    return {name: pair for name, (pair, is_pair) in found.items() if is_pair}


def _results(
    objective: BaseObjective, evaluator: Evaluator, batch: Any
) -> dict[str, tuple[Sum, bool]]:
    """What the loss returns for a batch at the vector that was written, and which are pairs."""
    try:
        result = objective.loss_fn(evaluator.replica.model, map_tensors(batch, torch.Tensor.clone))
        named = result if isinstance(result, Mapping) else {LOSS: result}
        return {
            str(name): (summed(value, 1), isinstance(value, (tuple, list)))
            for name, value in named.items()
        }
    except Exception:
        return {}
    finally:
        evaluator.restore()


def _check_sums(
    objective: BaseObjective, evaluator: Evaluator, vectors: Iterable[torch.Tensor], batch: Any
) -> None:
    """Refuses single numbers that add up over the halves of a batch, at very different vectors."""
    halves = _halved(batch)
    sums: dict[str, list[tuple[float, float]]] = {}
    for vector in vectors if halves else ():
        evaluator.write(vector)
        found = [_results(objective, evaluator, part) for part in (batch, *halves)]
        for name, (whole, is_pair) in found[0].items():
            if not is_pair and all(name in part for part in found):
                sums.setdefault(name, []).append(
                    (whole[0], sum(part[name][0][0] for part in found[1:]))
                )
    for name, pairs in sums.items():
        known = [(one, both) for one, both in pairs if np.isfinite([one, both]).all() and one]
        if len(known) > 1 and all(_is_close(one, both) for one, both in known):
            one, both = known[0]
            raise ObjectiveError(
                f"expected the {name} of a batch as a mean over its samples or as (sum, weight), "
                f"got {one:.6g} for a batch and {both:.6g} as the sum over its halves, as a sum "
                "is; return (sum, number of samples)"
            )


def _halved(batch: Any) -> list[Any]:
    """The halves of a batch whose tensors all have one entry for each sample; or nothing."""
    lengths = {length_of(leaf) for leaf in leaves_in(batch) if leaf.ndim}
    if len(lengths) != 1 or (length := lengths.pop()) < 2:
        return []

    def taken(rows: slice) -> Any:
        return map_tensors(
            batch,
            lambda tensor: rows_of(tensor, rows),
            lambda array: copied_array(array[rows] if array.ndim else array),
        )

    return [taken(slice(0, length // 2)), taken(slice(length // 2, None))]


def _doubt(pair: Sum, moved: list[Sum], halves: list[Sum]) -> str:
    """Why a pair is most likely no (sum, weight); nothing where it may be."""
    total, weight = pair
    if not np.isfinite([total, weight]).all():
        return ""
    others = [other for _, other in moved if np.isfinite(other)]
    for other in others:
        if not _is_close(other, weight):
            return (
                f"its second number is {weight:.4g} at some parameters and {other:.4g} at others, "
                "as an accuracy is"
            )
    adds = len(halves) == 2 and _is_close(sum(half[1] for half in halves), weight)
    if _TINY < weight < 1 and not adds:
        return f"its second number is {weight:.4g}, as an accuracy is"
    whole = sum(half[0] for half in halves)
    if adds and weight and abs(total) <= _OF_SUM * abs(whole):
        return (
            f"its first number is {total:.4g} for a batch and {whole:.4g} as the sum over its "
            "halves, as a mean is"
        )
    return ""


def _is_close(one: float, other: float) -> bool:
    return abs(one - other) <= _ROUNDING * max(abs(one), abs(other))


def _check_sizes(objective: BaseObjective, batches: list[Any]) -> None:
    """Means over batches are weighted by sizes, which must be there to be seen."""
    if not all(map(has_size, batches)):
        what = "batches hold no tensor or list that says how many samples they have"
    elif len({len(leaves_in(batch)) for batch in batches}) > 1:
        what = "batches hold different numbers of tensors, as lists of samples do"
    elif not _is_proportional(batches):
        what = (
            "the first tensors of batches and their targets have lengths that do not go together, "
            "as those of nodes and of graphs do"
        )
    else:
        return
    _tell(
        objective,
        f"{what}, so that it is not known how their means are weighted",
        "return (sum, weight)",
    )


def _is_proportional(batches: list[Any]) -> bool:
    """Whether batches have as many samples, one against another, as they have targets."""
    targets = []
    for batch in batches:
        rows = [leaf for leaf in leaves_in(batch) if leaf.ndim == 1]
        if not rows:
            return True
        targets.append(length_of(rows[-1]))
    sizes = [size_of(batch) for batch in batches]
    return all(
        size * targets[0] == sizes[0] * target for size, target in zip(sizes, targets, strict=True)
    )


def _tell(objective: BaseObjective, note: str, advice: str) -> None:
    objective.notes.append(note)
    warnings.warn(f"{note}; {advice}", LosspathWarning, stacklevel=5)
