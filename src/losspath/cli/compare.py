"""The command that holds runs side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from losspath.analysis.runs import RunCurves, Spread
from losspath.cli import jobs
from losspath.cli.console import out, say, say_file
from losspath.cli.runs import Run
from losspath.errors import RunError
from losspath.files import digest_of
from losspath.reference.training import training_config


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seeds, or one run of a loop of one's own.

    Attributes:
        parts: what they are, in words.
        runs: the runs.
    """

    parts: tuple[str, ...]
    runs: list[RunCurves]


def curves_of(run: Run) -> RunCurves:
    """What a run is compared by."""
    seed = None
    with suppress(RunError):  # recorded by a loop of one's own
        seed = training_config(run.directory).seed
    return RunCurves(jobs.compute_steps(run), run.history, seed)


def group_runs(runs: Sequence[Run], each: bool = False) -> dict[str, Group]:
    """Runs by names that tell them apart, those that differ in their seeds alone together.

    Args:
        runs: the runs.
        each: keep every run apart.
    """
    groups: dict[object, Group] = {}
    for run in runs:
        key: object = run.directory.resolve()
        try:
            config = training_config(run.directory)
            parts = config.parts + ((f"seed {config.seed}",) if each else ())
            if not each:
                key = dataclasses.replace(config, seed=0)
        except RunError:
            parts = (run.directory.resolve().name,)
        groups.setdefault(key, Group(parts, [])).runs.append(curves_of(run))
    return _named(list(groups.values()), [run.directory for run in runs])


def _named(groups: Sequence[Group], directories: Sequence[Path]) -> dict[str, Group]:
    shared = _shared([group.parts for group in groups])
    names = [
        ", ".join(part for part in group.parts if part not in shared) or ", ".join(group.parts)
        for group in groups
    ]
    if len(set(names)) < len(names):  # what tells them apart has no words
        firsts = {id(g): d for g, d in zip(groups, directories, strict=False)}
        names = [f"{name} ({firsts[id(g)]})" for name, g in zip(names, groups, strict=True)]
    return dict(zip(names, groups, strict=True))


def _shared(parts: Sequence[tuple[str, ...]]) -> set[str]:
    """The words that all have."""
    common = set(parts[0]).intersection(*parts[1:])
    return common if len(parts) > 1 else set()


def summary(groups: Mapping[str, Group]) -> dict[str, dict[str, Any]]:
    """Runs in numbers, as plain values: means over seeds, and spreads."""
    return {name: _numbers(group.runs) for name, group in groups.items()}


def _numbers(runs: Sequence[RunCurves]) -> dict[str, Any]:
    tenths = [_tenths(run) for run in runs]
    values = {
        "validation_accuracy": [run.final("validation_accuracy") for run in runs],
        "validation_loss": [run.final("validation_loss") for run in runs],
        "training_loss": [run.final("training_loss") for run in runs],
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
    table = Table(box=None)
    table.add_column("run", no_wrap=True)
    for column in ("seeds", "steps", "accuracy", "loss", "first steps", "last steps"):
        table.add_column(column, justify="right")
    for name, row in numbers.items():
        table.add_row(
            name,
            str(len(row["seeds"])),
            f"{row['steps']:,}",
            _shown(row["validation_accuracy"], ".2%"),
            _shown(row["validation_loss"], ".4f"),
            _shown(row["first_steps"], ".3g"),
            _shown(row["last_steps"], ".3g"),
        )
    out.print(table)
    say(
        "Accuracy and loss: on validation data, at the end. First and last steps: mean size over a "
        "tenth of the run. ±: standard deviation over seeds."
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
    digests = [run.path.digest for run in runs]
    target = figure or runs[0].figures / f"compare-{digest_of(digests, by, bins)[:8]}.{extension}"
    first = next(iter(groups.values())).parts
    shared = _shared([group.parts for group in groups.values()])
    title = ", ".join(part for part in first if part in shared)
    drawn = plot_runs(curves, by=by, bins=bins, title=title or None)
    say_file("figure", save_figure(drawn, target))
