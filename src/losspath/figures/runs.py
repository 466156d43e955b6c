"""Pictures that hold training runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from losspath.analysis.runs import History, RunCurves
from losspath.errors import ArgumentError
from losspath.figures.style import (
    COLUMN,
    PAGE,
    add_footer,
    add_title,
    line_style,
    new_figure,
    set_scale,
    tidy,
)

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]


def plot_runs(
    runs: Mapping[str, Sequence[RunCurves]],
    *,
    by: Literal["step", "epoch"] = "step",
    bins: int = 100,
    title: str | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """Draws step sizes, losses and accuracies of runs side by side.

    Args:
        runs: by the name that the legend gives them, runs that differ in their seeds alone: a line
            is their mean, and a band reaches from the least to the greatest.
        by: what runs are aligned by.
        bins: step sizes and batch losses are means over so many equal parts of a run.
        title: over the figure.
        styles: colour and dashes by name, as ``{"color": …, "linestyle": …}``.

    Returns:
        A figure as wide as a page.

    Raises:
        ArgumentError: no run; or by epoch, a run without a history.
    """
    if not runs or not all(runs.values()):
        raise ArgumentError("expected at least one run to draw")
    if by not in ("step", "epoch"):
        raise ArgumentError(f'expected by="step" or by="epoch", got {by!r}')
    everything = [run for group in runs.values() for run in group]
    if by == "epoch" and any(run.steps_per_epoch is None for run in everything):
        raise ArgumentError("a run without a history of epochs can only be aligned by step")

    def batches(which: int) -> Callable[[RunCurves], Curve | None]:
        def curve(run: RunCurves) -> Curve | None:
            found = run.sizes.binned(bins)
            return found[0] / _unit(run, by), found[which]

        return curve

    def epochs(name: str) -> Callable[[RunCurves], Curve | None]:
        def curve(run: RunCurves) -> Curve | None:
            if run.history is None:
                return None
            return run.history.step / _unit(run, by), getattr(run.history, name)

        return curve

    panels = {"step size": batches(1), "training loss (batches)": batches(2)}
    if any(run.history is not None for run in everything):
        panels |= {
            "validation loss": epochs("validation_loss"),
            "validation accuracy": epochs("validation_accuracy"),
        }
    named: dict[str, dict[str, Any]] = {
        name: {**line_style(number), **(styles or {}).get(name, {})}
        for number, name in enumerate(runs)
    }
    rows = len(panels) // 2
    figure = new_figure(PAGE, 0.3 + 1.9 * rows)
    grid = figure.subplots(rows, 2, sharex=True, squeeze=False)
    for axes, (label, curve_of) in zip(grid.flat, panels.items(), strict=True):
        drawn = [
            _draw_group(axes, [curve_of(run) for run in group], named[name])
            for name, group in runs.items()
        ]
        axes.set_ylabel(label)
        _set_scale(axes, label, drawn)
        tidy(axes)
    for axes in grid[-1]:
        axes.set_xlabel("optimiser step" if by == "step" else "epoch")
    add_title(figure, title)
    several = max(len(group) for group in runs.values()) > 1
    caption = f"Step sizes and batch losses: means over {bins} equal parts of each run."
    if several:
        caption += " Lines: means over seeds; bands: from the least to the greatest."
    add_footer(figure, caption, [_entry(n, named[n], len(g)) for n, g in runs.items()])
    return figure


def _unit(run: RunCurves, by: str) -> float:
    return (run.steps_per_epoch or 1.0) if by == "epoch" else 1.0


def _draw_group(
    axes: Axes, curves: Sequence[Curve | None], style: Mapping[str, Any]
) -> list[Floats]:
    """Draws runs of one kind; what was drawn."""
    there = [curve for curve in curves if curve is not None]
    if not there:
        return []
    x = there[0][0]
    if len(there) > 1 and all(np.array_equal(x, other) for other, _ in there):
        there = [(x, draw_band(axes, x, np.stack([y for _, y in there]), style))]
    else:
        for x, y in there:
            draw_band(axes, x, y[None], style)
    return [y for _, y in there]


def draw_band(axes: Axes, x: Floats, values: Floats, style: Mapping[str, Any]) -> Floats:
    """Draws the mean over runs (n, …) as a line, and a band from the least to the greatest.

    Args:
        axes: where to draw.
        x: (k,) positions.
        values: (n, k) of each run; one alone has no band.
        style: colour and dashes.

    Returns:
        (k,) the mean.
    """
    if len(values) > 1:
        axes.fill_between(
            x, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, lw=0
        )
    mean: Floats = values.mean(axis=0)
    axes.plot(x, mean, lw=1.2, marker="." if len(x) <= 1 else "", **style)
    return mean


def _set_scale(axes: Axes, label: str, drawn: Sequence[Sequence[Floats]]) -> None:
    if label.endswith("accuracy"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        return
    set_scale(axes, [y for group in drawn for y in group], from_zero=label == "step size")


def _entry(name: str, style: Mapping[str, Any], count: int) -> Line2D:
    seeds = f" ({count} seeds)" if count > 1 else ""
    return Line2D([], [], lw=1.2, label=f"{name}{seeds}", **style)


# The two lie on each other where nothing is overfitted: dashes let one be seen through the other.
_PARTS: tuple[dict[str, Any], ...] = (line_style(0), {**line_style(1), "linestyle": "--"})


def plot_history(history: History, *, title: str | None = None) -> Figure:
    """Draws loss and accuracy over training, on training and validation data.

    Args:
        history: the run's.
        title: over the figure.

    Returns:
        A figure as wide as a column.
    """
    with_accuracy = bool(
        np.isfinite([history.training_accuracy, history.validation_accuracy]).any()
    )
    figure = new_figure(COLUMN, 0.5 + 1.5 * (1 + with_accuracy))
    grid = figure.subplots(1 + with_accuracy, 1, sharex=True, squeeze=False)[:, 0]
    for axes, what in zip(grid, ("loss", "accuracy"), strict=False):
        drawn = []
        for number, part in enumerate(("training", "validation")):
            values = getattr(history, f"{part}_{what}")
            axes.plot(history.epoch, values, lw=1.2, marker=".", ms=3, **_PARTS[number])
            drawn.append([values])
        axes.set_ylabel(what)
        _set_scale(axes, what, drawn)
        tidy(axes)
    grid[-1].set_xlabel("epoch")
    add_title(figure, title)
    entries = [_entry(part, _PARTS[i], 1) for i, part in enumerate(("training", "validation"))]
    caption = "Over whole data sets in evaluation mode; epoch 0 is before the first step."
    add_footer(figure, caption, entries)
    return figure
