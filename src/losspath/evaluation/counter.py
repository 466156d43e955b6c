"""What is counted of a batch: the loss and the metrics."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from losspath.arguments import described
from losspath.errors import ArgumentError, ObjectiveError
from losspath.evaluation.data import Batch, map_tensors, tensors_in
from losspath.evaluation.quantities import (
    ACCURACY,
    LOSS,
    UNKNOWN,
    Count,
    Evaluation,
    Metric,
    Sum,
    check_single,
    count_correct,
    summed,
)

_BY_NAME = "; a mapping is given as model(**inputs), and for model(inputs) give (inputs,)"


class BatchCounter:
    """Counts batches by a loss and metrics, either of outputs or of a model and a batch.

    Args:
        loss_fn: the loss.
        metrics: other quantities by name.
    """

    def __init__(self, loss_fn: Callable[..., Any], metrics: dict[str, Metric]) -> None:
        self.loss_fn = loss_fn
        self.metrics = metrics
        self._takes_targets = False
        self._by_batches = False

    def evaluation_of(self, counts: Iterable[Count]) -> Evaluation:
        """The evaluation of data that were counted in parts."""
        last = {name: metric.last for name, metric in self.metrics.items() if metric.last}
        return Evaluation.of(counts, last)

    def count_batch(self, model: torch.nn.Module, batch: Batch) -> Count:
        """Runs a batch through a model and sums what is measured."""
        if not self._by_batches:
            return self.count_outputs(model(*batch.args, **batch.kwargs), batch)
        (given,) = batch.args
        # The loss may write into its batch.
        others = [map_tensors(given, torch.Tensor.clone) for _ in self.metrics]
        counts = self._named_sums(self.loss_fn(model, given), batch.size)
        for (name, metric), other in zip(self.metrics.items(), others, strict=True):
            counts[name] = summed(metric.function(model, other), batch.size, f"metric {name}")
        return counts

    def _named_sums(self, result: Any, size: int) -> Count:
        if not isinstance(result, Mapping):
            return {LOSS: summed(result, size, "loss")}
        if LOSS not in result:
            raise ArgumentError(
                f'expected a loss that returns a dict to name one value "loss", got '
                f"{', '.join(map(str, result))}"
            )
        return {str(name): summed(value, size, str(name)) for name, value in result.items()}

    def count_outputs(self, outputs: Any, batch: Batch) -> Count:
        """Sums what is measured of a model's outputs."""
        outputs, targets, size = as_single(outputs), batch.targets, batch.size
        # The loss and metrics may write into what they are given: what is counted of it comes
        # first, and each has a copy of its own.
        correct = UNKNOWN if ACCURACY in self.metrics else count_correct(outputs, targets)
        given = [(outputs, targets), *(copied_value((outputs, targets)) for _ in self.metrics)]
        counts = {LOSS: summed(self.loss_of(*given[0]), size)}
        if ACCURACY not in self.metrics:
            counts[ACCURACY] = self._correct(correct, size, counts[LOSS][1])
        for (name, metric), own in zip(self.metrics.items(), given[1:], strict=True):
            counts[name] = summed(metric.function(*own), size, f"metric {name}")
        return counts

    def _correct(self, correct: Sum, size: int, weight: float) -> Sum:
        right, asked = correct
        # A loss over a smaller number of targets leaves some out; which, it alone knows.
        leaves_out = weight.is_integer() and 1 < weight < asked and weight != size
        return UNKNOWN if leaves_out else (right, asked)

    def pass_batch(self, model: torch.nn.Module, batch: Batch) -> None:
        """Runs a batch through a model for what the pass does to it."""
        if self._by_batches:
            self.loss_fn(model, batch.args[0])
        else:
            model(*batch.args, **batch.kwargs)

    def loss_with_graph(self, model: torch.nn.Module, batch: Batch) -> tuple[Any, float]:
        """The sum of a batch's losses, with torch's graph, and its weight.

        Raises:
            ObjectiveError: it is no number.
        """
        if self._by_batches:
            result = self.loss_fn(model, batch.args[0])
            result = result[LOSS] if isinstance(result, Mapping) else result
        else:
            outputs = as_single(model(*batch.args, **batch.kwargs))
            result = self.loss_of(outputs, batch.targets)
        check_single(result)
        if isinstance(result, (tuple, list)):
            total, weight = result
            return total, float(weight)
        return result * batch.size, float(batch.size)

    def loss_of(self, outputs: Any, targets: Any) -> Any:
        """What the loss function returns of a model's outputs."""
        return self.loss_fn(outputs, targets) if self._takes_targets else self.loss_fn(outputs)


def copied_value(value: Any) -> Any:
    """A deep copy, or the value itself where it cannot be copied."""
    try:
        return map_tensors(value, torch.Tensor.clone)
    except Exception:  # outputs of a class that cannot be made of its fields
        return value


def as_single(outputs: Any) -> Any:
    """Outputs of half precision in single precision; anything else as it is."""
    if isinstance(outputs, torch.Tensor) and outputs.dtype in (torch.float16, torch.bfloat16):
        return outputs.float()
    return outputs


def check_callable(name: str, of: str, value: object) -> None:
    """Refuses what is no function of outputs and targets, or of a model and a batch.

    Raises:
        ArgumentError: a class, a tensor, or what cannot be called.
    """
    make = ""
    if isinstance(value, type):
        make = f"; make one, as by {value.__name__}()"
    elif isinstance(value, torch.Tensor):
        make = "; give the function itself, and not what it returned"
    if not callable(value) or make:
        raise ArgumentError(f"expected {name} as a function of {of}, got {described(value)}{make}")


def positional(function: Callable[..., Any]) -> int | None:
    """How many positional arguments a function takes at most; None if that is not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds for each in parameters)


def failed(batch: Batch, cause: Exception) -> ObjectiveError:
    """What to raise where the model or the loss raises an error of its own."""
    shapes = _shapes((batch.args, batch.kwargs))
    if batch.targets is not None:
        shapes += f"; targets {_shapes(batch.targets)}"
    reason = str(cause).strip().splitlines()
    return ObjectiveError(
        f"the model or the loss fails on the data (tensors {shapes}): "
        f"{type(cause).__name__}: {reason[0] if reason else ''}; expected what one step of the "
        f"training loop computes of a batch{_BY_NAME if batch.kwargs else ''}"
    )


def _shapes(value: Any) -> str:
    shapes = (f"{tuple(t.shape)} {str(t.dtype)[6:]}" for t in tensors_in(value, True))
    return ", ".join(shapes) or "none"
