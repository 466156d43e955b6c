"""Going through batches once, and keeping them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from losspath.errors import ArgumentError, ObjectiveError
from losspath.evaluation.data import as_tensors, digest_of_tensors, map_tensors


def stage_batches(
    batches: Any, batch_size: int, fork: AbstractContextManager[None], stage: bool
) -> list[Any]:
    """Goes through batches in order, twice where that can be done, and keeps them.

    Args:
        batches: a list, a Dataset, a DataLoader, or any iterable.
        batch_size: samples in a batch, of a Dataset.
        fork: random numbers are drawn inside it.
        stage: take one pass as it comes.

    Raises:
        ObjectiveError: a second pass gives other batches.
        ArgumentError: what cannot be gone through.
    """
    loader = _as_iterable(batches, batch_size)
    if isinstance(loader, (list, tuple)):
        return [as_tensors(batch) for batch in loader]
    with fork:
        kept = [as_tensors(batch) for batch in _passed(loader)]
        if stage or iter(loader) is loader:
            return kept
        digests = [digest_of_tensors(batch) for batch in kept]
        # Other random numbers than the first pass had, so that shuffling shows.
        torch.manual_seed(int(torch.randint(1 << 30, ())) + 1)
        random.seed(random.random())
        again = [digest_of_tensors(as_tensors(batch)) for batch in _passed(loader)]
    if digests != again:
        raise ObjectiveError(
            "two passes over the batches give other data (shuffling, random augmentation), so the "
            "loss would be over whatever comes; pass shuffle=False and fixed transforms, or "
            "stage=True to keep the batches of one pass"
        )
    return kept


def _as_iterable(batches: Any, batch_size: int) -> Iterable[Any]:
    is_loader = isinstance(batches, torch.utils.data.DataLoader)
    if isinstance(batches, torch.utils.data.IterableDataset):
        return torch.utils.data.DataLoader(batches, batch_size)
    is_sequence = isinstance(batches, (list, tuple))
    is_dataset = isinstance(batches, torch.utils.data.Dataset) or (
        hasattr(batches, "__getitem__") and hasattr(batches, "__len__")
    )
    if is_dataset and not is_loader and not is_sequence and not isinstance(batches, Mapping):
        if isinstance(batches, (torch.Tensor, np.ndarray, str)):
            raise ArgumentError(
                "expected batches as a list, a Dataset or a DataLoader, got a "
                f"{type(batches).__name__}; Objective(model, inputs, targets, loss_fn) takes these"
            )
        return torch.utils.data.DataLoader(batches, batch_size)
    if isinstance(batches, Mapping) or not hasattr(batches, "__iter__"):
        raise ArgumentError(
            f"expected batches as a list, a Dataset or a DataLoader, got {type(batches).__name__}; "
            "put a single batch into a list"
        )
    return batches  # type: ignore[no-any-return]


def _passed(loader: Iterable[Any]) -> Iterator[Any]:
    # Clones, as a loader may fill the same memory again.
    try:
        for batch in loader:
            yield map_tensors(as_tensors(batch), torch.Tensor.clone)
    except Exception as cause:
        raise ObjectiveError(
            f"the batches cannot be gone through: {type(cause).__name__}: {cause}; expected what a "
            "training loop iterates over; mend the data set, or how it is collated"
        ) from cause
