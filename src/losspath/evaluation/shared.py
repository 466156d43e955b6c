"""Objects that a model and its loss share: what one leaves there, the other reads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any

import torch

from losspath.evaluation.attributes import dict_of
from losspath.evaluation.reached import objects_reached
from losspath.parameters import is_torchs

# How deep containers and plain objects in a module's attributes are followed.
_DEPTH = 3
_LONG = 1000
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def shared_objects(model: torch.nn.Module, functions: Iterable[Callable[..., Any]]) -> list[Any]:
    """What must not be copied with a model, as somebody else reads or fills it too.

    Containers and plain objects that modules hold and that the loss reaches as well, such as a list
    of auxiliary losses; and the objects whose methods are hooks of the model.

    Args:
        model: the model.
        functions: the loss and the metrics.

    Returns:
        Each once; none of them is a module of the model.
    """
    modules = set(model.modules())
    found = {id(owner): owner for owner in _owners_of_hooks(model) if owner not in modules}
    reached = {id(value) for value in objects_reached(functions)}
    for module in modules:
        for value in list(vars(module).values()):
            for held in _held_in(value, _DEPTH):
                if id(held) in reached:
                    found[id(held)] = held
    return list(found.values())


def _owners_of_hooks(model: torch.nn.Module) -> Iterator[Any]:
    """Objects whose methods are called at each forward pass."""
    for module in model.modules():
        for name in _HOOKS:
            for hook in list(vars(module).get(name, {}).values()):
                while isinstance(hook, functools.partial):
                    hook = hook.func
                owner = hook.__self__ if isinstance(hook, MethodType) else hook
                is_object = isinstance(owner, torch.nn.Module) or dict_of(owner) is not None
                if is_object and not is_torchs(type(owner)):
                    yield owner


def _held_in(value: Any, depth: int) -> Iterator[Any]:
    """Containers and plain objects, without those that hold modules or parameters."""
    if isinstance(value, (torch.nn.Module, torch.Tensor, type)) or is_torchs(type(value)):
        return
    if isinstance(value, (dict, list, set, tuple)):
        items = list(value.values() if isinstance(value, dict) else value)
        is_shareable = not isinstance(value, tuple)
    else:
        own = dict_of(value)
        if own is None:
            return
        items, is_shareable = list(own.values()), True
    if len(items) > _LONG:
        return
    if is_shareable and not any(
        isinstance(item, (torch.nn.Module, torch.nn.Parameter)) for item in items
    ):
        yield value
    if depth:
        for item in items:
            yield from _held_in(item, depth - 1)
