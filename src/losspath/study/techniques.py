"""Step sizes by technique and network (thesis Fig. 6.10 to 6.12)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from losspath.figures import plot_runs
from losspath.reference.networks import build_network
from losspath.study.claims import (
    Check,
    Judgment,
    all_above,
    all_below,
    separated,
    spread,
)
from losspath.study.drawing import draw_steps
from losspath.study.numbers import Development
from losspath.study.plan import Plan
from losspath.study.runs import Result, Run
from losspath.study.section import Evidence, Picture, Section, curves_of

_BUMP = 1.1  # of the mean that follows: a rise that a hundred means do not show by chance


_CLIMB, _DECLINE = 1.1, 0.9


def _developments(evidence: Evidence, runs: Sequence[Run]) -> list[Development]:
    return [Development.of(evidence.sizes(run)) for run in runs]


def _techniques_needs(plan: Plan, networks: Sequence[str]) -> list[Result]:
    return [
        result
        for network in networks
        for data in plan.scale.data
        for runs in plan.techniques(network, data).values()
        for result in curves_of(runs)
    ]


def _draw_techniques(evidence: Evidence, networks: Sequence[str], caption: str) -> Figure:
    plan = evidence.plan
    panels = []
    for network in networks:
        for data in plan.scale.data:
            groups = plan.techniques(network, data)
            title = plan.title(next(iter(groups.values()))[0])
            panels.append((title, {n: evidence.curves(runs) for n, runs in groups.items()}))
    return draw_steps(panels, caption)


def _caption(number: str, what: str) -> str:
    return (
        f"Size of the steps over training, {what} (thesis Fig. {number}). Means over 100 equal "
        "parts of a run; lines are means over seeds, bands from the least to the greatest."
    )


_10 = _caption("6.10", "Modified-LeNet")


_11 = _caption("6.11", "other networks")


def _data(plan: Plan) -> tuple[str, str | None]:
    """The titles of the data that stand for MNIST and for CIFAR-10."""
    first, *others = plan.scale.data
    return first, others[0] if others else None


def _judge_adam(evidence: Evidence) -> Judgment:
    plan = evidence.plan
    easy, hard = _data(plan)
    checks = []
    for data in plan.scale.data:
        groups = plan.techniques("modified-lenet", data)
        adam, sgd = (
            [each.mean for each in _developments(evidence, groups[name])]
            for name in ("Adam", "SGD")
        )
        ratio = np.mean(adam) / np.mean(sgd)
        checks.append(Check(f"{data}: Adam's are {ratio:.2g}× SGD's", separated(sgd, adam)))
    trends = _trends(evidence, "Adam")
    checks.append(
        Check(f"{easy}: last over early {spread(trends[easy])}", all_above(trends[easy], _CLIMB))
    )
    if hard is not None:
        near = all(_DECLINE < value < _CLIMB for value in trends[hard])
        checks.append(Check(f"{hard}: last over early {spread(trends[hard])}", near))
    return Judgment(
        "Adam's steps",
        "Larger than SGD's; they climb on MNIST and are nearly constant on CIFAR-10.",
        tuple(checks),
        "fig-6.10",
    )


def _trends(
    evidence: Evidence, technique: str, network: str = "modified-lenet"
) -> dict[str, list[float]]:
    plan = evidence.plan
    return {
        data: [
            each.trend
            for each in _developments(evidence, plan.techniques(network, data)[technique])
        ]
        for data in plan.scale.data
    }


def _bumps(evidence: Evidence, network: str, data: str, technique: str) -> list[float]:
    runs = evidence.plan.techniques(network, data)[technique]
    return [each.bump for each in _developments(evidence, runs)]


def _judge_sgd(evidence: Evidence) -> Judgment:
    plan = evidence.plan
    easy, hard = _data(plan)
    trends = _trends(evidence, "SGD")
    bumps = _bumps(evidence, "modified-lenet", easy, "SGD")
    checks = [
        Check(f"{easy}: bump {spread(bumps)}× what follows", all_above(bumps, _BUMP)),
        Check(f"{easy}: last over early {spread(trends[easy])}", all_below(trends[easy], _DECLINE)),
    ]
    if hard is not None:
        words = f"{hard}: last over early {spread(trends[hard])}"
        checks.append(Check(words, all_above(trends[hard], _CLIMB)))
    return Judgment(
        "SGD's steps",
        "A bump at the start; then they decline on MNIST and climb on CIFAR-10.",
        tuple(checks),
        "fig-6.10",
    )


def _judge_bump(evidence: Evidence) -> Judgment:
    plan = evidence.plan
    networks = ("modified-lenet", *plan.scale.networks)
    checks = []
    for data in plan.scale.data:
        sizes, bumps = [], []
        for network in networks:
            runs = plan.techniques(network, data)["SGD"]
            found = _bumps(evidence, network, data, "SGD")
            channels = evidence.dataset(runs[0].config.data).channels
            model = build_network(network, channels, 10)
            sizes.append(sum(parameter.numel() for parameter in model.parameters()))
            bumps.append(float(np.mean(found)))
        order = [bumps[i] for i in np.argsort(sizes)]
        told = ", ".join(f"{networks[i]} ({sizes[i]:,}) {bumps[i]:.2f}" for i in np.argsort(sizes))
        checks.append(Check(f"{data}: {told}", bool(np.all(np.diff(order) > 0))))
    return Judgment(
        "SGD's bump",
        "The larger the network, the larger the bump.",
        tuple(checks),
        "fig-6.11",
    )


def _judge_dropout(evidence: Evidence) -> Judgment:
    plan = evidence.plan
    easy, hard = _data(plan)
    with_it = _bumps(evidence, "modified-lenet", easy, "SGD, dropout")
    without = _bumps(evidence, "modified-lenet", easy, "SGD")
    slow, quick = (_trends(evidence, name)[easy] for name in ("Adam, dropout", "Adam"))
    checks = [
        Check(
            f"SGD's bump {spread(with_it)} against {spread(without)}", separated(with_it, without)
        ),
        Check(
            f"Adam: last over early {spread(slow)} against {spread(quick)}", separated(slow, quick)
        ),
    ]
    if hard is not None:
        climbs = _trends(evidence, "SGD, dropout")[hard]
        checks.append(Check(f"SGD, dropout, {hard}: {spread(climbs)}", all_above(climbs, _CLIMB)))
    return Judgment(
        "dropout",
        "SGD's bump is smaller with it, Adam's climb slower; SGD with it still climbs on CIFAR-10.",
        tuple(checks),
        "fig-6.10",
    )


def _sgd_runs(plan: Plan) -> dict[str, list[Run]]:
    return {
        f"{data}{', dropout' if dropout else ''}": plan.seeds(plan.run(data=data, dropout=dropout))
        for data in plan.scale.data
        for dropout in (False, True)
    }


def _draw_loss(evidence: Evidence) -> Figure:
    runs = {name: evidence.curves(group) for name, group in _sgd_runs(evidence.plan).items()}
    return plot_runs(runs, title="Modified-LeNet, SGD")


_12 = (
    "Step sizes beside losses and accuracies of Modified-LeNet by SGD (thesis Fig. 6.12): do steps "
    "that decline go with a run that ends well?"
)


TECHNIQUES = Section(
    "6.10",
    "Step sizes by technique",
    lambda plan: _techniques_needs(plan, ["modified-lenet"]),
    lambda plan: [Picture("fig-6.10", _10, lambda e: _draw_techniques(e, ["modified-lenet"], _10))],
    (_judge_adam, _judge_sgd, _judge_dropout),
)

NETWORKS = Section(
    "6.11",
    "Step sizes of other networks",
    lambda plan: _techniques_needs(plan, ["modified-lenet", *plan.scale.networks]),
    lambda plan: [
        Picture("fig-6.11", _11, lambda e: _draw_techniques(e, plan.scale.networks, _11))
    ],
    (_judge_bump,),
)

LOSSES = Section(
    "6.12",
    "Step sizes and loss",
    lambda plan: [result for runs in _sgd_runs(plan).values() for result in curves_of(runs)],
    lambda plan: [Picture("fig-6.12", _12, _draw_loss)],
)
