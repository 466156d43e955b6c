"""What code does and what it reads, and whose it is."""

from __future__ import annotations

import dis
import enum
import functools
import re
import sys
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch

from losspath.files import digest_of
from losspath.objects import LONG

_PLAIN = (
    *(bool, int, float, complex, bytes, type(None), type(Ellipsis), range),
    *(np.generic, torch.dtype, torch.device, torch.layout),
)
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")


class Code(NamedTuple):
    """What a piece of code does.

    Attributes:
        digest: identifies it.
        globals: names of globals that it reads.
        loads: names of attributes, and of what it may read by names as text.
        stores: names of attributes that it sets.
    """

    digest: str
    globals: frozenset[str]
    loads: frozenset[str]
    stores: frozenset[str]


@functools.lru_cache(4096)
def read_code(code: CodeType) -> Code:
    """Reads code, and code within it; lines, comments and docstrings do not count."""
    names_of_globals, loads, stores, constants = set(), set(), set(), []
    for each in dis.get_instructions(code):
        if each.opname == "STORE_ATTR":
            stores.add(each.argval)
        elif each.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names_of_globals.add(each.argval)
        elif each.opcode in dis.hasname:
            loads.add(each.argval)
        elif each.opcode in dis.hasconst:
            constants.append(each.argval)
    texts = []
    for value in constants:
        if isinstance(value, CodeType):
            inner = read_code(value)
            names_of_globals |= inner.globals
            loads |= inner.loads
            stores |= inner.stores
            texts.append(inner.digest)
        else:
            texts.append(spelled(value) or type(value).__qualname__)
            # Attributes are also read by their names, as by getattr(self, "rate").
            values = value if isinstance(value, tuple) else (value,)
            loads |= {one for one in values if isinstance(one, str)}
    names = [*code.co_names, *code.co_freevars, *code.co_cellvars]
    digest = digest_of(code.co_code.hex(), names, texts)
    return Code(digest, *map(frozenset, (names_of_globals, loads, stores)))


def is_users(definition: Callable[..., Any]) -> bool:
    """Whether a function or class is the caller's own, and not a library's."""
    return definition.__module__ is not None and is_users_module(definition.__module__)


@functools.lru_cache(4096)
def is_users_module(name: str) -> bool:
    """Whether a Python module is the caller's own, by its name."""
    root = name.partition(".")[0]
    if root in ("torch", "numpy", "losspath") or root in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


def spelled(value: Any) -> str | None:
    """The spelling of a plain value, the same in every process; None for what is none."""
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, str):
        return None if _ADDRESS.search(value) else repr(value)
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (tuple, list, set, frozenset)) and len(value) <= LONG:
        parts = [part for part in map(spelled, value) if part is not None]
        if len(parts) == len(value):
            is_set = isinstance(value, (set, frozenset))
            return f"({', '.join(sorted(parts) if is_set else parts)})"
    return None


def code_beside(kind: type) -> str:
    """Identifies what a class does: the functions of its module, and the constants that they read.

    Args:
        kind: such as the class of a method of somebody's own, whose results follow its changes.
    """
    module = sys.modules.get(kind.__module__)
    beside = {**(vars(module) if module else {}), kind.__name__: kind}
    own = {name: value for name, value in beside.items() if _is_of(value, kind.__module__)}
    codes = {
        f"{name}.{part}": read_code(function.__code__)
        for name, value in own.items()
        for part, function in _functions_in(value)
    }
    read = set().union(*(code.globals for code in codes.values()))
    constants = {name: spelled(beside[name]) for name in read & beside.keys()}
    constants |= {
        f"{name}.{part}": spelled(value)
        for name, owner in own.items()
        if isinstance(owner, type)
        for part, value in vars(owner).items()
        if not part.startswith("__")
    }
    return digest_of(
        sorted((name, code.digest) for name, code in codes.items()),
        sorted((name, text) for name, text in constants.items() if text is not None),
    )


def _is_of(value: Any, module: str) -> bool:
    is_code = isinstance(value, (type, FunctionType))
    return is_code and getattr(value, "__module__", None) == module


def _functions_in(value: Any) -> list[tuple[str, FunctionType]]:
    parts = vars(value) if isinstance(value, type) else {"": value}
    found = [
        (name, getattr(part, "fget", None) or getattr(part, "__func__", part))
        for name, part in parts.items()
    ]
    return [(name, part) for name, part in found if isinstance(part, FunctionType)]
