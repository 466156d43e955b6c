"""A training run in a word, where the numbers are clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from losspath.analysis.dynamics import Dynamics
from losspath.arguments import DYNAMICS, checked

# Fewer measured states than this say nothing.
_LEAST = 5
# The loss has risen to so many times what it was at the beginning, or from its lowest so far by
# such a share of what it had fallen by then.
_RISEN, _BACK_UP = 1.5, 0.5
# The loss has fallen by no more than this share.
_FALLEN = 0.05
# Mean cosine of successive steps: below the first, training goes back and forth.
_BACK, _ON = -0.3, -0.2
# In a smooth training the loss rises from at most this share of the measured states to the next by
# more than this share of its whole fall (noise at the bottom is no rise), and is never further
# above its lowest so far than this share of the whole fall.
_RISES, _RISE, _ABOVE = 0.2, 0.01, 0.2


@dataclass(frozen=True)
class Verdict:
    """What a run did.

    Attributes:
        name: "overshooting" (the loss rose above where it began or far back up, or is not finite),
            "oscillating" (successive steps point against each other), "stuck" (the loss hardly
            fell), "smooth" (it fell steadily), or "unclear".
        reason: the numbers that say so.
    """

    name: Literal["overshooting", "oscillating", "stuck", "smooth", "unclear"]
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@checked(dynamics=DYNAMICS)
def judge_dynamics(dynamics: Dynamics) -> Verdict:
    """Says what a run did, by fixed rules in this order.

    * overshooting: the loss at some measured state is not finite, or above 1.5 times the first;
    * unclear: fewer than five states were measured;
    * overshooting: the loss fell by more than 5 %, and then rose again by more than half of that;
    * oscillating: over the second half of the steps, the mean cosine of successive steps is below
      −0.3;
    * stuck: the loss never fell by more than 5 %;
    * smooth: it rose, by more than 1 % of its whole fall, from at most one measured state in five
      to the next; it was never above its lowest so far by more than a fifth of its whole fall; and
      the mean cosine of the second half is above −0.2;
    * unclear: none of these.

    Args:
        dynamics: the measurements.
    """
    loss = dynamics.loss
    if not np.isfinite(loss).all():
        step = int(dynamics.steps[~np.isfinite(loss)][0])
        return Verdict("overshooting", f"the loss is not finite at step {step:,}")
    first = abs(float(loss[0])) or np.finfo(float).tiny
    risen = float(loss.max() - loss[0]) / first
    if risen > _RISEN - 1:
        return Verdict("overshooting", f"the loss rose to {1 + risen:.2g} times what it was")
    if len(loss) < _LEAST:
        return Verdict("unclear", f"only {len(loss)} states were measured")
    lowest = np.minimum.accumulate(loss)
    fall, above = float(loss[0] - lowest[-1]), loss - lowest
    falls = loss[0] - lowest
    back_up = np.divide(above, falls, out=np.zeros(len(loss)), where=falls > _FALLEN * first)
    if back_up.max() > _BACK_UP:
        step = int(dynamics.steps[back_up.argmax()])
        words = (
            f"by step {step:,} the loss was back up by {back_up.max():.0%} of what it had fallen"
        )
        return Verdict("overshooting", words)
    half = dynamics.cosines[len(dynamics.cosines) // 2 :]
    known = half[np.isfinite(half)]
    cosine = float(known.mean()) if len(known) else 0.0
    if cosine < _BACK:
        return Verdict("oscillating", f"mean cosine of the second half {cosine:.2f}")
    if fall <= _FALLEN * first:
        return Verdict("stuck", f"the loss fell by {fall / first:.1%} at most")
    rises = int((np.diff(loss) > _RISE * fall).sum())
    words = (
        f"the loss fell by {fall / first:.0%}; it rose in {rises} of the {len(loss) - 1} intervals "
        f"between measured states, and was never above its lowest by more than "
        f"{above.max() / fall:.0%} of the fall; mean cosine of the second half {cosine:.2f}"
    )
    if rises <= _RISES * (len(loss) - 1) and above.max() <= _ABOVE * fall and cosine > _ON:
        return Verdict("smooth", words)
    return Verdict("unclear", words)
