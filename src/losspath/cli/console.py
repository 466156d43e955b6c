"""What the command line prints: lines for people, progress with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)
_SECONDS = 30.0  # between lines of progress, where there is no terminal for a bar


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, or a line now and then where that is no terminal.

    Call it with (done, in all).
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task, told = bar.add_task(what, total=None), time.monotonic()

        def update(done: int, total: int) -> None:
            nonlocal told
            bar.update(task, completed=done, total=total)
            if not err.is_terminal and time.monotonic() - told >= _SECONDS:
                told = time.monotonic()
                err.print(f"{what}: {done:,} of {total:,}", markup=False, soft_wrap=True)

        yield update


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A sign of life with the time so far, where how much is left cannot be told."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        bar.add_task(what, total=None)
        yield


@contextmanager
def silence() -> Iterator[None]:
    """Prints no lines for people, where the output is for a program."""
    out.quiet = True
    try:
        yield
    finally:
        out.quiet = False


def say(text: str) -> None:
    """Prints one line, without markup."""
    out.print(text, markup=False)


def warn(text: str) -> None:
    """Prints one line on standard error, for what is done all the same but may be wrong."""
    err.print(f"losspath: warning: {text}", markup=False, soft_wrap=True)


def describe_epoch(row: Mapping[str, float | int | None]) -> str:
    """One row of a run's history as a line."""
    parts = [f"epoch {row['epoch']:>3}"]
    for name in ("training", "validation"):
        loss, accuracy = row[f"{name}_loss"], row[f"{name}_accuracy"]
        shown = "" if accuracy is None else f", accuracy {accuracy:.2%}"
        parts.append(f"{name} loss {loss:.4f}{shown}")
    return "; ".join(parts)


def say_file(what: str, path: Path) -> None:
    """Prints where a result is."""
    say(f"{what}: {path}")
