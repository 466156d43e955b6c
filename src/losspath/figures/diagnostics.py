"""Pictures of what a network predicts and computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from losspath.analysis.diagnostics import Activations, Confusion
from losspath.analysis.saliency import Saliency
from losspath.arguments import TITLE, as_numbers, checked, described, mapping, optional, texts
from losspath.errors import ArgumentError
from losspath.figures.style import (
    COLUMN,
    PAGE,
    SMALL,
    add_footer,
    add_title,
    check_type,
    describe_origin,
    new_figure,
    tidy,
)

Floats = npt.NDArray[np.float64]

_SMALLER = 5.5
# More classes than this have no numbers in their cells.
_NUMBERED = 20
_SHOWN_FILTERS, _SHOWN_MAPS = 32, 32


@checked(title=TITLE)
def plot_confusion(confusion: Confusion, *, title: str | None = None) -> Figure:
    """Draws a confusion matrix twice: samples, and shares of each class.

    Args:
        confusion: the matrix.
        title: over the figure.

    Returns:
        A figure as wide as a page.
    """
    check_type(confusion, Confusion, "a Confusion")
    figure = new_figure(PAGE, 3.4)
    counts, shares = figure.subplots(1, 2)
    labels = confusion.labels
    numbered = len(labels) <= _NUMBERED
    for axes, values, shown, what in (
        (counts, confusion.counts.astype(float), "{:.0f}".format, "samples"),
        (shares, confusion.shares, _share, "share of the true class"),
    ):
        top = float(np.max(values, initial=0.0, where=np.isfinite(values))) or 1.0
        image = axes.imshow(values, cmap="viridis", vmin=0.0, vmax=top)
        bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02)
        bar.set_label(what, fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)
        for i, j in np.ndindex(values.shape) if numbered else ():
            if np.isfinite(values[i, j]) and values[i, j] > 0:
                dark = values[i, j] < 0.6 * top
                axes.text(
                    j,
                    i,
                    shown(float(values[i, j])),
                    ha="center",
                    va="center",
                    fontsize=_SMALLER,
                    color="white" if dark else "black",
                )
        tidy(axes)
        _label_classes(axes, labels)
    add_title(figure, title)
    total = int(confusion.counts.sum())
    add_footer(
        figure,
        (
            f"{total:,} samples, {confusion.accuracy:.2%} of them right (on the diagonal). "
            if total
            else "No samples. "
        )
        + "Empty cells are zero.",
    )
    return figure


def _share(value: float) -> str:
    """Two digits, as there is room for no more."""
    return "<.01" if value < 0.005 else f"{value:.2f}".removeprefix("0")


def _label_classes(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_xlabel("prediction")
    axes.set_ylabel("true class")
    if len(labels) <= _NUMBERED:
        long = max(map(len, labels)) > 2
        axes.set_xticks(range(len(labels)), labels, rotation=90 if long else 0)
        axes.set_yticks(range(len(labels)), labels)


@checked(title=TITLE)
def plot_activations(activations: Activations, *, title: str | None = None) -> Figure:
    """Draws histograms of what layers put out, over training.

    Args:
        activations: the histograms.
        title: over the figure.

    Returns:
        A figure as wide as a page.
    """
    check_type(activations, Activations, "Activations")
    count = len(activations.names)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = new_figure(PAGE, 0.3 + 1.75 * rows)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    norm = LogNorm(1e-4, 1.0)
    image = None
    for layer, axes in enumerate(grid.flat):
        if layer >= count:
            axes.remove()
            continue
        shares = activations.counts[layer] / activations.counts[layer].sum(axis=1, keepdims=True)
        borders = _borders(activations.steps)
        image = axes.pcolormesh(
            borders, activations.edges[layer], shares.T, norm=norm, cmap="viridis", rasterized=True
        )
        axes.set_facecolor(mpl.colormaps["viridis"](0.0))
        dead = activations.dead[layer, -1]
        words = f"{activations.names[layer] or '(root)'}: {activations.zeros[layer, -1]:.0%} zeros"
        words += f", {dead:.0%} of units dead" if dead > 0 else ""
        axes.set_title(words, fontsize=SMALL)
        tidy(axes)
    used = list(figure.axes)
    for number, axes in enumerate(used):
        if number % columns == 0:
            axes.set_ylabel("output")
        if number >= count - columns:
            axes.set_xlabel("optimiser step")
            axes.tick_params(labelbottom=True)
    if image is not None:
        bar = figure.colorbar(image, ax=used, aspect=40, pad=0.01)
        bar.set_label("share of values", fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)
    add_title(figure, title)
    add_footer(
        figure,
        "What each layer puts out, in the network's order; zeros and dead units (zero for every "
        f"sample) at the last state shown.{_tell_left_out(activations.left_out)}"
        + describe_origin(activations.provenance, at_states=True),
    )
    return figure


def _tell_left_out(steps: Sequence[int]) -> str:
    if not steps:
        return ""
    return (
        f" {len(steps)} states, from step {steps[0]:,} on, are left out, as they or what a layer "
        "puts out there are not finite."
    )


def _borders(steps: npt.NDArray[np.int64]) -> Floats:
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (steps[1:] + steps[:-1]) / 2
    first, last = steps[0] - (middles[0] - steps[0]), steps[-1] + (steps[-1] - middles[-1])
    return np.concatenate([[first], middles, [last]])


@checked(filters=mapping, title=TITLE)
def plot_filters(filters: Mapping[str, npt.NDArray[Any]], *, title: str | None = None) -> Figure:
    """Draws filters of convolutions, or what a first linear layer looks for.

    Args:
        filters: by layer, (out, in, h, w). One row a layer; of several input channels the first,
            or the mean where there are three, as of red, green and blue.
        title: over the figure.

    Raises:
        ArgumentError: nothing to draw.
    """
    shown = {str(name): _tiles(str(name), weights) for name, weights in filters.items()}
    caption = (
        "White is zero, red positive, blue negative, each layer on a scale of its own. Of three "
        "input channels their mean is shown, of any other number the first."
    )
    return _plot_tiles(shown, _SHOWN_FILTERS, title, caption, signed=True)


def _tiles(name: str, weights: npt.ArrayLike) -> npt.NDArray[Any]:
    weights = _numbers(f"the filters of {name}", "(out, in, h, w)", weights)
    return weights.mean(axis=1) if weights.shape[1] == 3 else weights[:, 0]


@checked(maps=mapping, title=TITLE)
def plot_feature_maps(
    maps: Mapping[str, npt.NDArray[Any]],
    image: npt.NDArray[Any] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draws what convolutions make of one input.

    Args:
        maps: by layer, (channels, H, W).
        image: the input (1 or 3, H, W), drawn first.
        title: over the figure.

    Raises:
        ArgumentError: nothing to draw.
    """
    maps = {str(n): _numbers(f"maps of {n}", "(channels, H, W)", m) for n, m in maps.items()}
    if image is not None:
        image = _numbers("image", "(1 or 3, H, W)", image)
        if len(image) not in (1, 3):
            raise ArgumentError(f"expected image as (1 or 3, H, W), got shape {image.shape}")
    caption = "Outputs of convolutions before their activation; dark is low, each layer on a scale."
    return _plot_tiles(maps, _SHOWN_MAPS, title, caption, signed=False, image=image)


