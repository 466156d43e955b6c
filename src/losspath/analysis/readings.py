"""A training run in a word, where the numbers are clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from losspath.analysis.dynamics import Dynamics

# The loss has risen to so many times what it was at the beginning.
_RISEN = 1.5
# The loss has fallen by no more than this share.
_FALLEN = 0.02
# Mean cosine of successive steps: below the first, training goes back and forth.
_BACK, _ON = -0.3, -0.2
# Share of the measured states at which the loss may have risen in a smooth training, by more than
# a share of its whole fall: noise at the bottom is no rise.
_RISES, _RISE = 0.2, 0.01


@dataclass(frozen=True)
class Reading:
    """What a run did.

    Attributes:
        name: "overshooting" (the loss rose above where it began, or is not finite), "oscillating"
            (successive steps point against each other), "stuck" (the loss hardly fell), "smooth"
            (it fell steadily), or "unclear".
        reason: the numbers that say so.
    """

    name: Literal["overshooting", "oscillating", "stuck", "smooth", "unclear"]
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_dynamics(dynamics: Dynamics) -> Reading:
    """Says what a run did, by fixed rules in this order.

    * overshooting: the loss at some measured state is not finite, or above 1.5 times the first;
    * oscillating: over the second half of the steps, the mean cosine of successive steps is below
      −0.3;
    * stuck: the loss never fell by more than 2 %;
    * smooth: it rose, by more than 1 % of its whole fall, from at most one measured state in five
      to the next, and the mean cosine of the second half is above −0.2;
    * unclear: none of these.

    Args:
        dynamics: the measurements.
    """
    loss = dynamics.loss
    if not np.isfinite(loss).all():
        step = int(dynamics.steps[~np.isfinite(loss)][0])
        return Reading("overshooting", f"the loss is not finite at step {step:,}")
    first = abs(float(loss[0])) or np.finfo(float).tiny
    risen = float(loss.max() - loss[0]) / first
    if risen > _RISEN - 1:
        return Reading("overshooting", f"the loss rose to {1 + risen:.2g} times what it was")
    half = dynamics.cosines[len(dynamics.cosines) // 2 :]
    known = half[np.isfinite(half)]
    cosine = float(known.mean()) if len(known) else 0.0
    if cosine < _BACK:
        return Reading("oscillating", f"mean cosine of the second half {cosine:.2f}")
    fallen = float(loss[0] - loss.min()) / first
    if fallen < _FALLEN:
        return Reading("stuck", f"the loss fell by {fallen:.1%} at most")
    rises = int((np.diff(loss) > _RISE * fallen * first).sum())
    words = (
        f"the loss fell by {fallen:.0%} and rose between {rises} of {len(loss) - 1} measured "
        f"states; mean cosine of the second half {cosine:.2f}"
    )
    if rises <= _RISES * (len(loss) - 1) and cosine > _ON:
        return Reading("smooth", words)
    return Reading("unclear", words)
