"""Pictures of how uncertain a surface or a line is."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from losspath.analysis.uncertainty import Uncertainty
from losspath.arguments import TITLE, checked, number, optional
from losspath.errors import ArgumentError
from losspath.figures.captions import tell_variance
from losspath.figures.paths import draw_path
from losspath.figures.scale import HeightScale
from losspath.figures.style import (
    COLUMN,
    PAGE,
    SMALL,
    TEXT,
    add_footer,
    add_title,
    check_type,
    describe_origin,
    new_figure,
    set_scale,
    tidy,
)
from losspath.figures.surfaces import add_bar, axis_label, plot_surface, surface_legend, tidy_bar
from losspath.geometry.walk import RandomWalk
from losspath.surface import LOSS, Surface

Floats = npt.NDArray[np.float64]

# A map of factors goes up to the first at most; what is wider has the colour beyond the scale.
_MOST, _LEVELS, _TICKS = 10.0, 24, 5
_HATCH, _NOTHING = "///", "#f2f2f2"
_BAND = "#0072B2"  # as of all figures' lines, M. Okabe and K. Ito

_MEANS = {
    "samples": "hold the loss over all data that the samples are drawn from",
    "off-plane": "hold the loss of a vector of training at the same place",
    "dropout": "hold the loss of a draw of dropout's masks",
    "swag": "hold the loss of a draw around the point, of the path's last states (SWAG)",
    "laplace": "hold the loss of a draw around the point, of Laplace's approximation",
}


@checked(wide=optional(number(above=0)), title=TITLE)
def plot_uncertainty(
    uncertainty: Uncertainty,
    surface: Surface | None = None,
    *,
    wide: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draws how uncertain the heights of a surface are as a map, or those of a line as a band.

    The map shows half of each interval: ×1.3 says that it goes from loss/1.3 to loss·1.3 about its
    middle; where losses are negative it is ± so much. What is wider than `wide` is hatched, on the
    surface as well.

    Args:
        uncertainty: of `surface_uncertainty` or `line_uncertainty`.
        surface: the surface that it is of, to be drawn beside the map; none of a line.
        wide: hatch where the half width is above this; by default a factor of 1.5, and nothing
            where widths are no factors.
        title: over the figure.

    Returns:
        A figure as wide as a page with a surface beside the map, else as a column.

    Raises:
        ArgumentError: a surface on another grid, or one with a line.
    """
    check_type(uncertainty, Uncertainty, "an Uncertainty")
    wide = wide if wide is not None else (1.5 if uncertainty.is_relative else None)
    if uncertainty.is_line:
        if surface is not None:
            raise ArgumentError(
                "expected no surface beside the uncertainty of a line; leave it out"
            )
        return _plot_line(uncertainty, title)
    if surface is not None:
        check_type(surface, Surface, "surface as a Surface")
        same = (np.array_equal(getattr(surface, n), getattr(uncertainty, n)) for n in "xy")
        if not all(same):
            raise ArgumentError(
                "expected a surface on the same grid as the uncertainty, got another one; compute "
                "both with the same plane and resolution, or grid"
            )
    x, y = uncertainty.x, uncertainty.y
    if min(len(x), len(y)) < 2:
        raise ArgumentError(
            f"expected at least two lines along each axis to draw, got {len(x)} and {len(y)}"
        )
    panels = 1 if surface is None else 2
    figure = new_figure(COLUMN if panels == 1 else PAGE, 3.0, compressed=True)
    *left, right = figure.subplots(1, panels, squeeze=False, sharex=True, sharey=True)[0]
    if surface is not None:
        scale = HeightScale.of([surface])
        plot_surface(surface, axes=left[0], scale=scale, title="loss")
        add_bar(figure, left, scale, str(surface.provenance.get("loss", "")), location="bottom")
        _hatch(left[0], uncertainty, wide)
    _draw_map(figure, right, uncertainty, wide)
    if surface is not None:
        right.set_box_aspect(None)
        right.set_aspect(left[0].get_aspect(), adjustable="box")
        right.set_title(f"uncertainty, by {uncertainty.source}", fontsize=TEXT)
        right.set_xlabel(left[0].get_xlabel())
    add_title(figure, title or uncertainty.provenance.get("description"))
    handles: list[Any] = [*surface_legend([] if surface is None else [surface], LOSS, fade=True)]
    if wide is not None and (uncertainty.widths > wide).any():
        label = f"interval wider than {_shown(wide, uncertainty.is_relative)}"
        handles.append(Patch(facecolor="white", edgecolor="#555555", hatch=_HATCH, label=label))
    if not np.isfinite(uncertainty.widths).all():
        handles.append(Patch(facecolor=_NOTHING, edgecolor="#999999", label="not known"))
    add_footer(figure, _caption(uncertainty), handles, columns=2 if panels == 1 else 5)
    return figure


