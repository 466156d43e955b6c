"""What recording costs a training loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What recording cost.

    Attributes:
        steps: how many were recorded.
        seconds: that `Recorder.record` took in all; the thread that writes is not in it.
        loop_seconds: from when the recorder was made until the last of these calls was over.
        bytes: of the run on disk.
    """

    steps: int
    seconds: float
    loop_seconds: float
    bytes: int

    @property
    def share(self) -> float:
        """The share of the loop's time that was spent in `Recorder.record`; NaN before one."""
        return self.seconds / self.loop_seconds if self.loop_seconds > 0 else float("nan")

    def __str__(self) -> str:
        if not self.steps:
            return f"no step was recorded; {self.bytes / 1e6:,.1f} MB"
        each = 1e3 * self.seconds / self.steps
        return (
            f"{self.steps:,} steps recorded in {self.seconds:.1f} s ({each:.2f} ms a step, "
            f"{self.share:.1%} of the loop's time); {self.bytes / 1e6:,.1f} MB"
        )
