"""Step sizes by technique and network (thesis Fig. 6.10 to 6.12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from losspath.figures import plot_runs, plot_step_panels
from losspath.figures.style import COLORS
from losspath.thesis.networks import TITLES
from losspath.thesis.study.drawing import STYLES, Dots, draw_dots
from losspath.thesis.study.judgments import Check, check_ranks
from losspath.thesis.study.plan import TECHNIQUES, curves
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.sections import Section, markdown_table
from losspath.thesis.study.statistics import Values, agreed, all_above, all_of, separated, spread
from losspath.thesis.study.table import Table

GUESS = 0.15
"""Accuracy below which a network of ten classes does no better than a guess."""

# Steps climb or decline if the line through their sizes does by more than a twentieth.
_CLIMB, _DECLINE = 1.05, 0.95
_BUMP = 1.1  # of the mean that follows: a rise that a hundred means do not show by chance
_TREND, _ACCURACY = "change behind the bump", "final validation accuracy"
_SGD = {name: each for name, each in TECHNIQUES.items() if each["optimizer"] == "sgd"}
# The order of the thesis's text, which calls the two tiny ones the smaller.
_BY_COMPLEXITY = ("tiny-nn", "tiny-cnn", "modified-lenet", "vgg")


BY_TECHNIQUE = Section("6.10", "Step sizes by technique", lambda plan: curves(plan.by_technique()))
NETWORKS = Section(
    "6.11", "Step sizes of other networks", lambda plan: curves(plan.by_technique(plan.networks))
)
LOSSES = Section(
    "6.12", "Step sizes and loss", lambda plan: curves(plan.by_technique(techniques=_SGD))
)


def _draw_techniques(
    table: Table, files: ResultFiles, caption: str, others: bool = False
) -> Figure:
    plan, panels = table.plan, {}
    for network in plan.scale.networks if others else ("modified-lenet",):
        for data in plan.scale.data:
            panels[f"{TITLES[network]}, {data}"] = {
                name: files.curves(plan.runs(network=network, data=data, **technique))
                for name, technique in TECHNIQUES.items()
            }
    return plot_step_panels(panels, styles=STYLES, caption=caption)


for _section, _what in (
    (BY_TECHNIQUE, "Modified-LeNet"),
    (NETWORKS, "other networks, VGG with one seed"),
):
    _section.picture(
        f"fig-{_section.name}",
        f"Size of the steps over training, {_what} (thesis Fig. {_section.name}). Means over 100 "
        "equal parts of a run; lines are means over seeds, bands from the least to the greatest.",
        others=_section is NETWORKS,
    )(_draw_techniques)


@BY_TECHNIQUE.picture(
    "developments",
    "How Modified-LeNet's steps develop, a dot for each seed: their mean size; the highest of a "
    "hundred means in the first quarter, over the lowest before it or what follows, whichever is "
    "less; and by how much they change behind that, climbing on the right, declining on the left.",
)
def _draw_developments(table: Table, files: ResultFiles, caption: str) -> Figure:
    grid = [
        [
            Dots.of(table, label, quantity, TECHNIQUES, title=data, guides=guides)
            for label, quantity, guides in (
                ("mean step size", "mean step size", {}),
                ("bump (× what follows)", "bump", {"no bump": 1.0}),
                ("change behind the bump (×)", _TREND, {"level": (_DECLINE, _CLIMB)}),
            )
        ]
        for data in table.plan.scale.data
    ]
    return draw_dots(grid, caption)


def direction(trend: float) -> str:
    """Where steps go that change so much behind the bump."""
    if not np.isfinite(trend):
        return "cannot be told"
    if trend > _CLIMB:
        return "climb"
    return "decline" if trend < _DECLINE else "are level"


def _check_direction(table: Table, data: str, technique: str, claimed: str) -> Check:
    """Whether the steps go where it is claimed with every seed, and where they go."""
    trends = table.values(_TREND, data=data, **TECHNIQUES[technique])
    counts = Counter(map(direction, trends))
    ways = ", ".join(f"{way} with {count} of {len(trends)} seeds" for way, count in counts.items())
    return Check(
        f"{technique}, {data}: {ways} (× {spread(trends)} behind the bump)",
        None if counts["cannot be told"] else agreed(direction(t) == claimed for t in trends),
    )


def _check_directions(table: Table, technique: str, claimed: Sequence[str]) -> Iterator[Check]:
    """The same for the data that stand for MNIST, and for those that stand for CIFAR-10."""
    data = list(table.plan.scale.data)
    for each, way in zip(data, claimed, strict=False):
        yield _check_direction(table, each, technique, way)
    if len(data) < len(claimed):
        yield Check(f"{technique}: no data stand for CIFAR-10", None)


@BY_TECHNIQUE.claim(
    "Adam's steps",
    "Larger than SGD's; they climb on MNIST and are nearly constant on CIFAR-10.",
    "developments",
)
def _check_adam(table: Table) -> Iterator[Check]:
    for data in table.plan.scale.data:
        adam, sgd = (
            table.values("mean step size", data=data, optimizer=name) for name in ("adam", "sgd")
        )
        ratio = np.mean(adam) / np.mean(sgd)
        yield Check(f"{data}: Adam's are {ratio:.2g}× SGD's", separated(sgd, adam))
    yield from _check_directions(table, "Adam", ("climb", "are level"))


@BY_TECHNIQUE.claim(
    "SGD's steps",
    "A bump at the start; then they decline on MNIST and climb on CIFAR-10.",
    "developments",
)
def _check_sgd(table: Table) -> Iterator[Check]:
    for data in table.plan.scale.data:
        bumps = table.values("bump", data=data)
        yield Check(f"{data}: bump {spread(bumps)}× what follows", all_above(bumps, _BUMP))
    yield from _check_directions(table, "SGD", ("decline", "climb"))


@BY_TECHNIQUE.claim(
    "dropout",
    "SGD's bump is smaller with it, Adam's climb slower; SGD with it still climbs on CIFAR-10.",
    "developments",
)
def _check_dropout(table: Table) -> Iterator[Check]:
    first, *others = table.plan.scale.data
    for data in (first, *others):
        with_it, without = (table.values("bump", data=data, dropout=d) for d in (True, False))
        words = f"{data}: SGD's bump {spread(with_it)} against {spread(without)}"
        there = all_above(without, _BUMP)
        yield Check(words, separated(with_it, without) if there else None)
    slow, quick = (table.values(_TREND, optimizer="adam", dropout=d) for d in (True, False))
    words = f"{first}: Adam's change behind the bump × {spread(slow)} against × {spread(quick)}"
    yield Check(words, separated(slow, quick))
    if others:
        yield _check_direction(table, others[0], "SGD, dropout", "climb")
    else:
        yield Check("no data stand for CIFAR-10", None)


@BY_TECHNIQUE.note
def _tell_techniques(table: Table) -> str:
    """What the steps of both optimisers are made of."""
    scale, told = table.plan.scale, []
    for data in scale.data:
        epochs = table.values("epochs to nine tenths of the fall", data=data)
        highest = table.values("steps longest at share of the run", data=data)
        adam = {"data": data, "optimizer": "adam"}
        reach = scale.rates["adam"] * np.sqrt(table.values("parameters", **adam))
        shares = table.values("mean step size", **adam) / reach
        told.append(
            f"{data}: nine tenths of the fall in SGD's training loss are done after "
            f"{spread(epochs)} of {scale.epochs} epochs, and its steps are longest after "
            f"{spread(highest, '.0%')} of the run; Adam's are {spread(shares, '.0%')} of η√P on "
            "average."
        )
    return (
        "Plain SGD's step is its rate times the batch's gradient, so that its development is the "
        "gradient's. Adam divides by the gradient's running size, so that a step in which all "
        "gradients agree is about η√P long, whatever their length, and the size of its steps tells "
        "how far they agree. " + " ".join(told)
    )


def _count(table: Table, quantity: str, network: str, data: str) -> int:
    return int(table.values(quantity, network=network, data=data)[0])


def _by_size(table: Table, data: str) -> dict[str, Values]:
    """The bumps of SGD by the name and the size of the network, the smallest first."""
    counts = {each: _count(table, "parameters", each, data) for each in table.plan.networks}
    return {
        f"{TITLES[network]} ({counts[network]:,})": table.values("bump", network=network, data=data)
        for network in sorted(counts, key=counts.__getitem__)
    }


@NETWORKS.picture(
    "bumps",
    "The bump of SGD's steps by network, with its number of parameters, a dot for each seed: the "
    "highest of a hundred means in the first quarter, over the lowest before it or what follows, "
    "whichever is less.",
)
def _draw_bumps(table: Table, files: ResultFiles, caption: str) -> Figure:
    grid = []
    for data in table.plan.scale.data:
        rows = {name: {"": bumps} for name, bumps in _by_size(table, data).items()}
        grid.append([Dots("bump (× what follows)", rows, data, {"no bump": 1.0})])
    return draw_dots(grid, caption)


@NETWORKS.claim("SGD's bump", "The larger the network, the larger the bump.", "bumps")
def _check_bump(table: Table) -> Iterator[Check]:
    for data in table.plan.scale.data:
        found = _by_size(table, data)
        told = ", ".join(
            f"{name} {spread(bumps)}{' (1 seed)' if len(bumps) == 1 else ''}"
            for name, bumps in found.items()
        )
        yield Check(f"{data}, by parameters: {told}", _climb_apart([*found.values()]))
        networks = [name for name in _BY_COMPLEXITY if name in table.plan.networks]
        groups = [table.values("bump", network=name, data=data) for name in networks]
        told = ", ".join(TITLES[name] for name in networks)
        yield Check(f"{data}, in the text's order: {told}", _climb_apart(groups))


def _climb_apart(groups: Sequence[Values]) -> bool | None:
    """Whether each group's values are all above those of the one before; None without bumps."""
    if max(map(max, groups)) < _BUMP:
        return None
    return all_of([separated(low, high) for low, high in pairwise(groups)])


