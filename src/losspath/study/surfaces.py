"""What surfaces depend on: the network, the states that were kept, the grid, the samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from losspath.analysis.comparison import SurfaceDifference, compare_surfaces
from losspath.figures import plot_surfaces
from losspath.methods import Averaged
from losspath.study import numbers
from losspath.study.claims import Check, Judgment, all_above, all_below, spread
from losspath.study.drawing import draw_lines
from losspath.study.plan import Plan
from losspath.study.runs import Result
from losspath.study.section import (
    Evidence,
    Picture,
    Section,
    strides_of,
    surface_of,
    thinned_of,
)

# Two pictures are taken for the same from this structural similarity and relative error on.
_SAME, _ERROR = 0.95, 0.05


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
    thinned = [surface_of(plan, run, Averaged(), stride=n) for n in strides_of(plan)]
    return [*grids, *counts, *thinned, thinned_of(plan, run)]


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
    whole = evidence.surface(run, Averaged())
    found[_THINNED] = {
        stride: compare_surfaces(evidence.surface(run, Averaged(), stride=stride), whole)
        for stride in strides_of(plan)
    }
    return found


def _draw_resolution(evidence: Evidence) -> Figure:
    panels: list[tuple[str, str, Mapping[str, tuple[numbers.Floats, numbers.Floats]]]] = []
    for name, by_value in _resolution_numbers(evidence).items():
        x = np.array(list(by_value), float)
        found = list(by_value.values())
        curves = {
            "1 − structural similarity": (x, np.array([1 - each.ssim for each in found])),
            "median difference": (x, np.array([each.median_error for each in found])),
        }
        label = f"{name}\n(evaluations: {', '.join(f'{each.cost:.0%}' for each in found)})"
        if name == _THINNED:
            lengths = evidence.lengths(evidence.plan.run())
            lost = np.array([1 - lengths[stride] / lengths[1] for stride in by_value])
            curves["length that the path has lost"] = (x, lost)
            label = name
        panels.append((label, f"against {_AGAINST[name]}", curves))
    return draw_lines(panels, _RESOLUTION, logarithmic=True)


_THINNED = "one state kept of"
_AGAINST = {"grid lines": "twice the lines", "samples": "six times as many", _THINNED: "all states"}

_RESOLUTION = (
    "The averaged surface of Modified-LeNet (SGD, seed 0) on coarser grids, over fewer samples and "
    "around a thinned path: how far the picture and the losses are from the finest, and how much "
    "shorter a thinned path is than the path. Evaluations are shares of the finest's."
)


def _alike(difference: SurfaceDifference) -> bool:
    return difference.ssim > _SAME and difference.median_error < _ERROR


def _judge_resolution(evidence: Evidence) -> Judgment:
    found, scale = _resolution_numbers(evidence), evidence.plan.scale
    checks = []
    for name, usual in (("grid lines", scale.resolution), ("samples", scale.samples)):
        alike = {value: _alike(each) for value, each in found[name].items()}
        here = found[name][usual]
        words = (
            f"{usual:,} {name}, seed 0: similarity {here.ssim:.3f} and difference "
            f"{here.median_error:.1%} for {here.cost:.0%} of the evaluations"
        )
        fewest = min((value for value, same in alike.items() if same), default=usual)
        if fewest < usual:
            words += f"; {fewest:,} would pass too"
        checks.append(Check(words, alike[usual]))
    return Judgment(
        "resolution and samples",
        "More than 10,000 samples and a grid of 19 × 19 change nothing visible.",
        tuple(checks),
        "resolution",
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
