"""What surfaces depend on: the network, the states that were kept, the grid, the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from losspath.analysis.comparison import SurfaceDifference, compare_surfaces
from losspath.figures import plot_surfaces
from losspath.methods import Averaged
from losspath.thesis.study import numbers
from losspath.thesis.study.claims import Check, Judgment, all_above, all_below, spread
from losspath.thesis.study.drawing import draw_check, draw_lines
from losspath.thesis.study.plan import Plan
from losspath.thesis.study.runs import Result, Run
from losspath.thesis.study.section import (
    Evidence,
    Picture,
    Section,
    linear_path_of,
    strides_of,
    surface_of,
    thinned_of,
)

# Two pictures are taken for the same from this structural similarity and relative error on.
_SAME, _ERROR = 0.95, 0.05


def _sizes_needs(plan: Plan) -> list[Result]:
    large = plan.run("lenet5")
    needs: list[Result] = [surface_of(plan, large, Averaged()), linear_path_of(plan, large)]
    for run in plan.main_runs():
        needs += [
            surface_of(plan, run, Averaged()),
            thinned_of(plan, run),
            linear_path_of(plan, run),
        ]
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


def _tell_sizes(evidence: Evidence) -> str:
    """How far the surfaces are to be trusted."""
    plan, stride = evidence.plan, evidence.plan.scale.stride
    rows = {
        "LeNet-5": ([plan.run("lenet5")], {}),
        "Modified-LeNet": (plan.main_runs(), {}),
        f"Modified-LeNet, every {stride}th state": (plan.main_runs(), {"stride": stride}),
    }
    lines = [
        "| path | seeds | ground off the states' own losses (median) | off the exact losses of the "
        "straight line (most, of their range) |",
        "| --- | --- | --- | --- |",
    ]
    for name, (runs, options) in rows.items():
        surfaces = [evidence.surface(run, Averaged(), **options) for run in runs]
        states = [numbers.state_error(surface) for surface in surfaces]
        # The last state that is kept of a sampled path need not be the path's last: the line is.
        errors = [
            numbers.linear_path_error(surface, evidence.linear_path(run))
            for surface, run in zip(surfaces, runs, strict=True)
        ]
        lines.append(
            f"| {name} | {len(runs)} | {spread(states, '.0%')} | {spread(errors, '.0%')} |"
        )
    return "\n".join(lines)


def _draw_sizes_check(evidence: Evidence) -> Figure:
    plan, stride = evidence.plan, evidence.plan.scale.stride
    panels = []
    for title, run, options in (
        ("LeNet-5", plan.run("lenet5"), {}),
        ("Modified-LeNet", plan.run(), {}),
        (f"Modified-LeNet,\nevery {stride}th state", plan.run(), {"stride": stride}),
    ):
        line = evidence.linear_path(run)
        read, exact = numbers.linear_path(evidence.surface(run, Averaged(), **options), line)
        panels.append((title, line.alpha, exact, {"averaged": read}))
    return draw_check(panels, _SIZES_CHECK, columns=3)


_SIZES_CHECK = (
    "Losses along the straight line between the ends of the paths of Fig. 6.7 (seed 0): exact, and "
    "as their averaged surfaces have them."
)


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
    needs: list[Result] = []
    for run in plan.main_runs():
        needs += [surface_of(plan, run, Averaged(), resolution=n) for n in _grids(plan)]
        needs += [surface_of(plan, run, Averaged(), samples=n) for n in _sample_counts(plan)]
        needs += [surface_of(plan, run, Averaged(), stride=n) for n in strides_of(plan)]
        needs.append(thinned_of(plan, run))
    return needs


@dataclass(frozen=True)
class _Coarser:
    """How far a run's surface is from the finest, with a number for each seed."""

    differences: tuple[SurfaceDifference, ...]

    def values(self, name: str) -> list[float]:
        return [float(getattr(each, name)) for each in self.differences]

    @property
    def cost(self) -> float:
        """Evaluations, of the finest's; much the same for all seeds."""
        return float(np.mean(self.values("cost")))

    @property
    def alike(self) -> bool:
        """Whether each is taken for the same picture."""
        return min(self.values("ssim")) > _SAME and max(self.values("median_error")) < _ERROR


def _resolution_numbers(evidence: Evidence) -> dict[str, dict[int, _Coarser]]:
    """By what is varied and its values."""
    plan = evidence.plan

    def against(values: Sequence[int], finest: dict[str, int], key: str) -> dict[int, _Coarser]:
        return {
            value: _Coarser(
                tuple(
                    compare_surfaces(
                        evidence.surface(run, Averaged(), **{key: value}),
                        evidence.surface(run, Averaged(), **finest),
                    )
                    for run in plan.main_runs()
                )
            )
            for value in values
        }

    grids, counts = _grids(plan), _sample_counts(plan)
    return {
        "grid lines": against(grids[:-1], {"resolution": grids[-1]}, "resolution"),
        "samples": against(counts[:-1], {"samples": counts[-1]}, "samples"),
        _THINNED: against(strides_of(plan), {}, "stride"),
    }


