"""Functions in files of the user's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from losspath.errors import ArgumentError, LosspathError


def value_of(source: str, option: str) -> Any:
    """What a function returns that is named as FILE.py:FUNCTION.

    Args:
        source: the file and the function, which takes no arguments.
        option: of the command line that it is given by, for errors.

    Raises:
        ArgumentError: there is no such function, or it fails.
    """
    name, _, function = source.rpartition(":")
    file = Path(name)
    if not function or file.suffix != ".py":
        raise ArgumentError(f"expected {option} as FILE.py:FUNCTION, got {source!r}")
    if not file.is_file():
        raise ArgumentError(f"there is no file {file} to take {option} from")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    sys.path += [] if folder in sys.path else [folder]  # as for a script, so that it finds others
    with _own_errors(source):
        spec.loader.exec_module(module)
    before = sys.modules.get(file.stem)
    if before is None or getattr(before, "__file__", None) == module.__file__:
        # So that other processes of this machine find what it defines.
        sys.modules[file.stem] = module
    if not callable(getattr(module, function, None)):
        raise ArgumentError(f"{file} has no function {function!r}")
    with _own_errors(source):
        return getattr(module, function)()


@contextmanager
def _own_errors(source: str) -> Iterator[None]:
    """What goes wrong in the user's own file is told as such."""
    try:
        yield
    except LosspathError:
        raise
    except Exception as cause:
        raise ArgumentError(f"{source} failed: {type(cause).__name__}: {cause}") from cause
