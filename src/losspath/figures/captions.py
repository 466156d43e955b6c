"""What captions of surfaces say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from losspath.analysis.distances import DistanceMap
from losspath.figures.style import describe_origin
from losspath.surface import ACCURACY, LOSS, Surface

Floats = npt.NDArray[np.float64]


def describe_surface(surface: Surface, height: str = LOSS) -> str:
    """The caption of a surface: how it was made, and how far it fits the states on it."""
    rows, columns = surface.loss.shape
    parts = [f"{columns} × {rows} points"]
    samples = surface.provenance.get("samples")
    parts += [f"{samples:,} samples"] if samples else []
    parts += [f"{int(surface.evaluated.sum()):,} evaluated"] if not surface.evaluated.all() else []
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
    return words + describe_origin(surface.provenance)


def describe_variance(shown: Surface | DistanceMap) -> str:
    """A sentence on the share of variance in a path's principal plane, beside a random walk's.

    It stands after a space; "" for other planes, of which the axes say all there is to say.
    """
    if shown.random_walk is None:
        return ""
    share = float(np.sum(shown.explained_variance_ratio))
    return f" The plane has {shown.random_walk.describe(share, len(shown.starts) > 1)}."


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
    samples = first.provenance.get("samples")
    made = f"{columns} × {rows} points" + (f", {samples:,} samples" if samples else "") + "."
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
