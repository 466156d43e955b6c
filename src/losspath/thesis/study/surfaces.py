"""What surfaces depend on: the network, the states that were kept, the grid, the samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from losspath.figures import plot_surfaces
from losspath.thesis.study.drawing import Panel, draw_check, draw_lines, read_line
from losspath.thesis.study.judgments import Check
from losspath.thesis.study.plan import Plan
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.results import Result, Run
from losspath.thesis.study.sections import Section, markdown_table
from losspath.thesis.study.statistics import all_above, all_below, spread
from losspath.thesis.study.table import Floats, Table

# Two pictures are taken for the same from this structural similarity and relative error on.
_SAME, _ERROR = 0.95, 0.05


def _paths(plan: Plan) -> dict[str, tuple[list[Run], str]]:
    """Runs whose surfaces are compared by their titles, with the setting of the surface."""
    stride = plan.scale.stride
    main = plan.runs()
    return {
        "LeNet-5": ([plan.run("lenet5")], ""),
        "Modified-LeNet": (main, ""),
        f"Modified-LeNet, every {stride}th state": (main, plan.setting("stride", stride)),
    }


def _sizes_needs(plan: Plan) -> list[Result[Any]]:
    needs: list[Result[Any]] = [plan.lengths(run) for run in plan.runs()]
    for runs, setting in _paths(plan).values():
        for run in runs:
            needs += [plan.surface(run, setting=setting), plan.line(run)]
    return needs


def _resolution_needs(plan: Plan) -> list[Result[Any]]:
    needs: list[Result[Any]] = [plan.lengths(run) for run in plan.runs()]
    for name, values in plan.sweeps.items():
        settings = [plan.setting(name, value) for value in values]
        needs += [plan.surface(run, setting=each) for run in plan.runs() for each in settings]
    return needs


SIZES = Section("6.7", "The size of the network and of the path", _sizes_needs)
RESOLUTION = Section("resolution", "Grid and samples", _resolution_needs)


@SIZES.picture(
    "fig-6.7",
    "Averaged surfaces of LeNet-5, of Modified-LeNet, and of Modified-LeNet's path sampled (seed "
    "0; thesis Fig. 6.7): how alike valley and path are in a network of a thirtieth of the "
    "parameters, and what is lost with most of the states.",
)
def _draw_sizes(table: Table, files: ResultFiles) -> Figure:
    paths = _paths(table.plan)
    surfaces = [
        files.load(table.plan.surface(runs[0], setting=setting)) for runs, setting in paths.values()
    ]
    return plot_surfaces(surfaces, titles=list(paths), fade=False)


@SIZES.picture(
    "check-6.7",
    "Losses along the straight line between the ends of the paths of Fig. 6.7 (seed 0): exact, "
    "and as their averaged surfaces have them.",
)
def _draw_sizes_check(table: Table, files: ResultFiles, caption: str) -> Figure:
    panels = [
        read_line(files, table.plan, title.replace(", ", ",\n"), runs[0], {"averaged": setting})
        for title, (runs, setting) in _paths(table.plan).items()
    ]
    return draw_check(panels, caption, columns=3)


@SIZES.note
def _tell_sizes(table: Table) -> str:
    """How far the surfaces are to be trusted."""
    names = (
        "path",
        "seeds",
        "ground off the states' own losses (median)",
        "off the exact losses of the straight line (most, of their range)",
    )
    rows = []
    for name, (runs, setting) in _paths(table.plan).items():
        # The last state that is kept of a sampled path need not be the path's last: the line is.
        states, line = (
            spread(table.of(runs, quantity, "averaged", setting), ".0%")
            for quantity in ("off the states' losses", "off the line")
        )
        rows.append([name, str(len(runs)), states, line])
    return markdown_table(names, rows)


def _kept_lengths(table: Table, stride: int) -> Floats:
    """A thinned path's length as a share of the path's, for each seed."""
    length = "length of the path"
    thinned = table.values(length, setting=table.plan.setting("stride", stride))
    return thinned / table.values(length)


@SIZES.claim(
    "sampled path",
    "A path sampled {scale.stride}× gives almost the same surface, but wrong step sizes.",
    "fig-6.7",
)
def _check_sampling(table: Table) -> Iterator[Check]:
    stride = table.plan.scale.stride
    setting = table.plan.setting("stride", stride)
    alike = table.values("similarity to all states", "averaged", setting)
    errors = table.values("median difference from all states", "averaged", setting)
    shares = _kept_lengths(table, stride)
    yield Check(f"structural similarity {spread(alike)}", all_above(alike, _SAME))
    yield Check(f"median difference {spread(errors, '.1%')}", all_below(errors, _ERROR))
    words = f"its steps add up to {spread(shares, '.0%')} of the path's length"
    yield Check(words, all_below(shares, 0.9))


# What is varied, with its words, what it is held against, and how that is called in a figure.
_SWEEPS = (
    ("resolution", "grid lines", "the finest grid", "twice the lines"),
    ("samples", "samples", "the most samples", "six times as many"),
    ("stride", "one state kept of", "all states", "all states"),
)


def _varied(plan: Plan, name: str) -> tuple[int, ...]:
    values = plan.sweeps[name]
    return values[1:] if name == "stride" else values[:-1]


def _compared(table: Table, name: str, value: int, reference: str) -> dict[str, Floats]:
    """How far surfaces are from finer ones, with a number for each seed."""
    setting = table.plan.setting(name, value)
    return {
        words: table.values(f"{words} {reference}", "averaged", setting)
        for words in (
            "similarity to",
            "median difference from",
            "95 % difference from",
            "evaluations against",
        )
    }


@RESOLUTION.picture(
    "resolution",
    "The averaged surface of Modified-LeNet (SGD) on coarser grids, over fewer samples and around "
    "a thinned path: how far the picture and the losses are from the finest, and how much shorter "
    "a thinned path is than the path. Evaluations are shares of the finest's. Lines: means over "
    "seeds; bands: from the least to the greatest.",
)
def _draw_resolution(table: Table, files: ResultFiles, caption: str) -> Figure:
    panels = []
    for name, words, reference, called in _SWEEPS:
        values = _varied(table.plan, name)
        found = [_compared(table, name, value, reference) for value in values]
        x = np.array(values, float)
        similar, errors = (
            np.array([each[quantity] for each in found]).T
            for quantity in ("similarity to", "median difference from")
        )
        curves = {"1 − structural similarity": (x, 1 - similar), "median difference": (x, errors)}
        costs = ", ".join(f"{np.mean(each['evaluations against']):.0%}" for each in found)
        label = f"{words}\n(evaluations: {costs})"
        if name == "stride":
            lost = 1 - np.array([_kept_lengths(table, stride) for stride in values]).T
            curves["length that the path has lost"] = (x, lost)
            label = words
        panels.append(Panel(label, f"against {called}", curves))
    return draw_lines(panels, caption, logarithmic=True)


@RESOLUTION.note
def _tell_resolution(table: Table) -> str:
    """The numbers of the figure as a table."""
    rows = []
    for name, words, reference, _ in _SWEEPS:
        for value in _varied(table.plan, name):
            similar, median, high, costs = _compared(table, name, value, reference).values()
            cost = f"{np.mean(costs):.0%} of the evaluations"
            if name == "stride":
                setting = table.plan.setting("stride", value)
                cost = (
                    f"{1 / value:.1%} of the states; the path is "
                    f"{spread(_kept_lengths(table, value), '.0%')} as long, and its start "
                    f"{spread(table.values('shift of the start', 'averaged', setting))} away in "
                    "its own plane"
                )
            numbers = [spread(similar), spread(median, ".1%"), spread(high, ".1%")]
            rows.append([words, f"{value:,}", *numbers, cost])
    names = ("what", "value", "structural similarity", "median difference", "95 % below", "cost")
    return markdown_table(names, rows)


@RESOLUTION.claim(
    "resolution and samples",
    "More than 10,000 samples and a grid of 19 × 19 change nothing visible.",
    "resolution",
)
def _check_resolution(table: Table) -> Iterator[Check]:
    for name, words, reference, _ in _SWEEPS[:2]:
        usual, alike = getattr(table.plan.scale, name), {}
        for value in _varied(table.plan, name):
            similar, median, *_ = _compared(table, name, value, reference).values()
            alike[value] = bool(min(similar) > _SAME and max(median) < _ERROR)
        similar, median, _, costs = _compared(table, name, usual, reference).values()
        told = (
            f"{usual:,} {words}: similarity {spread(similar)} and difference "
            f"{spread(median, '.1%')} for {np.mean(costs):.0%} of the evaluations"
        )
        fewest = min((value for value in alike if alike[value]), default=usual)
        yield Check(told + (f"; {fewest:,} would pass too" if fewest < usual else ""), alike[usual])
