"""What is found at points, in this process or by an executor's workers."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from os import PathLike

from losspath.evaluation.execution.journal import Journal, open_checkpoint
from losspath.evaluation.objective import Objective
from losspath.evaluation.recorded import PathObjective
from losspath.surface.lifted import LiftedPlane
from losspath.surface.running import Found, evaluated
from losspath.surface.sampling import Sampler
from losspath.surface.workers import WorkerPool


def open_journal(
    checkpoint: str | PathLike[str] | None,
    key: str,
    objective: Objective,
    executor: Executor | None,
) -> AbstractContextManager[Journal | None]:
    """The journal of a surface's points, or nothing where no checkpoint was asked for.

    Args:
        checkpoint: its file, or None.
        key: identifies the surface.
        objective: evaluates the points.
        executor: whose workers evaluate; None for this process.
    """
    # Points round by the number of threads of whoever evaluates them, where that is known.
    where = "" if executor is None else f"workers {getattr(executor, 'threads', '')}".strip()
    return open_checkpoint(checkpoint, key, objective, where)


def found_at(
    lifted: LiftedPlane,
    bound: PathObjective,
    sampler: Sampler,
    journal: Journal | None,
    notes: list[str],
    executor: Executor | None,
    key: str,
) -> Generator[Found]:
    """Evaluates what a sampler asks for and is not done.

    Args:
        lifted: which vectors points stand for.
        bound: the objective along the path.
        sampler: says where; whoever goes through the results tells it.
        journal: has the points that are done, and configs of how to evaluate.
        notes: gets the lines that say how points are evaluated.
        executor: whose workers evaluate; None for this process.
        key: identifies the objective, the plane and the method.

    Yields:
        Numbers of points and what was found there, as many as are finished together.
    """
    if executor is None:
        yield from evaluated(lifted, bound, sampler, journal, notes)
        return
    pool = WorkerPool(executor, lifted, bound, sampler, key, journal.configs if journal else {})
    done = dict(journal.done) if journal else {}
    for found in pool.evaluate(done):
        notes[:] = ["by workers", *pool.notes]
        for name, config in pool.configs.items():
            if journal:
                journal.keep_config(name, config)
        yield [(number, evaluation) for number, evaluation in found if number not in done]
