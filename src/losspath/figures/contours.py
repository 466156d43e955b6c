"""Filled contours of a surface's height, and a few lines on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.tri import Triangulation
from scipy.spatial.distance import cdist

from losspath.figures.scale import HeightScale
from losspath.surface import Surface

Floats = npt.NDArray[np.float64]

EVALUATED = "#555555"  # colour of the points of a surface that is not complete
# From this doubt on a point is faded, by so much white in its colour.
_DOUBTFUL, _WHITE = 1.0, 0.55

# As shares of the picture's sides: a line that is shorter has no height written on it, and so has
# one that is nowhere farther from the path; a place with so much room around it is as good as any.
_SHORT, _NEAR, _FREE = 0.2, 0.05, 0.15
_MOST_STATES = 500  # of a path that are looked at


def draw_contours(axes: Axes, surface: Surface, scale: HeightScale, labels: bool = False) -> None:
    """Draws the loss, or whatever the scale is of.

    On the grid where all of it was evaluated or filled, otherwise on triangles between the points
    that were evaluated.

    Args:
        axes: where to draw.
        surface: the surface.
        scale: from height to colour.
        labels: whether every other contour line carries its height, where it is off the path.
    """
    heights = surface.values[scale.height]
    finite = np.isfinite(heights) & (surface.evaluated | surface.is_whole)
    if not surface.evaluated.all():
        rows, columns = np.nonzero(surface.evaluated)
        size = 0.7 if surface.is_filled else 1.5
        axes.plot(surface.x[columns], surface.y[rows], ".", color=EVALUATED, ms=size, zorder=3)
    if surface.is_whole:
        fill, draw = axes.contourf, axes.contour
        places: tuple[Any, ...] = (surface.x, surface.y, np.ma.masked_array(heights, ~finite))
    else:
        triangles = _triangles(surface.x[columns], surface.y[rows], finite[rows, columns])
        if triangles is None:
            return
        fill, draw = axes.tricontourf, axes.tricontour  # type: ignore[assignment]
        places = (triangles, np.where(finite, heights, 0.0)[rows, columns])
    if not finite.any():
        return
    fill(
        *places,
        levels=scale.levels,
        norm=scale.norm,
        cmap=scale.cmap,
        extend="max" if scale.clipped else "neither",
    )
    heights = heights[finite]
    levels = _round_levels(scale)
    levels = levels[(levels > heights.min()) & (levels < min(scale.high, heights.max()))]
    if len(levels) == 0:
        return
    lines = draw(*places, levels=levels, colors="white", linewidths=0.5, alpha=0.7)
    if labels and (manual := _label_places(lines, levels[::2], surface)):
        form: Any = (lambda share: f"{share:.0%}") if scale.is_share else "%.3g"
        # Of all levels: older versions of matplotlib number the one that is near by these.
        shown = axes.clabel(lines, fontsize=6, fmt=form, inline_spacing=2, manual=manual)
        for text in shown:
            text.set_clip_on(True)


def draw_doubt(axes: Axes, surface: Surface) -> None:
    """Fades what is doubtful towards white: see `Surface.doubt`."""
    doubt = np.minimum(surface.doubt, 2 * _DOUBTFUL)  # which may be infinite
    if doubt.max() > _DOUBTFUL:
        # Over the contours and their lines, and below the path.
        faded: dict[str, Any] = {"colors": ["white"], "alpha": _WHITE, "zorder": 2.5}
        axes.contourf(surface.x, surface.y, doubt, levels=[_DOUBTFUL, 3 * _DOUBTFUL], **faded)


def is_doubtful(surface: Surface) -> bool:
    """Whether anything of a surface is faded."""
    return bool(surface.doubt.max() > _DOUBTFUL)


def _label_places(lines: ContourSet, levels: Floats, surface: Surface) -> list[tuple[float, float]]:
    """Where on its line each height is written: off the path, the border and other heights.

    A line that has no such place, as a short one around the path's end, has no height: the path
    and its dots are drawn over it.
    """
    corner = np.array([surface.x[0], surface.y[0]])
    extent = np.array([np.ptp(surface.x), np.ptp(surface.y)])
    stride = max(1, len(surface.path) // _MOST_STATES)
    taken = (np.concatenate([surface.path[::stride], surface.path[-1:]]) - corner) / extent
    places = []
    for level in levels:
        segments = lines.allsegs[int(np.argmin(np.abs(lines.levels - level)))]
        points = [(_denser(each) - corner) / extent for each in segments]
        points = [each for each in points if len(each) and np.ptp(each, axis=0).max() > _SHORT]
        if not points:
            continue
        there = np.concatenate(points)
        free = cdist(there, taken).min(axis=1)
        free = np.minimum(free, np.minimum(there, 1 - there).min(axis=1))  # from the border
        best = int(np.argmax(np.minimum(free, _FREE)))
        if free[best] > _NEAR:
            taken = np.concatenate([taken, there[best : best + 1]])
            x, y = corner + extent * there[best]
            places.append((float(x), float(y)))
    return places


def _denser(line: Floats) -> Floats:
    """The line's points, and those in the middle between them."""
    return np.concatenate([line, (line[1:] + line[:-1]) / 2])


def _triangles(x: Floats, y: Floats, finite: npt.NDArray[np.bool_]) -> Triangulation | None:
    """Triangles between points, those left out that have a corner without a finite loss."""
    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2 or len(x) < 3:
        return None
    # In units of the extent, so that triangles do not depend on the axes' scales.
    try:
        unit = Triangulation((x - x.min()) / np.ptp(x), (y - y.min()) / np.ptp(y))
    except (RuntimeError, ValueError):  # on a line
        return None
    broken = ~finite[unit.triangles].all(axis=1)
    return None if broken.all() else Triangulation(x, y, unit.triangles, mask=broken)


def _round_levels(scale: HeightScale) -> Floats:
    if scale.logarithmic:
        locator = LogLocator(subs=(1.0, 2.0, 5.0))
        levels = np.asarray(locator.tick_values(scale.low, scale.high), float)
    else:
        levels = np.asarray(MaxNLocator(7).tick_values(scale.low, scale.high), float)
    return levels
