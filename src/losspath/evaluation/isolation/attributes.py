"""What a model's modules hold, remembered and put back: attributes, and containers in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.objects import LONG, Slots, leaves_in, walk
from losspath.parameters import version_of

# Tensors of so many numbers are put back after every use, larger ones where torch counted a change.
SMALL = 4096

# Of tensors and arrays that are remembered by their numbers.
_MOST_BYTES = 64 << 20

# Tables that can be put back.
_CHANGEABLE = (dict, list, set, deque, Slots)

Attributes = list[tuple[Any, Any]]


def remembered(model: torch.nn.Module) -> Attributes:
    """What each attribute of each module refers to, in lists, dicts, sets and objects too."""
    return _tables_in([vars(module) for module in model.modules()])


def _tables_in(roots: Iterable[Any]) -> Attributes:
    tables = [held.table for held in walk(roots) if isinstance(held.table, _CHANGEABLE)]
    return [(table, _copied(table)) for table in tables]


def _copied(table: Any) -> Any:
    if isinstance(table, (dict, Slots)):
        return dict(table)
    return set(table) if isinstance(table, set) else list(table)


def put_back(attributes: Attributes) -> None:
    """Puts back what has changed of what was remembered."""
    for own, before in attributes:
        # Most are a module's lists of hooks, which are empty.
        if not (own or before) or _is_same(own, before):
            continue
        own.clear()
        if isinstance(own, (dict, set, Slots)):
            own.update(before)
        else:
            own.extend(before)


def _is_same(own: Any, before: Any) -> bool:
    if len(own) != len(before):
        return False
    if isinstance(own, (dict, Slots)):
        if len(own) > LONG:
            return True
        if all(map(is_, own, before)) and all(map(is_, own.values(), before.values())):
            return True  # nearly always
        return all(own.get(name, own) is value for name, value in before.items())
    if isinstance(own, set):
        return len(own) > LONG or bool(own == before)
    return len(own) > LONG or all(map(is_, own, before))


def numbers_of(model: torch.nn.Module) -> Callable[[], None]:
    """Remembers tensors and arrays that are plain attributes of a model, up to 64 MiB of them.

    Returns:
        What writes their numbers back, where they have changed.
    """
    tensors: list[tuple[torch.Tensor, torch.Tensor]] = []
    arrays: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    registered = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    room = _MOST_BYTES
    for value in leaves_in([vars(module) for module in model.modules()]):
        if id(value) in registered or isinstance(value, torch.nn.Module):
            continue
        room -= value.nbytes
        if room < 0:
            break
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


class AttributeSnapshot:
    """What modules and other objects hold, to be put back after each use.

    Args:
        modules: the modules, without those that they hold.
        objects: containers and objects of the caller's.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], objects: Iterable[Any] = ()) -> None:
        modules, objects = list(modules), list(objects)
        tensors = [buffer for module in modules for buffer in module.buffers(recurse=False)]
        tables = [vars(each) if isinstance(each, torch.nn.Module) else each for each in objects]
        tensors += [each for each in leaves_in(tables) if isinstance(each, torch.Tensor)]
        self._attributes = _tables_in([*map(vars, modules), *tables])
        self._buffers = [(each, each.detach().clone(), version_of(each)) for each in tensors]

    def put_back(self) -> None:
        """Puts back what has changed."""
        put_back(self._attributes)
        for buffer, value, version in self._buffers:
            if buffer.numel() <= SMALL or version is None or version_of(buffer) != version:
                buffer.data.copy_(value)
