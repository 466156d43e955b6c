"""Whether an objective's loss is that of the model as its owner would evaluate it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from losspath.errors import ObjectiveError
from losspath.evaluation.base import BaseObjective
from losspath.evaluation.checking.counting import copied, counted, is_close, mean_of
from losspath.evaluation.data import Batch
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.isolation.attributes import AttributeSnapshot
from losspath.evaluation.isolation.evaluation_mode import evaluation_mode, random_fork
from losspath.evaluation.isolation.kernels import unfused
from losspath.evaluation.isolation.links import afterwards, linked
from losspath.evaluation.isolation.replica import copy_model, overrides_train, widen
from losspath.evaluation.quantities import Count
from losspath.parameters import in_order, unwrapped

# The same calls on the same batch.
_ROUNDING = 1e-5


def check_against_owner(
    objective: BaseObjective, batch: Batch, vectors: Sequence[torch.Tensor]
) -> None:
    """Refuses a loss that is not that of the model with the vector written into its parameters.

    Args:
        objective: the objective.
        batch: what is evaluated.
        vectors: at which parameters.

    Raises:
        ObjectiveError: the two differ.
    """
    for vector in vectors:
        evaluator = Evaluator(objective)
        if evaluator.replica.widened:
            vector = _rounded(objective, vector)
        with evaluator.lent():
            # What a copy keeps of one vector it must not evaluate another with.
            evaluator.write(vector * 0.5)
            half = counted(evaluator, batch)
            evaluator.write(vector)
            ours = counted(evaluator, batch)
        owners = _as_owner(objective, evaluator, vector, copied(batch))
        if owners is None:
            return
        for name in owners:
            one, other = mean_of([ours.get(name, (0.0, 0.0))]), mean_of([owners[name]])
            moves = abs(other - mean_of([half.get(name, (0.0, 0.0))]))
            if not is_close(one, other, _ROUNDING, moves):
                raise ObjectiveError(
                    f"the {name} at a vector of parameters would be {one:.6g}, but the model with "
                    f"that vector written into it has {other:.6g}: "
                    f"{_likely_cause(objective, evaluator)}; check=False takes the first as it is"
                )


def _as_owner(
    objective: BaseObjective, evaluator: Evaluator, vector: torch.Tensor, batch: Batch
) -> Count | None:
    """What the owner would get: the vector in the real parameters, `eval()`, the loss afresh."""
    model = unwrapped(objective.model)
    modes = overrides_train(model) and not model.training
    if not evaluator.replica.is_private:
        return None  # there is nothing else to evaluate on
    # Adapters that are merged in evaluation mode come apart before the vector goes in.
    with (
        torch.inference_mode(False),
        evaluation_mode(model, objective.needs_gradients),
        unfused(),
        torch.no_grad(),
    ):
        if modes:
            used = copy_model(objective.model, evaluator.shared)
            used.train()
            _write(in_order(used, objective.layout), vector, objective)
        with _written(objective, vector):
            if not modes:
                try:
                    used = copy.deepcopy(model, {id(each): each for each in evaluator.shared})
                except Exception:
                    used = copy_model(objective.model, evaluator.shared)
            if evaluator.replica.widened:
                widen(used)
            used.eval()  # one of the model's own need not return it
            return _owners_count(objective, evaluator, used, batch)


def _rounded(objective: BaseObjective, vector: torch.Tensor) -> torch.Tensor:
    """A vector that the model's own parameters of half precision can hold."""
    rounded = vector.clone()
    for entry in objective.layout.parameters:
        rounded[entry.place] = vector[entry.place].to(getattr(torch, entry.dtype)).to(vector.dtype)
    return rounded


def _owners_count(
    objective: BaseObjective, evaluator: Evaluator, used: torch.nn.Module, batch: Batch
) -> Count:
    # A loss that reads the owner's model sees what is evaluated, merged weights too.
    kept = AttributeSnapshot(evaluator.loss_modules, evaluator.shared)
    with (
        random_fork(used),
        linked(objective.model, used),
        torch.set_grad_enabled(objective.needs_gradients),
    ):
        try:
            return objective.count_batch(used, batch)
        finally:
            kept.put_back()


@contextmanager
def _written(objective: BaseObjective, vector: torch.Tensor) -> Iterator[None]:
    """The vector in the caller's own parameters, whose bytes come back whatever happens."""
    parameters = in_order(objective.model, objective.layout)
    before = [parameter.detach().clone() for parameter in parameters]

    def put_back() -> None:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data.copy_(value)

    with afterwards(put_back):
        _write(parameters, vector, objective)
        yield


def _write(parameters: list[torch.Tensor], vector: torch.Tensor, objective: BaseObjective) -> None:
    for entry, parameter in zip(objective.layout.parameters, parameters, strict=True):
        target = parameter.data
        target = torch.view_as_real(target) if target.is_complex() else target
        target.copy_(vector[entry.place].view(entry.shape))


def _likely_cause(objective: BaseObjective, evaluator: Evaluator) -> str:
    """What most often makes the two differ, by what the model has."""
    model = unwrapped(objective.model)
    if evaluator.replica.widened:
        return (
            "half precision is evaluated in float32, and something is read that holds the "
            "numbers of before, such as a list of parameters that the loss keeps, a state_dict() "
            "or a cache; read the parameters from the model inside the loss, or give the model in "
            "float32, by model.float()"
        )
    own = [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if type(module).train is not torch.nn.Module.train
        and not isinstance(module, torch.jit.ScriptModule)
    ]
    if own:
        return f"{own[0]} has a train() of its own, which may merge or cache weights"
    held = [
        f"{name or 'the model'}.{attribute}"
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    if held:
        return (
            f"{held[0]} is a tensor that is no parameter and no buffer, perhaps computed from "
            "parameters before; compute it in forward()"
        )
    return (
        "something of the outputs or the loss is computed outside of forward(), kept between calls "
        "(a cache), or read from views of the model's memory, such as a state_dict() of before"
    )
