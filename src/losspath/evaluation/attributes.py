"""What a model's modules hold, remembered and put back: attributes, and containers in them."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.parameters import is_torchs, version_of

# How deep containers and plain objects are followed: a cache in a list in a dict.
_DEPTH = 3
# Of longer containers the length alone is looked at.
_LONG = 1000

# Tensors of so many numbers are put back after every use, larger ones where torch counted a change.
SMALL = 4096

# Of tensors and arrays that are remembered by their numbers.
_MOST_BYTES = 64 << 20

_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, functools.partial)

Attributes = list[tuple[Any, Any]]


def remembered(model: torch.nn.Module) -> Attributes:
    """What each attribute of each module refers to, in lists, dicts, sets and plain objects too."""
    seen: set[int] = set()
    return [each for module in model.modules() for each in _of_module(module, seen)]


def _of_module(module: torch.nn.Module, seen: set[int]) -> Attributes:
    found = _containers(module.__dict__, _DEPTH, seen)
    return [(container, _copied(container)) for container in found]


def _copied(container: Any) -> Any:
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def _containers(value: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    if is_torchs(type(value)) or isinstance(value, (torch.nn.Module, torch.Tensor, type)):
        return
    own = value if isinstance(value, (dict, list, set, deque)) else None
    if own is None and not isinstance(value, tuple):
        own = dict_of(value)  # an object of the caller's: a cache, a queue
        if own is None:
            return
    if own is not None:
        if id(own) in seen:
            return
        seen.add(id(own))
        yield own
    if depth and len(within := value if own is None else own) <= _LONG:
        for item in list(within.values() if isinstance(within, dict) else within):
            yield from _containers(item, depth - 1, seen)


def dict_of(value: Any) -> dict[str, Any] | None:
    """The attributes of an object of the caller's; None for functions, methods, classes and alike.

    What can be called is an object too, where its class says how.
    """
    if isinstance(value, (torch.nn.Module, torch.Tensor, type, ModuleType)):
        return None
    if callable(value) and isinstance(value, _FUNCTIONS):
        return None
    own = getattr(value, "__dict__", None)
    return own if isinstance(own, dict) else None


def put_back(attributes: Attributes) -> None:
    """Puts back what has changed of what was remembered."""
    for own, before in attributes:
        # Most are a module's lists of hooks, which are empty.
        if not (own or before) or _is_same(own, before):
            continue
        own.clear()
        if isinstance(own, (dict, set)):
            own.update(before)
        else:
            own.extend(before)


def _is_same(own: Any, before: Any) -> bool:
    if len(own) != len(before):
        return False
    if isinstance(own, dict):
        if len(own) > _LONG:
            return True
        if all(map(is_, own, before)) and all(map(is_, own.values(), before.values())):
            return True  # nearly always
        return all(own.get(name, own) is value for name, value in before.items())
    if isinstance(own, set):
        return len(own) > _LONG or bool(own == before)
    return len(own) > _LONG or all(map(is_, own, before))


def numbers_of(model: torch.nn.Module) -> Callable[[], None]:
    """Remembers tensors and arrays that are plain attributes of a model, up to 64 MiB of them.

    Returns:
        What writes their numbers back, where they have changed.
    """
    tensors: list[tuple[torch.Tensor, torch.Tensor]] = []
    arrays: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    registered = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    room, seen = _MOST_BYTES, set(registered)
    for _, before in remembered(model):
        for value in before.values() if isinstance(before, dict) else before:
            if id(value) in seen or not isinstance(value, (torch.Tensor, np.ndarray)):
                continue
            seen.add(id(value))
            room -= value.nbytes
            if room < 0:
                return lambda: _write_back(tensors, arrays)
            if isinstance(value, np.ndarray):
                arrays.append((value, value.copy()))
            elif value.layout == torch.strided and not value.is_meta:
                tensors.append((value, value.detach().clone()))
    return lambda: _write_back(tensors, arrays)


def _write_back(
    tensors: list[tuple[torch.Tensor, torch.Tensor]],
    arrays: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]],
) -> None:
    for tensor, number in tensors:
        if tensor.shape == number.shape and tensor.dtype == number.dtype:
            tensor.data.copy_(number)
    for array, numbers in arrays:
        if array.flags.writeable and array.shape == numbers.shape:
            array[...] = numbers


def attributes_of(model: torch.nn.Module) -> Callable[[], None]:
    """Remembers what a model's attributes refer to; call what it returns to put them back."""
    attributes = remembered(model)
    return lambda: put_back(attributes)


class Kept:
    """What modules and other objects hold, to be put back after each use.

    Args:
        modules: the modules, without those that they hold.
        objects: containers and objects of the caller's.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], objects: Iterable[Any] = ()) -> None:
        self._attributes: Attributes = []
        tensors: list[torch.Tensor] = []
        seen: set[int] = set()
        for module in modules:
            self._attributes += _of_module(module, seen)
            tensors += module.buffers(recurse=False)
        for value in objects:
            held = value.__dict__ if isinstance(value, torch.nn.Module) else value
            found = [(each, _copied(each)) for each in _containers(held, _DEPTH, seen)]
            self._attributes += found
            for _, before in found:
                inside = before.values() if isinstance(before, dict) else before
                tensors += [each for each in inside if isinstance(each, torch.Tensor)]
        self._buffers = [(each, each.detach().clone(), version_of(each)) for each in tensors]

    def put_back(self) -> None:
        """Puts back what has changed."""
        put_back(self._attributes)
        for buffer, value, version in self._buffers:
            if buffer.numel() <= SMALL or version is None or version_of(buffer) != version:
                buffer.data.copy_(value)
