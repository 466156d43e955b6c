"""The command that compares states by what the network predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from losspath.analysis.function_space import (
    Distance,
    FunctionDistances,
    function_distances,
    function_distances_key,
)
from losspath.analysis.predictions import MEASURES
from losspath.cli.console import progress_bar, say, say_file
from losspath.cli.jobs import computed_once, figure_file
from losspath.cli.runs import Run
from losspath.errors import ArgumentError
from losspath.figures import plot_function_distances, save_figure
from losspath.files import plain_json
from losspath.surface import check_same_network


def compute_functions(
    run: Run, count: int, samples: int, distance: str | None
) -> FunctionDistances:
    """The function distances between states of one run or several, computed once and kept.

    Raises:
        ArgumentError: no such distance, or fewer than one state or sample.
    """
    if distance is not None and distance not in MEASURES:
        raise ArgumentError(f"expected --distance {'|'.join(MEASURES)}, got {distance!r}")
    for name, value in (("--count", count), ("--samples", samples)):
        if value < 1:
            raise ArgumentError(f"expected {name} of at least 1, got {value}")
    objective = run.validation_objective()
    run.made.forget_data()
    check_same_network(run.path, objective)
    kind: Distance | None = distance  # type: ignore[assignment]
    asked: dict[str, Any] = {"states": count, "distance": kind, "samples": samples}
    key = function_distances_key(run.path, objective, **asked)

    def compute(_: Path) -> FunctionDistances:
        with progress_bar("predictions") as progress:
            return function_distances(run.path, objective, **asked, progress=progress)

    label = distance or ""
    return computed_once(run, FunctionDistances, key, compute, "function distances", label)


def draw_functions(run: Run, found: FunctionDistances, figure: Path | None, extension: str) -> None:
    """Draws states by their weights and functions, and says where."""
    name = f"functions-{found.distance}-{found.provenance['key'][:8]}.{extension}"
    target = figure_file(run, figure, name)
    say_file("figure", save_figure(plot_function_distances(found, title=run.title), target))


def print_functions(found: FunctionDistances, as_json: bool) -> None:
    """Prints how far apart the ends of runs are, or everything as JSON."""
    if as_json:
        typer.echo(json.dumps(plain_json(_numbers(found)), indent=2))
        return
    runs = found.runs
    for name, run in runs.items():
        told = _pair(found, run.start, run.stop - 1)
        say(f"{f'{name}: ' if len(runs) > 1 else ''}start to end: {told}")
    names = list(runs)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            told = _pair(found, runs[first].stop - 1, runs[second].stop - 1)
            say(f"end of {first} to end of {second}: {told}")


def _pair(found: FunctionDistances, one: int, other: int) -> str:
    weights, functions = found.weights[one, other], found.functions[one, other]
    shown = f"{functions:.2%}" if found.distance == "disagreement" else f"{functions:.4g}"
    return f"{found.distance} {shown}, weights {weights:.4g} apart"


def _numbers(found: FunctionDistances) -> dict[str, Any]:
    embeddings = (("function", found.function_embedding), ("weight", found.weight_embedding))
    return {
        "distance": found.distance,
        "predictions": found.provenance["predictions"],
        "steps": found.steps.tolist(),
        "starts": dict(found.starts),
        "function_distances": found.functions.tolist(),
        "weight_distances": found.weights.tolist(),
        **{
            f"{name}_embedding": {
                "coordinates": each.coordinates.tolist(),
                "shares": each.shares.tolist(),
                "stress": each.stress,
            }
            for name, each in embeddings
        },
    }
