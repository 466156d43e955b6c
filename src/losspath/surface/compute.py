"""Computing the loss surface around a path, coarse first and then finer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

import losspath
from losspath.arguments import (
    GRID,
    OBJECTIVE,
    PLANE,
    RESOLUTION,
    checked,
    count,
    executor,
    file,
    function,
    optional,
)
from losspath.errors import ArgumentError
from losspath.evaluation.engine import Engine
from losspath.evaluation.journal import Journal, Progress, open_checkpoint
from losspath.evaluation.objective import Objective
from losspath.evaluation.points import Rows
from losspath.evaluation.quantities import Evaluation
from losspath.evaluation.recorded import PathObjective, along, path_notes
from losspath.files import digest_of
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane, fit_plane
from losspath.methods import Method, PathGeometry, method_named
from losspath.recording.trajectory import StateSequence, as_path
from losspath.surface.places import Places
from losspath.surface.value import FORMAT_VERSION, StateLosses, Surface
from losspath.surface.workers import Crew

Floats = npt.NDArray[np.float64]

_DISTANCES = 1 << 22  # between states and places along the path, looked at together


def _count_or_losses(name: str, value: object) -> object:
    return value if isinstance(value, StateLosses) else _COUNT(name, value)


_COUNT = count(2, 1_000_000)
_CHECKED = checked(
    states=_count_or_losses,
    objective=OBJECTIVE,
    resolution=RESOLUTION,
    plane=optional(PLANE),
    grid=optional(GRID),
    executor=optional(executor),
    checkpoint=optional(file),
    progress=optional(function),
)


@_CHECKED
def compute_surface(
    path: StateSequence | npt.ArrayLike,
    objective: Objective,
    method: str | Method = "averaged",
    resolution: int = 19,
    *,
    plane: Plane | None = None,
    grid: Grid | None = None,
    states: int | StateLosses = 25,
    executor: Executor | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Surface:
    """Computes the loss surface around a path.

    Every grid point g gets the parameters θ(g) = θ̄ + U g + Σ_i w_i(g) r_i, which project exactly
    onto g; the method is the rule for the weights.

    Args:
        path: the recorded path, or an array (T, P) of states.
        objective: the loss.
        method: "pca", "sampled", "sampled-pca", "averaged" or "averaged-nd" for their default
            options, or one of the rules in `losspath.methods`.
        resolution: grid lines an axis, at least 3; see `Grid.around`. 19 in the thesis.
        plane: the path's plane; fitted when not given.
        grid: where to evaluate, instead of `resolution`.
        states: how many states along the path are evaluated themselves (first and last among
            them, evenly by arc length in the plane), or their losses from an earlier call.
        executor: evaluates the points in other processes: `LocalProcesses`, Dask's
            ``client.get_executor()``, or any other whose workers can import the model's code. A
            recorded trajectory must be at the same place for them. None for this process.
        checkpoint: a file that keeps every point as it is done, so that a stopped call goes on;
            without it nothing is kept.
        progress: called with (points done, points in all).

    Returns:
        The surface.

    Raises:
        PathError: the path has no plane (one state, constant, not finite).
        ModelError: the path is of another network than the objective's model.
        ArgumentError: an unknown method, or a resolution below 3.
        StoreError: the checkpoint belongs to another computation or cannot be written.
        WorkerError: the executor lost its workers.
    """
    surfaces = refine_surface(
        path,
        objective,
        method,
        resolution,
        plane=plane,
        grid=grid,
        states=states,
        executor=executor,
        checkpoint=checkpoint,
        progress=progress,
    )
    return deque(surfaces, maxlen=1).pop()


@_CHECKED
def refine_surface(
    path: StateSequence | npt.ArrayLike,
    objective: Objective,
    method: str | Method = "averaged",
    resolution: int = 19,
    *,
    plane: Plane | None = None,
    grid: Grid | None = None,
    states: int | StateLosses = 25,
    executor: Executor | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
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
        plane: the path's plane.
        grid: where to evaluate.
        states: states along the path that are evaluated themselves.
        executor: evaluates the points in other processes.
        checkpoint: a file that keeps every point as it is done.
        progress: called with (points done, points in all).

    Raises:
        As `compute_surface`, when the first surface is asked for.
    """
    method = method_named(method)
    recorded = as_path(path)
    bound = along(objective, recorded)
    plane = plane or fit_plane(recorded)
    _check_plane(plane, recorded)
    grid = grid or Grid.around(plane.path, resolution)
    geometry = PathGeometry(plane.path, plane.residual_norms, grid.center)
    method = method.resolve(geometry)
    key = _key_of(recorded, bound, method, plane, grid)
    places = Places(recorded, method, plane, grid)
    canvas = _Canvas(places, _provenance(recorded, bound, method, plane, key))
    # Points round by the number of threads of whoever evaluates them, where that is known.
    where = "" if executor is None else f"workers {getattr(executor, 'threads', '')}".strip()
    with open_checkpoint(checkpoint, key, objective, where) as journal:
        for number, evaluation in journal.done.items() if journal else ():
            canvas.put(number, evaluation)
        if progress and canvas.done:
            progress(canvas.done, canvas.evaluated.size)
        known = _some_states(recorded, bound, plane, states, ends=True)
        shown = canvas.complete_levels
        if executor is None:
            source = _here(places, bound, journal, canvas.notes)
        else:
            source = _elsewhere(places, bound, journal, canvas.notes, executor, key)
        for found in source:
            for number, evaluation in found:
                if journal:
                    journal.add(number, evaluation)
                canvas.put(number, evaluation)
                if progress:
                    progress(canvas.done, canvas.evaluated.size)
            if shown < (shown := canvas.complete_levels) < len(places.levels):
                yield canvas.surface(known)
                if states is not known:
                    states = known = _some_states(recorded, bound, plane, states)
        yield canvas.surface(_some_states(recorded, bound, plane, states))