def _draw_map(figure: Figure, axes: Axes, uncertainty: Uncertainty, wide: float | None) -> None:
    widths, relative = uncertainty.widths, uncertainty.is_relative
    known = widths[np.isfinite(widths)]
    low = 1.0 if relative else 0.0
    high = float(known.max()) if len(known) else low + 1
    high = min(max(high, low + 1e-6), _MOST) if relative else max(high, 1e-300)
    norm = LogNorm(low, high) if relative else Normalize(low, high)
    colors = mpl.colormaps["cividis"].with_extremes(over="#fff6c8")
    axes.set_facecolor(_NOTHING)
    is_over = relative and bool((widths > high).any())
    shown = np.ma.masked_invalid(np.where(np.isposinf(widths), 10 * high, widths))
    levels = (
        np.geomspace(low, high, _LEVELS + 1) if relative else np.linspace(low, high, _LEVELS + 1)
    )
    extend = "max" if is_over else "neither"
    axes.contourf(
        *(uncertainty.x, uncertainty.y, shown),
        levels=levels,
        norm=norm,
        cmap=colors,
        extend=extend,
    )
    _hatch(axes, uncertainty, wide)
    clip = draw_path(axes, uncertainty.x, uncertainty.y, uncertainty.path, _starts(uncertainty))
    ends: dict[str, Any] = {"color": "white", "mec": "black", "zorder": 5, "clip_on": clip}
    for run in np.split(uncertainty.path, _starts(uncertainty)[1:]):
        axes.plot(*run[0], "s", ms=5, **ends)
        axes.plot(*run[-1], "*", ms=9, **ends)
    axes.set_xlim(uncertainty.x[0], uncertainty.x[-1])
    axes.set_ylim(uncertainty.y[0], uncertainty.y[-1])
    told = uncertainty.provenance
    names = told.get("axes", ("PC 1", "PC 2"))
    if "explained_variance_ratio" in told:  # files of before have none
        ratios = told["explained_variance_ratio"]
        names = [axis_label(name, share) for name, share in zip(names, ratios, strict=True)]
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    tidy(axes)
    axes.label_outer()
    bar = figure.colorbar(
        ScalarMappable(norm, colors),
        ax=[axes],
        location="bottom",
        extend=extend,
        aspect=60,
        pad=0.02,
    )
    unit = "factor, each way" if relative else "± loss"
    tidy_bar(bar, f"half of the {uncertainty.level:.0%} interval ({unit})", SMALL, False)
    ticks = np.geomspace(low, high, _TICKS) if relative else np.linspace(low, high, _TICKS)
    bar.set_ticks(ticks.tolist())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda width, _: _shown(width, relative, high)))
    bar.ax.xaxis.set_minor_locator(NullLocator())


def _starts(uncertainty: Uncertainty) -> list[int]:
    return list(uncertainty.provenance.get("starts", [0]))


def _hatch(axes: Axes, uncertainty: Uncertainty, wide: float | None) -> None:
    """Hatches where intervals are wider than this."""
    widths = uncertainty.widths
    if wide is None or not (widths > wide).any():
        return
    most = 2 * max(wide, float(widths[np.isfinite(widths)].max(initial=wide)))
    top = np.ma.masked_invalid(np.where(np.isposinf(widths), most, widths))
    hatched = axes.contourf(
        *(uncertainty.x, uncertainty.y, top),
        levels=[wide, most],
        colors="none",
        hatches=[_HATCH],
        zorder=1.5,  # below lines of equal height
    )
    hatched.set_edgecolor("#555555")
    hatched.set_linewidth(0.0)


def _plot_line(uncertainty: Uncertainty, title: str | None) -> Figure:
    figure = new_figure(COLUMN, 2.4)
    axes = figure.add_subplot()
    for end in (0.0, 1.0):
        axes.axvline(end, color="#bbbbbb", lw=0.6, zorder=0)
    band: dict[str, Any] = {"color": _BAND, "alpha": 0.25, "lw": 0}
    axes.fill_between(
        uncertainty.x,
        uncertainty.lower,
        uncertainty.upper,
        label=f"{uncertainty.level:.0%} intervals",
        **band,
    )
    axes.plot(uncertainty.x, uncertainty.loss, color="black", lw=1.4, marker=".", label="loss")
    loss = str(uncertainty.provenance.get("loss", ""))
    axes.set_ylabel(f"loss ({loss})" if loss else "loss")
    first, last = (uncertainty.provenance.get(end, "") for end in ("from", "to"))
    axes.set_xlabel(f"α (0: state {first}, 1: state {last})")
    set_scale(axes, [uncertainty.loss, uncertainty.lower, uncertainty.upper])
    tidy(axes)
    add_title(figure, title)
    add_footer(figure, _caption(uncertainty), axes.get_legend_handles_labels()[0])
    return figure


def _caption(uncertainty: Uncertainty) -> str:
    """What the intervals are for, and how they came about."""
    told = uncertainty.provenance
    text = f"{uncertainty.level:.0%} of the intervals {_MEANS[uncertainty.source]}"
    if "parts" in told:
        kind = "samples" if told["parts"] == told.get("samples") else "parts of the data"
        text += f"; by {told['parts']:,} {kind}"
    if "draws" in told:
        text += f"; {told['draws']} draws, the same at all points"
        if np.isfinite(offset := uncertainty.offset):
            middle = f"×{offset:.2f} of" if uncertainty.is_relative else f"{offset:+.2g} from"
            text += f", whose middle is {middle} the loss"
    if "held_out" in told:
        text += f"; widened by the losses of {told['held_out']} held-out states"
    if (samples := told.get("samples")) and "parts" not in told:
        text += f"; {samples:,} samples"
    text += "."
    if "random_walk" in told and "explained_variance_ratio" in told:
        walk = RandomWalk.from_json(told["random_walk"])
        text += tell_variance(walk, told["explained_variance_ratio"], len(_starts(uncertainty)) > 1)
    return text + describe_origin(told)


def _shown(width: float, relative: bool, most: float = _MOST) -> str:
    """A width with its unit; with as many digits as tell widths up to the largest apart."""
    if not relative:
        return f"±{width:.2g}"
    return f"×{width:.3f}" if most < 1.1 else f"×{width:.2f}"
