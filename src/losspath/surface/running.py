"""How points are evaluated, in this process: a sampler is asked, vectors are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.journal import Journal
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.quantities import Evaluation
from losspath.evaluation.recorded import PathObjective
from losspath.methods import Lift
from losspath.surface.lifted import LiftedPlane
from losspath.surface.sampling import Sampler

Found = list[tuple[int, Evaluation]]


def evaluated(
    lifted: LiftedPlane,
    bound: PathObjective,
    sampler: Sampler,
    journal: Journal | None = None,
    notes: list[str] | None = None,
) -> Iterator[Found]:
    """Evaluates what a sampler asks for, in this process.

    Args:
        lifted: which vectors points stand for.
        bound: the objective along the path.
        sampler: says where; whoever goes through the results tells it.
        journal: has the points that are done, and configs of how to evaluate.
        notes: gets the lines that say how points are evaluated.

    Yields:
        Numbers of points and what was found there, as many as are finished together; points that
        are in the journal are not among them.
    """
    objective = bound.for_points(lifted.method.is_flat)
    engine = Engine(objective)
    if journal is not None:
        engine = Engine(objective, journal.remembered, journal.keep_config)
    done = dict(journal.done) if journal else {}
    while asks := sampler.ask():
        for group in lifted.groups(asks, engine.group_size, done):
            known = {i for i, number in enumerate(group.numbers.tolist()) if number in done}
            skipped = {v for v, point in enumerate(group.lift.point.tolist()) if point in known}
            finished = engine.evaluate(
                replace(group.vectors, sides=sides_of(lifted, bound, group.lift)),
                sampler.total * lifted.method.vectors_at_a_point,
                skipped,
                measure=not group.is_awaited,
            )
            for found in of_points(group.lift, finished):
                if notes is not None:
                    notes[:] = engine.notes
                yield [(int(group.numbers[point]), each) for point, each in found]


def sides_of(lifted: LiftedPlane, bound: PathObjective, lift: Lift) -> list[Sides] | None:
    """Side tensors of vectors; None where the objective has those of all of them."""
    weights = None if lifted.method.is_flat else lift.weights
    return bound.sides_of_points(lift.places, weights, lifted.projection.coordinates)


def of_points(lift: Lift, finished: Iterable[Found]) -> Iterator[Found]:
    """What is found at points, from what is found at their vectors.

    Args:
        lift: the vectors of points.
        finished: numbers of vectors and what was found there, in any order.

    Yields:
        Numbers of points, among those of the lift, and the means by the vectors' shares.
    """
    left: dict[int, int] = {}
    for point in lift.point.tolist():
        left[point] = left.get(point, 0) + 1
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
                whole.append((point, Evaluation.mean([each for _, each in shared], shares)))
        if whole:
            yield whole
