"""How the time and memory of a surface grow: with points, samples, parameters and processes.

    python benchmarks/scaling.py [--rounds 3]

Every figure is of a process of its own, so that its peak memory is its own. How the time grows is
measured once; numbers of processes take turns in rounds, of which the medians are printed. Points
and samples: LeNet-5 on a plane and off it (`pca` and `averaged`, a path of 300 states). Parameters:
networks of three linear layers. Processes: the same surface by one process with one thread, by two
such processes, and by one process with all threads.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import losspath
from losspath.parameters import flatten_parameters
from losspath.thesis.networks import build_network

CASES: dict[str, dict] = {}
for form in ("pca", "averaged"):
    for lines in (5, 10, 19, 27):
        CASES[f"{form}, {lines}×{lines} points"] = {"method": form, "lines": lines}
    for samples in (1_000, 3_000, 30_000):
        CASES[f"{form}, {samples:,} samples"] = {"method": form, "samples": samples}
for width in (8, 80, 800, 2400):
    CASES[f"linear layers of {width}"] = {"width": width, "samples": 2_000, "lines": 10}
ONE, TWO, BOTH = "1 process of 1 thread", "2 processes of 1 thread", "1 process of 2 threads"
for processes, threads, name in ((0, 1, ONE), (2, 1, TWO), (0, 2, BOTH)):
    CASES[name] = {"processes": processes, "threads": threads, "lines": 19, "samples": 5_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(**json.loads(options.case))))
        return
    cases = {name: case for name, case in CASES.items() if options.only in name}
    found: dict[str, list] = {name: [] for name in cases}
    for number in range(options.rounds):
        print(f"round {number + 1}", file=sys.stderr, flush=True)
        for name, case in cases.items():
            if number > 0 and name not in (ONE, TWO, BOTH):
                continue
            command = [sys.executable, __file__, "--case", json.dumps(case)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name].append(json.loads(output))
    print(f"{'case':34} {'parameters':>11} {'seconds':>8} {'ms a point':>11} {'peak MiB':>9}")
    for name, rounds in found.items():
        seconds = statistics.median(each["seconds"] for each in rounds)
        points, parameters = rounds[0]["points"], rounds[0]["parameters"]
        peak = max(each["peak"] for each in rounds)
        print(
            f"{name:34} {parameters:11,} {seconds:8.2f} {1e3 * seconds / points:11.1f} {peak:9,.0f}"
        )
    for other in (TWO, BOTH):
        if found.get(ONE) and found.get(other):
            pairs = zip(found[ONE], found[other], strict=True)
            ratios = sorted(one["seconds"] / many["seconds"] for one, many in pairs)
            low, high = ratios[0], ratios[-1]
            print(
                f"{other} is {statistics.median(ratios):.2f} times as quick as {ONE} "
                f"({low:.2f}…{high:.2f})"
            )


def measure(
    method: str = "pca",
    lines: int = 10,
    samples: int = 10_000,
    width: int = 0,
    processes: int = 0,
    threads: int = 0,
) -> dict:
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = linear(width) if width else build_network("lenet5", 1, 10)
    inputs, targets = torch.randn(samples, 1, 32, 32), torch.randint(10, (samples,))
    start = flatten_parameters(model)
    generator = np.random.default_rng(0)
    along = np.linspace(0, 1, 20 if width else 300, dtype=np.float32)[:, None]
    first, second = (generator.standard_normal((1, len(start)), np.float32) for _ in range(2))
    path = start + 0.03 * (along * first + np.sin(3 * along) * second)
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
    plane = losspath.fit_plane(path)
    options = {"plane": plane, "states": 2, "fidelity": False}
    if processes:
        with losspath.LocalProcesses(processes, threads) as executor:
            options["executor"] = executor
            losspath.compute_surface(path, objective, method, 5, **options)  # sends the job
            seconds, surface = timed(path, objective, method, lines, options)
    else:
        losspath.compute_surface(path, objective, method, 10, **options)  # measures
        seconds, surface = timed(path, objective, method, lines, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if processes:
        peak += processes * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "seconds": seconds,
        "points": surface.loss.size,
        "parameters": len(start),
        "peak": peak / 1024,
    }


def timed(path, objective, method, lines, options):
    began = time.perf_counter()
    surface = losspath.compute_surface(path, objective, method, lines, **options)
    return time.perf_counter() - began, surface


def linear(width: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(1024, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
    )


if __name__ == "__main__":
    main()
