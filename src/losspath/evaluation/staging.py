"""Going through batches once, and keeping them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from losspath.errors import ArgumentError, LosspathError, ObjectiveError
from losspath.evaluation.data import as_tensors, digest_of_tensors, map_tensors

# Where a loader, a sampler or a data set holds others of these.
_PARTS = ("dataset", "sampler", "batch_sampler", "data_source", "loader", "dataloader")


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
        ObjectiveError: a second pass gives other batches, or none.
        ArgumentError: what cannot be gone through.
    """
    loader = _as_iterable(batches, batch_size)
    if isinstance(loader, (list, tuple)):
        return [as_tensors(batch) for batch in loader]
    with fork, _generators_kept(batches):
        kept = [as_tensors(batch) for batch in _passed(loader)]
        if stage or iter(loader) is loader:
            return kept
        digests = [digest_of_tensors(batch) for batch in kept]
        # Other random numbers than the first pass had, so that shuffling shows.
        torch.manual_seed(int(torch.randint(1 << 30, ())) + 1)
        random.seed(random.random())
        again = [digest_of_tensors(as_tensors(batch)) for batch in _passed(loader)]
    if digests and not again:
        raise ObjectiveError(
            f"the batches ({type(batches).__name__}) can be gone through once, and a second pass "
            "gives none, so whether they are the same each time cannot be seen; give a list of "
            "batches, or stage=True to keep those of one pass"
        )
    if digests != again:
        raise ObjectiveError(
            "two passes over the batches give other data (shuffling, random augmentation), so the "
            "loss would be over whatever comes; pass shuffle=False and fixed transforms, or "
            "stage=True to keep the batches of one pass"
        )
    return kept


@contextmanager
def _generators_kept(batches: Any) -> Iterator[None]:
    """Afterwards random generators of a loader, its samplers and its data set are as before."""
    owners = list(_owners_of(batches))
    kept = [_remembered(value) for owner in owners for value in vars(owner).values()]
    try:
        yield
    finally:
        for put_back in filter(None, kept):
            put_back()


def _owners_of(batches: Any) -> Iterator[Any]:
    """A loader, and what it and its samplers and data sets are made of."""
    waiting, seen = [batches], dict[int, Any]()
    while waiting:
        owner = waiting.pop()
        if id(owner) in seen or not hasattr(owner, "__dict__"):
            continue
        seen[id(owner)] = owner
        yield owner
        own = vars(owner)
        waiting += [own[name] for name in own if name in _PARTS]
        several = own.get("datasets")
        waiting += several if isinstance(several, (list, tuple)) else []


def _remembered(value: Any) -> Callable[[], object] | None:
    """What puts back the state that a random generator has now; None for all else."""
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return partial(setattr, bits, "state", copy.deepcopy(bits.state))
    return None


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
    except LosspathError:
        raise
    except Exception as cause:
        raise ObjectiveError(
            f"the batches cannot be gone through: {type(cause).__name__}: {cause}; expected what a "
            "training loop iterates over; mend the data set, or how it is collated"
        ) from cause
