"""What the points of a surface have taken, and will take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Costs:
    """What points have taken, and will take.

    Attributes:
        points: evaluations so far, over all samples each.
        call: seconds of the last call that were not of its points: a pass over the path, a graph.
        each: seconds of a point and sample in it.
        states: seconds of a call for a few states, which comes after the last points.
    """

    points: float = 0.0
    call: float = 0.0
    each: float = 0.0
    states: float = 0.0

    def note(self, work: float, seconds: float, later: float, later_seconds: float) -> None:
        """Takes what a call took: points × samples in all, and those after its first results."""
        # Of a call of one piece nobody knows; a half is as good as any share.
        self.each = later_seconds / later if later else 0.5 * seconds / work
        self.call = max(0.0, seconds - self.each * work)

    def expected(self, work: float) -> float:
        """Seconds that so many points × samples and the rest will take.

        Nothing before anything is known.
        """
        return self.call + self.each * work + (self.states if self.each else 0.0)
