"""Computing the loss surface around a path, coarse first and then finer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from os import PathLike

import numpy.typing as npt

from losspath.arguments import OBJECTIVE, checked
from losspath.evaluation.execution.journal import Progress
from losspath.evaluation.objective import Objective
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane
from losspath.methods import DEFAULT, Method
from losspath.recording.joint import Runs
from losspath.recording.trajectory import StateSequence, as_path
from losspath.surface.budget import Budget
from losspath.surface.landscape import Landscape
from losspath.surface.surface import StateLosses, Surface


@checked(objective=OBJECTIVE)
def compute_surface(
    path: StateSequence | npt.ArrayLike | Runs,
    objective: Objective,
    method: str | Method = DEFAULT,
    resolution: int | None = None,
    *,
    plane: Plane | None = None,
    grid: Grid | None = None,
    states: int | StateLosses = 25,
    executor: Executor | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
    fidelity: bool = True,
    budget: Budget | str | int | None = None,
) -> Surface:
    """Computes the loss surface around a path.

    Every grid point g gets the parameters θ(g) = θ̄ + U g + Σ_i w_i(g) r_i, which project exactly
    onto g; the method is the rule for the weights.

    Args:
        path: the recorded path, or an array (T, P) of states; or several runs of one network, in a
            list or by name, which then share one surface: see `losspath.JointPath`.
        objective: the loss.
        method: "local-planes", "local-draws", "sampled", "sampled-pca", "averaged", "averaged-nd"
            or "pca" for their default options, or one of the rules in `losspath.methods`. The
            first is the default, as it holds for vectors near the path and on the straight line
            from its start to its end: see docs/trust.md. A point is four evaluations by it.
        resolution: grid lines an axis, at least 3; see `Grid.around`. By default 19, as in the
            thesis, and 61 within a budget, of which as many points are evaluated as are needed.
        plane: any plane; by default the path's principal one.
        grid: where to evaluate, instead of `resolution`.
        states: how many states along the path are evaluated themselves (first and last among
            them, evenly by arc length in the plane), or their losses from an earlier call.
        executor: evaluates the points in other processes: `LocalProcesses`, Dask's
            ``client.get_executor()``, or any other whose workers can import the model's code. A
            recorded trajectory must be at the same place for them. None for this process.
        checkpoint: a file that keeps every point as it is done, so that a stopped call goes on;
            without it nothing is kept.
        progress: called with (points done, points in all).
        fidelity: whether to measure how far the surface holds near the path, by about 60 more
            evaluations: see `Surface.fidelity`.
        budget: what the surface may cost; None for all points over all samples. "5s": seconds of
            wall time, the plane included, and mostly some per cent more. 200: so many points over
            all samples, where one over a tenth of them is a tenth of one. "auto": until nothing is
            seen that is not so, by predicted errors of 1 % of the drawn range and standard errors
            of 2 %. The picture is whole in any case: points that were not evaluated are
            interpolated, what some samples say is corrected by nine states over more where a point
            is several vectors, and ``provenance["budget"]`` says what was reached. Within seconds
            it is not the same each time. See `Surface.is_filled`.

    Returns:
        The surface.

    Raises:
        PathError: the path has no plane (one state, constant, not finite).
        ModelError: the path is of another network than the objective's model.
        ArgumentError: an unknown method, or a resolution below 3.
        StoreError: the checkpoint belongs to another computation or cannot be written.
        WorkerError: the executor lost its workers.
    """
    within = None if budget is None else Budget.of(budget)  # whose time runs from here
    path = path if within is None else within.states_of(as_path(path))
    landscape = Landscape(path, objective, method, plane=plane)
    return landscape.surface(
        resolution,
        grid=grid,
        states=states,
        executor=executor,
        checkpoint=checkpoint,
        progress=progress,
        fidelity=fidelity,
        budget=within,
    )


def refine_surface(
    path: StateSequence | npt.ArrayLike | Runs,
    objective: Objective,
    method: str | Method = DEFAULT,
    resolution: int | None = None,
    *,
    plane: Plane | None = None,
    grid: Grid | None = None,
    states: int | StateLosses = 25,
    executor: Executor | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
    fidelity: bool = True,
    budget: Budget | str | int | None = None,
) -> Iterator[Surface]:
    """Computes the loss surface around a path, coarse first and then finer.

    Yields a surface of few points of the grid, then of more, and at last of all: the same as
    `compute_surface` gives, bit for bit, and for the same time. Stop whenever the picture is good
    enough. `Surface.evaluated` says which points there are; figures say so too. The first surface
    has the losses of the path's first and last states alone, all others those of `states`.

    Args:
        path: as for `compute_surface`, like all others.
        objective: the loss.
        method: the rule.
        resolution: grid lines an axis.
        plane: any plane.
        grid: where to evaluate.
        states: states along the path that are evaluated themselves.
        executor: evaluates the points in other processes.
        checkpoint: a file that keeps every point as it is done.
        progress: called with (points done, points in all).
        fidelity: whether to measure how far the last surface holds.
        budget: what it may cost; each surface is then whole.

    Raises:
        As `compute_surface`, when the first surface is asked for.
    """
    within = None if budget is None else Budget.of(budget)  # whose time runs from here
    path = path if within is None else within.states_of(as_path(path))
    landscape = Landscape(path, objective, method, plane=plane)
    yield from landscape.refine(
        resolution,
        grid=grid,
        states=states,
        executor=executor,
        checkpoint=checkpoint,
        progress=progress,
        fidelity=fidelity,
        budget=within,
    )
