"""How far surfaces hold for vectors near the path: what all claims about surfaces hang on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from losspath.thesis.study.drawing import Dots, draw_dots
from losspath.thesis.study.judgments import BOTH, DRAWN, Check
from losspath.thesis.study.methods import values_of, variants
from losspath.thesis.study.plan import (
    AVERAGED,
    AVERAGED_ND,
    NEWER,
    OPTIMIZERS,
    READINGS,
    REPAIRED_METHODS,
    OptimizerName,
    Plan,
    rule_of,
)
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.results import Result
from losspath.thesis.study.sections import Section, markdown_table
from losspath.thesis.study.statistics import all_above, all_below, paired_below, spread
from losspath.thesis.study.table import Floats, Table

# A picture whose typical error is greater by less than this factor is taken for as right.
_SAME = 1.05
# One that is off by this factor more than the losses of draws at one place spread is inaccurate,
# and one whose bias is below the other corresponds to the path.
_INACCURATE, _CORRESPONDS = 1.2, 0.05

_ERROR, _BIAS, _FLOOR = "typical error", "bias", "least typical error"
_SKILL, _RECORDED = "skill", "skill over recorded losses"


def _needs(plan: Plan) -> list[Result[Any]]:
    runs = [run for optimizer in OPTIMIZERS for run in plan.runs(optimizer=optimizer)]
    return [plan.fidelities(run) for run in runs]


FIDELITY = Section("fidelity", "How far surfaces hold near the path", _needs)


def _factor(values: Floats) -> str:
    return f"×{spread(values)}"


@FIDELITY.picture(
    "fidelity",
    "How far surfaces of Modified-LeNet hold for vectors near the path that they were not made of, "
    "a dot for each seed: draws of the path's own distribution, and states of trainings that went "
    "on from it. For 68 % of them the drawn loss is off by at most the typical error; in the "
    "middle is the bias, as the mean of drawn over true losses. At a skill of zero it tells no "
    "more of losses than those that training recorded. local-planes and local-draws are not the "
    "thesis's.",
)
def _draw_fidelity(table: Table, files: ResultFiles, caption: str) -> Figure:
    methods = {rule_of(each): variants(rule_of(each)) for each in REPAIRED_METHODS}
    methods |= {each.name: {BOTH: each} for each in NEWER}

    def panel(label: str, quantity: str, optimizer: OptimizerName, offset: int = 0) -> Dots:
        rows = {
            rule: {
                variant.removesuffix(" and repaired"): offset
                + values_of(table, quantity, method, optimizer)
                for variant, method in of_rule.items()
            }
            for rule, of_rule in methods.items()
        }
        return Dots(label, rows, title=OPTIMIZERS[optimizer])

    def biases(optimizer: OptimizerName) -> Dots:
        found = panel("drawn loss / true loss", _BIAS, optimizer, 1)
        return replace(found, guides={"neither too high nor too low": 1.0}, logarithmic=True)

    grid = [
        [
            replace(panel("typical error (factor)", _ERROR, optimizer), logarithmic=True),
            biases(optimizer),
            panel("skill over recorded losses", _RECORDED, optimizer),
        ]
        for optimizer in OPTIMIZERS
    ]
    return draw_dots(grid, caption)


def _inaccurate(table: Table, rule: str) -> Iterator[Check]:
    """Whether a rule's surface is off by more than the losses of draws at one place spread."""
    for variant, method in variants(rule).items():
        for optimizer, title in OPTIMIZERS.items():
            error, bias, floor = (
                values_of(table, each, method, optimizer) for each in (_ERROR, _BIAS, _FLOOR)
            )
            told = f"{title}: typical error {_factor(error)} (draws at one place spread by "
            told += f"{_factor(floor)}), bias {spread(bias, '+.0%')}"
            yield Check(told, all_above(error / floor, _INACCURATE), variant)


# What the thesis says of three of its methods is judged alike.
for _rule, _words in (
    ("pca", "The pca surface is inaccurate."),
    ("sampled", "Jagged and full of local extremes, the sampled surface is inaccurate."),
    (
        "sampled-pca",
        "It contradicts the straight line between start and end, and is inaccurate.",
    ),
):
    FIDELITY.claim(f"{_rule}, near the path", _words, "fidelity")(partial(_inaccurate, rule=_rule))


