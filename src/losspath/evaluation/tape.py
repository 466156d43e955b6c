"""A model's forward pass as a graph of calls, found by running it once.

Everything that torch computes in one forward pass is recorded as a `torch.fx.Graph`: which function
was called with which parameters, constants and earlier results. The graph is then free of modules,
and says what depends on what: which work is the same for every parameter vector, and which layer is
the first that is not.

It stands for inputs of the shapes that it was recorded with. A forward pass that looks at values
(to branch on them, say) has no such graph and is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from losspath.errors import UnsupportedError


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


# Calls that return no tensor and depend on shapes and dtypes alone.
_OF_THE_FORM = {
    "__get__",
    "__len__",
    "dim",
    "element_size",
    "get_device",
    "is_complex",
    "is_contiguous",
    "is_floating_point",
    "is_nested",
    "is_signed",
    "ndimension",
    "nelement",
    "numel",
    "size",
    "storage_offset",
    "stride",
    "type",
}

_IN_PLACE = {
    "__iadd__": "add",
    "__isub__": "sub",
    "__imul__": "mul",
    "__itruediv__": "div",
}


def record(model: torch.nn.Module, inputs: torch.Tensor) -> Tape:
    """Runs a model once and records its calls. The caller sets the mode and turns gradients off.

    Args:
        model: the model, with its own parameters.
        inputs: a batch.

    Raises:
        UnsupportedError: the pass reads values, writes into tensors that others share, or is not
            made of torch's functions.
    """
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), name)
    recording = _Recording(names)
    # Copies, so that a model that changes its input or its buffers changes none of the caller's.
    inputs = inputs.clone()
    state: dict[str, torch.Tensor] = dict(model.named_parameters())
    state |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    place = recording.add_input(inputs)
    # Stacked points (on a GPU) need the calls that a fused kernel is made of.
    unwatched = _as_if_unwatched() if inputs.device.type == "cpu" else nullcontext()
    with unwatched, recording:
        outputs = torch.func.functional_call(model, state, (inputs,))
    recording.graph.output(recording.reference(outputs))
    recording.graph.lint()
    return Tape(recording.graph, place, recording.parameters, recording.constants)


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


class _Recording(TorchFunctionMode):
    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.parameters: dict[fx.Node, str] = {}
        self.constants: dict[fx.Node, torch.Tensor] = {}
        self._names = names
        self._nodes: dict[int, fx.Node] = {}
        # Every tensor seen, so that no other takes its place in memory, and with it its id.
        self._seen: list[torch.Tensor] = []
        self._made: set[int] = set()

    def add_input(self, tensor: torch.Tensor) -> fx.Node:
        node = self.graph.placeholder("inputs")
        self._know(tensor, node)
        return node

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if name == "__setitem__" or kwargs.get("out") is not None:
            raise UnsupportedError(f"it writes into a tensor ({name})")
        call, call_kwargs = self._without_writing(function, name, args, kwargs)
        references = self.reference(args), self.reference(call_kwargs)
        result = function(*args, **kwargs)
        if _holds_tensor(result):
            self._know(result, self.graph.call_function(call, *references), made=True)
        elif name not in _OF_THE_FORM:
            raise UnsupportedError(f"it reads values ({name})")
        return result

    def _without_writing(
        self, function: Any, name: str, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The same call returning its result, for one that writes it over its first argument."""
        if kwargs.get("inplace"):
            self._check_unshared(args[0], name)
            return function, {**kwargs, "inplace": False}
        if name in _IN_PLACE or (name.endswith("_") and not name.endswith("__")):
            other = getattr(torch.Tensor, _IN_PLACE.get(name, name[:-1]), None)
            if other is None or not args:
                raise UnsupportedError(f"it writes into a tensor ({name})")
            self._check_unshared(args[0], name)
            return other, kwargs
        return function, kwargs

    def _check_unshared(self, target: torch.Tensor, name: str) -> None:
        if id(target) not in self._made:
            raise UnsupportedError(f"it writes into its input or a buffer ({name})")
        place = target.untyped_storage().data_ptr()
        others = (t for t in self._seen if t is not target and not t.is_sparse)
        if any(t.untyped_storage().data_ptr() == place for t in others):
            raise UnsupportedError(f"it writes into a tensor that another shares ({name})")

    def _know(self, value: Any, node: fx.Node, made: bool = False) -> None:
        if isinstance(value, torch.Tensor):
            self._nodes[id(value)] = node
            self._seen.append(value)
            if made:
                self._made.add(id(value))
        elif isinstance(value, (tuple, list)):
            for index, item in enumerate(value):
                if _holds_tensor(item):
                    part = self.graph.call_function(operator.getitem, (node, index))
                    self._know(item, part, made)
        else:
            raise UnsupportedError(f"a function returned a {type(value).__name__}")

    def reference(self, value: Any) -> Any:
        """A value with its tensors replaced by the nodes that stand for them."""
        if isinstance(value, torch.Tensor):
            known = self._nodes.get(id(value))
            return self._placeholder(value) if known is None else known
        if isinstance(value, dict):
            return {key: self.reference(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            items = [self.reference(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return slice(*(self.reference(part) for part in parts))
        return value

    def _placeholder(self, tensor: torch.Tensor) -> fx.Node:
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(f"held_{len(self._nodes)}")
        if id(tensor) in self._names:
            self.parameters[node] = self._names[id(tensor)]
        else:
            self.constants[node] = tensor
        self._know(tensor, node)
        return node


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_tensor, value))
    if isinstance(value, dict):
        return any(map(_holds_tensor, value.values()))
    return isinstance(value, torch.Tensor)
