"""Pictures of how far a loss rises between states."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from losspath.analysis.barriers import Barriers
from losspath.arguments import TITLE, checked
from losspath.figures.style import (
    COLORS,
    LINES,
    PAGE,
    SMALL,
    add_footer,
    add_title,
    check_type,
    describe_origin,
    new_figure,
    tidy,
)

_NUMBERED = 12  # more states than this have no numbers in their cells
_LINES = 15  # more pairs than this are drawn in grey


@checked(title=TITLE)
def plot_barriers(barriers: Barriers, *, title: str | None = None) -> Figure:
    """Draws the lines between states, and the barriers as a matrix.

    Args:
        barriers: the values along the lines.
        title: over the figure.

    Returns:
        A figure as wide as a page.
    """
    check_type(barriers, Barriers, "a Barriers, of losspath.barriers(states, objective),")
    figure = new_figure(PAGE, 3.0)
    lines, matrix = figure.subplots(1, 2)
    count = len(barriers.names)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    is_few = len(pairs) <= _LINES
    for number, (i, j) in enumerate(pairs):
        lines.plot(
            barriers.alpha,
            barriers.values[i, j],
            color=COLORS[number % len(COLORS)] if is_few else "#555555",
            lw=1.0 if is_few else 0.5,
            ls=LINES[number // len(COLORS) % len(LINES)],
            label=f"{barriers.names[i]} to {barriers.names[j]}" if is_few else None,
        )
    lines.set_xlabel("α: from the first state (0) to the second (1)")
    lines.set_ylabel(barriers.quantity)
    tidy(lines)
    height = barriers.barrier
    top = float(np.max(height, initial=0.0, where=np.isfinite(height))) or 1.0
    image = matrix.imshow(height, cmap="viridis", vmin=0.0, vmax=top)
    bar = figure.colorbar(image, ax=matrix, shrink=0.85, pad=0.02)
    sort = "shortfall" if barriers.is_better_high else "excess"
    bar.set_label(f"barrier: largest {sort} of {barriers.quantity}", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    for i, j in np.ndindex(height.shape) if count <= _NUMBERED else ():
        shown = f"{height[i, j]:.2g}" if np.isfinite(height[i, j]) else "not finite"
        is_dark = not height[i, j] > 0.6 * top
        matrix.text(
            *(j, i, shown),
            ha="center",
            va="center",
            fontsize=SMALL,
            color="white" if is_dark else "black",
        )
    matrix.set_xticks(range(count), barriers.names, rotation=45, ha="right")
    matrix.set_yticks(range(count), barriers.names)
    tidy(matrix)
    add_title(figure, title)
    samples = barriers.provenance.get("samples")
    caption = (
        f"{len(barriers.alpha)} points a line"
        + (f", {samples:,} samples" if samples else "")
        + f". Barrier: the largest {sort} over the straight line between both ends' values; hidden "
        "units are not aligned."
    )
    handles = lines.get_legend_handles_labels()[0]
    add_footer(figure, caption + describe_origin(barriers.provenance), handles, columns=3)
    return figure
