"""The commands that draw surfaces, and say how far they hold."""

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
    Samples,
    States,
)

SURFACE_EXAMPLES = (
    "Examples: losspath surface runs/lenet5 --method all; "
    "losspath surface runs/lenet5 --method averaged --temperature auto --resolution 31; "
    "losspath surface runs/lenet5 --budget 5s; "
    "losspath surface runs/sgd runs/adam --plane states:first,last,runs/adam@last"
)
FIDELITY_EXAMPLES = (
    "Examples: losspath fidelity runs/lenet5 --method local-planes; "
    "losspath fidelity runs/mine --method all --objective train.py:objective --json"
)

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="One run, or several of one network in one plane."),
]


def surface(
    runs: Runs,
    method: Annotated[
        str,
        typer.Option(
            help="pca, sampled, sampled-pca, averaged, averaged-nd, local-planes, all (these six), "
            "or one that you or a package added; those of the thesis's figures, errors included: "
            "pca-as-drawn, sampled-pca-as-drawn, averaged-as-printed, averaged-nd-as-printed."
        ),
    ] = "averaged",
    plane: Annotated[
        str,
        typer.Option(
            help="pca, random[:filter|layer|model][:SEED], hessian, states:A,B,C (a state is a "
            "number, first or last; RUN@ before it takes another run's) or windows[:COUNT]."
        ),
    ] = "pca",
    height: Annotated[
        str, typer.Option(help="What is drawn: loss, accuracy or a metric of the objective.")
    ] = "loss",
    resolution: Annotated[
        int | None,
        typer.Option(
            help="Grid lines an axis, at least 3.", show_default="19; within a budget 61 at most"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="5s|1epoch|N|auto",
            help="What each picture may cost, its plane included: seconds, epochs of the run's own "
            "training, or so many points over all samples; auto: until errors are too small to "
            "see. It is whole in any case, on as many points and samples as were needed or could "
            "be had.",
        ),
    ] = None,
    samples: Samples = None,
    distance: Annotated[
        str | None,
        typer.Option(
            help="Of sampled, averaged and averaged-nd: how far states are from a point: euclidean "
            "(the default), manhattan or mahalanobis, in the plane; with -nd behind it, of all "
            "parameters.",
        ),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            help="Of averaged and averaged-nd: the width of the kernel that weighs states by "
            "distance: a number (1 by default), or auto, Scott's rule for the path."
        ),
    ] = None,
    arc_length: Annotated[
        bool | None,
        typer.Option(
            "--arc-length",
            help="Of averaged and averaged-nd: weigh states by the length of path around them, not "
            "each alike.",
        ),
    ] = None,
    side: Annotated[
        str | None,
        typer.Option(
            help="Of sampled-pca: which points are inside the path, and blended with its mean: "
            "centre (the default) or hull."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Any option of the method, also of one of your own; may be given again.",
        ),
    ] = None,
    states: States = None,
    data_dir: DataPlace = None,
    objective: ObjectiveSource = None,
    out: OutDir = None,
    figure: Figure = None,
    format_: Format = Extension.PNG,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say how the points were evaluated, and why so.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(help="Evaluate in so many processes on this machine.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Evaluate on a Dask cluster: tcp://HOST:PORT."),
    ] = None,
) -> None:
    """Compute and draw the loss surface around a run's path, or around those of several runs."""
    from losspath.cli import jobs, values
    from losspath.cli.budgets import budget_of
    from losspath.cli.runs import Run
    from losspath.cli.workers import open_workers

    named = {
        "temperature": values.temperature(temperature),
        "arc_length": arc_length,
        "side": side,
        "distance": distance,
    }
    options = values.options(option or [], named)
    jobs.check_figure(figure)
    if resolution is not None:
        jobs.check_resolution(resolution)
    methods = jobs.make_methods(method, options)
    first, *others = dict.fromkeys(runs)
    recorded = Run(first, data_dir, objective, states, out, tuple(others))
    within = budget_of(budget, recorded)
    preview = jobs.previewer(recorded, methods, height, figure, format_.value)
    with open_workers(processes, scheduler) as executor:
        surfaces, made = jobs.compute_surfaces(
            recorded, methods, resolution, samples, plane, preview, executor, within
        )
    if explain:
        jobs.explain(surfaces)
    jobs.draw_surfaces(recorded, surfaces, made, height, figure, format_.value)


def fidelity(
    runs: Runs,
    method: Annotated[str, typer.Option(help="As of `losspath surface`; or all.")] = "averaged",
    plane: Annotated[str, typer.Option(help="As of `losspath surface`.")] = "pca",
    resolution: Annotated[int, typer.Option(help="Grid lines an axis, at least 3.")] = 19,
    count: Annotated[int, typer.Option(help="Vectors of each kind that are evaluated.")] = 60,
    forks: Annotated[
        int,
        typer.Option(
            help="So many trainings go on from the run with other batches, where what trained it "
            "can do that; 0 for none."
        ),
    ] = 10,
    control: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Another run, of which the picture should tell nothing."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Any option of the method; may be given again."),
    ] = None,
    samples: Samples = None,
    states: States = None,
    data_dir: DataPlace = None,
    objective: ObjectiveSource = None,
    out: OutDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    processes: Annotated[
        int | None, typer.Option(help="Evaluate in so many processes on this machine.")
    ] = None,
) -> None:
    """Measure how far a surface holds, by vectors near the path that it was not made of.

    Stretches of the path are held out; others are chords between its states, draws of its own
    distribution, and trainings that went on from it with other batches.
    """
    from contextlib import nullcontext

    from losspath.cli import fidelity as job
    from losspath.cli import jobs, values
    from losspath.cli.console import silence
    from losspath.cli.runs import Run
    from losspath.cli.workers import open_workers

    job.check_count(count)
    jobs.check_resolution(resolution)
    methods = jobs.make_methods(method, values.options(option or [], {}))
    first, *others = dict.fromkeys(runs)
    with silence() if as_json else nullcontext(), open_workers(processes, None) as executor:
        recorded = Run(first, data_dir, objective, states, out, tuple(others))
        found = job.compute_fidelity(
            recorded, methods, resolution, samples, plane, forks, control, count, executor
        )
    job.print_fidelity(found, as_json)
