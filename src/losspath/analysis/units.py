"""Which axis of a module's output has its units: channels, features, neurons.

* Convolutions, batch, instance and group norms: the channels, axis 1 of (N, C, …).
* Linear layers, layer norms over the last axis, embeddings, recurrent layers and attention: the
  features, the last axis, of (N, F) as of (N, T, F) or (T, N, F).
* Activation functions, pooling, dropout and whatever else computes with what another layer gave:
  the axis where that layer's units are now, followed through views of the same memory (a transposed
  or flattened tensor). Where a function that is no module came in between, the axis is taken that
  is as long as the last layer with parameters has units, at its place first, then the last axis,
  then axis 1.
* Where all this says nothing: axis 1 of images (N, C, H, W) and volumes, else the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from losspath.analysis.outputs import (
    evaluating,
    first_tensor,
    is_function,
    is_layer,
    modules_of,
    passes,
    watched,
)
from losspath.errors import UnsupportedError
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.parameters import named_modules

_FEATURES_LAST = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
_IMAGE = 4  # axes of a batch of images
_SAMPLES = 2  # one alone has an axis of length 1, which some networks drop


@dataclass(frozen=True)
class _Known:
    """An output whose axis of units is known; it is held, so that its memory is not used again."""

    tensor: torch.Tensor
    axis: int  # from the end, below 0
    is_layer: bool

    @property
    def units(self) -> int:
        return int(self.tensor.shape[self.axis])


@dataclass
class UnitAxes:
    """Follows a forward pass and finds the axis of units in the output of each module.

    Attributes:
        axes: what was found, by module name; below 0, counted from the end.
    """

    axes: dict[str, int] = field(default_factory=dict)
    _known: list[_Known] = field(default_factory=list)

    def tell(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        """Takes in that a module has run.

        Args:
            name: of the module.
            module: the module.
            given: its arguments.
            output: what it put out.
        """
        found = first_tensor(output)
        if found is None or found.is_nested or found.layout != torch.strided:
            return
        axis = self._axis(module, first_tensor(given), found)
        self.axes[name] = axis
        own = is_layer(module) and not is_function(module) and not list(module.children())
        self._known.append(_Known(found.detach(), axis, own))

    def _axis(self, module: nn.Module, given: torch.Tensor | None, output: torch.Tensor) -> int:
        shape = tuple(output.shape)
        axis = None if is_function(module) else _of_layer(module, shape)
        if axis is None:
            axis = self._followed(output)
        if axis is None and not is_function(module):
            axis = _of_parameters(module, shape)
        if axis is None and given is not None and given.dim() == output.dim():
            axis = self._followed(given)
            axis = self._guessed(tuple(given.shape)) if axis is None else axis
        return self._guessed(shape) if axis is None else axis

    def _followed(self, tensor: torch.Tensor) -> int | None:
        """The axis along which a tensor has units of a known output, whose memory it shares."""
        if tensor.is_nested or tensor.layout != torch.strided or not tensor.numel():
            return None
        place = tensor.untyped_storage().data_ptr()
        for known in reversed(self._known):
            if known.tensor.untyped_storage().data_ptr() != place:
                continue
            if known.tensor.shape == tensor.shape and known.tensor.stride() == tensor.stride():
                return known.axis
            stride = known.tensor.stride(known.axis)
            fits = [i for i in range(tensor.dim()) if tensor.stride(i) == stride]
            fits = [i for i in fits if tensor.shape[i] == known.units] or [
                i for i in fits if tensor.shape[i] > 1
            ]
            return fits[0] - tensor.dim() if fits else None
        return None

    def _guessed(self, shape: tuple[int, ...]) -> int:
        count = len(shape)
        layer = next((known for known in reversed(self._known) if known.is_layer), None)
        if layer is not None:
            same = layer.tensor.dim() == count
            if same and shape[layer.axis] == layer.units:
                return layer.axis
            if (axis := _as_long(shape, layer.units)) is not None:
                return axis
            if same:
                return layer.axis
        return 1 - count if count >= _IMAGE else -1


def _as_long(shape: tuple[int, ...], units: int) -> int | None:
    """The last axis or axis 1, if it has so many numbers."""
    if shape[-1] == units:
        return -1
    return 1 - len(shape) if len(shape) > 1 and shape[1] == units else None


def _of_layer(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """The axis that a known kind of layer has its units in; None for other modules."""
    count = len(shape)
    if isinstance(module, nn.modules.conv._ConvNd):
        return max(-count, -1 - len(module.kernel_size))
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
        units = getattr(module, "num_features", getattr(module, "num_channels", None))
        if count > 1 and shape[1] == units:
            return 1 - count
        return _as_long(shape, int(units or 0))
    normalised = getattr(module, "normalized_shape", None)
    if isinstance(normalised, (tuple, list)):
        # Over several axes it says nothing of units. A layer norm of channels turns its axes round.
        return _as_long(shape, int(normalised[0])) if len(normalised) == 1 else None
    return -1 if isinstance(module, _FEATURES_LAST) else None


def _of_parameters(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """What the parameters of a layer of an unknown kind say: a kernel, or a scale of channels."""
    count = len(shape)
    for parameter in module.parameters(recurse=False):
        form = tuple(parameter.shape)
        if len(form) > 2 and len(form) == count and form[0] == shape[1]:
            return 1 - count
        long = [i for i, size in enumerate(form) if size > 1]
        if len(long) == 1:
            if len(form) == count and long[0] and form[long[0]] == shape[long[0]]:
                return long[0] - count
            if len(form) == 1 and (axis := _as_long(shape, form[0])) is not None:
                return axis
    return None


@dataclass(frozen=True)
class Survey:
    """What is seen of a network in one forward pass.

    Attributes:
        ran: names of the modules that ran exactly once and put out a tensor, in the order in which
            they came to an end.
        axes: the axis of units in the output of each module, by name; below 0.
    """

    ran: tuple[str, ...]
    axes: dict[str, int]


def survey(
    objective: Objective,
    parameters: npt.ArrayLike,
    names: Sequence[str] = (),
    sides: Sides | None = None,
) -> Survey:
    """Sends a few samples through a network, and sees what runs and where units lie.

    Args:
        objective: its model and data.
        parameters: (P,) the state of the network.
        names: of modules that must be there, under any name that they have.
        sides: buffers and frozen parameters; see `evaluating`.

    Raises:
        ArgumentError: the model has no such module.
        UnsupportedError: the forward pass fails on so few samples.
    """
    found = UnitAxes()
    runs: dict[str, int] = {}
    with evaluating(objective, parameters, sides) as model:
        modules = {**dict(named_modules(model)), **modules_of(model, names)}

        def tell(name: str, given: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            found.tell(name, modules[name], given, output)

        with watched(modules, tell):
            try:
                for _ in passes(objective, model, objective.batches(_SAMPLES)):
                    break
            except RuntimeError as cause:
                raise UnsupportedError(
                    f"the network fails on {_SAMPLES} samples: {cause}"
                ) from cause
    ran = tuple(name for name, count in runs.items() if count == 1 and name in found.axes)
    return Survey(ran, found.axes)
