"""How many threads to compute with."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

VARIABLE = "LOSSPATH_THREADS"

_OPENMP = "OMP_NUM_THREADS"
# Of GNU's OpenMP, which torch has on Linux: how often a thread looks whether the others are done
# before it sleeps. 300,000 times by default, for milliseconds.
_SPINS, _WAITING, _FEW = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "3000"
_CGROUP = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """The cores that this process may use: by its affinity, and by the quota of its cgroup.

    A container that may use two of 64 cores is as fast with two threads, and many times slower
    with 64.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


def use_threads(count: int | None) -> None:
    """Has torch compute with so many threads, which do not wait for each other for long.

    A thread that waits for one that does not run, as another program has its core, keeps a core
    busy meanwhile. On a machine that others use that took most of the time
    (benchmarks/results/waiting.txt).

    Args:
        count: how many; None for the cores that are available, unless OMP_NUM_THREADS says more.
    """
    # Read when torch is loaded.
    if "torch" not in sys.modules and _WAITING not in os.environ:
        os.environ.setdefault(_SPINS, _FEW)
    if count is None:
        if _OPENMP in os.environ or _quota() == math.inf:
            return  # torch's own choice, which follows the affinity
        count = available_cores()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
    else:  # read when torch is loaded, which a command that needs none never does
        os.environ[_OPENMP] = str(count)


def _quota() -> float:
    """Cores that the process's cgroup, and those above it, may use on average; infinite if any."""
    least = math.inf
    try:
        lines = _CGROUP.read_text().splitlines()
    except OSError:
        return least
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = _ROOT / "cpu" if controllers else _ROOT
        place = base / path.lstrip("/")
        for folder in [place, *place.parents]:
            least = min(least, _quota_in(folder))
            if folder == base:
                break
    return least


def _quota_in(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():  # the second version: "200000 100000" or "max 100000"
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        found = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
    return found if found > 0 else math.inf  # −1 stands for none
