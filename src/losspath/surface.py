"""The loss surface around a path: what it is, and the one function that computes it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import RegularGridInterpolator

import losspath
from losspath.errors import ArgumentError, LosspathWarning, ModelError
from losspath.evaluation.engine import Engine
from losspath.evaluation.journal import Journal, Progress, open_checkpoint
from losspath.evaluation.objective import Evaluation, Objective
from losspath.evaluation.points import Affine, Points, Rows
from losspath.files import digest_of, load_archive, save_archive
from losspath.geometry.blend import blend
from losspath.geometry.blend import group_size as blend_size
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane, fit_plane
from losspath.methods import Method, PathGeometry, method_named
from losspath.recording.trajectory import StateSequence, Trajectory, as_path

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class StateLosses:
    """Losses of some states themselves, by the surface's own objective.

    Attributes:
        index: (k,) which states of the path.
        loss: (k,) their losses.
    """

    index: npt.NDArray[np.int64]
    loss: Floats


@dataclass(frozen=True)
class Surface:
    """Losses on a grid in the plane of a path.

    Attributes:
        x: (n,) coordinates of the grid's columns, in the parameters' unit.
        y: (m,) coordinates of its rows.
        loss: (m, n) the loss at (x[j], y[i]) in ``loss[i, j]``; NaN where the loss is NaN or was
            not evaluated.
        accuracy: (m, n), or None where the objective has none.
        evaluated: (m, n) bool: which points were evaluated.
        path: (T, 2) the states' coordinates.
        explained_variance_ratio: (2,) the share of the path's variance along x and y.
        states: losses of some states of the path, the first and the last among them.
        provenance: what the surface was computed from and how, as JSON values.
    """

    x: Floats
    y: Floats
    loss: Floats
    accuracy: Floats | None
    evaluated: npt.NDArray[np.bool_]
    path: Floats
    explained_variance_ratio: Floats
    states: StateLosses
    provenance: dict[str, Any]

    @property
    def initial_loss(self) -> float:
        """The loss of the first state."""
        return float(self.states.loss[0])

    @property
    def description(self) -> str:
        """The method and its options, as figures name them."""
        return str(self.provenance.get("description", "surface"))

    def at(self, points: npt.ArrayLike) -> Floats:
        """Reads the surface between its grid points, bilinearly.

        Args:
            points: (k, 2) coordinates in the plane.

        Returns:
            (k,) losses; NaN outside the grid and beside a point that has no finite loss.

        Raises:
            ArgumentError: points of another shape, or a grid of a single line.
        """
        places = np.asarray(points, np.float64)
        if places.ndim != 2 or places.shape[1] != 2:
            raise ArgumentError(f"expected points of shape (k, 2), got {places.shape}")
        if min(self.loss.shape) < 2:
            raise ArgumentError(f"expected a grid of 2 × 2 points or more, got {self.loss.shape}")
        known = np.where(self.evaluated & np.isfinite(self.loss), self.loss, np.nan)
        read = RegularGridInterpolator((self.y, self.x), known, bounds_error=False)
        losses: Floats = read(places[:, ::-1])
        return losses

    @property
    def state_errors(self) -> Floats:
        """(k,): |ground − own loss| / |own loss| at each of `states`; NaN where either is unknown.

        How far the picture can be trusted on the path: the ground is read bilinearly, so the
        spacing of the grid has its share in it.
        """
        own = np.where(np.isfinite(self.states.loss), self.states.loss, np.nan)
        ground = self.at(self.path[self.states.index])
        errors: Floats = np.abs(ground - own) / np.maximum(np.abs(own), np.finfo(float).tiny)
        return errors

    def save(self, path: str | PathLike[str]) -> None:
        """Saves the surface as ``.npz``, which ``numpy.load(path, allow_pickle=False)`` opens.

        Raises:
            StoreError: the file cannot be written.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "x": self.x,
            "y": self.y,
            "loss": self.loss,
            "evaluated": self.evaluated,
            "path": self.path,
            "explained_variance_ratio": self.explained_variance_ratio,
            "state_index": self.states.index,
            "state_loss": self.states.loss,
        }
        if self.accuracy is not None:
            arrays["accuracy"] = self.accuracy
        save_archive(Path(path), "surface", FORMAT_VERSION, arrays, self.provenance)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Surface:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, it is something else, or of another version.
            DamagedError: its bytes are not what was written.
        """
        arrays, provenance = load_archive(Path(path), "surface", FORMAT_VERSION)
        states = StateLosses(arrays.pop("state_index"), arrays.pop("state_loss"))
        accuracy = arrays.pop("accuracy", None)
        return cls(**arrays, accuracy=accuracy, states=states, provenance=provenance)


def compute_surface(
    path: StateSequence | npt.ArrayLike,
    objective: Objective,
    method: str | Method = "averaged",
    resolution: int = 19,
    *,
    plane: Plane | None = None,
    grid: Grid | None = None,
    states: int | StateLosses = 25,
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
    """
    method = method_named(method)
    recorded = as_path(path)
    check_same_network(recorded, objective)
    plane = plane or fit_plane(recorded)
    _check_plane(plane, recorded)
    grid = grid or Grid.around(plane.path, resolution)
    geometry = PathGeometry(plane.path, plane.residual_norms, grid.center)
    method = method.resolve(geometry)
    key = surface_key(recorded, objective, method, plane, grid)
    if not isinstance(states, StateLosses):
        states = evaluate_states(recorded, objective, spread_states(plane.path, states))
    losses = np.full(len(grid.points), np.nan)
    accuracies = np.full(len(grid.points), np.nan)
    with open_checkpoint(checkpoint, key, objective) as journal:
        engine = Engine(objective, journal.remembered if journal else None)
        known = journal.done if journal else ()
        groups = _points(recorded, method, plane, grid, geometry, engine.group_size, known)
        evaluations = _evaluations(groups, len(losses), engine, journal)
        for done, (number, evaluation) in enumerate(evaluations, 1):
            losses[number] = evaluation.loss
            accuracies[number] = np.nan if evaluation.accuracy is None else evaluation.accuracy
            if progress:
                progress(done, len(losses))
    return Surface(
        x=grid.x,
        y=grid.y,
        loss=losses.reshape(grid.shape),
        accuracy=None if np.isnan(accuracies).all() else accuracies.reshape(grid.shape),
        evaluated=np.ones(grid.shape, bool),
        path=plane.path,
        explained_variance_ratio=plane.explained_variance_ratio,
        states=states,
        provenance=_provenance(objective, method, plane, key) | {"evaluation": engine.notes},
    )


