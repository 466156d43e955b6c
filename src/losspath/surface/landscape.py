"""The loss as a function on a plane: a plane, a rule, an objective and a path."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Executor
from os import PathLike
from typing import Any, Self

import numpy as np
import numpy.typing as npt

import losspath
from losspath.arguments import (
    GRID,
    OBJECTIVE,
    PLANE,
    RESOLUTION,
    as_floats,
    checked,
    count,
    executor,
    file,
    flag,
    function,
    optional,
)
from losspath.errors import ArgumentError
from losspath.evaluation.execution.journal import Progress
from losspath.evaluation.objective import Objective
from losspath.evaluation.path_notes import path_notes
from losspath.evaluation.quantities import ACCURACY, LOSS, Evaluation, columns_of
from losspath.evaluation.recorded import along
from losspath.evaluation.subsets import subset
from losspath.files import digest_of
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane, fit_plane
from losspath.methods import DEFAULT, Method, method_named
from losspath.recording.joint import Runs
from losspath.recording.paths import ends_of
from losspath.recording.trajectory import StateSequence, as_path, starts_of
from losspath.surface.budget import Budget
from losspath.surface.budgeted import BudgetedSurface
from losspath.surface.fidelity import Fidelity
from losspath.surface.finding import found_at, open_journal
from losspath.surface.judging import Ground, cheap_fidelity
from losspath.surface.lifted import LiftedPlane, as_points, codes_of
from losspath.surface.line import Line
from losspath.surface.refining import Options, refined
from losspath.surface.running import Found, evaluated
from losspath.surface.sampling import PointSampler, Sampler
from losspath.surface.shares import Shares
from losspath.surface.standard_errors import standard_errors
from losspath.surface.states import loss_notes, losses_of, path_fingerprint, spread_states
from losspath.surface.strata import Known
from losspath.surface.surface import FORMAT_VERSION, StateLosses, Surface

Floats = npt.NDArray[np.float64]


def _count_or_losses(name: str, value: object) -> object:
    return value if isinstance(value, StateLosses) else _COUNT(name, value)


_COUNT = count(2, 1_000_000)
_PAIR = "coordinates (2,)"
# An axis: where all points are evaluated (19 in the thesis), and where those are that are needed.
_LINES, _FINE_LINES = 19, 61
_CHECKED = checked(
    resolution=optional(RESOLUTION),
    grid=optional(GRID),
    states=_count_or_losses,
    executor=optional(executor),
    checkpoint=optional(file),
    progress=optional(function),
    fidelity=flag,
    budget=optional(Budget.checked),
)


class Landscape:
    """The loss at points of a plane.

    A point stands for one parameter vector or several, as the method says, and has the mean of what
    is measured at these: see `losspath.surface.lifted.LiftedPlane`.

    Args:
        path: the recorded path, or an array (T, P) of states, or several runs: see `JointPath`.
        objective: the loss.
        method: the rule that lifts points of the plane into parameter space, as of
            `compute_surface`.
        plane: any plane in parameter space; by default the path's principal one.

    Attributes:
        path: the states.
        objective: the loss.
        plane: the plane.
        projection: the path as the plane shows it.
        method: the rule, with options that depend on the path as numbers.
        asked: the rule as it was asked for.

    Raises:
        PathError: the path has no plane (one state, constant, not finite).
        ModelError: the path is of another network than the objective's model.
        ArgumentError: an unknown method, or a plane that has not two axes or is of another network.

    Example:
        >>> landscape = Landscape(path, objective)  # doctest: +SKIP
        >>> landscape.evaluate([[0.0, 0.0]])[0].loss  # doctest: +SKIP
        >>> surface = landscape.surface(31)  # doctest: +SKIP
    """

    @checked(objective=OBJECTIVE, plane=optional(PLANE))
    def __init__(
        self,
        path: StateSequence | npt.ArrayLike | Runs,
        objective: Objective,
        method: str | Method = DEFAULT,
        *,
        plane: Plane | None = None,
    ) -> None:
        method = method_named(method)
        self.path, self.objective = as_path(path), objective
        self.asked = method
        self._bound = along(objective, self.path)
        self.plane = plane or fit_plane(self.path)
        if self.plane.basis.shape[1] != 2:
            raise ArgumentError(
                f"expected a plane of 2 components, got {self.plane.basis.shape[1]}; fit one of two"
            )
        self.projection = self.plane.projection(self.path)
        self._lift_by(method)

    def _lift_by(self, method: Method) -> None:
        bound = method.bind(self.path, self.plane, self.projection)
        self.method = bound.resolve(self.projection)
        self._lifted = LiftedPlane(self.path, self.plane, self.projection, self.method)

    def with_method(self, method: str | Method) -> Landscape:
        """The same plane lifted by another method; the path is not projected again.

        Args:
            method: the rule, as of `Landscape`.
        """
        made = copy.copy(self)
        made.asked = method_named(method)
        made._lift_by(made.asked)
        return made

    def over(self, samples: int) -> Self:
        """The same over some of the objective's samples, and more where these come in batches."""
        made = copy.copy(self)
        made._bound = copy.copy(self._bound)
        made._bound.objective = subset(self._bound.objective, samples)
        made.objective = made._bound.objective
        return made

    def of(self, path: StateSequence, plane: Plane | None) -> Landscape:
        """The landscape of another path, by the same objective and the method as it was asked for.

        Args:
            path: the states.
            plane: any; None for the path's principal one.
        """
        return Landscape(path, self.objective, self.asked, plane=plane)

    def __repr__(self) -> str:
        return f"Landscape: {self.method.describe()} on {self.plane!r}"

    def parameters(self, points: npt.ArrayLike) -> Iterator[Floats]:
        """Streams the parameters at points, where each is one vector.

        Args:
            points: (G, 2) coordinates in the plane.

        Yields:
            For each point in order, its parameters (P,) in float64.

        Raises:
            UnsupportedError: the method averages losses of several vectors; `vectors` has them.
        """
        return self._lifted.parameters(points)

    def vectors(self, points: npt.ArrayLike) -> Iterator[tuple[int, float, Floats]]:
        """Streams point number, share and parameters (P,) of all vectors at points (G, 2)."""
        return self._lifted.vectors(points)

    def evaluate(self, points: npt.ArrayLike) -> list[Evaluation]:
        """What is measured at points (G, 2) of the plane, in their order."""
        sampler = PointSampler(as_points(points))
        for found in evaluated(self._lifted, self._bound, sampler):
            for number, evaluation in found:
                sampler.tell(number, evaluation)
        return [found for found in sampler.found if found is not None]

    @checked(positions=count(2, 1_000_000))
    def line(self, start: npt.ArrayLike, end: npt.ArrayLike, positions: int = 25) -> Line:
        """What is measured along the straight line between two points of the plane.

        A line in the plane; `losspath.interpolate` goes from state to state, wherever they lie.

        Args:
            start: (2,) coordinates of one end.
            end: (2,) coordinates of the other.
            positions: how many, evenly, both ends among them.

        Raises:
            ArgumentError: an end that is not two finite numbers.
        """
        one, other = (as_floats(*each) for each in (("start", _PAIR, start), ("end", _PAIR, end)))
        if one.shape != other.shape:
            raise ArgumentError(f"expected two points (2,), got {one.shape} and {other.shape}")
        ends = as_points(np.stack([one, other]))
        alpha = np.linspace(0.0, 1.0, positions)
        points = (1 - alpha)[:, None] * ends[0] + alpha[:, None] * ends[1]
        return Line(alpha, points, columns_of(self.evaluate(points)))

    def surface(
        self,
        resolution: int | None = None,
        *,
        grid: Grid | None = None,
        states: int | StateLosses = 25,
        executor: Executor | None = None,
        checkpoint: str | PathLike[str] | None = None,
        progress: Progress | None = None,
        fidelity: bool = True,
        budget: Budget | str | int | None = None,
    ) -> Surface:
        """The surface on a grid around the path; the arguments are those of `compute_surface`."""
        surfaces = self.refine(
            resolution,
            grid=grid,
            states=states,
            executor=executor,
            checkpoint=checkpoint,
            progress=progress,
            fidelity=fidelity,
            budget=budget,
        )
        return deque(surfaces, maxlen=1).pop()

    def grid(self, resolution: int | None = None, budget: object = None) -> Grid:
        """The grid around the path of so many lines, or of as many as are usual within a budget."""
        usual = _LINES if budget is None else _FINE_LINES
        return Grid.around(self.projection.coordinates, resolution or usual)

    @_CHECKED
    def refine(
        self,
        resolution: int | None = None,
        *,
        grid: Grid | None = None,
        states: int | StateLosses = 25,
        executor: Executor | None = None,
        checkpoint: str | PathLike[str] | None = None,
        progress: Progress | None = None,
        fidelity: bool = True,
        budget: Budget | str | int | None = None,
    ) -> Iterator[Surface]:
        """The surface on ever more points of a grid; arguments are those of `refine_surface`."""
        grid = grid or self.grid(resolution, budget)
        within = None if budget is None else Budget.of(budget)
        key = self.key(grid, within)
        with open_journal(checkpoint, key, self._bound.objective, executor) as journal:
            options = Options(states, executor, journal, progress, fidelity)
            if within is None:
                yield from refined(self, grid, options, key)
            else:
                yield from BudgetedSurface(self, grid, within, options, key).surfaces()

    def fidelity(
        self, surface: Surface, seed: int = 0, *, known: Known | None = None
    ) -> Fidelity | None:
        """How far a surface of this landscape holds near the path, by some 60 evaluations.

        `losspath.measure_fidelity` says more, for some hundreds of evaluations more.

        Args:
            surface: whose losses are judged; of this path and plane.
            seed: of the choice of vectors.
            known: what was found at vectors already, by their number; what is found is put there.

        Returns:
            None of a path of one state, and of a surface of one line.
        """
        return cheap_fidelity(self.ground(surface), seed, known)

    def standard_errors(self, points: Floats, shares: Shares, of: int) -> Floats:
        """The standard errors of points (k, 2), as of the function of this name."""
        return standard_errors(self._lifted, self._bound, points, shares, of)

    def found(self, sampler: Sampler, *how: Any) -> Generator[Found]:
        """What is found at points that a sampler asks for; see `found_at`."""
        return found_at(self._lifted, self._bound, sampler, *how)

    def ground(self, surface: Surface) -> Ground:
        """A surface of this landscape, with what it is held against."""
        return Ground(surface, self.path, self.plane, self.projection, self._bound)

    def surface_of(
        self,
        grid: Grid,
        values: Mapping[str, Floats],
        evaluated: npt.NDArray[np.bool_],
        states: StateLosses,
        provenance: dict[str, Any],
    ) -> Surface:
        """The surface of values (m·n,) that were found at points of a grid; NaN at others."""
        values = {name: each.reshape(grid.shape).copy() for name, each in values.items()}
        return Surface(
            x=grid.x,
            y=grid.y,
            loss=values.pop(LOSS),
            accuracy=values.pop(ACCURACY, None),
            evaluated=evaluated.reshape(grid.shape).copy(),
            path=self.projection.coordinates,
            explained_variance_ratio=self.projection.explained_variance_ratio,
            states=states,
            provenance=provenance | loss_notes(self.path, states),
            starts=starts_of(self.path),
            metrics=values,
        )

    @checked(states=_count_or_losses)
    def states(self, states: int | StateLosses = 25, *, ends: bool = False) -> StateLosses:
        """What is measured at states of the path themselves, each with its own recorded buffers.

        Args:
            states: how many, evenly by arc length in the plane, both ends of each run among them;
                or losses of an earlier call, which are given back.
            ends: only the ends of each run.

        Raises:
            ArgumentError: losses of another path's states.
        """
        if isinstance(states, StateLosses):
            index = states.index
            if len(index) == 0 or not 0 <= min(index) <= max(index) < len(self.path):
                raise ArgumentError(
                    f"expected states as losses of some of the path's {len(self.path)} states, got "
                    "those of another path; give their number"
                )
            return states
        starts = self.projection.starts
        chosen = (
            np.array(ends_of(starts, len(self.path)))
            if ends
            else spread_states(self.projection.coordinates, states, starts)
        )
        return losses_of(self.path, self._bound, chosen)

    def key(self, grid: Grid, budget: Budget | None = None) -> str:
        """A digest of everything that a surface's losses depend on.

        Some states are evaluated for it, to tell objectives apart.

        Args:
            grid: the points.
            budget: what the surface may cost.
        """
        return digest_of(
            FORMAT_VERSION,
            self.projection.path_digest,
            self.plane.origin,
            self.plane.basis,
            path_fingerprint(self.path, self._bound),
            self.method.to_json(),
            grid.x,
            grid.y,
            *codes_of(self.method),
            *([] if budget is None else ["budget", budget.asked]),
        )

    def provenance(self, key: str) -> dict[str, Any]:
        """What a surface of this landscape depends on, as JSON values."""
        return {
            "losspath": losspath.__version__,
            "key": key,
            "method": self.method.to_json(),
            "description": self.method.describe(),
            "path_digest": self.projection.path_digest,
            "states": len(self.path),
            "parameters": len(self.plane.origin),
            "axes": list(self.plane.labels),
            "plane": digest_of(self.plane.origin, self.plane.basis),
            **self.plane.notes_on(self.path.digest),
            **self._bound.objective.provenance,
            "has_buffers": self._bound.describes_buffers,
            **path_notes(self.path),
        }
