"""Seconds an epoch of the reference training, recorded, against a bare loop over staged tensors.

    python benchmarks/training.py --data-dir DIR [--network lenet5] [--steps 300] [--rounds 7]

Stretches of the bare loop (no recording, no history, no checkpoints), of the bare loop fed by a
`DataLoader` over staged tensors, and of the reference training take turns; printed are seconds for
an epoch of 60,000 samples in batches of 64. The reference's time is of its steps alone, as it keeps
it itself; evaluating both sets after each epoch is printed apart.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from losspath.thesis import training
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import load_dataset
from losspath.thesis.networks import build_network
from losspath.thesis.records import read_history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--network", default="lenet5")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    dataset = load_dataset("mnist", options.data_dir)
    inputs, targets = dataset.train_inputs, dataset.train_targets
    model = build_network(options.network, 1, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    def bare():
        order = torch.randperm(len(targets))
        for start in range(0, len(targets), 64):
            chosen = order[start : start + 64]
            step(inputs[chosen], targets[chosen])

    def loader():
        data = torch.utils.data.TensorDataset(inputs, targets)
        for x, y in torch.utils.data.DataLoader(data, batch_size=64, shuffle=True):
            step(x, y)

    def seconds(work):
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    config = TrainingConfig(network=options.network, data="mnist")
    times: dict[str, list[float]] = {"bare": [], "DataLoader": [], "recorded": [], "evaluated": []}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(1, options.rounds + 1):
            times["bare"].append(seconds(bare))
            times["DataLoader"].append(seconds(loader))
            run = Path(directory) / "run"
            whole = seconds(
                lambda number=number, run=run: training.train(config, dataset, run, number)
            )
            history = read_history(run)
            steps = history[-1]["seconds"] - history[-2]["seconds"]
            times["recorded"].append(steps)
            times["evaluated"].append(whole - steps)
    print(f"{options.network}, an epoch of {len(targets):,} samples, {options.rounds} rounds")
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times["bare"], strict=True)]
        ratio = "" if name == "evaluated" else f", {statistics.median(ratios):.2f} × bare"
        print(f"  {name:11} {statistics.median(values):6.2f} s{ratio}")


if __name__ == "__main__":
    main()
