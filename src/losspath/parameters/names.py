"""Canonical names of modules, parameters and buffers.

What wraps a module (`torch.compile`, DDP, DataParallel, FSDP, `AveragedModel`) adds nothing to
them, and a tensor that a module tree holds twice has its first name.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Container, Iterable, Iterator
from typing import Any

import torch

# Modules that hold another and compute what it computes, with the attribute that they hold it in.
_WRAPPERS = {
    "AveragedModel": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
    "OptimizedModule": "_orig_mod",
}


# What torch.compile, FSDP and activation checkpoints put into names, and nothing else has.
_INSIDE_NAMES = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_PARALLEL = "module."  # what DDP and DataParallel begin all names with


def without_wrappers(names: Iterable[str]) -> tuple[list[str], str]:
    """Names that were saved of a wrapped model, as they are in the model inside.

    Args:
        names: of all its tensors.

    Returns:
        The names; and what was taken off all of them as DDP's and DataParallel's, which may as well
        be a child of the model's own that is called ``module``.
    """
    inside = [_INSIDE_NAMES.sub("", name) for name in names]
    prefix = ""
    while inside and all(name.startswith(_PARALLEL) for name in inside):
        inside = [name.removeprefix(_PARALLEL) for name in inside]
        prefix += _PARALLEL
    return inside, prefix


def prefix_in(prefix: str, own: Collection[str], names: Container[str]) -> str:
    """What names begin with in a network, of which a prefix was taken off.

    Args:
        prefix: what `without_wrappers` took off.
        own: the names without it.
        names: of the network's parameters.

    Returns:
        The prefix where the network has all names with it and not all without it, or else "".
    """
    if not prefix or all(name in names for name in own):
        return ""
    return prefix if all(prefix + name in names for name in own) else ""


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is that of any pattern, with ``*`` and ``?`` as in a shell."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def wrapped_in(module: torch.nn.Module) -> str | None:
    """The attribute that a wrapper holds its module in; None for any other module."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torch.") and kind.__name__ in _WRAPPERS:
            return _WRAPPERS[kind.__name__]
    return None


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside all wrappers."""
    while (attribute := wrapped_in(model)) is not None:
        model = getattr(model, attribute)
    return model


def is_torchs(definition: Any) -> bool:
    """Whether a class or a function is torch's own."""
    return (definition.__module__ or "").partition(".")[0] == "torch"


def version_of(tensor: torch.Tensor) -> int | None:
    """How often torch saw a tensor changed in place; None for those that do not count it."""
    return None if tensor.is_inference() else tensor._version


def named_modules(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every module once, wrappers too, under its first canonical name; parents come first."""
    yield from _walk(model, "", set())


def _walk(
    module: torch.nn.Module, name: str, seen: set[torch.nn.Module] | None
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Modules under canonical names: those not seen, or where that is None, each at every place."""
    if seen is not None:
        if module in seen:
            return
        seen.add(module)
    yield name, module
    wrapped = wrapped_in(module)
    for child_name, child in module._modules.items():
        if child is not None:
            inside = name if child_name == wrapped else _join(name, child_name)
            yield from _walk(child, inside, seen)


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def named_parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter once, under its first canonical name, in ``named_parameters()`` order."""
    yield from _named(model, "named_parameters")


def notes_on_sharing(model: torch.nn.Module, counted: Container[str]) -> list[str]:
    """Under which names parameters count that have several; nothing where none has.

    Args:
        model: the model.
        counted: the names that count.
    """
    own = {id(tensor): name for name, tensor in named_parameters(model) if name in counted}
    told = []
    for place, module in _walk(model, "", None):
        every = torch.nn.Module.named_parameters(module, recurse=False, remove_duplicate=False)
        for part, tensor in every:
            name = _join(place, part)
            if own.get(id(tensor), name) != name:
                told.append(f"{name} counts as {own[id(tensor)]}")
    return [f"shared: {', '.join(told[:3])}{' …' if told[3:] else ''}"] if told else []


def named_buffers(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every buffer once, under its first canonical name, in ``named_buffers()`` order."""
    yield from _named(model, "named_buffers")


def _named(model: torch.nn.Module, what: str) -> Iterator[tuple[str, torch.Tensor]]:
    seen: dict[int, torch.Tensor] = {}  # held, so that nothing else can come to have the same id
    for module_name, module in named_modules(model):
        # The base class's, as one of the user's own may take no `recurse`, or leave some out.
        for name, tensor in getattr(torch.nn.Module, what)(module, recurse=False):
            if id(tensor) not in seen:
                seen[id(tensor)] = tensor
                yield _join(module_name, name), tensor
