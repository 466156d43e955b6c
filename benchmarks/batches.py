"""Seconds a point where an objective is of batches, or points have buffers of their own.

    python benchmarks/batches.py [--samples 4000] [--rounds 5]

The engine against the plain loop on the same objective, in turns; printed are medians, and the
median and quartiles of the ratios within rounds. "batches" is `Objective.of_batches` of a
DataLoader with batches of 100 and a loss that calls the model once; "own buffers" is a network with
BatchNorm whose points differ in its running statistics, as those of an `averaged` surface of a
recorded run do.
"""

import argparse
import os
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import losspath
from evaluation import Transformer, build_network, seconds
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.points import Affine, Rows, sides_at
from losspath.parameters import flatten_parameters

POINTS, PLAIN_POINTS = 60, 3


def normalised() -> nn.Module:
    """LeNet-5's size, with BatchNorm behind both convolutions."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    inputs = torch.randn(options.samples, 1, 32, 32)
    targets = torch.randint(10, (options.samples,))
    where = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    if options.device != "cpu":
        where = torch.cuda.get_device_name(options.device)
    print(f"{options.samples:,} samples, {where}, torch {torch.__version__}")
    print(f"{'objective':24} {'points':9} {'plain s':>8} {'engine s':>8} {'ratio':>19}")
    for name in ("lenet5", "modified-lenet", "transformer"):
        model = Transformer() if name == "transformer" else build_network(name, 1, 10)
        model.to(options.device)
        loader = DataLoader(TensorDataset(inputs, targets), 100)
        objective = losspath.Objective.of_batches(model, loader, loss_of_batch)
        plane, rows = points_around(model)
        tell(f"{name}, batches", "plane", objective, plane, options.rounds)
        tell(f"{name}, batches", "separate", objective, rows, options.rounds)
    model = normalised()
    model(inputs[:250])  # running statistics of some use
    model.to(options.device)
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
    _, rows = points_around(model)
    own = Rows(rows.values, [buffers_like(model) for _ in range(POINTS)])
    tell("BatchNorm, own buffers", "separate", objective, own, options.rounds)


def loss_of_batch(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    inputs, targets = (each.to(next(model.parameters()).device) for each in batch)
    return F.cross_entropy(model(inputs), targets)


def points_around(model: nn.Module) -> tuple[Affine, Rows]:
    vector = flatten_parameters(model).astype(np.float64)
    generator = np.random.default_rng(0)
    directions = 0.02 * generator.standard_normal((2, len(vector)))
    plane = Affine(vector, directions, generator.standard_normal((POINTS, 2)))
    return plane, Rows(plane.vectors())


def buffers_like(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: buffer * (0.9 + 0.2 * torch.rand_like(buffer, dtype=torch.float32))
        if buffer.dim()
        else buffer.clone()
        for name, buffer in model.named_buffers()
    }


def tell(name: str, form: str, objective, points, rounds: int) -> None:
    engine, vectors = Engine(objective), points.vectors()
    list(engine.evaluate(points, 361))  # measures its config

    def plain() -> None:
        for number in range(PLAIN_POINTS):
            engine.plain(vectors[number], sides_at(points, number))

    times: dict[str, list[float]] = {"plain": [], "engine": []}
    for _ in range(rounds):
        times["plain"].append(seconds(plain) / PLAIN_POINTS)
        taken = seconds(lambda: list(engine.evaluate(points, 361)))
        times["engine"].append(taken / len(points))
    low, median, high = statistics.quantiles(
        [a / b for a, b in zip(*times.values(), strict=True)], n=4
    )
    plain_s, engine_s = map(statistics.median, times.values())
    ratio = f"{median:5.2f} ({low:.2f}…{high:.2f})"
    print(f"{name:24} {form:9} {plain_s:8.4f} {engine_s:8.4f} {ratio:>19}", flush=True)
    print("   ", *engine.notes[:1])


if __name__ == "__main__":
    main()
