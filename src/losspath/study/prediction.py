"""Do the first steps of a run tell how it ends?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from losspath.study.claims import Check, Judgment
from losspath.study.drawing import Floats, draw_lines, draw_prediction
from losspath.study.numbers import Development, area_under_curve
from losspath.study.section import Evidence, Picture, Section, curves_of

SHARES = (0.05, 0.1, 0.2)


def trial_scores(evidence: Evidence, share: float) -> tuple[list[bool], dict[str, list[float]]]:
    """Which runs of the prediction experiment end well, and what is seen of each by then.

    A run ends well if its validation accuracy is above the median of all. The predictors are the
    development of the step sizes, with both signs, and as a control the fall of the batch loss.

    Args:
        evidence: the results.
        share: of the steps that is seen.
    """
    runs = evidence.plan.trials()
    accuracies = np.array(evidence.accuracies(runs))
    good = (accuracies > np.median(accuracies)).tolist()
    scores: dict[str, list[float]] = {name: [] for name in _PREDICTORS}
    for run in runs:
        sizes = evidence.sizes(run)
        seen = Development.of(sizes, share)
        count = max(20, round(share * len(sizes.sizes)))
        losses = sizes.losses[:count]
        tenth = max(1, count // 10)
        scores["steps decline"].append(-seen.order)
        scores["steps climb"].append(seen.order)
        scores["fall of the batch loss"].append(
            float(losses[:tenth].mean() - losses[-tenth:].mean())
        )
    return good, scores


_PREDICTORS = ("steps decline", "steps climb", "fall of the batch loss")


def prediction_areas(
    evidence: Evidence,
) -> dict[str, dict[float, tuple[float, float, float]]]:
    """By predictor and share of the steps: the area under the curve and its interval."""
    areas: dict[str, dict[float, tuple[float, float, float]]] = {n: {} for n in _PREDICTORS}
    for share in SHARES:
        good, scores = trial_scores(evidence, share)
        for name, values in scores.items():
            areas[name][share] = area_under_curve(good, values)
    return areas


_PREDICTION = (
    "How well the first steps tell whether a run ends above the median accuracy: the area under "
    "the curve over runs of Modified-LeNet by SGD at rates from a hundredth to a hundred times the "
    "usual one, with 95 % intervals (bootstrap over runs). At 0.5 they tell nothing."
)


def _draw_prediction(evidence: Evidence) -> Figure:
    return draw_prediction(prediction_areas(evidence), _PREDICTION)


def _judge_prediction(evidence: Evidence) -> Judgment:
    areas = prediction_areas(evidence)
    checks = []
    for share in SHARES:
        sign = max(("steps decline", "steps climb"), key=lambda name: areas[name][share][0])
        area, low, high = areas[sign][share]
        told = None if np.isnan(area) else bool(low > 0.5)
        control = areas["fall of the batch loss"][share][0]
        checks.append(
            Check(
                f"first {share:.0%}: {sign} {area:.2f} ({low:.2f}…{high:.2f}), the fall of the "
                f"loss itself {control:.2f}",
                told,
            )
        )
    return Judgment(
        "steps and loss",
        "The development of the steps tells whether the network trains well.",
        tuple(checks),
        "prediction",
    )


def _draw_trials(evidence: Evidence) -> Figure:
    runs = evidence.plan.trials()
    rates = np.array([run.config.lr for run in runs])
    accuracies = 100 * np.array(evidence.accuracies(runs))
    orders = [
        np.array([Development.of(evidence.sizes(run), share).order for run in runs])
        for share in SHARES
    ]
    panels: list[tuple[str, str, Mapping[str, tuple[Floats, Floats]]]] = [
        ("learning rate", "final validation accuracy (%)", {"end": (rates, accuracies)}),
        (
            "learning rate",
            "rank correlation\nof step size and time",
            {
                f"first {share:.0%} of the steps": (rates, order)
                for share, order in zip(SHARES, orders, strict=True)
            },
        ),
    ]
    return draw_lines(panels, _TRIALS, joined=False)


_TRIALS = (
    "The runs of the prediction experiment: how they end, and how their steps develop behind the "
    "bump of what is seen (1: a steady climb, −1: a steady decline). They differ in rate and seed; "
    "what foretells the end is what tells the rates apart."
)


PREDICTION = Section(
    "prediction",
    "Do the first steps tell how a run ends?",
    lambda plan: curves_of(plan.trials()),
    lambda plan: [
        Picture("prediction", _PREDICTION, _draw_prediction),
        Picture("trials", _TRIALS, _draw_trials),
    ],
    (_judge_prediction,),
)
