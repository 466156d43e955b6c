"""What surfaces depend on: network, path, grid, samples, distances, temperature."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from losspath.analysis.comparison import SurfaceDifference, compare_surfaces
from losspath.figures import plot_surfaces
from losspath.geometry.grid import Grid
from losspath.methods import Averaged, AveragedND, PathGeometry
from losspath.study import numbers
from losspath.study.claims import Check, Judgment, all_above, all_below, spread
from losspath.study.drawing import draw_lines
from losspath.study.plan import OPTIMIZERS, Plan
from losspath.study.runs import Ratios, Result, Run
from losspath.study.section import (
    Evidence,
    Picture,
    Section,
    surface_of,
    thinned_of,
)

# Two pictures are taken for the same from this structural similarity and relative error on.
_SAME, _ERROR = 0.95, 0.05


_TEMPERATURES = (0.01, 0.1, 1.0, 10.0)


def _sizes_needs(plan: Plan) -> list[Result]:
    needs: list[Result] = [surface_of(plan, plan.run("lenet5"), Averaged())]
    for run in plan.main_runs():
        needs += [surface_of(plan, run, Averaged()), thinned_of(plan, run)]
        needs.append(surface_of(plan, run, Averaged(), stride=plan.scale.stride))
    return needs


def _draw_sizes(evidence: Evidence) -> Figure:
    plan = evidence.plan
    stride = plan.scale.stride
    surfaces = [
        evidence.surface(plan.run("lenet5"), Averaged()),
        evidence.surface(plan.run(), Averaged()),
        evidence.surface(plan.run(), Averaged(), stride=stride),
    ]
    titles = ["LeNet-5", "Modified-LeNet", f"Modified-LeNet, every {stride}th state"]
    return plot_surfaces(surfaces, titles=titles)


def _judge_sampling(evidence: Evidence) -> Judgment:
    plan, stride = evidence.plan, evidence.plan.scale.stride
    found = [
        compare_surfaces(
            evidence.surface(run, Averaged(), stride=stride), evidence.surface(run, Averaged())
        )
        for run in plan.main_runs()
    ]
    ssim, errors = [each.ssim for each in found], [each.median_error for each in found]
    shares = [evidence.lengths(r)[stride] / evidence.lengths(r)[1] for r in plan.main_runs()]
    return Judgment(
        "sampled path",
        f"A path sampled {stride}× gives almost the same surface, but wrong step sizes.",
        (
            Check(f"structural similarity {spread(ssim)}", all_above(ssim, _SAME)),
            Check(f"median difference {spread(errors, '.1%')}", all_below(errors, _ERROR)),
            Check(
                f"its steps add up to {spread(shares, '.0%')} of the path's length",
                all_below(shares, 0.9),
            ),
        ),
        "fig-6.7",
    )


def _grids(plan: Plan) -> tuple[int, ...]:
    usual = plan.scale.resolution
    return tuple(sorted({max(5, usual // 2), round(usual * 0.7), usual, 2 * usual - 1}))


def _sample_counts(plan: Plan) -> tuple[int, ...]:
    usual = plan.scale.samples
    return (usual // 10, usual // 3, usual, 6 * usual)


def _resolution_needs(plan: Plan) -> list[Result]:
    run = plan.run()
    grids = [surface_of(plan, run, Averaged(), resolution=n) for n in _grids(plan)]
    counts = [surface_of(plan, run, Averaged(), samples=n) for n in _sample_counts(plan)]
    return [*grids, *counts]


def _resolution_numbers(evidence: Evidence) -> dict[str, dict[int, SurfaceDifference]]:
    """By what is varied and its values: how far the surface is from the finest."""
    plan, run = evidence.plan, evidence.plan.run()
    found = {}
    for name, key, values in (
        ("grid lines", "resolution", _grids(plan)),
        ("samples", "samples", _sample_counts(plan)),
    ):
        finest = evidence.surface(run, Averaged(), **{key: values[-1]})
        found[name] = {
            value: compare_surfaces(evidence.surface(run, Averaged(), **{key: value}), finest)
            for value in values[:-1]
        }
    return found


def _draw_resolution(evidence: Evidence) -> Figure:
    panels = []
    for name, by_value in _resolution_numbers(evidence).items():
        x = np.array(list(by_value), float)
        curves = {
            "structural similarity": (x, np.array([each.ssim for each in by_value.values()])),
            "median difference": (x, np.array([each.median_error for each in by_value.values()])),
            "cost": (x, np.array([each.cost for each in by_value.values()])),
        }
        panels.append((name, "against the finest", curves))
    return draw_lines(panels, _RESOLUTION)


_RESOLUTION = (
    "The averaged surface of Modified-LeNet against one of twice the lines, and one of six times "
    "the samples: how alike the pictures are, how far the losses are apart, and what share of the "
    "evaluations it takes."
)


def _judge_resolution(evidence: Evidence) -> Judgment:
    found, scale = _resolution_numbers(evidence), evidence.plan.scale
    checks = []
    for name, usual in (("grid lines", scale.resolution), ("samples", scale.samples)):
        here = found[name][usual]
        same = here.ssim > _SAME and here.median_error < _ERROR
        words = (
            f"{usual:,} {name}: similarity {here.ssim:.3f} and difference {here.median_error:.1%} "
            f"for {here.cost:.0%} of the evaluations"
        )
        checks.append(Check(words, same))
    return Judgment(
        "resolution and samples",
        "More than 10,000 samples and a grid of 19 × 19 change nothing visible.",
        tuple(checks),
        "resolution",
    )


def _combinations(plan: Plan) -> dict[str, tuple[str, list[Run]]]:
    """By title: the optimiser, and runs."""
    found = {}
    for data in plan.scale.data:
        for optimizer, title in OPTIMIZERS.items():
            for dropout in (False, True):
                words = f"{title}{', dropout' if dropout else ''}, {data}"
                runs = plan.seeds(plan.run(data=data, optimizer=optimizer, dropout=dropout))
                found[words] = (title, runs)
    return found


def _distances_needs(plan: Plan) -> list[Result]:
    needs: list[Result] = []
    for _, runs in _combinations(plan).values():
        for run in runs:
            needs += [surface_of(plan, run, Averaged()), surface_of(plan, run, AveragedND())]
            needs.append(Ratios(run))
    return needs


def _draw_distances(evidence: Evidence, data: str) -> Figure:
    surfaces, titles = [], []
    for words, (_, runs) in _combinations(evidence.plan).items():
        if not words.endswith(f", {data}"):
            continue
        for method in (Averaged(), AveragedND()):
            surfaces.append(evidence.surface(runs[0], method))
            titles.append(f"{words.removesuffix(f', {data}')}\n{method.name}")
    return plot_surfaces(surfaces, titles=titles, title=f"Modified-LeNet, {data}", columns=4)


def _judge_variance(evidence: Evidence) -> Judgment:
    shares: dict[str, list[float]] = {"SGD": [], "Adam": []}
    for optimizer, runs in _combinations(evidence.plan).values():
        shares[optimizer] += [evidence.explained(run) for run in runs]
    return Judgment(
        "explained variance",
        "Two components hold about 95 % of the variance of SGD's paths, about 65 % of Adam's.",
        (
            Check(
                f"SGD {spread(shares['SGD'], '.0%')}",
                bool(abs(np.mean(shares["SGD"]) - 0.95) < 0.05),
            ),
            Check(
                f"Adam {spread(shares['Adam'], '.0%')}",
                bool(abs(np.mean(shares["Adam"]) - 0.65) < 0.1),
            ),
            Check(
                "less for Adam on the average",
                bool(np.mean(shares["Adam"]) < np.mean(shares["SGD"])),
            ),
        ),
        "fig-6.9",
    )


def _judge_distances(evidence: Evidence) -> Judgment:
    differences: dict[str, list[float]] = {"SGD": [], "Adam": []}
    ratios, every = [], []
    for optimizer, runs in _combinations(evidence.plan).values():
        for run in runs:
            found = compare_surfaces(
                evidence.surface(run, AveragedND()), evidence.surface(run, Averaged())
            )
            differences[optimizer].append(found.median_error)
            every.append(found.median_error)
            ratios.append(evidence.explained(run))
    order = float(spearmanr(ratios, every).statistic)
    return Judgment(
        "averaged-nd",
        "It differs from averaged more for Adam than for SGD, following the explained variance.",
        (
            Check(
                f"median difference: SGD {spread(differences['SGD'], '.1%')}, Adam "
                f"{spread(differences['Adam'], '.1%')}",
                bool(np.mean(differences["Adam"]) > np.mean(differences["SGD"])),
            ),
            Check(f"rank correlation with the explained variance {order:.2f}", bool(order < -0.3)),
        ),
        "fig-6.9",
    )


def _temperature_needs(plan: Plan) -> list[Result]:
    needs: list[Result] = []
    for optimizer in OPTIMIZERS:
        run = plan.run(optimizer=optimizer)
        needs += [surface_of(plan, run, Averaged(temperature=t)) for t in _TEMPERATURES]
        needs += [surface_of(plan, run, Averaged(temperature="auto")), Ratios(run)]
    return needs


def _draw_temperature(evidence: Evidence) -> Figure:
    curves: dict[str, dict[str, tuple[numbers.Floats, numbers.Floats]]] = {
        "states": {},
        "errors": {},
    }
    for optimizer, title in OPTIMIZERS.items():
        run = evidence.plan.run(optimizer=optimizer)
        plane = evidence.plane(run)
        extent = float(np.ptp(plane.path, axis=0).max())
        grid = Grid.around(plane.path, evidence.plan.scale.resolution)
        geometry = PathGeometry(plane.path, plane.residual_norms, grid.center)
        x = np.array(_TEMPERATURES)
        states = [numbers.effective_states(geometry, grid.points, t) for t in _TEMPERATURES]
        errors = [
            numbers.state_error(evidence.surface(run, Averaged(temperature=t)))
            for t in _TEMPERATURES
        ]
        name = f"{title}, path {extent:.2g} wide"
        curves["states"][name] = (x, np.array(states) / len(plane.path))
        curves["errors"][name] = (x, np.array(errors))
    label = "temperature τ"
    panels = [
        (label, "share of the states\nthat a point is blended of", curves["states"]),
        (label, "ground against states' losses", curves["errors"]),
    ]
    return draw_lines(panels, _TEMPERATURE)


_TEMPERATURE = (
    "What τ = 1 means depends on the path's width: where it is wide against it, a point is blended "
    "of a few states (as in sampled), where narrow of all (as in pca). Left: exp(entropy of the "
    "weights), median over the grid; right: the median error at the states."
)


SIZES = Section(
    "6.7",
    "The size of the network and of the path",
    _sizes_needs,
    lambda plan: [
        Picture(
            "fig-6.7",
            "Averaged surfaces of LeNet-5, of Modified-LeNet, and of Modified-LeNet's path "
            "sampled (thesis Fig. 6.7).",
            _draw_sizes,
        )
    ],
    (_judge_sampling,),
)

RESOLUTION = Section(
    "resolution",
    "Grid and samples",
    _resolution_needs,
    lambda plan: [Picture("resolution", _RESOLUTION, _draw_resolution)],
    (_judge_resolution,),
)

DISTANCES = Section(
    "6.9",
    "Distances in the plane and in all of parameter space",
    _distances_needs,
    lambda plan: [
        Picture(
            f"fig-6.9-{number}" if number else "fig-6.9",
            f"averaged and averaged-nd on {data} (thesis Fig. 6.9).",
            partial(_draw_distances, data=data),
        )
        for number, data in enumerate(plan.scale.data)
    ],
    (_judge_variance, _judge_distances),
)

TEMPERATURE = Section(
    "temperature",
    "The temperature of the averages",
    _temperature_needs,
    lambda plan: [Picture("temperature", _TEMPERATURE, _draw_temperature)],
)
