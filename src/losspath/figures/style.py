"""What all figures share: sizes, colours, captions, and how they are saved."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from losspath.arguments import checked, described, file, of_type
from losspath.errors import ArgumentError
from losspath.files import write_atomically

COLUMN = 3.5
"""Width of a paper's column in inches."""

PAGE = 7.2
"""Width of a page in inches."""

TEXT = 8.0
SMALL = 7.0

FORMATS = (".png", ".pdf", ".svg")

_FIGURE = of_type("matplotlib.figure:Figure", "the plot functions make them")

# M. Okabe and K. Ito, "Color universal design", 2008: told apart by the colour-blind too. Their
# yellow is left out, being too pale for a line on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
LINES = ("-", "--", "-.", ":")


def new_figure(width: float, height: float, compressed: bool = False) -> Figure:
    """A figure of a size in inches, laid out so that nothing overlaps.

    Args:
        width: in inches.
        height: in inches.
        compressed: leave no room between axes that keep their own proportions.
    """
    engine = ConstrainedLayoutEngine(compress=compressed)
    return Figure(figsize=(width, height), dpi=200, layout=engine)


def line_style(number: int) -> dict[str, str]:
    """Colour and dashes of the line with this number; different for the first 28."""
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": LINES[number // len(COLORS) % len(LINES)],
    }


def tidy(axes: Axes) -> None:
    """Sizes of text and ticks, set on the axes so that no global setting is touched."""
    axes.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    axes.xaxis.label.set_fontsize(TEXT)
    axes.yaxis.label.set_fontsize(TEXT)
    axes.xaxis.get_offset_text().set_fontsize(SMALL)
    axes.yaxis.get_offset_text().set_fontsize(SMALL)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)


# A range wider than this is drawn on a logarithmic axis, one narrower than the second from zero on.
# One that is wider than the last times what is usual hides everything else otherwise.
_LOGARITHMIC, _FROM_ZERO, _HIDES = 100.0, 2.0, 1000.0


def set_scale(axes: Axes, values: Sequence[npt.ArrayLike], *, from_zero: bool = False) -> None:
    """Sets the y axis so that values are read well: logarithmic, from zero on, or as it is.

    Args:
        axes: where the values are drawn.
        values: what is drawn; what is not finite does not count.
        from_zero: positive values that are compared with each other begin at zero in any case.
    """
    flat = np.concatenate([np.ravel(each) for each in values] or [np.zeros(0)])
    finite = flat[np.isfinite(flat)]
    if not len(finite):
        return
    low, high = float(finite.min()), float(finite.max())
    hides = high > _HIDES * float(np.median(finite))
    if low > 0 and (hides or (high > _LOGARITHMIC * low and not from_zero)):
        axes.set_yscale("log")
    elif low >= 0 and high > 0 and (from_zero or high >= _FROM_ZERO * low):
        axes.set_ylim(0.0, 1.05 * high)


def check_type(value: object, expected: type, how: str) -> None:
    """Raises `ArgumentError` where a figure is asked of something else."""
    if not isinstance(value, expected):
        read = (
            f"; a saved one is read by losspath.{expected.__name__}.load(path)"
            if hasattr(expected, "load")
            else ""
        )
        raise ArgumentError(f"expected {how} to draw, got {described(value)}{read}")


def check_group(runs: object, expected: type, how: str, group: str) -> None:
    """Raises `ArgumentError` unless this is a list, not empty, of what can be drawn together."""
    if not isinstance(runs, Sequence) or isinstance(runs, (str, bytes)) or not runs:
        raise ArgumentError(f"expected {group} to draw, in a list, got {described(runs)}")
    for each in runs:
        check_type(each, expected, how)


def add_title(figure: Figure, title: str | None) -> None:
    """A title over the whole figure, broken to its width."""
    if title:
        figure.suptitle(_wrapped(figure, title, TEXT), fontsize=TEXT)


