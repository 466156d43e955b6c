"""The command that says how far a picture holds."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import typer
from rich.table import Table

from losspath.analysis.evidence import HELD_OUT, Evidence
from losspath.analysis.fidelity import bare_key, bare_surface, fidelity_key, judge
from losspath.cli.console import busy, out, progress_bar, say
from losspath.cli.jobs import computed_once, surfaces_on
from losspath.cli.runs import Run
from losspath.errors import ArgumentError
from losspath.files import plain_json
from losspath.geometry.grid import Grid
from losspath.geometry.walk import RandomWalk
from losspath.methods import Method
from losspath.recording.trajectory import StateSequence
from losspath.surface import Fidelity, Landscape, Surface, check_same_network
from losspath.surface.fidelity import Interval
from losspath.surface.judging import SEED


def check_count(count: int) -> None:
    """Refuses a number of vectors that tells nothing, before anything is computed.

    Raises:
        ArgumentError: fewer than four.
    """
    if count < 4:
        raise ArgumentError(f"expected --count of at least 4, got {count}")


def compute_fidelity(
    run: Run,
    methods: Sequence[Method],
    resolution: int,
    samples: int | None,
    plane: str,
    forks: int,
    control: Path | None,
    count: int,
    executor: Executor | None = None,
) -> dict[str, Fidelity]:
    """By the method's description, the fidelity of its surface, each computed once and kept.

    Args:
        run: the run, or several in one plane.
        methods: the methods.
        resolution: grid lines an axis.
        samples: how many training samples.
        plane: the plane's name.
        forks: how many trainings go on from the run, where its maker can do that.
        control: another run, that the picture should know nothing of.
        count: vectors of each stratum.
        executor: whose workers evaluate the points; None for this process.
    """
    objective = run.training_objective(samples)
    check_same_network(run.path, objective)
    first = Landscape(run.path, objective, methods[0], plane=run.plane(plane, objective))
    grid = Grid.around(first.projection.coordinates, resolution)
    other = None if control is None else dataclasses.replace(run, directory=control, others=()).path
    forked = _forks(run, forks)
    run.made.forget_data()
    landscapes = [first.with_method(method) for method in methods]

    @functools.cache
    def evidence() -> Evidence:
        with busy("losses of vectors near the path"):
            return Evidence.of(first, forks=forked, control=other, count=count)

    def fidelity_of(landscape: Landscape, surface: Surface) -> Fidelity:
        label, called = landscape.method.name, landscape.method.describe()
        key = fidelity_key(landscape, grid, forked, other, count, SEED)
        without = f"{called} without the held-out stretches"

        def compute(_: Path) -> Fidelity:
            on = functools.partial(_surface_on, run, executor, without)
            found = judge(landscape, surface, evidence(), resolution, on)
            return dataclasses.replace(found, provenance={**found.provenance, "key": key})

        return computed_once(run, Fidelity, key, compute, f"fidelity of {called}", label)

    surfaces = surfaces_on(run, landscapes, grid, executor=executor)
    return {
        landscape.method.describe(): fidelity_of(landscape, surface)
        for landscape, surface in zip(landscapes, surfaces, strict=True)
    }


def _forks(run: Run, count: int) -> Sequence[StateSequence]:
    if not count or run.others:
        return ()
    with progress_bar("forks of the run") as progress:
        return run.made.forks(count, SEED, progress)


def _surface_on(
    run: Run,
    executor: Executor | None,
    called: str,
    landscape: Landscape,
    grid: Grid,
    around: npt.NDArray[np.float64],
) -> Surface:
    """A surface that is held against states alone around places, computed once and kept."""

    def compute(checkpoint: Path) -> Surface:
        with progress_bar(called) as progress:
            return bare_surface(
                landscape, grid, around, executor=executor, checkpoint=checkpoint, progress=progress
            )

    where = "" if executor is None else "workers"
    key, label = bare_key(landscape, grid, around), f"{HELD_OUT}-{landscape.method.name}"
    return computed_once(run, Surface, key, compute, called, label, where)


def print_fidelity(found: dict[str, Fidelity], as_json: bool) -> None:
    """Prints the numbers as a table, or as JSON: an object of one method, or by their names."""
    if as_json:
        values: dict[str, Any] = {name: each.to_json() for name, each in found.items()}
        (one, *others) = values.values()
        typer.echo(json.dumps(plain_json(values if others else one), indent=2))
        return
    for name, fidelity in found.items():
        table = Table(title=name, title_justify="left", box=None, pad_edge=False)
        for heading in ("", "vectors", "typical error", "bias", "skill"):
            table.add_column(heading, justify="left" if not heading else "right")
        for stratum, each in fidelity.strata.items():
            told = (each.typical_error, each.bias, each.skill)
            table.add_row(stratum, str(each.count), *_told(fidelity, *told))
        told = (fidelity.typical_error, fidelity.bias, fidelity.skill)
        table.add_row("all", "", *_told(fidelity, *told), style="bold")
        out.print(table)
        if math.isfinite(fidelity.skill_over_recorded.value):
            say(f"skill over the recorded losses: {_skill(fidelity.skill_over_recorded)}")
        if fidelity.control is not None:
            say(f"skill on the control run: {_skill(fidelity.control)}")
        least = _error(fidelity, fidelity.floor)
        spread = f"the losses of balls at one place spread by {least}"
        say(f"{spread}, and no picture can be nearer to balls than that")
    _say_variance(fidelity)
    say(
        "typical error: 68 % are off by at most so much; bias: above zero the picture is too high; "
        "both of all but chords. Skill: 1 is exact, 0 tells no more than the losses of up to 150 "
        "states, interpolated (in captions: of the states that are drawn). "
        "In brackets: 95 % intervals"
    )


def _say_variance(fidelity: Fidelity) -> None:
    """Says what share of the path's variance the plane has, where it is the principal one."""
    told = fidelity.provenance
    if "random_walk" in told and "explained_variance_ratio" in told:
        walk = RandomWalk.from_json(told["random_walk"])
        say(f"the plane has {walk.describe(sum(told['explained_variance_ratio']))}")


def _told(
    fidelity: Fidelity, typical: Interval, bias: Interval, skill: Interval
) -> tuple[str, str, str]:
    ends = (_error(fidelity, each) for each in (typical.low, typical.high))
    biases = (_bias(each) for each in (bias.low, bias.high))
    return (
        f"{_error(fidelity, typical.value)} ({'…'.join(ends)})",
        f"{_bias(bias.value)} ({'…'.join(biases)})",
        _skill(skill),
    )


def _error(fidelity: Fidelity, value: float) -> str:
    if not fidelity.is_logarithmic:
        return f"{value:.1%}"
    return f"×{value:.2f}" if value >= 1.1 else f"×{value:.3f}"


def _bias(value: float) -> str:
    told = f"{value:+.0%}" if abs(value) >= 0.0095 else f"{value:+.1%}"
    return "0.0%" if abs(value) < 0.0005 else told.replace("-", "−")


def _skill(skill: Interval) -> str:
    return f"{skill.value:+.2f} ({skill.low:+.2f}…{skill.high:+.2f})".replace("-", "−")
