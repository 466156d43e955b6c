"""The loss between two states, layer by layer: losspath against the plain loop and the thesis.

    python benchmarks/interpolation.py [--data-dir DIR] [--samples 10000] [--rounds 3]

LeNet-5 between the first and the last state of a short training, at 13 positions and the two ends,
for the whole model and its five layers. Each round times losspath's whole call, then some points of
the plain loop at its best batch size, and of the thesis's loop with its images staged and not; the
others' times are for as many points as the call has. MNIST where --data-dir has it, else noise.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from contenders import best_batch_size
from scene import Scene

import losspath
from thesis import batches_of, evaluate

POINTS = 3  # that the others are timed on in a round


def seconds(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=None, help="with the files of MNIST")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scene = Scene(Path(directory))
        scene.make(options.data_dir, options.samples, 3, 300)
        path, model = scene.path(), scene.model()
        inputs, targets = scene.samples()
        images, labels = scene.images()
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
    best_batch_size(objective, path[-1])
    batches = {name: batches_of(images, labels, name) for name in ("staged", "shipped")}
    ways = {
        "plain loop": lambda: [objective(path[-1]) for _ in range(POINTS)],
        "thesis, staged": lambda: [
            evaluate(model, path[-1], batches["staged"]) for _ in range(POINTS)
        ],
        "thesis, as shipped": lambda: [
            evaluate(model, path[-1], batches["shipped"]) for _ in range(POINTS)
        ],
    }
    found = losspath.interpolate(path, objective)
    points = found.loss.size
    ours, others = [], {name: [] for name in ways}
    for _ in range(options.rounds):
        ours.append(seconds(lambda: losspath.interpolate(path, objective)))
        for name, work in ways.items():
            others[name].append(seconds(work) / POINTS * points)
    print(
        f"LeNet-5, {points} points ({len(found.names)} curves), {options.samples:,} samples, "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    )
    print(f"{'losspath':20} {statistics.median(ours):8.2f} s")
    for name, times in others.items():
        ratios = sorted(a / b for a, b in zip(times, ours, strict=True))
        print(
            f"{name:20} {statistics.median(times):8.2f} s {statistics.median(ratios):6.1f} × "
            f"({ratios[0]:.1f}…{ratios[-1]:.1f})"
        )


if __name__ == "__main__":
    main()
