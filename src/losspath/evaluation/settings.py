"""Plain settings of losses and models, which may matter only where nothing is evaluated yet.

Of code, what it does and what it reads count: constants, closures, globals, attributes by their
names. What is held and not named by any code that runs, such as the time a run was begun, counts
for nothing, so that a script that is run again has the settings that it had.
"""

from __future__ import annotations

import functools
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from losspath.evaluation.code import is_users, is_users_module, read_code, spelled
from losspath.evaluation.data import digest_of_tensors
from losspath.evaluation.isolation.attributes import SMALL
from losspath.files import digest_of
from losspath.objects import LONG, TABLES, attributes_in, is_librarys, own_attributes, parts_of
from losspath.parameters import named_modules, wrapped_in

# How deep functions, objects and containers are followed.
_DEPTH = 5
# No more values than this are looked at.
_MOST = 20_000
# Keys of dicts from here on are ids.
_ID = 2**31

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
            text = spelled(value)
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
        if isinstance(value, (functools.partial, MethodType)):
            self._of_parts(where, value, depth)
        elif isinstance(value, FunctionType):
            self._of_function(where, value, depth)
        elif isinstance(value, (list, tuple, deque, dict)):
            self._of_container(where, value, depth)
        elif isinstance(value, type):
            self._of_class(where, value, depth)
        elif isinstance(value, BuiltinFunctionType):
            self._found.append(_Found(where, _name_of(value)))
        elif not is_librarys(type(value)):
            self._of_attributes(where, attributes_in(value), depth, type(value))
            self._of_class(where, type(value), depth)

    def _of_modules(self, where: str, value: torch.nn.Module) -> None:
        for name, module in named_modules(value):
            is_new = module is value or id(module) not in self._seen
            if is_new and wrapped_in(module) is None:
                self._seen[id(module)] = module
                self._of_module(f"{where}.{name}" if name else where, module)

    def _of_module(self, where: str, module: torch.nn.Module) -> None:
        self._of_attributes(where, own_attributes(module), _DEPTH, type(module))
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
            for name, value in vars(base).items() if is_users(base) else ():
                is_special = name.startswith("__") and name.endswith("__")
                if is_special and (name in _NOT_CALLED or not isinstance(value, FunctionType)):
                    continue
                if is_special or name == "forward" or self._is_read(name):
                    place = f"{where}:{base.__qualname__}.{name}"
                    self.visit(place, _inside(value), depth)

    def _of_function(self, where: str, function: FunctionType, depth: int) -> None:
        if not is_users(function):
            self._found.append(_Found(where, _name_of(function)))
            return
        code = read_code(function.__code__)
        self.loads |= code.loads | (code.globals & _READS_ANY)
        self._stores |= code.stores
        self._found.append(_Found(f"{where} code", code.digest))
        self._of_parts(where, function, depth)
        self._of_globals(where, function.__globals__, code.globals, depth)

    def _of_parts(self, where: str, function: Any, depth: int) -> None:
        for sign, part in parts_of(function).items():
            self.visit(f"{where}{sign}", part, depth)

    def _of_globals(
        self, where: str, table: dict[str, Any], names: Iterable[str], depth: int
    ) -> None:
        for name in sorted(names):
            value = table.get(name)
            if not isinstance(value, ModuleType):
                if name in table and not name.startswith("__"):
                    self.visit(f"{where}@{name}", value, depth)
            elif depth and is_users_module(value.__name__):
                self._of_globals(f"{where}@{name}", vars(value), self.loads, depth - 1)

    def _of_container(self, where: str, value: Any, depth: int) -> None:
        if len(value) > LONG:
            return
        keys = value if isinstance(value, dict) else range(len(value))
        if any(isinstance(key, int) and key >= _ID for key in keys):
            return
        names = [spelled(key) or type(key).__qualname__ for key in keys]
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


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has numbers in memory."""
    kinds = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    return type(tensor) in kinds and tensor.layout == torch.strided and not tensor.is_meta


def _inside(value: Any) -> Any:
    """The function in what a class holds, as in a property; anything else as it is."""
    for name in ("__func__", "fget", "func"):
        if isinstance(inner := getattr(value, name, None), FunctionType):
            return inner
    return value


def _name_of(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _is_opaque(kind: type) -> bool:
    """Whether code that is not read reads attributes of a class's objects."""
    bases = [base for base in kind.__mro__ if base not in (object, torch.nn.Module, *TABLES)]
    return any(not is_users(base) and base.__module__ not in ("typing", "abc") for base in bases)
