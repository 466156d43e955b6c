"""Optional dependencies: what is missing is named, with the command that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from losspath.errors import MissingExtraError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Goes around the imports of what an extra installs.

    Args:
        name: the extra, as ``pip install 'losspath[name]'`` takes it.

    Raises:
        MissingExtraError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as cause:
        package = (cause.name or "").partition(".")[0]
        if package in ("", "losspath"):  # a defect, which no installing mends
            raise
        raise MissingExtraError(
            f"this needs {package}, which is not installed: pip install 'losspath[{name}]'"
        ) from cause
