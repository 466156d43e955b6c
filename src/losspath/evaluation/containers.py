"""What is in nested values of any type: read without building anything, copied, and described.

A value is followed by what Python itself copies of it: items, attributes and slots, or what its
class hands to `copy` and `pickle` where that has a say.
"""

from __future__ import annotations

import copy
import copyreg
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from losspath.errors import ObjectiveError

# What has nothing in it to follow, is shared between copies, or cannot change.
_ATOMS = (str, bytes, int, float, complex, type(None), type, torch.Size, torch.dtype, torch.device)
_SHARED = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, torch.nn.Module)
_LEAVES = (torch.Tensor, np.ndarray)

Arrays = Callable[[Any], Any]


def copied_array(array: Any) -> Any:
    """A copy of an array, of its class."""
    return copy.deepcopy(array) if array.dtype == object else array.copy()


# -- reading --------------------------------------------------------------------------------------


def leaves_in(value: Any, objects: bool = True) -> list[Any]:
    """The tensors and arrays of a nested value, in order; nothing is built or called.

    Args:
        value: anything.
        objects: follow objects of every class; otherwise containers and dataclasses alone.
    """
    return [leaf for leaf in _walked(value, objects) if isinstance(leaf, _LEAVES)]


def tensors_in(value: Any, objects: bool = False) -> list[torch.Tensor]:
    """The tensors of a nested value, in order; nothing is built or called.

    Args:
        value: anything.
        objects: follow objects of every class; otherwise containers and dataclasses alone, as in
            what a module refers to.
    """
    return [leaf for leaf in _walked(value, objects) if isinstance(leaf, torch.Tensor)]


def _walked(value: Any, objects: bool) -> Iterator[Any]:
    """Tensors, arrays and modules, in order."""
    seen: dict[int, Any] = {}  # with the values, whose ids would be taken again otherwise
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, (*_LEAVES, torch.nn.Module)):
            yield each
        elif not isinstance(each, (*_ATOMS, *_SHARED)) and id(each) not in seen:
            seen[id(each)] = each
            waiting += reversed(_within(each, objects))


def _within(value: Any, objects: bool) -> list[Any]:
    if isinstance(value, (list, tuple)):
        inner = list(value)
    elif isinstance(value, dict) or (isinstance(value, Mapping) and hasattr(value, "data")):
        inner = list(value.values())
    elif objects and _is_customised(type(value)):
        inner = _reduced(value) or []
    elif objects or dataclasses.is_dataclass(value):
        return list(_state_of(value).values())
    else:
        return []
    # Attributes of a container's own, which may be its items once more.
    is_own = objects and isinstance(value, (list, tuple, dict)) and not _is_customised(type(value))
    own = _state_of(value) if is_own and type(value) not in (list, tuple, dict) else {}
    held = value if isinstance(value, dict) else {}
    return inner + [item for name, item in own.items() if dict.get(held, name, held) is not item]


def _state_of(value: Any) -> dict[str, Any]:
    """The attributes and slots of an object, by name; of dicts that are their own, these."""
    state = object.__getstate__(value)
    if isinstance(state, tuple):
        return {**(state[0] or {}), **state[1]}
    if _own_dict(value) is value:
        return value  # type: ignore[no-any-return]
    return state if isinstance(state, dict) else {}


def _own_dict(value: Any) -> Any:
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None


def _is_customised(kind: type) -> bool:
    """Whether a class has a say in how it is copied."""
    if kind in copyreg.dispatch_table:
        return True
    plain = all(
        getattr(kind, name, None) is getattr(object, name, None)
        for name in ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")
    )
    has_new = hasattr(kind, "__getnewargs__") and not issubclass(kind, tuple)
    return not plain or has_new or hasattr(kind, "__deepcopy__")


