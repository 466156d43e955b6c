"""The five methods around one path (thesis Fig. 6.8), and the line between its ends."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from losspath.analysis.comparison import compare_surfaces
from losspath.analysis.distances import distance_map
from losspath.analysis.interpolation import Interpolation
from losspath.figures import plot_interpolation, plot_surfaces
from losspath.geometry.grid import Grid
from losspath.methods import PCA, Averaged, Method, Sampled, SampledPCA
from losspath.surface import Surface
from losspath.thesis.as_drawn import SampledPCAAsDrawn
from losspath.thesis.study import claims, numbers
from losspath.thesis.study.claims import Check, Judgment, all_above, all_below, paired_below, spread
from losspath.thesis.study.dots import Dots, draw_dots
from losspath.thesis.study.drawing import draw_check
from losspath.thesis.study.plan import (
    AS_DRAWN,
    OPTIMIZERS,
    REPAIRED,
    OptimizerName,
    Plan,
    rule_of,
)
from losspath.thesis.study.runs import LineOf, PlaneOf, Result, Run
from losspath.thesis.study.section import (
    Evidence,
    Picture,
    Section,
    linear_path_of,
    surface_of,
)

# A ground that is off the states' own losses by more than the first at the median is inaccurate;
# one that is off by less than the second corresponds to them.
_INACCURATE, _CORRESPONDS = 0.2, 0.1
# What the eye takes for a hill on the line, as a share of its fall; how much rougher than averaged
# a jagged surface is; and how many of some hundred points inside the grid are extremes of a surface
# that is full of them.
_HILL, _JAGGED, _FULL = 0.1, 2.0, 10


def _methods_needs(plan: Plan) -> list[Result]:
    needs: list[Result] = []
    for run in plan.main_runs():
        every = {*REPAIRED, *AS_DRAWN, *_READINGS}
        needs += [surface_of(plan, run, method) for method in every]
        needs += [linear_path_of(plan, run), PlaneOf(run)]
    for run in _runs_of(plan, "adam"):
        few = (*_variants("pca").values(), Averaged())
        needs += [linear_path_of(plan, run), *(surface_of(plan, run, method) for method in few)]
    return sorted(needs, key=lambda result: (result.run.name, result.file_name))


def _draw_methods(evidence: Evidence, methods: tuple[Method, ...]) -> Figure:
    run = evidence.plan.run()
    surfaces = [evidence.surface(run, method) for method in methods]
    plane = evidence.plane(run)
    grid = Grid(surfaces[0].x, surfaces[0].y)
    (rule,) = (method for method in methods if isinstance(method, SampledPCA))
    distance = (
        None if isinstance(rule, SampledPCAAsDrawn) else distance_map(plane, grid=grid, method=rule)
    )
    return plot_surfaces(surfaces, distance=distance)


def _draw_check(evidence: Evidence) -> Figure:
    run = evidence.plan.run()
    panels = []
    for title, methods in (("as the program drew them", AS_DRAWN), ("repaired", REPAIRED)):
        read = {}
        for method in methods:
            read[rule_of(method)], exact = numbers.linear_path(
                evidence.surface(run, method), evidence.linear_path(run)
            )
        panels.append((title, evidence.linear_path(run).alpha, exact, read))
    return draw_check(panels, _CHECK)


_CHECK = (
    "Losses along the straight line between the first state and the last of Modified-LeNet (SGD, "
    "seed 0): exact, and as each surface has them. It is weak evidence: a plane that held the line "
    "would pass, and could be wrong everywhere else."
)


Measure = Callable[[Surface, Interpolation], float]


def _states_off(surface: Surface, line: Interpolation) -> float:
    return numbers.state_error(surface)


def _climb(surface: Surface, line: Interpolation) -> float:
    return numbers.rise(numbers.linear_path(surface, line)[0])


def _roughness(surface: Surface, line: Interpolation) -> float:
    return numbers.roughness(surface)


def _extremes(surface: Surface, line: Interpolation) -> float:
    return float(numbers.extremes(surface))


def _runs_of(plan: Plan, optimizer: OptimizerName) -> list[Run]:
    return plan.seeds(plan.run(optimizer=optimizer))


def _measured(
    evidence: Evidence, method: Method, measure: Measure, optimizer: OptimizerName = "sgd"
) -> list[float]:
    """Of the surface by a method, with every seed."""
    return [
        measure(evidence.surface(run, method), evidence.linear_path(run))
        for run in _runs_of(evidence.plan, optimizer)
    ]


# What else the program's rule for the side of the path may be: the other sign, and the centre's
# side at every point.
_BELOW = SampledPCAAsDrawn(side="below")
_READINGS = (_BELOW, SampledPCAAsDrawn(side="sign"))


def _variants(name: str) -> dict[str, Method]:
    """A method as the program drew it, and repaired; where that is the same, once."""
    drawn, repaired = (_named(methods, name) for methods in (AS_DRAWN, REPAIRED))
    return (
        {claims.BOTH: drawn}
        if drawn == repaired
        else {claims.AS_DRAWN: drawn, claims.REPAIRED: repaired}
    )


def _named(methods: tuple[Method, ...], name: str) -> Method:
    return next(method for method in methods if rule_of(method) == name)


_TRUSTED: dict[str, tuple[str, OptimizerName]] = {
    **{method.name: (method.name, "sgd") for method in REPAIRED},
    "pca, Adam": ("pca", "adam"),
    "averaged, Adam": ("averaged", "adam"),
}


def _draw_trust(evidence: Evidence) -> Figure:
    panels = []
    for label, measure, scale in (
        ("median off the states' losses (%)", _states_off, 100),
        ("most off the line's (% of its fall)", numbers.linear_path_error, 100),
        ("climb on the line (% of its fall)", _climb, 100),
        ("roughness (% of the range)", _roughness, 100),
    ):
        rows = {
            name: {
                words.removesuffix(" and repaired"): [
                    scale * value for value in _measured(evidence, variant, measure, optimizer)
                ]
                for words, variant in _variants(method).items()
            }
            for name, (method, optimizer) in _TRUSTED.items()
        }
        panels.append(Dots(label, rows, logarithmic=measure is _states_off))
    return draw_dots([panels[:2], panels[2:]], _TRUST)


_TRUST = (
    "How far surfaces of Modified-LeNet (by SGD, but for the last two) are from what is known, a "
    "dot for each seed: the losses of the path's own states, and the exact losses of the straight "
    "line between its ends; how much the surface climbs on that line; and the mean |Laplacian| of "
    "its losses. sampled is right at the states by construction, but for reading between grid "
    "points. Methods that are the same in the program have one mark; sampled-pca is drawn there "
    "with the side above."
)


def _judge_pca(evidence: Evidence) -> Judgment:
    checks = []
    for words, method in _variants("pca").items():
        for optimizer, title in OPTIMIZERS.items():
            found = _measured(evidence, method, _states_off, optimizer)
            off = f"{title}: ground {spread(found, '.0%')} off the states' own losses"
            inaccurate = all_above(found, _INACCURATE)
            checks.append(Check(f"{off} (limit {_INACCURATE:.0%})", inaccurate, words))
    return Judgment("pca", "The pca surface is inaccurate.", tuple(checks), "trust")


def _judge_sampled(evidence: Evidence) -> Judgment:
    jagged, smooth = (_measured(evidence, method, _roughness) for method in (Sampled(), Averaged()))
    extremes, fewer = (_measured(evidence, method, _extremes) for method in (Sampled(), Averaged()))
    return Judgment(
        "sampled",
        "The sampled surface is jagged, full of local extremes.",
        (
            Check(
                f"roughness {spread(jagged, '.1%')}, averaged {spread(smooth, '.1%')}",
                paired_below([_JAGGED * value for value in smooth], jagged),
                claims.BOTH,
            ),
            Check(
                f"{spread(extremes)} local extremes, averaged {spread(fewer)} (limit {_FULL})",
                all_above(extremes, _FULL),
                claims.BOTH,
            ),
        ),
        "trust",
    )


def _judge_sampled_pca(evidence: Evidence) -> Judgment:
    line = _measured(evidence, Averaged(), numbers.linear_path_error)
    drawn, repaired = _variants("sampled-pca").values()
    checks = []
    for words, side, method in (
        (claims.AS_DRAWN, "side above: ", drawn),
        (claims.AS_DRAWN, "side below: ", _BELOW),
        (claims.REPAIRED, "", repaired),
    ):
        climbs, off = (
            _measured(evidence, method, measure) for measure in (_climb, numbers.linear_path_error)
        )
        what = f"climbs on the line by {spread(climbs, '.0%')} of its fall (limit {_HILL:.0%})"
        checks.append(Check(side + what, all_above(climbs, _HILL), words))
        what = f"{spread(off, '.0%')} off the line, averaged {spread(line, '.0%')}"
        checks.append(Check(side + what, paired_below(line, off), words))
    return Judgment(
        "sampled-pca",
        "It contradicts the straight line between start and end, where the loss should fall.",
        tuple(checks),
        "check",
    )


def _told(method: Method) -> str:
    if isinstance(method, SampledPCAAsDrawn):
        return f"{rule_of(method)} as drawn (side {method.side})"
    return method.describe()


def _tell_sampled_pca(evidence: Evidence) -> str:
    """Which reading of the program has the hill."""
    told = [
        f"{_told(method)} by {spread(_measured(evidence, method, _climb), '.0%')}"
        for method in (*_variants("sampled-pca").values(), *_READINGS)
    ]
    return (
        "The hill between start and end of sampled-pca depends on how the program is read: the "
        f"surface climbs on the line, {', '.join(told)} of its fall. Those as drawn blend "
        'with the displaced pca surface; "above" and "below" tell the side of the path by one sign '
        'for all points, as the program does, "sign" from the centre at every point.'
    )


def _judge_averaged(evidence: Evidence) -> Judgment:
    checks = []
    for optimizer, title in OPTIMIZERS.items():
        states, off = (
            _measured(evidence, Averaged(), measure, optimizer)
            for measure in (_states_off, numbers.linear_path_error)
        )
        for found, of in ((states, "off the states' losses"), (off, "of the fall off the line")):
            what = f"{title}: {spread(found, '.0%')} {of} (limit {_CORRESPONDS:.0%})"
            checks.append(Check(what, all_below(found, _CORRESPONDS), claims.BOTH))
    line, rough = (
        _measured(evidence, Averaged(), measure)
        for measure in (numbers.linear_path_error, _roughness)
    )
    for words, methods in ((claims.AS_DRAWN, AS_DRAWN), (claims.REPAIRED, REPAIRED)):
        for name in ("pca", "sampled", "sampled-pca", "averaged-nd"):
            other = _named(methods, name)
            away, rougher = (
                _measured(evidence, other, measure)
                for measure in (numbers.linear_path_error, _roughness)
            )
            better = (paired_below(line, away), paired_below(rough, rougher))
            checks.append(
                Check(
                    f"SGD: nearer the line and smoother than {name} ({spread(away, '.0%')} off, "
                    f"roughness {spread(rougher, '.1%')} against {spread(rough, '.1%')})",
                    claims.all_of(better),
                    words,
                )
            )
    return Judgment(
        "averaged",
        "It corresponds to the path and to the straight line, and is the best of the methods.",
        tuple(checks),
        "trust",
    )


def _tell_line(evidence: Evidence) -> str:
    """Why no surface has the line's losses."""
    runs = evidence.plan.main_runs()
    ends = [evidence.plane(run).path.residual_norms[[0, -1]].tolist() for run in runs]
    alike = [
        compare_surfaces(evidence.surface(run, Averaged()), evidence.surface(run, PCA())).ssim
        for run in runs
    ]
    off = {
        words: spread(_measured(evidence, method, numbers.linear_path_error), ".0%")
        for words, method in {**_variants("pca"), "averaged": Averaged()}.items()
    }
    return (
        f"The line is off the plane, its ends by {spread([first for first, _ in ends])} and "
        f"{spread([last for _, last in ends])}: what a surface has below it are other parameters, "
        "and it need not have the line's losses. pca "
        f"is off the line by {off[claims.AS_DRAWN]} of the fall as drawn and by "
        f"{off[claims.REPAIRED]} repaired, averaged by {off['averaged']}; the structural "
        f"similarity of averaged to pca, repaired, is {spread(alike)} (1 for equal pictures)."
    )


