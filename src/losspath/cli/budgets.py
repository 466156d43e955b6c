"""Budgets of surfaces, as the command line has them."""

from __future__ import annotations

import numpy as np

from losspath.cli.console import err, say
from losspath.cli.runs import Run
from losspath.evaluation.objective import Objective
from losspath.geometry.plane import Plane, fit_plane
from losspath.recording.trajectory import StateSequence
from losspath.surface import Budget, Surface


def budget_of(text: str | None, run: Run) -> Budget | None:
    """What --budget says; None where it is not given.

    Args:
        text: as it was given.
        run: says how long an epoch of its training took, if its maker kept that.

    Raises:
        ArgumentError: it is no budget, or in epochs of a run that does not know how long they took.
    """
    return None if text is None else Budget.of(text, _epoch_seconds(run) if "e" in text else None)


def _epoch_seconds(run: Run) -> float | None:
    rows = run.made.history()
    seconds = [float(row.get("seconds") or 0.0) for row in rows]
    known = [each for each in seconds if each > 0]
    return float(np.median(known)) if known else None


def path_and_plane(
    run: Run, plane: str, objective: Objective, budget: Budget | None
) -> tuple[StateSequence, Plane]:
    """The states that a surface is made of, and its plane.

    Within seconds not all states of a long run may be; the plane is then that of those, or that of
    all states where it was fitted before.

    Args:
        run: the run, or several in one plane.
        plane: the plane's name.
        objective: the loss.
        budget: that runs already.
    """
    path = run.path if budget is None else budget.states_of(run.path)
    if path is run.path or plane != "pca":
        return path, run.plane(plane, objective)
    say(f"taking {len(path):,} of {len(run.path):,} states, as time is short")
    return path, run.kept_plane() or fit_plane(path)


def say_reached(surface: Surface) -> None:
    """Prints what a surface came to within its budget, for people who wait for it."""
    budget = surface.provenance.get("budget")
    if budget is None:
        return
    from losspath.figures.captions import describe_budget

    rows, columns = surface.loss.shape
    count = f"{int(surface.evaluated.sum()):,} of {columns} × {rows} points"
    samples = f"{surface.provenance['samples']:,} of {budget['of_samples']:,} samples"
    told = f"{surface.description}: {count} over {samples}.{describe_budget(budget)}"
    err.print(told, markup=False, highlight=False, soft_wrap=True)
