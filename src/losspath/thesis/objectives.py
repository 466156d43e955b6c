"""The losses that runs of `train` are evaluated by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from losspath.evaluation.objective import Objective
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import Dataset, sample_indices
from losspath.thesis.networks import build_network

SAMPLES = 10_000
"""Training samples that a surface's loss is over, as in the thesis."""


def classification_objective(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor
) -> Objective:
    """The mean cross-entropy of a model, which runs of `train` are evaluated by."""
    return Objective(model, inputs, targets, F.cross_entropy, name="cross-entropy")


def training_objective(
    config: TrainingConfig, dataset: Dataset, samples: int = SAMPLES
) -> Objective:
    """The loss of a run's network on the first samples of a fixed permutation of its training set.

    Args:
        config: the run.
        dataset: its data.
        samples: how many; all there are where these are fewer.
    """
    chosen = sample_indices(samples, len(dataset.train_targets))
    return classification_objective(
        _network(config, dataset), dataset.train_inputs[chosen], dataset.train_targets[chosen]
    )


def validation_objective(config: TrainingConfig, dataset: Dataset) -> Objective:
    """The loss of a run's network on the whole validation set."""
    return classification_objective(
        _network(config, dataset), dataset.test_inputs, dataset.test_targets
    )


def _network(config: TrainingConfig, dataset: Dataset) -> nn.Module:
    model = build_network(config.network, dataset.channels, len(dataset.classes), config.dropout)
    return model.to("cuda") if torch.cuda.is_available() else model
