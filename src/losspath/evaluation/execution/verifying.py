"""Holding points that were evaluated together against the plain loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.execution.fast import FastEvaluator
from losspath.evaluation.execution.points import Points, sides_at
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.evaluation.quantities import Evaluation

# Largest relative difference from the plain loop that is rounding.
_ROUNDING = 1e-5
_NEAR_ZERO = 1e-3
_CHECKED_POINTS = 4
_FEW_POINTS = 4  # that later batches are looked at with, one of them by the plain loop
_CHECKED_BATCHES = 3
# Of so many points one is evaluated by the plain loop over all data, which takes some points' time.
_WHOLE_POINTS = 200


class Verifier:
    """Holds what is evaluated together against the plain loop.

    Args:
        evaluator: the plain loop.
        fast: what is checked.
    """

    def __init__(self, evaluator: Evaluator, fast: FastEvaluator) -> None:
        self._objective = evaluator.objective
        self._evaluator, self._fast = evaluator, fast
        self._is_group_checked = False

    def checked(
        self, points: Points, config: EngineConfig
    ) -> tuple[EngineConfig, str | None, bool]:
        """A config that can be computed, and what `check` finds of it."""
        try:
            return config, *self.check(points, config)
        except Exception:
            if config.vmap_size == 1:
                raise
        config = replace(config, vmap_size=1)  # not every layer can be stacked
        return config, *self.check(points, config)

    def check(self, points: Points, config: EngineConfig) -> tuple[str | None, bool]:
        """What differs from the plain loop on a few points and samples; None if nothing does.

        And whether there was anything to compare: a point whose loss is finite.
        """
        compared = False
        for samples in self._checked_samples(config):
            # All points of the group once; a few are enough for what depends on the data.
            part, most = (points.part(0, _FEW_POINTS), 1) if compared else (points, _CHECKED_POINTS)
            problem, some = self._check_on(part, config, samples, most)
            if problem is not None:
                return problem, True
            compared |= some
        return None, compared

    def _checked_samples(self, config: EngineConfig) -> list[range]:
        """Batches from all over the data, which may be sorted, the last one among them."""
        count, size = self._fast.units.count, config.batch_size or 1
        starts = range(0, count, size)
        some = np.linspace(0, len(starts) - 1, min(_CHECKED_BATCHES, len(starts))).round()
        chosen = dict.fromkeys(int(number) for number in some)
        return [range(starts[n], min(starts[n] + size, count)) for n in chosen]

    def _check_on(
        self, points: Points, config: EngineConfig, samples: range, most: int
    ) -> tuple[str | None, bool]:
        """What differs on some samples, and whether there was anything to compare.

        At most so many points are evaluated by the plain loop too.
        """
        fast = self._fast.evaluate(points, config, samples)
        vectors = points.vectors()
        order = np.argsort([not np.isfinite(evaluation.loss) for evaluation in fast], kind="stable")
        compared = False
        for number in order[:: -(-len(order) // most)].tolist():
            sides = sides_at(points, number)
            parts = self._fast.units.parts(samples)
            plain = self._evaluator.evaluate(vectors[number], sides=sides, parts=parts)
            problem = _difference(plain, fast[number], self._objective.moves)
            if problem is not None:
                return problem, True
            compared |= bool(np.isfinite(plain.loss))
        return None, compared

    def check_group(
        self, part: Points, config: EngineConfig, evaluations: list[Evaluation], total: int
    ) -> str | None:
        """Holds the first group against the plain loop: a point of it over all data.

        Of few points in all, where that would cost a tenth of the whole, over one batch that was
        not looked at before.
        """
        finite = [n for n, each in enumerate(evaluations) if np.isfinite(each.loss)]
        if self._is_group_checked or not finite:
            return None
        if total < _WHOLE_POINTS:
            count, size = self._fast.units.count, config.batch_size or 1
            start = count // 3 // size * size
            samples = range(start, min(start + size, count))
            with self._evaluator.lent():
                problem, _ = self._check_on(part.part(0, _FEW_POINTS), config, samples, 1)
        else:
            number = finite[len(finite) // 2]
            (vector,) = part.part(number, number + 1).vectors()
            try:
                plain = self._evaluator.evaluate(vector, sides=sides_at(part, number))
            except torch.cuda.OutOfMemoryError:  # batches of the plain loop are larger
                return None
            problem = _difference(plain, evaluations[number], self._objective.moves)
        self._is_group_checked = problem is None
        return problem


def _difference(plain: Evaluation, found: Evaluation, moves: float) -> str | None:
    """What differs between the plain loop and a fast one; None if nothing does.

    Args:
        plain: by the plain loop.
        found: by the fast one.
        moves: how far the loss moves between parameters; near zero it rounds by a share of that.
    """
    rounds_like = max(abs(plain.loss), _NEAR_ZERO * min(moves, 1.0))
    if np.isfinite(plain.loss) != np.isfinite(found.loss):
        return f"{found.loss:.8g} against {plain.loss:.8g}"
    if abs(found.loss - plain.loss) > _ROUNDING * rounds_like:
        return f"{found.loss:.8g} against {plain.loss:.8g}"
    if (found.accuracy is None) != (plain.accuracy is None):
        return f"an accuracy of {found.accuracy} against {plain.accuracy}"
    return None
