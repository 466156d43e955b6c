"""Which states a point of the ground is blended from: distances and temperature."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from losspath.analysis.comparison import compare_surfaces
from losspath.figures import plot_surfaces
from losspath.geometry.grid import Grid
from losspath.methods import PCA, Averaged, AveragedND
from losspath.thesis.study import numbers
from losspath.thesis.study.claims import Check, Judgment, check_ranks, separated, spread
from losspath.thesis.study.dots import Dots, draw_dots
from losspath.thesis.study.drawing import draw_check, draw_lines
from losspath.thesis.study.plan import OPTIMIZERS, Plan, rule_of
from losspath.thesis.study.runs import Explained, PlaneOf, Result, Run
from losspath.thesis.study.section import Evidence, Picture, Section, linear_path_of, surface_of

_TEMPERATURES = (0.01, 0.1, 1.0, 10.0)
_CLAIMED = {"SGD": 0.95, "Adam": 0.65}
_ABOUT = 0.05  # what "about" is taken for
# The first two of the shares 6/(π²k²) that the components of a long random walk in many dimensions
# have: J. Antognini and J. Sohl-Dickstein, "PCA of high dimensional random walks with comparison to
# neural network training", NeurIPS 2018.
_RANDOM_WALK = 6 / np.pi**2 * (1 + 1 / 4)


def _distances_needs(plan: Plan) -> list[Result]:
    needs: list[Result] = []
    for data in plan.scale.data:
        for runs in plan.techniques("modified-lenet", data).values():
            for run in runs:
                needs += [surface_of(plan, run, Averaged()), surface_of(plan, run, AveragedND())]
                needs += [Explained(run), linear_path_of(plan, run)]
    return needs


def _draw_distances(evidence: Evidence, data: str) -> Figure:
    surfaces, titles = [], []
    for technique, runs in evidence.plan.techniques("modified-lenet", data).items():
        for method in (Averaged(), AveragedND()):
            surfaces.append(evidence.surface(runs[0], method))
            titles.append(f"{technique}\n{rule_of(method)}")
    return plot_surfaces(surfaces, titles=titles, title=f"Modified-LeNet, {data}", columns=4)


def _draw_lines(evidence: Evidence) -> Figure:
    panels = []
    for data in evidence.plan.scale.data:
        for technique, runs in evidence.plan.techniques("modified-lenet", data).items():
            line, read = evidence.linear_path(runs[0]), {}
            for method in (Averaged(), AveragedND()):
                read[rule_of(method)], exact = numbers.linear_path(
                    evidence.surface(runs[0], method), line
                )
            panels.append((f"{data}\n{technique}", line.alpha, exact, read))
    return draw_check(panels, _LINES, columns=4)


_LINES = (
    "Losses along the straight line between the first state and the last of Modified-LeNet (seed "
    "0): exact, and as each surface has them."
)


def _tell_lines(evidence: Evidence) -> str:
    """How far each surface is from the line, as a table."""
    lines = [
        "Largest distance from the exact losses of the line, as a share of their range:",
        "",
        "| data | technique | averaged | averaged-nd |",
        "| --- | --- | --- | --- |",
    ]
    for data in evidence.plan.scale.data:
        for technique, runs in evidence.plan.techniques("modified-lenet", data).items():
            off = [
                spread(
                    [
                        numbers.linear_path_error(
                            evidence.surface(run, method), evidence.linear_path(run)
                        )
                        for run in runs
                    ],
                    ".0%",
                )
                for method in (Averaged(), AveragedND())
            ]
            lines.append(f"| {data} | {technique} | {off[0]} | {off[1]} |")
    return "\n".join(lines)


def _difference(evidence: Evidence, run: Run) -> float:
    """Between the two averaged surfaces of a run."""
    surface, reference = evidence.surface(run, AveragedND()), evidence.surface(run, Averaged())
    return compare_surfaces(surface, reference).median_error


def _draw_variance(evidence: Evidence) -> Figure:
    claimed = {f"claimed for {name}": 100 * share for name, share in _CLAIMED.items()}
    guides = {**claimed, "a long random walk": 100 * _RANDOM_WALK}
    grid = []
    for data in evidence.plan.scale.data:
        groups = evidence.plan.techniques("modified-lenet", data)
        shares, differences = (
            {
                technique: {"": [100 * measure(run) for run in runs]}
                for technique, runs in groups.items()
            }
            for measure in (evidence.explained, partial(_difference, evidence))
        )
        grid.append(
            [
                Dots("variance in the plane (%)", shares, data, guides),
                Dots("averaged-nd against averaged (%)", differences, data),
            ]
        )
    return draw_dots(grid, _VARIANCE)


_VARIANCE = (
    "Modified-LeNet, a dot for each seed. Left: the share of the path's variance in its plane, and "
    "what a long random walk in many dimensions has there. Right: the median relative difference "
    "between the losses of the two averaged surfaces."
)


def _judge_variance(evidence: Evidence) -> Judgment:
    checks = []
    for data in evidence.plan.scale.data:
        groups = evidence.plan.techniques("modified-lenet", data)
        shares = {
            title: [
                evidence.explained(run)
                for technique, runs in groups.items()
                if technique.startswith(title)
                for run in runs
            ]
            for title in OPTIMIZERS.values()
        }
        for title, claimed in _CLAIMED.items():
            mean = float(np.mean(shares[title]))
            checks.append(
                Check(
                    f"{data}, {title} with and without dropout: {spread(shares[title], '.0%')}",
                    abs(mean - claimed) < _ABOUT,
                )
            )
        checks.append(Check(f"{data}: less for Adam", separated(shares["Adam"], shares["SGD"])))
    return Judgment(
        "explained variance",
        "Two components hold about 95 % of the variance of SGD's paths, about 65 % of Adam's.",
        tuple(checks),
        "variance",
    )


def _tell_variance(evidence: Evidence) -> str:
    """How the claimed shares and the measured ones stand to a walk without direction."""
    told = []
    for data in evidence.plan.scale.data:
        groups = evidence.plan.techniques("modified-lenet", data)
        shares = {
            technique: spread([evidence.explained(run) for run in runs], ".0%")
            for technique, runs in groups.items()
        }
        told.append(f"{data}: {', '.join(f'{name} {share}' for name, share in shares.items())}.")
    return (
        f"A long random walk has {_RANDOM_WALK:.0%} of its variance in two components, so that as "
        f"much is no sign of a path that is flat. {' '.join(told)}"
    )


def _judge_distances(evidence: Evidence) -> Judgment:
    checks = []
    shares, differences = [], []
    for data in evidence.plan.scale.data:
        groups = evidence.plan.techniques("modified-lenet", data)
        found = {
            technique: [_difference(evidence, run) for run in runs]
            for technique, runs in groups.items()
        }
        for sgd, adam in (("SGD", "Adam"), ("SGD, dropout", "Adam, dropout")):
            what = (
                f"{data}: median difference {spread(found[adam], '.1%')} ({adam}), "
                f"{spread(found[sgd], '.1%')} ({sgd})"
            )
            checks.append(Check(what, separated(found[sgd], found[adam])))
        differences += [float(np.mean(values)) for values in found.values()]
        shares += [float(np.mean([*map(evidence.explained, runs)])) for runs in groups.values()]
    words = f"over {len(shares)} settings, rank correlation with the explained variance"
    checks.append(check_ranks(words, shares, differences, -1))
    return Judgment(
        "averaged-nd",
        "It differs from averaged more for Adam than for SGD, following the explained variance.",
        tuple(checks),
        "variance",
    )


def _temperature_needs(plan: Plan) -> list[Result]:
    needs: list[Result] = []
    methods = [PCA(), Averaged(temperature="auto")]
    methods += [Averaged(temperature=temperature) for temperature in _TEMPERATURES]
    for runs in plan.by_optimizer().values():
        for run in runs:
            needs += [surface_of(plan, run, method) for method in methods]
            needs.append(PlaneOf(run))
    return needs


def _states_blended(evidence: Evidence, run: Run, temperature: float) -> float:
    """The share of the states that a point of the ground is blended from."""
    path = evidence.plane(run).path
    grid = Grid.around(path.coordinates, evidence.plan.scale.resolution)
    return numbers.effective_states(path, grid.points, temperature) / len(path)


def _width(evidence: Evidence, run: Run) -> float:
    """The larger extent of the path in its plane."""
    return float(np.ptp(evidence.plane(run).path.coordinates, axis=0).max())


def _by_temperature(evidence: Evidence, run: Run) -> list[list[float]]:
    """(3, temperatures): states blended, distance of the ground from them, likeness to pca."""
    surfaces = [evidence.surface(run, Averaged(temperature=t)) for t in _TEMPERATURES]
    pca = evidence.surface(run, PCA())
    return [
        [_states_blended(evidence, run, t) for t in _TEMPERATURES],
        [numbers.state_error(surface) for surface in surfaces],
        [compare_surfaces(surface, pca).ssim for surface in surfaces],
    ]


def _draw_temperature(evidence: Evidence) -> Figure:
    labels = (
        "share of the states that\na point is blended from",
        "ground off the\nstates' losses (median)",
        "structural similarity\nto pca",
    )
    curves: dict[str, dict[str, tuple[numbers.Floats, numbers.Floats]]] = {n: {} for n in labels}
    x = np.array(_TEMPERATURES)
    for title, runs in evidence.plan.by_optimizer().items():
        found = np.array([_by_temperature(evidence, run) for run in runs])
        widths = spread([_width(evidence, run) for run in runs])
        for number, label in enumerate(labels):
            curves[label][f"{title}, path {widths} wide"] = (x, found[:, number])
    return draw_lines([("temperature τ", n, by_run) for n, by_run in curves.items()], _TEMPERATURE)


_TEMPERATURE = (
    "What τ = 1 means depends on the path's width: where it is wide against τ, a point is blended "
    "from a few states (as in sampled), where it is narrow from all (as in pca). Left: exp(entropy "
    "of the weights), median over the grid. Lines: means over seeds; bands: from the least to the "
    "greatest."
)


def _tell_temperature(evidence: Evidence) -> str:
    told = []
    for title, runs in evidence.plan.by_optimizer().items():
        usual = [evidence.surface(run, Averaged()) for run in runs]
        pca = [evidence.surface(run, PCA()) for run in runs]
        auto = [evidence.surface(run, Averaged(temperature="auto")) for run in runs]
        off = {
            name: spread([numbers.state_error(surface) for surface in surfaces], ".0%")
            for name, surfaces in (("usual", usual), ("pca", pca), ("auto", auto))
        }
        blended = spread([_states_blended(evidence, run, 1.0) for run in runs], ".0%")
        alike = [compare_surfaces(*pair).ssim for pair in zip(usual, pca, strict=True)]
        told.append(
            f"{title}'s path is {spread([_width(evidence, run) for run in runs])} wide: with τ = 1 "
            f"a point is blended from {blended} of the states, the ground is off the states' "
            f"losses by {off['usual']} at the median (pca {off['pca']}, τ tied to the path's own "
            f"spacing {off['auto']}), and its similarity to pca is {spread(alike)}."
        )
    return " ".join(told)


DISTANCES = Section(
    "6.9",
    "Distances in the plane and in all of parameter space",
    _distances_needs,
    lambda plan: [
        *(
            Picture(
                f"fig-6.9-{number}" if number else "fig-6.9",
                f"averaged and averaged-nd on {data}, seed 0 (thesis Fig. 6.9), pairs side by "
                "side: where the states' distances off the plane change the picture.",
                partial(_draw_distances, data=data),
            )
            for number, data in enumerate(plan.scale.data)
        ),
        Picture("check-6.9", _LINES, _draw_lines, True),
        Picture("variance", _VARIANCE, _draw_variance, True),
    ],
    (_judge_variance, _judge_distances),
    (_tell_variance, _tell_lines),
)

TEMPERATURE = Section(
    "temperature",
    "The temperature of the averages",
    _temperature_needs,
    lambda plan: [Picture("temperature", _TEMPERATURE, _draw_temperature, True)],
    notes=(_tell_temperature,),
)