class _Canvas:
    """A surface while it is computed."""

    def __init__(self, places: Places, provenance: dict[str, Any]) -> None:
        self._places, self._provenance = places, provenance
        self._numbers = np.full((2, len(places.grid.points)), np.nan)
        self.evaluated = np.zeros(len(places.grid.points), bool)
        self.notes: list[str] = []

    def put(self, number: int, evaluation: Evaluation) -> None:
        accuracy = np.nan if evaluation.accuracy is None else evaluation.accuracy
        self._numbers[:, number] = evaluation.loss, accuracy
        self.evaluated[number] = True

    @property
    def done(self) -> int:
        return int(self.evaluated.sum())

    @property
    def complete_levels(self) -> int:
        """How many of the first levels are complete."""
        whole = [bool(self.evaluated[numbers].all()) for numbers in self._places.levels]
        return [*whole, False].index(False)

    def surface(self, states: StateLosses) -> Surface:
        plane, grid = self._places.plane, self._places.grid
        losses, accuracies = (values.reshape(grid.shape).copy() for values in self._numbers)
        return Surface(
            x=grid.x,
            y=grid.y,
            loss=losses,
            accuracy=None if np.isnan(accuracies).all() else accuracies,
            evaluated=self.evaluated.reshape(grid.shape).copy(),
            path=plane.path,
            explained_variance_ratio=plane.explained_variance_ratio,
            states=states,
            provenance=self._provenance | {"evaluation": list(self.notes)},
        )


def _some_states(
    path: StateSequence,
    bound: PathObjective,
    plane: Plane,
    states: int | StateLosses,
    ends: bool = False,
) -> StateLosses:
    """Losses of states that are given, or of some along the path, or of its ends alone."""
    if isinstance(states, StateLosses):
        if len(states.index) == 0 or not 0 <= min(states.index) <= max(states.index) < len(path):
            raise ArgumentError(
                f"expected states as losses of some of the path's {len(path)} states, got those of "
                "another path; give their number"
            )
        return states
    index = spread_states(plane.path, states)
    return _losses_of(path, bound, index[[0, -1]] if ends else index)


Found = Iterator[list[tuple[int, Evaluation]]]


def _here(places: Places, bound: PathObjective, journal: Journal | None, notes: list[str]) -> Found:
    """Evaluates the points that are not done in this process."""
    engine = _engine(bound.for_points(places.method.is_flat), journal)
    done = dict(journal.done) if journal else {}
    for level, numbers, points in places.groups(engine.group_size, done):
        skipped = {i for i, number in enumerate(numbers.tolist()) if number in done}
        measure = not places.is_awaited(level)
        total = len(places.grid.points)
        sides = places.sides(bound, numbers)
        for finished in engine.evaluate(points, total, skipped, measure=measure, sides=sides):
            notes[:] = engine.notes
            yield [(int(numbers[i]), evaluation) for i, evaluation in finished]


def _engine(objective: Objective, journal: Journal | None) -> Engine:
    if journal is None:
        return Engine(objective)
    return Engine(objective, journal.remembered, journal.keep_choice)


