"""How networks train, how a run ends, and learning rates from steps (Fig. 6.13)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from losspath.analysis.verdict import judge_dynamics
from losspath.figures import plot_dynamics, plot_runs, plot_samples
from losspath.figures.style import COLORS
from losspath.thesis.study.claims import (
    Check,
    Judgment,
    paired_below,
    spread,
)
from losspath.thesis.study.dots import Dots, draw_dots
from losspath.thesis.study.drawing import STYLES
from losspath.thesis.study.plan import ARMS, OPTIMIZERS, Plan
from losspath.thesis.study.runs import Result, Run, Steps
from losspath.thesis.study.section import Evidence, Picture, Section, curves_of, dynamics_of


def _losses(evidence: Evidence, runs: Sequence[Run]) -> list[float]:
    return [float(evidence.history(run).training_loss[-1]) for run in runs]


_NETWORKS = {"LeNet-5": "lenet5", "Modified-LeNet": "modified-lenet"}


def _networks(plan: Plan) -> dict[str, list[Run]]:
    return {title: plan.seeds(plan.run(name)) for title, name in _NETWORKS.items()}


def _draw_networks(evidence: Evidence) -> Figure:
    runs = {name: evidence.curves(group) for name, group in _networks(evidence.plan).items()}
    title = f"SGD, {evidence.plan.scale.first}"
    return plot_runs(runs, by="epoch", title=title, styles=STYLES)


def _judge_networks(evidence: Evidence) -> Judgment:
    found = {n: evidence.accuracies(runs) for n, runs in _networks(evidence.plan).items()}
    plan = evidence.plan
    counts = [plan.parameter_count(name, plan.scale.first) for name in _NETWORKS.values()]
    full = evidence.plan.scale.name == "full"
    checks = []
    for (name, values), claimed in zip(found.items(), (0.986, 0.974), strict=True):
        near = abs(float(np.mean(values)) - claimed) < 0.005
        checks.append(Check(f"{name} {spread(values, '.2%')}", near if full else None))
    ratio = counts[0] / counts[1]
    checks.append(Check(f"{ratio:.0f}× fewer parameters", bool(25 < ratio < 40)))
    return Judgment(
        "accuracy",
        "After 13 epochs of SGD on MNIST LeNet-5 is right for 98.6 %, Modified-LeNet for 97.4 %, "
        "with about 30× fewer parameters.",
        tuple(checks),
        "networks",
    )


def _arms_needs(plan: Plan) -> list[Result]:
    return [result for runs in plan.arms().values() for result in curves_of(runs)]


def _draw_arms(evidence: Evidence) -> Figure:
    runs = {name: evidence.curves(group) for name, group in evidence.plan.arms().items()}
    title = f"Modified-LeNet, SGD, {evidence.plan.scale.first}"
    return plot_runs(runs, by="epoch", title=title, styles=_ARM_STYLES)


# The plain rate is SGD as in other figures; no arm has the colour of Adam.
_ARM_STYLES = {
    name: {"color": color, "linestyle": dashes}
    for name, color, dashes in zip(
        ARMS,
        (COLORS[0], COLORS[4], COLORS[5], COLORS[6], "black"),
        ("-", "-", "-", "--", ":"),
        strict=True,
    )
}


def _mean_losses(evidence: Evidence, runs: Sequence[Run]) -> list[float]:
    """Over all epochs: what falls sooner has less."""
    return [float(evidence.history(run).training_loss[1:].mean()) for run in runs]


_AGAINST = (
    ("lr = step sizes", "plain rate"),
    ("lr = step sizes", "mean step size"),
    ("lr = step sizes", "shuffled step sizes"),
    ("scaled step sizes", "plain rate"),
)


def _judge_arms(evidence: Evidence) -> Judgment:
    arms = evidence.plan.arms()
    losses = {name: _losses(evidence, runs) for name, runs in arms.items()}
    means = {name: _mean_losses(evidence, runs) for name, runs in arms.items()}
    accuracies = {name: evidence.accuracies(runs) for name, runs in arms.items()}
    checks = []
    for arm, other in _AGAINST:
        for what, found in (
            ("training loss in the end", losses),
            ("mean training loss of all epochs", means),
        ):
            words = f"{what} {spread(found[arm])} against {spread(found[other])}"
            below = paired_below(found[arm], found[other])
            checks.append(Check(f"{arm} against {other}: {words}", below))
        one, two = (spread(accuracies[name], ".2%") for name in (arm, other))
        above = paired_below(accuracies[other], accuracies[arm])
        checks.append(Check(f"{arm} against {other}: accuracy {one} against {two}", above))
    return Judgment(
        "learning rate from the steps",
        "Training with lr_t = s_t, which has the bump, is more efficient.",
        tuple(checks),
        "ends",
    )


def _tell_arms(evidence: Evidence) -> str:
    """What the rates from step sizes are beside the plain rate."""
    plain = evidence.plan.arms()["plain rate"]
    ratios = [float(evidence.sizes(run).sizes.mean()) / run.config.lr for run in plain]
    return (
        f"The recorded step sizes are, as rates, {spread(ratios)} times the plain rate on the "
        "average: an arm that takes them has another mean rate too."
    )


def _draw_ends(evidence: Evidence) -> Figure:
    arms = evidence.plan.arms()
    losses, means, accuracies = (
        {name: {"": measure(evidence, runs)} for name, runs in arms.items()}
        for measure in (
            _losses,
            _mean_losses,
            lambda e, runs: [100 * a for a in e.accuracies(runs)],
        )
    )
    rates = {
        name: {"": [float(evidence.sizes(run).sizes.mean()) for run in runs]}
        for name, runs in arms.items()
    }
    return draw_dots(
        [
            [
                Dots("final training loss", losses),
                Dots("mean training loss of all epochs", means),
            ],
            [
                Dots("final validation accuracy (%)", accuracies),
                Dots("mean step size", rates),
            ],
        ],
        _ENDS,
    )


_ENDS = (
    "How the runs of the learning-rate experiment end, a dot for each seed, and how long their "
    "steps were. Raw, mean and shuffled step sizes have the same mean rate: they differ in when it "
    "is taken, in the bump and in what follows it."
)


def _draw_dynamics(evidence: Evidence, optimizer: str) -> Figure:
    runs = evidence.plan.by_optimizer()[optimizer]
    rate = runs[0].config.lr if optimizer == "SGD" else None
    found = [evidence.dynamics(run) for run in runs]
    return plot_dynamics(found, rate=rate, title=f"Modified-LeNet, {optimizer}")


def _tell_dynamics(evidence: Evidence) -> str:
    """Where SGD's steps are longest, and how sharp the surface is there."""
    runs = evidence.plan.by_optimizer()
    found = {title: [evidence.dynamics(run) for run in each] for title, each in runs.items()}
    longest = []
    for run in runs["SGD"]:
        middles, sizes, _ = evidence.sizes(run).binned()
        longest.append(float(middles[np.argmax(sizes)]))
    limit = 2 / runs["SGD"][0].config.lr
    sharpest = [int(np.nanargmax(each.sharpness)) for each in found["SGD"]]
    steps = [float(each.steps[i]) for each, i in zip(found["SGD"], sharpest, strict=True)]
    most = [each.sharpness[i] / limit for each, i in zip(found["SGD"], sharpest, strict=True)]
    cosines = {
        title: spread([float(np.nanmean(each.cosines)) for each in several])
        for title, several in found.items()
    }
    return (
        "Plain SGD's step is its rate times the batch's gradient, so that a bump is one of the "
        f"gradient. Its steps are longest about step {_numbers(longest)} (a number for each seed). "
        f"Of the states that were measured, {np.diff(found['SGD'][0].steps).mean():,.0f} steps "
        f"apart, the surface is sharpest at step {_numbers(steps)}, by {spread(most)} of 2/η, "
        "beyond which descent on a quadratic diverges; in the end by "
        f"{spread([each.sharpness[-1] / limit for each in found['SGD']])}. Successive steps have a "
        f"mean cosine of {cosines['SGD']} by SGD and of {cosines['Adam']} by Adam, whose steps are "
        "running means of gradients (β₁ = 0.9). Readings: "
        + "; ".join(
            f"{title} {', '.join(judge_dynamics(each).name for each in several)}"
            for title, several in found.items()
        )
        + "."
    )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:,.0f}" for value in values)


