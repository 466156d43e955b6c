"""The five methods around one path (thesis Fig. 6.8), and the line between its ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from losspath.analysis.distances import distance_map
from losspath.figures import plot_interpolation, plot_surfaces
from losspath.geometry.grid import Grid
from losspath.methods import Method, SampledPCA
from losspath.thesis.as_drawn import SampledPCAAsDrawn
from losspath.thesis.study import results
from losspath.thesis.study.drawing import Dots, draw_check, draw_dots, read_line
from losspath.thesis.study.judgments import BOTH, DRAWN, REPAIRED, Check
from losspath.thesis.study.plan import (
    AS_DRAWN,
    AVERAGED,
    OPTIMIZERS,
    READINGS,
    REPAIRED_METHODS,
    OptimizerName,
    Plan,
    label_of,
    rule_of,
)
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.results import Result
from losspath.thesis.study.sections import Section, markdown_table
from losspath.thesis.study.statistics import all_above, all_below, all_of, paired_below, spread
from losspath.thesis.study.table import Floats, Table

# A ground that is off the states' own losses by more than the first at the median is inaccurate;
# one that is off by less than the second corresponds to them.
_INACCURATE, _CORRESPONDS = 0.2, 0.1
# What the eye takes for a hill on the line, as a share of its fall; how much rougher than averaged
# a jagged surface is; and how many of some hundred points inside the grid are extremes of a surface
# that is full of them.
_HILL, _JAGGED, _FULL = 0.1, 2.0, 10

_STATES, _LINE = "off the states' losses", "off the line"
_CLIMB, _ROUGH, _EXTREMES = "climb on the line", "roughness", "local extremes"

_BY_VARIANT = {
    variant: {rule_of(method): method for method in methods}
    for variant, methods in ((DRAWN, AS_DRAWN), (REPAIRED, REPAIRED_METHODS))
}


def variants(rule: str) -> dict[str, Method]:
    """A method as the program drew it, and repaired; where that is the same, once."""
    found = {variant: methods[rule] for variant, methods in _BY_VARIANT.items()}
    return {BOTH: found[DRAWN]} if found[DRAWN] == found[REPAIRED] else found


def values_of(
    table: Table, quantity: str, method: Method | str, optimizer: OptimizerName = "sgd"
) -> Floats:
    """A quantity of the surface by a method, with every seed."""
    label = (method, "") if isinstance(method, str) else label_of(method)
    return table.values(quantity, *label, optimizer=optimizer)


def _needs(plan: Plan) -> list[Result[Any]]:
    needs: list[Result[Any]] = []
    for run in plan.runs():
        every = dict.fromkeys(label_of(each) for each in (*REPAIRED_METHODS, *AS_DRAWN, *READINGS))
        needs += [plan.surface(run, *label) for label in every]
        needs += [plan.line(run), results.plane(run)]
    for run in plan.runs(optimizer="adam"):
        few = [label_of(method) for method in variants("pca").values()]
        needs += [plan.line(run), *(plan.surface(run, *each) for each in (*few, ("averaged", "")))]
    return sorted(needs, key=lambda result: (result.run.name, result.file_name))


METHODS = Section("6.8", "The methods", _needs)
LAYERS = Section(
    "layers",
    "The straight line, layer by layer",
    lambda plan: [results.layers(run) for run in plan.runs()],
)


@METHODS.picture(
    "fig-6.8-as-drawn",
    "The same as the thesis's program drew them: pca displaced, sampled-pca blended with that, "
    "and the side of the path told along one axis.",
    methods=AS_DRAWN,
)
@METHODS.picture(
    "fig-6.8",
    "The five methods around one path (SGD, seed 0), and how far sampled-pca is from sampled "
    "(thesis Fig. 6.8). Circles that stand out of their ground are states whose own loss the "
    "surface does not have.",
    methods=REPAIRED_METHODS,
)
def _draw_methods(table: Table, files: ResultFiles, methods: tuple[Method, ...]) -> Figure:
    run = table.plan.run()
    surfaces = [files.load(table.plan.surface(run, *label_of(method))) for method in methods]
    (rule,) = (method for method in methods if isinstance(method, SampledPCA))
    if isinstance(rule, SampledPCAAsDrawn):
        return plot_surfaces(surfaces, fade=False)  # as they are in the thesis
    grid = Grid(surfaces[0].x, surfaces[0].y)
    distance = distance_map(files.load(results.plane(run)), grid=grid, method=rule)
    return plot_surfaces(surfaces, distance=distance, fade=False)


@METHODS.picture(
    "check",
    "Losses along the straight line between the first state and the last of Modified-LeNet (SGD, "
    "seed 0): exact, and as each surface has them. It is weak evidence: a plane that held the "
    "line would pass, and could be wrong everywhere else.",
)
def _draw_check(table: Table, files: ResultFiles, caption: str) -> Figure:
    run = table.plan.run()
    panels = [
        read_line(files, table.plan, title, run, dict(map(label_of, methods)))
        for title, methods in (
            ("as the program drew them", AS_DRAWN),
            ("repaired", REPAIRED_METHODS),
        )
    ]
    return draw_check(panels, caption)


@METHODS.picture(
    "trust",
    "How far surfaces of Modified-LeNet (by SGD, but for the last two) are from what is known, a "
    "dot for each seed: the losses of the path's own states, and the exact losses of the straight "
    "line between its ends; how much the surface climbs on that line; and the mean |Laplacian| of "
    "its losses. sampled is right at the states by construction, but for reading between grid "
    "points. Methods that are the same in the program have one mark; sampled-pca is drawn there "
    "with the side above.",
)
def _draw_trust(table: Table, files: ResultFiles, caption: str) -> Figure:
    shown: dict[str, tuple[str, OptimizerName]] = {
        **{method.name: (method.name, "sgd") for method in REPAIRED_METHODS},
        "pca, Adam": ("pca", "adam"),
        "averaged, Adam": ("averaged", "adam"),
    }
    panels = []
    for label, quantity in (
        ("median off the states' losses (%)", _STATES),
        ("most off the line's (% of its fall)", _LINE),
        ("climb on the line (% of its fall)", _CLIMB),
        ("roughness (% of the range)", _ROUGH),
    ):
        rows = {
            name: {
                words.removesuffix(" and repaired"): 100
                * values_of(table, quantity, each, optimizer)
                for words, each in variants(rule).items()
            }
            for name, (rule, optimizer) in shown.items()
        }
        panels.append(Dots(label, rows, logarithmic=quantity == _STATES))
    return draw_dots([panels[:2], panels[2:]], caption)


@METHODS.claim("pca", "The pca surface is inaccurate.", "trust")
def _check_pca(table: Table) -> Iterator[Check]:
    for variant, method in variants("pca").items():
        for optimizer, title in OPTIMIZERS.items():
            found = values_of(table, _STATES, method, optimizer)
            off = f"{title}: ground {spread(found, '.0%')} off the states' own losses"
            inaccurate = all_above(found, _INACCURATE)
            yield Check(f"{off} (limit {_INACCURATE:.0%})", inaccurate, variant)


@METHODS.claim("sampled", "The sampled surface is jagged, full of local extremes.", "trust")
def _check_sampled(table: Table) -> Iterator[Check]:
    jagged, smooth = (values_of(table, _ROUGH, name) for name in ("sampled", "averaged"))
    words = f"roughness {spread(jagged, '.1%')}, averaged {spread(smooth, '.1%')}"
    yield Check(words, paired_below(_JAGGED * smooth, jagged), BOTH)
    many, few = (values_of(table, _EXTREMES, name) for name in ("sampled", "averaged"))
    words = f"{spread(many)} local extremes, averaged {spread(few)} (limit {_FULL})"
    yield Check(words, all_above(many, _FULL), BOTH)


@METHODS.claim(
    "sampled-pca",
    "It contradicts the straight line between start and end, where the loss should fall.",
    "check",
)
def _check_sampled_pca(table: Table) -> Iterator[Check]:
    line = values_of(table, _LINE, "averaged")
    drawn, repaired = variants("sampled-pca").values()
    for variant, side, method in (
        (DRAWN, "side above: ", drawn),
        (DRAWN, "side below: ", READINGS[0]),
        (REPAIRED, "", repaired),
    ):
        climbs, off = (values_of(table, quantity, method) for quantity in (_CLIMB, _LINE))
        what = f"climbs on the line by {spread(climbs, '.0%')} of its fall (limit {_HILL:.0%})"
        yield Check(side + what, all_above(climbs, _HILL), variant)
        what = f"{spread(off, '.0%')} off the line, averaged {spread(line, '.0%')}"
        yield Check(side + what, paired_below(line, off), variant)


@METHODS.claim(
    "averaged",
    "It corresponds to the path and to the straight line, and is the best of the methods.",
    "trust",
)
def _check_averaged(table: Table) -> Iterator[Check]:
    for optimizer, title in OPTIMIZERS.items():
        for quantity, of in (
            (_STATES, "off the states' losses"),
            (_LINE, "of the fall off the line"),
        ):
            found = values_of(table, quantity, "averaged", optimizer)
            what = f"{title}: {spread(found, '.0%')} {of} (limit {_CORRESPONDS:.0%})"
            yield Check(what, all_below(found, _CORRESPONDS), BOTH)
    line, rough = (values_of(table, quantity, "averaged") for quantity in (_LINE, _ROUGH))
    for variant, methods in _BY_VARIANT.items():
        for name in ("pca", "sampled", "sampled-pca", "averaged-nd"):
            away, rougher = (
                values_of(table, quantity, methods[name]) for quantity in (_LINE, _ROUGH)
            )
            yield Check(
                f"SGD: nearer the line and smoother than {name} ({spread(away, '.0%')} off, "
                f"roughness {spread(rougher, '.1%')} against {spread(rough, '.1%')})",
                all_of([paired_below(line, away), paired_below(rough, rougher)]),
                variant,
            )


@METHODS.note
def _tell_sampled_pca(table: Table) -> str:
    """Which reading of the program has the hill."""
    told = []
    for method in (*variants("sampled-pca").values(), *READINGS):
        name = method.describe()
        if isinstance(method, SampledPCAAsDrawn):
            name = f"{rule_of(method)} as drawn (side {method.side})"
        told.append(f"{name} by {spread(values_of(table, _CLIMB, method), '.0%')}")
    return (
        "The hill between start and end of sampled-pca depends on how the program is read: the "
        f"surface climbs on the line, {', '.join(told)} of its fall. Those as drawn blend "
        'with the displaced pca surface; "above" and "below" tell the side of the path by one sign '
        'for all points, as the program does, "sign" from the centre at every point.'
    )


@METHODS.note
def _tell_line(table: Table) -> str:
    """Why no surface has the line's losses."""
    first, last = (
        spread(table.values(f"{which} state off the plane")) for which in ("first", "last")
    )
    drawn, repaired, averaged = (
        spread(values_of(table, _LINE, method), ".0%")
        for method in (*variants("pca").values(), AVERAGED)
    )
    return (
        f"The line is off the plane, its ends by {first} and {last}: what a surface has below it "
        "are other parameters, and it need not have the line's losses. pca "
        f"is off the line by {drawn} of the fall as drawn and by {repaired} repaired, averaged by "
        f"{averaged}; the structural similarity of averaged to pca, repaired, is "
        f"{spread(values_of(table, 'similarity to pca', 'averaged'))} (1 for equal pictures)."
    )


@LAYERS.picture(
    "layers",
    "Loss and accuracy between the first state and the last: the whole model, and each layer "
    "alone (seed 0): which layers the network cannot do without.",
)
def _draw_layers(table: Table, files: ResultFiles) -> Figure:
    line = files.load(results.layers(table.plan.run()))
    return plot_interpolation(line, title="Modified-LeNet, SGD")


@LAYERS.note
def _tell_layers(table: Table) -> str:
    """What each layer accounts for, over seeds."""
    share = "share of the drop in loss"
    layers = dict.fromkeys(table.settings(share))
    rows = [[layer, spread(table.values(share, setting=layer), ".0%")] for layer in layers]
    return (
        "The share of the drop in loss that is lost if one layer alone goes back to its first "
        f"state ({len(table.plan.runs())} seeds; shares need not sum to one, and above 100 % the "
        "network is worse with that layer as it was than with all of them as they were):\n\n"
        + markdown_table(["layer", "share of the drop"], rows)
    )
