"""The calls of torch's functions that a forward pass makes, recorded as they are made."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx
from torch.overrides import TorchFunctionMode

from losspath.evaluation.compiler.watch import Memory, Watch, _FusedKernelError, is_same, tensors_in

# Calls that return no tensor and depend on shapes and dtypes alone.
_OF_THE_FORM = {
    "__len__",
    "dim",
    "element_size",
    "get_device",
    "is_complex",
    "is_conj",
    "is_contiguous",
    "is_floating_point",
    "is_inference",
    "is_neg",
    "is_nested",
    "is_same_size",
    "is_signed",
    "ndimension",
    "nelement",
    "numel",
    "result_type",
    "size",
    "storage_offset",
    "stride",
    "type",
}
# Attributes that are views of a tensor.
_VIEWS = {"T", "mT", "H", "mH", "real", "imag", "data"}
_OF_ANY_SIZE = {"_pack_padded_sequence", "_pad_packed_sequence", "tensor_split"}
_DIFFERENTIATING = {
    "_make_dual",
    "_unpack_dual",
    "backward",
    "grad",
    "register_hook",
    "requires_grad_",
    "retain_grad",
}
_IN_PLACE = {
    "__iadd__": operator.add,
    "__isub__": operator.sub,
    "__imul__": operator.mul,
    "__imatmul__": operator.matmul,
    "__itruediv__": operator.truediv,
    "__idiv__": operator.truediv,
    "__ifloordiv__": operator.floordiv,
    "__imod__": operator.mod,
    "__ipow__": operator.pow,
    "__iand__": operator.and_,
    "__ior__": operator.or_,
    "__ixor__": operator.xor,
    "__ilshift__": operator.lshift,
    "__irshift__": operator.rshift,
}
_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    type(...),
    type(None),
)


class Recording(TorchFunctionMode):
    """Records calls while it is active, together with its `watch`.

    Args:
        names: names of the parameters, and their tensors.
        buffers: the model's buffers.
        inputs: the input.
        earlier: attempts at recording the same model, whose results it may have kept.

    Attributes:
        graph: the calls.
        input: the placeholder of the input.
        parameters: name of the parameter of each placeholder that is one.
        constants: tensor of each placeholder that is one.
        watch: the mode that is active with it.
        results: what the model has computed.
    """

    def __init__(
        self,
        names: Mapping[str, torch.Tensor],
        buffers: list[torch.Tensor],
        inputs: torch.Tensor,
        earlier: Sequence[Recording] = (),
    ) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.parameters: dict[fx.Node, str] = {}
        self.constants: dict[fx.Node, torch.Tensor] = {}
        self._names: dict[int, str] = {}
        self._places: dict[tuple[Any, ...], str] = {}
        self._held: dict[str, fx.Node] = {}  # placeholders of parameters
        self._nodes: dict[int, fx.Node] = {}
        self._known, self._computed, self._trained = Memory(), Memory(), Memory()
        self.results, self._earlier = Memory(), tuple(earlier)
        self._results: set[int] = set()
        self.watch = Watch(self._known, self._computed)
        for name, tensor in names.items():
            # Two tensors of the very same numbers are one parameter.
            self._names[id(tensor)] = self._places.setdefault(_place(tensor), name)
            for memory in (self._known, self._computed, self._trained):
                memory.add(tensor)
        for buffer in buffers:
            self._known.add(buffer)
        self.input = self.graph.placeholder("inputs")
        self._know(inputs, self.input)
        self._computed.add(inputs)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if name in _OF_THE_FORM or name == "_set_grad_enabled":
            if name == "_set_grad_enabled" and args[0]:
                self.watch.refuse("it computes gradients")
            return function(*args, **kwargs)
        if name == "__get__":
            return self._attribute(function, args)
        self._check_call(function, name, args, kwargs)
        if (call := _without_writing(function, name, args, kwargs)) is not None:
            return self._in_place(function, name, args, kwargs, call)
        if _is_of_arrays(args, kwargs):  # as `torch.tensor` of an array: the same at every call
            with self.watch.inside():
                return function(*args, **kwargs)
        if function is torch.Tensor.__pow__:  # which has no name of its own
            function = operator.pow
        references = self._reference(args), self._reference(kwargs)
        given = list(tensors_in((args, kwargs)))
        with self.watch.inside(given, may_read=_reads_no_size(name, args, kwargs)):
            result = function(*args, **kwargs)
        self._keep(name, result, function, references, bool(given))
        return result

    def _attribute(self, function: Any, args: Any) -> Any:
        with self.watch.inside(args[:1]):
            result = function(*args)
        if isinstance(result, torch.Tensor):
            name = function.__self__.__name__
            if name not in _VIEWS:
                self.watch.refuse(f"it asks for the {name} of a tensor")
            self._keep(name, result, getattr, ((self._reference(args[0]), name), {}), True)
        return result

    def _check_call(self, function: Any, name: str, args: Any, kwargs: dict[str, Any]) -> None:
        refuse = self.watch.refuse
        if torch._C._is_any_autocast_enabled():
            refuse("it casts as it goes (autocast)")
        if name in _DIFFERENTIATING:
            refuse(f"it computes gradients ({name})")
        if name in ("__setitem__", "__set__", "__delitem__") or kwargs.get("out") is not None:
            refuse(f"it writes into a tensor ({name})")
        tensors = list(tensors_in((args, kwargs)))
        if name in _OF_ANY_SIZE and (name != "tensor_split" or len(tensors) > 1):
            refuse(f"the size of a result depends on the data ({name})")
        if name == "as_strided":
            refuse("it goes by how a tensor lies in memory (as_strided)")
        if name.startswith("_nested") or any(tensor.is_nested for tensor in tensors):
            refuse("it makes nested tensors", _FusedKernelError)
        if any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors):
            refuse(f"it uses transforms of torch.func ({name})")

    def _in_place(
        self,
        function: Any,
        name: str,
        args: Any,
        kwargs: dict[str, Any],
        call: tuple[Callable[..., Any] | None, tuple[Any, ...], dict[str, Any]],
    ) -> Any:
        """Records a call that writes over its first argument as the call that returns the same."""
        instead, new_args, new_kwargs = call
        target = args[0] if args else None
        if instead is None or not isinstance(target, torch.Tensor):
            return self.watch.refuse(f"it writes into a tensor ({name})")
        if id(target) not in self._results:
            self.watch.refuse(f"it writes into its input, a buffer or a parameter ({name})")
        if self._known.meets(target, besides=target):
            self.watch.refuse(f"it writes into a tensor that another shares ({name})")
        references = self._reference(new_args), self._reference(new_kwargs)
        given = list(tensors_in((args, kwargs)))
        with self.watch.inside(given):
            expected = instead(*new_args, **new_kwargs)
            if isinstance(expected, torch.Tensor):
                expected = expected.clone()
        with self.watch.inside(given, written=target):
            result = function(*args, **kwargs)
        with self.watch.inside([target], may_read=True):
            if not (isinstance(expected, torch.Tensor) and is_same(expected, target)):
                self.watch.refuse(f"it writes into a tensor ({name})")
        node = self.graph.call_function(_found_by_fx(instead), *references)
        self._nodes[id(target)] = node
        if result is not target:
            self._keep_result(name, result, node)
        return result

    def _keep(
        self, name: str, result: Any, function: Any, references: Any, of_tensors: bool
    ) -> None:
        if any(True for _ in tensors_in(result)):
            self._keep_result(
                name, result, self.graph.call_function(_found_by_fx(function), *references)
            )
        elif of_tensors:
            self.watch.refuse(f"it reads values ({name})")

    def _keep_result(self, name: str, value: Any, node: fx.Node) -> None:
        if isinstance(value, torch.Tensor):
            if value.is_nested:
                self.watch.refuse("it makes nested tensors", _FusedKernelError)
            if type(value) not in (torch.Tensor, torch.nn.Parameter):
                self.watch.refuse(f"it makes tensors of a type of their own ({type(value)})")
            if value.layout != torch.strided:
                self.watch.refuse(f"the size of a result depends on the data ({name})")
            if id(value) not in self._nodes:  # an argument may be returned as it is
                self._results.add(id(value))
                self.results.add(value)
            self._know(value, node)
            self._computed.add(value)
        elif isinstance(value, (tuple, list)):
            for index, item in enumerate(value):
                part = None
                if any(True for _ in tensors_in(item)):
                    part = self.graph.call_function(operator.getitem, (node, index))
                    self._keep_result(name, item, part)
                elif item is not None:
                    self.watch.refuse(f"it reads values ({name})")
        else:
            self.watch.refuse(f"a function returned a {type(value).__name__} ({name})")

    def _know(self, tensor: torch.Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._known.add(tensor)

    def _reference(self, value: Any) -> Any:
        """An argument with its tensors replaced by the nodes that stand for them."""
        if isinstance(value, torch.Tensor):
            return self.node_of(value)
        if isinstance(value, dict):
            return {key: self._reference(item) for key, item in value.items()}
        if isinstance(value, range):
            return list(value)
        if isinstance(value, (tuple, list)):
            items = [self._reference(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return slice(*(self._reference(part) for part in parts))
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, _PLAIN):
            self.watch.refuse(f"it calls a function with a {type(value).__name__}")
        for kind in (int, float, str):  # enumerations are written down as what they stand for
            if isinstance(value, kind) and type(value) not in (kind, bool):
                return kind(getattr(value, "value", value))
        return value

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that stands for a tensor."""
        known = self._nodes.get(id(tensor))
        return self._placeholder(tensor) if known is None else known

    def _placeholder(self, tensor: torch.Tensor) -> fx.Node:
        name = self._names.get(id(tensor))
        if name is None and type(tensor) in (torch.Tensor, torch.nn.Parameter):
            name = self._places.get(_place(tensor))
        if name in self._held:
            node = self._held[name]
        else:
            if name is None:
                self._check_constant(tensor)
            with self.graph.inserting_before(next(iter(self.graph.nodes))):
                node = self.graph.placeholder(f"held_{len(self._nodes)}")
            if name is None:
                self.constants[node] = tensor
            else:
                self.parameters[node] = name
                self._held[name] = node
        self._know(tensor, node)
        return node

    def _check_constant(self, tensor: torch.Tensor) -> None:
        refuse = self.watch.refuse
        if tensor.is_nested:
            refuse("it makes nested tensors", _FusedKernelError)
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            refuse("it uses transforms of torch.func")
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            refuse(f"it holds tensors of a type of their own ({type(tensor).__name__})")
        if tensor.grad_fn is not None:
            refuse("it holds a tensor that was computed from its parameters before")
        if self._trained.encloses(tensor):
            refuse("it holds a tensor that shares memory with a parameter")
        if self._computed.meets(tensor):
            refuse("it makes tensors where it cannot be watched")
        if any(attempt.results.meets(tensor) for attempt in self._earlier):
            refuse("it keeps a tensor from one call to the next")


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What is equal for two tensors of the very same numbers."""
    if tensor.layout != torch.strided or not tensor.numel():
        return ("no other", id(tensor))
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _is_of_arrays(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call takes arrays of NumPy and no tensors."""
    values = [*args, *kwargs.values()]
    return any(isinstance(v, np.ndarray) for v in values) and not any(
        True for _ in tensors_in(values)
    )