@NETWORKS.note
def _tell_networks(table: Table) -> str:
    """The bump beside the number of parameters and of layers."""
    rows, told, networks = [], [], table.plan.networks
    for data in table.plan.scale.data:
        means, ranks = [], []
        for network in networks:
            bumps = table.values("bump", network=network, data=data)
            sizes = [_count(table, each, network, data) for each in ("parameters", "layers")]
            rows.append([data, TITLES[network], *(f"{each:,}" for each in sizes), spread(bumps)])
            means.append(float(np.mean(bumps)))
            ranks.append(sizes)
        parameters, layers = (
            kendalltau(each, means).statistic for each in zip(*ranks, strict=True)
        )
        words = f"{parameters:.2f} with the number of parameters, {layers:.2f} with that of layers"
        is_flat = max(means) - min(means) < 0.05
        told.append(f"{data}: {'no network has a bump' if is_flat else words}.")
    return (
        "Rank correlations of the mean bump, over too few networks to tell by: "
        f"{' '.join(told)} {_tell_failed(table)}\n\n"
        + markdown_table(["data", "network", "parameters", "layers", "SGD's bump"], rows)
    )


def _tell_failed(table: Table) -> str:
    """Which runs ended no better than a guess: their steps are those of no training."""
    failed, plan = [], table.plan
    for data, network, name in product(plan.scale.data, plan.networks, TECHNIQUES):
        found = table.values(_ACCURACY, network=network, data=data, **TECHNIQUES[name])
        if count := int((found < GUESS).sum()):
            several = f" ({count} of {len(found)} seeds)" if len(found) > 1 else ""
            failed.append(f"{TITLES[network]} by {name} on {data}{several}")
    if not failed:
        return "Every run ended better than a guess."
    return (
        "No better than a guess in the end, so that their steps are those of a network that has "
        f"stopped learning: {'; '.join(failed)}."
    )


