"""What a loss function reaches: modules and other objects, wherever it has them from."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

from losspath.parameters import is_torchs

# How deep functions, objects and containers are followed: a teacher in a list of a loss object
# that a function closes over.
_DEPTH = 5
# Longer containers are data.
_LONG = 1000

_PLAIN = (str, bytes, int, float, complex, type(None), torch.Tensor, type, ModuleType, CodeType)


def modules_reached(functions: Iterable[Callable[..., Any]]) -> list[torch.nn.Module]:
    """Modules that functions are, hold, close over, have as defaults or name as globals.

    Args:
        functions: functions, methods, partials, modules or objects that can be called.

    Returns:
        Each once, with those that it is made of.
    """
    found: dict[torch.nn.Module, None] = {}
    for value in objects_reached(functions):
        if isinstance(value, torch.nn.Module):
            found.update(dict.fromkeys(value.modules()))
    return list(found)


def objects_reached(functions: Iterable[Callable[..., Any]]) -> list[Any]:
    """Modules, containers and other objects that functions reach, each once; not within modules.

    Args:
        functions: functions, methods, partials, modules or objects that can be called.
    """
    seen: set[int] = set()
    return [value for each in functions for value in _walked(each, _DEPTH, seen)]


def _walked(value: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    if isinstance(value, _PLAIN) or id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if depth and not isinstance(value, torch.nn.Module):
        for held in _held(value):
            yield from _walked(held, depth - 1, seen)


def _held(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        return _of_function(value)
    if isinstance(value, (list, tuple, set, frozenset, deque, dict)):
        items = value.values() if isinstance(value, dict) else value
        return list(items) if len(value) <= _LONG else []
    if is_torchs(type(value)):
        return []
    own = getattr(value, "__dict__", None)
    held = list(own.values()) if isinstance(own, dict) and len(own) <= _LONG else []
    return [*held, vars(type(value)).get("__call__")]


def _of_function(function: FunctionType) -> list[Any]:
    if is_torchs(function):
        return []
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not set yet
            continue
    globals_of = function.__globals__
    held += [globals_of[name] for name in _names_of(function.__code__) if name in globals_of]
    return [*held, getattr(function, "__wrapped__", None)]


def _names_of(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for value in code.co_consts:
        if isinstance(value, CodeType):
            names |= _names_of(value)
    return names
