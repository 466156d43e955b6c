"""The parts of the study that are about training and the size of its steps (chapters 6.3, 6.5)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from losspath.analysis.readings import read_dynamics
from losspath.figures import plot_dynamics, plot_runs, plot_samples
from losspath.reference.networks import build_network
from losspath.study.claims import (
    Check,
    Judgment,
    all_above,
    all_below,
    separated,
    spread,
)
from losspath.study.drawing import STYLES, draw_prediction, draw_steps
from losspath.study.numbers import Development, area_under_curve
from losspath.study.plan import OPTIMIZERS, Plan
from losspath.study.runs import Accuracies, Result, Run, Steps
from losspath.study.section import Evidence, Picture, Section, dynamics_of

_BUMP = 1.1  # of the mean that follows: a rise that a hundred means do not show by chance
_CLIMB, _DECLINE = 1.1, 0.9
SHARES = (0.05, 0.1, 0.2)


def _of(runs: Sequence[Run]) -> list[Result]:
    return [kind(run) for run in runs for kind in (Steps, Accuracies)]


def _developments(evidence: Evidence, runs: Sequence[Run]) -> list[Development]:
    return [Development.of(evidence.sizes(run)) for run in runs]


def _accuracies(evidence: Evidence, runs: Sequence[Run]) -> list[float]:
    return [float(evidence.history(run).validation_accuracy[-1]) for run in runs]


# LeNet-5 against Modified-LeNet


_NETWORKS = {"LeNet-5": "lenet5", "Modified-LeNet": "modified-lenet"}


def _networks(plan: Plan) -> dict[str, list[Run]]:
    return {title: plan.seeds(plan.run(name)) for title, name in _NETWORKS.items()}


def _draw_networks(evidence: Evidence) -> Figure:
    runs = {name: evidence.curves(group) for name, group in _networks(evidence.plan).items()}
    title = f"SGD, {evidence.plan.scale.first}"
    return plot_runs(runs, by="epoch", title=title, styles=STYLES)


def _judge_networks(evidence: Evidence) -> Judgment:
    found = {n: _accuracies(evidence, runs) for n, runs in _networks(evidence.plan).items()}
    counts = [
        sum(p.numel() for p in build_network(name, 1, 10).parameters())
        for name in _NETWORKS.values()
    ]
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


# Fig. 6.10 and 6.11: techniques


def _techniques_needs(plan: Plan, networks: Sequence[str]) -> list[Result]:
    return [
        result
        for network in networks
        for data in plan.scale.data
        for runs in plan.techniques(network, data).values()
        for result in _of(runs)
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


# Fig. 6.12: steps and loss


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


# Whether steps tell how a run ends


def trial_scores(evidence: Evidence, share: float) -> tuple[list[bool], dict[str, list[float]]]:
    """Which runs of the prediction experiment end well, and what is seen of each by then.

    A run ends well if its validation accuracy is above the median of all. The predictors are the
    development of the step sizes, with both signs, and as a control the fall of the batch loss.

    Args:
        evidence: the results.
        share: of the steps that is seen.
    """
    runs = evidence.plan.trials()
    accuracies = np.array(_accuracies(evidence, runs))
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


# Fig. 6.13: learning rates from steps


def _arms_needs(plan: Plan) -> list[Result]:
    return [result for runs in plan.arms().values() for result in _of(runs)]


def _draw_arms(evidence: Evidence) -> Figure:
    runs = {name: evidence.curves(group) for name, group in evidence.plan.arms().items()}
    return plot_runs(runs, by="epoch", title=f"Modified-LeNet, SGD, {evidence.plan.scale.first}")


def _judge_arms(evidence: Evidence) -> Judgment:
    losses = {
        name: [float(evidence.history(run).training_loss[-1]) for run in runs]
        for name, runs in evidence.plan.arms().items()
    }
    plain, raw = losses["plain rate"], losses["lr = step sizes"]
    mean, scaled = losses["mean step size"], losses["scaled step sizes"]
    shuffled = losses["shuffled step sizes"]
    return Judgment(
        "learning rate from the steps",
        "Training with lr_t = s_t, which has the bump, is more efficient.",
        (
            Check(
                f"final training loss {spread(raw)} against {spread(plain)} at the plain rate",
                separated(raw, plain),
            ),
            Check(f"than a constant rate of the same mean ({spread(mean)})", separated(raw, mean)),
            Check(
                f"than the same rates in random order ({spread(shuffled)})",
                separated(raw, shuffled),
            ),
            Check(
                f"scaled to the plain rate's mean ({spread(scaled)}), than the plain rate",
                separated(scaled, plain),
            ),
        ),
        "fig-6.13",
    )


# Along the path


def _dynamics_runs(plan: Plan) -> dict[str, Run]:
    return {title: plan.run(optimizer=name) for name, title in OPTIMIZERS.items()}


def _draw_dynamics(evidence: Evidence, optimizer: str) -> Figure:
    run = _dynamics_runs(evidence.plan)[optimizer]
    rate = run.config.lr if optimizer == "SGD" else None
    return plot_dynamics(evidence.dynamics(run), rate=rate, title=f"Modified-LeNet, {optimizer}")


def reading(evidence: Evidence, optimizer: str) -> str:
    """What a run did, in words."""
    return str(read_dynamics(evidence.dynamics(_dynamics_runs(evidence.plan)[optimizer])))


def _draw_samples(evidence: Evidence, data: str) -> Figure:
    dataset = evidence.dataset(evidence.plan.scale.data[data])
    images, targets = dataset.test_inputs[:2000].numpy(), dataset.test_targets[:2000].numpy()
    return plot_samples(images, targets, dataset.classes, title=data)


SECTIONS = (
    Section(
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
    ),
    Section(
        "networks",
        "LeNet-5 against Modified-LeNet",
        lambda plan: [result for runs in _networks(plan).values() for result in _of(runs)],
        lambda plan: [
            Picture(
                "networks",
                "LeNet-5 and Modified-LeNet by SGD: step sizes, losses and accuracies.",
                _draw_networks,
            )
        ],
        (_judge_networks,),
    ),
    Section(
        "6.10",
        "Step sizes by technique",
        lambda plan: _techniques_needs(plan, ["modified-lenet"]),
        lambda plan: [
            Picture("fig-6.10", _10, lambda e: _draw_techniques(e, ["modified-lenet"], _10))
        ],
        (_judge_adam, _judge_sgd, _judge_dropout),
    ),
    Section(
        "6.11",
        "Step sizes of other networks",
        lambda plan: _techniques_needs(plan, ["modified-lenet", *plan.scale.networks]),
        lambda plan: [
            Picture("fig-6.11", _11, lambda e: _draw_techniques(e, plan.scale.networks, _11))
        ],
        (_judge_bump,),
    ),
    Section(
        "6.12",
        "Step sizes and loss",
        lambda plan: [result for runs in _sgd_runs(plan).values() for result in _of(runs)],
        lambda plan: [Picture("fig-6.12", _12, _draw_loss)],
    ),
    Section(
        "prediction",
        "Do the first steps tell how a run ends?",
        lambda plan: _of(plan.trials()),
        lambda plan: [Picture("prediction", _PREDICTION, _draw_prediction)],
        (_judge_prediction,),
    ),
    Section(
        "6.13",
        "Learning rates from step sizes",
        _arms_needs,
        lambda plan: [
            Picture(
                "fig-6.13",
                "Training again with lr_t = s_t (thesis Fig. 6.13), and four controls.",
                _draw_arms,
            )
        ],
        (_judge_arms,),
    ),
    Section(
        "dynamics",
        "Gradient, sharpness and turns along the path",
        lambda plan: [dynamics_of(plan, run) for run in _dynamics_runs(plan).values()],
        lambda plan: [
            Picture(
                f"dynamics-{title.lower()}",
                f"Modified-LeNet by {title}: loss, gradient norm, sharpness, and cosine of "
                "successive steps.",
                partial(_draw_dynamics, optimizer=title),
            )
            for title in OPTIMIZERS.values()
        ],
    ),
)
