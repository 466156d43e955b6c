"""How long threads wait for each other, on a quiet machine and on one that others use.

    python benchmarks/waiting.py [--seconds 3] [--rounds 3]

LeNet-5 on 1,437 images at once, and training steps of 64 images, by one thread and by as many as
there are cores, which look for the others as often as GNU's OpenMP has it by default, or 3,000
times, as the command line has it, or not at all, before they sleep. Each in a process of its own,
in turns: alone, beside loops that keep a core busy each, one more than there are cores, and beside
two other processes that take steps by as many threads as there are cores, as torch has it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np

DEFAULT = "300,000 (default)"
# Threads, and how often they look; None: as many threads as cores.
WAYS = ((1, DEFAULT), (None, DEFAULT), (None, "3000"), (None, "0"))
LOOP = [sys.executable, "-c", "while True: pass"]


def measure(seconds: float) -> None:
    """Prints milliseconds of a forward pass and of a step, by this process's threads."""
    import torch
    import torch.nn.functional as F

    from losspath.thesis.networks import build_network

    model = build_network("lenet5", 1, 10, seed=0)
    torch.manual_seed(0)
    images, some = torch.randn(1437, 1, 32, 32), torch.randn(64, 1, 32, 32)
    classes = torch.randint(0, 10, (64,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(some), classes).backward()
        optimizer.step()

    while not seconds:  # for others to be measured beside it
        step()
    with torch.inference_mode():
        forward = milliseconds(lambda: model(images), seconds)
    print(forward, milliseconds(step, seconds))


def milliseconds(work, seconds: float) -> float:
    """Of one call, by the clock."""
    work()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        count += 1
    return 1000 * (time.perf_counter() - began) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.seconds)
        return
    cores = len(os.sched_getaffinity(0))
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    plain = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, __file__, "--here", "--seconds", str(options.seconds)]
    beside = {
        "none": [],
        f"{cores + 1} loops": [LOOP] * (cores + 1),
        "2 of torch": [[sys.executable, __file__, "--here", "--seconds", "0"]] * 2,
    }
    print(f"{'others':10} {'threads':>7} {'looks':>18} {'forward':>24} {'step':>24}")
    for label, others in beside.items():
        with ExitStack() as busy:
            for command_of_other in others:
                other = subprocess.Popen(command_of_other)
                busy.callback(other.wait)
                busy.callback(other.kill)
            found = {way: [] for way in WAYS}
            for _ in range(options.rounds):
                for threads, spins in WAYS:
                    given = plain | {"OMP_NUM_THREADS": str(threads or cores)}
                    if spins != DEFAULT:
                        given["GOMP_SPINCOUNT"] = spins
                    done = subprocess.run(
                        command, env=given, capture_output=True, text=True, check=True
                    )
                    found[threads, spins].append([float(each) for each in done.stdout.split()])
        for (threads, spins), times in found.items():
            told = [
                f"{np.median(each):8.2f} ms ({min(each):.1f}…{max(each):.1f})"
                for each in np.array(times).T
            ]
            print(
                f"{label:10} {threads or cores:>7} {spins:>18} {told[0]:>24} {told[1]:>24}",
                flush=True,
            )


if __name__ == "__main__":
    main()
