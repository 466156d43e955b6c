"""One call at a time, whichever threads ask and whatever interrupts them.

No lock does this: an exception may come between the end of a block and the release of its lock.
Here the calls that are under way are a list of their frames, and a frame that no thread runs any
more has no turn, however its call ended.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import FrameType

_POLL_SECONDS = 0.0005


class Turns:
    """Whose turn it is. A function that calls `take` calls `give` at its end, in a ``finally``."""

    def __init__(self) -> None:
        self._frames: list[FrameType] = []

    def take(self) -> bool:
        """Waits until it is the calling function's turn.

        Returns:
            False where an outer call of the same thread has it, as where a signal handler calls
            what it has interrupted: that cannot be waited for.
        """
        mine, frames = sys._getframe(1), self._frames
        frames.append(mine)  # the one operation that decides the order
        while frames[0] is not mine:
            first = frames[0]
            if _is_below(first, mine):
                return False
            if _is_running(first):
                time.sleep(_POLL_SECONDS)
            else:
                with suppress(ValueError):  # another thread was quicker
                    frames.remove(first)
        return True

    def give(self) -> None:
        """Ends the calling function's turn, or its waiting for one."""
        try:  # noqa: SIM105 - this runs at every step
            self._frames.remove(sys._getframe(1))
        except ValueError:  # another thread was quicker
            pass


def _is_below(frame: FrameType, top: FrameType) -> bool:
    """Whether a frame is among those that led to another one."""
    below = top.f_back
    while below is not None:
        if below is frame:
            return True
        below = below.f_back
    return False


def _is_running(frame: FrameType) -> bool:
    return any(
        top is frame or _is_below(frame, top) for top in list(sys._current_frames().values())
    )
