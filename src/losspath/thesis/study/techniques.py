"""Step sizes by technique and network (thesis Fig. 6.10 to 6.12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from losspath.figures import plot_runs, plot_step_panels
from losspath.figures.style import COLORS
from losspath.thesis.networks import TITLES
from losspath.thesis.study.claims import (
    Check,
    Judgment,
    agreed,
    all_above,
    all_of,
    check_ranks,
    separated,
    spread,
)
from losspath.thesis.study.dots import Dots, draw_dots
from losspath.thesis.study.drawing import STYLES
from losspath.thesis.study.numbers import CLIMB, DECLINE, Development, Direction
from losspath.thesis.study.plan import Plan
from losspath.thesis.study.reasons import tell_losses, tell_networks, tell_techniques
from losspath.thesis.study.runs import Result, Run
from losspath.thesis.study.section import Evidence, Picture, Section, curves_of

_BUMP = 1.1  # of the mean that follows: a rise that a hundred means do not show by chance


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
    panels = {}
    for network in networks:
        for data in plan.scale.data:
            groups = plan.techniques(network, data)
            title = plan.title(next(iter(groups.values()))[0])
            panels[title] = {name: evidence.curves(runs) for name, runs in groups.items()}
    return plot_step_panels(panels, styles=STYLES, caption=caption)


def _caption(number: str, what: str) -> str:
    return (
        f"Size of the steps over training, {what} (thesis Fig. {number}). Means over 100 equal "
        "parts of a run; lines are means over seeds, bands from the least to the greatest."
    )


_BY_TECHNIQUE = _caption("6.10", "Modified-LeNet")


_OTHERS = _caption("6.11", "other networks, VGG with one seed")


def _draw_own(evidence: Evidence) -> Figure:
    return _draw_techniques(evidence, ["modified-lenet"], _BY_TECHNIQUE)


def _draw_others(evidence: Evidence) -> Figure:
    return _draw_techniques(evidence, evidence.plan.scale.networks, _OTHERS)


def _developments(
    evidence: Evidence, data: str, technique: str, network: str = "modified-lenet"
) -> list[Development]:
    runs = evidence.plan.techniques(network, data)[technique]
    return [Development.of(evidence.sizes(run)) for run in runs]


def _bumps(
    evidence: Evidence, data: str, technique: str, network: str = "modified-lenet"
) -> list[float]:
    return [each.bump for each in _developments(evidence, data, technique, network)]


def _trends(evidence: Evidence, data: str, technique: str) -> list[float]:
    return [each.trend for each in _developments(evidence, data, technique)]


def _check_direction(evidence: Evidence, data: str, technique: str, claimed: Direction) -> Check:
    """Whether the steps go where it is claimed with every seed, and where they go."""
    found = _developments(evidence, data, technique)
    counts = Counter(each.direction for each in found)
    ways = ", ".join(f"{way} with {count} of {len(found)} seeds" for way, count in counts.items())
    trends = spread([each.trend for each in found])
    return Check(
        f"{technique}, {data}: {ways} (× {trends} behind the bump)",
        None if counts["cannot be told"] else agreed(e.direction == claimed for e in found),
    )


def _check_directions(
    evidence: Evidence, technique: str, claimed: Sequence[Direction]
) -> list[Check]:
    """The same for the data that stand for MNIST, and for those that stand for CIFAR-10."""
    checks = [
        _check_direction(evidence, data, technique, way)
        for data, way in zip(evidence.plan.scale.data, claimed, strict=False)
    ]
    if len(checks) < len(claimed):
        checks.append(Check(f"{technique}: no data stand for CIFAR-10", None))
    return checks


def _draw_developments(evidence: Evidence) -> Figure:
    grid = []
    for data in evidence.plan.scale.data:
        found = {
            technique: _developments(evidence, data, technique)
            for technique in evidence.plan.techniques("modified-lenet", data)
        }

        def rows(
            measure: Callable[[Development], float],
            found: dict[str, list[Development]] = found,
        ) -> dict[str, dict[str, list[float]]]:
            return {name: {"": [measure(each) for each in group]} for name, group in found.items()}

        grid.append(
            [
                Dots("mean step size", rows(lambda each: each.mean), data),
                Dots("bump (× what follows)", rows(lambda each: each.bump), data, {"no bump": 1.0}),
                Dots(
                    "change behind the bump (×)",
                    rows(lambda each: each.trend),
                    data,
                    {"level": (DECLINE, CLIMB)},
                ),
            ]
        )
    return draw_dots(grid, _DEVELOPMENTS)


_DEVELOPMENTS = (
    "How Modified-LeNet's steps develop, a dot for each seed: their mean size; the highest of a "
    "hundred means in the first quarter, over the lowest before it or what follows, whichever is "
    "less; and by how much they change behind that, climbing on the right, declining on the left."
)


def _judge_adam(evidence: Evidence) -> Judgment:
    checks = []
    for data in evidence.plan.scale.data:
        adam, sgd = (
            [each.mean for each in _developments(evidence, data, name)] for name in ("Adam", "SGD")
        )
        ratio = np.mean(adam) / np.mean(sgd)
        checks.append(Check(f"{data}: Adam's are {ratio:.2g}× SGD's", separated(sgd, adam)))
    ways: tuple[Direction, ...] = ("climb", "are level")
    checks += _check_directions(evidence, "Adam", ways)
    return Judgment(
        "Adam's steps",
        "Larger than SGD's; they climb on MNIST and are nearly constant on CIFAR-10.",
        tuple(checks),
        "developments",
    )


def _judge_sgd(evidence: Evidence) -> Judgment:
    checks = []
    for data in evidence.plan.scale.data:
        bumps = _bumps(evidence, data, "SGD")
        checks.append(Check(f"{data}: bump {spread(bumps)}× what follows", all_above(bumps, _BUMP)))
    ways: tuple[Direction, ...] = ("decline", "climb")
    checks += _check_directions(evidence, "SGD", ways)
    return Judgment(
        "SGD's steps",
        "A bump at the start; then they decline on MNIST and climb on CIFAR-10.",
        tuple(checks),
        "developments",
    )


def _by_size(evidence: Evidence, data: str) -> dict[str, list[float]]:
    """The bumps of SGD by the name and the size of the network, the smallest first."""
    plan = evidence.plan
    counts = {network: plan.parameter_count(network, data) for network in _networks(plan)}
    return {
        f"{TITLES[network]} ({counts[network]:,})": _bumps(evidence, data, "SGD", network)
        for network in sorted(counts, key=counts.__getitem__)
    }


def _draw_bumps(evidence: Evidence) -> Figure:
    grid = []
    for data in evidence.plan.scale.data:
        rows = {name: {"": found} for name, found in _by_size(evidence, data).items()}
        grid.append([Dots("bump (× what follows)", rows, data, {"no bump": 1.0})])
    return draw_dots(grid, _BUMPS)


_BUMPS = (
    "The bump of SGD's steps by network, with its number of parameters, a dot for each seed: the "
    "highest of a hundred means in the first quarter, over the lowest before it or what follows, "
    "whichever is less."
)


def _judge_bump(evidence: Evidence) -> Judgment:
    checks = []
    for data in evidence.plan.scale.data:
        found = _by_size(evidence, data)
        told = ", ".join(
            f"{name} {spread(bumps)}{' (1 seed)' if len(bumps) == 1 else ''}"
            for name, bumps in found.items()
        )
        checks.append(Check(f"{data}, by parameters: {told}", _climb_apart([*found.values()])))
        # The order of the thesis's text, which calls the two tiny ones the smaller.
        networks = [name for name in _BY_COMPLEXITY if name in _networks(evidence.plan)]
        bumps = [_bumps(evidence, data, "SGD", name) for name in networks]
        told = ", ".join(TITLES[name] for name in networks)
        checks.append(Check(f"{data}, in the text's order: {told}", _climb_apart(bumps)))
    return Judgment(
        "SGD's bump",
        "The larger the network, the larger the bump.",
        tuple(checks),
        "bumps",
    )


_BY_COMPLEXITY = ("tiny-nn", "tiny-cnn", "modified-lenet", "vgg")


def _networks(plan: Plan) -> tuple[str, ...]:
    return ("modified-lenet", *plan.scale.networks)


def _climb_apart(groups: Sequence[Sequence[float]]) -> bool | None:
    """Whether each group's values are all above those of the one before; None without bumps."""
    if max(map(max, groups)) < _BUMP:
        return None
    return all_of([separated(low, high) for low, high in pairwise(groups)])


