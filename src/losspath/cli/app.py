"""The commands of the core."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from losspath.cli.functions_command import EXAMPLES as FUNCTION_SPACE_EXAMPLES
from losspath.cli.functions_command import function_space
from losspath.cli.import_command import EXAMPLES as IMPORT_EXAMPLES
from losspath.cli.import_command import import_checkpoints
from losspath.cli.options import (
    Alignment,
    DataPlace,
    Extension,
    Figure,
    Format,
    ObjectiveSource,
    OutDir,
    RunArgument,
    Samples,
    States,
)
from losspath.cli.plugins import Commands
from losspath.cli.surfaces import (
    COMPARE_SURFACES_EXAMPLES,
    FIDELITY_EXAMPLES,
    SURFACE_EXAMPLES,
    UNCERTAINTY_EXAMPLES,
    compare_surfaces,
    fidelity,
    surface,
    uncertainty,
)
from losspath.threads import VARIABLE, use_threads

app = typer.Typer(
    name="losspath",
    cls=Commands,
    help="Record a PyTorch training run and see the loss surface around the path it took.",
    epilog="Every command resumes: what is computed is not computed again. "
    "--debug, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"losspath {version('losspath')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Say the version and exit."
        ),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            envvar=VARIABLE,
            min=1,
            metavar="N",
            help="Compute with so many threads.",
            show_default="the cores that are available",
        ),
    ] = None,
) -> None:
    """Loads nothing: help must be quick."""
    use_threads(threads)


@app.command(epilog="Example: losspath info runs/lenet5 --json")
def info(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run holds: states, parameters, losses, accuracy, size, results."""
    from losspath.cli.info import describe, print_description
    from losspath.files import plain_json

    description = describe(run)
    if as_json:
        typer.echo(json.dumps(plain_json(description), indent=2))
    else:
        print_description(description)


app.command(epilog=SURFACE_EXAMPLES)(surface)
app.command(epilog=FIDELITY_EXAMPLES)(fidelity)
app.command("compare-surfaces", epilog=COMPARE_SURFACES_EXAMPLES)(compare_surfaces)
app.command(epilog=UNCERTAINTY_EXAMPLES)(uncertainty)


@app.command("barriers", epilog="Example: losspath barriers runs/seed-0 runs/seed-1 runs/seed-2")
def barriers(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Runs of one network.")],
    points: Annotated[int, typer.Option(help="Positions on a line, at least 3.")] = 25,
    quantity: Annotated[
        str, typer.Option(help="loss, accuracy or a metric of the objective.")
    ] = "loss",
    samples: Samples = None,
    states: States = None,
    data_dir: DataPlace = None,
    objective: ObjectiveSource = None,
    out: OutDir = None,
    figure: Figure = None,
    format_: Format = Extension.PNG,
) -> None:
    """Measure how far the loss rises on straight lines between the last states of runs.

    Running statistics are estimated anew at every point. Hidden units are not aligned: networks
    that differ by a permutation of them have a barrier all the same.
    """
    from losspath.cli import barriers, jobs
    from losspath.cli.runs import Run

    jobs.check_figure(figure)
    first, *others = dict.fromkeys(runs)
    recorded = Run(first, data_dir, objective, states, out, tuple(others))
    found = barriers.compute_barriers(recorded, points, samples, quantity)
    barriers.draw_barriers(recorded, found, figure, format_.value)


app.command("function-space", epilog=FUNCTION_SPACE_EXAMPLES)(function_space)


@app.command(epilog="Example: losspath interpolate runs/lenet5 --from 0 --to last")
def interpolate(
    run: RunArgument,
    from_: Annotated[
        str, typer.Option("--from", metavar="STATE", help="A state's number, first or last.")
    ] = "first",
    to: Annotated[
        str, typer.Option("--to", metavar="STATE", help="A state's number, first or last.")
    ] = "last",
    points: Annotated[int, typer.Option(help="Positions along the line, in [−0.1, 1.1].")] = 13,
    data_dir: DataPlace = None,
    objective: ObjectiveSource = None,
    out: OutDir = None,
    figure: Figure = None,
    format_: Format = Extension.PNG,
) -> None:
    """Draw validation loss and accuracy between two states: the whole model and every layer.

    Prints the share of the drop in loss that is lost if one layer alone is put back to the first
    state. A negative share means that putting it back made the loss lower.
    """
    from losspath.cli import jobs
    from losspath.cli.runs import Run
    from losspath.recording.paths import state_written

    jobs.check_figure(figure)
    recorded = Run(run, data_dir, objective, None, out)
    start, end = (state_written(each, len(recorded.path)) for each in (from_, to))
    result = jobs.compute_interpolation(recorded, start, end, points)
    jobs.draw_interpolation(recorded, result, figure, format_.value)