def check_same_network(path: StateSequence, objective: Objective) -> None:
    """Raises `ModelError` unless the path's states are of the objective's model."""
    layout = getattr(path, "layout", None)
    if layout is not None:
        layout.check_same(objective.layout, "the recorded path", "the objective's model")
    elif path.parameter_count != objective.parameter_count:
        raise ModelError(
            f"the path has states of {path.parameter_count:,} numbers, the objective's model "
            f"{objective.parameter_count:,} parameters"
        )
    if isinstance(path, Trajectory):
        _check_buffers(path, objective)


def _check_buffers(path: Trajectory, objective: Objective) -> None:
    """Warns where the model's buffers are none that training ended with."""
    recorded = path.buffers(-1)
    for name, buffer in objective.model.named_buffers():
        if name not in recorded:
            continue
        real = torch.view_as_real(buffer) if buffer.is_complex() else buffer
        values = real.detach().cpu().to(torch.float64).numpy()
        if not np.allclose(values, recorded[name], rtol=1e-5, atol=1e-8, equal_nan=True):
            warnings.warn(
                f"the objective's model has another {name} than the recording ended with, and "
                "every loss is computed with it; path.load_into(model, -1, buffers=True), before "
                "the objective is made, gives it what training ended with",
                LosspathWarning,
                stacklevel=4,
            )
            return


