"""Measures results: every number that judges and notes use, and most that pictures show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch import nn

from losspath.analysis.comparison import compare_surfaces
from losspath.analysis.dynamics import Dynamics
from losspath.analysis.interpolation import Interpolation
from losspath.analysis.runs import History
from losspath.analysis.steps import StepSizes
from losspath.analysis.verdict import judge_dynamics
from losspath.geometry.grid import Grid
from losspath.geometry.plane import PrincipalPlane
from losspath.surface import Surface
from losspath.thesis.study import numbers, results
from losspath.thesis.study.plan import TEMPERATURES, Plan
from losspath.thesis.study.results import Label, Result, Run
from losspath.thesis.study.table import Measurement, Table

SHARES = (0.05, 0.1, 0.2)
"""Of a run's steps, that its end is foretold by."""

_MOST = 0.9  # of the fall in loss

# A quantity, its value, and where needed the method and the setting.
Row = tuple[Any, ...]


def measure(plan: Plan, load: Callable[[Result[Any]], Any], there: Iterable[Result[Any]]) -> Table:
    """Measures everything that can be measured of some results.

    Args:
        plan: which runs and surfaces there are.
        load: reads a result.
        there: the results that are to be measured.
    """
    kinds: list[tuple[Callable[[Run], Result[Any]], Callable[..., Iterator[Row]]]] = [
        (results.history, _of_history),
        (results.steps, _of_steps),
        (results.explained, lambda plan, run, share: iter([("explained variance", share)])),
        (results.plane, _of_plane),
        (results.layers, _of_layers),
        (plan.lengths, _of_lengths),
        (plan.fidelities, _of_fidelities),
        (plan.dynamics, _of_dynamics),
    ]
    known, rows = dict.fromkeys(there), []
    for run in dict.fromkeys(result.run for result in known):
        found = [*_of_network(plan, run)]
        for result_of, measured in kinds:
            if result_of(run) in known:
                found += measured(plan, run, load(result_of(run)))
        surfaces = {
            label: load(plan.surface(run, *label))
            for label in plan.surfaces
            if plan.surface(run, *label) in known
        }
        line = load(plan.line(run)) if plan.line(run) in known else None
        for label, surface in surfaces.items():
            found += [(*row, *label) for row in _of_surface(surface, line)]
        found += _of_comparisons(plan, surfaces)
        rows += [Measurement.of(run, *row) for row in found]
    return Table(plan, rows)


def _of_network(plan: Plan, run: Run) -> Iterator[Row]:
    network = plan.network(run.config.network, run.data)
    yield "parameters", sum(parameter.numel() for parameter in network.parameters())
    yield "layers", sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in network.modules())


def _of_history(plan: Plan, run: Run, history: History) -> Iterator[Row]:
    loss = history.training_loss
    yield "final training loss", loss[-1]
    yield "mean training loss", loss[1:].mean()  # of all epochs: what falls sooner has less
    yield "final validation accuracy", history.validation_accuracy[-1]
    fallen = (loss[0] - loss) >= _MOST * (loss[0] - np.nanmin(loss))
    yield "epochs to nine tenths of the fall", history.epoch[fallen.argmax()]


def _of_steps(plan: Plan, run: Run, sizes: StepSizes) -> Iterator[Row]:
    yield "optimizer steps", sizes.steps[-1]
    middles, means, _ = sizes.binned()
    longest = middles[np.nanargmax(means)] if np.isfinite(means).any() else float("nan")
    yield "steps longest at step", longest
    yield "steps longest at share of the run", longest / sizes.steps[-1]
    is_trial = run.epochs == plan.scale.trial_epochs
    for share in (1.0, *(SHARES if is_trial else ())):
        setting = "" if share == 1 else first(share)
        found = numbers.Development.of(sizes, share)
        yield "mean step size", found.mean, "", setting
        yield "bump", found.bump, "", setting
        yield "change behind the bump", found.trend, "", setting
        yield "order behind the bump", found.order, "", setting
        yield "fall of the batch loss", numbers.fall(sizes, share), "", setting


