"""What the samples of a loss have each, beside their mean: from one plain evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ObjectiveError
from losspath.evaluation.counter import as_single, copied_value
from losspath.evaluation.data import Batch, Samples, map_tensors
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.points import Points, sides_at
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.quantities import LOSS, Count, Evaluation

Floats = npt.NDArray[np.float64]
Pairs = tuple[Floats, Floats]
"""(n,) sums of losses and (n,) their weights, of n samples or of n parts of the data."""

# More samples than this are put together at random into so many parts, so that memory is bounded;
# fewer parts than the other say too little of their own spread.
_MOST, _FEWEST = 1000, 8
_SEED = 0
# The samples' losses and the batch's differ by no more than this share of them, for rounding.
_SAME = 1e-4

DEVIATION, SKEWNESS, PARTS = "deviation", "skewness", "parts"


@dataclass(frozen=True)
class SampledEvaluation(Evaluation):
    """An evaluation with what its samples have each.

    Attributes:
        sums: (n,) the sum of each sample's losses, or of each part's of the data.
        weights: (n,) what to divide it by, together with others'.
    """

    sums: Floats = field(default_factory=lambda: np.zeros(0), repr=False)
    weights: Floats = field(default_factory=lambda: np.zeros(0), repr=False)


def influences(evaluation: SampledEvaluation) -> Floats:
    """(n,) by how much each sample pulls the mean loss Σs/Σw away: n (s_i − L w_i) / Σw.

    Their mean is zero, and the mean of n draws of them is how far the loss of another draw of n
    samples is from this one, to first order (exactly, where all weights are the same).
    """
    sums, weights = evaluation.sums, evaluation.weights
    pulls: Floats = (sums - evaluation.loss * weights) * len(sums) / weights.sum()
    return pulls


def with_moments(
    evaluations: Sequence[Evaluation], shares: Sequence[float], logarithmic: bool = False
) -> Evaluation:
    """The mean of several evaluations of the same samples, and how its loss varies with these.

    Args:
        evaluations: each a `SampledEvaluation`.
        shares: that sum to one.
        logarithmic: as of `Evaluation.mean`.

    Returns:
        The mean, with the metrics "deviation", the standard error of its loss by its samples;
        "skewness", that of the samples' influences; "parts", how many there are.
    """
    mean = Evaluation.mean(evaluations, shares, logarithmic)
    losses = [each.loss for each in evaluations]
    is_geometric = logarithmic and all(0.0 < loss < math.inf for loss in losses)
    sampled = [each for each in evaluations if isinstance(each, SampledEvaluation)]
    count = len(sampled[0].sums)
    variance = third = math.nan
    if all(math.isfinite(loss) for loss in losses):
        pulls: Floats = np.zeros(count)
        for each, share in zip(sampled, shares, strict=True):
            pulls += influences(each) * (mean.loss / each.loss * share if is_geometric else share)
        variance = float(np.square(pulls).sum()) / (count - 1)
        third = float(np.power(pulls, 3).mean())
    moments = {
        DEVIATION: math.sqrt(variance / count) if math.isfinite(variance) else math.nan,
        SKEWNESS: third / variance**1.5 if 0 < variance < math.inf else 0.0,
        PARTS: float(count),
    }
    return Evaluation(mean.loss, mean.accuracy, {**mean.metrics, **moments})


class SampleEngine(Engine):
    """Evaluates points one by one, each with the losses of its samples: `SampledEvaluation`.

    Samples' losses are those of the loss function on one sample's outputs: for all samples of a
    batch at once where torch can do that (`torch.func.vmap`), else one after the other. Their sum
    is held against the batch's. Where a loss is no mean of its samples' own, or where the objective
    is of batches, the batches are what is taken as samples.

    Args:
        objective: the loss, and others as of `Engine`.

    Raises:
        ObjectiveError: when points are evaluated, of an objective that has neither samples' own
            losses nor enough batches.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._splits: list[Callable[[Any, Any, int], Pairs]] = []
        if isinstance(self.objective.data, Samples):
            self._splits = [self._all_at_once, self._in_turn]
        self._is_sure = False
        count = len(self.objective)
        chosen = np.random.default_rng(_SEED).permutation(count) % _MOST
        self._part_of = chosen if count > _MOST else None

    def evaluate(
        self,
        points: Points,
        total: int | None = None,
        done: Collection[int] = (),
        measure: bool = True,
    ) -> Iterator[list[tuple[int, Evaluation]]]:
        """Evaluates points one after the other; for arguments see `Engine.evaluate`."""
        for number in range(len(points)):
            if number not in done:
                (vector,) = points.part(number, number + 1).vectors()
                yield [(number, self.at(vector, sides_at(points, number)))]

    def at(self, vector: npt.NDArray[Any], sides: Sides | None = None) -> SampledEvaluation:
        """What one parameter vector gives.

        Args:
            vector: (P,).
            sides: side tensors by name; None for those of the objective.

        Raises:
            ObjectiveError: samples have no losses of their own, and there are too few batches.
        """
        found = self._counted(vector, sides)
        while self._splits and not self._fits(*found):
            if self._is_sure:
                raise ObjectiveError(
                    "expected a loss that is the mean of its samples' losses everywhere, got one "
                    "that is it at some parameters and not at others; give it by "
                    "Objective.of_batches, whose batches are then what is drawn"
                )
            del self._splits[0]
            found = self._counted(vector, sides)
        counts, pairs = found
        evaluation = self.objective.evaluation_of(counts)
        if not self._splits or pairs is None:
            sums, weights = self._of_parts(counts)
        elif self._part_of is not None:
            sums, weights = (_summed(self._part_of, each) for each in pairs)
        else:
            sums, weights = pairs
        return SampledEvaluation(
            evaluation.loss, evaluation.accuracy, evaluation.metrics, sums, weights
        )

    def _counted(
        self, vector: npt.NDArray[Any], sides: Sides | None
    ) -> tuple[list[Count], Pairs | None]:
        """What is counted of each part of the data, and the samples' own losses of all."""
        evaluator = self._evaluator
        with evaluator.lent():
            evaluator.write(torch.from_numpy(np.require(vector, requirements="W")), sides)
            parts = self.objective.data.parts()
            found = [evaluator.with_batch(part, self._of_batch) for part in parts]
        each = [pairs for _, pairs in found if pairs is not None]
        whole = None
        if len(each) == len(found):
            sums, weights = (np.concatenate(values) for values in zip(*each, strict=True))
            whole = sums, weights
        return [count for count, _ in found], whole

    def _of_batch(self, model: torch.nn.Module, batch: Batch) -> tuple[Count, Pairs | None]:
        if not self._splits:
            return self.objective.count_batch(model, batch), None
        outputs = as_single(model(*batch.args, **batch.kwargs))
        # The loss may write into what it is given.
        own_outputs, own_targets = copied_value((outputs, batch.targets))
        count = self.objective.count_outputs(outputs, batch)
        try:
            return count, self._splits[0](own_outputs, own_targets, batch.size)
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception:  # whatever a loss does on one sample's outputs, its batches are there
            return count, None

    def _fits(self, counts: Sequence[Count], pairs: Pairs | None) -> bool:
        """Whether samples' own losses are those of their batches."""
        if pairs is None:
            return False
        total, weight = (sum(count[LOSS][which] for count in counts) for which in (0, 1))
        if not math.isfinite(total):  # nothing can be told of it
            return True
        sums, weights = pairs
        fits = abs(sums.sum() - total) <= _SAME * np.abs(sums).sum()
        fits = fits and abs(weights.sum() - weight) <= _SAME * weight
        self._is_sure |= bool(fits)
        return bool(fits)

    def _all_at_once(self, outputs: Any, targets: Any, size: int) -> Pairs:
        rows: list[torch.Tensor] = []
        map_tensors((outputs, targets), lambda each: _kept(rows, each, size))

        def one(*single: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            left = iter(single)
            return self._pair(
                *map_tensors(
                    (outputs, targets),
                    lambda each: next(left)[None] if _has_rows(each, size) else each,
                )
            )

        sums, weights = torch.func.vmap(one, randomness="different")(*rows)
        return _numbers(sums), _numbers(weights)

    def _in_turn(self, outputs: Any, targets: Any, size: int) -> Pairs:
        pairs = []
        for at in range(size):
            take = partial(_row, at=at, size=size)
            pairs.append([float(n) for n in self._pair(*map_tensors((outputs, targets), take))])
        sums, weights = np.array(pairs).T
        return sums, weights

    def _pair(self, outputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
        result = self.objective.loss_of(outputs, targets)
        total, weight = result if isinstance(result, (tuple, list)) else (result, 1.0)
        single = (torch.as_tensor(each).double().reshape(()) for each in (total, weight))
        return next(single), next(single)

    def _of_parts(self, counts: Sequence[Count]) -> Pairs:
        if len(counts) < _FEWEST:
            raise ObjectiveError(
                f"expected a loss that is the mean of its samples' losses, or {_FEWEST} batches "
                f"or more, whose losses are taken instead, got {len(counts)}; give smaller "
                "batches (batch_size), or more of them"
            )
        self._note([f"{len(counts)} batches are what is drawn, not single samples"])
        sums, weights = np.array([count[LOSS] for count in counts]).T
        return sums, weights


def _kept(rows: list[torch.Tensor], tensor: torch.Tensor, size: int) -> torch.Tensor:
    if _has_rows(tensor, size):
        rows.append(tensor)
    return tensor


def _row(tensor: torch.Tensor, at: int, size: int) -> torch.Tensor:
    return tensor[at : at + 1] if _has_rows(tensor, size) else tensor


def _has_rows(tensor: torch.Tensor, size: int) -> bool:
    return tensor.dim() > 0 and tensor.size(0) == size


def _summed(part_of: npt.NDArray[np.intp], values: Floats) -> Floats:
    return np.bincount(part_of, values, _MOST).astype(np.float64)


def _numbers(values: torch.Tensor) -> Floats:
    found: Floats = values.detach().cpu().double().numpy()
    return found
