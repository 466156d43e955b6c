"""Checkpoints of a training: everything that going on exactly depends on, in one file.

A checkpoint's name holds the digest of its bytes, and it is moved into place whole, so one that is
there is either intact or known to be damaged. Tensors are stored as safetensors, the rest as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import xxhash

from losspath.errors import DamagedError, wrap_os_errors
from losspath.files import write_atomically

_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A training between two steps.

    Attributes:
        step: optimiser steps taken.
        model: the network's state by name.
        optimizer: the optimiser's ``state_dict()``.
        generators: states of random generators by name.
        progress: JSON values of the training loop's own.
    """

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    generators: dict[str, torch.Tensor]
    progress: dict[str, Any]


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint durably, then removes all but the two newest.

    Raises:
        StoreError: it cannot be written; older ones stay.
    """
    tensors = {f"model/{name}": tensor for name, tensor in checkpoint.model.items()}
    tensors |= {f"generator/{name}": state for name, state in checkpoint.generators.items()}
    values: dict[str, dict[str, Any]] = {}
    for number, state in checkpoint.optimizer["state"].items():
        values[str(number)] = {}
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{number}/{name}"] = value
            else:
                values[str(number)][name] = value
    rest = {
        "step": checkpoint.step,
        "progress": checkpoint.progress,
        "optimizer_values": values,
        "param_groups": checkpoint.optimizer["param_groups"],
    }
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    raw = safetensors.torch.save(copies, metadata={"json": json.dumps(rest)})
    name = f"checkpoint-{checkpoint.step:09d}-{xxhash.xxh3_64_hexdigest(raw)}.safetensors"
    write_atomically(directory / name, lambda file: file.write(raw))
    for old in checkpoint_files(directory)[:-_KEPT]:
        old.unlink(missing_ok=True)


def load_latest_checkpoint(directory: Path, steps: Container[int]) -> Checkpoint | None:
    """The newest checkpoint of one of these steps; None if there is none.

    Raises:
        DamagedError: its bytes are not those that were written.
    """
    usable = [path for path in checkpoint_files(directory) if _step(path) in steps]
    return _load(usable[-1]) if usable else None


def checkpoint_before(directory: Path, step: int) -> Checkpoint | None:
    """The newest checkpoint of an epoch's end up to a step; None if there is none that is whole."""
    for path in reversed(checkpoint_files(directory)):
        if _step(path) <= step and is_intact(path):
            found = _load(path)
            if not found.progress["batch"]:
                return found
    return None


def checkpoint_files(directory: Path) -> list[Path]:
    """The checkpoints that are there, the oldest first."""
    return sorted(directory.glob("checkpoint-*.safetensors"))


def none_is_missing(directory: Path, step: int) -> bool:
    """Whether the checkpoint of a step is the newest that there ever was, as far as files tell."""
    files = checkpoint_files(directory)
    is_newest = bool(files) and _step(files[-1]) == step
    return is_newest and (len(files) >= _KEPT or step == 0)


def _step(path: Path) -> int:
    try:
        return int(path.name.split("-")[1])
    except (IndexError, ValueError):
        raise DamagedError(f"{path} has a name that is not a checkpoint's; remove it") from None


def is_intact(path: Path) -> bool:
    """Whether a checkpoint's bytes are those that were written.

    Raises:
        StoreError: it cannot be read now.
    """
    with wrap_os_errors(f"read {path}"):
        raw = path.read_bytes()
    return path.stem.rpartition("-")[2] == xxhash.xxh3_64_hexdigest(raw)


def _load(path: Path) -> Checkpoint:
    if not is_intact(path):
        raise DamagedError(
            f"{path} is damaged; `losspath repair {path.parent}` moves it aside, and training goes "
            "on from an earlier one"
        )
    raw = path.read_bytes()
    with safetensors.safe_open(path, framework="pt") as file:
        rest = json.loads(file.metadata()["json"])
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "generator": {}, "optimizer": {}}
    for name, tensor in safetensors.torch.load(raw).items():
        kind, _, key = name.partition("/")
        parts[kind][key] = tensor
    state: dict[int, dict[str, Any]] = {
        int(number): dict(values) for number, values in rest["optimizer_values"].items()
    }
    for key, tensor in parts["optimizer"].items():
        number, _, name = key.partition("/")
        state[int(number)][name] = tensor
    return Checkpoint(
        step=rest["step"],
        model=parts["model"],
        optimizer={"state": state, "param_groups": rest["param_groups"]},
        generators=parts["generator"],
        progress=rest["progress"],
    )
