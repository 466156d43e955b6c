"""Filters of convolutions and templates of linear layers, and what they make of an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from losspath.analysis.outputs import is_layer, leaves, outputs_in_parts
from losspath.arguments import MODEL, OBJECTIVE, WHOLE, checked, indices, mapping, optional, state
from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.data import Batch
from losspath.evaluation.isolation.replica import Sides, copy_model
from losspath.evaluation.objective import Objective
from losspath.parameters import load_parameters, named_modules


@checked(model=MODEL, parameters=state, input_shape=optional(indices))
def filters(
    model: nn.Module, parameters: npt.ArrayLike, input_shape: Sequence[int] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """What can be seen of weights: filters of convolutions, and templates of a first linear layer.

    Weights are those that the layer computes with: of a layer with a parametrisation or a weight
    norm, what these make of its parameters.

    Args:
        model: the network; frozen layers are as they are in it.
        parameters: (P,) its state.
        input_shape: (C, H, W) of an image; a first linear layer over all of it is shown as images.

    Returns:
        By the layer's name, (out, in, h, w); empty where nothing has such a form.

    Raises:
        ModelError: the state has not as many numbers as the model has parameters.
        UnsupportedError: the model cannot be copied.
    """
    try:
        made = copy_model(model)
    except Exception as cause:
        raise UnsupportedError(
            f"the model cannot be copied ({type(cause).__name__}: {cause}), which looking into it "
            "needs; keep what cannot be copied out of the module"
        ) from cause
    made.eval()
    load_parameters(made, np.asarray(parameters))
    return filters_in(made, input_shape)


def filters_in(
    model: nn.Module, input_shape: Sequence[int] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """What `filters` gives, of a network as it is.

    Args:
        model: the network; a copy, as layers with a norm of the older kind compute their weights.
        input_shape: see `filters`.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    layers = [(name, module) for name, module in leaves(model).items() if is_layer(module)]
    for number, (name, module) in enumerate(layers):
        is_kernel = isinstance(module, (nn.Conv1d, nn.Conv2d))
        if not is_kernel and not (isinstance(module, nn.Linear) and number == 0):
            continue
        weight = _effective_weight(module)
        if is_kernel:
            found[name] = weight if weight.ndim == 4 else weight[:, :, None]
        elif input_shape is not None:
            shape = tuple(input_shape)
            if len(shape) == 3 and weight.shape[1] == int(np.prod(shape)):
                found[name] = weight.reshape(len(weight), *shape)
    return found


def _effective_weight(module: nn.Module) -> npt.NDArray[Any]:
    """The weight that a layer computes with."""
    with torch.no_grad():
        for hook in module._forward_pre_hooks.values():
            # The older weight norm, spectral norm and pruning make it before each forward pass.
            if type(hook).__module__.startswith("torch.nn.utils."):
                hook(module, ())
        weight = torch.as_tensor(module.weight)
    if weight.dtype in (torch.float16, torch.bfloat16):
        weight = weight.float()
    array: npt.NDArray[Any] = weight.detach().cpu().numpy()
    return array


@checked(objective=OBJECTIVE, parameters=state, sample=WHOLE, sides=optional(mapping))
def feature_maps(
    objective: Objective,
    parameters: npt.ArrayLike,
    sample: int = 0,
    *,
    sides: Sides | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """What convolutions make of one input, before anything works in place on it.

    Args:
        objective: its model and data, inputs in one tensor.
        parameters: (P,) the state of the network.
        sample: which sample.
        sides: buffers and frozen parameters of that state, by name; by default the model's own.

    Returns:
        By the layer's name, (channels, H, W); empty for a network without convolutions. Layers that
        do not run exactly once in a forward pass are left out.

    Raises:
        ArgumentError: there is no such sample.
        UnsupportedError: no convolution runs exactly once.
    """
    if not 0 <= sample < len(objective):
        raise ArgumentError(f"expected a sample from 0 to {len(objective) - 1}, got {sample}")
    names = [n for n, m in named_modules(objective.model) if isinstance(m, nn.Conv2d)]
    inputs = objective.inputs_of(sample, sample + 1).clone()
    one = [Batch((inputs,), {}, None, 1)]
    maps = outputs_in_parts(objective, parameters, names, one, sides, leave_out=True)
    if names and not maps:
        raise UnsupportedError("none of its convolutions runs exactly once in a forward pass")
    return {name: parts[0].reshape(-1, *parts[0].shape[-3:])[0] for name, parts in maps.items()}
