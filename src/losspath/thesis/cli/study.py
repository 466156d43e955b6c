"""The command that runs the whole study of the thesis."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from losspath.cli.console import err, say
from losspath.errors import ArgumentError
from losspath.thesis.study.plan import Plan, Scale, full_scale, quick_scale
from losspath.thesis.study.run import chosen_sections, run_study


def make_scale(name: str, data_dir: Path | None, cifar10: str | None) -> Scale:
    """The scale that was asked for.

    Args:
        name: "full" or "quick".
        data_dir: where data are.
        cifar10: what stands for CIFAR-10.

    Raises:
        ArgumentError: data were given for a study of the digits.
    """
    if name == "quick":
        if data_dir is not None or cifar10 is not None:
            raise ArgumentError(
                "--data-dir and --cifar10 go with --scale full; the quick scale has digits alone"
            )
        return quick_scale()
    source = cifar10 or "cifar10"
    if source.startswith("images:"):
        source = f"images:{Path(source.removeprefix('images:')).expanduser().resolve()}"
    return full_scale(cifar10=source)


_EVERY = 60.0  # seconds between the lines that stand for the bar where there is no terminal


class _Clock:
    """How long there is to go, and when to say so."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: float | None = None  # what was done before
        self._told = -float("inf")

    def left(self, done: float, total: float) -> str:
        if self._first is None:
            self._first = done
        spent, work = time.monotonic() - self._began, done - self._first
        if spent < 5 or work < 0.01 * (total - self._first):
            return ""
        minutes = spent * (total - done) / work / 60
        return f"about {minutes:.0f} min left" if minutes >= 1 else "about a minute left"

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self._told < _EVERY:
            return False
        self._told = now
        return True


def run_thesis_study(
    scale: Scale,
    directory: Path,
    only: Sequence[str],
    data_dir: Path | None,
    keep_gigabytes: float,
    executor: Executor | None,
) -> None:
    """Runs the study with a bar for all of it, and prints what holds."""
    chosen_sections(only, Plan(scale))
    directories = dict.fromkeys(scale.data.values(), data_dir)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("study", total=None, left="")
        clock = _Clock()

        def update(done: float, total: float, what: str) -> None:
            left = clock.left(done, total)
            bar.update(task, completed=done, total=total, description=what, left=left)
            if not err.is_terminal and clock.is_due():
                err.print(", ".join(filter(None, (f"{done / total:.0%}", what, left))))

        judgments = run_study(
            scale,
            directory,
            only=only,
            data_dirs=directories,
            keep_bytes=keep_gigabytes * 1e9,
            executor=executor,
            progress=update,
            told=say,
        )
    for judgment in judgments:
        told = ", ".join(
            f"{verdict}{name and f' ({name})'}" for name, verdict in judgment.verdicts.items()
        )
        say(f"{told}: {judgment.subject}: {judgment.claim}")
