"""Run a whole study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from losspath.cli.options import DataDir
from losspath.thesis.cli.options import StudyScale

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.callback()
def _study() -> None:
    """A study is a list of runs and pictures; it stops and goes on anywhere."""


@app.command(
    epilog="Examples: losspath study thesis --scale quick --out study; "
    "losspath study thesis --data-dir data --only 6.10 --only 6.13"
)
def thesis(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path(
        "losspath-study"
    ),
    scale: Annotated[
        StudyScale, typer.Option(help="full: MNIST and CIFAR-10, hours; quick: digits, minutes.")
    ] = StudyScale.FULL,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="A part or a figure: data, networks, 6.7, resolution, 6.8, fidelity, layers, 6.9, "
            "temperature, 6.10, 6.11, 6.12, prediction, 6.13 or dynamics; may be given again.",
        ),
    ] = None,
    data_dir: DataDir = None,
    cifar10: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="What stands for CIFAR-10, as for train --data.",
            show_default="cifar10",
        ),
    ] = None,
    keep_gigabytes: Annotated[
        float,
        typer.Option(help="Paths larger than this are removed once all is computed of them."),
    ] = 1.0,
    processes: Annotated[
        int | None, typer.Option(help="Train and compute in so many processes side by side.")
    ] = None,
) -> None:
    """Make the whole study of the thesis: its figures, and what holds of its claims."""
    from losspath.cli.workers import open_workers
    from losspath.thesis.cli import study

    chosen = study.make_scale(scale.value, data_dir, cifar10)
    with open_workers(processes, None) as executor:
        study.run_thesis_study(chosen, out, only or [], data_dir, keep_gigabytes, executor)
