"""Commands of other packages: found by their entry points, loaded when they are called.

A package adds a command by an entry point of the group ``losspath.commands``. Its name is the
command's; it names a `typer.Typer` app or a function with typer's annotations. ``losspath --help``
imports none of them: it reads the help line from the source, as the first line of the docstring of
the function, or of the module that has the app.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from losspath.errors import RunError

GROUP = "losspath.commands"


class Commands(TyperGroup):
    """The program's own commands, and those of other packages after them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        self._find()
        return super().list_commands(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that is called, loaded if it is another package's."""
        if args and args[0] not in self.commands:
            self._find()
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, _Found):
            command = command.load()
        return name, command, rest

    def _find(self) -> None:
        found = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
        for entry in found:
            # The program's own stand; of two packages' the first in order.
            if entry.name not in self.commands:
                self.commands[entry.name] = _Found(entry)


class _Found(TyperCommand):
    """A command of which no more is known than its name and one line of help."""

    def __init__(self, entry: EntryPoint) -> None:
        super().__init__(entry.name, help=help_line(entry))
        self._entry = entry

    def load(self) -> Any:
        from losspath.discovery import load_entry

        name = self._entry.name
        app = load_entry(self._entry, f"the command {name!r}", RunError, _as_app)
        command = typer.main.get_command(app)
        command.name = name
        return command


def _as_app(loaded: typer.Typer | Callable[..., Any]) -> typer.Typer:
    if isinstance(loaded, typer.Typer):
        loaded._add_completion = False
        return loaded
    if not callable(loaded):
        raise TypeError(f"expected a typer.Typer or a function, got {type(loaded).__name__}")
    app = typer.Typer(add_completion=False)
    app.command()(loaded)
    return app


def help_line(entry: EntryPoint) -> str:
    """What the source says of a command, without running it.

    Args:
        entry: its entry point.

    Returns:
        The first line of the docstring of the function that the entry names, or else of its module;
        nothing where there is none, or no source.
    """
    file = _source_of(entry.module)
    try:
        tree = ast.parse(file.read_bytes()) if file else None
    except (OSError, SyntaxError, ValueError):
        tree = None
    if tree is None:
        return ""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    text = ast.get_docstring(functions.get(entry.attr or "", tree)) or ""
    return text.partition("\n")[0]


def _source_of(module: str) -> Path | None:
    """The file of a module; unlike `importlib.util.find_spec` this imports no package above it."""
    places: list[str] = sys.path
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    return Path(spec.origin) if spec and spec.origin else None