def _kept_lengths(evidence: Evidence, stride: int) -> list[float]:
    """A thinned path's length as a share of the path's, for each seed."""
    lengths = [evidence.lengths(run) for run in evidence.plan.main_runs()]
    return [each[stride] / each[1] for each in lengths]


def _draw_resolution(evidence: Evidence) -> Figure:
    panels: list[tuple[str, str, Mapping[str, tuple[numbers.Floats, numbers.Floats]]]] = []
    for name, by_value in _resolution_numbers(evidence).items():
        x = np.array(list(by_value), float)
        found = list(by_value.values())
        curves = {
            "1 − structural similarity": (x, 1 - np.array([e.values("ssim") for e in found]).T),
            "median difference": (x, np.array([e.values("median_error") for e in found]).T),
        }
        label = f"{name}\n(evaluations: {', '.join(f'{each.cost:.0%}' for each in found)})"
        if name == _THINNED:
            lost = 1 - np.array([_kept_lengths(evidence, stride) for stride in by_value]).T
            curves["length that the path has lost"] = (x, lost)
            label = name
        panels.append((label, f"against {_AGAINST[name]}", curves))
    return draw_lines(panels, _RESOLUTION, logarithmic=True)


_THINNED = "one state kept of"
_AGAINST = {"grid lines": "twice the lines", "samples": "six times as many", _THINNED: "all states"}

_RESOLUTION = (
    "The averaged surface of Modified-LeNet (SGD) on coarser grids, over fewer samples and around "
    "a thinned path: how far the picture and the losses are from the finest, and how much shorter "
    "a thinned path is than the path. Evaluations are shares of the finest's. Lines: means over "
    "seeds; bands: from the least to the greatest."
)


def _tell_resolution(evidence: Evidence) -> str:
    """The numbers of the figure as a table."""
    plan = evidence.plan
    lines = [
        "| what | value | structural similarity | median difference | 95 % below | cost |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, by_value in _resolution_numbers(evidence).items():
        for value, each in by_value.items():
            cost = f"{each.cost:.0%} of the evaluations"
            if name == _THINNED:
                shifts = [_shift(evidence, run, value) for run in plan.main_runs()]
                cost = (
                    f"{1 / value:.1%} of the states; the path is "
                    f"{spread(_kept_lengths(evidence, value), '.0%')} as long, and its start "
                    f"{spread(shifts)} away in its own plane"
                )
            lines.append(
                f"| {name} | {value:,} | {spread(each.values('ssim'))} | "
                f"{spread(each.values('median_error'), '.1%')} | "
                f"{spread(each.values('high_error'), '.1%')} | {cost} |"
            )
    return "\n".join(lines)


def _shift(evidence: Evidence, run: Run, stride: int) -> float:
    """How far the start of a thinned path is from the path's, each in its own plane."""
    paths = [evidence.surface(run, Averaged(), **o).path for o in ({"stride": stride}, {})]
    return float(np.linalg.norm(paths[0][0] - paths[1][0]))


def _judge_resolution(evidence: Evidence) -> Judgment:
    found, scale = _resolution_numbers(evidence), evidence.plan.scale
    checks = []
    for name, usual in (("grid lines", scale.resolution), ("samples", scale.samples)):
        here = found[name][usual]
        words = (
            f"{usual:,} {name}: similarity {spread(here.values('ssim'))} and difference "
            f"{spread(here.values('median_error'), '.1%')} for {here.cost:.0%} of the evaluations"
        )
        fewest = min((value for value, each in found[name].items() if each.alike), default=usual)
        if fewest < usual:
            words += f"; {fewest:,} would pass too"
        checks.append(Check(words, here.alike))
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
            "sampled (seed 0; thesis Fig. 6.7): how alike valley and path are in a network of a "
            "thirtieth of the parameters, and what is lost with most of the states.",
            _draw_sizes,
        ),
        Picture("check-6.7", _SIZES_CHECK, _draw_sizes_check, True),
    ],
    (_judge_sampling,),
    (_tell_sizes,),
)

RESOLUTION = Section(
    "resolution",
    "Grid and samples",
    _resolution_needs,
    lambda plan: [Picture("resolution", _RESOLUTION, _draw_resolution, True)],
    (_judge_resolution,),
    (_tell_resolution,),
)