@app.command(epilog="Example: losspath steps runs/sgd runs/adam --figure steps.pdf")
def steps(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run or several.")],
    bins: Annotated[int, typer.Option(help="Means over so many equal parts of a run.")] = 100,
    out: OutDir = None,
    figure: Figure = None,
    format_: Format = Extension.PNG,
) -> None:
    """Draw the size of the steps that training took, with the training loss."""
    from losspath.cli import jobs
    from losspath.cli import steps as job
    from losspath.cli.runs import Run

    jobs.check_figure(figure)
    jobs.check_bins(bins)
    recorded = [Run(directory, out=out) for directory in dict.fromkeys(runs)]
    results = [job.compute_steps(run) for run in recorded]
    job.draw_steps(recorded, results, bins, figure, format_.value)


@app.command(epilog="Example: losspath compare runs/sgd-* runs/adam-* --by epoch")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs to compare.")],
    by: Annotated[Alignment, typer.Option(help="What they are aligned by.")] = Alignment.STEP,
    each: Annotated[
        bool,
        typer.Option("--each", help="Keep runs apart that differ in their seeds alone."),
    ] = False,
    panels: Annotated[
        bool,
        typer.Option(
            "--panels", help="Draw step sizes alone, a panel for each network and data set."
        ),
    ] = False,
    bins: Annotated[int, typer.Option(help="Means over so many equal parts of a run.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    out: OutDir = None,
    figure: Figure = None,
    format_: Format = Extension.PNG,
) -> None:
    """Hold runs side by side: step sizes, losses, accuracies; several seeds with their spread."""
    from contextlib import nullcontext

    from losspath.cli import compare as comparison
    from losspath.cli import jobs
    from losspath.cli.console import silence
    from losspath.cli.runs import Run

    jobs.check_figure(figure)
    jobs.check_bins(bins)
    comparison.check_panels(panels, by.value)
    recorded = [Run(directory, out=out) for directory in dict.fromkeys(runs)]
    with silence() if as_json else nullcontext():
        groups = comparison.group_runs(recorded, each)
        if panels:
            comparison.draw_panels(recorded, groups, bins, figure, format_.value)
        else:
            comparison.draw_comparison(recorded, groups, by.value, bins, figure, format_.value)
    numbers = comparison.summary(groups)
    if as_json:
        typer.echo(json.dumps(comparison.without_nan(numbers), indent=2))
    else:
        comparison.print_summary(numbers)


@app.command(epilog="Example: losspath diagnose runs/lenet5 --step 938 --view saliency")
def diagnose(
    run: RunArgument,
    step: Annotated[
        int | None, typer.Option(help="Steps taken before the state to look at; the last state.")
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIEW",
            help="architecture, history, samples, confusion, activations, filters, feature-maps "
            "or saliency; may be given several times. All by default.",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            help="Input for feature maps and saliency: which of the validation data.",
            show_default="the first; the first of each class",
        ),
    ] = None,
    data_dir: DataPlace = None,
    objective: ObjectiveSource = None,
    out: OutDir = None,
    format_: Format = Extension.PNG,
) -> None:
    """Look at a network at any step: predictions, activations, filters, feature maps, saliency."""
    from losspath.cli import diagnose as diagnosis
    from losspath.cli.runs import Run

    views = diagnosis.check_views(view or [])
    recorded = Run(run, data_dir, objective, None, out)
    diagnosis.run_diagnose(recorded, step, sample, views, format_.value)


@app.command(epilog="Example: losspath dynamics runs/lenet5 --states 25")
def dynamics(
    run: RunArgument,
    states: Annotated[int, typer.Option(help="States to measure at, evenly in time.")] = 25,
    samples: Annotated[
        int | None,
        typer.Option(help="Training samples to measure with (1,000 by default)."),
    ] = None,
    data_dir: DataPlace = None,
    objective: ObjectiveSource = None,
    out: OutDir = None,
    figure: Figure = None,
    format_: Format = Extension.PNG,
) -> None:
    """Measure gradient, sharpness and turns along the path, and say how training went."""
    from losspath.cli import diagnose as diagnosis
    from losspath.cli import jobs
    from losspath.cli.runs import Run

    jobs.check_figure(figure)
    recorded = Run(run, data_dir, objective, None, out)
    found = diagnosis.compute_dynamics(recorded, states, samples)
    diagnosis.draw_dynamics(recorded, found, figure, format_.value)


app.command("import", epilog=IMPORT_EXAMPLES)(import_checkpoints)


@app.command(epilog="Example: losspath repair runs/lenet5")
def repair(run: RunArgument) -> None:
    """Keep all that is whole of a damaged run, say what is lost, and delete nothing."""
    from losspath.cli.repair import repair_run

    repair_run(run)


@app.command(epilog="Example: losspath migrate runs/lenet5")
def migrate(run: RunArgument) -> None:
    """Bring a run that version 0.1 recorded over to the newest format; the old files are kept."""
    from losspath.cli.repair import migrate_run

    migrate_run(run)
