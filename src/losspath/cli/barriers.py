"""The command that measures how far a loss rises between runs."""

from __future__ import annotations

from pathlib import Path

from losspath.analysis.barriers import Barriers, barriers, barriers_key
from losspath.cli.console import progress_bar, say, say_file
from losspath.cli.jobs import computed_once, figure_file
from losspath.cli.runs import Run
from losspath.errors import ArgumentError
from losspath.figures import plot_barriers, save_figure
from losspath.recording.trajectory import JointPath
from losspath.surface import check_same_network


def compute_barriers(run: Run, points: int, samples: int | None, quantity: str) -> Barriers:
    """The barriers between the last states of several runs, computed once and kept."""
    if not isinstance(run.path, JointPath):
        raise ArgumentError("expected two runs or more to measure barriers between, got one")
    objective = run.training_objective(samples)
    run.made.forget_data()
    check_same_network(run.path, objective)
    states = run.path.runs
    key = barriers_key(states, objective, points=points)

    def compute(checkpoint: Path) -> Barriers:
        with progress_bar("barriers") as progress:
            return barriers(
                states,
                objective,
                points=points,
                quantity=quantity,
                checkpoint=checkpoint,
                progress=progress,
            )

    return computed_once(run, Barriers, key, compute, "barriers", label=quantity)


def draw_barriers(run: Run, found: Barriers, figure: Path | None, extension: str) -> None:
    """Draws barriers, and prints them."""
    name = f"barriers-{found.quantity}-{found.provenance['key'][:8]}.{extension}"
    target = figure_file(run, figure, name)
    say_file("figure", save_figure(plot_barriers(found), target))
    height = found.barrier
    for i, first in enumerate(found.names):
        for j, second in enumerate(found.names[:i]):
            say(f"{second} to {first}: {found.quantity} barrier {height[i, j]:.4g}")