def _numbers(name: str, form: str, value: object) -> npt.NDArray[Any]:
    """An array of as many axes as a form like "(C, H, W)" has."""
    array: npt.NDArray[Any] = as_numbers(name, f"numbers {form}", value)
    if array.ndim != form.count(",") + 1 or not array.size:
        raise ArgumentError(f"expected {name} as {form}, got shape {array.shape}")
    return array


def _plot_tiles(
    layers: Mapping[str, npt.NDArray[Any]],
    most: int,
    title: str | None,
    caption: str,
    signed: bool,
    image: npt.NDArray[Any] | None = None,
) -> Figure:
    if not layers:
        raise ArgumentError("this network has no convolutions (or images) to draw these of")
    across = 16
    lines = [
        (name, i, values[i : i + across])
        for name, values in layers.items()
        for i in range(0, min(len(values), most), across)
    ]
    first = 0 if image is None else 1
    figure = new_figure(PAGE, 0.2 + 0.47 * (first + len(lines)))
    grid = figure.subplots(first + len(lines), across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    if image is not None:
        _draw_image(grid[0, 0], image, float(image.min()), float(image.max()))
        _label_row(grid[0, 0], "input")
    for row, (name, start, values) in zip(grid[first:], lines, strict=True):
        reach = float(np.abs(layers[name]).max()) or 1.0
        low, high = (-reach, reach) if signed else (layers[name].min(), layers[name].max())
        for axes, tile in zip(row, values, strict=False):
            axes.imshow(tile, cmap="RdBu_r" if signed else "viridis", vmin=low, vmax=high)
        if start == 0:
            total = len(layers[name])
            label = name if total <= most else f"{name}\n{most} of {total}"
            _label_row(row[0], label)
    add_title(figure, title)
    add_footer(figure, caption)
    return figure


def _label_row(axes: Axes, label: str) -> None:
    axes.text(
        -0.25, 0.5, label, transform=axes.transAxes, fontsize=_SMALLER, ha="right", va="center"
    )


@checked(labels=optional(texts), title=TITLE)
def plot_saliency(
    saliency: Saliency, *, labels: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Draws inputs, and beside each which parts of it the network's prediction depends on.

    Args:
        saliency: the maps, of images.
        labels: names of the classes.
        title: over the figure.

    Raises:
        ArgumentError: the inputs are no images.
    """
    check_type(saliency, Saliency, "a Saliency")
    inputs = saliency.inputs
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        raise ArgumentError(f"expected images (N, 1 or 3, H, W) to draw, got {inputs.shape}")
    columns = 1 + len(saliency.maps)
    figure = new_figure(COLUMN, 0.35 + 0.86 * len(inputs))
    grid = figure.subplots(len(inputs), columns, squeeze=False)
    low, high = float(inputs.min()), float(inputs.max())
    for number, row in enumerate(grid):
        _draw_image(row[0], inputs[number], low, high)
        words = _tell_prediction(saliency, number, labels)
        row[0].set_ylabel(words, fontsize=SMALL, rotation=0, ha="right", va="center")
        for axes, (name, maps) in zip(row[1:], saliency.maps.items(), strict=True):
            axes.imshow(maps[number], cmap="viridis")
            if number == 0:
                axes.set_title(name.replace(" ", "\n"), fontsize=SMALL)
        if number == 0:
            row[0].set_title("input", fontsize=SMALL)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_linewidth(0.4)
    add_title(figure, title)
    is_class = saliency.predictions is not None
    of = "the score of the predicted class" if is_class else "the network's output"
    left = "class, and the prediction where it is another" if is_class else "value, and the output"
    caption = (
        f"Bright is what {of} depends on, each map on a scale of its own. Left: the true {left}."
    )
    add_footer(figure, caption)
    return figure


def _tell_prediction(saliency: Saliency, number: int, labels: Sequence[str] | None) -> str:
    """The right class, and the predicted one where it is another; or the value and the output."""
    target = None if saliency.targets is None else saliency.targets[number]
    if saliency.predictions is None:
        value = "" if target is None else f"{target:.4g}\n"
        return value + ("" if saliency.scores is None else f"output {saliency.scores[number]:.3g}")
    right = None if target is None or target < 0 else _class_name(int(target), labels)
    prediction = _class_name(int(saliency.predictions[number]), labels)
    if right is None:  # a negative target is how losses are told to ignore a sample
        return f"(ignored)\nas {prediction}"
    return right if right == prediction else f"{right}\nas {prediction}"


def _class_name(number: int, labels: Sequence[str] | None) -> str:
    return str(number) if labels is None or number >= len(labels) else labels[number]


@checked(labels=optional(texts), title=TITLE)
def plot_samples(
    images: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    labels: Sequence[str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draws samples of the data, ten of each class, as the network sees them.

    Args:
        images: (N, 1 or 3, H, W).
        targets: (N,) classes.
        labels: their names.
        title: over the figure.

    Raises:
        ArgumentError: no images.
    """
    images = as_numbers("images", "images (N, 1 or 3, H, W)", images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise ArgumentError(f"expected images (N, 1 or 3, H, W) to draw, got {images.shape}")
    targets = as_numbers("targets", f"a class for each of {len(images)} images", targets)
    if targets.shape != (len(images),) or targets.dtype.kind not in "biu":
        raise ArgumentError(
            f"expected targets as a class for each of {len(images)} images, got "
            f"{described(targets)}"
        )
    classes = np.unique(targets)[:_NUMBERED]
    figure = new_figure(COLUMN, 0.2 + 0.31 * len(classes))
    grid = figure.subplots(len(classes), 10, squeeze=False)
    chosen = [np.flatnonzero(targets == kind)[:10] for kind in classes]
    shown = images[np.concatenate(chosen)]
    low, high = float(shown.min()), float(shown.max())
    for axes in grid.flat:
        axes.set_axis_off()
    for kind, row, samples in zip(classes.tolist(), grid, chosen, strict=True):
        for axes, sample in zip(row, samples, strict=False):
            _draw_image(axes, images[sample], low, high)
        name = _class_name(int(kind), labels) if kind >= 0 else "(ignored)"
        row[0].text(
            -0.2, 0.5, name, transform=row[0].transAxes, fontsize=SMALL, ha="right", va="center"
        )
    add_title(figure, title)
    size = " × ".join(map(str, images.shape[1:]))
    add_footer(figure, f"The first samples of each class, {size}, normalised as in training.")
    return figure


def _draw_image(axes: Axes, image: npt.NDArray[Any], low: float, high: float) -> None:
    scaled = (np.asarray(image, np.float64) - low) / ((high - low) or 1.0)
    if len(scaled) == 1:
        axes.imshow(scaled[0], cmap="gray", vmin=0.0, vmax=1.0)
    else:
        axes.imshow(np.moveaxis(np.clip(scaled, 0.0, 1.0), 0, -1))
