"""Finding what a package of this one holds, so that a new method, distance or plane is one file."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TypeVar

from losspath.errors import ArgumentError, UnsupportedError

T = TypeVar("T")


def modules_in(package: str, path: Iterable[str]) -> Iterator[ModuleType]:
    """Imports every module of a package, in the order of their names.

    Args:
        package: its full name, ``__name__`` in its ``__init__``.
        path: its ``__path__``.

    Raises:
        UnsupportedError: one of them cannot be imported.
    """
    for found in pkgutil.iter_modules(path):
        name = f"{package}.{found.name}"
        try:
            module = pkgutil.resolve_name(f"{name}:")
        except Exception as cause:
            raise UnsupportedError(
                f"{name} cannot be loaded, as {type(cause).__name__} was raised: {cause}; mend "
                f"the file, or take it out of {next(iter(path))}"
            ) from cause
        yield module


def classes_by_name(
    package: str, path: Iterable[str], base: type[T], first: Sequence[type[T]] = ()
) -> dict[str, type[T]]:
    """The classes of a package by their ``name``.

    Args:
        package: its full name.
        path: its ``__path__``.
        base: what they derive from.
        first: those that come first, in this order.

    Raises:
        ArgumentError: two of them have one name.
    """
    known: dict[str, type[T]] = {}
    for kind in (*first, *_classes_in(package, path, base)):
        name = str(getattr(kind, "name", ""))
        if known.setdefault(name, kind) is not kind:
            raise ArgumentError(
                f"expected a name of its own for {kind.__module__}.{kind.__qualname__}, got "
                f"{name!r}, which {known[name].__module__}.{known[name].__qualname__} has"
            )
    return known


def _classes_in(package: str, path: Iterable[str], base: type[T]) -> Iterator[type[T]]:
    for module in modules_in(package, path):
        for found in vars(module).values():
            if not inspect.isclass(found) or found.__module__ != module.__name__:
                continue
            is_named = isinstance(getattr(found, "name", None), str)
            can_be_made = is_named and not inspect.isabstract(found)
            if issubclass(found, base) and can_be_made and not found.__name__.startswith("_"):
                yield found
