"""Running statistics estimated over the data anew, at the parameters that are evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _NormBase

from losspath.errors import LosspathError
from losspath.evaluation.checking.counting import copied, failed
from losspath.evaluation.data import Batch

if TYPE_CHECKING:
    from losspath.evaluation.evaluator import Evaluator


def recalibrate(evaluator: Evaluator) -> None:
    """Estimates the statistics of torch's normalisations over the data, as means over its batches.

    As `torch.optim.swa_utils.update_bn` does, but with all else in evaluation mode.

    Args:
        evaluator: whose copy has the vector written into it.

    Raises:
        ObjectiveError: the model fails on a batch, as on one of a single sample.
    """
    model, objective = evaluator.replica.model, evaluator.objective
    norms = [module for module in _norms(model) if module.running_mean is not None]
    before = [(module.momentum, module.training) for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # all batches count alike
        module.training = True
    try:
        for part in objective.data.parts():
            _pass(evaluator, objective.data.load(part))
    finally:
        for module, (momentum, training) in zip(norms, before, strict=True):
            module.momentum, module.training = momentum, training
    evaluator.replica.keep_buffers()


def not_estimated(evaluator: Evaluator, batch: Batch) -> list[str]:
    """Names of other buffers that training changes, which `recalibrate` leaves as they are.

    Args:
        evaluator: inside `lent`.
        batch: what to train on for once; nothing of it stays.
    """
    replica = evaluator.replica
    if not replica.is_private:
        return []
    model = replica.model
    estimated = {id(buffer) for module in _norms(model) for buffer in module.buffers()}
    others = [
        (name, buffer.detach().clone())
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and id(buffer) not in estimated
    ]
    if not others:
        return []
    try:
        for module in model.modules():
            module.training = True
        _pass(evaluator, copied(batch))
        now = dict(model.named_buffers())
        return [n for n, value in others if n not in now or not torch.equal(now[n], value)]
    except LosspathError:  # what training does is not asked here
        return []
    finally:
        evaluator.restore()


def _norms(model: torch.nn.Module) -> list[_NormBase]:
    return [module for module in model.modules() if isinstance(module, _NormBase)]


def _pass(evaluator: Evaluator, batch: Batch) -> None:
    try:
        evaluator.objective.pass_batch(evaluator.replica.model, batch)
    except (LosspathError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as cause:
        raise failed(batch, cause) from cause
