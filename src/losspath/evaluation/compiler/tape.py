"""A model's forward pass as a graph of calls, found by running it once.

Everything that torch computes in one forward pass is recorded as a `torch.fx.Graph`: which function
was called with which parameters, constants and earlier results. The graph is then free of modules,
and says what depends on what: which work is the same for every parameter vector, and which layer is
the first that is not.

It stands for inputs of the shapes that it was recorded with, and for any values of inputs and
parameters. So a forward pass is refused that looks at values (to branch on them, say), that makes
tensors whose size depends on values, that draws random numbers, that writes into tensors that
others see, or that holds something computed from its parameters before.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx

from losspath.errors import UnsupportedError
from losspath.evaluation.compiler.calls import Recording
from losspath.evaluation.compiler.watch import (
    Memory,
    _FusedKernelError,
    is_same,
    random_state,
    tensors_in,
)
from losspath.evaluation.isolation.kernels import unfused
from losspath.parameters import named_parameters


@dataclass(frozen=True)
class Tape:
    """One forward pass.

    Attributes:
        graph: its calls, in order. Placeholders are the input, parameters and constants.
        input: the placeholder of the input.
        parameters: name of the parameter of each placeholder that is one.
        constants: tensor of each placeholder that is one: buffers, and whatever else the model
            holds.
    """

    graph: fx.Graph
    input: fx.Node
    parameters: dict[fx.Node, str]
    constants: dict[fx.Node, torch.Tensor]


def record(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    names: Mapping[str, torch.Tensor] | None = None,
) -> Tape:
    """Runs a model once and records its calls. The caller sets the mode.

    Buffers and the input are as before afterwards; attributes that the pass sets are not put back.
    Attention's fused kernels are recorded only where no mask is involved.

    Args:
        model: the model.
        inputs: a batch.
        names: names of the parameters, and the model's own tensors; by default those of
            `losspath.parameters.named_parameters`.

    Raises:
        UnsupportedError: the pass reads values, makes tensors whose size depends on values, draws
            random numbers, writes into tensors that others share, or is not made of torch's
            functions.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UnsupportedError("it has scripted or traced modules")
    names = dict(named_parameters(model)) if names is None else names
    attempts: list[Recording] = []
    try:
        return _record(model, inputs, names, attempts)
    except _FusedKernelError:
        with unfused():
            return _record(model, inputs, names, attempts)


def _record(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    names: Mapping[str, torch.Tensor],
    attempts: list[Recording],
) -> Tape:
    with torch.inference_mode(False), torch.no_grad(), _own_buffers(model, names) as buffers:
        # A copy, so that a model that changes its input changes nothing of the caller's.
        own = inputs.clone()
        recording = Recording(names, [copy for _, copy in buffers], own, attempts)
        attempts.append(recording)
        held, states = _held_by(model), _random_states(inputs.device)
        outputs = _watched(model, own, recording)
        if _random_states(inputs.device) != states:
            raise UnsupportedError("it draws random numbers")
        if not all(is_same(*pair) for pair in [*buffers, (inputs, own)]):
            raise UnsupportedError("it writes into its input or a buffer")
        with torch._C.DisableTorchFunction():
            recording.graph.output(_written_down(outputs, recording))
        _check_held(model, held, recording)
    recording.graph.lint()
    return Tape(recording.graph, recording.input, recording.parameters, recording.constants)


def _watched(model: torch.nn.Module, inputs: torch.Tensor, recording: Recording) -> Any:
    """Calls the model while its calls are recorded."""
    # Stacked points (on a GPU) need the calls that a fused kernel is made of.
    unwatched = _as_if_unwatched() if inputs.device.type == "cpu" else nullcontext()
    watch = recording.watch
    try:
        with _uncompiled(), unwatched, recording, watch:
            outputs = model(inputs)
    except Exception as error:
        if watch.refusal is not None and error is not watch.refusal:
            raise watch.refusal from error
        raise
    if watch.refusal is not None:  # the model has gone on another way
        raise watch.refusal
    return outputs


