"""What a process measures of itself; the standard library alone, as peers' environments have it."""

import os
import resource
import time
from pathlib import Path


class Meanwhile:
    """What the machine's other processes do from now on."""

    def __init__(self) -> None:
        self._began, self._busy = time.perf_counter(), busy_seconds()

    def others(self) -> float:
        """Cores that they kept busy since; NaN where the machine cannot tell."""
        return (busy_seconds() - self._busy) / (time.perf_counter() - self._began)


def busy_seconds() -> float:
    """Processor time that the machine has spent on other processes; NaN where it cannot tell."""
    kernel = Path("/proc/stat")
    if not kernel.exists():
        return float("nan")
    fields = [int(field) for field in kernel.read_text().splitlines()[0].split()[1:9]]
    spent = sum(fields) - fields[3] - fields[4]  # idle, and idle while a disk works
    return spent / os.sysconf("SC_CLK_TCK") - time.process_time()


def peak_mebibytes() -> float:
    """The process's peak resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
