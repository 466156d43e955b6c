"""The points of a surface evaluated by other processes, on this machine or on many.

What travels to a worker for each task is coordinates and weights of states; the objective and the
plane go to each worker once, and it opens a recorded trajectory itself.
"""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.errors import LosspathError, LosspathWarning, PathError, WorkerError
from losspath.evaluation.execution import tuning
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.points import Affine
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.evaluation.quantities import Evaluation
from losspath.evaluation.recorded import PathObjective, along
from losspath.geometry.blend import blend
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.methods import Lift
from losspath.recording.trajectory import StateSequence
from losspath.surface.lifted import LiftedPlane, is_done
from losspath.surface.running import of_points, vectors_evaluated
from losspath.surface.sampling import Ask, Sampler
from losspath.surface.vectors import Part, on_sheets, rows_of

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

# Points of a task. Separate points need a pass over the path for each task.
_FLAT_POINTS, _SEPARATE_POINTS = 32, 48
# Errors of an executor that has lost its workers, by name, as Dask may not be installed.
_LOST = ("KilledWorker", "CancelledError", "CommClosedError", "FutureCancelledError")
# How often in a row a pool of processes may break without a task being finished.
_RESTARTS = 3


@dataclass(frozen=True)
class Job:
    """What a worker needs once.

    Attributes:
        key: identifies the job.
        objective: the loss.
        plane: the plane.
        projection: the path as the plane shows it.
        path: the states; None where the origin says all.
        has_sides: whether points have side tensors of their own.
        is_logarithmic: whether losses at a point are averaged in their logarithms.
        origin: the parameters at the plane's zero, for methods whose points lie on a plane.
        total: how many vectors there are in all.
    """

    key: str
    objective: Objective
    plane: Plane
    projection: Projection
    path: StateSequence | None
    origin: Floats | None
    total: int
    has_sides: bool = False
    is_logarithmic: bool = False


@dataclass(frozen=True)
class Task:
    """Some points.

    Attributes:
        numbers: their numbers, by the sampler.
        lift: their vectors.
        measure: whether to measure what is quickest.
    """

    numbers: Indices
    lift: Lift
    measure: bool


@dataclass(frozen=True)
class Outcome:
    """What a worker answers.

    Attributes:
        worker: who it is.
        evaluations: of the task's points; None if it does not know the job.
        notes: how they were evaluated.
        configs: what was measured to be quickest.
    """

    worker: str
    evaluations: list[Evaluation] | None
    notes: list[str] = field(default_factory=list)
    configs: dict[str, EngineConfig] = field(default_factory=dict)


class _Worker:
    """A job in a worker's process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._given: dict[str, EngineConfig] = {}
        self._used: dict[str, EngineConfig] = {}
        self._engine = Engine(job.objective, self._remember, self._keep)
        if job.path is not None and job.path.digest != job.projection.path_digest:
            raise PathError(
                "the trajectory that the worker opened is not the one that the surface is of; give "
                "workers the same files"
            )
        self._bound = along(job.objective, job.path) if job.has_sides and job.path else None

    def _remember(self, key: str, measure: Callable[[], EngineConfig]) -> EngineConfig:
        if key in self._given:
            return self._given[key]
        self._used[key] = tuning.remembered(key, measure)
        return self._used[key]

    def _keep(self, key: str, config: EngineConfig) -> None:
        self._used[key] = config

    def evaluate(self, task: Task, given: dict[str, EngineConfig]) -> Outcome:
        self._given = given
        job, lift = self.job, task.lift
        finished = vectors_evaluated(
            self._engine,
            self._parts(lift),
            partial(self._sides, lift),
            job.total,
            measure=task.measure,
        )
        mean = partial(Evaluation.mean, logarithmic=job.is_logarithmic)
        found = dict(pair for pairs in of_points(lift, finished, mean) for pair in pairs)
        evaluations = [found[number] for number in range(len(task.numbers))]
        return Outcome(_name(), evaluations, list(self._engine.notes), dict(self._used))

    def _sides(self, lift: Lift, vectors: Indices) -> list[Sides] | None:
        if self._bound is None:
            return None
        weights = None if self.job.origin is not None else lift.buffers_of(vectors)
        shown = self.job.projection.coordinates
        return self._bound.sides_of_points(lift.places[vectors], weights, shown)

    def _parts(self, lift: Lift) -> Iterator[Part]:
        job, vectors = self.job, np.arange(len(lift))
        if job.origin is not None:
            yield vectors, Affine(job.origin, job.plane.basis.T, lift.places)
            return
        assert job.path is not None
        if lift.sheet is not None:
            yield from on_sheets(lift, job.path, job.plane)
        else:
            yield vectors, rows_of(blend(job.path, job.plane, lift.places, lift.weights))


_current: _Worker | None = None
# However many threads a worker has, its model computes one thing at a time.
_lock = threading.Lock()


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def work(key: str, job: Job | None, task: Task, given: dict[str, EngineConfig]) -> Outcome:
    """Does a task in a worker's process; asks for the job if it has not had it."""
    global _current
    with _lock:
        if job is not None and (_current is None or _current.job.key != key):
            _current = _Worker(job)
        if _current is None or _current.job.key != key:
            return Outcome(_name(), None)
        return _current.evaluate(task, given)


