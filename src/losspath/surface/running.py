"""How points are evaluated, in this process: a sampler is asked, vectors are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.journal import Journal, Section
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.quantities import Evaluation
from losspath.evaluation.recorded import PathObjective
from losspath.methods import Lift
from losspath.surface.lifted import LiftedPlane
from losspath.surface.sampling import Sampler
from losspath.surface.vectors import Part

Indices = npt.NDArray[np.intp]
Found = list[tuple[int, Evaluation]]
Combine = Callable[[Sequence[Evaluation], Sequence[float]], Evaluation]
"""What is found at a point, of what is found at its vectors and of their shares."""


def evaluated(
    lifted: LiftedPlane,
    bound: PathObjective,
    sampler: Sampler,
    journal: Journal | Section | None = None,
    notes: list[str] | None = None,
    *,
    engine_type: type[Engine] = Engine,
    combine: Combine | None = None,
) -> Iterator[Found]:
    """Evaluates what a sampler asks for, in this process.

    Args:
        lifted: which vectors points stand for.
        bound: the objective along the path.
        sampler: says where; whoever goes through the results tells it.
        journal: has the points that are done, and configs of how to evaluate.
        notes: gets the lines that say how points are evaluated.
        engine_type: what evaluates vectors.
        combine: makes what is found at a point; by default the mean, as the method says.

    Yields:
        Numbers of points and what was found there, as many as are finished together; points that
        are in the journal are not among them.
    """
    objective = bound.for_points(lifted.method.is_flat)
    engine = engine_type(objective)
    if journal is not None:
        engine = engine_type(objective, journal.remembered, journal.keep_config)
    mean: Combine = partial(Evaluation.mean, logarithmic=lifted.method.is_logarithmic)
    done = dict(journal.done) if journal else {}
    while asks := sampler.ask():
        for group in lifted.groups(asks, engine.group_size, done):
            known = {i for i, number in enumerate(group.numbers.tolist()) if number in done}
            skipped = {v for v, point in enumerate(group.lift.point.tolist()) if point in known}
            finished = vectors_evaluated(
                engine,
                group.parts,
                partial(sides_of, lifted, bound, group.lift),
                sampler.total * lifted.method.vectors_at_a_point,
                skipped,
                measure=not group.is_awaited,
            )
            for found in of_points(group.lift, finished, combine or mean):
                if notes is not None:
                    notes[:] = engine.notes
                yield [(int(group.numbers[point]), each) for point, each in found]


def sides_of(
    lifted: LiftedPlane, bound: PathObjective, lift: Lift, vectors: Indices
) -> list[Sides] | None:
    """Side tensors of some vectors; None where the objective has those of all of them."""
    weights = None if lifted.method.is_flat else lift.buffers_of(vectors)
    shown = lifted.projection.coordinates
    return bound.sides_of_points(lift.places[vectors], weights, shown)


def vectors_evaluated(
    engine: Engine,
    parts: Iterable[Part],
    sides_at: Callable[[Indices], list[Sides] | None],
    total: int,
    skipped: Collection[int] = (),
    measure: bool = True,
) -> Iterator[Found]:
    """What is found at vectors that are given in parts.

    Args:
        engine: evaluates them.
        parts: their numbers, and the vectors.
        sides_at: gives the side tensors of some of them by their numbers.
        total: how many there will be in all.
        skipped: numbers of vectors that need not be evaluated.
        measure: whether to measure what is quickest.

    Yields:
        Numbers of vectors and what was found there, as many as are finished together.
    """
    for all_numbers, all_points in parts:
        for start in range(0, len(all_numbers), engine.group_size):
            some = slice(start, start + engine.group_size)
            numbers = all_numbers[some]
            left = {n for n, number in enumerate(numbers.tolist()) if number in skipped}
            if len(left) == len(numbers):
                continue
            points = replace(all_points.part(some.start, some.stop), sides=sides_at(numbers))
            for found in engine.evaluate(points, total, left, measure):
                yield [(int(numbers[n]), evaluation) for n, evaluation in found]


def of_points(lift: Lift, finished: Iterable[Found], combine: Combine) -> Iterator[Found]:
    """What is found at points, from what is found at their vectors.

    Args:
        lift: the vectors of points.
        finished: numbers of vectors and what was found there, in any order.
        combine: makes what is found at a point of what is found at its vectors, by their shares.

    Yields:
        Numbers of points, among those of the lift, and what is found there; of a method that gives
        points several vectors with `SPREAD`.
    """
    left: dict[int, int] = {}
    for point in lift.point.tolist():
        left[point] = left.get(point, 0) + 1
    are_single = len(left) == len(lift)
    parts: dict[int, Found] = {}
    for found in finished:
        whole = []
        for vector, evaluation in found:
            point = int(lift.point[vector])
            parts.setdefault(point, []).append((vector, evaluation))
            left[point] -= 1
            if not left[point]:
                shared = sorted(parts.pop(point), key=lambda part: part[0])
                shares = [float(lift.share[number]) for number, _ in shared]
                found_there = [each for _, each in shared]
                combined = combine(found_there, shares)
                if not are_single:
                    combined = combined.with_spread_of(found_there, shares)
                whole.append((point, combined))
        if whole:
            yield whole
