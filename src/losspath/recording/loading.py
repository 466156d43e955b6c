"""Putting a recorded state into a model, by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import DamagedError, LosspathWarning, ModelError
from losspath.parameters import (
    Layout,
    is_sharded,
    named_buffers,
    named_modules,
    named_parameters,
    unflatten,
)


def load_state(
    model: torch.nn.Module,
    layout: Layout,
    state: npt.NDArray[Any],
    sides: Mapping[str, torch.Tensor],
    kinds: Mapping[str, str],
    buffers: bool,
    source: object,
) -> None:
    """Copies a state, frozen parameters and (where asked) buffers into a model.

    Args:
        model: the model.
        layout: of the state.
        state: its parameters (P,).
        sides: side tensors of the state.
        kinds: what each is.
        buffers: whether to copy those that are buffers.
        source: where the state comes from, for messages.

    Raises:
        ModelError: the model has not the parameters that were recorded, or they cannot be written
            to; it is left as it was.
    """
    values = unflatten(torch.from_numpy(np.array(state)), layout)
    values |= {name: tensor for name, tensor in sides.items() if kinds[name] == "frozen"}
    parameters = dict(named_parameters(model))
    _check_same(values, parameters, source)
    if lost := [name for name in values if parameters[name].is_meta]:
        raise ModelError(
            f"parameter {lost[0]} of the model is on the meta device and can hold no numbers; call "
            "model.to_empty(device='cpu') first"
        )
    loaded = {n: t for n, t in sides.items() if buffers and kinds[n] == "buffer"}
    _check_writable(
        {name: parameters[name] for name in values}
        | {name: tensor for name, tensor in named_buffers(model) if name in loaded}
    )
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
        if buffers:
            _load_buffers(model, loaded, source)


def _check_writable(tensors: Mapping[str, torch.Tensor]) -> None:
    if parts := [name for name, tensor in tensors.items() if is_sharded(tensor)]:
        raise ModelError(
            f"{parts[0]} of the model is sharded, so that no whole numbers can be copied into it; "
            "load the state into the model before fully_shard() or the like, or give what you "
            "load to torch.distributed.checkpoint.state_dict.set_model_state_dict"
        )
    if torch.is_inference_mode_enabled():
        return
    if made := [name for name, tensor in tensors.items() if tensor.is_inference()]:
        raise ModelError(
            f"{made[0]} of the model was made under torch.inference_mode(), so it cannot be "
            "written to outside of it; build the model outside, or call load_into under "
            "`with torch.inference_mode():`"
        )


def check_not_lost(
    model: torch.nn.Module, layout: Layout, kinds: Mapping[str, str], source: object
) -> None:
    """Of a state whose side tensors are lost, the rows must be all that is to be loaded.

    Raises:
        DamagedError: the model has parameters that were recorded beside the rows.
    """
    in_rows = {entry.name for entry in layout.parameters}
    parameters = dict(named_parameters(model))
    recorded = {name: tensor for name, tensor in parameters.items() if name in in_rows}
    lost = [name for name, kind in kinds.items() if kind == "frozen"] or [
        name
        for name, tensor in parameters.items()
        if name not in in_rows and not _may_be_unrecorded(tensor, recorded, parameters)
    ]
    if lost:
        place = getattr(source, "directory", source)
        raise DamagedError(
            f"{place} is damaged: frozen parameters of this state, such as {lost[0]}, were in "
            "sides.bin and are lost; put that file back from a backup (after a repair, with the "
            "records.bin and records.copy.bin that it moved into aside-<n>), or build the model "
            "with those parameters and copy the others into it, which path[i] holds as path.layout "
            "says"
        )


def _check_same(
    recorded: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], source: object
) -> None:
    differences = [
        f"parameter {name} is {list(value.shape)} in the run and "
        + (f"{list(parameters[name].shape)}" if name in parameters else "absent")
        + " in the model"
        for name, value in recorded.items()
        if name not in parameters or parameters[name].shape != value.shape
    ]
    differences += [
        f"parameter {name} is {list(tensor.shape)} in the model and absent in the run"
        for name, tensor in parameters.items()
        if name not in recorded and not _may_be_unrecorded(tensor, recorded, parameters)
    ]
    if differences:
        raise ModelError(
            f"the model and the run at {getattr(source, 'directory', source)} are not of the same "
            f"network: {differences[0]}; pass a model built as the recorded one was"
        )


def _may_be_unrecorded(
    tensor: torch.Tensor,
    recorded: Mapping[str, torch.Tensor],
    parameters: Mapping[str, torch.Tensor],
) -> bool:
    """Views of what was recorded, and tensors whose bytes cannot be had."""
    if torch.nn.parameter.is_lazy(tensor) or tensor.layout != torch.strided or tensor.is_nested:
        return True
    if not tensor.numel():
        return True
    try:
        place = tensor.untyped_storage().data_ptr()
        return any(
            parameters[name].untyped_storage().data_ptr() == place
            for name in recorded
            if name in parameters
        )
    except (NotImplementedError, RuntimeError):
        return True


def _load_buffers(
    model: torch.nn.Module, recorded: Mapping[str, torch.Tensor], source: object
) -> None:
    present = dict(named_buffers(model))
    for name, value in recorded.items():
        if name not in present:
            continue
        buffer = present[name]
        if buffer.shape == value.shape:
            buffer.copy_(value)
        else:  # one that grows as the model is used
            _replace(model, buffer, value.to(buffer.device, buffer.dtype))
    if missing := [name for name in recorded if name not in present]:
        warnings.warn(
            f"{getattr(source, 'directory', source)}: the model has no buffer "
            f"{', '.join(missing[:5])}, so its recorded numbers were left out",
            LosspathWarning,
            stacklevel=4,
        )


def _replace(model: torch.nn.Module, buffer: torch.Tensor, value: torch.Tensor) -> None:
    """Puts another tensor wherever the model has a buffer."""
    for _, module in named_modules(model):
        for name, tensor in module.named_buffers(recurse=False):
            if tensor is buffer:
                module._buffers[name] = value
