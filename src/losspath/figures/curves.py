"""Pictures of interpolations and step sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from losspath.analysis.interpolation import WHOLE_MODEL, Interpolation
from losspath.analysis.runs import Series, binned_series
from losspath.analysis.steps import StepSizes
from losspath.arguments import TITLE, WHOLE, checked, mapping, optional, texts
from losspath.errors import ArgumentError
from losspath.figures.style import (
    COLUMN,
    PAGE,
    SMALL,
    add_footer,
    add_title,
    check_type,
    describe_origin,
    describe_origins,
    line_style,
    new_figure,
    tidy,
)
from losspath.surface import ACCURACY, LOSS, value_named

Floats = npt.NDArray[np.float64]

# More layers than this are coloured by depth, as no legend of theirs could be read.
_LEGEND_LAYERS = 12
# A range of losses wider than this is drawn on a logarithmic axis.
_LOGARITHMIC = 100.0


@checked(quantities=optional(texts), title=TITLE)
def plot_interpolation(
    interpolation: Interpolation,
    *,
    quantities: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws loss and accuracy, or other quantities, along the line between two states.

    The whole model is the thick black curve; each layer's curve moves that layer alone, with all
    the others where they are at α = 1.

    Args:
        interpolation: the curves.
        quantities: a panel each, of ``interpolation.values``; by default loss, and accuracy if
            there is one.
        title: over the figure.

    Returns:
        A figure as wide as a column.

    Raises:
        ArgumentError: no such quantity, or none at all.
    """
    check_type(interpolation, Interpolation, "an Interpolation")
    values = interpolation.values
    if quantities is None:
        quantities = [name for name in (LOSS, ACCURACY) if name in values]
    if not quantities:
        raise ArgumentError("expected at least one of quantities to draw, got an empty list")
    shown = {name: value_named(values, name, "quantities") for name in quantities}
    panels = len(shown)
    layers = [name for name in interpolation.names if name != WHOLE_MODEL]
    figure = new_figure(COLUMN, 0.5 + 1.65 * panels)
    all_axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    loss = str(interpolation.provenance.get("loss", ""))
    for axes, (name, curves) in zip(all_axes, shown.items(), strict=True):
        _draw_curves(axes, interpolation, curves)
        axes.set_ylabel(f"loss ({loss})" if loss and name == LOSS else name)
        finite = curves[np.isfinite(curves)]
        is_wide = len(finite) and 0 < _LOGARITHMIC * finite.min() < finite.max()
        if name == LOSS and is_wide:
            axes.set_yscale("log")
        if name == ACCURACY:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    first, last = (_state_name(interpolation, end) for end in ("from", "to"))
    all_axes[-1].set_xlabel(f"α (0: {first}, 1: {last})")
    for axes in all_axes:
        tidy(axes)
    samples = interpolation.provenance.get("samples")
    add_title(figure, title)
    shares = interpolation.shares if LOSS in shown else dict.fromkeys(layers, np.nan)
    caption = "A layer's curve moves that layer alone; the others stay where they are at α = 1."
    if layers and not _is_by_depth(len(layers)) and np.isfinite(list(shares.values())).all():
        caption += (
            " In brackets: how much of the whole drop in loss is lost if that layer alone goes "
            "back to α = 0."
        )
    if samples:
        caption += f" {samples:,} samples."
    caption += describe_origin(interpolation.provenance)
    add_footer(figure, caption, _layer_legend(figure, list(all_axes), layers, shares), columns=3)
    return figure


def _state_name(interpolation: Interpolation, end: str) -> str:
    step = interpolation.provenance.get(f"{end}_step")
    if step is not None:
        return f"step {step:,}"
    return f"state {interpolation.provenance.get(end, '')}".strip()


def _is_by_depth(layers: int) -> bool:
    return layers > _LEGEND_LAYERS


def _draw_curves(axes: Axes, interpolation: Interpolation, values: Floats) -> None:
    for end in (0.0, 1.0):
        axes.axvline(end, color="#bbbbbb", lw=0.6, zorder=0)
    layers = sum(name != WHOLE_MODEL for name in interpolation.names)
    number = 0
    style: dict[str, Any]
    for name, curve in zip(interpolation.names, values, strict=True):
        if name == WHOLE_MODEL:
            style = {"color": "black", "lw": 2.0, "zorder": 3}
        elif _is_by_depth(layers):
            color = mpl.colormaps["viridis"](number / (layers - 1))
            style = {"color": color, "lw": 0.8}
        else:
            style = {**line_style(number), "lw": 1.2}
        number += name != WHOLE_MODEL
        axes.plot(interpolation.alpha, curve, marker="." if name == WHOLE_MODEL else "", **style)


def _layer_legend(
    figure: Figure, axes: list[Axes], layers: list[str], shares: Mapping[str, float]
) -> list[Line2D]:
    """Entries of the legend; many layers get a colour bar instead, which this adds."""
    entries = [Line2D([], [], color="black", lw=2.0, marker=".", label=WHOLE_MODEL)]
    if _is_by_depth(len(layers)):
        mappable = ScalarMappable(Normalize(1, len(layers)), "viridis")
        bar = figure.colorbar(mappable, ax=axes, aspect=40, pad=0.02)
        bar.set_label("layer, from the first to the last", fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)
        bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        return entries
    for number, name in enumerate(layers):
        style: dict[str, Any] = line_style(number)
        share = f" ({shares[name]:.0%})" if np.isfinite(shares[name]) else ""
        entries.append(Line2D([], [], lw=1.2, label=f"{name}{share}", **style))
    return entries


