"""What a batch of the engine's is made of: samples, or whole batches of the caller's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch

from losspath.errors import UnsupportedError
from losspath.evaluation.data import Batches, Part
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.quantities import Count

# Inputs that are kept: a batch goes through all points, on each thread another one.
_KEPT = 8


class Units(Protocol):
    """Data in pieces that may be put together to batches, or may not.

    Attributes:
        count: how many there are.
        together: whether several may go through the network as one batch, and losses be taken of
            the outputs of several.
    """

    count: int
    together: bool

    def inputs(self, block: range) -> torch.Tensor:
        """What the network is given for some of them."""

    def form(self, block: range) -> tuple[Any, ...]:
        """Equal for blocks that one recorded pass stands for."""

    def parts(self, block: range) -> list[Part]:
        """Parts of the data, for the plain loop."""

    def sums(self, vector: torch.Tensor, outputs: Any, block: range, sides: Sides | None) -> Count:
        """What is counted of the outputs for a block at a vector."""


class SampleUnits:
    """Samples of an objective of one input tensor.

    Args:
        evaluator: the plain loop.
    """

    together = True

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.count = len(evaluator.objective)

    def inputs(self, block: range) -> torch.Tensor:
        """See `Units`."""
        return self._evaluator.objective.inputs_of(block.start, block.stop)

    def form(self, block: range) -> tuple[Any, ...]:
        """See `Units`."""
        return (len(block),)

    def parts(self, block: range) -> list[Part]:
        """See `Units`."""
        return [block]

    def sums(self, vector: torch.Tensor, outputs: Any, block: range, sides: Sides | None) -> Count:
        """See `Units`."""
        return self._evaluator.count(vector, outputs, block, sides)


class BatchUnits:
    """Batches of a loss of a model and a batch that calls the model with one tensor.

    The loss is run twice: up to its call of the model, for what it calls it with; and with a shell
    of the model that answers the call with outputs that are there already.

    Args:
        evaluator: the plain loop; inside `lent`.

    Raises:
        UnsupportedError: the loss does not call the model, or with something else.
    """

    together = False

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        data = evaluator.objective.data
        assert isinstance(data, Batches)
        self._data = data
        self.count = len(data.parts())
        self._lock = threading.Lock()  # a loss of one's own need not bear several threads
        self._forms: dict[int, tuple[Any, ...]] = {}
        self._kept: dict[int, torch.Tensor] = {}  # the inputs of the last few batches
        self.inputs(range(1))

    def inputs(self, block: range) -> torch.Tensor:
        """See `Units`."""
        with self._lock:
            return self._given(block.start)

    def form(self, block: range) -> tuple[Any, ...]:
        """See `Units`."""
        if block.start not in self._forms:
            inputs = self.inputs(block)
            self._forms[block.start] = (*inputs.shape, inputs.dtype)
        return self._forms[block.start]

    def parts(self, block: range) -> list[Part]:
        """See `Units`."""
        return list(block)

    def sums(self, vector: torch.Tensor, outputs: Any, block: range, sides: Sides | None) -> Count:
        """See `Units`."""
        evaluator = self._evaluator
        with self._lock:
            given = self._given(block.start)
            evaluator.replica.write(vector, sides)  # for a loss that reads the model

            def answer(*args: Any, **kwargs: Any) -> Any:
                inputs = _only(args, kwargs)
                if inputs.shape != given.shape or not torch.equal(inputs, given):
                    raise UnsupportedError("the loss calls the model with several inputs")
                return outputs.clone() if isinstance(outputs, torch.Tensor) else outputs

            try:
                shell = _shell(evaluator.replica.model, answer)
                return evaluator.objective.count_batch(shell, self._data.load(block.start))
            finally:
                evaluator.restore()

    def _given(self, number: int) -> torch.Tensor:
        """What the loss calls the model with for a batch."""
        if number not in self._kept:
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[number] = self._found(number)
        return self._kept[number]

    def _found(self, number: int) -> torch.Tensor:
        objective = self._evaluator.objective

        def stop(*args: Any, **kwargs: Any) -> Any:
            raise _CalledError(_only(args, kwargs))

        (batch,) = self._data.load(number).args
        try:
            objective.loss_fn(_shell(self._evaluator.replica.model, stop), batch)
        except _CalledError as call:
            return call.inputs
        except Exception as cause:
            raise UnsupportedError(f"the loss does not call the model alone ({cause})") from cause
        finally:
            self._evaluator.restore()
        raise UnsupportedError("the loss does not call the model")


class _CalledError(BaseException):
    """Ends a loss where it calls the model; no exception that it could take for one of its own."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs


def _only(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    if kwargs or len(args) != 1 or type(args[0]) is not torch.Tensor:
        raise UnsupportedError("the loss calls the model with something else than one tensor")
    inputs: torch.Tensor = args[0]
    return inputs


def _shell(model: torch.nn.Module, forward: Callable[..., Any]) -> torch.nn.Module:
    """The model with another forward pass and no hooks: of its class, and with its attributes.

    No subclass is made for it: a class of the caller's may note its subclasses.
    """
    shell: torch.nn.Module = object.__new__(type(model))
    hooks = {name: OrderedDict[int, Any]() for name in vars(model) if name.endswith("_hooks")}
    shell.__dict__.update({**vars(model), **hooks, "forward": forward})
    return shell


def units_of(evaluator: Evaluator) -> Units:
    """The units of an objective's data; inside `lent`.

    Raises:
        UnsupportedError: it is one of batches whose loss needs the model itself.
    """
    if isinstance(evaluator.objective.data, Batches):
        return BatchUnits(evaluator)
    return SampleUnits(evaluator)
