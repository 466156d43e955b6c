"""What a network predicts and computes at one moment of its training, or over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from losspath.analysis.activations import Activations as Activations
from losspath.analysis.activations import activations as activations
from losspath.analysis.filters import feature_maps as feature_maps
from losspath.analysis.filters import filters as filters
from losspath.analysis.filters import filters_in as filters_in
from losspath.analysis.outputs import (
    evaluating,
    passes,
    tensors_in,
)
from losspath.arguments import (
    OBJECTIVE,
    checked,
    function,
    mapping,
    optional,
    state,
    texts,
)
from losspath.errors import ArgumentError, LosspathError, UnsupportedError
from losspath.evaluation.data import Batch, Samples
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.extras import extra
from losspath.parameters import flatten_parameters

Floats = npt.NDArray[np.float64]

_COLUMN = 20  # letters, so that a table of layers has 80 across


@checked(objective=OBJECTIVE)
def architecture(objective: Objective) -> str:
    """A table of the network's layers: names, forms of their outputs, numbers of parameters.

    Args:
        objective: its model, and data whose first sample goes through it.

    Raises:
        UnsupportedError: torchinfo cannot follow the network.
    """
    vector = flatten_parameters(objective.model, objective.layout)
    with evaluating(objective, vector) as model:
        batch = next(objective.batches(1))
        try:
            found = _followed(objective, model, batch)
        except LosspathError:
            raise
        except Exception as cause:
            # torchinfo wraps what the forward pass raises, which says more.
            told = cause.__cause__ or cause
            reason = str(told).splitlines()[0] if str(told) else type(told).__name__
            raise UnsupportedError(f"torchinfo cannot follow this network: {reason}") from cause
    # torchinfo prints the name of its enumeration for "millions" from Python 3.11 on.
    return str(found).replace("Units.MEGABYTES", "M").replace("Units.GIGABYTES", "G")


def _followed(objective: Objective, model: nn.Module, batch: Batch) -> Any:
    """What torchinfo has to say of one forward pass."""
    with extra("diagnose"):
        import torchinfo

    forward = model.forward
    # torchinfo knows no more than tensors and flat tables of them: it is given those, for their
    # sizes, and the network what it takes.
    args, kwargs = batch.args, batch.kwargs
    if not isinstance(objective.data, Samples):
        args, kwargs = _arguments_of(objective, model, batch)

    def run(*_: Any) -> Any:
        with torch.set_grad_enabled(objective.needs_gradients):  # torchinfo turns them off
            return forward(*args, **kwargs)

    model.forward = run
    try:
        return torchinfo.summary(
            model,
            input_data=list(tensors_in((args, kwargs))),
            col_names=("output_size", "num_params"),
            row_settings=("var_names", "depth"),
            col_width=_COLUMN,
            verbose=0,
        )
    finally:
        del model.forward
        torchinfo.torchinfo._cached_forward_pass.clear()  # it would keep the whole network


def _arguments_of(objective: Objective, model: nn.Module, batch: Batch) -> tuple[Any, Any]:
    """What a model is called with for a batch."""
    found: list[tuple[Any, Any]] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: found.append((args, kwargs)), with_kwargs=True
    )
    try:
        objective.pass_batch(model, batch)
    finally:
        handle.remove()
    if not found:
        raise UnsupportedError("the loss does not call the model itself")
    return found[0]


@dataclass(frozen=True)
class Confusion:
    """Which classes are taken for which.

    Attributes:
        counts: (K, K): samples of class i that were taken for class j in ``counts[i, j]``.
        labels: K names.
    """

    counts: npt.NDArray[np.int64]
    labels: tuple[str, ...]

    def __repr__(self) -> str:
        size = f"{len(self.labels)} classes, {int(self.counts.sum()):,} samples"
        return f"Confusion: {size}, accuracy {self.accuracy:.1%}"

    @property
    def shares(self) -> Floats:
        """(K, K): shares of each class, summing to one along a row; NaN for a class without any."""
        totals = self.counts.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            shares: Floats = self.counts / totals
        return shares

    @property
    def accuracy(self) -> float:
        """The share of all samples on the diagonal; NaN without any."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else float("nan")


