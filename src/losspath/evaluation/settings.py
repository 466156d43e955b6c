"""Plain settings of losses and models, which may matter only where nothing is evaluated yet.

Of code, what it does and what it reads count: constants, closures, globals, attributes by their
names. What is held and not named by any code that runs, such as the time a run was begun, counts
for nothing, so that a script that is run again has the settings that it had.
"""

from __future__ import annotations

import dis
import enum
import functools
import re
import sys
import weakref
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, NamedTuple

import numpy as np
import torch

from losspath.evaluation.attributes import SMALL
from losspath.evaluation.data import digest_of_tensors
from losspath.files import digest_of
from losspath.parameters import is_torchs, named_modules, wrapped_in

# How deep functions, objects and containers are followed.
_DEPTH = 5
# Longer containers are data; and no more values than this are looked at.
_LONG, _MOST = 1000, 20_000
# Keys of dicts from here on are ids.
_ID = 2**31

_PLAIN = (
    *(bool, int, float, complex, bytes, type(None), type(Ellipsis), range),
    *(np.generic, torch.dtype, torch.device, torch.layout),
)
# Objects of the standard library that hold settings.
_TABLES = (Namespace, SimpleNamespace)
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")
# What code reads attributes by that are not named in it.
_READS_ANY = frozenset({"vars", "__dict__", "getattr", "attrgetter", "asdict", "astuple"})
# Methods that are not called by name, and have no say in what a call returns.
_NOT_CALLED = frozenset(
    f"__{name}__"
    for name in (
        *("init", "new", "post_init", "init_subclass", "del", "repr", "str", "eq", "hash"),
        *("getstate", "setstate", "reduce", "reduce_ex", "copy", "deepcopy"),
    )
)
_OF_ALL_MODULES = frozenset(vars(torch.nn.Module()))
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class Settings(list[list[str]]):
    """Pairs of where a value is and what it is, sorted.

    Attributes:
        of: what they are settings of.
    """

    of: Any = None


def settings_of_loss(function: Any) -> Settings:
    """What a loss of the caller's own does and is set to: code, constants, closures, attributes.

    Args:
        function: a function, a method, a partial, a module or an object that can be called.
    """
    found = _settings("loss", function)
    if isinstance(function, torch.nn.Module):
        # What a loss counts in itself is put back after each evaluation.
        tensors = [*function.parameters(), *function.buffers()]
        found.append(["loss tensors", digest_of_tensors(tensors)])
    return found


def settings_of_model(model: torch.nn.Module) -> Settings:
    """What modules do and are set to, but for their parameters and buffers.

    Without whole numbers and tensors that a forward pass sets: they count, or are caches.
    """
    own = (*model.parameters(), *model.buffers())
    return _settings("model", model, {t.untyped_storage().data_ptr() for t in own if _is_plain(t)})


def _settings(where: str, value: Any, skipped: Iterable[int] = ()) -> Settings:
    walk = _Walk(skipped)
    while True:  # what is called names what is read, which may be called
        before = len(walk.loads)
        walk.begin()
        walk.visit(where, value, _DEPTH)
        if len(walk.loads) == before:
            break
    found = Settings(walk.settings())
    found.of = value
    return found


# Where settings change from call to call, by the id of what they are of.
_CHANGING: dict[int, set[str]] = {}


def lasting(before: Settings, after: Settings) -> list[object]:
    """Settings that an evaluation has left as they were, and those before it did too."""
    now = dict(after)
    changing = _changing(before.of)
    for where, value in before:
        if now.get(where) != value:
            # Of a container that got longer, nothing lasts.
            changing.add(where.removesuffix("[]") + "[" if where.endswith("[]") else where)
    changing.update(now.keys() - {where for where, _ in before})
    inside = tuple(where for where in changing if where.endswith("["))
    return [
        [where, value]
        for where, value in before
        if where not in changing and not where.startswith(inside)
    ]


def _changing(owner: Any) -> set[str]:
    owner = getattr(owner, "__self__", owner)  # methods are made anew each time
    known = _CHANGING.get(id(owner))
    if known is None:
        known = set()
        try:
            weakref.finalize(owner, _CHANGING.pop, id(owner), None).atexit = False
        except TypeError:  # cannot be told to be gone
            return known
        _CHANGING[id(owner)] = known
    return known


class _Found(NamedTuple):
    """A value.

    Attributes:
        where: it is.
        text: what it is.
        attribute: its name, if it is left out where a forward pass sets it.
    """

    where: str
    text: str
    attribute: str = ""