def _draw_layers(evidence: Evidence) -> Figure:
    return plot_interpolation(evidence.layers(evidence.plan.run()), title="Modified-LeNet, SGD")


def _tell_layers(evidence: Evidence) -> str:
    """What each layer accounts for, over seeds."""
    runs = evidence.plan.main_runs()
    shares = [evidence.layers(run).shares for run in runs]
    lines = [
        f"The share of the drop in loss that is lost if one layer alone goes back to its first "
        f"state ({len(runs)} seeds; shares need not sum to one, and above 100 % the network is "
        "worse with that layer as it was than with all of them as they were):",
        "",
        "| layer | share of the drop |",
        "| --- | --- |",
    ]
    lines += [
        f"| {name} | {spread([each[name] for each in shares], '.0%')} |" for name in shares[0]
    ]
    return "\n".join(lines)


METHODS = Section(
    "6.8",
    "The methods",
    _methods_needs,
    lambda plan: [
        Picture(
            "fig-6.8",
            "The five methods around one path (SGD, seed 0), and how far sampled-pca is from "
            "sampled (thesis Fig. 6.8). Circles that stand out of their ground are states whose "
            "own loss the surface does not have.",
            lambda evidence: _draw_methods(evidence, REPAIRED),
        ),
        Picture(
            "fig-6.8-as-drawn",
            "The same as the thesis's program drew them: pca displaced, sampled-pca blended with "
            "that, and the side of the path told along one axis.",
            lambda evidence: _draw_methods(evidence, AS_DRAWN),
        ),
        Picture("check", _CHECK, _draw_check, True),
        Picture("trust", _TRUST, _draw_trust, True),
    ],
    (_judge_pca, _judge_sampled, _judge_sampled_pca, _judge_averaged),
    (_tell_sampled_pca, _tell_line),
)

LAYERS = Section(
    "layers",
    "The straight line, layer by layer",
    lambda plan: [LineOf(run) for run in plan.main_runs()],
    lambda plan: [
        Picture(
            "layers",
            "Loss and accuracy between the first state and the last: the whole model, and "
            "each layer alone (seed 0): which layers the network cannot do without.",
            _draw_layers,
        )
    ],
    notes=(_tell_layers,),
)
