"""What a model's modules hold, remembered and put back: attributes, and containers in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import is_
from typing import Any

import torch

# How deep containers and plain objects are followed: a cache in a list in a dict.
_DEPTH = 3
# Of longer containers the length alone is looked at.
_LONG = 1000

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
    is_torchs = type(value).__module__.partition(".")[0] == "torch"
    if is_torchs or isinstance(value, (torch.nn.Module, torch.Tensor, type)):
        return
    own = value if isinstance(value, (dict, list, set, deque)) else None
    if own is None and not isinstance(value, tuple):
        own = getattr(value, "__dict__", None)  # an object of the caller's: a cache, a queue
        if not isinstance(own, dict) or callable(value):
            return
    if own is not None:
        if id(own) in seen:
            return
        seen.add(id(own))
        yield own
    if depth and len(within := value if own is None else own) <= _LONG:
        for item in list(within.values() if isinstance(within, dict) else within):
            yield from _containers(item, depth - 1, seen)


def put_back(attributes: Attributes) -> None:
    """Puts back what has changed of what was remembered."""
    for own, before in attributes:
        if _is_same(own, before):
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


def attributes_of(model: torch.nn.Module) -> Callable[[], None]:
    """Remembers what a model's attributes refer to; call what it returns to put them back."""
    attributes = remembered(model)
    return lambda: put_back(attributes)


class Kept:
    """What modules hold, attributes and buffers, to be put back after each use.

    Args:
        modules: the modules, without those that they hold.
    """

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._attributes: Attributes = []
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        seen: set[int] = set()
        for module in modules:
            self._attributes += _of_module(module, seen)
            own = module.buffers(recurse=False)
            self._buffers += [(buffer, buffer.detach().clone()) for buffer in own]

    def put_back(self) -> None:
        """Puts back what has changed."""
        put_back(self._attributes)
        for buffer, value in self._buffers:
            buffer.data.copy_(value)
