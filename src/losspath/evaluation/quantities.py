"""What is measured at a parameter vector: the loss, and any other mean over the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ArgumentError, ObjectiveError

LOSS, ACCURACY = "loss", "accuracy"
SPREAD = "loss spread"
"""How far the losses of several vectors at a point are apart: their weighted standard deviation."""

# A sum over some samples, and what to divide it by, together with others'.
Sum = tuple[float, float]
Count = dict[str, Sum]
Last = Callable[[float], float]


@dataclass(frozen=True)
class Evaluation:
    """What one parameter vector gives.

    Attributes:
        loss: the mean loss; it may be NaN or infinite.
        accuracy: the share of targets that are the class with the largest output; None where
            that is not known.
        metrics: other named quantities.
    """

    loss: float
    accuracy: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """Everything that is known, by name: the loss, the accuracy, other quantities."""
        return named_values(self.loss, self.accuracy, self.metrics)

    @classmethod
    def of(cls, counts: Iterable[Count], last: Mapping[str, Last] | None = None) -> Evaluation:
        """The evaluation of samples that were counted in parts.

        Args:
            counts: sums and weights by name.
            last: functions of the means, by name.
        """
        sums: dict[str, list[float]] = {LOSS: [0.0, 0.0]}
        for count in counts:
            for name, (total, weight) in count.items():
                whole = sums.setdefault(name, [0.0, 0.0])
                whole[0] += total
                whole[1] += weight
        means = {
            name: total / weight if weight else float("nan")
            for name, (total, weight) in sums.items()
        }
        for name, function in (last or {}).items():
            if name in means:
                try:
                    means[name] = float(function(means[name]))
                except OverflowError:  # as math.exp of a large loss
                    means[name] = float("inf")
                except Exception as cause:
                    raise ObjectiveError(
                        f"the last function of metric {name} fails on its mean {means[name]:.6g}: "
                        f"{type(cause).__name__}: {cause}; expected one of a number that returns a "
                        "number"
                    ) from cause
        if not sums.get(ACCURACY, [0.0, 0.0])[1] > 0:  # nothing was asked, or it is not known
            means.pop(ACCURACY, None)
        return cls(means.pop(LOSS), means.pop(ACCURACY, None), means)

    @classmethod
    def mean(
        cls, evaluations: Sequence[Evaluation], shares: Sequence[float], logarithmic: bool = False
    ) -> Evaluation:
        """The mean of several, each with its share; what one of them lacks is left out.

        Args:
            evaluations: at least one.
            shares: that sum to one.
            logarithmic: whether the loss is the geometric mean, where all are above zero.
        """
        if len(evaluations) == 1:
            return evaluations[0]

        def weighted(values: Iterable[float]) -> float:
            return sum(share * value for share, value in zip(shares, values, strict=True))

        losses = [each.loss for each in evaluations]
        loss = weighted(losses)
        if logarithmic and all(0.0 < each < math.inf for each in losses):
            loss = math.exp(weighted(map(math.log, losses)))
        accuracies = [each.accuracy for each in evaluations]
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        names = set.intersection(*(set(each.metrics) for each in evaluations))
        return cls(
            loss=loss,
            accuracy=weighted(known) if len(known) == len(accuracies) else None,
            metrics={
                name: weighted(each.metrics[name] for each in evaluations) for name in sorted(names)
            },
        )

    def with_spread_of(
        self, evaluations: Sequence[Evaluation], shares: Sequence[float]
    ) -> Evaluation:
        """The same with `SPREAD` among its metrics, in the loss's own unit.

        It is √Σ s (L − Σ s L)², infinite where a loss is.

        Args:
            evaluations: what it is made of.
            shares: that sum to one.
        """
        losses = [(share, each.loss) for share, each in zip(shares, evaluations, strict=True)]
        middle = sum(share * loss for share, loss in losses)
        parts = (math.sqrt(share) * (loss - middle) for share, loss in losses)
        spread = math.inf if math.isinf(middle) else math.hypot(*parts)
        return replace(self, metrics={**self.metrics, SPREAD: spread})


T = TypeVar("T")


def named_values(loss: T, accuracy: T | None, metrics: Mapping[str, T]) -> dict[str, T]:
    """Loss, accuracy where it is known, and metrics, by name."""
    known = {} if accuracy is None else {ACCURACY: accuracy}
    return {LOSS: loss, **known, **metrics}


def value_named(values: Mapping[str, T], name: str, what: str = "quantity") -> T:
    """One of several values by its name.

    Raises:
        ArgumentError: there is none of that name; it says which there are.
    """
    if name not in values:
        raise ArgumentError(
            f"expected {what} as one of {', '.join(values)}, got {name!r}; what else is "
            "measured is named by Objective(metrics={name: function})"
        )
    return values[name]


def columns_of(evaluations: Sequence[Evaluation]) -> dict[str, npt.NDArray[np.float64]]:
    """By name, (k,) a quantity of each evaluation; NaN where one lacks it."""
    names = dict.fromkeys(name for each in evaluations for name in each.values)
    return {
        name: np.array([each.values.get(name, np.nan) for each in evaluations])
        for name in (LOSS, *(name for name in names if name != LOSS))
    }


@dataclass(frozen=True)
class Metric:
    """A named quantity beside the loss.

    Attributes:
        function: called as the loss is; returns a mean or a pair (sum, weight).
        last: a function of its mean over all data, as `math.exp` for perplexity; None for none.
    """

    function: Callable[..., Any]
    last: Last | None = None


def metrics_of(metrics: Mapping[str, Any] | None) -> dict[str, Metric]:
    """Metrics as callers give them: by name, a function or a pair (function, last function)."""
    found: dict[str, Metric] = {}
    for name, given in (metrics or {}).items():
        pair = given if isinstance(given, tuple) else (given, None)
        fits = len(pair) == 2 and callable(pair[0]) and (pair[1] is None or callable(pair[1]))
        if not fits or name in (LOSS, SPREAD) or not isinstance(name, str):
            raise ArgumentError(
                f"expected metrics as functions, or pairs (function, last function), by names "
                f"other than {LOSS!r} and {SPREAD!r}; got {given!r} as {name!r}"
            )
        found[name] = Metric(*pair)
    return found


def summed(result: Any, size: int, what: str = "loss_fn") -> Sum:
    """The sum and the weight of what a loss or metric returned for a batch.

    Args:
        result: a mean, or a pair (sum, weight).
        size: how many samples a mean is over.
        what: whose result it is.

    Raises:
        ObjectiveError: it is something else.
    """
    check_single(result, what)
    try:
        if isinstance(result, (tuple, list)):
            total, weight = map(_number, result)
            if weight < 0:
                raise ObjectiveError(
                    f"expected {what} to return a pair (sum, weight) with a weight that is not "
                    f"negative, got {weight:.6g}; return the mean alone, or name several "
                    "quantities in a dict"
                )
            return total, weight
        return _number(result) * size, float(size)
    except (TypeError, ValueError, RuntimeError):
        raise ObjectiveError(
            f"expected {what} to return one mean or a pair (sum, weight), got "
            f"{type(result).__name__}"
        ) from None


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def check_single(result: Any, what: str = "loss_fn") -> None:
    """Raises `ObjectiveError` for a tensor of several numbers."""
    if isinstance(result, torch.Tensor) and result.numel() != 1:
        raise ObjectiveError(
            f"expected {what} to return one mean or a pair (sum, weight), got a tensor of "
            f"shape {tuple(result.shape)}; take its mean, or of a model's output that has a loss "
            "in it return output.loss"
        )


UNKNOWN: Sum = (0.0, float("nan"))


def count_correct(outputs: Any, targets: Any) -> Sum:
    """How many targets are the class with the largest output, and how many there are.

    For class indices as targets, and outputs with one dimension more, of two columns or more: the
    second (N, K, …), as in torch's losses, or else the last (N, …, K). `UNKNOWN` where both fit, or
    where a target is no column: what the outputs mean is then the caller's to say.
    """
    axis = class_axis(outputs, targets)
    if axis is None:
        return UNKNOWN
    targets = targets.long()  # torch lacks the largest of some unsigned types
    asked = targets >= 0  # negative targets are how losses are told to ignore a position
    right = (outputs.argmax(dim=axis) == targets) & asked
    return float(right.sum()), float(asked.sum())


def class_axis(outputs: Any, targets: Any) -> int | None:
    """The axis of outputs that has a score for each class; None where targets do not tell.

    Args:
        outputs: of a model.
        targets: what they are compared with: see `count_correct`.
    """
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return None
    if outputs.dim() != targets.dim() + 1 or targets.dim() == 0:
        return None
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        return None
    if not outputs.is_floating_point():
        return None
    rests = {1: outputs.shape[:1] + outputs.shape[2:], outputs.dim() - 1: outputs.shape[:-1]}
    axes = [axis for axis, rest in rests.items() if rest == targets.shape]
    if len(axes) != 1:
        return None
    columns = outputs.shape[axes[0]]
    if columns < 2 or (targets.numel() and int(targets.long().max()) >= columns):
        return None
    return axes[0]
