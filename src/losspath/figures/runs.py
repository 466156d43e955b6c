"""Pictures that hold training runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from losspath.analysis.runs import MOST_VALUES, History, RunCurves, binned_series
from losspath.arguments import TITLE, checked, count, mapping, one_of, optional, text, texts
from losspath.errors import ArgumentError
from losspath.figures.style import (
    COLUMN,
    PAGE,
    TEXT,
    add_footer,
    add_title,
    check_group,
    check_type,
    describe_origin,
    line_style,
    new_figure,
    set_scale,
    tidy,
)

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]


@checked(
    runs=mapping,
    by=one_of(("step", "epoch")),
    bins=count(1),
    title=TITLE,
    styles=optional(mapping),
)
def plot_runs(
    runs: Mapping[str, Sequence[RunCurves]],
    *,
    by: Literal["step", "epoch"] = "step",
    bins: int = 100,
    title: str | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """Draws step sizes, losses, accuracies and recorded values of runs side by side.

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
    _check_runs(runs)
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

    def named(name: str) -> Callable[[RunCurves], Curve | None]:
        def curve(run: RunCurves) -> Curve | None:
            if name not in run.values:
                return None
            steps, values = binned_series(run.values[name], bins)
            return steps / _unit(run, by), values

        return curve

    panels = {"step size": batches(1)}
    if any(np.isfinite(run.sizes.losses).any() for run in everything):
        panels["training loss (batches)"] = batches(2)
    if any(run.history is not None for run in everything):
        panels |= {
            "validation loss": epochs("validation_loss"),
            "validation accuracy": epochs("validation_accuracy"),
        }
    values = list(dict.fromkeys(name for run in everything for name in run.values))
    panels |= {name: named(name) for name in values[:MOST_VALUES]}
    found = _named_styles(runs, styles)
    figure = _draw_panels(runs, panels, found, by)
    add_title(figure, title)
    drawn = (
        "Step sizes, batch losses and recorded values" if values else "Step sizes and batch losses"
    )
    caption = f"{drawn}: {_tell_means(runs, bins)}"
    if len(values) > MOST_VALUES:
        caption += f" {len(values) - MOST_VALUES} more recorded values are not drawn."
    entries = [_entry(n, found[n], len(g)) for n, g in runs.items()]
    add_footer(figure, caption, entries, columns=min(2, _columns(list(runs))))
    return figure


