"""Checkpoints of `torch.distributed.checkpoint`: a folder with one file for each process."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from losspath.errors import DamagedError, UnsupportedError
from losspath.importing.pickles import globals_in
from losspath.importing.state_dicts import Checkpoint, Choice, chosen, step_in

# What torch writes into `.metadata`, which it reads by unpickling.
_KNOWN = re.compile(
    r"torch\.distributed\.checkpoint\.(metadata|planner|filesystem|_fsspec_filesystem)\.\w+"
    r"|torch\.(Size|device|\w*float\w*|u?int\d+|bool|complex\d+)"
    r"|torch\.serialization\._get_layout|collections\.OrderedDict|pathlib\.(Pure)?PosixPath"
    r"|torch\.distributed\.checkpoint\.storage\.\w+"
)


def read_distributed(folder: Path, choice: Choice) -> Checkpoint:
    """Reads the tensors of a network in such a folder, put together on the CPU.

    Args:
        folder: of the checkpoint.
        choice: which of several state dicts.

    Raises:
        UnsupportedError: its table holds something else than torch writes there.
        DamagedError: torch cannot read it.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    strange = [name for name in globals_in(folder / ".metadata") if not _KNOWN.fullmatch(name)]
    if strange:
        raise UnsupportedError(
            f"{folder / '.metadata'} would load {sorted(strange)[0]}, which torch does not write "
            "there; it is not read"
        )
    try:
        table = FileSystemReader(folder).read_metadata()
        tensors = {
            name: torch.empty(each.size, dtype=each.properties.dtype)
            for name, each in table.state_dict_metadata.items()
            if isinstance(each, TensorStorageMetadata) and not _is_of_optimizer(name)
        }
        with warnings.catch_warnings():  # that one process reads what several may have written
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            load(tensors, storage_reader=FileSystemReader(folder), no_dist=True)
    except Exception as cause:
        line = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise DamagedError(f"{folder} is no distributed checkpoint: {line}") from cause
    content = _nested(tensors, table.planner_data or {})
    found = dict(chosen(content, choice, folder))
    return Checkpoint(found, step_in(content), is_ordered=False)


def _is_of_optimizer(name: str) -> bool:
    return re.match(r"(.*\.)?optim(izer)?(_states?|s)?\.", name) is not None


def _nested(tensors: dict[str, torch.Tensor], paths: dict[str, Any]) -> dict[str, Any]:
    """The dictionaries that were saved, which the table has flattened.

    Args:
        tensors: by their flat names.
        paths: the keys that lead to each, where the table has them.
    """
    content: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *keys, last = paths.get(name, (name,))
        inner = content
        for key in keys:
            inner = inner.setdefault(str(key), {})
        inner[str(last)] = tensor
    return content