def _judge_dropout(evidence: Evidence) -> Judgment:
    plan = evidence.plan
    first, *others = plan.scale.data
    checks = []
    for data in plan.scale.data:
        with_it, without = (_bumps(evidence, data, name) for name in ("SGD, dropout", "SGD"))
        words = f"{data}: SGD's bump {spread(with_it)} against {spread(without)}"
        there = all_above(without, _BUMP)
        checks.append(Check(words, separated(with_it, without) if there else None))
    slow, quick = (_trends(evidence, first, name) for name in ("Adam, dropout", "Adam"))
    checks.append(
        Check(
            f"{first}: Adam's change behind the bump × {spread(slow)} against × {spread(quick)}",
            separated(slow, quick),
        )
    )
    if others:
        checks.append(_check_direction(evidence, others[0], "SGD, dropout", "climb"))
    else:
        checks.append(Check("no data stand for CIFAR-10", None))
    return Judgment(
        "dropout",
        "SGD's bump is smaller with it, Adam's climb slower; SGD with it still climbs on CIFAR-10.",
        tuple(checks),
        "developments",
    )


def _sgd_runs(plan: Plan) -> dict[str, list[Run]]:
    return {
        f"{data}{', dropout' if dropout else ''}": plan.seeds(plan.run(data=data, dropout=dropout))
        for data in plan.scale.data
        for dropout in (False, True)
    }