def _check_plane(plane: Plane, path: StateSequence) -> None:
    if plane.path.shape[1] != 2:
        raise ArgumentError(f"expected a plane of 2 components, got {plane.path.shape[1]}")
    if plane.path_digest != path.digest:
        raise ArgumentError("the plane was fitted to other states than the path's")


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
    return digest_of(
        FORMAT_VERSION,
        plane.path_digest,
        plane.origin,
        plane.basis,
        objective.fingerprint(probes_of(path)),
        method.to_json(),
        grid.x,
        grid.y,
        grid.center,
    )


def probes_of(path: StateSequence) -> npt.NDArray[Any]:
    """(k, P): the first state, one in the middle and the last."""
    indices = sorted({0, len(path) // 2, len(path) - 1})
    return np.concatenate([path.read(index, index + 1) for index in indices])


def spread_states(path: Floats, count: int) -> npt.NDArray[np.int64]:
    """Indices of at most `count` states, evenly by arc length, the first and last among them."""
    if count < 2:
        raise ArgumentError(f"expected at least 2 states to evaluate, got {count}")
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    wanted = np.linspace(0.0, along[-1], count)
    nearest = np.abs(along[None, :] - wanted[:, None]).argmin(axis=1)
    return np.unique([0, *nearest.tolist(), len(path) - 1]).astype(np.int64)


def evaluate_states(
    path: StateSequence, objective: Objective, index: npt.NDArray[np.int64]
) -> StateLosses:
    """The losses of states themselves."""
    engine = Engine(objective)
    losses: list[float] = []
    for start in range(0, len(index), engine.group_size):
        group = index[start : start + engine.group_size].tolist()
        states = np.concatenate([path.read(i, i + 1) for i in group])
        for finished in engine.evaluate(Rows(states), total=len(index)):
            losses += [evaluation.loss for _, evaluation in finished]
    return StateLosses(index, np.array(losses))


def _evaluations(
    points: Iterator[tuple[int, Points]], total: int, engine: Engine, journal: Journal | None
) -> Iterator[tuple[int, Evaluation]]:
    """Every grid point's evaluation, those that the journal has first."""
    done = dict(journal.done) if journal else {}
    yield from done.items()
    # Groups never depend on what is done: a matrix product may round differently for another
    # number of rows, and a surface that was stopped must equal one that was not.
    for first, group in points:
        if all(first + i in done for i in range(len(group))):
            continue
        known = {number - first for number in done}
        for finished in engine.evaluate(group, total, known):
            found = [(first + number, evaluation) for number, evaluation in finished]
            for number, evaluation in found:
                if journal:
                    journal.add(number, evaluation)
            yield from found


def _points(
    path: StateSequence,
    method: Method,
    plane: Plane,
    grid: Grid,
    geometry: PathGeometry,
    group: int,
    done: Collection[int],
) -> Iterator[tuple[int, Points]]:
    """The parameters at the grid points, in groups, each with the number of its first point."""
    points = grid.points
    # As many as are blended in one pass over the path, in whole groups.
    size = min(blend_size(plane), max(1, (64 << 20) // (8 * len(path))))
    size = max(1, size // group) * group
    origin: Floats | None = None
    for first in range(0, len(points), size):
        part = points[first : first + size]
        if all(first + i in done for i in range(len(part))):
            continue
        if method.is_flat and origin is None:
            weights = method.weights(part[:1], geometry)
            (origin,) = blend(path, plane, np.zeros((1, 2)), weights)
        if origin is not None:
            places = method.places(part, np.empty((0, 0)), geometry)
            for start in range(0, len(part), group):
                chosen = places[start : start + group]
                yield first + start, Affine(origin, plane.basis.T, chosen)
            continue
        weights = method.weights(part, geometry)
        blended = blend(path, plane, method.places(part, weights, geometry), weights)
        for start in range(0, len(part), group):
            yield first + start, Rows(np.stack(list(islice(blended, group))))


def _provenance(objective: Objective, method: Method, plane: Plane, key: str) -> dict[str, Any]:
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
        **objective.provenance,
    }