class WorkerPool:
    """An executor's workers at one surface.

    Args:
        executor: any `concurrent.futures.Executor` whose workers can import this package.
        lifted: which vectors points stand for.
        bound: the loss along the path.
        sampler: says where to evaluate.
        key: identifies the surface.
        known: configs that were made before.

    Attributes:
        configs: what was measured to be quickest.
        notes: how points were evaluated.
    """

    def __init__(
        self,
        executor: Executor,
        lifted: LiftedPlane,
        bound: PathObjective,
        sampler: Sampler,
        key: str,
        known: dict[str, EngineConfig],
    ) -> None:
        flat = lifted.method.is_flat
        self._executor = executor
        self._lifted, self._sampler = lifted, sampler
        self._job = Job(
            key=key,
            objective=bound.for_points(flat),
            plane=lifted.plane,
            projection=lifted.projection,
            path=None if flat and not bound.has_choices else lifted.path,
            origin=lifted.origin if flat else None,
            total=sampler.total * lifted.method.vectors_at_a_point,
            has_sides=bound.varies and (not flat or bound.has_choices),
            is_logarithmic=lifted.method.is_logarithmic,
        )
        self.configs = dict(known)
        self.notes: list[str] = []
        self._pending: dict[Future[Outcome], Task] = {}
        self._sent: set[Future[Outcome]] = set()  # those that carry the job
        self._ready: set[str] = set()
        self._ready_before = False  # whether any worker has ever answered
        self._broken = 0
        self._measured = bool(known)

    def evaluate(self, done: Collection[int]) -> Iterator[list[tuple[int, Evaluation]]]:
        """Evaluates all points, whichever task is finished first.

        Args:
            done: numbers of points that are not needed; a task that has no other is left out.

        Yields:
            Numbers of points with their evaluations.

        Raises:
            WorkerError: workers are lost again and again, or a job cannot be sent to them.
        """
        size = _FLAT_POINTS if self._lifted.method.is_flat else _SEPARATE_POINTS
        groups: deque[Ask] = deque()
        try:
            while True:
                # Workers that have the job are given more than they can do at once; others come to
                # light by and by, so that the job is not sent to one of them many times.
                while len(self._pending) < 2 + 2 * len(self._ready):
                    while not groups and (asks := self._sampler.ask()):
                        parts = self._lifted.parts(asks, size)
                        groups.extend(part for part in parts if not is_done(part.numbers, done))
                    if not groups or not (groups[0].is_awaited or self._may_measure()):
                        break
                    part = groups.popleft()
                    lift = self._lifted.lift(part.points)
                    self._submit(Task(part.numbers, lift, not part.is_awaited))
                if not self._pending:
                    break
                finished, _ = wait(self._pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield from self._take(future)
        finally:
            for future in self._pending:
                future.cancel()

    def _may_measure(self) -> bool:
        # One task measures, and all others do as it found, so that all of them round alike. It may
        # find nothing to choose, as for a model that the plain loop is for.
        return self._measured or not any(task.measure for task in self._pending.values())

    def _submit(self, task: Task, job: Job | None = None) -> None:
        try:
            future = self._handed(task, job)
        except BrokenExecutor as error:
            self._restart(error)
            future = self._handed(task, job)
        self._pending[future] = task
        if job is not None:
            self._sent.add(future)

    def _handed(self, task: Task, job: Job | None) -> Future[Outcome]:
        try:
            return self._executor.submit(work, self._job.key, job, task, dict(self.configs))
        except (LosspathError, BrokenExecutor):
            raise
        except Exception as error:
            raise WorkerError(
                f"expected an executor that takes work, got {type(error).__name__}: {error}; make "
                "a new one if this one was shut down"
            ) from error

    def _take(self, future: Future[Outcome]) -> Iterator[list[tuple[int, Evaluation]]]:
        task = self._pending.pop(future, None)
        if task is None:  # it was begun again meanwhile
            return
        try:
            outcome = future.result()
        except BrokenExecutor as error:
            self._restart(error, task)
            return
        except LosspathError:
            raise
        except Exception as error:
            if type(error).__name__ in _LOST:
                raise WorkerError(
                    f"the workers were lost ({type(error).__name__}: {error}); what is done is in "
                    "the checkpoint, if there is one; look at their memory, and begin new ones"
                ) from error
            if future not in self._sent:
                raise WorkerError(
                    f"a worker failed at some points: {type(error).__name__}: {error}; compute "
                    "without workers to see more"
                ) from error
            raise WorkerError(
                f"the model, the data or the loss cannot be sent to a worker, or fail there: "
                f"{type(error).__name__}: {error}; define the model and the loss in a module that "
                "workers can import"
            ) from error
        self._ready.add(outcome.worker)
        self._ready_before = True
        if outcome.evaluations is None:
            self._submit(task, self._job)
            return
        self._broken = 0
        self._measured |= task.measure
        self.configs |= outcome.configs
        self.notes += [note for note in outcome.notes if note not in self.notes]
        yield list(zip(task.numbers.tolist(), outcome.evaluations, strict=True))

    def _restart(self, error: BrokenExecutor, task: Task | None = None) -> None:
        """Begins again what was under way when a pool's process died."""
        self._broken += 1
        restart: Any = getattr(self._executor, "restart", None)
        if restart is None or self._broken > _RESTARTS:
            advice = "use fewer processes if memory ran out"
            if not self._ready_before:
                advice = (
                    'keep what the script does under if __name__ == "__main__":, as every process '
                    f"runs it anew, and see what they print; {advice}"
                )
            raise WorkerError(
                f"a worker process was lost ({error}); what is done is in the checkpoint, if there "
                f"is one; {advice}"
            ) from error
        warnings.warn(
            "a worker process was lost; its points are computed again",
            LosspathWarning,
            stacklevel=2,
        )
        restart()
        self._ready.clear()
        again = [*self._pending.values(), *([task] if task else [])]
        self._pending.clear()
        for lost in again:
            self._submit(lost)
