"""Finding what a package of this one holds, so that a new method, distance or plane is one file."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def modules_in(package: str, path: Iterable[str]) -> Iterator[ModuleType]:
    """Imports every module of a package, in the order of their names.

    Args:
        package: its full name, ``__name__`` in its ``__init__``.
        path: its ``__path__``.
    """
    for found in pkgutil.iter_modules(path):
        yield pkgutil.resolve_name(f"{package}.{found.name}:")


def classes_in(package: str, path: Iterable[str], base: type[T]) -> Iterator[type[T]]:
    """The classes that modules of a package define and that can be made, with a ``name``.

    Args:
        package: its full name.
        path: its ``__path__``.
        base: what they derive from.
    """
    for module in modules_in(package, path):
        for found in vars(module).values():
            if not inspect.isclass(found) or found.__module__ != module.__name__:
                continue
            is_named = isinstance(getattr(found, "name", None), str)
            can_be_made = is_named and not inspect.isabstract(found)
            if issubclass(found, base) and can_be_made and not found.__name__.startswith("_"):
                yield found