@contextmanager
def _as_if_unwatched() -> Iterator[None]:
    """Lets modules take the kernels that they take when nothing is recorded.

    Some ask whether anything overrides torch's functions, and leave their fused kernels if so.
    """
    original = torch.overrides.has_torch_function

    def is_overridden(args: Iterable[Any]) -> bool:
        plain = (torch.Tensor, torch.nn.Parameter)
        return any(isinstance(each, torch.Tensor) and type(each) not in plain for each in args)

    torch.overrides.has_torch_function = is_overridden
    try:
        yield
    finally:
        torch.overrides.has_torch_function = original


def _uncompiled() -> AbstractContextManager[Any]:
    """What `torch.compile` has compiled is run as it was written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def _own_buffers(
    model: torch.nn.Module, names: Mapping[str, torch.Tensor]
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Gives the model copies of its buffers; afterwards it has its own. (buffer, copy) of each."""
    trained = Memory()
    for tensor in names.values():
        trained.add(tensor)
    copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    before = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        for module, buffers in before:
            for name, buffer in buffers.items():
                # What is part of a parameter must be seen to be one.
                if buffer is None or buffer.grad_fn is not None or trained.encloses(buffer):
                    continue
                if id(buffer) not in copies:
                    copies[id(buffer)] = buffer, buffer.clone()
                module._buffers[name] = copies[id(buffer)][1]
        yield list(copies.values())
    finally:
        for module, buffers in before:
            module._buffers.clear()
            module._buffers.update(buffers)


def _held_by(model: torch.nn.Module) -> dict[int, torch.Tensor]:
    """The tensors that the modules hold, as parameters, buffers and attributes."""
    held: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for value in module.__dict__.values():
            held.update((id(tensor), tensor) for tensor in tensors_in(value))
    return held


def _check_held(
    model: torch.nn.Module, before: Mapping[int, torch.Tensor], recording: Recording
) -> None:
    after = _held_by(model)
    for tensor in recording.constants.values():
        if id(tensor) in before and id(tensor) not in after:
            raise UnsupportedError("it carries a tensor over from one call to the next")


def _random_states(device: torch.device) -> tuple[Any, ...]:
    kind, keys, position, *rest = np.random.get_state()  # noqa: NPY002
    numbers = np.asarray(keys).tobytes()
    return (random_state(device), random.getstate(), kind, numbers, position, *rest)


def _written_down(value: Any, recording: Recording) -> Any:
    """A model's outputs as the graph gives them."""
    if isinstance(value, torch.Tensor):
        return recording.node_of(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(_written_down(item, recording) for item in value)
    if type(value) in (dict, OrderedDict):
        return {key: _written_down(item, recording) for key, item in value.items()}
    if isinstance(value, tuple):
        items, make = list(value), getattr(type(value), "_make", type(value))
    elif isinstance(value, dict) and dataclasses.is_dataclass(value):
        keys, kind = list(value), type(value)
        items, make = (
            list(value.values()),
            lambda found: kind(**dict(zip(keys, found, strict=True))),
        )
    elif dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        items = [getattr(value, name) for name in fields]
        make = partial(_with_fields, value, fields)
    else:
        raise UnsupportedError(f"it returns a {type(value).__name__}")

    def remade(*found: Any) -> Any:
        return make(found)

    return recording.graph.call_function(
        remade, tuple(_written_down(item, recording) for item in items)
    )


def _with_keys(kind: Any, keys: list[str], items: Sequence[Any]) -> Any:
    return kind(**dict(zip(keys, items, strict=True)))


def _with_fields(value: Any, fields: list[str], items: Sequence[Any]) -> Any:
    """A copy of a dataclass with other items in it; nothing of it is called."""
    made = copy.copy(value)
    for name, item in zip(fields, items, strict=True):
        object.__setattr__(made, name, item)
    return made