@FIDELITY.claim(
    "averaged, near the path",
    "It corresponds to the path, and is the best of the methods.",
    "fidelity",
)
def _check_averaged(table: Table) -> Iterator[Check]:
    for optimizer, title in OPTIMIZERS.items():
        bias, skill = (values_of(table, each, AVERAGED, optimizer) for each in (_BIAS, _RECORDED))
        told = f"{title}: bias {spread(bias, '+.0%')} (limit {_CORRESPONDS:.0%})"
        yield Check(told, all_below(abs(bias), _CORRESPONDS), BOTH)
        told = f"{title}: skill over recorded losses {spread(skill)} (limit 0)"
        yield Check(told, all_above(skill, 0.0), BOTH)
        error = values_of(table, _ERROR, AVERAGED, optimizer)
        for rule in ("pca", "sampled", "sampled-pca", "averaged-nd"):
            for variant, method in variants(rule).items():
                other = values_of(table, _ERROR, method, optimizer)
                told = f"{title}: typical error {_factor(error)}, {rule} {_factor(other)}"
                yield Check(told, paired_below(error, other), variant)


@FIDELITY.claim(
    "averaged-nd, near the path",
    "It differs from averaged more for Adam than for SGD.",
    "fidelity",
)
def _check_averaged_nd(table: Table) -> Iterator[Check]:
    apart = {}
    for optimizer in OPTIMIZERS:
        one, other = (values_of(table, _ERROR, each, optimizer) for each in (AVERAGED, AVERAGED_ND))
        apart[optimizer] = abs(other / one - 1)
    told = ", ".join(f"{spread(each, '.1%')} ({OPTIMIZERS[name]})" for name, each in apart.items())
    yield Check(f"typical errors differ by {told}", paired_below(apart["sgd"], apart["adam"]))


@FIDELITY.claim(
    "sampled path, near the path",
    "A path sampled {scale.stride}× gives almost the same surface.",
    "fidelity",
)
def _check_sampling(table: Table) -> Iterator[Check]:
    yield _as_right(table, "stride", table.plan.scale.stride, 1)


@FIDELITY.claim(
    "resolution and samples, near the path",
    "More than 10,000 samples and a grid of 19 × 19 change nothing visible.",
    "fidelity",
)
def _check_resolution(table: Table) -> Iterator[Check]:
    for name in ("resolution", "samples"):
        usual, finest = getattr(table.plan.scale, name), table.plan.sweeps[name][-1]
        yield _as_right(table, name, usual, finest)


def _as_right(table: Table, name: str, value: int, finest: int) -> Check:
    """Whether a surface of less holds as well as one of all."""
    error, least = (
        table.values(_ERROR, "averaged", table.plan.setting(name, each)) for each in (value, finest)
    )
    told = f"{name} {value:,}: typical error {_factor(error)}, {finest:,}: {_factor(least)}"
    return Check(told, all_below(error / least, _SAME))


@FIDELITY.note
def _tell_fidelity(table: Table) -> str:
    """The numbers of the figure as a table, with the methods that are not the thesis's."""
    rows = []
    for optimizer, title in OPTIMIZERS.items():
        methods = [pair for each in REPAIRED_METHODS for pair in variants(rule_of(each)).items()]
        methods += [(DRAWN, each) for each in READINGS] + [("", each) for each in NEWER]
        for variant, method in methods:
            error, bias, skill, recorded = (
                values_of(table, quantity, method, optimizer)
                for quantity in (_ERROR, _BIAS, _SKILL, _RECORDED)
            )
            numbers = (_factor(error), spread(bias, "+.0%"), spread(skill), spread(recorded))
            rows.append([title, method.describe(), variant, *numbers])
        floor = values_of(table, _FLOOR, AVERAGED, optimizer)
        rows.append(
            [title, "losses of draws at one place spread by", "", _factor(floor), "", "", ""]
        )
    return (
        "Over draws of the path's own distribution and states of trainings that went on from it; "
        "the skills also over places on chords between states, against the losses of 150 states, "
        "or those that were recorded, interpolated in the plane (0: no more than these):\n\n"
        + markdown_table(
            ["", "method", "", "typical error", "bias", "skill", "skill over recorded losses"], rows
        )
    )
