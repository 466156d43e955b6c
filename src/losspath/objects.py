"""What Python objects hold: the one walk through what callers hand over.

Followed are the items of containers, the attributes and slots of objects (dataclasses and
namespaces among them) and, where asked for, what functions, methods, partials and objects that can
be called have, close over and name as globals.

Never entered are tensors and arrays, neural modules (whoever asks goes through these by name, and
gives `vars(module)`), classes, Python modules, and objects of torch's, NumPy's and the standard
library's own classes, such as loggers and threads. Nothing of a user's class is called on the way,
so nothing of it can raise.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from argparse import Namespace
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, NamedTuple

import numpy as np
import torch

from losspath.parameters import is_torchs

# How many steps are followed from a module's attributes on: a tensor in an object in a list in a
# dict. Functions are a step of their own.
DEPTH = 4
# Longer containers are data.
LONG = 1000

# Objects of the standard library's that hold what their owner puts in.
TABLES = (Namespace, SimpleNamespace, UserDict, UserList)

_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
# Those without attributes; nearly all are of these.
_BARE = frozenset({*_CONTAINERS, OrderedDict})
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, functools.partial)
# Not entered, but told of.
_TOLD = (torch.nn.Module, torch.Tensor, np.ndarray)
_LEAVES = (
    *(*_TOLD, np.generic, type, ModuleType, CodeType),
    *(str, bytes, int, float, complex, type(None)),
)
_OF_ALL_MODULES = frozenset(vars(torch.nn.Module()))
# What need not be looked at.
_ATOMS = frozenset({str, bytes, int, float, complex, bool, type(None), type, ModuleType, CodeType})


class Held(NamedTuple):
    """An object that was come upon, and what it holds.

    A container with attributes of its own is told of with each of its tables.

    Attributes:
        path: keys and names of attributes that lead to it; empty for a root.
        value: the object.
        table: what it holds others in: itself for a container, its `__dict__`, or its `Slots`; for
            functions and the like a dict made of their parts, and None for tensors, arrays and
            neural modules, which are not entered.
        items: pairs of key and value in the table; none where these are not followed, as it is too
            long or too deep.
    """

    path: tuple[Any, ...]
    value: Any
    table: Any
    items: list[tuple[Any, Any]]

    @property
    def is_container(self) -> bool:
        """Whether the items are a container's, rather than attributes."""
        return self.table is self.value


def walk(
    roots: Iterable[Any],
    depth: int = DEPTH,
    *,
    functions: bool = False,
    longest: int = LONG,
    enters: Callable[[tuple[Any, ...], Any], bool] | None = None,
    seen: dict[int, Any] | None = None,
) -> Iterator[Held]:
    """Everything that objects hold, once each, nearest first; numbers and words are items alone.

    Args:
        roots: where to begin; for a neural module give its `vars`.
        depth: how many steps to follow.
        functions: whether to follow what functions and other callables hold.
        longest: items of longer tables are not followed.
        enters: whether to enter a value, by its path; all by default.
        seen: objects by id that are passed over; it is added to.
    """
    seen = {} if seen is None else seen
    waiting: deque[tuple[tuple[Any, ...], Any]] = deque(((), root) for root in roots)
    while waiting:
        path, value = waiting.popleft()
        if id(value) in seen or (enters is not None and path and not enters(path, value)):
            continue
        seen[id(value)] = value  # held, so that no id is used twice
        if issubclass(type(value), _TOLD):
            yield Held(path, value, None, [])
        for table in _tables(value, functions):
            is_followed = len(path) < depth and len(table) <= longest
            items = items_of(table) if is_followed else []
            yield Held(path, value, table, items)
            for key, item in items:
                if type(item) not in _ATOMS:
                    waiting.append(((*path, key), item))


def leaves_in(roots: Iterable[Any], depth: int = DEPTH) -> list[Any]:
    """The tensors, arrays and neural modules that objects hold, each once; as `walk`."""
    return [held.value for held in walk(roots, depth) if held.table is None]


def items_of(table: Any) -> list[tuple[Any, Any]]:
    """Pairs of key and value in a table; the keys of sequences and sets are numbers."""
    if isinstance(table, dict):
        return list(dict.items(table))
    return list(table.items() if isinstance(table, Slots) else enumerate(table))


def values_of(table: Any) -> list[Any]:
    """The values in a table."""
    return [value for _, value in items_of(table)]


