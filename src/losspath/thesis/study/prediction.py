"""Do the first steps of a run tell how it ends?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure

from losspath.analysis.steps import StepSizes
from losspath.thesis.study.claims import Check, Judgment, all_of
from losspath.thesis.study.drawing import Floats, draw_lines, draw_prediction
from losspath.thesis.study.numbers import (
    GUESS,
    LEAST,
    Area,
    Development,
    area_under_curve,
    concordance,
)
from losspath.thesis.study.plan import Plan
from losspath.thesis.study.runs import Result, Run
from losspath.thesis.study.section import Evidence, Picture, Section, curves_of

SHARES = (0.05, 0.1, 0.2)

# Two signs at three shares are looked at, of which the best is told.
_LEVEL = 1 - 0.05 / (2 * len(SHARES))


def _fall(sizes: StepSizes, share: float) -> float:
    """Of the batch loss, from the first tenth of what is seen to its last."""
    losses = sizes.losses[: max(LEAST, round(share * len(sizes.losses)))]
    tenth = max(1, len(losses) // 10)
    return float(losses[:tenth].mean() - losses[-tenth:].mean())


PREDICTORS: dict[str, Callable[[StepSizes, float], float]] = {
    "steps climb": lambda sizes, share: Development.of(sizes, share).order,
    "steps decline": lambda sizes, share: -Development.of(sizes, share).order,
    "mean step size": lambda sizes, share: Development.of(sizes, share).mean,
    "fall of the batch loss": _fall,
}
"""What is seen of a run by a share of its steps: the development with both signs, and as controls
its mean size, which tells the learning rates apart, and the loss itself."""


def _all_runs(plan: Plan) -> list[Run]:
    several = [run for runs in plan.trials().values() for run in runs]
    return list(dict.fromkeys([*several, *plan.trials_alone()]))


def _scores(evidence: Evidence, runs: list[Run], name: str, share: float) -> list[float]:
    return [PREDICTORS[name](evidence.sizes(run), share) for run in runs]


def among_all(evidence: Evidence, name: str, share: float) -> Area:
    """The area under the curve of a predictor for runs that end above the median accuracy."""
    runs = evidence.plan.trials_alone()
    accuracies = np.array(evidence.accuracies(runs))
    good = accuracies > np.median(accuracies)
    return area_under_curve(good.tolist(), _scores(evidence, runs, name, share), _LEVEL)


def _that_learned(evidence: Evidence) -> list[list[Run]]:
    """Runs rate by rate, where one of them ends better than a guess."""
    groups = evidence.plan.trials().values()
    return [runs for runs in groups if max(evidence.accuracies(runs)) > GUESS]


def within_rates(evidence: Evidence, name: str, share: float) -> Area:
    """The same among runs of one learning rate, which differ in nothing but their seeds.

    Rates at which no run ends better than a guess are left out: there is no better one.
    """
    groups = [
        (evidence.accuracies(runs), _scores(evidence, runs, name, share))
        for runs in _that_learned(evidence)
    ]
    return concordance(groups, _LEVEL)


def _draw_prediction(evidence: Evidence) -> Figure:
    panels = {
        title: {
            name: {share: measure(evidence, name, share) for share in SHARES} for name in PREDICTORS
        }
        for title, measure in (
            ("among all runs", among_all),
            ("among runs of one learning rate", within_rates),
        )
    }
    return draw_prediction(panels, _PREDICTION)


_PREDICTION = (
    "How well the first steps tell whether a run ends well: the chance that of two runs the one "
    "that ends better has the higher score, with intervals (bootstrap, 95 % for six looks "
    "together). Left: runs above and below the median accuracy, Modified-LeNet by SGD, each at a "
    "rate of its own from a hundredth to a hundred times the usual one. Right: pairs of the same "
    "rate. At 0.5 they tell nothing."
)


def _judge_prediction(evidence: Evidence) -> Judgment:
    areas = {
        sign: {share: among_all(evidence, sign, share) for share in SHARES}
        for sign in ("steps climb", "steps decline")
    }
    sign = max(areas, key=lambda name: max(area.value for area in areas[name].values()))
    checks = [
        Check(f"among all, first {share:.0%}: {sign} {area}", _tells(area))
        for share, area in areas[sign].items()
    ]
    # The other sign has what is left to one.
    within = {share: within_rates(evidence, sign, share) for share in SHARES}
    told = ", ".join(f"{share:.0%} {area}" for share, area in within.items())
    found = all_of([_tells(area, either=True) for area in within.values()])
    checks.append(Check(f"among runs of one learning rate, {sign}: {told}", found))
    return Judgment(
        "steps and loss",
        "The development of the steps tells whether the network trains well (here: Modified-LeNet "
        "by SGD on one data set, a few epochs).",
        tuple(checks),
        "prediction",
    )


# An area that one could go by: where none is in an interval with a half, nothing is foretold.
_USEFUL = 0.8


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


def _tell_prediction(evidence: Evidence) -> str:
    """How the controls do."""
    told, sure = [], []
    for name in ("mean step size", "fall of the batch loss"):
        areas = [among_all(evidence, name, share) for share in SHARES]
        told.append(f"{name} {', '.join(map(str, areas))}")
        sure += [name] if all(area.low > 0.5 for area in areas) else []
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    learned = len(_that_learned(evidence))
    return (
        f"Controls, from the first {shares} of the steps, among all runs: {'; '.join(told)}. "
        f"With every share above a half: {', '.join(sure) or 'none'}. Within rates, {learned} of "
        f"{len(evidence.plan.trials())} are looked at, those where a run ended better than a guess."
    )


def _draw_trials(evidence: Evidence) -> Figure:
    runs = _all_runs(evidence.plan)
    rates = np.array([run.config.lr for run in runs])
    accuracies = 100 * np.array(evidence.accuracies(runs))
    panels: list[tuple[str, str, Mapping[str, tuple[Floats, Floats]]]] = [
        ("learning rate", "final validation accuracy (%)", {"end": (rates, accuracies)}),
        (
            "learning rate",
            "rank correlation\nof step size and time",
            {
                f"first {share:.0%} of the steps": (
                    rates,
                    np.array(_scores(evidence, runs, "steps climb", share)),
                )
                for share in SHARES
            },
        ),
    ]
    return draw_lines(panels, _TRIALS, joined=False)


_TRIALS = (
    "The runs of the prediction experiment: how they end, and how their steps develop behind the "
    "bump of what is seen (1: a steady climb, −1: a steady decline). Runs of one rate differ in "
    "their seeds alone."
)


def _needs(plan: Plan) -> list[Result]:
    return curves_of(_all_runs(plan))


PREDICTION = Section(
    "prediction",
    "Do the first steps tell how a run ends?",
    _needs,
    lambda plan: [
        Picture("prediction", _PREDICTION, _draw_prediction, True),
        Picture("trials", _TRIALS, _draw_trials, True),
    ],
    (_judge_prediction,),
    (_tell_prediction,),
)
