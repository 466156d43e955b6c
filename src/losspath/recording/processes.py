"""Who records where several processes train one model together that each of them has whole."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from losspath.errors import ArgumentError, LosspathWarning, ModelError, StoreError
from losspath.parameters import unwrapped
from losspath.parameters.names import wrapped_in
from losspath.recording import store
from losspath.recording.numbers import not_after


def rank_of_process() -> int:
    """This process's rank among those that train together; 0 where it is alone."""
    group = torch.distributed
    if group.is_available() and group.is_initialized():
        return group.get_rank()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started it, and the group is still to come
        return int(os.environ.get("RANK", "0"))
    return 0


def check_unsharded(model: torch.nn.Module) -> None:
    """Refuses a model of which this process has only a part.

    Args:
        model: the model as it is trained, in all its wrappers.

    Raises:
        ModelError: a part of it is in a FullyShardedDataParallel.
    """
    for module in model.modules():
        if wrapped_in(module) != "_fsdp_wrapped_module":
            continue
        strategy = getattr(getattr(module, "sharding_strategy", None), "name", "")
        if strategy != "NO_SHARD":  # as it always is with one process
            raise ModelError(
                f"{type(unwrapped(module)).__name__} is in a FullyShardedDataParallel, by which "
                "each process holds a part of its parameters; expected whole tensors or those of "
                "fully_shard (FSDP2): train with that, with DDP or with sharding_strategy "
                "NO_SHARD, or save checkpoints by torch.distributed.checkpoint and make a run of "
                "them by `losspath import`"
            )


class Silent:
    """Stands for a session in a process that records nothing, as the first one records for all.

    It counts steps and refuses what a session refuses, so that all processes do the same.

    Args:
        directory: the run.
        model: as it is trained.
        resumes: whether recording goes on there.
        step: the step that the model is at; None for that of the last state that is there.
    """

    unchanged = 0

    def __init__(
        self, directory: Path, model: torch.nn.Module, resumes: bool, step: int | None
    ) -> None:
        self.step = step or 0
        self._is_closed = False
        if resumes and step is None:
            with contextlib.suppress(StoreError):
                self.step = store.read_contents(directory, store.read_header(directory)).step
        if not _is_replicated(model):
            warnings.warn(
                f"this process, of rank {rank_of_process()}, records nothing in {directory}, as "
                "that of rank 0 does for all; give the model in its DistributedDataParallel to "
                'say that all have the same one, or Recorder(..., processes="each"), with a '
                "directory for each, where they train models of their own",
                LosspathWarning,
                stacklevel=4,
            )

    def check_usable(self) -> None:
        """Raises `StoreError` once it is closed."""
        if self._is_closed:
            raise StoreError("the recorder is closed")

    def record(
        self,
        loss: float | torch.Tensor,
        step: int | None,
        values: Mapping[str, float | torch.Tensor],
    ) -> None:
        """Counts a step."""
        if step is not None and step <= self.step:
            raise ArgumentError(not_after(self.step, step))
        self.step = self.step + 1 if step is None else step

    def note(self, loss: float | None, step: int, values: Mapping[str, float]) -> None:
        """Counts a step."""
        self.record(0.0, step, values)

    def refuse(self, error: Exception) -> None:
        """Nobody has to know."""

    def flush(self) -> None:
        """There is nothing to write."""

    def close(self) -> None:
        """Ends it; can be called again."""
        self._is_closed = True

    def leave(self) -> None:
        """Nobody waits for it."""


def _is_replicated(model: torch.nn.Module) -> bool:
    """Whether it is in a wrapper that keeps all processes' models the same."""
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    return "DistributedDataParallel" in kinds