def _draw_samples(evidence: Evidence, data: str) -> Figure:
    dataset = evidence.dataset(evidence.plan.scale.data[data])
    images, targets = dataset.test_inputs[:2000].numpy(), dataset.test_targets[:2000].numpy()
    return plot_samples(images, targets, dataset.classes, title=data)


def _judge_cost(evidence: Evidence) -> Judgment:
    """Times differ from machine to machine: what can be counted is told, and judged nowhere."""
    scale = evidence.plan.scale
    steps = evidence.sizes(evidence.plan.run()).steps[-1]
    passes = steps * evidence.plan.run().config.batch_size
    points = scale.resolution**2 * scale.samples
    return Judgment(
        "cost",
        "Training takes about 10 minutes, a surface about 30, the step sizes about 1.",
        (
            Check(
                f"counted in samples: training {_millions(passes)} forward and backward, a surface "
                f"{_millions(points)} forward, the step sizes none; for times, which a study does "
                "not keep, see docs/results",
                None,
            ),
        ),
    )


def _millions(count: float) -> str:
    return f"{count / 1e6:.2g} million"


DATA = Section(
    "data",
    "The data",
    lambda plan: [],
    lambda plan: [
        Picture(
            f"samples-{number}",
            f"The first samples of {data} (thesis Fig. 6.5 and 6.6).",
            partial(_draw_samples, data=data),
        )
        for number, data in enumerate(plan.scale.data)
    ],
)

ACCURACY = Section(
    "networks",
    "LeNet-5 against Modified-LeNet",
    lambda plan: [result for runs in _networks(plan).values() for result in curves_of(runs)],
    lambda plan: [
        Picture(
            "networks",
            "LeNet-5 and Modified-LeNet by SGD: how close a network of a thirtieth of the "
            "parameters comes in loss and accuracy, and whether its steps develop alike.",
            _draw_networks,
        )
    ],
    (_judge_networks, _judge_cost),
)

RATES = Section(
    "6.13",
    "Learning rates from step sizes",
    _arms_needs,
    lambda plan: [
        Picture(
            "fig-6.13",
            "Training again with lr_t = s_t (thesis Fig. 6.13), and its controls: is it the bump "
            "that helps, or the mean rate alone?",
            _draw_arms,
        ),
        Picture("ends", _ENDS, _draw_ends, True),
    ],
    (_judge_arms,),
    (_tell_arms,),
)

DYNAMICS = Section(
    "dynamics",
    "Gradient, sharpness and turns along the path",
    lambda plan: [
        result
        for runs in plan.by_optimizer().values()
        for run in runs
        for result in (dynamics_of(plan, run), Steps(run))
    ],
    lambda plan: [
        Picture(
            f"dynamics-{title.lower()}",
            f"Modified-LeNet by {title}: is the surface sharpest where the gradient is longest? "
            "Cosines below zero are steps that go back and forth.",
            partial(_draw_dynamics, optimizer=title),
        )
        for title in OPTIMIZERS.values()
    ],
    notes=(_tell_dynamics,),
)