class _Walk:
    """Goes through what code reads, from a function or module on.

    Args:
        skipped: storages of tensors that are no settings.

    Attributes:
        loads: names that code reads, as far as it was found.
    """

    def __init__(self, skipped: Iterable[int]) -> None:
        self.loads: set[str] = set()
        self._stores: set[str] = set()
        self._skipped = {*skipped}

    def begin(self) -> None:
        """Begins again, with the names that are known by now."""
        self._found: list[_Found] = []
        self._seen: dict[int, Any] = {}  # held, so that no id is used twice
        self._left = _MOST
        self._reads_any = not _READS_ANY.isdisjoint(self.loads)

    def settings(self) -> list[list[str]]:
        """What was found."""
        kept = [each for each in sorted(self._found) if each.attribute not in self._stores]
        return [[each.where, each.text] for each in kept]

    def visit(self, where: str, value: Any, depth: int, attribute: str = "") -> None:
        """Looks at a value, and at what it holds.

        Args:
            where: it is.
            value: anything; what cannot be looked into is left out.
            depth: how deep to go on.
            attribute: its name, if it is a module's own.
        """
        self._left -= 1
        if self._left < 0:
            return
        with suppress(Exception):
            text = _text(value)
            if text is not None:
                counts = isinstance(value, int) and not isinstance(value, bool)
                self._found.append(_Found(where, text, attribute if counts else ""))
            elif isinstance(value, (torch.Tensor, np.ndarray)):
                self._of_tensor(where, value, attribute)
            elif id(value) not in self._seen:
                self._seen[id(value)] = value
                if isinstance(value, torch.nn.Module):
                    self._of_modules(where, value)
                elif depth:
                    self._of_holder(where, value, depth - 1)

    def _of_holder(self, where: str, value: Any, depth: int) -> None:
        if isinstance(value, functools.partial):
            self.visit(f"{where}()", value.func, depth)
            self.visit(f"{where}(*)", value.args, depth)
            self.visit(f"{where}(**)", value.keywords, depth)
        elif isinstance(value, MethodType):
            self.visit(f"{where}()", value.__func__, depth)
            self.visit(f"{where}.self", value.__self__, depth)
        elif isinstance(value, FunctionType):
            self._of_function(where, value, depth)
        elif isinstance(value, (list, tuple, deque, dict)):
            self._of_container(where, value, depth)
        elif isinstance(value, type):
            self._of_class(where, value, depth)
        elif isinstance(value, BuiltinFunctionType):
            self._found.append(_Found(where, _name_of(value)))
        elif isinstance(value, _TABLES) or not _is_torch_or_standard(type(value)):
            self._of_attributes(where, _attributes(value), depth, type(value))
            self._of_class(where, type(value), depth)

    def _of_modules(self, where: str, value: torch.nn.Module) -> None:
        for name, module in named_modules(value):
            is_new = module is value or id(module) not in self._seen
            if is_new and wrapped_in(module) is None:
                self._seen[id(module)] = module
                self._of_module(f"{where}.{name}" if name else where, module)

    def _of_module(self, where: str, module: torch.nn.Module) -> None:
        own = {n: v for n, v in vars(module).items() if n not in _OF_ALL_MODULES}
        self._of_attributes(where, own, _DEPTH, type(module))
        self._of_class(where, type(module), _DEPTH)
        for hooks in _HOOKS:
            for number, hook in enumerate(vars(module).get(hooks, {}).values()):
                self.visit(f"{where}.{hooks}[{number}]", hook, _DEPTH)
        for name, buffer in torch.nn.Module.named_buffers(module, recurse=False):
            self._of_tensor(f"{where}.{name}", buffer, "")

    def _of_attributes(self, where: str, own: dict[str, Any], depth: int, kind: type) -> None:
        """Attributes that code reads; or may read, where not all of it is known."""
        is_module = issubclass(kind, torch.nn.Module)
        is_opaque = _is_opaque(kind)
        for name, value in own.items():
            if self._is_read(name) or (is_opaque and not name.startswith("_")):
                self.visit(f"{where}.{name}", value, depth, name if is_module else "")

    def _is_read(self, name: str) -> bool:
        return self._reads_any or name in self.loads

    def _of_class(self, where: str, kind: type, depth: int) -> None:
        """What classes of the caller's have for all of their objects, and their methods."""
        self._found.append(_Found(f"{where} class", kind.__qualname__))
        for base in kind.__mro__:
            for name, value in vars(base).items() if _is_users(base) else ():
                is_special = name.startswith("__") and name.endswith("__")
                if is_special and (name in _NOT_CALLED or not isinstance(value, FunctionType)):
                    continue
                if is_special or name == "forward" or self._is_read(name):
                    place = f"{where}:{base.__qualname__}.{name}"
                    self.visit(place, _inside(value), depth)

    def _of_function(self, where: str, function: FunctionType, depth: int) -> None:
        if not _is_users(function):
            self._found.append(_Found(where, _name_of(function)))
            return
        code = _read(function.__code__)
        self.loads |= code.loads | (code.globals & _READS_ANY)
        self._stores |= code.stores
        self._found.append(_Found(f"{where} code", code.digest))
        for number, value in enumerate(function.__defaults__ or ()):
            self.visit(f"{where}({number})", value, depth)
        for name, value in (function.__kwdefaults__ or {}).items():
            self.visit(f"{where}({name})", value, depth)
        closed: tuple[Any, ...] = function.__closure__ or ()
        for name, cell in zip(function.__code__.co_freevars, closed, strict=True):
            with suppress(ValueError):  # not set yet
                self.visit(f"{where}<{name}>", cell.cell_contents, depth)
        self._of_globals(where, function.__globals__, code.globals, depth)

    def _of_globals(
        self, where: str, table: dict[str, Any], names: Iterable[str], depth: int
    ) -> None:
        for name in sorted(names):
            value = table.get(name)
            if not isinstance(value, ModuleType):
                if name in table and not name.startswith("__"):
                    self.visit(f"{where}@{name}", value, depth)
            elif depth and _is_users_module(value.__name__):
                self._of_globals(f"{where}@{name}", vars(value), self.loads, depth - 1)

    def _of_container(self, where: str, value: Any, depth: int) -> None:
        if len(value) > _LONG:
            return
        keys = value if isinstance(value, dict) else range(len(value))
        if any(isinstance(key, int) and key >= _ID for key in keys):
            return
        names = [_text(key) or type(key).__qualname__ for key in keys]
        self._found.append(_Found(f"{where}[]", " ".join(names)))
        items = value.values() if isinstance(value, dict) else value
        for name, item in zip(names, items, strict=True):
            self.visit(f"{where}[{name}]", item, depth)

    def _of_tensor(self, where: str, value: Any, attribute: str) -> None:
        """Small tensors and arrays that are not trained."""
        if isinstance(value, np.ndarray):
            if value.size <= SMALL and value.dtype.kind in "biufc":
                self._found.append(_Found(where, digest_of(value), attribute))
        elif (
            value.numel() <= SMALL
            and _is_plain(value)
            and not value.requires_grad
            and value.untyped_storage().data_ptr() not in self._skipped
        ):
            self._found.append(_Found(where, digest_of_tensors(value.detach()), attribute))