def add_footer(
    figure: Figure, caption: str, handles: Sequence[Artist] = (), columns: int = 2
) -> None:
    """A legend and a caption under the figure, which grows by their height."""
    text = _wrapped(figure, caption, SMALL)
    caption_height = (text.count("\n") + 1) * SMALL * 1.3 / 72 + 0.06
    rows = -(-len(handles) // columns)
    legend_height = rows * SMALL * 1.75 / 72
    footer = caption_height + legend_height
    height = figure.get_figheight() + footer
    figure.set_figheight(height)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0.0, footer / height, 1.0, 1.0 - footer / height))
    left = 0.06 / figure.get_figwidth()
    figure.text(
        left, 0.05 / height, text, fontsize=SMALL, color="#333333", va="bottom", linespacing=1.2
    )
    if handles:
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.0, footer / height),
            borderaxespad=0.0,
            borderpad=0.3,
            labelspacing=0.35,
            columnspacing=1.2,
            fontsize=SMALL,
            ncols=columns,
            frameon=False,
        )


def fitted(parts: Sequence[str], inches: float) -> tuple[str, float]:
    """A label in as few lines as fit, broken between its parts alone.

    Args:
        parts: of the label.
        inches: how long a line may be.

    Returns:
        The label, and the size of its letters: less than usual where a single part is too long.
    """
    most = 0.95 * 72 * inches / (0.55 * SMALL)
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) <= most:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    longest = max(map(len, lines))  # of letters that may be wide
    return "\n".join(lines), SMALL if longest <= most else 0.75 * SMALL * most / longest


def _wrapped(figure: Figure, text: str, size: float) -> str:
    # A letter of the default font is about half as wide as it is high, a digit or capital more.
    letters = int(figure.get_figwidth() * 0.95 * 72 / (0.55 * size))
    return textwrap.fill(text, letters)


@checked(figure=_FIGURE, path=file)
def save_figure(figure: Figure, path: str | PathLike[str]) -> Path:
    """Writes a figure whole or not at all; equal figures give equal files.

    Args:
        figure: the figure.
        path: a .png (300 dots an inch), .pdf or .svg file; its directory is made.

    Returns:
        The path.

    Raises:
        ArgumentError: another extension.
        StoreError: the file cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind not in FORMATS:
        raise ArgumentError(f"expected a figure as a .png, .pdf or .svg file, got {target}")
    date = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}[kind]
    # Text stays text in a PDF, where it can be searched and edited.
    with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "losspath"}):
        write_atomically(
            target,
            lambda file: figure.savefig(file, format=kind[1:], dpi=300, metadata=date),
        )
    return target


_BUFFERS = {
    "model": "the model's own",
    "recorded": "those recorded with each state",
    "recalibrated": "running statistics estimated over the data at every point",
}
_ON_A_LINE = "those recorded with the two states, blended between them, as they are beyond"


def describe_origin(provenance: Mapping[str, Any], *, at_states: bool = False) -> str:
    """Sentences on whose buffers losses were computed with, and on what the path lacks.

    Args:
        provenance: of a result.
        at_states: whether it is of recorded states alone, and of no blends of them.

    Returns:
        The sentences, each after a space; "" where there is nothing to say.
    """
    text = ""
    if provenance.get("has_buffers"):
        buffers = provenance.get("buffers", "model")
        is_line = buffers == "recorded" and "from" in provenance
        whose = _ON_A_LINE if is_line else _BUFFERS.get(buffers, "not known")
        if buffers == "recorded" and not is_line and not at_states:
            whose += ", and blends of them"
        text += f" Buffers: {whose}."
    if provenance.get("checked") is False:
        text += " Not checked against the model."
    kinds = ("notes", "loss_notes", "path_notes")
    for note in [note for kind in kinds for note in provenance.get(kind, [])]:
        text += f" {note[:1].upper()}{note[1:]}."
    return text


def describe_origins(provenances: Sequence[Mapping[str, Any]], *, at_states: bool = False) -> str:
    """What `describe_origin` says of several results, each sentence once."""
    texts = [describe_origin(each, at_states=at_states) for each in provenances]
    return "".join(dict.fromkeys(texts))
