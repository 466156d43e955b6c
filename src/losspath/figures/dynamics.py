"""Pictures of how training moved along its path."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losspath.analysis.dynamics import Dynamics
from losspath.analysis.readings import read_dynamics
from losspath.figures.style import (
    COLORS,
    COLUMN,
    add_footer,
    add_title,
    check_type,
    new_figure,
    set_scale,
    tidy,
)


def plot_dynamics(
    dynamics: Dynamics, *, rate: float | None = None, title: str | None = None
) -> Figure:
    """Draws loss, gradient norm, sharpness and the turns between steps over training.

    Args:
        dynamics: the measurements.
        rate: the learning rate of plain gradient descent, if it was constant: 2/rate, the
            sharpness that it can go down at most, is drawn as a line.
        title: over the figure.

    Returns:
        A figure as wide as a column.
    """
    check_type(dynamics, Dynamics, "Dynamics")
    figure = new_figure(COLUMN, 5.2)
    loss, gradient, sharpness, cosine = figure.subplots(4, 1, sharex=True)
    for axes, values, color in (
        (loss, dynamics.loss, COLORS[0]),
        (gradient, dynamics.gradient_norm, COLORS[2]),
        (sharpness, dynamics.sharpness, COLORS[1]),
    ):
        axes.plot(dynamics.steps, values, color=color, lw=1.2, marker=".", ms=3)
        limit = [2 / rate] if rate and axes is sharpness else []
        set_scale(axes, [values, limit])
    entries = []
    if rate:
        sharpness.axhline(2 / rate, color="#555555", lw=0.9, ls="--")
        entries.append(Line2D([], [], color="#555555", lw=0.9, ls="--", label=f"2/η, η = {rate:g}"))
    middles, means = dynamics.binned_cosines()
    cosine.axhline(0.0, color="#bbbbbb", lw=0.6, zorder=0)
    cosine.plot(middles, means, color=COLORS[3], lw=1.2, marker="." if len(means) == 1 else "")
    cosine.set_ylim(-1.05, 1.05)
    loss.set_ylabel("loss")
    gradient.set_ylabel("gradient norm")
    sharpness.set_ylabel("sharpness")
    cosine.set_ylabel("cosine of\nsuccessive steps")
    cosine.set_xlabel("optimiser step")
    for axes in (loss, gradient, sharpness, cosine):
        tidy(axes)
    figure.align_ylabels()
    add_title(figure, title)
    samples = dynamics.provenance.get("samples")
    of = f" over {samples:,} samples" if samples else ""
    caption = (
        f"Loss, gradient and largest Hessian eigenvalue (sharpness){of}; cosines: means over "
        f"{len(means)} equal parts. Reading: {read_dynamics(dynamics)}."
    )
    if not np.isfinite(dynamics.sharpness).all():
        unknown = int((~np.isfinite(dynamics.sharpness)).sum())
        caption += f" The sharpness of {unknown} states was not found."
    add_footer(figure, caption, entries)
    return figure
