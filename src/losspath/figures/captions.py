"""What captions of surfaces say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.analysis.distances import DistanceMap
from losspath.figures.style import describe_origin
from losspath.geometry.walk import RandomWalk
from losspath.surface import ACCURACY, LOSS, Surface

Floats = npt.NDArray[np.float64]


def describe_surface(surface: Surface, height: str = LOSS) -> str:
    """The caption of a surface: how it was made, and how far it fits the states on it."""
    rows, columns = surface.loss.shape
    parts = [f"{columns} × {rows} points"]
    samples = surface.provenance.get("samples")
    budget = surface.provenance.get("budget", {})
    parts += [f"{_of([samples], budget.get('of_samples'))} samples"] if samples else []
    if not surface.evaluated.all():
        others = ", the others interpolated" if surface.is_filled else ""
        parts += [f"{int(surface.evaluated.sum()):,} evaluated{others}"]
    if "steps" in surface.provenance:  # which do not begin with training
        first, last = surface.provenance["steps"]
        parts += [f"{surface.provenance['states']:,} states, of steps {first:,} to {last:,}"]
    words = ", ".join(parts) + "." + describe_variance(surface)
    errors = _errors(surface, height)
    if np.isfinite(errors).any():
        middle, most = (_off(of(errors), height) for of in (np.nanmedian, np.nanmax))
        words += f" Surface against the states' own {height}: median {middle}, at most {most} off."
    if height == LOSS and surface.fidelity and (told := surface.fidelity.describe()):
        words += f" {told[:1].upper()}{told[1:]}."
    return words + describe_budget(budget, height) + describe_origin(surface.provenance)


def _of(numbers: Sequence[int], whole: int | None = None) -> str:
    """A number or a range, and of how many, where that is another number."""
    low, high = min(numbers), max(numbers)
    told = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return told if whole is None or low == whole else f"{told} of {whole:,}"


def describe_budget(budget: Mapping[str, Any], height: str = LOSS) -> str:
    """What a surface within a budget came to, as sentences after others; "" without one.

    Args:
        budget: as surfaces have it in their provenance.
        height: what is drawn.
    """
    if not budget:
        return ""
    unsure, blurred = budget["predicted_error"], budget["standard_error"]
    corrected = budget.get("corrected")
    most = "about" if corrected else "at most"  # the latter is measured at the worst of points
    if blurred is None:
        of_samples = "not known"
    elif blurred == 0:
        of_samples = "none"
    else:
        of_samples = f"{most} {max(blurred, 0.001):.1%} of it"
    words = f" Budget {budget['asked']}, taken {budget['seconds']:.3g} s: interpolation errors"
    words += (
        f" {max(unsure, 0.001):.1%} of the drawn range or less (for 95%), standard error of the"
    )
    words += f" samples {of_samples}"
    if corrected:
        done = "corrected" if height in corrected["quantities"] else "told"
        words += f", {done} by {corrected['states']} states over {corrected['samples']:,}"
    words += "."
    return words + "".join(f" {note[:1].upper()}{note[1:]}." for note in budget["notes"])


def describe_variance(shown: Surface | DistanceMap) -> str:
    """A sentence on the share of variance in a path's principal plane, beside a random walk's.

    It stands after a space; "" for other planes, of which the axes say all there is to say.
    """
    if shown.random_walk is None:
        return ""
    return tell_variance(shown.random_walk, shown.explained_variance_ratio, len(shown.starts) > 1)


def tell_variance(walk: RandomWalk, ratios: npt.ArrayLike, several: bool) -> str:
    """The sentence of a plane's shares of variance (2,), of one run or several."""
    return f" The plane has {walk.describe(float(np.sum(ratios)), several)}."


def _errors(surface: Surface, height: str) -> Floats:
    """How far the surface is from the states' own values: of losses as a share of them."""
    return surface.state_errors if height == LOSS else surface.state_differences(height)


def _off(error: float, height: str) -> str:
    if height == ACCURACY:
        return f"{100 * error:.0f} percentage points"
    if height != LOSS:
        return f"{error:.2g}"
    if 0 < error < 0.0095:  # 0 % would say that it is exact
        return f"{error:.1%}" if error >= 0.0005 else "under 0.1%"
    return f"{error:.0%}"


def describe_surfaces(
    surfaces: Sequence[Surface], height: str, titles: Sequence[str] | None = None
) -> str:
    """The caption of several surfaces: what is common, and how far each fits the states."""
    first = surfaces[0]
    rows, columns = first.loss.shape
    told = [surface.provenance for surface in surfaces]
    samples = [each["samples"] for each in told if each.get("samples")]
    of_samples = first.provenance.get("budget", {}).get("of_samples")
    made = f"{columns} × {rows} points"
    made += f", {_of(samples, of_samples)} samples" if samples else ""
    if any(surface.is_filled for surface in surfaces):
        counts = [int(surface.evaluated.sum()) for surface in surfaces]
        made += f", {_of(counts)} evaluated, the others interpolated"
    made += "."
    variances = dict.fromkeys(map(describe_variance, surfaces))
    made += " On the axes, the share of the path's variance."
    made += next(iter(variances)) if len(variances) == 1 else ""
    names = [surface.provenance.get("method", {}).get("name", "surface") for surface in surfaces]
    names = [title.replace("\n", " ") for title in titles] if titles else names
    medians = []
    for name, surface in zip(names, surfaces, strict=True):
        errors = _errors(surface, height)
        if np.isfinite(errors).any():
            medians.append(f"{name} {_off(np.nanmedian(errors), height)}")
    if medians:
        made += f" Surface against the states' own {height}, median: {', '.join(medians)}."
    if height == LOSS and all(surface.fidelity for surface in surfaces):
        made += f" {_near(surfaces, names)}."
    return made + describe_origin(first.provenance)


def _near(surfaces: Sequence[Surface], names: Sequence[str]) -> str:
    """How far each of several surfaces holds for vectors near the path."""
    told = (
        f"{name} {surface.fidelity.describe_shortly()}"
        for name, surface in zip(names, surfaces, strict=True)
        if surface.fidelity is not None
    )
    return f"Against parameter vectors near the path, 68% are off by at most: {', '.join(told)}"