def first(share: float) -> str:
    """The setting of what is measured of the first share of the steps."""
    return f"first {share:.0%}"


def _of_plane(plan: Plan, run: Run, plane: PrincipalPlane) -> Iterator[Row]:
    path = plane.path
    yield "width of the path", np.ptp(path.coordinates, axis=0).max()
    yield "first state off the plane", path.residual_norms[0]
    yield "last state off the plane", path.residual_norms[-1]
    grid = Grid.around(path.coordinates, plan.scale.resolution)
    for temperature in TEMPERATURES:
        if not isinstance(temperature, str):
            blended = numbers.effective_states(path, grid.points, temperature) / len(path)
            setting = plan.setting("temperature", temperature)
            yield "share of the states blended", blended, "averaged", setting


def _of_layers(plan: Plan, run: Run, line: Interpolation) -> Iterator[Row]:
    for layer, share in line.shares.items():
        yield "share of the drop in loss", share, "", layer


def _of_lengths(plan: Plan, run: Run, lengths: dict[int, float]) -> Iterator[Row]:
    for stride, length in lengths.items():
        yield "length of the path", length, "", plan.setting("stride", stride)


def _of_fidelities(plan: Plan, run: Run, found: dict[Label, dict[str, float]]) -> Iterator[Row]:
    for label, numbers_of in found.items():
        for quantity, value in numbers_of.items():
            yield quantity, value, *label


def _of_dynamics(plan: Plan, run: Run, dynamics: Dynamics) -> Iterator[Row]:
    is_known = np.isfinite(dynamics.sharpness)
    sharpest = int(np.nanargmax(dynamics.sharpness)) if is_known.any() else 0
    yield "steps between measured states", np.diff(dynamics.steps).mean()
    yield "sharpest at step", dynamics.steps[sharpest]
    yield "largest sharpness", dynamics.sharpness[sharpest]
    yield "final sharpness", dynamics.sharpness[-1]
    yield "mean cosine of steps", np.nanmean(dynamics.cosines)
    yield "reads as", 1.0, "", judge_dynamics(dynamics).name


def _of_surface(surface: Surface, line: Interpolation | None) -> Iterator[Row]:
    yield "off the states' losses", numbers.state_error(surface)
    yield "roughness", numbers.roughness(surface)
    yield "local extremes", numbers.extremes(surface)
    if line is not None:
        yield "off the line", numbers.linear_path_error(surface, line)
        yield "climb on the line", numbers.rise(numbers.linear_path(surface, line)[0])


def _of_comparisons(plan: Plan, surfaces: dict[tuple[str, str], Surface]) -> Iterator[Row]:
    """Surfaces against finer ones, and methods against each other."""
    usual, sweeps = ("averaged", ""), plan.sweeps

    def swept(name: str) -> list[tuple[str, str]]:
        return [("averaged", plan.setting(name, value)) for value in sweeps[name]]

    grids, samples, strides = map(swept, ("resolution", "samples", "stride"))
    temperatures = [("averaged", plan.setting("temperature", each)) for each in TEMPERATURES]
    for words, labels, reference in (
        ("the finest grid", grids[:-1], grids[-1]),
        ("the most samples", samples[:-1], samples[-1]),
        ("all states", strides[1:], usual),
        ("pca", temperatures, ("pca", "")),
        ("averaged", [("averaged-nd", "")], usual),
    ):
        for label in labels:
            if label in surfaces and reference in surfaces:
                one, other = surfaces[label], surfaces[reference]
                # Planes of all states and of some are nearly the same.
                found = compare_surfaces(one, other, check=False)
                yield f"similarity to {words}", found.ssim, *label
                yield f"median difference from {words}", found.median_error, *label
                yield f"95 % difference from {words}", found.high_error, *label
                yield f"evaluations against {words}", found.cost, *label
                if words == "all states":
                    yield "shift of the start", np.linalg.norm(one.path[0] - other.path[0]), *label
