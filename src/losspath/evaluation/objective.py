"""The loss of a model on fixed data, as a function of its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from losspath.arguments import (
    as_numbers,
    checked,
    count,
    flag,
    mapping,
    one_of,
    optional,
    text,
)
from losspath.errors import ArgumentError
from losspath.evaluation.base import BaseObjective, Buffers
from losspath.evaluation.checking.checks import check_objective
from losspath.evaluation.checking.pairs import check_results
from losspath.evaluation.counter import as_single, check_callable, positional
from losspath.evaluation.data import (
    Batches,
    Data,
    Samples,
    as_tensors,
    map_tensors,
    narrowed,
)
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.fingerprint import fingerprint
from losspath.evaluation.isolation.evaluation_mode import random_fork
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.quantities import (
    Evaluation,
)
from losspath.evaluation.staging import stage_batches
from losspath.parameters import Layout

LossFunction = Callable[[Any, Any], Any]
BatchLoss = Callable[[torch.nn.Module, Any], Any]

_CHECKED = checked(
    batch_size=count(1),
    buffers=optional(one_of(get_args(Buffers))),
    metrics=optional(mapping),
    name=optional(text),
    check=flag,
    stage=flag,
)


class Objective(BaseObjective):
    """The mean loss of a model over fixed data, as a function of the parameters.

    Always evaluates in evaluation mode (dropout off, running statistics of normalisation layers)
    and without gradients, unless the model or the loss takes some itself. Vectors are evaluated on
    a private copy of the model, and while the loss function runs, the model's own parameters have
    the vector's numbers as well, so that penalties see it. The model's parameters, mode, buffers
    and attributes, and the global random state, are after every call what they were before.
    Forward hooks of the model run at every forward pass of the plain loop.

    A vector holds the parameters that require a gradient, or all where none does. Half precisions
    are evaluated in float32, unless the model itself casts to them.

    Args:
        model: the network.
        inputs: a tensor or array (N, …), a tuple of them, for ``model(*inputs)``, or a mapping, for
            ``model(**inputs)``; copied to the model's device once, up to 1 GiB of them.
        targets: what `loss_fn` compares outputs with: a tensor or array (N, …), a tuple or mapping
            of them, or None.
        loss_fn: ``loss_fn(outputs, targets)`` returns the mean over the samples it is given, or a
            pair (sum, weight), such as the sum of losses and the number of tokens. Anything else
            is refused. Without targets it may take the outputs alone.
        batch_size: samples evaluated at a time; 250 is near the best on CPUs.
        buffers: what buffers (running statistics, masks) vectors are evaluated with. "model": the
            model's own. "recorded": states of a recorded path each with their own, and blends of
            states with blends of them. "recalibrated": running statistics are estimated over the
            data anew at every vector. By default "recorded" for a recorded path, and "model" for a
            vector or an array.
        metrics: other quantities by name: a function as `loss_fn` is, or a pair of one and a
            function of its mean, such as ``(cross_entropy, math.exp)`` for perplexity.
        name: what to call the loss in figures and provenance; by default the function's name,
            and none where that is a lambda.
        check: hold the objective against the model as its owner uses it, on one small batch at a
            vector far from the model's own, and refuse what differs.

    Raises:
        ObjectiveError: no data, lengths that differ, two evaluations of one state that differ, a
            loss that is neither a mean nor a pair, outputs that depend on what else is in the
            batch, or losses that are not those of the model with the vector in it.

    Example:
        >>> objective = Objective(model, x, y, torch.nn.functional.cross_entropy)  # doctest: +SKIP
        >>> objective(path[-1]).loss  # doctest: +SKIP
    """

    @_CHECKED
    def __init__(
        self,
        model: torch.nn.Module,
        inputs: Any,
        targets: Any = None,
        loss_fn: LossFunction | None = None,
        *,
        batch_size: int = 250,
        buffers: Buffers | None = None,
        metrics: Mapping[str, Any] | None = None,
        name: str | None = None,
        check: bool = True,
    ) -> None:
        if loss_fn is None and callable(targets):
            raise ArgumentError(
                "expected Objective(model, inputs, targets, loss_fn), got a function in the place "
                "of the targets; for a DataLoader or batches of any other form use "
                "Objective.of_batches(model, batches, loss) with loss(model, batch)"
            )
        check_callable("loss_fn", "outputs and targets", loss_fn)
        assert loss_fn is not None
        self._begin(model, loss_fn, buffers, metrics, name, check)
        self._takes_targets = targets is not None or positional(loss_fn) != 1
        if not self.layout.is_wide:
            # NumPy makes float64 of everything; a model of single precision would refuse it. What
            # single precision cannot tell apart stays, until the model refuses it.
            inputs, targets = narrowed(inputs), narrowed(targets)
        if self._is_half:
            inputs = map_tensors(inputs, as_single)
        self.data = Samples(as_tensors(inputs), as_tensors(targets), batch_size, self.device)
        check_objective(self)

    @classmethod
    @_CHECKED
    def of_batches(
        cls,
        model: torch.nn.Module,
        batches: Any,
        loss: BatchLoss,
        *,
        batch_size: int = 250,
        buffers: Buffers | None = None,
        metrics: Mapping[str, Any] | None = None,
        name: str | None = None,
        check: bool = True,
        stage: bool = False,
    ) -> Objective:
        """The objective of batches as a training loop has them, and of what it computes of each.

        Args:
            model: the network.
            batches: a list of batches, a Dataset (batched by torch's collation), or a DataLoader.
                Gone through once in order, and kept on the model's device. A batch may be a tensor
                or anything that holds some: nested containers, dataclasses, objects that can be
                copied.
            loss: ``loss(model, batch)`` returns a mean over the batch (weighted with the others by
                the length of the batch's first tensor), a pair (sum, weight), or a dict of these by
                name, "loss" among them. Gradients may be taken inside it. A pair that looks like
                (mean, accuracy) is warned of, and noted.
            batch_size: samples in a batch of a Dataset.
            buffers: as for `Objective`, like all others.
            metrics: other quantities by name, each ``f(model, batch)``.
            name: what to call the loss.
            check: hold the objective against the model as its owner uses it.
            stage: keep the batches of one pass as they come; without it a second pass that differs
                is refused.

        Raises:
            ObjectiveError: no batches, two passes that differ, or a loss that is the sum over its
                batch; and as `Objective`.
        """
        check_callable("loss", "model and batch", loss)
        made = cls.__new__(cls)
        made._begin(model, loss, buffers, metrics, name, check)
        made._by_batches = True
        staged = stage_batches(batches, batch_size, random_fork(model), stage)
        if made._is_half:
            staged = [map_tensors(batch, as_single) for batch in staged]
        made.data = Batches(staged, made.device)
        check_objective(made)
        if check:
            check_results(made)
        return made

    def fingerprint(
        self, parameters: npt.NDArray[Any], sides: Iterable[Sides | None] | None = None
    ) -> list[object]:
        """See `losspath.evaluation.fingerprint.fingerprint`."""
        return fingerprint(self, parameters, sides)

    # -- evaluating -----------------------------------------------------------------------------

    def __call__(self, parameters: npt.NDArray[Any] | torch.Tensor) -> Evaluation:
        """Evaluates one parameter vector.

        Args:
            parameters: (P,) in the order of a recorded state. A vector of all parameters is taken
                as well, where some are frozen.

        Raises:
            ModelError: the vector has another length than the model has parameters, or the model
                has other parameters than when the objective was made.
        """
        if not isinstance(parameters, torch.Tensor):
            parameters = as_numbers("parameters", "one state (P,), such as path[-1]", parameters)
        everything = self.whole_layout
        if np.shape(parameters) == (everything.parameter_count,) != (self.parameter_count,):
            return Evaluator(self.with_layout(everything)).evaluate(parameters)
        return Evaluator(self).evaluate(parameters)

    def with_sides(self, sides: Sides | None, key: str) -> Objective:
        """The same with other side tensors (buffers, frozen parameters) than the model's own.

        Args:
            sides: by name; None for the model's own.
            key: identifies them.
        """
        return self._with(base_sides=sides, base_key=key)

    def with_buffers(self, buffers: Buffers) -> Objective:
        """The same with another origin of buffers."""
        return self._with(buffers=buffers)

    def with_layout(self, layout: Layout) -> Objective:
        """The same over other parameters of the model, by name."""
        return self._with(layout=layout)

    def with_masks(self, masks: Sequence[int]) -> Objective:
        """The same with dropout, by masks that are the same at all parameters.

        Args:
            masks: seeds of theirs.
        """
        return self._with(masks=tuple(masks))

    def with_parts_of(self, batch_size: int) -> Objective:
        """The same over other parts of its samples; batches of the caller's stay as they are.

        Args:
            batch_size: samples in a part.
        """
        data = copy.copy(self.data)
        data.batch_size = batch_size
        return self._with(data=data) if isinstance(data, Samples) else self

    def with_data(self, data: Data) -> Objective:
        """The same over other data."""
        other = self._with(data=data)
        vars(other).pop("samples_digest", None)
        return other

    def _with(self, **attributes: Any) -> Objective:
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    @contextmanager
    def evaluating(
        self, parameters: npt.ArrayLike, sides: Sides | None = None
    ) -> Iterator[torch.nn.Module]:
        """A private copy of the model at a vector, in evaluation mode and without gradients.

        Hooks may be put on it; it is thrown away afterwards. A model that cannot be copied is
        given itself, and put back.

        Args:
            parameters: (P,) the vector.
            sides: its side tensors; None for the objective's.
        """
        evaluator = Evaluator(self)
        with evaluator.lent(), torch.no_grad():
            evaluator.write(evaluator._vector(np.array(parameters)), sides)
            yield evaluator.replica.model
