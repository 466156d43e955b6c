"""What recording adds to a training step: LeNet-5, batches of 64, paired stretches of steps.

    python benchmarks/recording.py [--pairs 400] [--steps 20] [--network lenet5]

Stretches with and without recording alternate in one loop, so that whatever else the machine does
falls on both; the printed overhead is the median of the differences within pairs, with quartiles.
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
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--steps", type=int, default=20, help="of a stretch")
    parser.add_argument("--network", default="lenet5")
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to measure")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = build_network(options.network, 1, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = torch.randn(64 * options.steps, 1, 32, 32)
    targets = torch.randint(0, 10, (64 * options.steps,))

    def stretch(record):
        began = time.perf_counter()
        for step in range(options.steps):
            batch = slice(64 * step, 64 * step + 64)
            loss = F.cross_entropy(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record(loss)
        return 1e3 * (time.perf_counter() - began) / options.steps

    stretch(lambda loss: None)
    directory = Path(tempfile.mkdtemp(dir=options.directory))
    plain, recorded = [], []
    with losspath.Recorder(directory, model) as recorder:
        stretch(recorder.record)
        for pair in range(options.pairs):
            # Every other pair the other way round, so that a drift of the machine cancels.
            for recording in (pair % 2 == 0, pair % 2 == 1):
                if recording:
                    recorded.append(stretch(recorder.record))
                else:
                    plain.append(stretch(lambda loss: None))
    states = (options.pairs + 1) * options.steps + 1
    size = sum(file.stat().st_size for file in directory.iterdir()) / states
    shutil.rmtree(directory)
    count = sum(parameter.numel() for parameter in model.parameters())
    differences = [b - a for a, b in zip(plain, recorded, strict=True)]
    print(
        f"{options.network}, {count:,} parameters, {options.pairs} pairs of {options.steps} steps"
    )
    print(f"plain step      {_quartiles(plain)}")
    print(f"recorded step   {_quartiles(recorded)}")
    print(f"added           {_quartiles(differences)}")
    print(f"bytes a state   {size:,.0f} = {size / (4 * count):.4f} × 4P")


def _quartiles(values):
    low, middle, high = statistics.quantiles(values, n=4)
    return f"median {middle:.3f} ms  (quartiles {low:.3f} … {high:.3f})"


if __name__ == "__main__":
    main()
