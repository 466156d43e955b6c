"""The path on a picture of its plane: of one run, or of several that are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from losspath.figures.scale import HeightScale
from losspath.surface import Surface

Floats = npt.NDArray[np.float64]

# Of several runs. Seen on contours of every colour, with a rim of black or, where black, of white;
# told apart by the colour-blind (M. Okabe and K. Ito, 2008).
_COLORS = ("white", "#D55E00", "#56B4E9", "#CC79A7", "black", "#E69F00")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))


def draw_path(axes: Axes, x: Floats, y: Floats, path: Floats, starts: Sequence[int]) -> bool:
    """Draws the path; returns whether it leaves the grid, so that it has to be clipped.

    Args:
        axes: where.
        x: coordinates of the grid's columns.
        y: coordinates of its rows.
        path: (T, 2) coordinates of the states.
        starts: the first state of each run.
    """
    low, high = path.min(axis=0), path.max(axis=0)
    inside = x[0] <= low[0] and high[0] <= x[-1] and y[0] <= low[1] and high[1] <= y[-1]
    # A path that touches the border of its grid is drawn over it, or half of its ends would be
    # missing.
    for number, run in enumerate(np.split(path, starts[1:])):
        (line,) = axes.plot(run[:, 0], run[:, 1], zorder=4, **_line(number, len(starts)))
        line.set_clip_on(not inside)
    return not inside


def _line(number: int, count: int) -> dict[str, Any]:
    color = _COLORS[number % len(_COLORS)]
    return {
        "color": color,
        "ls": _DASHES[number // len(_COLORS) % len(_DASHES)],
        "lw": 0.8 if count == 1 else 1.0,
        "path_effects": [effects.withStroke(linewidth=1.8, foreground=_rim(color))],
    }


def _rim(color: str) -> str:
    return "white" if color == "black" else "black"


def draw_states(axes: Axes, surface: Surface, scale: HeightScale, clip: bool) -> None:
    """Draws states in the colour of their own value, each run's start and end with other markers.

    Args:
        axes: where.
        surface: the surface.
        scale: from height to colour.
        clip: whether to cut off what is outside the axes.
    """
    index = surface.states.index
    own = surface.states.values.get(scale.height, np.full(len(index), np.nan))
    own = np.where(np.isfinite(own), own, np.nan)
    style: dict[str, Any] = {
        "norm": scale.norm,
        "cmap": scale.cmap,
        "zorder": 5,
        "clip_on": clip,
        "plotnonfinite": True,
    }
    for number, run in enumerate(surface.runs.values()):
        of_run = (run.start <= index) & (index < run.stop)
        if not of_run.any():
            continue
        (x, y), shown = surface.path[index[of_run]].T, own[of_run]
        dots: dict[str, Any] = {**style, "edgecolors": "black", "linewidths": 0.6}
        axes.scatter(x[1:-1], y[1:-1], c=shown[1:-1], s=12, **dots)
        # A rim, so that the ends are found on contours of any colour.
        edge, rim = "black", "white"
        if len(surface.runs) > 1:
            edge = _COLORS[number % len(_COLORS)]
            rim = _rim(edge)
        effect = [effects.withStroke(linewidth=2.2, foreground=rim)]
        ends: dict[str, Any] = {**style, "edgecolors": edge, "path_effects": effect}
        axes.scatter(x[:1], y[:1], c=shown[:1], s=34, marker="s", linewidths=0.9, **ends)
        axes.scatter(x[-1:], y[-1:], c=shown[-1:], s=80, marker="*", linewidths=0.8, **ends)


def path_legend(names: Sequence[str]) -> list[Line2D]:
    """Entries of a legend: the path, or each run's with its name, then start and end."""
    black: dict[str, Any] = {"color": "white", "mec": "black", "lw": 0}
    lines = [Line2D([], [], color="black", lw=1.5, label="path")]
    if len(names) > 1:
        lines = [
            Line2D([], [], label=name, **_line(number, len(names)))
            for number, name in enumerate(names)
        ]
    return [
        *lines,
        Line2D([], [], marker="s", ms=5, label="start", **black),
        Line2D([], [], marker="*", ms=9, label="end", **black),
    ]
