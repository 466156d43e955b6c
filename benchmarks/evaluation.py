"""Seconds a point: the engine against the plain loop at its best batch size, in turns.

    python benchmarks/evaluation.py [NETWORK ...] [--samples 10000] [--rounds 7] [--device cuda]

Each round times the plain loop on a point, then the engine on a group of points on a plane and one
of separate points, so that whatever else the machine does falls on all; printed are the medians and
the median and quartiles of the ratios within rounds. The share of the limit is the time that the
machine's matrix multiplication, measured before and after in the same round, would need for the
multiplications of a plain forward pass.
"""

import argparse
import os
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import losspath
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.points import Affine, Rows
from losspath.parameters import flatten_parameters

try:
    from losspath.thesis.networks import NETWORKS, build_network
except ModuleNotFoundError:  # another version is compared, which has them elsewhere
    from losspath.reference.networks import NETWORKS, build_network

# Tried for the plain loop.
BATCH_SIZES = {"cpu": (25, 50, 100, 250, 1000), "cuda": (100, 250, 1000, 2500, 10_000)}
PLAIN_POINTS = 3  # of the plain loop in a round


def seconds(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def matrix_rate(device: str) -> float:
    """Multiplications and additions a second of large products, kept up for half a second.

    A single product may have the machine to itself for a moment; what is compared has not.
    """
    size = 1024 if device == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 0.5:
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - began)


class Transformer(torch.nn.Module):
    """Two layers of attention over 32 tokens, which are the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(32, 64)
        layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = torch.nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(images[:, 0])).mean(dim=1))


def build(name: str) -> torch.nn.Module:
    """A network of the reference, an MLP of three layers, or a small transformer."""
    if name == "transformer":
        return Transformer()
    if name == "mlp":
        return torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(1024, 512),
            torch.nn.ReLU(),
            torch.nn.Linear(512, 256),
            torch.nn.ReLU(),
            torch.nn.Linear(256, 10),
        )
    return build_network(name, 1, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", default=[*NETWORKS, "mlp", "transformer"]
    )
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=list(BATCH_SIZES), default="cpu")
    options = parser.parse_args()
    where = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    if options.device == "cuda":
        where = torch.cuda.get_device_name()
    print(f"{options.samples:,} samples, {where}, torch {torch.__version__}")
    print(
        f"{'network':15} {'batch':>5} {'plain s':>8} {'plane s':>8} {'ratio':>19} "
        f"{'separate s':>10} {'ratio':>19} {'plane/limit':>11}"
    )
    for network in options.networks:
        measure(network, options.samples, options.rounds, options.device)


def choose_batch_size(objective, vector) -> float:
    """Sets the batch size that the plain loop is quickest with; its seconds a point.

    On all samples, each size twice by turns, as a machine that is shared is slow for seconds.
    """
    sizes = BATCH_SIZES[objective.device.type]
    times = dict.fromkeys(sizes, float("inf"))
    for batch_size in [*sizes, *sizes]:
        objective.data.batch_size = batch_size
        times[batch_size] = min(times[batch_size], seconds(lambda: objective(vector)))
    objective.data.batch_size = best = min(times, key=times.get)
    return times[best]


def measure(network: str, samples: int, rounds: int, device: str) -> None:
    torch.manual_seed(0)
    model = build(network).to(device)
    inputs, targets = torch.randn(samples, 1, 32, 32), torch.randint(10, (samples,))
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
    vector = flatten_parameters(model).astype(np.float64)
    generator = np.random.default_rng(0)
    directions = 0.02 * generator.standard_normal((2, len(vector)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs[:10].to(device))
    operations = counter.get_total_flops() / 10 * samples
    each = choose_batch_size(objective, vector)
    # A surface's usual group, or what takes half a minute one by one.
    count = int(np.clip(30 / each, 8, 64))
    plane = Affine(vector, directions, generator.standard_normal((count, 2)))
    forms = {"plane": plane, "separate": Rows(plane.vectors())}
    engine = Engine(objective)
    for points in forms.values():  # measures its choice
        list(engine.evaluate(points, 361))
    times = {"plain": [], **{form: [] for form in forms}}
    shares = []
    for _ in range(rounds):
        loop = seconds(lambda: [objective(vector) for _ in range(PLAIN_POINTS)])
        times["plain"].append(loop / PLAIN_POINTS)
        rate = matrix_rate(device)
        for form, points in forms.items():
            taken = seconds(lambda points=points: list(engine.evaluate(points, 361)))
            times[form].append(taken / len(points))
            if form == "plane":
                rate = (rate + matrix_rate(device)) / 2
        shares.append(times["plane"][-1] / (operations / rate))
    middle = {form: statistics.median(values) for form, values in times.items()}
    ratios = {}
    for form in forms:
        pairs = zip(times["plain"], times[form], strict=True)
        low, median, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        ratios[form] = f"{median:5.2f} ({low:.2f}…{high:.2f})"
    print(
        f"{network:15} {objective.batch_size:5} {middle['plain']:8.4f} {middle['plane']:8.4f} "
        f"{ratios['plane']:>19} {middle['separate']:10.4f} {ratios['separate']:>19} "
        f"{statistics.median(shares):11.2f}",
        flush=True,
    )
    for note in engine.notes:
        print(f"    {note}")


if __name__ == "__main__":
    main()
