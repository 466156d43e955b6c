"""What the command that draws step sizes does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from losspath.analysis.runs import MOST_VALUES
from losspath.analysis.steps import StepSizes, step_sizes
from losspath.cli.console import busy, say, say_file
from losspath.cli.jobs import computed_once, figure_file
from losspath.cli.runs import Run
from losspath.files import digest_of


def compute_steps(run: Run) -> StepSizes:
    """The step sizes of a run, computed once and kept."""

    def compute(_: Path) -> StepSizes:
        with busy("measuring the steps"):
            return run.made.named(step_sizes(run.path))

    return computed_once(run, StepSizes, run.path.digest, compute, "step sizes")


def draw_steps(
    runs: Sequence[Run],
    results: Sequence[StepSizes],
    bins: int,
    figure: Path | None,
    extension: str,
) -> None:
    """Draws the step sizes of one run, or of several in one figure."""
    from losspath.figures import plot_step_sizes, save_figure

    titles = [run.title for run in runs]
    if len(set(titles)) < len(titles):  # runs that differ in their directory alone
        titles = [f"{run.title} ({run.directory})" for run in runs]
    named = dict(zip(titles, results, strict=True))
    key = digest_of([result.provenance["path_digest"] for result in results], bins)[:8]
    target = figure_file(runs[0], figure, f"steps-{key}.{extension}")
    title = titles[0] if len(runs) == 1 else None
    values: dict[str, dict[str, Any]] = {}
    for label, run in zip(titles, runs, strict=True):
        for name, series in run.recorded_values.items():
            values.setdefault(name, {})[label] = series
    if left := list(values)[MOST_VALUES:]:
        say(f"not drawn, as there are many recorded values: {', '.join(left)}")
        values = {name: values[name] for name in list(values)[:MOST_VALUES]}
    drawn = plot_step_sizes(named, bins=bins, title=title, values=values)
    say_file("figure", save_figure(drawn, target))