def _draw_loss(evidence: Evidence) -> Figure:
    runs = {name: evidence.curves(group) for name, group in _sgd_runs(evidence.plan).items()}
    styles = {
        f"{data}{suffix}": {"color": COLORS[5 + number], "linestyle": dashes}
        for number, data in enumerate(evidence.plan.scale.data)
        for suffix, dashes in (("", "-"), (", dropout", "--"))
    }
    return plot_runs(runs, title="Modified-LeNet, SGD", styles=styles)


def _judge_loss(evidence: Evidence) -> Judgment:
    checks = []
    for data in evidence.plan.scale.data:
        runs = [
            run
            for technique, group in evidence.plan.techniques("modified-lenet", data).items()
            if technique.startswith("SGD")
            for run in group
        ]
        trends = [Development.of(evidence.sizes(run)).trend for run in runs]
        words = f"{data}, {len(runs)} runs: rank correlation of the change of steps with accuracy"
        checks.append(check_ranks(words, trends, evidence.accuracies(runs), 1))
    return Judgment(
        "SGD's steps and accuracy",
        "If SGD's steps decrease the network trains poorly, and vice versa.",
        tuple(checks),
        "fig-6.12",
    )


_WITH_LOSSES = (
    "Step sizes beside losses and accuracies of Modified-LeNet by SGD (thesis Fig. 6.12): do steps "
    "that decline go with a run that ends well?"
)


TECHNIQUES = Section(
    "6.10",
    "Step sizes by technique",
    lambda plan: _techniques_needs(plan, ["modified-lenet"]),
    lambda plan: [
        Picture("fig-6.10", _BY_TECHNIQUE, _draw_own, True),
        Picture("developments", _DEVELOPMENTS, _draw_developments, True),
    ],
    (_judge_adam, _judge_sgd, _judge_dropout),
    (tell_techniques,),
)

NETWORKS = Section(
    "6.11",
    "Step sizes of other networks",
    lambda plan: _techniques_needs(plan, ["modified-lenet", *plan.scale.networks]),
    lambda plan: [
        Picture("fig-6.11", _OTHERS, _draw_others, True),
        Picture("bumps", _BUMPS, _draw_bumps, True),
    ],
    (_judge_bump,),
    (tell_networks,),
)

LOSSES = Section(
    "6.12",
    "Step sizes and loss",
    lambda plan: [result for runs in _sgd_runs(plan).values() for result in curves_of(runs)],
    lambda plan: [Picture("fig-6.12", _WITH_LOSSES, _draw_loss)],
    (_judge_loss,),
    (tell_losses,),
)