def _draw_panels(
    runs: Mapping[str, Sequence[RunCurves]],
    panels: Mapping[str, Callable[[RunCurves], Curve | None]],
    styles: Mapping[str, Mapping[str, Any]],
    by: str,
) -> Figure:
    """A figure with two panels in a row, each of one quantity of all runs."""
    rows = -(-len(panels) // 2)
    figure = new_figure(PAGE, 0.3 + 1.9 * rows)
    grid = figure.subplots(rows, 2, sharex=True, squeeze=False)
    for axes, (label, curve_of) in zip(grid.flat, panels.items(), strict=False):
        drawn = [
            _draw_group(axes, [curve_of(run) for run in group], styles[name])
            for name, group in runs.items()
        ]
        axes.set_ylabel(label)
        _set_scale(axes, label, drawn)
        tidy(axes)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in figure.axes[-2:]:
        axes.set_xlabel("optimiser step" if by == "step" else "epoch")
        axes.tick_params(labelbottom=True)
        if by == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@checked(
    panels=mapping,
    bins=count(1),
    title=TITLE,
    styles=optional(mapping),
    caption=optional(text),
)
def plot_step_panels(
    panels: Mapping[str, Mapping[str, Sequence[RunCurves]]],
    *,
    bins: int = 100,
    title: str | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    caption: str | None = None,
) -> Figure:
    """Draws step sizes over training, a panel for each network and data set on its own scale.

    Args:
        panels: by the panel's title, and by the name that the legend gives them, runs that differ
            in their seeds alone: a line is their mean, and a band reaches from the least to the
            greatest.
        bins: means over so many equal parts of a run.
        title: over the figure.
        styles: colour and dashes by name, as ``{"color": …, "linestyle": …}``.
        caption: what to see, instead of what is drawn.

    Returns:
        A figure as wide as a page.

    Raises:
        ArgumentError: no run.
    """
    if not panels:
        raise ArgumentError("expected at least one run to draw, got no panel")
    for panel, runs in panels.items():
        _check_runs(mapping(f"the panel {panel!r}", runs))
    names = list(dict.fromkeys(name for runs in panels.values() for name in runs))
    named = _named_styles(names, styles)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(PAGE, 0.2 + 1.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, runs) in zip(grid.flat, panels.items(), strict=False):
        drawn = [
            _draw_group(axes, [run.sizes.binned(bins)[:2] for run in group], named[label])
            for label, group in runs.items()
        ]
        axes.set_title(name, fontsize=TEXT)
        _set_scale(axes, "step size", drawn)
        tidy(axes)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("step size")
    for axes in figure.axes[-columns:]:
        axes.set_xlabel("optimiser step")
    add_title(figure, title)
    everything = {f"{k}: {n}": group for k, runs in panels.items() for n, group in runs.items()}
    words = caption or f"Step sizes, each panel on its own scale: {_tell_means(everything, bins)}"
    counts = {name: {len(runs[name]) for runs in panels.values() if name in runs} for name in names}
    entries = [
        _entry(name, named[name], max(counts[name]) if len(counts[name]) == 1 else 1)
        for name in names
    ]
    add_footer(figure, words, entries, columns=_columns([str(e.get_label()) for e in entries]))
    return figure


def _check_runs(runs: Mapping[str, Sequence[RunCurves]]) -> None:
    if not runs:
        raise ArgumentError("expected at least one run to draw, got none")
    for name, group in runs.items():
        check_group(group, RunCurves, "RunCurves", f"at least one run as {name!r}")


def _named_styles(
    names: Iterable[str], styles: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """Colours and dashes in the order of names, but for those that are given."""
    for name, style in (styles or {}).items():
        mapping(f"the style of {name!r}", style)
    return {
        name: {**line_style(number), **(styles or {}).get(name, {})}
        for number, name in enumerate(names)
    }


def _tell_means(runs: Mapping[str, Sequence[RunCurves]], bins: int) -> str:
    """What lines of step sizes are means over."""
    everything = [run for group in runs.values() for run in group]
    if max(len(run.sizes.sizes) for run in everything) > bins:
        told = f"means over {bins} equal parts of each run."
    else:
        told = "of every step that was recorded."
    thinned = [name for name, group in runs.items() if any(map(_is_thinned, group))]
    if thinned:
        told += f" Where states were left out ({', '.join(thinned)}), a size is that of several "
        told += "steps together."
    if max(map(len, runs.values())) > 1:
        told += " Lines: means over seeds; bands: from the least to the greatest."
    return told


def _columns(names: Sequence[str]) -> int:
    """How many names have room side by side."""
    longest = max(map(len, names))
    if longest <= _SHORT:
        return 4
    return 2 if longest <= _LONG else 1


_SHORT, _LONG = 20, 50  # letters


def _is_thinned(run: RunCurves) -> bool:
    """Whether sizes are of more steps than one, and not means over them."""
    return "averaged" not in run.sizes.provenance and bool((np.diff(run.sizes.steps) > 1).any())


def _unit(run: RunCurves, by: str) -> float:
    return (run.steps_per_epoch or 1.0) if by == "epoch" else 1.0


def _draw_group(
    axes: Axes, curves: Sequence[Curve | None], style: Mapping[str, Any]
) -> list[Floats]:
    """Draws runs of one kind; what must be seen of it."""
    there = [curve for curve in curves if curve is not None]
    if not there:
        return []
    x = there[0][0]
    if len(there) > 1 and all(np.array_equal(x, other) for other, _ in there):
        draw_band(axes, x, np.stack([y for _, y in there]), style)
    else:
        for x, y in there:
            draw_band(axes, x, y[None], style)
    return [y for _, y in there]


def draw_band(axes: Axes, x: Floats, values: Floats, style: Mapping[str, Any]) -> None:
    """Draws the mean over runs (n, …) as a line, and a band from the least to the greatest.

    Args:
        axes: where to draw.
        x: (k,) positions.
        values: (n, k) of each run; one alone has no band.
        style: colour, dashes, and what else a line has.
    """
    if len(values) > 1:
        axes.fill_between(
            x, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, lw=0
        )
    line = {"lw": 1.2, "marker": "." if len(x) <= 1 else "", **style}
    axes.plot(x, values.mean(axis=0), **line)


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


@checked(title=TITLE, names=texts)
def plot_history(
    history: History,
    *,
    title: str | None = None,
    names: tuple[str, str] = ("training", "validation"),
) -> Figure:
    """Draws loss and accuracy over training, on training and validation data.

    Args:
        history: the run's; by step where it has no epochs.
        title: over the figure.
        names: what the legend calls the two.

    Returns:
        A figure as wide as a column.
    """
    check_type(history, History, "a History, as measure_history makes it,")
    if len(names) != 2:
        raise ArgumentError(f"expected names as two texts, got {len(names)}")
    parts = [
        (name, part, _PARTS[number])
        for number, (name, part) in enumerate(zip(names, ("training", "validation"), strict=True))
        if number == 0 or np.isfinite(getattr(history, f"{part}_loss")).any()
    ]
    with_accuracy = bool(
        np.isfinite([history.training_accuracy, history.validation_accuracy]).any()
    )
    by_epoch = bool(np.isfinite(history.epoch).any())
    figure = new_figure(COLUMN, 0.5 + 1.5 * (1 + with_accuracy))
    grid = figure.subplots(1 + with_accuracy, 1, sharex=True, squeeze=False)[:, 0]
    for axes, what in zip(grid, ("loss", "accuracy"), strict=False):
        drawn = []
        for _, part, style in parts:
            values = getattr(history, f"{part}_{what}")
            x = history.epoch if by_epoch else history.step
            axes.plot(x, values, lw=1.2, marker=".", ms=3, **style)
            drawn.append([values])
        axes.set_ylabel(what)
        _set_scale(axes, what, drawn)
        tidy(axes)
    grid[-1].set_xlabel("epoch" if by_epoch else "optimiser step")
    if by_epoch:
        grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    add_title(figure, title)
    caption = "Over whole data sets in evaluation mode; epoch 0 is before the first step."
    if not by_epoch:
        caption = f"In evaluation mode, at {len(history.step)} states evenly in time."
    caption += describe_origin(history.provenance, at_states=True)
    add_footer(figure, caption, [_entry(name, style, 1) for name, _, style in parts])
    return figure
