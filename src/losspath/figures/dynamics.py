"""Pictures of how training moved along its path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losspath.analysis.dynamics import Dynamics
from losspath.analysis.verdict import judge_dynamics
from losspath.arguments import TITLE, checked, number, optional
from losspath.errors import ArgumentError
from losspath.figures.runs import draw_band
from losspath.figures.style import (
    COLORS,
    COLUMN,
    add_footer,
    add_title,
    check_group,
    describe_origins,
    new_figure,
    set_scale,
    tidy,
)


@checked(rate=optional(number(above=0)), title=TITLE)
def plot_dynamics(
    dynamics: Dynamics | Sequence[Dynamics],
    *,
    rate: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draws loss, gradient norm, sharpness and the turns between steps over training.

    Args:
        dynamics: the measurements of a run; or of several that differ in their seeds alone, drawn
            as their mean with a band from the least to the greatest.
        rate: the learning rate of plain gradient descent, if it was constant: 2/rate, the
            sharpness that it can go down at most, is drawn as a line.
        title: over the figure.

    Returns:
        A figure as wide as a column.

    Raises:
        ArgumentError: no measurements, or some at other steps than the first.
    """
    runs = [dynamics] if isinstance(dynamics, Dynamics) else dynamics
    check_group(
        runs, Dynamics, "Dynamics", "the measurements of at least one run, at the same steps,"
    )
    if any(not np.array_equal(runs[0].steps, each.steps) for each in runs):
        raise ArgumentError(
            "expected the measurements of one or more runs at the same steps, got some at others; "
            "draw each alone"
        )
    first = runs[0]
    figure = new_figure(COLUMN, 5.2)
    loss, gradient, sharpness, cosine = figure.subplots(4, 1, sharex=True)
    for axes, name, color in (
        (loss, "loss", COLORS[0]),
        (gradient, "gradient_norm", COLORS[2]),
        (sharpness, "sharpness", COLORS[1]),
    ):
        values = np.stack([getattr(each, name) for each in runs])
        draw_band(axes, first.steps.astype(float), values, {"color": color, "marker": ".", "ms": 3})
        limit = [2 / rate] if rate and axes is sharpness else []
        set_scale(axes, [values, limit])
    entries = []
    if rate:
        sharpness.axhline(2 / rate, color="#555555", lw=0.9, ls="--")
        entries.append(Line2D([], [], color="#555555", lw=0.9, ls="--", label=f"2/η, η = {rate:g}"))
    middles = first.binned_cosines()[0]
    means = np.stack([each.binned_cosines()[1] for each in runs])
    cosine.axhline(0.0, color="#bbbbbb", lw=0.6, zorder=0)
    draw_band(cosine, middles, means, {"color": COLORS[3]})
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
    samples = first.provenance.get("samples")
    of = f" over {samples:,} samples" if samples else ""
    caption = (
        f"Loss, gradient and largest Hessian eigenvalue (sharpness){of}; cosines: means over "
        f"{len(middles)} equal parts. "
    )
    verdicts = [judge_dynamics(each) for each in runs]
    if len(runs) > 1:
        caption += "Lines: means over seeds; bands: from the least to the greatest. "
        caption += f"Verdicts: {', '.join(each.name for each in verdicts)}."
    else:
        caption += f"Verdict: {verdicts[0]}."
    unknown = sum(int((~np.isfinite(each.sharpness)).sum()) for each in runs)
    if unknown:
        caption += f" The sharpness of {unknown} states was not found."
    trained, count = (first.provenance.get(n) for n in ("trained_parameters", "parameters"))
    if trained and count and trained < count:
        caption += f" Derivatives: by the {trained:,} of {count:,} parameters that are trained."
    caption += describe_origins([each.provenance for each in runs], at_states=True)
    add_footer(figure, caption, entries)
    return figure
