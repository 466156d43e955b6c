"""How states are compared by what the network predicts, as it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from losspath.cli.options import (
    DataPlace,
    Extension,
    Figure,
    Format,
    ObjectiveSource,
    OutDir,
    States,
)

EXAMPLES = (
    "Examples: losspath function-space runs/seed-0 runs/seed-1 runs/seed-2; "
    "losspath function-space runs/mine --objective train.py:objective --distance disagreement"
)


def function_space(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="One run, or several of one network.")
    ],
    distance: Annotated[
        str | None,
        typer.Option(
            help="jensen-shannon (of probabilities), disagreement (share of predictions whose "
            "class differs) or l2 (of raw outputs).",
            show_default="jensen-shannon of classes, else l2",
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="States of each run, evenly.")] = 30,
    samples: Annotated[int, typer.Option(help="Of the first so many validation samples.")] = 1000,
    states: States = None,
    data_dir: DataPlace = None,
    objective: ObjectiveSource = None,
    out: OutDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    figure: Figure = None,
    format_: Format = Extension.PNG,
) -> None:
    """Draw states by what the network predicts at them, beside their weights.

    Weights that are far apart may compute the same, and near ones something else: where several
    seeds end by their weights says nothing of whether they learnt the same function.
    """
    from contextlib import nullcontext

    from losspath.cli import function_space as job
    from losspath.cli import jobs
    from losspath.cli.console import silence
    from losspath.cli.runs import Run

    jobs.check_figure(figure)
    first, *others = dict.fromkeys(runs)
    recorded = Run(first, data_dir, objective, states, out, tuple(others))
    with silence() if as_json else nullcontext():
        found = job.compute_functions(recorded, count, samples, distance)
        job.draw_functions(recorded, found, figure, format_.value)
    job.print_functions(found, as_json)