def _reduced(value: Any) -> list[Any] | None:
    """What the class of an object hands to `pickle`; None where it hands nothing."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        parts = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    except Exception:
        return None
    if isinstance(parts, str):  # a global name
        return [parts]
    items = [list(part) for part in parts[3:5] if part is not None]
    return [*parts[1:3], *items]


# -- copying --------------------------------------------------------------------------------------


def map_tensors(
    value: Any, function: Callable[[torch.Tensor], Any], arrays: Arrays = copied_array
) -> Any:
    """A deep copy of a nested value, with a function of its tensors in place of them.

    Classes, attributes and what refers to what are kept, without calling any constructor. Modules
    and functions are shared with the value. What requires a gradient does so in its place.

    Args:
        value: anything.
        function: what makes another tensor of one.
        arrays: the same for NumPy arrays; copies by default.

    Raises:
        ObjectiveError: something in it cannot be copied.
    """
    try:
        return _Copier(function, arrays)(value)
    except RecursionError as cause:
        raise _unknown(value, "is nested too deeply") from cause


class _Copier:
    def __init__(self, function: Callable[[torch.Tensor], Any], arrays: Arrays) -> None:
        self._function, self._arrays = function, arrays
        self._memo: dict[int, Any] = {}  # as copy.deepcopy has it
        self._alive: list[Any] = []  # whose ids are in it

    def __call__(self, value: Any) -> Any:
        if isinstance(value, (*_ATOMS, *_SHARED)):
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, torch.Tensor):
            return self._kept(value, self._tensor(value))
        if isinstance(value, np.ndarray):
            return self._kept(value, self._arrays(value))
        if isinstance(value, weakref.ref):
            target = self._memo.get(id(value()))
            return value if target is None else weakref.ref(target)
        return self._deep(value) if _is_customised(type(value)) else self._by_hand(value)

    def _kept(self, value: Any, made: Any) -> Any:
        self._memo[id(value)] = made
        self._alive.append(value)
        return made

    def _tensor(self, tensor: torch.Tensor) -> Any:
        if not tensor.requires_grad:
            return self._function(tensor)
        made = self._function(tensor.detach())
        is_number = made.is_floating_point() or made.is_complex()
        return made.detach().requires_grad_() if is_number else made

    def _by_hand(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, tuple):
            items = [self(item) for item in tuple.__iter__(value)]
            if isinstance(value, PackedSequence):  # the sizes of its batches stay on the CPU
                items[1] = value.batch_sizes.clone()
            made = self._kept(value, tuple.__new__(kind, items))
        elif isinstance(value, list):
            made = self._kept(value, list.__new__(kind))
            list.extend(made, [self(item) for item in list.__iter__(value)])
        elif isinstance(value, dict):
            made = self._kept(value, dict.__new__(kind))
            for key, item in dict.items(value):
                dict.__setitem__(made, key, self(item))
        else:
            with _refusing(value, "cannot be copied"):
                object.__reduce_ex__(value, 4)  # fails where there is more than attributes
                made = self._kept(value, object.__new__(kind))
        if kind not in (tuple, list, dict):
            self._fill(value, made)
        return made

    def _fill(self, value: Any, made: Any) -> None:
        own = _own_dict(value)
        if own is value:
            object.__setattr__(made, "__dict__", made)
            return
        state = {name: self(item) for name, item in _state_of(value).items()}
        if own is not None:
            attributes = {name: state.pop(name) for name in list(own) if name in state}
            object.__getattribute__(made, "__dict__").update(attributes)
        for name, item in state.items():
            object.__setattr__(made, name, item)

    def _deep(self, value: Any) -> Any:
        inner = list(_walked(value, True))
        for each in inner:
            if id(each) not in self._memo:
                self._kept(each, self(each))
        with _refusing(value, "cannot be copied"):
            made = copy.deepcopy(value, self._memo)
        if made is value and inner:
            raise _unknown(value, "is not copied by copy.deepcopy")
        return self._kept(value, made)


@contextmanager
def _refusing(value: object, why: str) -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise
    except Exception as cause:
        raise _unknown(value, f"{why} ({cause})") from cause


def _unknown(value: object, why: str) -> ObjectiveError:
    kind = type(value)
    return ObjectiveError(
        f"expected data that can be copied and compared, got {kind.__module__}.{kind.__qualname__} "
        f"in them, which {why}; leave it out, or give tensors, arrays, numbers or words for it"
    )


# -- describing -----------------------------------------------------------------------------------


def described_by_value(value: Any) -> tuple[list[Any], object]:
    """The tensors and arrays of a nested value, and the rest of it as JSON values.

    Args:
        value: anything.

    Raises:
        ObjectiveError: something in it cannot be told from another of its class.
    """
    leaves: list[Any] = []
    try:
        return leaves, _Describer(leaves)(value)
    except RecursionError as cause:
        raise _unknown(value, "is nested too deeply") from cause


class _Describer:
    def __init__(self, leaves: list[Any]) -> None:
        self._leaves = leaves
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []

    def __call__(self, value: Any) -> object:
        if isinstance(value, _LEAVES):
            return self._leaf(value)
        if isinstance(value, (bool, int, float, str, type(None))):
            return value
        if isinstance(value, bytes):
            return ["bytes", value.hex()]
        if isinstance(value, (*_ATOMS, *_SHARED)) and not isinstance(value, torch.Size):
            is_named = isinstance(value, (type, FunctionType, BuiltinFunctionType))
            is_plain = isinstance(value, (complex, torch.dtype, torch.device))
            return _name(value) if is_named else str(value) if is_plain else _name(type(value))
        if isinstance(value, weakref.ref):
            return "weak reference"
        if id(value) in self._seen:
            return f"number {self._seen[id(value)]}"
        self._alive.append(value)
        self._seen[id(value)] = len(self._alive)
        found = self._within(value)
        if type(value) in (list, tuple, dict):  # where these are shared has no meaning
            del self._seen[id(value)]
        return found

    def _leaf(self, value: Any) -> object:
        if isinstance(value, torch.Tensor):
            self._leaves.append(value)
            return "tensor"
        if value.dtype.hasobject:
            return ["array", str(value.dtype), list(value.shape), self(value.tolist())]
        if isinstance(value, np.ma.MaskedArray):
            self._leaves += [value.filled(), np.ma.getmaskarray(value)]
            return "masked array"
        self._leaves.append(np.asarray(value))
        return "array"

    def _within(self, value: Any) -> object:
        kind = type(value)
        if isinstance(value, (list, tuple)):
            return self._with_own(value, [self(item) for item in value])
        if isinstance(value, (set, frozenset)):
            return ["set", *sorted(str(self(item)) for item in value)]
        if isinstance(value, Mapping) and (isinstance(value, dict) or hasattr(value, "data")):
            return self._with_own(value, {str(key): self(item) for key, item in value.items()})
        if _is_customised(kind):
            parts = _reduced(value)
            if parts is None:
                raise _unknown(value, "cannot be told from another one")
            return [_name(kind), *(self(part) for part in parts)]
        with _refusing(value, "cannot be told from another one"):
            object.__reduce_ex__(value, 4)
        state = {name: self(item) for name, item in _state_of(value).items()}
        return state if dataclasses.is_dataclass(value) else {"": _name(kind), **state}

    def _with_own(self, value: Any, items: object) -> object:
        """The items of a container, and its attributes where these are others."""
        if _is_customised(type(value)) or not isinstance(value, (list, tuple, dict)):
            return items
        held = value if isinstance(value, dict) else {}
        own = {
            name: self(item)
            for name, item in _state_of(value).items()
            if dict.get(held, name, self) is not item
        }
        return {"": items, **own} if own else items


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