def _tables(value: Any, functions: bool) -> list[Any]:
    """What an object holds others in; none for what is never entered."""
    kind = type(value)
    if kind in _BARE:
        return [value]
    if issubclass(kind, _LEAVES):
        return []
    if issubclass(kind, _FUNCTIONS):
        return [_reached_by(value)] if functions else []
    tables = [value] if issubclass(kind, _CONTAINERS) else []
    tables += [] if is_librarys(kind) else _attribute_tables(value)
    if functions:
        call = getattr(kind, "__call__", None)  # noqa: B004 - the function itself is wanted
        wrapped = (_own_dict(value) or {}).get("__wrapped__")  # as functools.lru_cache has it
        tables.append({"()": call, "__wrapped__": wrapped})
    return tables


def is_librarys(kind: type) -> bool:
    """Whether a class is torch's, NumPy's or the standard library's, and no table of others."""
    root = str(kind.__module__).partition(".")[0]
    is_table = issubclass(kind, TABLES) or dataclasses.is_dataclass(kind)  # made in "types"
    return root in ("torch", "numpy") or (root in sys.stdlib_module_names and not is_table)


# -- attributes -----------------------------------------------------------------------------------


def own_attributes(module: torch.nn.Module, hooks: bool = False) -> dict[str, Any]:
    """The attributes of a neural module that not every module has.

    Args:
        module: the module.
        hooks: also the tables of its hooks, where there are any.
    """
    return {
        name: value
        for name, value in list(vars(module).items())
        if name not in _OF_ALL_MODULES or (hooks and name.endswith("_hooks") and value)
    }


def attributes_in(value: Any) -> dict[str, Any]:
    """The attributes of an object, those in slots too; none of a table longer than `LONG`."""
    tables = [table for table in _attribute_tables(value) if len(table) <= LONG]
    return {name: item for table in tables for name, item in items_of(table)}


def has_attributes(value: Any) -> bool:
    """Whether a value is an object whose attributes the walk follows."""
    kind = type(value)
    if issubclass(kind, (*_LEAVES, *_FUNCTIONS)) or is_librarys(kind):
        return False
    return bool(_attribute_tables(value))


def _attribute_tables(value: Any) -> list[Any]:
    own, slots = _own_dict(value), Slots(value)
    tables = [] if own is None or own is value else [own]
    return [*tables, slots] if slots.are_there else tables


def _own_dict(value: Any) -> dict[str, Any] | None:
    try:
        own = object.__getattribute__(value, "__dict__")
    except Exception:  # none, or a property of the user's
        return None
    return own if isinstance(own, dict) else None


class Slots(MutableMapping[str, Any]):
    """The slots of an object as a table like its `__dict__`, for reading and writing.

    Args:
        owner: the object.

    Attributes:
        are_there: whether its class has any.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._members: dict[str, Any] = {}
        for base in reversed(type(owner).__mro__):
            if "__slots__" in (own := vars(base)):
                self._members.update(
                    (name, each) for name, each in own.items() if type(each) is MemberDescriptorType
                )
        self.are_there = bool(self._members)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._members[name].__get__(self._owner)
        except AttributeError as cause:  # not set
            raise KeyError(name) from cause

    def __setitem__(self, name: str, value: Any) -> None:
        self._members[name].__set__(self._owner, value)

    def __delitem__(self, name: str) -> None:
        self._members[name].__delete__(self._owner)

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self._members if name in self])

    def __len__(self) -> int:
        return sum(1 for _ in self)


# -- functions ------------------------------------------------------------------------------------


def parts_of(function: Any) -> dict[str, Any]:
    """What a function, method or partial is made of: each part by the sign that it is found under.

    Of functions these are defaults by number and name, ``(0)`` and ``(name)``, and what they close
    over, ``<name>``; of others ``()`` is the function.
    """
    if isinstance(function, functools.partial):
        return {"()": function.func, "(*)": function.args, "(**)": function.keywords}
    if isinstance(function, MethodType):
        return {"()": function.__func__, ".self": function.__self__}
    if isinstance(function, BuiltinFunctionType):
        return {".self": function.__self__}
    found = {f"({number})": value for number, value in enumerate(function.__defaults__ or ())}
    found |= {f"({name})": value for name, value in (function.__kwdefaults__ or {}).items()}
    closed = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, closed, strict=True):
        try:
            found[f"<{name}>"] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    return found


def _reached_by(function: Any) -> dict[str, Any]:
    """The parts of a function, and of one of the user's own its attributes and globals."""
    if not isinstance(function, FunctionType):
        return parts_of(function)
    if is_torchs(function):
        return {}
    names, known = _names_of(function.__code__), function.__globals__
    of_globals = {f"@{name}": known[name] for name in names if name in known}
    return {**parts_of(function), **of_globals, **vars(function)}


def _names_of(code: CodeType) -> set[str]:
    inner = [_names_of(each) for each in code.co_consts if isinstance(each, CodeType)]
    return {*code.co_names}.union(*inner)