def _elsewhere(
    places: Places,
    bound: PathObjective,
    journal: Journal | None,
    notes: list[str],
    executor: Executor,
    key: str,
) -> Found:
    """Evaluates the points that are not done by an executor's workers."""
    crew = Crew(executor, places, bound, key, journal.choices if journal else {})
    done = dict(journal.done) if journal else {}
    for found in crew.evaluate(done):
        notes[:] = ["by workers", *crew.notes]
        for name, choice in crew.choices.items():
            if journal:
                journal.keep_choice(name, choice)
        yield [(number, evaluation) for number, evaluation in found if number not in done]


def check_same_network(path: StateSequence, objective: Objective) -> None:
    """Raises `ModelError` unless the path's states are of the objective's model."""
    along(objective, path)


def _check_plane(plane: Plane, path: StateSequence) -> None:
    if plane.path.shape[1] != 2:
        raise ArgumentError(
            f"expected a plane of 2 components, got {plane.path.shape[1]}; fit one of two"
        )
    if plane.path_digest != path.digest:
        raise ArgumentError(
            "expected the path's own plane, got one that was fitted to other states than the "
            "path's; leave it out, or fit it to this path"
        )


def surface_key(
    path: StateSequence, objective: Objective, method: Method, plane: Plane, grid: Grid
) -> str:
    """A digest of everything that a surface's losses depend on.

    Args:
        path: the states; some are evaluated, to tell objectives apart.
        objective: the loss.
        method: the rule, resolved.
        plane: the path's plane.
        grid: the points.
    """
    return _key_of(path, along(objective, path), method, plane, grid)


def _key_of(
    path: StateSequence, bound: PathObjective, method: Method, plane: Plane, grid: Grid
) -> str:
    return digest_of(
        FORMAT_VERSION,
        plane.path_digest,
        plane.origin,
        plane.basis,
        path_fingerprint(path, bound),
        method.to_json(),
        grid.x,
        grid.y,
        grid.center,
    )


def path_fingerprint(path: StateSequence, bound: PathObjective) -> list[object]:
    """What tells one loss from another by its values at states of a path, as JSON values."""
    return bound.fingerprint(_probed(path), probes_of(path))


def _probed(path: StateSequence) -> list[int]:
    """The first state, one in the middle and the last."""
    return sorted({0, len(path) // 2, len(path) - 1})


def probes_of(path: StateSequence) -> npt.NDArray[Any]:
    """(k, P): the first state, one in the middle and the last."""
    return np.concatenate([path.read(index, index + 1) for index in _probed(path)])


@checked(count=_COUNT)
def spread_states(path: Floats, count: int) -> npt.NDArray[np.int64]:
    """Indices of at most `count` states, evenly by arc length, the first and last among them."""
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    wanted = np.linspace(0.0, along[-1], count)
    nearest: set[int] = set()
    for some in np.array_split(wanted, 1 + count * len(path) // _DISTANCES):
        nearest.update(np.abs(along[None, :] - some[:, None]).argmin(axis=1).tolist())
    return np.array(sorted({0, *nearest, len(path) - 1}), np.int64)


def evaluate_states(
    path: StateSequence, objective: Objective, index: npt.NDArray[np.int64]
) -> StateLosses:
    """The losses of states themselves, each with its own recorded buffers."""
    return _losses_of(path, along(objective, path), index)


def _losses_of(
    path: StateSequence, bound: PathObjective, index: npt.NDArray[np.int64]
) -> StateLosses:
    engine = Engine(bound.objective)
    losses: list[float] = []
    for start in range(0, len(index), engine.group_size):
        group = index[start : start + engine.group_size].tolist()
        states = np.concatenate([path.read(i, i + 1) for i in group])
        sides = [bound.sides_of(i) for i in group] if bound.varies else None
        for finished in engine.evaluate(Rows(states), measure=False, sides=sides):
            losses += [evaluation.loss for _, evaluation in finished]
    return StateLosses(index, np.array(losses))


def _provenance(
    path: StateSequence, bound: PathObjective, method: Method, plane: Plane, key: str
) -> dict[str, Any]:
    return {
        "losspath": losspath.__version__,
        "key": key,
        "method": method.to_json(),
        "description": method.describe(),
        "path_digest": plane.path_digest,
        "states": len(plane.path),
        "parameters": len(plane.origin),
        "plane_residual": plane.residual,
        "plane_gap": plane.gap,
        **bound.objective.provenance,
        "has_buffers": bound.describes_buffers,
        **path_notes(path),
    }
