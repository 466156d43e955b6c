"""The states that correct a surface within a budget, and what they take."""

from __future__ import annotations

from losspath.surface.correction import (
    LEAST_STATES,
    LEAST_TIMES,
    STATES,
    Correction,
    samples_for,
)
from losspath.surface.refining import Surveyed
from losspath.surface.stage import Stage
from losspath.surface.surface import StateLosses, Surface


class Correcting:
    """Corrects the stages of a surface by states over more samples, which are evaluated once.

    Args:
        landscape: over all samples.

    Attributes:
        is_worth_it: whether there is anything to be had. Where a point is one vector, more samples
            for all points are as cheap; and a blend of states has lower losses than they have, and
            is off by more.
    """

    def __init__(self, landscape: Surveyed) -> None:
        self._landscape, self._count = landscape, len(landscape.objective)
        self._vectors = landscape.method.vectors_at_a_point
        # By how many samples were asked for: how many there are, and states over them.
        self._known = dict[int, tuple[int, StateLosses]]()
        self.is_worth_it = self._vectors > 1

    def numbers(self, samples: int) -> list[int]:
        """Over how many samples states may be that correct points over some, the most first."""
        if not self.is_worth_it:
            return []
        known = {more for more in self._known if more >= LEAST_TIMES * samples}
        return sorted({*samples_for(samples, self._count), *known}, reverse=True)

    def is_known(self, more: int) -> bool:
        """Whether states over so many samples were evaluated."""
        return more in self._known

    def states_of(self, stage: Stage) -> int:
        """How many states there are: the ends of all runs are among them."""
        return max(STATES, len(stage.ends.index))

    def in_points(self, stage: Stage, samples: int, more: int) -> float:
        """How many points over some samples take as long as states over them, and over more."""
        times = 1 if self.is_known(more) else 1 + more / samples
        return self.states_of(stage) * times / self._vectors

    def least(self, stage: Stage, samples: int) -> float:
        """So many points at least; 0 where points over so many samples are not corrected."""
        each = [self.in_points(stage, samples, more) for more in self.numbers(samples)]
        return min(each, default=0.0)

    def of(self, stage: Stage, surface: Surface, more: int) -> Correction | None:
        """What states over more samples tell of a stage's; None where too few have a loss.

        Args:
            stage: the stage.
            surface: what is known of it.
            more: how many samples; one of `numbers`.
        """
        few = stage.landscape.states(STATES)
        if len(few.index) < LEAST_STATES:
            return None
        if more not in self._known:
            over = self._landscape.over(more)
            self._known[more] = len(over.objective), over.states(STATES)
        held, many = self._known[more]
        return Correction.of(surface, few, many, (stage.samples, held, self._count))
