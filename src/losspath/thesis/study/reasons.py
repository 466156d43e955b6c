"""Why step sizes go as they do: numbers beside the claims about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau
from torch import nn

from losspath.analysis.runs import History
from losspath.thesis.networks import TITLES
from losspath.thesis.study.claims import separated, spread
from losspath.thesis.study.numbers import GUESS, Development
from losspath.thesis.study.runs import Run
from losspath.thesis.study.section import Evidence

_MOST = 0.9  # of the fall in loss


def _epochs_to_fall(history: History) -> float:
    """Epochs after which nine tenths of the whole fall in training loss are done."""
    loss = history.training_loss
    fallen = (loss[0] - loss) >= _MOST * (loss[0] - np.nanmin(loss))
    return float(history.epoch[fallen.argmax()])


def _highest_at(evidence: Evidence, run: Run) -> float:
    """Where in a run its steps are longest, as a share of it."""
    middles, sizes, _ = evidence.sizes(run).binned()
    return float(middles[np.nanargmax(sizes)] / evidence.sizes(run).steps[-1])


def tell_techniques(evidence: Evidence) -> str:
    """What the steps of both optimisers are made of."""
    plan, told = evidence.plan, []
    for data in plan.scale.data:
        groups = plan.techniques("modified-lenet", data)
        epochs = [_epochs_to_fall(evidence.history(run)) for run in groups["SGD"]]
        highest = [_highest_at(evidence, run) for run in groups["SGD"]]
        reach = plan.scale.rates["adam"] * np.sqrt(plan.parameter_count("modified-lenet", data))
        shares = [Development.of(evidence.sizes(r)).mean / reach for r in groups["Adam"]]
        told.append(
            f"{data}: nine tenths of the fall in SGD's training loss are done after "
            f"{spread(epochs)} of {plan.scale.epochs} epochs, and its steps are longest after "
            f"{spread(highest, '.0%')} of the run; Adam's are {spread(shares, '.0%')} of η√P on "
            "average."
        )
    return (
        "Plain SGD's step is its rate times the batch's gradient, so that its development is the "
        "gradient's. Adam divides by the gradient's running size, so that a step in which all "
        "gradients agree is about η√P long, whatever their length, and the size of its steps tells "
        "how far they agree. " + " ".join(told)
    )


def tell_networks(evidence: Evidence) -> str:
    """The bump beside the number of parameters and of layers."""
    plan = evidence.plan
    networks = ("modified-lenet", *plan.scale.networks)
    lines = [
        "| data | network | parameters | layers | SGD's bump |",
        "| --- | --- | --- | --- | --- |",
    ]
    told = []
    for data in plan.scale.data:
        rows = []
        for name in networks:
            model = plan.network(name, data)
            layers = sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in model.modules())
            runs = plan.techniques(name, data)["SGD"]
            bumps = [Development.of(evidence.sizes(run)).bump for run in runs]
            rows.append((plan.parameter_count(name, data), layers, float(np.mean(bumps))))
            lines.append(
                f"| {data} | {TITLES[name]} | {rows[-1][0]:,} | {layers} | {spread(bumps)} |"
            )
        told.append(f"{data}: {_ranks([row[2] for row in rows], rows)}.")
    return "\n".join(
        [
            "Rank correlations of the mean bump, over too few networks to tell by: "
            f"{' '.join(told)} {_tell_failed(evidence, networks)}",
            "",
            *lines,
        ]
    )


def _tell_failed(evidence: Evidence, networks: Sequence[str]) -> str:
    """Which runs ended no better than a guess: their steps are those of no training."""
    plan, failed = evidence.plan, []
    for data in plan.scale.data:
        for name in networks:
            for technique, runs in plan.techniques(name, data).items():
                count = sum(accuracy < GUESS for accuracy in evidence.accuracies(runs))
                if count:
                    several = f" ({count} of {len(runs)} seeds)" if len(runs) > 1 else ""
                    failed.append(f"{TITLES[name]} by {technique} on {data}{several}")
    if not failed:
        return "Every run ended better than a guess."
    return (
        f"No better than a guess in the end, so that their steps are those of a network that has "
        f"stopped learning: {'; '.join(failed)}."
    )


def _ranks(bumps: Sequence[float], rows: Sequence[tuple[int, int, float]]) -> str:
    if max(bumps) - min(bumps) < 0.05:  # none to speak of
        return "no network has a bump"
    parameters, layers = (
        kendalltau([row[column] for row in rows], bumps).statistic for column in (0, 1)
    )
    return f"{parameters:.2f} with the number of parameters, {layers:.2f} with that of layers"


def tell_losses(evidence: Evidence) -> str:
    """Whether dropout is what the relation is of, or each technique has it."""
    plan, told = evidence.plan, []
    for data in plan.scale.data:
        groups = plan.techniques("modified-lenet", data)
        parts, trends, accuracies = [], [], []
        for technique in ("SGD", "SGD, dropout"):
            runs = groups[technique]
            trends.append([Development.of(evidence.sizes(run)).trend for run in runs])
            accuracies.append(evidence.accuracies(runs))
            within = kendalltau(trends[-1], accuracies[-1]).statistic
            parts.append(
                f"{technique} × {spread(trends[-1])} and {spread(accuracies[-1], '.1%')}, rank "
                f"correlation among its {len(runs)} seeds {within:.2f}"
            )
        apart = {
            name: separated(*values) is not None
            for name, values in (("steps", trends), ("accuracies", accuracies))
        }
        if all(apart.values()):
            parts.append("dropout tells both apart, so that a relation among all is one of dropout")
        told.append(f"{data}: {'; '.join(parts)}.")
    return (
        "Change of the steps behind the bump, and validation accuracy, with and without dropout: "
        + " ".join(told)
    )
