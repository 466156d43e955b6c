"""Parameters that a model uses and does not know of: neither recorded nor set."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from losspath.errors import LosspathWarning
from losspath.objects import DEPTH, leaves_in, own_attributes
from losspath.parameters import class_of, named_modules


def warn_of_hidden(model: torch.nn.Module, stacklevel: int) -> None:
    """Warns of trainable parameters and modules in lists, objects and the like.

    Args:
        model: the model.
        stacklevel: of the warning, from here.
    """
    parameters = {id(parameter) for parameter in model.parameters()}
    modules = set(model.modules())
    for name, module in named_modules(model):
        for attribute, value in own_attributes(module, hooks=True).items():
            what = _hidden_in(value, parameters, modules)
            if what:
                place = name or class_of(module).__name__
                warnings.warn(
                    f"{place}.{attribute} holds {what} that the model does "
                    "not know, and that takes a gradient: it is neither recorded nor set, and "
                    "keeps its numbers at every point; register it (ParameterList, ModuleList, "
                    "ModuleDict, register_parameter), or freeze it (requires_grad_(False)) if "
                    "it is not trained",
                    LosspathWarning,
                    stacklevel=stacklevel + 1,
                )
                return


def _hidden_in(value: Any, parameters: set[int], modules: set[torch.nn.Module]) -> str:
    for held in leaves_in([value], DEPTH - 1):
        if isinstance(held, torch.nn.Parameter):
            if held.requires_grad and id(held) not in parameters:
                return "a parameter"
        elif (
            isinstance(held, torch.nn.Module)
            and modules.isdisjoint(held.modules())  # else a parent, or registered elsewhere
            and any(p.requires_grad and id(p) not in parameters for p in held.parameters())
        ):
            return f"a module with parameters ({type(held).__name__})"
    return ""
