"""What a loss reaches, wherever it has it from, and what of that a model holds too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any

import torch

from losspath.objects import DEPTH, has_attributes, own_attributes, values_of, walk
from losspath.parameters import is_torchs

# A teacher in a list of a loss object that a partial has among its arguments.
_DEPTH = DEPTH + 2
_PARTS = (torch.nn.Module, torch.nn.Parameter)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def objects_reached(functions: Iterable[Callable[..., Any]]) -> list[Any]:
    """Modules, containers and other objects that functions are, hold, close over or name.

    Args:
        functions: functions, methods, partials, modules or objects that can be called.

    Returns:
        Each once; nothing of what is within modules.
    """
    return list({id(h.value): h.value for h in walk(functions, _DEPTH, functions=True)}.values())


def modules_among(objects: Iterable[Any]) -> list[torch.nn.Module]:
    """The modules among objects, each once, with those that they are made of."""
    found: dict[torch.nn.Module, None] = {}
    for value in objects:
        if issubclass(type(value), torch.nn.Module):
            found.update(dict.fromkeys(value.modules()))
    return list(found)


def shared_objects(model: torch.nn.Module, reached: Iterable[Any]) -> list[Any]:
    """What must not be copied with a model, as somebody else reads or fills it too.

    Containers and objects that modules hold and that the loss reaches as well, such as a list of
    auxiliary losses, but for those that hold modules or parameters; and the objects whose methods
    are hooks of the model.

    Args:
        model: the model.
        reached: what the loss and the metrics reach.

    Returns:
        Each once; none of them is a module of the model.
    """
    modules = {id(module) for module in model.modules()}
    found = {id(owner): owner for owner in _owners_of_hooks(model) if id(owner) not in modules}
    of_loss = {id(value) for value in reached}
    for held in walk([own_attributes(module, hooks=True) for module in model.modules()]):
        if not held.path or held.table is None or id(held.value) not in of_loss:
            continue
        is_fixed = held.is_container and isinstance(held.table, (tuple, frozenset))
        if not is_fixed and not any(issubclass(type(v), _PARTS) for v in values_of(held.table)):
            found[id(held.value)] = held.value
    return list(found.values())


def _owners_of_hooks(model: torch.nn.Module) -> Iterator[Any]:
    """Objects whose methods are called at each forward pass."""
    for module in model.modules():
        for name in _HOOKS:
            for hook in list(vars(module).get(name, {}).values()):
                while isinstance(hook, functools.partial):
                    hook = hook.func
                owner = hook.__self__ if isinstance(hook, MethodType) else hook
                is_module = isinstance(owner, torch.nn.Module)
                if (is_module or has_attributes(owner)) and not is_torchs(type(owner)):
                    yield owner
