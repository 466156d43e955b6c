"""The command that holds runs side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from losspath.analysis.runs import RunCurves, Spread
from losspath.cli import jobs, steps
from losspath.cli.console import out, say, say_file
from losspath.cli.runs import Run
from losspath.errors import ArgumentError
from losspath.files import digest_of


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seeds, or one run of a loop of one's own.

    Attributes:
        parts: what they are, in words.
        directory: of the first.
        runs: the runs.
    """

    parts: tuple[str, ...]
    directory: Path
    runs: list[RunCurves] = field(default_factory=list)


def curves_of(run: Run) -> RunCurves:
    """What a run is compared by."""
    sizes = steps.compute_steps(run)
    return RunCurves(sizes, run.history, run.made.seed, run.recorded_values)


def group_runs(runs: Sequence[Run], each: bool = False) -> dict[str, Group]:
    """Runs by names that tell them apart, those that differ in their seeds alone together.

    Args:
        runs: the runs.
        each: keep every run apart.
    """
    groups: dict[object, Group] = {}
    for run in runs:
        curves, made = curves_of(run), run.made
        key: object = run.directory.resolve()
        parts, kind = made.parts, made.kind
        if kind is not None:
            alike = (kind, int(curves.sizes.steps[-1]))
            if each:
                parts += (f"seed {made.seed}",)
            elif alike not in groups or made.seed not in [r.seed for r in groups[alike].runs]:
                key = alike  # a second run of one seed is no other seed
            if key in groups:
                groups[key] = dataclasses.replace(groups[key], parts=kind.parts)
        groups.setdefault(key, Group(parts, run.directory)).runs.append(curves)
    return _named(list(groups.values()))


def _named(groups: Sequence[Group]) -> dict[str, Group]:
    shared = _shared([group.parts for group in groups])
    names = [
        ", ".join(part for part in group.parts if part not in shared) or ", ".join(group.parts)
        for group in groups
    ]
    if len(set(names)) < len(names):  # what tells them apart has no words
        names = [f"{name} ({g.directory})" for name, g in zip(names, groups, strict=True)]
    return dict(zip(names, groups, strict=True))


def _shared(parts: Sequence[tuple[str, ...]]) -> set[str]:
    """The words that all have."""
    common = set(parts[0]).intersection(*parts[1:])
    return common if len(parts) > 1 else set()


def summary(groups: Mapping[str, Group]) -> dict[str, dict[str, Any]]:
    """Runs in numbers, as plain values: means over seeds, and spreads."""
    return {name: _numbers(group.runs) for name, group in groups.items()}


def without_nan(value: Any) -> Any:
    """The same for JSON, which has no NaN: nothing stands for what is not known."""
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _numbers(runs: Sequence[RunCurves]) -> dict[str, Any]:
    tenths = [_tenths(run) for run in runs]
    values = {
        "validation_accuracy": [run.final("validation_accuracy") for run in runs],
        "validation_loss": [run.final("validation_loss") for run in runs],
        "training_loss": [run.final("training_loss") for run in runs],
        "training_accuracy": [run.final("training_accuracy") for run in runs],
        "first_steps": [first for first, _ in tenths],
        "last_steps": [last for _, last in tenths],
    }
    spreads = {name: dataclasses.asdict(Spread.of(each)) for name, each in values.items()}
    steps = [int(run.sizes.steps[-1]) for run in runs]
    return {"seeds": [run.seed for run in runs], "steps": max(steps), **spreads}


def _tenths(run: RunCurves) -> tuple[float, float]:
    """The mean size of the first and the last tenth of the steps."""
    count = max(1, len(run.sizes.sizes) // 10)
    sizes = run.sizes.sizes
    return float(np.mean(sizes[:count])), float(np.mean(sizes[-count:]))


def print_summary(numbers: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints runs in numbers for people."""
    for name, row in numbers.items():
        count = len(row["seeds"])
        seeds = f"{count} seeds, " if count > 1 else ""
        say(f"{name} ({seeds}{row['steps']:,} steps)")
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
        for what, key, form in _SHOWN:
            table.add_row(what, _shown(row[key], form))
        out.print(table)
    say(
        "Losses and accuracies: at the end. First and last steps: mean size over a tenth of the "
        "run. ±: standard deviation over seeds."
    )


_SHOWN = (
    ("validation accuracy", "validation_accuracy", ".2%"),
    ("training accuracy", "training_accuracy", ".2%"),
    ("validation loss", "validation_loss", ".4f"),
    ("training loss", "training_loss", ".4f"),
    ("first steps", "first_steps", ".3g"),
    ("last steps", "last_steps", ".3g"),
)


def _shown(spread: Mapping[str, Any], form: str) -> str:
    if not spread["count"]:
        return "–"
    shown = format(spread["mean"], form)
    return f"{shown} ± {spread['deviation']:{form}}" if spread["count"] > 1 else shown


def draw_comparison(
    runs: Sequence[Run],
    groups: Mapping[str, Group],
    by: Literal["step", "epoch"],
    bins: int,
    figure: Path | None,
    extension: str,
) -> None:
    """Draws runs side by side, and says where."""
    from losspath.figures import plot_runs, save_figure

    curves = {name: group.runs for name, group in groups.items()}
    target = _target(runs, figure, extension, list(curves), by, bins)
    drawn = plot_runs(curves, by=by, bins=bins, title=_title(groups))
    say_file("figure", save_figure(drawn, target))


def _target(runs: Sequence[Run], figure: Path | None, extension: str, *drawn: object) -> Path:
    """Where a figure of runs goes, by all that it depends on."""
    key = digest_of([run.path.digest for run in runs], *drawn)[:8]
    return jobs.figure_file(runs[0], figure, f"compare-{key}.{extension}")


def _title(groups: Mapping[str, Group], start: int = 0) -> str | None:
    """What all groups have from a place in their parts on."""
    parts = [group.parts[start:] for group in groups.values()]
    shared = _shared(parts)
    return ", ".join(part for part in parts[0] if part in shared) or None


def check_panels(panels: bool, by: Literal["step", "epoch"]) -> None:
    """Raises `ArgumentError` where panels are asked for by epoch."""
    if panels and by == "epoch":
        raise ArgumentError("--panels draws by step; leave --by epoch out")


def draw_panels(
    runs: Sequence[Run],
    groups: Mapping[str, Group],
    bins: int,
    figure: Path | None,
    extension: str,
) -> None:
    """Draws step sizes, a panel for each network and data set, and says where."""
    from losspath.figures import plot_step_panels, save_figure

    shared = _shared([group.parts[_WHERE:] for group in groups.values()])
    panels: dict[str, dict[str, list[RunCurves]]] = {}
    for group in groups.values():
        title, how = ", ".join(group.parts[:_WHERE]), group.parts[_WHERE:]
        name = ", ".join(part for part in how if part not in shared) or ", ".join(how) or title
        panel = panels.setdefault(title, {})
        panel[f"{name} ({group.directory})" if name in panel else name] = group.runs
    names = [list(panel) for panel in panels.values()]
    target = _target(runs, figure, extension, names, bins)
    drawn = plot_step_panels(panels, bins=bins, title=_title(groups, _WHERE))
    say_file("figure", save_figure(drawn, target))


_WHERE = 2  # parts that say where training was: network and data