@checked(bins=WHOLE, title=TITLE, values=optional(mapping))
def plot_step_sizes(
    runs: StepSizes | Mapping[str, StepSizes],
    *,
    bins: int = 100,
    title: str | None = None,
    values: Mapping[str, Mapping[str, Series]] | None = None,
) -> Figure:
    """Draws the size of the steps over training, and the training loss on a second axis.

    Args:
        runs: one run, or several by the names that the legend gives them.
        bins: means over so many equal parts of each run; 100 in the thesis.
        title: over the figure.
        values: what else to draw, below: by its name, and by the names of runs, steps and values,
            as ``{"lr": {"": path.values["lr"]}}`` for one run.

    Returns:
        A figure, as wide as a column for one run and as a page for several.

    Raises:
        ArgumentError: no run, or fewer than one bin.
    """
    if not isinstance(runs, Mapping):
        check_type(runs, StepSizes, "StepSizes, or a mapping from names to them,")
    named = {"": runs} if isinstance(runs, StepSizes) else dict(runs)
    for run in named.values():
        check_type(run, StepSizes, "a mapping from names to StepSizes")
    if not named:
        raise ArgumentError("expected at least one run to draw the step sizes of")
    single, below = len(named) == 1, dict(values or {})
    height = (2.4 if single else 2.8) + _BELOW * len(below)
    figure = new_figure(COLUMN if single else PAGE, height)
    ratios = [height - _BELOW * len(below), *[_BELOW] * len(below)]
    rows = figure.subplots(1 + len(below), squeeze=False, sharex=True, height_ratios=ratios)[:, 0]
    axes = rows[0]
    losses = axes.twinx()
    axes.set_zorder(losses.get_zorder() + 1)  # the sizes are what the figure is about
    axes.patch.set_visible(False)
    for number, sizes in enumerate(named.values()):
        middles, means, mean_losses = sizes.binned(bins)
        marker = "." if len(middles) == 1 else ""
        color = line_style(number)["color"]
        dashes = line_style(number)["linestyle"]
        axes.plot(middles, means, color=color, ls=dashes, lw=1.4, marker=marker)
        other = {"color": "#888888"} if single else {"color": color, "alpha": 0.55}
        losses.plot(middles, mean_losses, lw=0.8, ls=(0, (1, 1)), marker=marker, **other)
    for row, (name, series) in zip(rows[1:], below.items(), strict=True):
        _draw_values(row, name, series, list(named), bins)
    rows[-1].set_xlabel("optimiser step")
    axes.set_ylabel(_size_label(list(named.values())))
    axes.set_ylim(bottom=0.0)
    has_losses = any(np.isfinite(sizes.losses).any() for sizes in named.values())
    if has_losses:
        losses.set_ylabel("training loss (batch)")
        if losses.dataLim.ymin >= 0:
            losses.set_ylim(bottom=0.0)
        tidy(losses)
    else:
        losses.remove()
    tidy(axes)
    add_title(figure, title)
    shown = min([bins, *(len(sizes.sizes) for sizes in named.values())])
    caption = f"Means over {shown} equal parts of {'the' if single else 'each'} run."
    pairs = sum(sizes.provenance.get("between_pairs", 0) for sizes in named.values())
    if pairs:
        caption += (
            " Sizes are those of pairs of states in a row; the way between pairs is left out."
        )
    if lost := sum(len(sizes.holes) for sizes in named.values()) - pairs:
        caption += f" Left out: {lost} steps in which states were lost."
    caption += describe_origins([sizes.provenance for sizes in named.values()])
    add_footer(figure, caption, _run_legend(named, has_losses))
    return figure


_BELOW = 1.0  # inches of a named value


def _draw_values(
    axes: Axes, name: str, series: Mapping[str, Series], runs: Sequence[str], bins: int
) -> None:
    """A named value of each run, in the run's colour."""
    for number, run in enumerate(runs):
        if run not in series:
            continue
        middles, means = binned_series(series[run], bins)
        style: dict[str, Any] = line_style(number)
        axes.plot(middles, means, lw=1.2, marker="." if len(middles) == 1 else "", **style)
    axes.set_ylabel(name)
    tidy(axes)


def _size_label(runs: list[StepSizes]) -> str:
    strides: set[int] = set()
    for sizes in runs:
        known = np.delete(np.diff(sizes.steps), list(sizes.holes))
        strides |= set(known[:-1].tolist())
    if strides <= {1}:
        return r"size of a step, $\|\theta_{t+1}-\theta_t\|$"
    several = f"{max(strides)} steps" if len(strides) == 1 else "several steps"
    return rf"distance over {several}, $\|\theta_{{t+k}}-\theta_t\|$"


def _run_legend(named: Mapping[str, StepSizes], has_losses: bool) -> list[Line2D]:
    single = len(named) == 1
    size, loss = (line_style(0)["color"], "#888888") if single else ("#333333", "#333333")
    entries = [Line2D([], [], color=size, lw=1.4, label="step size")]
    if has_losses:
        label = "training loss, right axis"
        entries.append(Line2D([], [], color=loss, lw=0.8, ls=(0, (1, 1)), label=label))
    if not single:
        for number, name in enumerate(named):
            style: dict[str, Any] = line_style(number)
            entries.append(Line2D([], [], lw=1.4, label=name, **style))
    return entries
