"""Figures that only the study has: dots for seeds, lines over a quantity, and straight lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from losspath.figures.runs import draw_band
from losspath.figures.style import (
    COLORS,
    COLUMN,
    PAGE,
    SMALL,
    TEXT,
    add_footer,
    line_style,
    new_figure,
    tidy,
)
from losspath.thesis.study.numbers import linear_path
from losspath.thesis.study.plan import ARMS, Plan
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.results import Run
from losspath.thesis.study.statistics import Area, Floats, Values
from losspath.thesis.study.table import Table

_MOST_TICKS = 8  # that have room under a panel

STYLES: dict[str, dict[str, Any]] = {
    "SGD": {"color": COLORS[0], "linestyle": "-"},
    "SGD, dropout": {"color": COLORS[0], "linestyle": "--"},
    "Adam": {"color": COLORS[1], "linestyle": "-"},
    "Adam, dropout": {"color": COLORS[1], "linestyle": "--"},
    "LeNet-5": {"color": COLORS[2], "linestyle": "-"},
    "Modified-LeNet": {"color": COLORS[3], "linestyle": "-"},
}
STYLES |= {
    name: {"color": color, "linestyle": dashes}
    for name, color, dashes in zip(
        ARMS,
        (COLORS[0], COLORS[4], COLORS[5], COLORS[6], "black"),
        ("-", "-", "-", "--", ":"),
        strict=True,
    )
}
"""One colour each for optimisers, networks and arms of the learning-rate experiment, in every
figure; dashes are dropout. The plain rate is SGD; no arm has the colour of Adam."""

# The last is dashed, for it is often where another one is.
_METHODS: dict[str, dict[str, Any]] = {
    name: {"color": color, "lw": 1.1, "ls": (0, (4, 3)) if name == "averaged-nd" else "-"}
    for name, color in zip(
        ("pca", "sampled", "sampled-pca", "averaged", "averaged-nd"), COLORS, strict=False
    )
}
_METHODS["exact"] = {"color": "black", "lw": 1.6, "ls": "--"}

_POINTS: dict[str, Any] = {"lw": 1.1, "marker": "o", "ms": 3}


@dataclass(frozen=True)
class Panel:
    """Curves over one axis.

    Attributes:
        x: label of the axis along.
        y: label of the axis up.
        curves: by name: positions (k,), and values (k,), or (n, k) of n seeds.
        title: over the panel.
    """

    x: str
    y: str
    curves: Mapping[str, tuple[Floats, Floats]]
    title: str = ""


def read_line(
    files: ResultFiles, plan: Plan, title: str, run: Run, settings: Mapping[str, str]
) -> Panel:
    """Surfaces read along the straight line between a path's ends, and its exact losses.

    Args:
        files: the results.
        plan: of the study.
        title: over the panel.
        run: whose path.
        settings: of the surfaces, by method.
    """
    line = files.load(plan.line(run))
    curves = {}
    for method, setting in settings.items():
        surface = files.load(plan.surface(run, method, setting))
        curves[method.removesuffix("-as-drawn")] = (line.alpha, linear_path(surface, line)[0])
    return Panel("α", "loss", {**curves, "exact": (line.alpha, line.loss[0])}, title)


def draw_check(panels: Sequence[Panel], caption: str, columns: int = 2) -> Figure:
    """Draws what `read_line` reads.

    Args:
        panels: of it.
        caption: what to see.
        columns: panels in a row; those of a row have one scale.
    """
    rows = -(-len(panels) // columns)
    figure = new_figure(PAGE, rows * (2.6 if columns <= 2 else 1.8))
    grid = figure.subplots(rows, columns, sharey="row", sharex=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        for name, curve in panel.curves.items():
            axes.plot(*curve, **_METHODS[name])
        axes.set_title(panel.title, fontsize=TEXT)
        tidy(axes)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in grid[-1]:
        axes.set_xlabel("α (0: first state, 1: last)" if columns <= 2 else "α")
    for axes in grid[:, 0]:
        axes.set_ylabel("loss")
    names = {"exact": None, **dict.fromkeys(name for each in panels for name in each.curves)}
    entries = [Line2D([], [], label=name, **_METHODS[name]) for name in names]
    add_footer(figure, caption, entries, columns=6)
    return figure


def draw_lines(
    panels: Sequence[Panel], caption: str, joined: bool = True, logarithmic: bool = False
) -> Figure:
    """One quantity over another on a logarithmic axis, panel by panel.

    Args:
        panels: several seeds are drawn as their mean and a band from the least to the greatest.
        caption: what to see.
        joined: by lines.
        logarithmic: whether the y axis is logarithmic too.
    """
    figure = new_figure(PAGE if len(panels) > 1 else COLUMN, 2.3)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    mark = {**_POINTS, "lw": 1.1 if joined else 0.0}
    for axes, panel in zip(grid, panels, strict=True):
        for name, (x, y) in panel.curves.items():
            draw_band(axes, x, np.atleast_2d(y), {**mark, **line_style(names.index(name))})
        ticks = sorted({float(value) for x, _ in panel.curves.values() for value in x})
        labels = [f"{value:,g}" for value in ticks]
        _set_logarithmic(axes, ticks, labels if len(ticks) <= _MOST_TICKS else [])
        if logarithmic:
            axes.set_yscale("log")
        axes.set_xlabel(panel.x)
        axes.set_ylabel(panel.y)
        tidy(axes)
    add_footer(figure, caption, _entries(names, mark), columns=3)
    return figure


def draw_prediction(
    panels: Mapping[str, Mapping[str, Mapping[float, Area]]], caption: str
) -> Figure:
    """How well something is foretold, by the share of the steps that is looked at.

    Args:
        panels: by title, by predictor, by share.
        caption: what to see.
    """
    figure = new_figure(PAGE, 2.4)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, areas) in zip(grid, panels.items(), strict=True):
        axes.axhline(0.5, color="#999999", lw=0.8, ls=":")
        for number, by_share in enumerate(areas.values()):
            x = np.array([100 * share for share in by_share]) * (1 + 0.03 * number)
            middle, low, high = np.array([(a.value, a.low, a.high) for a in by_share.values()]).T
            # Resampled, an area need not lie within its own interval.
            ends = np.maximum([middle - low, high - middle], 0.0)
            axes.errorbar(x, middle, ends, **_POINTS, capsize=2, **_line_style(number))
        shares = [100 * share for share in next(iter(areas.values()))]
        _set_logarithmic(axes, shares, [f"{share:g} %" for share in shares])
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(title, fontsize=TEXT)
        axes.set_xlabel("share of the steps that is seen")
        tidy(axes)
    grid[0].set_ylabel("chance to be right")
    add_footer(figure, caption, _entries([*next(iter(panels.values()))], _POINTS), columns=4)
    return figure


def _set_logarithmic(axes: Axes, ticks: Sequence[float], labels: Sequence[str]) -> None:
    axes.set_xscale("log")
    if labels:
        axes.set_xticks(ticks, labels)
        axes.minorticks_off()


def _entries(names: Sequence[str], mark: Mapping[str, Any]) -> list[Line2D]:
    return [
        Line2D([], [], label=name, **mark, **_line_style(number))
        for number, name in enumerate(names)
    ]


def _line_style(number: int) -> dict[str, Any]:
    return {**line_style(number)}


_GUIDES = ("--", ":", "-.")
_LINE, _RANGE = "#777777", "#dddddd"
_WHOLE = 101.0  # per cent, with room for a dot
_LEAST = 0.05  # what an axis spans at least, of what it shows: less is no difference to look at


@dataclass(frozen=True)
class Dots:
    """A panel: one quantity of some things, with every seed.

    Attributes:
        label: of the quantity.
        rows: values by series, by what they are of; one series alone has no name.
        title: over the panel.
        guides: values, or ranges (low, high), that are to be seen beside them, by what they are.
        logarithmic: whether the axis is.
    """

    label: str
    rows: Mapping[str, Mapping[str, Values]]
    title: str = ""
    guides: Mapping[str, float | tuple[float, float]] = field(default_factory=dict)
    logarithmic: bool = False

    @classmethod
    def of(
        cls,
        table: Table,
        label: str,
        quantity: str,
        groups: Mapping[str, dict[str, Any]],
        method: str = "",
        factor: float = 1.0,
        **options: Any,
    ) -> Dots:
        """A quantity in a table.

        Args:
            table: the table.
            label: of the quantity.
            quantity: as the table names it.
            groups: runs by name, as `Table.values` takes them.
            method: of the surface.
            factor: that values are multiplied by.
            options: of the panel; its title is the data set, if it is of one.
        """
        data = {"data": options["title"]} if "title" in options else {}
        rows = {
            name: {"": factor * table.values(quantity, method, **data, **group)}
            for name, group in groups.items()
        }
        return cls(label, rows, **options)


def draw_dots(grid: Sequence[Sequence[Dots]], caption: str) -> Figure:
    """Draws panels of dots; those in a row of the grid have the same rows.

    Args:
        grid: rows of panels.
        caption: what to see.
    """
    panels = [panel for line in grid for panel in line]
    series = list(dict.fromkeys(name for p in panels for row in p.rows.values() for name in row))
    guides = list(dict.fromkeys(name for panel in panels for name in panel.guides))
    heights = [0.6 + 0.19 * len(line[0].rows) for line in grid]
    figure = new_figure(PAGE, sum(heights))
    axes = figure.subplots(len(grid), len(grid[0]), squeeze=False, height_ratios=heights)
    for line, places in zip(grid, axes, strict=True):
        for number, (panel, place) in enumerate(zip(line, places, strict=True)):
            _draw_panel(place, panel, series, guides)
            place.set_yticks(range(len(panel.rows)), list(panel.rows) if number == 0 else [])
    entries: list[Artist] = [
        Line2D([], [], label=s, **_style(series, s)) for s in series if len(series) > 1
    ]
    ranges = {name for p in panels for name, value in p.guides.items() if isinstance(value, tuple)}
    entries += [
        Patch(color=_RANGE, label=name)
        if name in ranges
        else Line2D([], [], color=_LINE, lw=0.9, ls=_GUIDES[i % len(_GUIDES)], label=name)
        for i, name in enumerate(guides)
    ]
    add_footer(figure, caption, entries, columns=4)
    return figure


def _style(series: Sequence[str], name: str) -> dict[str, Any]:
    number = series.index(name)
    color = line_style(number)["color"] if len(series) > 1 else COLORS[0]
    return {
        "marker": "os^D"[number % 4],
        "ms": 4.0,
        "mfc": "none" if number else color,
        "mec": color,
        "mew": 0.9,
        "ls": "none",
    }


def _draw_panel(axes: Axes, panel: Dots, series: Sequence[str], guides: Sequence[str]) -> None:
    for name, value in panel.guides.items():
        if isinstance(value, tuple):
            axes.axvspan(*value, color=_RANGE, lw=0, zorder=0)
        else:
            dashes = _GUIDES[guides.index(name) % len(_GUIDES)]
            axes.axvline(value, color=_LINE, lw=0.9, ls=dashes, zorder=0)
    for row, by_series in enumerate(panel.rows.values()):
        axes.axhline(row, color="#eeeeee", lw=0.8, zorder=0)
        for number, (name, values) in enumerate(by_series.items()):
            offset = 0.28 * (number - (len(by_series) - 1) / 2)
            axes.plot(values, np.full(len(values), row + offset), **_style(series, name))
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    low, high = axes.get_xlim()
    if not panel.logarithmic and high - low < _LEAST * max(abs(low), abs(high)):
        margin = _LEAST / 2 * max(abs(low), abs(high))
        top = (low + high) / 2 + margin
        if panel.label.endswith("(%)") and high <= _WHOLE:
            top = min(top, _WHOLE)
        axes.set_xlim(top - 2 * margin, top)
    if panel.logarithmic:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        # Within less than 1, 2, 5 there are too few of these.
        narrow = high < 5 * low
        axes.xaxis.set_major_locator(MaxNLocator(4) if narrow else LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(panel.label)
    if panel.title:
        axes.set_title(panel.title, fontsize=TEXT)
    tidy(axes)
    axes.tick_params(axis="y", length=0, labelsize=SMALL)
