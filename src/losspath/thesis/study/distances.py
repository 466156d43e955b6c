"""Which states a point of the ground is blended from: distances and temperature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from losspath.figures import plot_surfaces
from losspath.thesis.study import results
from losspath.thesis.study.drawing import Dots, Panel, draw_check, draw_dots, draw_lines, read_line
from losspath.thesis.study.judgments import Check, check_ranks
from losspath.thesis.study.plan import OPTIMIZERS, TECHNIQUES, TEMPERATURES, Plan
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.results import Result
from losspath.thesis.study.sections import Section, markdown_table
from losspath.thesis.study.statistics import separated, spread
from losspath.thesis.study.table import Table

_CLAIMED = {"SGD": 0.95, "Adam": 0.65}
_ABOUT = 0.05  # what "about" is taken for
# The first two of the shares 6/(π²k²) that the components of a long random walk in many dimensions
# have: J. Antognini and J. Sohl-Dickstein, "PCA of high dimensional random walks with comparison to
# neural network training", NeurIPS 2018.
_RANDOM_WALK = 6 / np.pi**2 * (1 + 1 / 4)

_METHODS = ("averaged", "averaged-nd")
_SHARE, _DIFFERENCE = "explained variance", "median difference from averaged"


def _groups(plan: Plan) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Data, the name of a technique, and the runs of both."""
    for data in plan.scale.data:
        for name, technique in TECHNIQUES.items():
            yield data, name, {"data": data, **technique}


def _distances_needs(plan: Plan) -> list[Result[Any]]:
    needs: list[Result[Any]] = []
    for run in plan.by_technique():
        needs += [plan.surface(run, method) for method in _METHODS]
        needs += [results.explained(run), plan.line(run)]
    return needs


def _temperature_needs(plan: Plan) -> list[Result[Any]]:
    needs: list[Result[Any]] = []
    settings = [plan.setting("temperature", temperature) for temperature in TEMPERATURES]
    for run in (run for each in OPTIMIZERS for run in plan.runs(optimizer=each)):
        needs += [plan.surface(run, "pca"), results.plane(run)]
        needs += [plan.surface(run, setting=setting) for setting in settings]
    return needs


DISTANCES = Section("6.9", "Distances in the plane and in all of parameter space", _distances_needs)
TEMPERATURE = Section("temperature", "The temperature of the averages", _temperature_needs)


@DISTANCES.picture(
    "fig-6.9{suffix}",
    "averaged and averaged-nd on {data}, seed 0 (thesis Fig. 6.9), pairs side by side: where the "
    "states' distances off the plane change the picture.",
)
def _draw_distances(table: Table, files: ResultFiles, data: str) -> Figure:
    surfaces = {
        f"{name}\n{method}": files.load(table.plan.surface(table.plan.run(**group), method))
        for of, name, group in _groups(table.plan)
        for method in _METHODS
        if of == data
    }
    title = f"Modified-LeNet, {data}"
    panels = [*surfaces.values()]
    return plot_surfaces(panels, titles=[*surfaces], title=title, columns=4, fade=False)


@DISTANCES.picture(
    "check-6.9",
    "Losses along the straight line between the first state and the last of Modified-LeNet (seed "
    "0): exact, and as each surface has them.",
)
def _draw_lines(table: Table, files: ResultFiles, caption: str) -> Figure:
    plan, settings = table.plan, dict.fromkeys(_METHODS, "")
    panels = [
        read_line(files, plan, f"{data}\n{name}", plan.run(**group), settings)
        for data, name, group in _groups(plan)
    ]
    return draw_check(panels, caption, columns=4)


@DISTANCES.picture(
    "variance",
    "Modified-LeNet, a dot for each seed. Left: the share of the path's variance in its plane, "
    "and what a long random walk in many dimensions has there. Right: the median relative "
    "difference between the losses of the two averaged surfaces.",
)
def _draw_variance(table: Table, files: ResultFiles, caption: str) -> Figure:
    claimed = {f"claimed for {name}": 100 * share for name, share in _CLAIMED.items()}
    guides = {**claimed, "a long random walk": 100 * _RANDOM_WALK}
    grid = [
        [
            Dots.of(table, label, quantity, TECHNIQUES, method, 100, title=data, guides=seen)
            for label, quantity, method, seen in (
                ("variance in the plane (%)", _SHARE, "", guides),
                ("averaged-nd against averaged (%)", _DIFFERENCE, "averaged-nd", {}),
            )
        ]
        for data in table.plan.scale.data
    ]
    return draw_dots(grid, caption)