def _reads_no_size(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether values that are read inside a call have nothing to do with its result's size."""
    if name == "one_hot":  # they are checked
        count = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
        return isinstance(count, int) and count > 0
    if name == "__getitem__":  # a tensor of a single index
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        slices = [each for each in index if isinstance(each, slice)]
        masks = (tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors_in(index))
        return not any(True for _ in tensors_in(slices)) and not any(masks)
    return False


def _found_by_fx(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that a program of torch.fx can call.

    Older versions of it look for Tensor's methods that are written in Python, as ``split`` and
    ``__rsub__``, where they are not.
    """
    if not isinstance(function, FunctionType) or function.__module__ != "torch._tensor":
        return function

    def method(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    method.__name__ = function.__name__
    return method


def _without_writing(
    function: Any, name: str, args: Any, kwargs: dict[str, Any]
) -> tuple[Callable[..., Any] | None, tuple[Any, ...], dict[str, Any]] | None:
    """The call that returns what a call writes over its first argument.

    None for a call that writes over nothing, and (None, …) where there is no such call.
    """
    if name in _IN_PLACE:
        return _IN_PLACE[name], args, kwargs
    if name.endswith("_") and not name.endswith("__"):
        places = (torch.Tensor, torch, F)
        found = [getattr(place, name[:-1], None) for place in places]
        return next(filter(callable, found), None), args, kwargs
    if isinstance(function, FunctionType):
        code = function.__code__
        parameters = code.co_varnames[: code.co_argcount]
        if "inplace" in parameters:
            position = parameters.index("inplace")
            if len(args) > position and args[position]:
                return function, (*args[:position], False, *args[position + 1 :]), kwargs
            if kwargs.get("inplace"):
                return function, args, {**kwargs, "inplace": False}
    return None
