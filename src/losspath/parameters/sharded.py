"""Tensors of which each process has a part: DTensors, as those of FSDP2 and tensor parallelism."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a DTensor, of which this process may have a part alone."""
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "to_local")


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process has of a tensor; all of one that is not sharded."""
    return local_parts([tensor])[0] if is_sharded(tensor) else tensor


@torch.no_grad()
def local_parts(tensors: Iterable[Any]) -> list[torch.Tensor]:
    """What this process has of sharded tensors."""
    return [tensor.to_local() for tensor in tensors]


@torch.no_grad()
def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, detached; all processes of its mesh call this, in the same order."""
    if not is_sharded(tensor):
        return tensor.detach()
    value: Any = tensor
    if value.device.type != value.device_mesh.device_type:  # its parts are kept on the CPU
        value = value.to(value.device_mesh.device_type)
    found: torch.Tensor = value.full_tensor()
    return found.detach()


def ranks_of(model: torch.nn.Module) -> list[int]:
    """The ranks of the processes that have parts of a model, ascending; none where all is whole."""
    found: set[int] = set()
    seen: set[int] = set()
    for tensor in (*model.parameters(), *model.buffers()):
        if is_sharded(tensor):
            mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
            if id(mesh) not in seen:
                seen.add(id(mesh))
                found.update(mesh.mesh.flatten().tolist())
    return sorted(found)


def reshard(modules: Iterable[torch.nn.Module]) -> None:
    """Has those modules that are FSDP2's hold parts, as between two steps.

    After a forward pass without a backward pass some hold whole parameters, in another dtype with
    mixed precision. What `state_dict` does, too.
    """
    for module in modules:
        if is_fully_shard(type(module)):
            module.reshard()  # type: ignore[operator]


def is_fully_shard(kind: type) -> bool:
    """Whether a class is one that ``fully_shard`` made of another."""
    return any(base.__name__ == "FSDPModule" for base in kind.__mro__)


def class_of(module: torch.nn.Module) -> type:
    """A module's class, as it was before ``fully_shard`` made another of it."""
    return next(kind for kind in type(module).__mro__ if not is_fully_shard(kind))