@DISTANCES.claim(
    "explained variance",
    "Two components hold about 95 % of the variance of SGD's paths, about 65 % of Adam's.",
    "variance",
)
def _check_variance(table: Table) -> Iterator[Check]:
    for data in table.plan.scale.data:
        shares = {
            title: np.concatenate(
                [table.values(_SHARE, data=data, optimizer=name, dropout=d) for d in (False, True)]
            )
            for name, title in OPTIMIZERS.items()
        }
        for title, claimed in _CLAIMED.items():
            words = f"{data}, {title} with and without dropout: {spread(shares[title], '.0%')}"
            yield Check(words, abs(float(np.mean(shares[title])) - claimed) < _ABOUT)
        yield Check(f"{data}: less for Adam", separated(shares["Adam"], shares["SGD"]))


@DISTANCES.note
def _tell_variance(table: Table) -> str:
    """How the claimed shares and the measured ones stand to a walk without direction."""
    told = [
        f"{data}: "
        + ", ".join(
            f"{name} {spread(table.values(_SHARE, data=data, **each), '.0%')}"
            for name, each in TECHNIQUES.items()
        )
        for data in table.plan.scale.data
    ]
    return (
        f"A long random walk has {_RANDOM_WALK:.0%} of its variance in two components, so that as "
        f"much is no sign of a path that is flat. {'. '.join(told)}."
    )


@DISTANCES.note
def _tell_lines(table: Table) -> str:
    """How far each surface is from the line, as a table."""
    rows = []
    for data, name, group in _groups(table.plan):
        off = (spread(table.values("off the line", each, **group), ".0%") for each in _METHODS)
        rows.append([data, name, *off])
    return (
        "Largest distance from the exact losses of the line, as a share of their range:\n\n"
        + markdown_table(["data", "technique", *_METHODS], rows)
    )


@DISTANCES.claim(
    "averaged-nd",
    "It differs from averaged more for Adam than for SGD, following the explained variance.",
    "variance",
)
def _check_distances(table: Table) -> Iterator[Check]:
    for data in table.plan.scale.data:
        for suffix, dropout in (("", False), (", dropout", True)):
            sgd, adam = (
                table.values(_DIFFERENCE, "averaged-nd", data=data, optimizer=each, dropout=dropout)
                for each in OPTIMIZERS
            )
            what = (
                f"{data}: median difference {spread(adam, '.1%')} (Adam{suffix}), "
                f"{spread(sgd, '.1%')} (SGD{suffix})"
            )
            yield Check(what, separated(sgd, adam))
    shares, differences = (
        [float(np.mean(table.values(*of, **group))) for *_, group in _groups(table.plan)]
        for of in ((_SHARE,), (_DIFFERENCE, "averaged-nd"))
    )
    words = f"over {len(shares)} settings, rank correlation with the explained variance"
    yield check_ranks(words, shares, differences, -1)


@TEMPERATURE.picture(
    "temperature",
    "What τ = 1 means depends on the path's width: where it is wide against τ, a point is blended "
    "from a few states (as in sampled), where it is narrow from all (as in pca). Left: "
    "exp(entropy of the weights), median over the grid. Lines: means over seeds; bands: from the "
    "least to the greatest.",
)
def _draw_temperature(table: Table, files: ResultFiles, caption: str) -> Figure:
    temperatures = [each for each in TEMPERATURES if not isinstance(each, str)]
    settings = [table.plan.setting("temperature", each) for each in temperatures]
    panels = []
    for label, quantity in (
        ("share of the states that\na point is blended from", "share of the states blended"),
        ("ground off the\nstates' losses (median)", "off the states' losses"),
        ("structural similarity\nto pca", "similarity to pca"),
    ):
        curves = {}
        for optimizer, title in OPTIMIZERS.items():
            width = spread(table.values("width of the path", optimizer=optimizer))
            found = [
                table.values(quantity, "averaged", each, optimizer=optimizer) for each in settings
            ]
            name = f"{title}, path {width} wide"
            curves[name] = (np.array(temperatures), np.array(found).T)
        panels.append(Panel("temperature τ", label, curves))
    return draw_lines(panels, caption)


@TEMPERATURE.note
def _tell_temperature(table: Table) -> str:
    told = []
    for optimizer, title in OPTIMIZERS.items():
        usual, pca, auto = (
            spread(table.values("off the states' losses", *label, optimizer=optimizer), ".0%")
            for label in (("averaged",), ("pca",), ("averaged", "temperature auto"))
        )
        width = spread(table.values("width of the path", optimizer=optimizer))
        blended, alike = (
            table.values(quantity, "averaged", optimizer=optimizer)
            for quantity in ("share of the states blended", "similarity to pca")
        )
        told.append(
            f"{title}'s path is {width} wide: with τ = 1 a point is blended from "
            f"{spread(blended, '.0%')} of the states, the ground is off the states' losses by "
            f"{usual} at the median (pca {pca}, τ tied to the path's own spacing {auto}), and its "
            f"similarity to pca is {spread(alike)}."
        )
    return " ".join(told)
