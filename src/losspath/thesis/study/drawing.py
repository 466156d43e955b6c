"""Figures that only the study has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losspath.figures.runs import draw_band
from losspath.figures.style import (
    COLORS,
    COLUMN,
    PAGE,
    TEXT,
    add_footer,
    line_style,
    new_figure,
    tidy,
)
from losspath.thesis.study.numbers import Area

Floats = npt.NDArray[np.float64]

_MOST_TICKS = 8  # that have room under a panel

STYLES: dict[str, dict[str, Any]] = {
    "SGD": {"color": COLORS[0], "linestyle": "-"},
    "SGD, dropout": {"color": COLORS[0], "linestyle": "--"},
    "Adam": {"color": COLORS[1], "linestyle": "-"},
    "Adam, dropout": {"color": COLORS[1], "linestyle": "--"},
    "LeNet-5": {"color": COLORS[2], "linestyle": "-"},
    "Modified-LeNet": {"color": COLORS[3], "linestyle": "-"},
}
"""One colour each for optimisers and networks, in every figure; dashes are dropout."""

# The last is dashed, for it is often where another one is.
_METHODS: dict[str, dict[str, Any]] = {
    name: {"color": color, "lw": 1.1, "ls": (0, (4, 3)) if name == "averaged-nd" else "-"}
    for name, color in zip(
        ("pca", "sampled", "sampled-pca", "averaged", "averaged-nd"), COLORS, strict=False
    )
}


def draw_check(
    panels: Sequence[tuple[str, Floats, Floats, Mapping[str, Floats]]],
    caption: str,
    columns: int = 2,
) -> Figure:
    """Surfaces read along the straight line between the ends, and the exact losses of that line.

    Args:
        panels: title, positions, exact losses, and by method what the surface says.
        caption: what to see.
        columns: panels in a row; those of a row have one scale.
    """
    rows = -(-len(panels) // columns)
    figure = new_figure(PAGE, rows * (2.6 if columns <= 2 else 1.8))
    grid = figure.subplots(rows, columns, sharey="row", sharex=True, squeeze=False)
    for axes, (title, alpha, exact, read) in zip(grid.flat, panels, strict=False):
        for name, values in read.items():
            axes.plot(alpha, values, **_METHODS[name])
        axes.plot(alpha, exact, color="black", lw=1.6, ls="--")
        axes.set_title(title, fontsize=TEXT)
        tidy(axes)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in grid[-1]:
        axes.set_xlabel("α (0: first state, 1: last)" if columns <= 2 else "α")
    for axes in grid[:, 0]:
        axes.set_ylabel("loss")
    names = dict.fromkeys(name for *_, read in panels for name in read)
    entries = [Line2D([], [], color="black", lw=1.6, ls="--", label="exact")]
    entries += [Line2D([], [], label=n, **_METHODS[n]) for n in names]
    add_footer(figure, caption, entries, columns=6)
    return figure


def draw_lines(
    panels: Sequence[tuple[str, str, Mapping[str, tuple[Floats, Floats]]]],
    caption: str,
    joined: bool = True,
    logarithmic: bool = False,
) -> Figure:
    """One quantity over another on a logarithmic axis, panel by panel.

    Args:
        panels: label of the x axis, of the y axis, and curves by name: positions (k,), and values
            (k,), or (n, k) of n seeds, drawn as their mean and a band from the least to the
            greatest.
        caption: what to see.
        joined: by lines.
        logarithmic: whether the y axis is logarithmic too.
    """
    figure = new_figure(PAGE if len(panels) > 1 else COLUMN, 2.3)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for *_, curves in panels for name in curves))
    mark: dict[str, Any] = {"lw": 1.1 if joined else 0.0, "marker": "o", "ms": 3}
    for axes, (x_label, y_label, curves) in zip(grid, panels, strict=True):
        for name, (x, y) in curves.items():
            style: dict[str, Any] = line_style(names.index(name))
            draw_band(axes, x, np.atleast_2d(y), {**mark, **style})
        axes.set_xscale("log")
        ticks = sorted({float(value) for x, _ in curves.values() for value in x})
        if len(ticks) <= _MOST_TICKS:
            axes.set_xticks(ticks, [f"{value:,g}" for value in ticks])
            axes.minorticks_off()
        if logarithmic:
            axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        tidy(axes)
    styles: list[dict[str, Any]] = [{**line_style(i)} for i in range(len(names))]
    entries = [
        Line2D([], [], label=name, **mark, **style)
        for name, style in zip(names, styles, strict=True)
    ]
    add_footer(figure, caption, entries, columns=3)
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
            axes.errorbar(x, middle, ends, **_POINTS, capsize=2, **_style(number))
        axes.set_xscale("log")
        shares = [100 * share for share in next(iter(areas.values()))]
        axes.set_xticks(shares, [f"{share:g} %" for share in shares])
        axes.minorticks_off()
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(title, fontsize=TEXT)
        axes.set_xlabel("share of the steps that is seen")
        tidy(axes)
    grid[0].set_ylabel("chance to be right")
    names = next(iter(panels.values()))
    entries = [
        Line2D([], [], label=name, **_POINTS, **_style(number)) for number, name in enumerate(names)
    ]
    add_footer(figure, caption, entries, columns=4)
    return figure


_POINTS: dict[str, Any] = {"lw": 1.1, "marker": "o", "ms": 3}


def _style(number: int) -> dict[str, Any]:
    return {**line_style(number)}
