"""The command that says how uncertain a surface or a line is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer

from losspath.analysis.interpolation import default_alphas, interpolation_key
from losspath.analysis.uncertainty import (
    SOURCES,
    Uncertainty,
    line_uncertainty,
    surface_uncertainty,
    uncertainty_key,
)
from losspath.cli.console import progress_bar, say, say_file
from losspath.cli.jobs import compute_surfaces, computed_once, figure_file
from losspath.cli.runs import Run
from losspath.errors import ArgumentError
from losspath.files import plain_json
from losspath.geometry.grid import Grid
from losspath.methods import Method
from losspath.recording.paths import state_written
from losspath.surface import Landscape, Surface, check_same_network


@dataclasses.dataclass(frozen=True)
class Source:
    """Where uncertainty comes from, and how much of it is asked for.

    Attributes:
        name: as of `losspath.surface_uncertainty`, like all others.
        level: the share of intervals.
        draws: of masks or parameters.
        seed: of draws.
    """

    name: str
    level: float
    draws: int
    seed: int

    def options(self) -> dict[str, Any]:
        """The same, as options of `losspath.surface_uncertainty`."""
        values = dataclasses.asdict(self)
        return {"source": values.pop("name"), **values}


def check_source(source: Source) -> None:
    """Refuses what makes no intervals, before anything is computed.

    Raises:
        ArgumentError: no such source, or a level that is none.
    """
    if source.name not in SOURCES:
        raise ArgumentError(f"expected --source {'|'.join(SOURCES)}, got {source.name!r}")
    if not 0 < source.level < 1:
        raise ArgumentError(f"expected --level between 0 and 1, got {source.level:g}")


def compute_surface_uncertainty(
    run: Run,
    methods: Sequence[Method],
    resolution: int,
    samples: int | None,
    plane: str,
    source: Source,
) -> tuple[Surface, Uncertainty]:
    """A surface of a run and how uncertain it is, each computed once and kept."""
    if len(methods) != 1:
        raise ArgumentError(f"expected one --method, got {len(methods)}; name it")
    (method,) = methods
    (surface,), made = compute_surfaces(run, [method], resolution, samples, plane)
    objective = run.training_objective(samples)
    landscape = Landscape(run.path, objective, method, plane=made)
    grid = Grid(surface.x, surface.y)
    key = uncertainty_key(landscape.key(grid), **source.options())

    def compute(checkpoint: Path) -> Uncertainty:
        with progress_bar(f"uncertainty by {source.name}") as progress:
            return surface_uncertainty(
                run.path,
                objective,
                method,
                plane=made,
                grid=grid,
                checkpoint=checkpoint,
                progress=progress,
                **source.options(),
            )

    called = f"uncertainty of {landscape.method.describe()} by {source.name}"
    return surface, computed_once(run, Uncertainty, key, compute, called, label=source.name)


def compute_line_uncertainty(run: Run, line: str, points: int, source: Source) -> Uncertainty:
    """How uncertain the line between two states of a run is, computed once and kept."""
    ends = line.split(",")
    if len(ends) != 2:
        raise ArgumentError(f"expected --line as two states, such as first,last, got {line!r}")
    start, end = (state_written(each, len(run.path)) for each in ends)
    objective, alphas = run.validation_objective(), default_alphas(points)
    check_same_network(run.path, objective)
    key = uncertainty_key(
        interpolation_key(run.path, objective, (start, end), alphas, False),
        **source.options(),
    )

    def compute(checkpoint: Path) -> Uncertainty:
        with progress_bar(f"uncertainty by {source.name}") as progress:
            return line_uncertainty(
                run.path,
                objective,
                start,
                end,
                alphas=alphas,
                checkpoint=checkpoint,
                progress=progress,
                **source.options(),
            )

    called = f"uncertainty of the line by {source.name}"
    return computed_once(run, Uncertainty, key, compute, called, label=f"line-{source.name}")


def tell_uncertainty(
    run: Run,
    found: Uncertainty,
    surface: Surface | None,
    wide: float | None,
    figure: Path | None,
    extension: str,
    as_json: bool,
) -> None:
    """Draws an uncertainty, and prints it in a line or as JSON."""
    from losspath.figures import plot_uncertainty, save_figure

    if not as_json or figure is not None:
        kind = "line" if surface is None else str(surface.provenance["method"]["name"])
        name = f"uncertainty-{kind}-{found.source}-{found.provenance['key'][:8]}.{extension}"
        title = run.title if surface is None else f"{run.title}: {surface.description}"
        drawn = plot_uncertainty(found, surface, wide=wide, title=title)
        say_file("figure", save_figure(drawn, figure_file(run, figure, name)))
    told = found.to_json()
    if as_json:
        typer.echo(json.dumps(plain_json(told), indent=2))
    elif told["known"]:
        sign = "×" if found.is_relative else "±"
        middle, most = (f"{sign}{told[each]:.3g}" for each in ("median_width", "largest_width"))
        lost = int(np.sum(~np.isfinite(found.widths)))
        say(
            f"half of the {found.level:.0%} intervals: {middle} in the middle, at most {most}"
            + (f"; not known at {lost} points" if lost else "")
        )
