"""What a run holds, whichever format it is in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from losspath.recording.slots import Stream

Named = dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]


class Sides(Protocol):
    """The side tensors of a run."""

    def kinds(self) -> dict[str, str]:
        """The kind of every side tensor that there was, by name."""

    def tensors(self, step: int, newest: bool, key: int) -> dict[str, torch.Tensor]:
        """The side tensors of the state at a step."""

    def digests(self, step: int, newest: bool) -> dict[str, int]:
        """The digest of each side tensor of a state, by name."""


@dataclass(frozen=True)
class Contents:
    """What the slots of a run say.

    Attributes:
        steps: (T,) the step of each state.
        rows: (T,) where each is: the number of its row in ``states.bin``; −1 − p for the newest
            state, at place p of ``newest.bin``.
        digests: (T,) the XXH3-64 of each row.
        keys: (T,) equal for states whose side tensors are the same.
        loss_steps: (M,) the step that each loss led to.
        all_losses: (M,) the losses.
        losses: (T−1,) the loss at each state but the last; NaN where it was lost.
        holes: positions of states after which others were lost.
        lost_ends: how many states were lost before the first that is there, and after the last.
        unchanged: at how many steps no parameter changed.
        closed: whether the last writer closed the run.
        values: named numbers: their steps, and the values.
        sides: reads side tensors.
        stream: the slots themselves.
        tail: bytes that nothing vouches for, by file.
        mended: files that lack something which their copy has.
    """

    steps: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint64]
    keys: npt.NDArray[np.uint64]
    loss_steps: npt.NDArray[np.int64]
    all_losses: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    holes: tuple[int, ...]
    unchanged: int
    closed: bool
    values: Named
    sides: Sides
    stream: Stream
    lost_ends: tuple[int, int] = (0, 0)
    tail: dict[str, int] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last step that was recorded; 0 if none was."""
        steps = [int(column[-1]) for column in (self.steps, self.loss_steps) if len(column)]
        return max(steps, default=0)
