"""What recording adds to a training step: LeNet-5, batches of 64, paired epochs.

    python benchmarks/recording.py [--pairs 9] [--steps 938] [--every 1]

Epochs with and without a recorder alternate in one process, so that whatever else the machine does
falls on both; the printed overhead is the median of the differences within pairs.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import losspath
from losspath.reference.networks import build_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=938)
    parser.add_argument("--network", default="lenet5")
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to measure")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = build_network(options.network, 1, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = torch.randn(64 * options.steps, 1, 32, 32)
    targets = torch.randint(0, 10, (64 * options.steps,))

    def epoch(record):
        began = time.perf_counter()
        for step in range(options.steps):
            batch = slice(64 * step, 64 * step + 64)
            loss = F.cross_entropy(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record(loss)
        return 1e3 * (time.perf_counter() - began) / options.steps

    epoch(lambda loss: None)
    plain, recorded, sizes = [], [], []
    for pair in range(options.pairs):
        directory = Path(tempfile.mkdtemp(dir=options.directory))
        # Every other pair the other way round, so that a drift of the machine cancels.
        for with_recorder in (pair % 2 == 0, pair % 2 == 1):
            if with_recorder:
                with losspath.Recorder(directory, model) as recorder:
                    recorded.append(epoch(recorder.record))
            else:
                plain.append(epoch(lambda loss: None))
        total = sum(file.stat().st_size for file in directory.iterdir())
        sizes.append(total / (options.steps + 1))
        shutil.rmtree(directory)
    count = sum(parameter.numel() for parameter in model.parameters())
    differences = sorted(b - a for a, b in zip(plain, recorded, strict=True))
    print(f"{options.network}, {count:,} parameters, {options.steps} steps, {options.pairs} pairs")
    print(f"plain step      median {statistics.median(plain):.3f} ms  ({_range(plain)})")
    print(f"recorded step   median {statistics.median(recorded):.3f} ms  ({_range(recorded)})")
    print(
        f"added           median {statistics.median(differences):.3f} ms  ({_range(differences)})"
    )
    print(f"bytes a state   {sizes[0]:,.0f} = {sizes[0] / (4 * count):.4f} × 4P")


def _range(values):
    return f"{min(values):.3f} … {max(values):.3f}"


if __name__ == "__main__":
    main()
