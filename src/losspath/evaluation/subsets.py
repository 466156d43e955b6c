"""An objective over a part of its samples."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from losspath.evaluation.data import Batches, Data, Part, Samples, map_tensors, rows_of
from losspath.evaluation.objective import Objective

# Samples are taken in one order, whatever their number: more of them are those and others.
_SEED = 11
# Of so few samples, or batches, no part is taken.
_LEAST_SAMPLES, _LEAST_BATCHES = 64, 8


def reason_to_keep_all(objective: Objective) -> str:
    """Why an objective has to be over all of its samples; "" where a part of them is as good.

    Args:
        objective: the loss.
    """
    data = objective.data
    if objective.buffers == "recalibrated":
        return "running statistics are estimated over all samples"
    if isinstance(data, Batches) and len(data.parts()) < _LEAST_BATCHES:
        return f"they come in fewer than {_LEAST_BATCHES} batches, which are not taken apart"
    if len(data) < _LEAST_SAMPLES:
        return f"there are fewer than {_LEAST_SAMPLES}"
    return ""


def subset(objective: Objective, count: int) -> Objective:
    """The same objective over some of its samples, chosen at random by a fixed seed.

    Of batches whole ones are taken, until they hold so many samples. A larger subset holds every
    smaller one.

    Args:
        objective: the loss; see `reason_to_keep_all`.
        count: how many samples; all where there are no more, and then it is the objective itself.
    """
    data = objective.data
    if count >= len(data):
        return objective
    generator = torch.Generator().manual_seed(_SEED)
    some: Data
    if isinstance(data, Samples):
        chosen = torch.randperm(len(data), generator=generator)[:count].to(data.device)
        inputs, targets = (
            map_tensors(each, lambda tensor: rows_of(tensor, chosen))
            for each in (data.inputs, data.targets)
        )
        some = Samples(inputs, targets, data.batch_size, data.device)
    else:
        batches = [
            data.load(n) for n in torch.randperm(len(data.parts()), generator=generator).tolist()
        ]
        enough = int(np.searchsorted(np.cumsum([batch.size for batch in batches]), count)) + 1
        if enough >= len(batches):
            return objective
        some = Batches([batch.args[0] for batch in batches[:enough]], data.device)
    return objective.with_data(some)


def disjoint_parts(objective: Objective, most: int) -> list[list[Part]]:
    """The data in parts that have no sample in common and are about as large.

    Args:
        objective: the loss over all of them.
        most: how many parts; of batches there are no more than batches.
    """
    data = objective.data
    if isinstance(data, Batches):
        several = np.array_split(np.arange(len(data.parts())), min(most, len(data.parts())))
        return [part.tolist() for part in several]
    # Two samples at least, as many models do not bear one alone.
    ends = np.linspace(0, len(data), min(most, len(data) // 2) + 1).astype(int).tolist()
    size = data.batch_size
    return [
        [range(at, min(at + size, stop)) for at in range(start, stop, size)]
        for start, stop in pairwise(ends)
    ]
