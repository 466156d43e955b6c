"""Parameters that a model uses and does not know of: neither recorded nor set."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from losspath.errors import LosspathWarning
from losspath.parameters import named_modules

_DEPTH = 3
# Longer containers are data.
_LONG = 1000
_KNOWN = ("_parameters", "_buffers", "_modules")


def warn_of_hidden(model: torch.nn.Module, stacklevel: int) -> None:
    """Warns of trainable parameters and modules in lists and the like, which are no module's.

    Args:
        model: the model.
        stacklevel: of the warning, from here.
    """
    parameters = {id(parameter) for parameter in model.parameters()}
    modules = set(model.modules())
    for name, module in named_modules(model):
        for attribute, value in vars(module).items():
            if attribute in _KNOWN:
                continue
            what = _hidden_in(value, parameters, modules)
            if what:
                warnings.warn(
                    f"{name or type(module).__name__}.{attribute} holds {what} that the model does "
                    "not know, and that takes a gradient: it is neither recorded nor set, and "
                    "keeps its numbers at every point; register it (ParameterList, ModuleList, "
                    "ModuleDict, register_parameter), or freeze it (requires_grad_(False)) if "
                    "it is not trained",
                    LosspathWarning,
                    stacklevel=stacklevel + 1,
                )
                return


def _hidden_in(value: Any, parameters: set[int], modules: set[torch.nn.Module]) -> str:
    for held in _held_in(value, _DEPTH):
        if isinstance(held, torch.nn.Parameter):
            if held.requires_grad and id(held) not in parameters:
                return "a parameter"
        elif modules.isdisjoint(held.modules()) and any(  # else a parent, or registered elsewhere
            p.requires_grad and id(p) not in parameters for p in held.parameters()
        ):
            return f"a module with parameters ({type(held).__name__})"
    return ""


def _held_in(value: Any, depth: int) -> Iterator[torch.nn.Module | torch.nn.Parameter]:
    if isinstance(value, (torch.nn.Module, torch.nn.Parameter)):
        yield value
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if isinstance(value, (list, tuple, dict)) and depth and len(value) <= _LONG:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _held_in(item, depth - 1)
