"""Seconds of whole surfaces, against another version of the package, in pairs.

    python benchmarks/surfaces_paired.py OTHER/src [NETWORK ...] [--samples 10000] [--rounds 5]

Two child processes, one with each version, make the same surfaces (`pca` and `averaged`, 19 × 19
points) of a path of random steps, and take turns, so that whatever else the machine does falls on
both. They share the file of measured choices (sizes of batches and groups), for two measurements
of one version may choose differently, and then differ by a tenth. Printed are medians and the
median of the ratios within rounds, of seconds and of processor seconds.
"""

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evaluation import build

CHILD = "--child"
METHODS = ("pca", "averaged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the src folder of the other version")
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK",
        default=["lenet5", "modified-lenet", "tiny-cnn", "mlp", "transformer"],
    )
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--resolution", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    own = Path(__file__).parent.parent / "src"
    print(f"{options.samples:,} samples, {options.resolution} lines, {options.rounds} rounds")
    head = f"{'other s':>8} {'this s':>8} {'this/other':>20} {'of CPU seconds':>20}"
    print(f"{'network':15} {'method':9} {head}")
    for network in options.networks:
        cache = tempfile.TemporaryDirectory()
        children = [
            Child(source, network, options.samples, options.resolution, cache.name)
            for source in (options.other, own)
        ]
        for method in options.methods:
            times: list[list[tuple[float, float]]] = [[], []]
            for number in range(options.rounds + 1):  # the first measures choices
                for which in (0, 1) if number % 2 else (1, 0):
                    taken = children[which].surface(method)
                    if number:
                        times[which].append(taken)
            pairs = list(zip(*times, strict=True))
            other, mine = (statistics.median(wall for wall, _ in each) for each in times)
            ratios = ([mine[k] / other[k] for other, mine in pairs] for k in (0, 1))
            shown = " ".join(f"{spread(each):>20}" for each in ratios)
            print(f"{network:15} {method:9} {other:8.2f} {mine:8.2f} {shown}", flush=True)
        for child in children:
            child.close()
        cache.cleanup()


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f}–{max(ratios):.2f})"


class Child:
    """A process that makes surfaces with one version, whenever it is told to."""

    def __init__(
        self, source: Path, network: str, samples: int, resolution: int, cache: str
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, CHILD, str(source), network, str(samples), str(resolution)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": cache, "PYTHONPATH": str(source)},
        )

    def surface(self, method: str) -> tuple[float, float]:
        """Makes a surface; seconds, and seconds of processor time."""
        print(method, file=self.process.stdin, flush=True)
        wall, cpu = json.loads(self.process.stdout.readline())
        return wall, cpu

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def child(source: str, network: str, samples: int, resolution: int) -> None:
    sys.path.insert(0, source)
    import numpy as np
    import torch
    import torch.nn.functional as F

    import losspath

    assert Path(losspath.__file__).is_relative_to(Path(source).resolve())
    torch.manual_seed(0)
    model = build(network)
    inputs, targets = torch.randn(samples, 1, 32, 32), torch.randint(10, (samples,))
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().double().numpy()
    steps = 0.01 * np.random.default_rng(0).standard_normal((30, len(start)))
    path = (start + np.cumsum(steps, axis=0)).astype(np.float32)
    options = {"plane": losspath.fit_plane(path), "states": 10}
    if "fidelity" in inspect.signature(losspath.compute_surface).parameters:
        options["fidelity"] = False  # which earlier versions do not measure
    for line in sys.stdin:
        began = time.perf_counter(), time.process_time()
        objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
        losspath.compute_surface(path, objective, line.strip(), resolution, **options)
        taken = time.perf_counter() - began[0], time.process_time() - began[1]
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    if CHILD in sys.argv[1:2]:
        child(*sys.argv[2:4], *map(int, sys.argv[4:6]))
    else:
        main()
