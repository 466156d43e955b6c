"""Running statistics estimated over the data anew, at the parameters that are evaluated."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _NormBase

from losspath.errors import LosspathError
from losspath.evaluation.base import BaseObjective
from losspath.evaluation.counter import failed
from losspath.evaluation.data import Batch
from losspath.evaluation.isolation.replica import Replica


def recalibrate(objective: BaseObjective, replica: Replica) -> None:
    """Estimates the statistics of torch's normalisations over the data, as means over its batches.

    As `torch.optim.swa_utils.update_bn` does, but with all else in evaluation mode.

    Args:
        objective: the loss.
        replica: the copy that the vector was written into.

    Raises:
        ObjectiveError: the model fails on a batch, as on one of a single sample.
    """
    norms = [module for module in norms_in(replica.model) if module.running_mean is not None]
    before = [(module.momentum, module.training) for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # all batches count alike
        module.training = True
    try:
        for part in objective.data.parts():
            run_pass(objective, replica, objective.data.load(part))
    finally:
        for module, (momentum, training) in zip(norms, before, strict=True):
            module.momentum, module.training = momentum, training
    replica.keep_buffers()


def norms_in(model: torch.nn.Module) -> list[_NormBase]:
    """The modules whose statistics are estimated."""
    return [module for module in model.modules() if isinstance(module, _NormBase)]


def run_pass(objective: BaseObjective, replica: Replica, batch: Batch) -> None:
    """A pass of a batch, for what it does to the copy."""
    try:
        objective.pass_batch(replica.model, batch)
    except (LosspathError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as cause:
        raise failed(batch, cause) from cause
