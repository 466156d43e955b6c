"""What the commands do, once they are parsed. Each result is kept under a key of its causes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from losspath.analysis.interpolation import (
    Interpolation,
    default_alphas,
    interpolate,
    interpolation_key,
)
from losspath.cli.budgets import path_and_plane, say_reached
from losspath.cli.console import busy, progress_bar, say, say_file, warn
from losspath.cli.runs import Run, check_writable
from losspath.errors import ArgumentError, ObjectiveError
from losspath.evaluation.execution.journal import forget_checkpoint
from losspath.evaluation.objective import Objective
from losspath.evaluation.quantities import LOSS, SPREAD
from losspath.evaluation.recorded import along
from losspath.files import digest_of
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane
from losspath.methods import METHODS, Method, method_class, method_names
from losspath.results import Result
from losspath.surface import (
    Budget,
    Landscape,
    StateLosses,
    Surface,
    check_same_network,
    loss_notes,
    path_fingerprint,
)
from losspath.surface.strata import Known

R = TypeVar("R", bound=Result)


def make_methods(name: str, options: Mapping[str, Any]) -> list[Method]:
    """The methods that a name and the options given on the command line stand for.

    Args:
        name: of a method, or "all", of which each takes the options that it has.
        options: by name.

    Raises:
        ArgumentError: no such method, or an option that no method has.
    """
    if name != "all" and name not in (names := method_names()):
        raise ArgumentError(f"expected --method {'|'.join([*names, 'all'])}, got {name!r}")
    kinds = list(METHODS.values()) if name == "all" else [method_class(name)]
    fields = {kind: _options(kind) for kind in kinds}
    known = dict.fromkeys(field for names in fields.values() for field in names)
    for unknown in [option for option in options if option not in known]:
        option = "--" + unknown.replace("_", "-")
        has = f"it has {', '.join(known)}" if known else "it has none"
        others = [each for each, kind in METHODS.items() if unknown in _options(kind)]
        advice = f"; give --method {'|'.join(others)}" if others else ""
        raise ArgumentError(f"{option} is not an option of the method {name!r}; {has}{advice}")
    return [
        kind(**{field: options[field] for field in fields[kind] if field in options})
        for kind in kinds
    ]


def _options(kind: type[Method]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def check_figure(figure: Path | None) -> None:
    """Refuses a figure that cannot be written, before anything is computed.

    Raises:
        ArgumentError: another extension than .png, .pdf or .svg, or a directory.
        StoreError: nothing can be written where it should go.
    """
    if figure is None:
        return
    if figure.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ArgumentError(f"expected --figure as a .png, .pdf or .svg file, got {figure}")
    if figure.is_dir():
        raise ArgumentError(f"expected --figure as a file, got the directory {figure}")
    check_writable(figure.absolute().parent, "choose another file (--figure FILE)")


def figure_file(run: Run, figure: Path | None, name: str) -> Path:
    """Where a figure goes: where it was asked for, or under the run's name for it.

    Raises:
        StoreError: nothing can be written among the run's figures.
    """
    if figure is not None:
        return figure
    run.check_place(run.figures)
    return run.figures / name


def check_bins(bins: int) -> None:
    """Refuses a number of bins that makes no figure, before anything is computed.

    Raises:
        ArgumentError: fewer than one.
    """
    if bins < 1:
        raise ArgumentError(f"expected --bins of at least 1, got {bins}")


def check_resolution(resolution: int) -> None:
    """Refuses a grid with too few lines, before anything is computed.

    Raises:
        ArgumentError: fewer than three.
    """
    if resolution < 3:
        raise ArgumentError(f"expected --resolution of at least 3, got {resolution}")


def computed_once(
    run: Run,
    kind: type[R],
    key: str,
    compute: Callable[[Path], R],
    called: str,
    label: str = "",
    where: str = "",
) -> R:
    """A result of a run, from its store or computed and kept; says which, and where it is.

    Args:
        run: the run.
        kind: the result's class.
        key: everything that it depends on.
        compute: called with the file of a checkpoint.
        called: the result in words.
        label: a word in the file's name.
        where: who computes it, if not this process.
    """
    told = f"{called} (already computed)"
    found = run.store.find(kind, key, label)
    if found is None:
        run.check_place(run.results)
        told, found = called, run.store.get(kind, key, compute, label, where)
    forget_checkpoint(run.store.checkpoint(kind, key, label, where))
    say_file(told, run.store.file(kind, key, label))
    return found


def _check_height(height: str, run: Run, objective: Objective, methods: Sequence[Method]) -> None:
    """Refuses what not all surfaces would have, before any is computed.

    Raises:
        ArgumentError: the objective does not measure it.
    """
    if height == LOSS:
        return
    known = [*along(objective, run.path).objective(run.path.read(0, 1)[0]).values]
    if all(method.vectors_at_a_point > 1 for method in methods):
        known.append(SPREAD)
    if height not in known:
        raise ArgumentError(f"expected --height of {', '.join(known)}; got {height!r}")


def compute_surfaces(
    run: Run,
    methods: Sequence[Method],
    resolution: int | None,
    samples: int | None,
    plane: str = "pca",
    preview: Callable[[Surface], object] | None = None,
    executor: Executor | None = None,
    budget: Budget | None = None,
    height: str = LOSS,
) -> tuple[list[Surface], Plane]:
    """The surfaces of a run by several methods, each computed once and kept.

    Args:
        run: the run, or several in one plane.
        methods: the methods.
        resolution: grid lines an axis; None for what is usual.
        samples: how many training samples.
        plane: the plane's name: see `losspath.planes.plane_named`.
        preview: called now and then with a surface that is not complete yet.
        executor: whose workers evaluate the points; None for this process.
        budget: what each surface may cost; of the first one the plane is part.
        height: what will be drawn of them.
    """
    objective = run.training_objective(samples)
    run.made.forget_data()
    check_same_network(run.path, objective)
    _check_height(height, run, objective, methods)
    running = None if budget is None else budget.again()
    path, made = path_and_plane(run, plane, objective, running)
    first = Landscape(path, objective, methods[0], plane=made)
    grid = first.grid(resolution, budget)
    landscapes = [first.with_method(method) for method in methods]
    return list(surfaces_on(run, landscapes, grid, preview, executor, running)), made


def surfaces_on(
    run: Run,
    landscapes: Sequence[Landscape],
    grid: Grid,
    preview: Callable[[Surface], object] | None = None,
    executor: Executor | None = None,
    budget: Budget | None = None,
) -> Iterator[Surface]:
    """The surfaces of landscapes that differ in their methods alone, computed once and kept.

    Args:
        run: what they are of.
        landscapes: the landscapes.
        grid: their points.
        preview: called now and then with a surface that is not complete yet.
        executor: whose workers evaluate the points; None for this process.
        budget: what each may cost, which runs for the first one already.
    """
    running = budget
    states: StateLosses | None = None
    known: Known = {}  # of vectors near the path, which no method has a part in

    def surface_of(landscape: Landscape) -> Surface:
        def compute(checkpoint: Path) -> Surface:
            nonlocal states, running
            with progress_bar(landscape.method.name) as progress:
                steps = landscape.refine(
                    grid=grid,
                    states=(states or _ENDS) if budget is None else _STATES,
                    executor=executor,
                    checkpoint=checkpoint,
                    progress=progress,
                    fidelity=budget is not None,  # otherwise it is of all states
                    budget=running,
                )
                # To draw takes time, of which a budget has none to spare.
                surface = _last(steps, run, None if budget else preview)
            if budget is not None:
                running = budget.again()  # of the next method
                return _completed(landscape, surface, known)
            states = states or _state_losses(run, landscape)
            return _completed(landscape, dataclasses.replace(surface, states=states), known)

        # What workers compute rounds otherwise, so it has a checkpoint of its own.
        where = "" if executor is None else "workers"
        called, label = landscape.method.describe(), landscape.method.name
        return computed_once(
            run, Surface, landscape.key(grid, budget), compute, called, label, where
        )

    return map(surface_of, landscapes)


def _completed(landscape: Landscape, surface: Surface, known: Known) -> Surface:
    """A surface with what can be said once the losses of states are known.

    Args:
        landscape: what it is a surface of.
        surface: with the losses of all states that are drawn.
        known: what was found near the path already; what is found is put there.

    Raises:
        ObjectiveError: the loss is finite nowhere.
    """
    if not (np.isfinite(surface.states.loss).any() or np.isfinite(surface.loss).any()):
        raise ObjectiveError(
            f"the loss is {surface.states.loss[0]:g} at the path's first state, and finite at none "
            "of its states and at no point; look at the objective's inputs, targets and loss"
        )
    notes = loss_notes(landscape.path, surface.states)
    for note in notes.get("loss_notes", []):
        warn(note)
    if surface.is_filled:  # its budget had the fidelity in it
        say_reached(surface)
        return surface
    with busy("how far it holds near the path"):
        fidelity = landscape.fidelity(surface, known=known)
    # Notes that were made when fewer states were known do not hold any more.
    provenance = {k: value for k, value in surface.provenance.items() if k != "loss_notes"}
    return dataclasses.replace(surface, fidelity=fidelity, provenance=provenance | notes)


# The first surface does not wait for more than the losses of the path's two ends.
_ENDS, _STATES = 2, 25
_PREVIEW_SECONDS = 10.0


def _last(
    steps: Iterator[Surface], run: Run, preview: Callable[[Surface], object] | None
) -> Surface:
    """The last of ever finer surfaces; now and then one before it is shown."""
    shown = -np.inf
    for step in steps:
        surface = dataclasses.replace(step, provenance={**step.provenance, "run": run.title})
        due = time.monotonic() - shown > _PREVIEW_SECONDS and not surface.evaluated.all()
        if preview and due:
            preview(surface)
            shown = time.monotonic()
    return surface


def explain(surfaces: Sequence[Surface]) -> None:
    """Prints how the points of surfaces were evaluated."""
    for surface in surfaces:
        notes = surface.provenance.get("evaluation") or [
            "the plain loop, as there was little to do"
        ]
        for number, note in enumerate(notes):
            say(f"{surface.description}: {note}" if number == 0 else f"  {note}")


def _state_losses(run: Run, landscape: Landscape) -> StateLosses:
    projection, objective = landscape.projection, landscape.objective
    key = digest_of(
        run.path.digest,
        projection.coordinates,
        path_fingerprint(run.path, along(objective, run.path)),
    )

    def compute(_: Path) -> StateLosses:
        with busy("losses of states on the path"):
            states = landscape.states(_STATES)
        return dataclasses.replace(states, provenance={"key": key})

    return run.store.get(StateLosses, key, compute)


def compute_interpolation(run: Run, start: int, end: int, points: int) -> Interpolation:
    """The interpolation between two states of a run, computed once and kept."""
    objective = run.validation_objective()
    count = len(run.path)
    alphas = default_alphas(points)
    check_same_network(run.path, objective)
    key = interpolation_key(run.path, objective, (start, end), alphas)

    def compute(checkpoint: Path) -> Interpolation:
        with progress_bar("interpolation") as progress:
            result = interpolate(
                run.path,
                objective,
                start,
                end,
                alphas=alphas,
                checkpoint=checkpoint,
                progress=progress,
            )
        steps = np.asarray(getattr(run.path, "steps", np.arange(count)))
        ends = {"from_step": int(steps[start]), "to_step": int(steps[end]), "run": run.title}
        return dataclasses.replace(result, provenance={**result.provenance, **ends})

    return computed_once(run, Interpolation, key, compute, "interpolation")


def draw_interpolation(
    run: Run, result: Interpolation, figure: Path | None, extension: str
) -> None:
    """Draws an interpolation."""
    from losspath.figures import plot_interpolation, save_figure

    key = result.provenance["key"][:8]
    target = figure_file(run, figure, f"interpolation-{key}.{extension}")
    say_file("figure", save_figure(plot_interpolation(result, title=run.title), target))
    shares = result.shares
    if np.isfinite(list(shares.values())).all() and shares:
        told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        said = f"share of the drop in loss that is lost if one layer goes back: {told}"
        lower = " (negative: the loss is lower with that layer put back)"
        say(said + (lower if min(shares.values()) < 0 else ""))