def _text(value: Any) -> str | None:
    """The spelling of a plain value, the same in every process; None for what is none."""
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, str):
        return None if _ADDRESS.search(value) else repr(value)
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (tuple, list, set, frozenset)) and len(value) <= _LONG:
        parts = [part for part in map(_text, value) if part is not None]
        if len(parts) == len(value):
            is_set = isinstance(value, (set, frozenset))
            return f"({', '.join(sorted(parts) if is_set else parts)})"
    return None


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has numbers in memory."""
    kinds = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    return type(tensor) in kinds and tensor.layout == torch.strided and not tensor.is_meta


def _attributes(value: Any) -> dict[str, Any]:
    own = getattr(value, "__dict__", None)
    found = dict(own) if isinstance(own, dict) and len(own) <= _LONG else {}
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _inside(value: Any) -> Any:
    """The function in what a class holds, as in a property; anything else as it is."""
    for name in ("__func__", "fget", "func"):
        if isinstance(inner := getattr(value, name, None), FunctionType):
            return inner
    return value


def _name_of(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


# -- code -----------------------------------------------------------------------------------------


class _Code(NamedTuple):
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
def _read(code: CodeType) -> _Code:
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
            inner = _read(value)
            names_of_globals |= inner.globals
            loads |= inner.loads
            stores |= inner.stores
            texts.append(inner.digest)
        else:
            texts.append(_text(value) or type(value).__qualname__)
            # Attributes are also read by their names, as by getattr(self, "rate").
            values = value if isinstance(value, tuple) else (value,)
            loads |= {one for one in values if isinstance(one, str)}
    names = [*code.co_names, *code.co_freevars, *code.co_cellvars]
    digest = digest_of(code.co_code.hex(), names, texts)
    return _Code(digest, *map(frozenset, (names_of_globals, loads, stores)))


def _is_users(definition: Callable[..., Any]) -> bool:
    """Whether a function or class is the caller's own, and not a library's."""
    return definition.__module__ is not None and _is_users_module(definition.__module__)


@functools.lru_cache(4096)
def _is_users_module(name: str) -> bool:
    root = name.partition(".")[0]
    if root in ("torch", "numpy", "losspath") or root in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


def _is_torch_or_standard(kind: type) -> bool:
    root = (kind.__module__ or "").partition(".")[0]
    return is_torchs(kind) or root in ("numpy", *sys.stdlib_module_names)


def _is_opaque(kind: type) -> bool:
    """Whether code that is not read reads attributes of a class's objects."""
    bases = [base for base in kind.__mro__ if base not in (object, torch.nn.Module, *_TABLES)]
    return any(not _is_users(base) and base.__module__ not in ("typing", "abc") for base in bases)
