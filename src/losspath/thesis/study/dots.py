"""Numbers of runs as dots, a dot for each seed: what the claims are judged by."""

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
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from losspath.figures.style import (
    COLORS,
    PAGE,
    SMALL,
    TEXT,
    add_footer,
    line_style,
    new_figure,
    tidy,
)

_GUIDES = ("--", ":", "-.")
_LINE, _RANGE = "#777777", "#dddddd"
_WHOLE = 101.0  # per cent, with room for a dot
_LEAST = 0.05  # what an axis spans at least, of what it shows: less is no difference to look at


@dataclass(frozen=True)
class Dots:
    """A panel: one quantity of some things, with every seed.

    Attributes:
        label: of the quantity.
        rows: values by series, by what they are of.
        title: over the panel.
        guides: values, or ranges (low, high), that are to be seen beside them, by what they are.
        logarithmic: whether the axis is.
    """

    label: str
    rows: Mapping[str, Mapping[str, Sequence[float]]]
    title: str = ""
    guides: Mapping[str, float | tuple[float, float]] = field(default_factory=dict)
    logarithmic: bool = False


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
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(panel.label)
    if panel.title:
        axes.set_title(panel.title, fontsize=TEXT)
    tidy(axes)
    axes.tick_params(axis="y", length=0, labelsize=SMALL)
