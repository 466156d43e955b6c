"""The five methods around one path (thesis Fig. 6.8), and the line between its ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from losspath.analysis.distances import distance_map
from losspath.analysis.interpolation import Interpolation
from losspath.figures import plot_interpolation, plot_surfaces
from losspath.geometry.grid import Grid
from losspath.methods import Averaged, Method, Sampled, SampledPCA
from losspath.study import numbers
from losspath.study.claims import Check, Judgment, all_above, all_below, separated, spread
from losspath.study.dots import Dots, draw_dots
from losspath.study.drawing import draw_check
from losspath.study.plan import AS_DRAWN, REPAIRED, Plan
from losspath.study.runs import LineOf, PlaneOf, Result
from losspath.study.section import (
    Evidence,
    Picture,
    Section,
    chord_of,
    surface_of,
)
from losspath.surface import Surface

# A ground that is off the states' own losses by more than this at the median is inaccurate; one
# that is off the line's losses by more than the second, or climbs so much on it, contradicts it.
_INACCURATE, _CONTRADICTS = 0.2, 0.1


def _methods_needs(plan: Plan) -> list[Result]:
    needs: list[Result] = []
    for run in plan.main_runs():
        needs += [surface_of(plan, run, method) for method in {*REPAIRED, *AS_DRAWN}]
        needs.append(chord_of(plan, run))
    needs.append(PlaneOf(plan.run()))
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


Measure = Callable[[Surface, Interpolation], float]


def _states_off(surface: Surface, line: Interpolation) -> float:
    return numbers.state_error(surface)


def _climb(surface: Surface, line: Interpolation) -> float:
    return numbers.rise(numbers.chord(surface, line)[0])


def _extremes(surface: Surface, line: Interpolation) -> float:
    return float(numbers.extremes(surface))


def _measured(evidence: Evidence, method: Method, measure: Measure) -> list[float]:
    """Of the surface by a method, with every seed."""
    return [
        measure(evidence.surface(run, method), evidence.chord(run))
        for run in evidence.plan.main_runs()
    ]


def _variants(name: str) -> dict[str, Method]:
    """A method as the program drew it, and repaired; where that is the same, once."""
    drawn, repaired = (
        next(method for method in methods if method.name == name)
        for methods in (AS_DRAWN, REPAIRED)
    )
    if drawn == repaired:
        return {"as drawn and repaired": drawn}
    return {"as drawn": drawn, "repaired": repaired}


def _by_variant(evidence: Evidence, name: str, measure: Measure) -> dict[str, list[float]]:
    return {
        words: _measured(evidence, method, measure) for words, method in _variants(name).items()
    }


def _percent(values: dict[str, list[float]]) -> dict[str, list[float]]:
    return {
        words.replace("as drawn and repaired", "as drawn"): [100 * value for value in found]
        for words, found in values.items()
    }


def _draw_trust(evidence: Evidence) -> Figure:
    panels = []
    for label, measure, limit in (
        ("off the states' losses (%)", _states_off, _INACCURATE),
        ("off the line's losses (%)", numbers.chord_error, _CONTRADICTS),
        ("climb along the line (% of its fall)", _climb, _CONTRADICTS),
    ):
        rows = {
            method.name: _percent(_by_variant(evidence, method.name, measure))
            for method in REPAIRED
        }
        panels.append(Dots(label, rows, guides={"limit that claims are judged by": 100 * limit}))
    return draw_dots([panels], _TRUST)


_TRUST = (
    "How far surfaces of Modified-LeNet (SGD) are from what is known, a dot for each seed: from "
    "the losses of the path's own states, and from the exact losses of the straight line between "
    "its ends, both at the median; and how much the surface climbs along that line. Methods that "
    "the thesis's program draws as they are here have one mark."
)


def _judge_pca(evidence: Evidence) -> Judgment:
    return Judgment(
        "pca",
        "The pca surface is inaccurate.",
        tuple(
            Check(
                f"{words}: ground {spread(found, '.0%')} off the states' own losses",
                all_above(found, _INACCURATE),
            )
            for words, found in _by_variant(evidence, "pca", _states_off).items()
        ),
        "trust",
    )


def _judge_sampled(evidence: Evidence) -> Judgment:
    found, averaged = (_measured(evidence, method, _extremes) for method in (Sampled(), Averaged()))
    return Judgment(
        "sampled",
        "The sampled surface is jagged, full of local extremes.",
        (
            Check(
                f"as drawn and repaired: {spread(found)} local extremes, {spread(averaged)} of "
                "the averaged one",
                separated([2 * n for n in averaged], found),
            ),
        ),
        "fig-6.8",
    )


def _judge_sampled_pca(evidence: Evidence) -> Judgment:
    rises, errors = (
        _by_variant(evidence, "sampled-pca", measure) for measure in (_climb, numbers.chord_error)
    )
    averaged = _measured(evidence, Averaged(), numbers.chord_error)
    checks = []
    for words in rises:
        climbs = f"{words}: climbs along the line by {spread(rises[words], '.0%')} of its fall"
        checks.append(Check(climbs, all_above(rises[words], _CONTRADICTS)))
        off = (
            f"{words}: {spread(errors[words], '.0%')} off the line's exact losses, averaged "
            f"{spread(averaged, '.0%')}"
        )
        checks.append(Check(off, separated(averaged, errors[words])))
    return Judgment(
        "sampled-pca",
        "It contradicts the straight line between start and end, where the loss should fall.",
        tuple(checks),
        "check",
    )


def _judge_averaged(evidence: Evidence) -> Judgment:
    states, lines = (
        _measured(evidence, Averaged(), measure) for measure in (_states_off, numbers.chord_error)
    )
    checks = [
        Check(f"{spread(states, '.0%')} off the states' losses", all_below(states, _CONTRADICTS)),
        Check(f"{spread(lines, '.0%')} off the line's", all_below(lines, _CONTRADICTS)),
    ]
    for words, methods in (("as drawn", AS_DRAWN), ("repaired", REPAIRED)):
        means = {
            method.name: float(np.mean(_measured(evidence, method, _states_off)))
            for method in methods
        }
        told = ", ".join(f"{name} {value:.0%}" for name, value in means.items())
        others = [value for name, value in means.items() if not name.startswith("averaged")]
        best = means["averaged"] <= min(others)
        checks.append(Check(f"{words}, off the states by method: {told}", best))
    return Judgment(
        "averaged",
        "It corresponds to the path and to the straight line, and is the best of the methods.",
        tuple(checks),
        "trust",
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
        Picture("trust", _TRUST, _draw_trust),
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
