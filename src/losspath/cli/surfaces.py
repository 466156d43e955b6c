"""The commands that draw surfaces, and say how far they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from losspath.cli.options import (
    DEFAULT_METHOD,
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
    "losspath surface runs/lenet5 --method averaged --temperature 1 --resolution 31; "
    "losspath surface runs/lenet5 --budget 5s; "
    "losspath surface runs/sgd runs/adam --plane states:first,last,runs/adam@last"
)
FIDELITY_EXAMPLES = (
    "Examples: losspath fidelity runs/lenet5; "
    "losspath fidelity runs/mine --method all --objective train.py:objective --json"
)
UNCERTAINTY_EXAMPLES = (
    "Examples: losspath uncertainty runs/lenet5; "
    "losspath uncertainty runs/lenet5 --source off-plane; "
    "losspath uncertainty runs/lenet5 --source swag --line first,last"
)

COMPARE_SURFACES_EXAMPLES = (
    "Examples: losspath compare-surfaces runs/mine/results/surface-local-planes-*.npz "
    "runs/mine/results/surface-averaged-*.npz; losspath compare-surfaces 31.npz 19.npz --json"
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
            help="local-planes, local-draws, sampled, sampled-pca, averaged, averaged-nd, pca, all "
            "(these seven), or one that you or a package added; those of the thesis's figures, "
            "errors included: pca-as-drawn, sampled-pca-as-drawn, averaged-as-printed, "
            "averaged-nd-as-printed."
        ),
    ] = DEFAULT_METHOD,
    plane: Annotated[
        str,
        typer.Option(
            help="pca, random[:filter|layer|model][:SEED], hessian, states:A,B,C (a state is a "
            "number, first or last; RUN@ before it takes another run's) or windows[:COUNT]."
        ),
    ] = "pca",
    height: Annotated[
        str,
        typer.Option(
            help="What is drawn: loss, accuracy, a metric of the objective, or 'loss spread': how "
            "much the losses of a point's vectors differ, where a method has several."
        ),
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
            "distance: auto (the default), Scott's rule for the path, or a number (thesis: 1)."
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
            help="Any option of the method, also of one of your own; may be given again. "
            "local-planes has states, line, chords, neighbours, mean, power and reach.",
        ),
    ] = None,
    states: States = None,
    data_dir: DataPlace = None,
    objective: ObjectiveSource = None,
    out: OutDir = None,
    figure: Figure = None,
    format_: Format = Extension.PNG,
    fade: Annotated[
        bool,
        typer.Option(
            "--fade/--no-fade",
            help="Fade where no state is near, or the vectors of a point disagree.",
        ),
    ] = True,
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
    from losspath.cli.pictures import Pictures
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
    pictures = Pictures(recorded, height, figure, format_.value, fade)
    preview = pictures.previewer(len(methods))
    with open_workers(processes, scheduler) as executor:
        surfaces, made = jobs.compute_surfaces(
            recorded, methods, resolution, samples, plane, preview, executor, within, height
        )
    if explain:
        jobs.explain(surfaces)
    pictures.draw_all(surfaces, made)


def fidelity(
    runs: Runs,
    method: Annotated[str, typer.Option(help="As of `losspath surface`; or all.")] = DEFAULT_METHOD,
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


def compare_surfaces(
    reference: Annotated[
        Path,
        typer.Argument(metavar="REFERENCE", help="File of the surface to hold others against."),
    ],
    surfaces: Annotated[
        list[Path],
        typer.Argument(metavar="SURFACE...", help="Files of other surfaces in its plane."),
    ],
    quantity: Annotated[
        str, typer.Option(help="loss, accuracy or a metric that all of them have.")
    ] = "loss",
    as_they_are: Annotated[
        bool,
        typer.Option(
            "--as-they-are", help="Take coordinates as they are, also of planes that differ."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Say how much surfaces differ: by structure, ranks, contour lines and local minima.

    Surfaces are the .npz files that `losspath surface` keeps, or .h5 files of Li et al.'s script;
    their grids may differ.
    """
    from losspath.cli import compare_surfaces as job

    found = job.compare_files(reference, surfaces, quantity, not as_they_are)
    job.print_differences(reference, found, quantity, as_json)


def uncertainty(
    runs: Runs,
    source: Annotated[
        str,
        typer.Option(
            help="samples: another draw of the data; off-plane: other vectors at the same place, "
            "of local-planes; dropout: its masks; swag: draws of the path's last states; laplace: "
            "draws by the curvature at the last state."
        ),
    ] = "samples",
    level: Annotated[
        float, typer.Option(help="Share of intervals that hold what they are for.")
    ] = 0.9,
    draws: Annotated[
        int, typer.Option(help="Of dropout, swag and laplace: each costs a surface.")
    ] = 20,
    seed: Annotated[int, typer.Option(help="Of draws.")] = 0,
    line: Annotated[
        str | None,
        typer.Option(
            metavar="STATE,STATE",
            help="Of the straight line between two states, on validation data, not of a surface.",
        ),
    ] = None,
    points: Annotated[int, typer.Option(help="Positions along the line.")] = 13,
    method: Annotated[str, typer.Option(help="As of `losspath surface`.")] = DEFAULT_METHOD,
    plane: Annotated[str, typer.Option(help="As of `losspath surface`.")] = "pca",
    resolution: Annotated[int, typer.Option(help="Grid lines an axis, at least 3.")] = 19,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Any option of the method; may be given again."),
    ] = None,
    wide: Annotated[
        float | None,
        typer.Option(help="Hatch where half an interval is wider; ×1.5 by default."),
    ] = None,
    samples: Samples = None,
    states: States = None,
    data_dir: DataPlace = None,
    objective: ObjectiveSource = None,
    out: OutDir = None,
    figure: Figure = None,
    format_: Format = Extension.PNG,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Compute and draw how uncertain a surface or a line is, as intervals for its losses.

    With --json no figure is drawn unless --figure says where.
    """
    from contextlib import nullcontext

    from losspath.cli import jobs, values
    from losspath.cli import uncertainty as job
    from losspath.cli.console import silence
    from losspath.cli.runs import Run

    asked = job.Source(source, level, draws, seed)
    job.check_source(asked)
    jobs.check_figure(figure)
    jobs.check_resolution(resolution)
    methods = jobs.make_methods(method, values.options(option or [], {}))
    first, *others = dict.fromkeys(runs)
    with silence() if as_json else nullcontext():
        recorded = Run(first, data_dir, objective, states, out, tuple(others))
        surface = None
        if line is not None:
            found = job.compute_line_uncertainty(recorded, line, points, asked)
        else:
            surface, found = job.compute_surface_uncertainty(
                recorded, methods, resolution, samples, plane, asked
            )
        job.tell_uncertainty(recorded, found, surface, wide, figure, format_.value, as_json)
