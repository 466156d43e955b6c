"""The command that runs the whole study of the thesis."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from losspath.cli.console import err, say
from losspath.study.plan import Scale, full_scale, quick_scale
from losspath.study.run import chosen_sections, run_study


def make_scale(name: str, mnist: str, cifar10: str) -> Scale:
    """The scale that was asked for."""
    return quick_scale() if name == "quick" else full_scale(mnist, cifar10)


def run_thesis_study(
    scale: Scale,
    directory: Path,
    only: Sequence[str],
    data_dir: Path | None,
    keep_gigabytes: float,
    executor: Executor | None,
) -> None:
    """Runs the study with a bar for all of it, and prints what holds."""
    chosen_sections(only)
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
        began = time.monotonic()

        def update(done: float, total: float, what: str) -> None:
            spent = time.monotonic() - began
            left = ""
            if done > 0.01 * total and spent > 5:
                minutes = spent * (total - done) / done / 60
                left = f"about {minutes:.0f} min left" if minutes >= 1 else "about a minute left"
            bar.update(task, completed=done, total=total, description=what, left=left)

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
        say(f"{judgment.verdict}: {judgment.subject}: {judgment.claim}")
