"""Finding methods, distances and planes, so that a new one is one file.

They are found where the package's own are, and by the entry points of other packages.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

from losspath.errors import ArgumentError, LosspathError, UnsupportedError

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


def added_names(group: str) -> list[str]:
    """What other packages add, by name; nothing of theirs is loaded.

    Args:
        group: of their entry points.
    """
    return sorted({entry.name for entry in entry_points(group=group)})


def owner_of(entry: EntryPoint) -> str:
    """The package that an entry point is of, in words."""
    return f"the package {entry.dist.name if entry.dist else entry.module}"


def load_entry(
    entry: EntryPoint,
    what: str,
    error: type[LosspathError],
    use: Callable[[Any], Any] = lambda found: found,
) -> Any:
    """What an entry point of another package names.

    Args:
        entry: the entry point.
        what: it is, in words.
        error: what to raise where that package is broken.
        use: what to make of it; where this fails, the package is broken too.
    """
    try:
        return use(entry.load())
    except LosspathError:
        raise
    except Exception as cause:
        raise error(
            f"{what} of {owner_of(entry)} ({entry.value}) cannot be loaded: "
            f"{type(cause).__name__}: {cause}; mend or uninstall that package"
        ) from cause


def added_class(group: str, name: str, base: type[T]) -> type[T]:
    """A class that another package adds.

    Args:
        group: of its entry points.
        name: of the entry point, one of `added_names`, and of the class.
        base: what it derives from.

    Raises:
        UnsupportedError: it cannot be loaded, or is something else.
    """
    entry = min(entry_points(group=group, name=name), key=lambda entry: entry.value)
    found = load_entry(entry, repr(name), UnsupportedError)
    if not (inspect.isclass(found) and issubclass(found, base) and found.name == name):  # type: ignore[attr-defined]
        raise UnsupportedError(
            f"expected {entry.value} of {owner_of(entry)} as a {base.__name__} named {name!r}, "
            f"got {found!r}; mend or uninstall that package"
        )
    return found


def _classes_in(package: str, path: Iterable[str], base: type[T]) -> Iterator[type[T]]:
    for module in modules_in(package, path):
        for found in vars(module).values():
            if not inspect.isclass(found) or found.__module__ != module.__name__:
                continue
            is_named = isinstance(getattr(found, "name", None), str)
            can_be_made = is_named and not inspect.isabstract(found)
            if issubclass(found, base) and can_be_made and not found.__name__.startswith("_"):
                yield found
