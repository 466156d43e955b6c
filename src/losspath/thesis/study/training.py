"""How networks train, how a run ends, and learning rates from steps (Fig. 6.13)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from losspath.figures import plot_dynamics, plot_runs, plot_samples
from losspath.thesis.study import results
from losspath.thesis.study.drawing import STYLES, Dots, draw_dots
from losspath.thesis.study.judgments import Check
from losspath.thesis.study.plan import ARMS, OPTIMIZERS, OptimizerName, curves
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.sections import Section
from losspath.thesis.study.statistics import paired_below, spread
from losspath.thesis.study.table import Table

_NETWORKS: dict[str, dict[str, Any]] = {
    "LeNet-5": {"network": "lenet5"},
    "Modified-LeNet": {"network": "modified-lenet"},
}
_ACCURACY = "final validation accuracy"
_FINAL, _MEAN = "final training loss", "mean training loss"

_AGAINST = (
    ("lr = step sizes", "plain rate"),
    ("lr = step sizes", "mean step size"),
    ("lr = step sizes", "shuffled step sizes"),
    ("scaled step sizes", "plain rate"),
)

DATA = Section("data", "The data", lambda plan: [])
ACCURACY = Section(
    "networks",
    "LeNet-5 against Modified-LeNet",
    lambda plan: curves(run for each in _NETWORKS.values() for run in plan.runs(**each)),
)
RATES = Section(
    "6.13",
    "Learning rates from step sizes",
    lambda plan: curves(run for arm in ARMS.values() for run in plan.runs(**arm)),
)
DYNAMICS = Section(
    "dynamics",
    "Gradient, sharpness and turns along the path",
    lambda plan: [
        result
        for optimizer in OPTIMIZERS
        for run in plan.runs(optimizer=optimizer)
        for result in (plan.dynamics(run), results.steps(run))
    ],
)


@RATES.picture(
    "fig-6.13",
    "Training again with lr_t = s_t (thesis Fig. 6.13), and its controls: is it the bump that "
    "helps, or the mean rate alone?",
    groups=ARMS,
    title="Modified-LeNet, SGD",
)
@ACCURACY.picture(
    "networks",
    "LeNet-5 and Modified-LeNet by SGD: how close a network of a thirtieth of the parameters "
    "comes in loss and accuracy, and whether its steps develop alike.",
    groups=_NETWORKS,
    title="SGD",
)
def _draw_runs(
    table: Table, files: ResultFiles, groups: Mapping[str, dict[str, Any]], title: str
) -> Figure:
    runs = {name: files.curves(table.plan.runs(**each)) for name, each in groups.items()}
    return plot_runs(runs, by="epoch", title=f"{title}, {table.plan.scale.first}", styles=STYLES)


@ACCURACY.claim(
    "accuracy",
    "After 13 epochs of SGD on MNIST LeNet-5 is right for 98.6 %, Modified-LeNet for 97.4 %, with "
    "about 30× fewer parameters.",
    "networks",
)
def _check_networks(table: Table) -> Iterator[Check]:
    full = table.plan.scale.name == "full"
    for (name, network), claimed in zip(_NETWORKS.items(), (0.986, 0.974), strict=True):
        found = table.values(_ACCURACY, **network)
        near = abs(float(np.mean(found)) - claimed) < 0.005
        yield Check(f"{name} {spread(found, '.2%')}", near if full else None)
    large, small = (table.values("parameters", **network)[0] for network in _NETWORKS.values())
    yield Check(f"{large / small:.0f}× fewer parameters", 25 < large / small < 40)


@ACCURACY.claim(
    "cost", "Training takes about 10 minutes, a surface about 30, the step sizes about 1."
)
def _check_cost(table: Table) -> Iterator[Check]:
    """Times differ from machine to machine: what can be counted is told, and judged nowhere."""
    scale, run = table.plan.scale, table.plan.run()
    passes = table.of([run], "optimizer steps")[0] * run.config.batch_size / 1e6
    points = scale.resolution**2 * scale.samples / 1e6
    yield Check(
        f"counted in samples: training {passes:.2g} million forward and backward, a surface "
        f"{points:.2g} million forward, the step sizes none; for times, which a study does "
        "not keep, see docs/results",
        None,
    )


@RATES.claim(
    "learning rate from the steps",
    "Training with lr_t = s_t, which has the bump, is more efficient.",
    "ends",
)
def _check_arms(table: Table) -> Iterator[Check]:
    for arm, other in _AGAINST:
        for words, quantity in (
            ("training loss in the end", _FINAL),
            ("mean training loss of all epochs", _MEAN),
        ):
            one, two = (table.values(quantity, **ARMS[name]) for name in (arm, other))
            told = f"{arm} against {other}: {words} {spread(one)} against {spread(two)}"
            yield Check(told, paired_below(one, two))
        one, two = (table.values(_ACCURACY, **ARMS[name]) for name in (arm, other))
        told = f"accuracy {spread(one, '.2%')} against {spread(two, '.2%')}"
        yield Check(f"{arm} against {other}: {told}", paired_below(two, one))


@RATES.note
def _tell_arms(table: Table) -> str:
    """What the rates from step sizes are beside the plain rate."""
    ratios = table.values("mean step size") / table.plan.run().config.lr
    return (
        f"The recorded step sizes are, as rates, {spread(ratios)} times the plain rate on the "
        "average: an arm that takes them has another mean rate too."
    )


@RATES.picture(
    "ends",
    "How the runs of the learning-rate experiment end, a dot for each seed, and how long their "
    "steps were. Raw, mean and shuffled step sizes have the same mean rate: they differ in when "
    "it is taken, in the bump and in what follows it.",
)
def _draw_ends(table: Table, files: ResultFiles, caption: str) -> Figure:
    panels = [
        Dots.of(table, label, quantity, ARMS, factor=factor)
        for label, quantity, factor in (
            (_FINAL, _FINAL, 1),
            ("mean training loss of all epochs", _MEAN, 1),
            ("final validation accuracy (%)", _ACCURACY, 100),
            ("mean step size", "mean step size", 1),
        )
    ]
    return draw_dots([panels[:2], panels[2:]], caption)


def _draw_dynamics(table: Table, files: ResultFiles, optimizer: OptimizerName) -> Figure:
    runs = table.plan.runs(optimizer=optimizer)
    found = [files.load(table.plan.dynamics(run)) for run in runs]
    rate = runs[0].config.lr if optimizer == "sgd" else None
    return plot_dynamics(found, rate=rate, title=f"Modified-LeNet, {OPTIMIZERS[optimizer]}")


for _name, _title in OPTIMIZERS.items():
    DYNAMICS.picture(
        f"dynamics-{_name}",
        f"Modified-LeNet by {_title}: is the surface sharpest where the gradient is longest? "
        "Cosines below zero are steps that go back and forth.",
        optimizer=_name,
    )(_draw_dynamics)


@DYNAMICS.note
def _tell_dynamics(table: Table) -> str:
    """Where SGD's steps are longest, and how sharp the surface is there."""
    limit = 2 / table.plan.run().config.lr
    apart = table.values("steps between measured states")[0]
    most, end = (
        spread(table.values(each) / limit) for each in ("largest sharpness", "final sharpness")
    )
    sgd, adam = (spread(table.values("mean cosine of steps", optimizer=o)) for o in OPTIMIZERS)
    readings = (
        f"{title} {', '.join(table.settings('reads as', optimizer=optimizer))}"
        for optimizer, title in OPTIMIZERS.items()
    )
    longest, sharpest = (
        ", ".join(f"{value:,.0f}" for value in table.values(quantity))
        for quantity in ("steps longest at step", "sharpest at step")
    )
    return (
        "Plain SGD's step is its rate times the batch's gradient, so that a bump is one of the "
        f"gradient. Its steps are longest about step {longest} (a number for each seed). Of the "
        f"states that were measured, {apart:,.0f} steps apart, the surface is sharpest at step "
        f"{sharpest}, by {most} of 2/η, beyond which descent on a quadratic diverges; in the end "
        f"by {end}. Successive steps have a mean cosine of {sgd} by SGD and of {adam} by Adam, "
        "whose steps are running means of gradients (β₁ = 0.9). Readings: "
        f"{'; '.join(readings)}."
    )


@DATA.picture("samples-{number}", "The first samples of {data} (thesis Fig. 6.5 and 6.6).")
def _draw_samples(table: Table, files: ResultFiles, data: str) -> Figure:
    dataset = files.dataset(table.plan.scale.data[data])
    images, targets = dataset.test_inputs[:2000].numpy(), dataset.test_targets[:2000].numpy()
    return plot_samples(images, targets, dataset.classes, title=data)