@checked(
    objective=OBJECTIVE,
    parameters=state,
    labels=optional(texts),
    predict=optional(function),
    sides=optional(mapping),
)
def confusion(
    objective: Objective,
    parameters: npt.ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    predict: Callable[[Any], torch.Tensor] | None = None,
    sides: Sides | None = None,
) -> Confusion:
    """Counts which classes a network takes for which.

    Args:
        objective: its model and data. Without `predict`, targets are classes 0 … K−1 (N,), and
            outputs (N, K) a score for each, the largest of which is the answer.
        parameters: (P,) the state of the network.
        labels: names of the classes; their numbers by default.
        predict: what makes class numbers of the model's outputs, as many as there are targets. Of
            one column of logits, for example, ``lambda outputs: outputs > 0``; of tokens
            (N, T, K), ``lambda outputs: outputs.argmax(-1)``.
        sides: buffers and frozen parameters of that state, by name; by default the model's own.

    Raises:
        UnsupportedError: the outputs are not a score for each class, or not numbers; or a target is
            no class.
        ArgumentError: as many labels as there are classes were expected, or `predict` gives
            something else than a class for each target.
    """
    predictions: list[npt.NDArray[np.int64]] = []
    right: list[npt.NDArray[np.int64]] = []
    classes = 0
    with evaluating(objective, parameters, sides) as model:
        for outputs, targets in passes(objective, model, objective.batches()):
            if targets is None:
                raise UnsupportedError(
                    "which classes are right is not known, as the objective has no targets; make "
                    "it as Objective(model, inputs, targets, loss_fn), or of batches that are "
                    'mappings with their classes under "labels"'
                )
            if predict is None:
                found, asked, classes = _predictions_of(outputs, targets)
            else:
                with _told("predict"):
                    predicted = predict(outputs)
                found, asked = _predicted(predicted, targets)
            told = asked >= 0  # negative targets are how losses are told to ignore a sample
            predictions.append(found[told])
            right.append(asked[told])
    wrong, true = np.concatenate(predictions), np.concatenate(right)
    if predict is not None:
        most = max(int(wrong.max(initial=0)), int(true.max(initial=0))) + 1
        classes = len(labels) if labels is not None else most
        if most > classes or int(wrong.min(initial=0)) < 0:
            raise ArgumentError(
                f"expected classes from 0 to {classes - 1}, as there are {classes} labels, got "
                f"{min(int(wrong.min(initial=0)), 0)} to {most - 1}"
            )
    names = tuple(labels) if labels is not None else tuple(map(str, range(classes)))
    if len(names) != classes:
        raise ArgumentError(f"expected {classes} labels, one for each class, got {len(names)}")
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (true, wrong), 1)
    return Confusion(counts, names)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Says that a function of the caller's own failed."""
    try:
        yield
    except LosspathError:
        raise
    except Exception as cause:
        raise ArgumentError(
            f"{name} fails on the model's outputs: {type(cause).__name__}: {cause}; expected a "
            "function of the outputs that returns a class for each target"
        ) from cause


def _predictions_of(
    outputs: Any, targets: Any
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """The classes with the largest scores, the right ones, and how many there are."""
    scores = scores_of(outputs)
    if not are_classes(scores, targets):
        raise UnsupportedError(
            "a confusion matrix needs a score for each of two or more classes (N, K) and classes "
            f"(N,) as targets, got outputs {form_of(scores)} and targets {form_of(targets)}; give "
            "predict=…, a function that makes class numbers of the outputs, such as "
            "lambda outputs: outputs > 0 for one column of logits, or outputs.argmax(-1) for tokens"
        )
    if bool(torch.isnan(scores).any()):
        raise UnsupportedError("outputs are NaN, which is no answer; look at an earlier state")
    classes = int(scores.shape[1])
    top = int(targets.max()) if len(targets) else 0
    if top >= classes:
        raise UnsupportedError(
            f"expected targets from 0 to {classes - 1}, as the outputs have {classes} columns, got "
            f"{top}; leave samples out that are to be ignored, or mark them by a negative target"
        )
    return _integers(scores.argmax(dim=1)), _integers(targets), classes


def scores_of(outputs: Any) -> Any:
    """Of outputs by name those that transformers, and others, call "logits"; others as they are."""
    return outputs["logits"] if isinstance(outputs, Mapping) and "logits" in outputs else outputs


def are_classes(outputs: Any, targets: Any) -> bool:
    """Whether outputs (N, K), K ≥ 2, are scores of classes, of which targets (N,) are numbers."""
    return (
        isinstance(outputs, torch.Tensor)
        and isinstance(targets, torch.Tensor)
        and outputs.dim() == 2
        and outputs.shape[1] > 1
        and targets.shape == outputs.shape[:1]
        and not (targets.is_floating_point() or targets.is_complex())
        and targets.dtype != torch.bool
    )


def _predicted(
    predictions: Any, targets: Any
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Classes that a function of the user's made of outputs, and the right ones, in one row."""
    for each, what in ((predictions, "predict to return"), (targets, "as targets")):
        if not isinstance(each, torch.Tensor) or each.is_complex():
            raise ArgumentError(f"expected {what} class numbers in a tensor, got {form_of(each)}")
        if each.is_floating_point() and bool((each != each.round()).any()):
            raise ArgumentError(f"expected {what} class numbers, got fractions or NaN")
    sizes = [[size for size in each.shape if size != 1] for each in (predictions, targets)]
    if sizes[0] != sizes[1]:
        raise ArgumentError(
            f"expected predict to return a class for each target {form_of(targets)}, got "
            f"{form_of(predictions)}"
        )
    return _integers(predictions), _integers(targets)


def _integers(values: torch.Tensor) -> npt.NDArray[np.int64]:
    array: npt.NDArray[np.int64] = values.detach().reshape(-1).long().cpu().numpy()
    return array


def form_of(value: Any) -> str:
    """What a value is, in words."""
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
