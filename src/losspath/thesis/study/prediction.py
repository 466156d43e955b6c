"""Do the first steps of a run tell how it ends?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from matplotlib.figure import Figure

from losspath.thesis.study.drawing import Panel, draw_lines, draw_prediction
from losspath.thesis.study.judgments import Check
from losspath.thesis.study.measuring import SHARES, first
from losspath.thesis.study.plan import curves
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.results import Run
from losspath.thesis.study.sections import Section
from losspath.thesis.study.statistics import Area, all_of, area_under_curve, concordance
from losspath.thesis.study.table import Floats, Table
from losspath.thesis.study.techniques import GUESS

PREDICTION = Section(
    "prediction", "Do the first steps tell how a run ends?", lambda plan: curves(plan.all_trials())
)

# Two signs at three shares are looked at, of which the best is told.
_LEVEL = 1 - 0.05 / (2 * len(SHARES))
# An area that one could go by: where none is in an interval with a half, nothing is foretold.
_USEFUL = 0.8

_ACCURACY, _ORDER = "final validation accuracy", "order behind the bump"

PREDICTORS: dict[str, tuple[str, int]] = {
    "steps climb": (_ORDER, 1),
    "steps decline": (_ORDER, -1),
    "mean step size": ("mean step size", 1),
    "fall of the batch loss": ("fall of the batch loss", 1),
}
"""What is seen of a run by a share of its steps, and the sign that it is taken with: the
development with both signs, and as controls its mean size, which tells the learning rates apart,
and the loss itself."""


def _scores(table: Table, runs: Iterable[Run], name: str, share: float) -> Floats:
    quantity, sign = PREDICTORS[name]
    return sign * table.of(runs, quantity, setting=first(share))


def among_all(table: Table, name: str, share: float) -> Area:
    """The area under the curve of a predictor for runs that end above the median accuracy."""
    runs = table.plan.trials_alone()
    accuracies = table.of(runs, _ACCURACY)
    good = accuracies > np.median(accuracies)
    return area_under_curve(good, _scores(table, runs, name, share), _LEVEL)


def _that_learned(table: Table) -> list[list[Run]]:
    """Runs rate by rate, where one of them ends better than a guess."""
    groups = table.plan.trials().values()
    return [runs for runs in groups if max(table.of(runs, _ACCURACY)) > GUESS]


def within_rates(table: Table, name: str, share: float) -> Area:
    """The same among runs of one learning rate, which differ in nothing but their seeds.

    Rates at which no run ends better than a guess are left out: there is no better one.
    """
    groups = [
        (table.of(runs, _ACCURACY), _scores(table, runs, name, share))
        for runs in _that_learned(table)
    ]
    return concordance(groups, _LEVEL)


@PREDICTION.picture(
    "prediction",
    "How well the first steps tell whether a run ends well: the chance that of two runs the one "
    "that ends better has the higher score, with intervals (bootstrap, 95 % for six looks "
    "together). Left: runs above and below the median accuracy, Modified-LeNet by SGD, each at a "
    "rate of its own from a hundredth to a hundred times the usual one. Right: pairs of the same "
    "rate. At 0.5 they tell nothing.",
)
def _draw_prediction(table: Table, files: ResultFiles, caption: str) -> Figure:
    panels = {
        title: {
            name: {share: measure(table, name, share) for share in SHARES} for name in PREDICTORS
        }
        for title, measure in (
            ("among all runs", among_all),
            ("among runs of one learning rate", within_rates),
        )
    }
    return draw_prediction(panels, caption)


@PREDICTION.claim(
    "steps and loss",
    "The development of the steps tells whether the network trains well (here: Modified-LeNet by "
    "SGD on one data set, a few epochs).",
    "prediction",
)
def _check_prediction(table: Table) -> Iterator[Check]:
    areas = {
        sign: {share: among_all(table, sign, share) for share in SHARES}
        for sign in ("steps climb", "steps decline")
    }
    sign = max(areas, key=lambda name: max(area.value for area in areas[name].values()))
    for share, area in areas[sign].items():
        yield Check(f"among all, first {share:.0%}: {sign} {area}", _tells(area))
    # The other sign has what is left to one.
    within = {share: within_rates(table, sign, share) for share in SHARES}
    told = ", ".join(f"{share:.0%} {area}" for share, area in within.items())
    found = all_of([_tells(area, either=True) for area in within.values()])
    yield Check(f"among runs of one learning rate, {sign}: {told}", found)


def _tells(area: Area, either: bool = False) -> bool | None:
    """Whether an interval is above a half; or on either side of it, which is the other sign.

    None where it has both a half and areas that one could go by.
    """
    if not np.isfinite(area.value):
        return None
    if area.low > 0.5 or (either and area.high < 0.5):
        return True
    useless = area.high < _USEFUL and (not either or area.low > 1 - _USEFUL)
    return False if useless else None


@PREDICTION.note
def _tell_prediction(table: Table) -> str:
    """How the controls do."""
    told, sure = [], []
    for name in ("mean step size", "fall of the batch loss"):
        areas = [among_all(table, name, share) for share in SHARES]
        told.append(f"{name} {', '.join(map(str, areas))}")
        sure += [name] if all(area.low > 0.5 for area in areas) else []
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    learned = len(_that_learned(table))
    return (
        f"Controls, from the first {shares} of the steps, among all runs: {'; '.join(told)}. "
        f"With every share above a half: {', '.join(sure) or 'none'}. Within rates, {learned} of "
        f"{len(table.plan.trials())} are looked at, those where a run ended better than a guess."
    )


@PREDICTION.picture(
    "trials",
    "The runs of the prediction experiment: how they end, and how their steps develop behind the "
    "bump of what is seen (1: a steady climb, −1: a steady decline). Runs of one rate differ in "
    "their seeds alone.",
)
def _draw_trials(table: Table, files: ResultFiles, caption: str) -> Figure:
    runs = table.plan.all_trials()
    rates = np.array([run.config.lr for run in runs])
    orders = {
        f"first {share:.0%} of the steps": (rates, _scores(table, runs, "steps climb", share))
        for share in SHARES
    }
    ends = {"end": (rates, 100 * table.of(runs, _ACCURACY))}
    panels = [
        Panel("learning rate", "final validation accuracy (%)", ends),
        Panel("learning rate", "rank correlation\nof step size and time", orders),
    ]
    return draw_lines(panels, caption, joined=False)
