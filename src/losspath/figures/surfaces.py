"""Pictures of surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from losspath.analysis.distances import DistanceMap
from losspath.arguments import AXES, TITLE, checked, count, flag, of_type, optional, text, texts
from losspath.errors import ArgumentError
from losspath.figures.captions import describe_surface, describe_surfaces, describe_variance
from losspath.figures.contours import EVALUATED, draw_contours, draw_doubt, is_doubtful
from losspath.figures.paths import draw_path, draw_states, path_legend
from losspath.figures.scale import HeightScale
from losspath.figures.style import (
    COLUMN,
    PAGE,
    SMALL,
    TEXT,
    add_footer,
    add_title,
    check_group,
    check_type,
    fitted,
    new_figure,
    tidy,
)
from losspath.surface import LOSS, SPREAD, Surface

Floats = npt.NDArray[np.float64]

_SCALE = of_type("losspath.figures.scale:HeightScale", "make one by HeightScale.of(surfaces)")
_NOTHING = "#f2f2f2"  # where there is nothing to draw
_PALE = "#9bcdcb"  # the middle of the colours, faded
# A plane whose sides differ by more than this is not drawn to one scale: it would be a strip.
_STRIP = 2.5


@checked(axes=optional(AXES), title=TITLE, scale=optional(_SCALE), height=text, fade=flag)
def plot_surface(
    surface: Surface,
    *,
    height: str = LOSS,
    axes: Axes | None = None,
    title: str | None = None,
    scale: HeightScale | None = None,
    fade: bool = True,
) -> Figure:
    """Draws a loss surface, or the surface of another quantity, with the path on it.

    Filled contours show the loss, up to 1.5 times the initial loss; the dots on the path are
    states in the colour of *their own* loss, so that where a dot stands out the surface is wrong.
    Other heights have scales of their own: see `HeightScale.of`.
    Several runs have lines of their own colours; the legend has their names.
    What is doubtful is faded: where no state is near, or the vectors of a point disagree; see
    `Surface.doubt`. Points without a finite loss are crossed. A surface that is not complete is
    drawn on triangles between the points that were evaluated, which are dotted; one within a budget
    is whole, and dotted there too.

    Args:
        surface: the surface.
        height: "loss", "accuracy" or another of ``surface.values``.
        axes: axes to draw into, without colour bar, legend and caption; a new figure if None.
        title: over the figure; by default the surface's run, if it has one, and method.
        scale: from height to colour; by default the surface's own. Give the same to surfaces that
            are compared: `HeightScale.of` takes several.
        fade: whether to fade what is doubtful.

    Returns:
        The figure, `axes`'s own if given.

    Raises:
        ArgumentError: the surface has fewer than two lines along an axis, or no such height, or
            the scale is of another one.
    """
    check_type(surface, Surface, "a Surface")
    scale = scale or HeightScale.of([surface], height)
    if scale.height != height:
        raise ArgumentError(
            f"expected a scale of {height}, got one of {scale.height}; make it by "
            f"HeightScale.of(surfaces, {height!r}), or give height={scale.height!r}"
        )
    shown = title if title is not None else _title(surface)
    if axes is not None:
        _draw_surface(axes, surface, scale, fade)
        axes.set_title(shown, fontsize=TEXT)
        return _figure_of(axes)
    equal = _is_equal(surface.x, surface.y)
    _check_grid(surface.x, surface.y)
    figure = new_figure(COLUMN, 0.75 + 2.35 * _height(surface.x, surface.y), equal)
    axes = figure.add_subplot()
    _draw_surface(axes, surface, scale, fade, labels=True)
    add_bar(figure, [axes], scale, str(surface.provenance.get("loss", "")))
    add_title(figure, shown)
    caption = describe_surface(surface, height) + ("" if equal else " " + _UNEQUAL)
    add_footer(figure, caption, surface_legend([surface], height, fade))
    return figure


_UNEQUAL = "The axes have different scales."
_DISTANCE = "‖sampled − sampled-pca‖"


@checked(title=TITLE, titles=optional(texts), columns=count(1), height=text, fade=flag)
def plot_surfaces(
    surfaces: Sequence[Surface],
    *,
    height: str = LOSS,
    distance: DistanceMap | None = None,
    title: str | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 3,
    fade: bool = True,
) -> Figure:
    """Draws surfaces side by side, on one colour scale.

    Those of one plane share their axes; others have each its own, and its own width and height.

    Args:
        surfaces: at least one.
        height: "loss", "accuracy" or another quantity that all of them have.
        distance: also draw this map, on a scale of its own.
        title: over the figure.
        titles: over each surface; by default its method.
        columns: panels in a row.
        fade: whether to fade what is doubtful, as `plot_surface` does.

    Returns:
        A figure as wide as a page.

    Raises:
        ArgumentError: no surface, or one with fewer than two lines along an axis or no such height.
    """
    check_group(surfaces, Surface, "a Surface", "at least one surface")
    if distance is not None:
        check_type(distance, DistanceMap, "distance as a DistanceMap")
    if titles is not None and len(titles) != len(surfaces):
        raise ArgumentError(
            f"expected a title for each of {len(surfaces)} surfaces, got {len(titles)} titles"
        )
    scale = HeightScale.of(surfaces, height)
    count = len(surfaces) + (distance is not None)
    columns = min(count, columns)
    rows = -(-count // columns)
    x, y = surfaces[0].x, surfaces[0].y
    for surface in surfaces:
        _check_grid(surface.x, surface.y)
    same = all(np.array_equal(s.x, x) and np.array_equal(s.y, y) for s in surfaces)
    equal = same and _is_equal(x, y)
    inches = 0.3 + 5.85 / columns * (_height(x, y) if same else 0.85)
    figure = new_figure(PAGE, 1.1 + inches * rows, equal)
    grid = figure.subplots(rows, columns, sharex=same, sharey=same, squeeze=False)
    panels = grid.reshape(-1)
    names = titles or [surface.description for surface in surfaces]
    if columns > 3 and not titles:  # options have no room beside the method's name
        names = [name.replace(" (", "\n(", 1) for name in names]
    for axes, surface, name in zip(panels, surfaces, names, strict=False):
        _draw_surface(axes, surface, scale, fade)
        if not same:
            axes.set_aspect("auto")
        axes.set_title(name, fontsize=TEXT)
    used = list(panels[: len(surfaces)])
    loss = str(surfaces[0].provenance.get("loss", ""))
    add_bar(figure, used, scale, loss, location="bottom")
    if distance is not None:
        axes = panels[len(surfaces)]
        image = _draw_distance(axes, distance)
        axes.set_title(_DISTANCE, fontsize=TEXT)
        _add_distance_bar(figure, axes, image, location="right")
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        if same:
            axes.label_outer()
        # Small panels have no room for more; the caption says what the share is of.
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_label_text(axis.get_label_text().replace(" of variance", ""))
    add_title(figure, title)
    caption = describe_surfaces(surfaces, height, titles) + ("" if equal else " " + _UNEQUAL)
    if distance is not None:
        caption += f" {_DISTANCE}: how far the vectors of the two are apart at a point."
    add_footer(figure, caption, surface_legend(surfaces, height, fade), columns=6)
    return figure


@checked(axes=optional(AXES), title=TITLE)
def plot_distance_map(
    distance: DistanceMap, *, axes: Axes | None = None, title: str | None = None
) -> Figure:
    """Draws how far apart ``sampled`` and ``sampled-pca`` are (thesis Fig. 6.8).

    Args:
        distance: the map.
        axes: axes to draw into, without a colour bar; a new figure if None.
        title: over the figure.

    Returns:
        The figure.
    """
    check_type(distance, DistanceMap, "a DistanceMap, of distance_map(plane),")
    shown = title or "Distance of sampled-pca from sampled"
    if axes is not None:
        _draw_distance(axes, distance)
        axes.set_title(shown, fontsize=TEXT)
        return _figure_of(axes)
    _check_grid(distance.x, distance.y)
    height = 0.75 + 2.35 * _height(distance.x, distance.y)
    figure = new_figure(COLUMN, height, _is_equal(distance.x, distance.y))
    axes = figure.add_subplot()
    _add_distance_bar(figure, axes, _draw_distance(axes, distance), location="right")
    add_title(figure, shown)
    rows, columns = distance.distance.shape
    caption = f"{columns} × {rows} points.{describe_variance(distance)}"
    add_footer(figure, caption, surface_legend([], LOSS), columns=3)
    return figure


def _title(surface: Surface) -> str:
    run = surface.provenance.get("run")
    return f"{run}: {surface.description}" if run else surface.description


def _is_equal(x: Floats, y: Floats) -> bool:
    width, height = float(np.ptp(x)), float(np.ptp(y))
    return max(width, height) <= _STRIP * min(width, height)


def _height(x: Floats, y: Floats) -> float:
    """Height of a picture of the plane, for a width of 1."""
    return float(np.ptp(y) / np.ptp(x)) if _is_equal(x, y) else 1.0


def _draw_surface(
    axes: Axes, surface: Surface, scale: HeightScale, fade: bool, labels: bool = False
) -> None:
    _check_grid(surface.x, surface.y)
    axes.set_facecolor(_NOTHING)
    draw_contours(axes, surface, scale, labels)
    if fade:
        draw_doubt(axes, surface)
    bad = surface.evaluated & ~np.isfinite(surface.values[scale.height])
    if bad.any():
        row, column = np.nonzero(bad)
        axes.plot(surface.x[column], surface.y[row], "x", color="#555555", ms=3, mew=0.7)
    starts = list(surface.starts.values())
    clip = draw_path(axes, surface.x, surface.y, surface.path, starts)
    draw_states(axes, surface, scale, clip)
    _label_plane(axes, surface, surface.labels)


def _check_grid(x: Floats, y: Floats) -> None:
    if len(x) < 2 or len(y) < 2:
        raise ArgumentError(
            f"expected a surface with at least two lines along each axis to draw, got {len(x)} "
            f"along x and {len(y)} along y"
        )


def axis_label(label: str, share: float) -> str:
    """An axis of a plane with its share of the path's variance.

    Args:
        label: of the axis.
        share: the part of the variance; not finite of surfaces that another program computed.
    """
    return f"{label} ({share:.1%} of variance)" if np.isfinite(share) else label


def _label_plane(axes: Axes, shown: Surface | DistanceMap, labels: Sequence[str]) -> None:
    x, y, ratio = shown.x, shown.y, shown.explained_variance_ratio
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    for axis, label, share in zip((axes.xaxis, axes.yaxis), labels, ratio, strict=False):
        axis.set_label_text(axis_label(label, share))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if _is_equal(x, y):
        axes.set_aspect("equal", adjustable="box")
    tidy(axes)


def add_bar(
    figure: Figure, axes: list[Axes], scale: HeightScale, loss: str, location: str = "right"
) -> None:
    """Adds the colour bar of heights, `loss` being what the loss is called."""
    mappable = ScalarMappable(scale.norm, scale.cmap)
    bar = figure.colorbar(
        mappable,
        ax=axes,
        location=location,
        extend="max" if scale.clipped else "neither",
        aspect=30 if location == "right" else 60,
        pad=0.02,
    )
    parts = [scale.height, f"({loss})"] if loss and scale.height == LOSS else [scale.height]
    if scale.clipped:
        parts[-1] += ";"
        parts += [f"grey: over {scale.high:.3g},", scale.limit]
    if scale.is_share:
        bar.formatter = PercentFormatter(1.0)
    # A bar at the side may be short: its label is as long as the figure is high at most.
    inches = figure.get_figheight() if location == "right" else np.inf
    tidy_bar(bar, *fitted(parts, inches), scale.logarithmic)


def tidy_bar(bar: Colorbar, label: str, size: float, logarithmic: bool) -> None:
    """A bar's label, and the sizes of what is on it."""
    bar.set_label(label, fontsize=size)
    bar.ax.tick_params(labelsize=SMALL, width=0.6, length=2.5, which="major")
    bar.ax.tick_params(width=0.4, length=1.5, which="minor")
    bar.outline.set_linewidth(0.6)
    if logarithmic:
        bar.locator = LogLocator(subs=(1.0, 2.0, 5.0))
        bar.formatter = FuncFormatter(lambda loss, _: f"{loss:g}")
        bar.minorformatter = NullFormatter()
        bar.update_ticks()


