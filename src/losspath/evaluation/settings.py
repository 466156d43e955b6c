"""Plain settings of losses and modules, which may matter only where nothing is evaluated yet."""

from __future__ import annotations

import functools
from types import CodeType, FunctionType
from typing import Any

import torch

from losspath.evaluation.data import digest_of_tensors
from losspath.parameters import is_torchs

Settings = list[object]


def settings_of_loss(function: Any) -> Settings:
    """What a loss of the caller's own is set to: constants, closures, attributes, arguments.

    Whatever is no plain value is left out.
    """
    if isinstance(function, functools.partial):
        given = _plain([*function.args, *sorted(function.keywords.items())])
        return [*settings_of_loss(function.func), *given]
    if isinstance(function, torch.nn.Module):
        # What a loss counts in itself is put back after each evaluation.
        own = {name: value for name, value in vars(function).items() if name != "training"}
        tensors = digest_of_tensors([*function.parameters(), *function.buffers()])
        return [*_plain(sorted(own.items())), tensors]
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, torch.nn.Module):
        return [*_attributes(owner, int), *settings_of_loss(getattr(function, "__func__", None))]
    if isinstance(function, FunctionType):
        return _of_function(function)
    return _attributes(function, int) if hasattr(function, "__dict__") else []


def lasting(before: Settings, after: Settings) -> Settings:
    """Settings that an evaluation has left as they were: what counts its calls is none."""
    return [value for value, now in zip(before, after, strict=False) if value == now]


def settings_of_model(model: torch.nn.Module) -> Settings:
    """Numbers and words that modules of the caller's own are set to.

    Without whole numbers, which may count calls.
    """
    found: Settings = []
    for name, module in model.named_modules():
        if not is_torchs(type(module)):
            settings = _attributes(module)
            found += [name, settings] if settings else []
    return found


def _of_function(function: FunctionType) -> Settings:
    if function.__module__ is None or is_torchs(function):
        return []
    closed = [_content_of(cell) for cell in function.__closure__ or ()]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    return _plain([*_constants(function.__code__), *closed, *defaults])


def _content_of(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _constants(code: CodeType) -> list[Any]:
    found: list[Any] = []
    for value in code.co_consts:
        found += _constants(value) if isinstance(value, CodeType) else [value]
    return [value for value in found if isinstance(value, (int, float))]


def _attributes(owner: Any, *more: type) -> Settings:
    own = getattr(owner, "__dict__", {})
    kinds = (bool, float, str, *more)
    return _plain(
        [(n, v) for n, v in sorted(own.items()) if n != "training" and isinstance(v, kinds)]
    )


def _plain(values: list[Any]) -> Settings:
    """The plain values of a list, and of pairs in it with their names."""
    plain = (bool, int, float, str)
    found: Settings = []
    for value in values:
        if isinstance(value, plain):
            found.append(value)
        elif isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], plain):
            found.append([str(value[0]), value[1]])
    return found