@LOSSES.picture(
    "fig-6.12",
    "Step sizes beside losses and accuracies of Modified-LeNet by SGD (thesis Fig. 6.12): do "
    "steps that decline go with a run that ends well?",
)
def _draw_losses(table: Table, files: ResultFiles) -> Figure:
    runs, styles = {}, {}
    for number, data in enumerate(table.plan.scale.data):
        for suffix, dropout, dashes in (("", False, "-"), (", dropout", True, "--")):
            runs[data + suffix] = files.curves(table.plan.runs(data=data, dropout=dropout))
            styles[data + suffix] = {"color": COLORS[5 + number], "linestyle": dashes}
    return plot_runs(runs, title="Modified-LeNet, SGD", styles=styles)


@LOSSES.claim(
    "SGD's steps and accuracy",
    "If SGD's steps decrease the network trains poorly, and vice versa.",
    "fig-6.12",
)
def _check_losses(table: Table) -> Iterator[Check]:
    for data in table.plan.scale.data:
        trends, accuracies = (
            np.concatenate([table.values(quantity, data=data, **each) for each in _SGD.values()])
            for quantity in (_TREND, _ACCURACY)
        )
        words = f"{data}, {len(trends)} runs: rank correlation of the change of steps with accuracy"
        yield check_ranks(words, trends, accuracies, 1)


@LOSSES.note
def _tell_losses(table: Table) -> str:
    """Whether dropout is what the relation is of, or each technique has it."""
    told = []
    for data in table.plan.scale.data:
        parts, found = [], []
        for name, technique in _SGD.items():
            trends, accuracies = (
                table.values(quantity, data=data, **technique) for quantity in (_TREND, _ACCURACY)
            )
            parts.append(
                f"{name} × {spread(trends)} and {spread(accuracies, '.1%')}, rank correlation "
                f"among its {len(trends)} seeds {kendalltau(trends, accuracies).statistic:.2f}"
            )
            found.append((trends, accuracies))
        if all(separated(*values) is not None for values in zip(*found, strict=True)):
            parts.append("dropout tells both apart, so that a relation among all is one of dropout")
        told.append(f"{data}: {'; '.join(parts)}.")
    return (
        "Change of the steps behind the bump, and validation accuracy, with and without dropout: "
        + " ".join(told)
    )
