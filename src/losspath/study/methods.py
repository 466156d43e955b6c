"""The five methods around one path (thesis Fig. 6.8), and the line between its ends."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from losspath.analysis.distances import distance_map
from losspath.figures import plot_interpolation, plot_surfaces
from losspath.geometry.grid import Grid
from losspath.methods import Averaged, Method, SampledPCA
from losspath.study import numbers
from losspath.study.claims import Check, Judgment, all_above, all_below, separated, spread
from losspath.study.drawing import draw_check
from losspath.study.plan import AS_DRAWN, REPAIRED, Plan
from losspath.study.runs import LineOf, Ratios, Result
from losspath.study.section import (
    Evidence,
    Picture,
    Section,
    chord_of,
    surface_of,
)

# A ground that is off the states' own losses by more than this at the median is inaccurate.
_INACCURATE = 0.2


def _methods_needs(plan: Plan) -> list[Result]:
    needs: list[Result] = []
    for run in plan.main_runs():
        needs += [surface_of(plan, run, method) for method in {*REPAIRED, *AS_DRAWN}]
        needs += [chord_of(plan, run), Ratios(run)]
    return sorted(needs, key=lambda result: (result.run.name, result.file_name))


def _draw_methods(evidence: Evidence, methods: tuple[Method, ...]) -> Figure:
    run = evidence.plan.run()
    surfaces = [evidence.surface(run, method) for method in methods]
    plane = evidence.plane(run)
    grid = Grid(surfaces[0].x, surfaces[0].y, Grid.around(plane.path, 3).center)
    (rule,) = (method for method in methods if isinstance(method, SampledPCA))
    return plot_surfaces(surfaces, distance=distance_map(plane, grid=grid, method=rule))


def _draw_check(evidence: Evidence) -> Figure:
    run = evidence.plan.run()
    panels = []
    for title, methods in (("as the program drew them", AS_DRAWN), ("repaired", REPAIRED)):
        read = {}
        for method in methods:
            read[method.name], exact = numbers.chord(
                evidence.surface(run, method), evidence.chord(run)
            )
        panels.append((title, evidence.chord(run).alpha, exact, read))
    return draw_check(panels, _CHECK)


_CHECK = (
    "Losses along the straight line between the first state and the last of Modified-LeNet (SGD): "
    "exact, and as each surface has them. A plane that holds the line passes this and can be wrong "
    "everywhere else."
)


def _named(methods: tuple[Method, ...], name: str) -> Method:
    return next(method for method in methods if method.name == name)


def _errors(evidence: Evidence, methods: tuple[Method, ...], name: str) -> list[float]:
    method = _named(methods, name)
    return [numbers.state_error(evidence.surface(run, method)) for run in evidence.plan.main_runs()]


def _judge_pca(evidence: Evidence) -> Judgment:
    drawn, repaired = (_errors(evidence, methods, "pca") for methods in (AS_DRAWN, REPAIRED))
    what = "ground against the states' own losses"
    return Judgment(
        "pca",
        "The pca surface is inaccurate.",
        (
            Check(f"as drawn: {what} {spread(drawn, '.0%')} off", all_above(drawn, _INACCURATE)),
            Check(f"repaired: {spread(repaired, '.0%')} off", all_above(repaired, _INACCURATE)),
        ),
        "fig-6.8",
    )


def _judge_sampled(evidence: Evidence) -> Judgment:
    counts = {
        name: [
            float(numbers.extremes(evidence.surface(run, _named(REPAIRED, name))))
            for run in evidence.plan.main_runs()
        ]
        for name in ("sampled", "averaged")
    }
    return Judgment(
        "sampled",
        "The sampled surface is jagged, full of local extremes.",
        (
            Check(
                f"{spread(counts['sampled'])} local extremes, {spread(counts['averaged'])} of the "
                "averaged one",
                separated([2 * n for n in counts["averaged"]], counts["sampled"]),
            ),
        ),
        "fig-6.8",
    )


def _judge_sampled_pca(evidence: Evidence) -> Judgment:
    checks = []
    for words, methods in (("as drawn", AS_DRAWN), ("repaired", REPAIRED)):
        rises, errors = [], []
        for run in evidence.plan.main_runs():
            surface, line = (
                evidence.surface(run, _named(methods, "sampled-pca")),
                evidence.chord(run),
            )
            rises.append(numbers.rise(numbers.chord(surface, line)[0]))
            errors.append(numbers.chord_error(surface, line))
        found = all_above([max(r, e) for r, e in zip(rises, errors, strict=True)], 0.1)
        checks.append(
            Check(
                f"{words}: {spread(errors, '.0%')} off the line's exact losses, and climbs by "
                f"{spread(rises, '.0%')} of its fall",
                found,
            )
        )
    return Judgment(
        "sampled-pca",
        "It contradicts the straight line between start and end, where the loss falls.",
        tuple(checks),
        "check",
    )


def _judge_averaged(evidence: Evidence) -> Judgment:
    states = _errors(evidence, REPAIRED, "averaged")
    lines = [
        numbers.chord_error(evidence.surface(run, Averaged()), evidence.chord(run))
        for run in evidence.plan.main_runs()
    ]
    best = {name: np.mean(_errors(evidence, REPAIRED, name)) for name in (m.name for m in REPAIRED)}
    order = ", ".join(f"{name} {value:.0%}" for name, value in best.items())
    others = [value for name, value in best.items() if not name.startswith("averaged")]
    return Judgment(
        "averaged",
        "It corresponds to the path and to the straight line, and is the best of the methods.",
        (
            Check(f"{spread(states, '.0%')} off the states' losses", all_below(states, 0.1)),
            Check(f"{spread(lines, '.0%')} off the line's", all_below(lines, 0.1)),
            Check(f"off the states, by method: {order}", bool(best["averaged"] <= min(others))),
        ),
        "fig-6.8",
    )


def _draw_layers(evidence: Evidence) -> Figure:
    return plot_interpolation(evidence.layers(evidence.plan.run()), title="Modified-LeNet, SGD")


METHODS = Section(
    "6.8",
    "The methods",
    _methods_needs,
    lambda plan: [
        Picture(
            "fig-6.8",
            "The five methods around one path, and how far sampled-pca is from sampled "
            "(thesis Fig. 6.8).",
            lambda evidence: _draw_methods(evidence, REPAIRED),
        ),
        Picture(
            "fig-6.8-as-drawn",
            "The same as the thesis's program drew them: pca displaced, and the side of the "
            "path told by the sign of an axis.",
            lambda evidence: _draw_methods(evidence, AS_DRAWN),
        ),
        Picture("check", _CHECK, _draw_check),
    ],
    (_judge_pca, _judge_sampled, _judge_sampled_pca, _judge_averaged),
)

LAYERS = Section(
    "layers",
    "The straight line, layer by layer",
    lambda plan: [LineOf(plan.run())],
    lambda plan: [
        Picture(
            "layers",
            "Loss and accuracy between the first state and the last: the whole model, and "
            "each layer alone.",
            _draw_layers,
        )
    ],
)