def _draw_distance(axes: Axes, distance: DistanceMap) -> Any:
    _check_grid(distance.x, distance.y)
    image = axes.pcolormesh(
        distance.x, distance.y, distance.distance, cmap="magma", shading="nearest", vmin=0.0
    )
    clip = draw_path(axes, distance.x, distance.y, distance.path, distance.starts)
    ends: dict[str, Any] = {"color": "white", "mec": "black", "zorder": 5, "clip_on": clip}
    for run in np.split(distance.path, distance.starts[1:]):
        axes.plot(*run[0], "s", ms=5, **ends)
        axes.plot(*run[-1], "*", ms=9, **ends)
    _label_plane(axes, distance, distance.labels)
    return image


def _add_distance_bar(figure: Figure, axes: Axes, image: Any, location: str) -> None:
    bar = figure.colorbar(image, ax=axes, location=location, aspect=25, pad=0.02)
    tidy_bar(bar, "distance in parameter space", SMALL, logarithmic=False)


def surface_legend(
    surfaces: Sequence[Surface], height: str, fade: bool = False
) -> list[Line2D | Patch]:
    """What is on pictures of surfaces: the path, its ends, states, and what is missing."""
    names = max((list(surface.starts) for surface in surfaces), key=len, default=[""])
    entries: list[Line2D | Patch] = [*path_legend(names)]
    if surfaces:
        black: dict[str, Any] = {"color": "white", "mec": "black", "lw": 0}
        known = any(height in surface.states.values for surface in surfaces)
        # The path that is drawn may have fewer states than there were.
        counts = {
            (len(each.states.index), each.provenance.get("states", len(each.path)))
            for each in surfaces
        }
        some, whole = counts.pop()
        number = f"{some:,} of {whole:,} " if some and not counts else ""  # else they differ
        colour = f", in the colour of their own {height}" if known else ""
        dots = f"{number}states{colour}"
        entries.append(Line2D([], [], marker="o", ms=3.5, label=dots, **black))
    if fade and any(map(is_doubtful, surfaces)):
        several = any(SPREAD in surface.metrics for surface in surfaces)
        label = "pale: no state near" + (", or a point's losses disagree" if several else "")
        entries.append(Patch(facecolor=_PALE, edgecolor="#999999", label=label))
    if any((s.evaluated & ~np.isfinite(s.values[height])).any() for s in surfaces):
        label = f"{height} not finite"
        cross = Line2D([], [], marker="x", color="#555555", lw=0, ms=3, label=label)
        entries.append(cross)
    if not all(s.evaluated.all() for s in surfaces):
        dot = Line2D([], [], marker=".", color=EVALUATED, lw=0, ms=3, label="evaluated")
        entries.append(dot)
    if not all(s.is_whole or s.evaluated[np.ix_((0, -1), (0, -1))].all() for s in surfaces):
        entries.append(Patch(facecolor=_NOTHING, edgecolor="#999999", label="not evaluated"))
    return entries


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure
