"""Pictures of states by their weights and by what they predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from losspath.analysis.embedding import Embedding
from losspath.analysis.function_space import FunctionDistances
from losspath.arguments import TITLE, checked
from losspath.figures.style import (
    PAGE,
    SMALL,
    TEXT,
    add_footer,
    add_title,
    check_type,
    describe_origin,
    line_style,
    new_figure,
    tidy,
)

_WORDS = {
    "l2": "root-mean-square distance of outputs",
    "disagreement": "share of predictions whose class differs",
    "jensen-shannon": "Jensen-Shannon distance of predictions",
}


@checked(title=TITLE)
def plot_function_distances(distances: FunctionDistances, *, title: str | None = None) -> Figure:
    """Draws states by their weights, by their functions, and the distances of functions.

    Args:
        distances: of states of one run or several.
        title: over the figure.

    Returns:
        A figure as wide as a page.
    """
    check_type(
        distances,
        FunctionDistances,
        "a FunctionDistances, of losspath.function_distances(path, objective),",
    )
    figure = new_figure(PAGE, 2.7)
    weights, functions, matrix = figure.subplots(1, 3)
    norm = Normalize(0, max(int(distances.steps.max()), 1))
    pairs = ((weights, distances.weight_embedding), (functions, distances.function_embedding))
    for axes, embedding in pairs:
        _draw_states(axes, distances, embedding, norm)
    weights.set_title("by weights", fontsize=TEXT)
    functions.set_title("by predictions", fontsize=TEXT)
    bar = figure.colorbar(
        ScalarMappable(norm, "viridis"), ax=[weights, functions], location="bottom", aspect=40
    )
    _tidy_bar(bar, "step")
    _draw_matrix(figure, matrix, distances)
    add_title(figure, title)
    add_footer(figure, _caption(distances), _legend(distances), columns=4)
    return figure


def _draw_states(
    axes: Axes, distances: FunctionDistances, embedding: Embedding, norm: Normalize
) -> None:
    for number, run in enumerate(distances.runs.values()):
        x, y = embedding.coordinates[run].T
        style: dict[str, Any] = line_style(number)
        axes.plot(x, y, lw=0.9, zorder=2, **style)
        dots: dict[str, Any] = {"norm": norm, "cmap": "viridis", "zorder": 3, "linewidths": 0.4}
        steps, edge = distances.steps[run], style["color"]
        kinds = [("o", 9, slice(1, -1)), ("s", 22, slice(0, 1)), ("*", 70, slice(-1, None))]
        for marker, size, part in kinds:
            axes.scatter(
                *(x[part], y[part], size), c=steps[part], marker=marker, edgecolors=edge, **dots
            )
    axes.set_aspect("equal", adjustable="datalim")
    for axis, number, share in zip((axes.xaxis, axes.yaxis), (1, 2), embedding.shares, strict=True):
        axis.set_label_text(f"component {number} ({share:.0%})")
    tidy(axes)


def _draw_matrix(figure: Figure, axes: Axes, distances: FunctionDistances) -> None:
    count = len(distances.steps)
    is_share = distances.distance == "disagreement"
    image = axes.imshow(distances.functions, cmap="viridis", vmin=0.0)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=20)
    if is_share:
        bar.formatter = PercentFormatter(1.0, decimals=0)
    _tidy_bar(bar, _WORDS[distances.distance])
    borders = list(distances.starts.values())
    for border in borders[1:]:
        axes.axhline(border - 0.5, color="white", lw=0.8)
        axes.axvline(border - 0.5, color="white", lw=0.8)
    if len(borders) == 1:
        places = np.unique(np.linspace(0, count - 1, 4).round().astype(int))
        names = [f"{step:,}" for step in distances.steps[places]]
        axes.set_xlabel("step")
        axes.set_ylabel("step")
    else:
        places, names = _middles(distances), list(distances.starts)
    turned: dict[str, Any] = {"rotation": 45, "ha": "right"} if len(borders) > 1 else {}
    axes.set_xticks(places, names, **turned)
    axes.set_yticks(places, names)
    axes.set_title("distance of predictions", fontsize=TEXT)
    tidy(axes)


def _middles(distances: FunctionDistances) -> npt.NDArray[np.float64]:
    return np.array([(run.start + run.stop - 1) / 2 for run in distances.runs.values()])


def _tidy_bar(bar: Any, label: str) -> None:
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    bar.outline.set_linewidth(0.6)


def _legend(distances: FunctionDistances) -> list[Line2D]:
    dots: dict[str, Any] = {"color": "white", "mec": "black", "lw": 0}
    entries = [
        Line2D([], [], marker="s", ms=4.5, label="start", **dots),
        Line2D([], [], marker="*", ms=8, label="end", **dots),
    ]
    if len(distances.starts) > 1:
        for number, name in enumerate(distances.starts):
            style: dict[str, Any] = line_style(number)
            entries.append(Line2D([], [], lw=1.2, label=name, **style))
    return entries


def _caption(distances: FunctionDistances) -> str:
    told = distances.provenance
    kind, functions = distances.distance, distances.function_embedding
    words = f"{len(distances.steps):,} states, {told['predictions']:,} predictions of each"
    words += f"; {_WORDS[kind]}"
    words += ", points by its square root" if kind == "disagreement" else ""
    words += ". Points by classical multidimensional scaling, shares of the spread on the axes"
    words += f"; stress {distances.weight_embedding.stress:.2f} by weights, "
    words += f"{functions.stress:.2f} by predictions."
    if (walk := distances.random_walk) is not None:
        share = float(np.sum(distances.weight_embedding.shares))
        words += f" By weights the plane has {walk.describe(share, len(distances.starts) > 1)}."
    return words + describe_origin(told, at_states=True)
