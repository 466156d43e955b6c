"""What recording adds to a training step, beside the least that it could add.

    python benchmarks/recording.py [--networks lenet5 vgg mlp] [--seconds 120]

Stretches of steps without recording, with it, and with a floor take turns in one loop, so that
whatever else the machine does falls on all; printed are medians of the differences within rounds,
with quartiles. The floor copies the parameters into a buffer and appends full buffers to a file in
a thread, synced: no digests, no index, no checks of the model. Batches of 64; "mlp" has 10 million
parameters.
"""

import argparse
import itertools
import os
import queue
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import losspath
from losspath.thesis.networks import build_network

BUFFER_BYTES = 4 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["lenet5", "vgg", "mlp"])
    parser.add_argument("--seconds", type=float, default=120, help="a network")
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to measure")
    options = parser.parse_args()
    for network in options.networks:
        measure(network, options.seconds, options.directory)


def measure(network: str, seconds: float, directory: Path | None) -> None:
    torch.manual_seed(0)
    model, shape = build(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, targets = torch.randn(64, *shape), torch.randint(0, 10, (64,))
    count = sum(parameter.numel() for parameter in model.parameters())

    def stretch(record, steps):
        began = time.perf_counter()
        for _ in range(steps):
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record(loss)
        return 1e3 * (time.perf_counter() - began) / steps

    def nothing(loss):
        pass

    # Stretches long enough to fill some buffers, short enough for many rounds.
    steps = max(1, min(20, round(100 / stretch(nothing, 3))))
    place = Path(tempfile.mkdtemp(dir=directory))
    with losspath.Recorder(place / "recorded", model) as recorder, Floor(place, model) as floor:
        arms = {"plain": nothing, "floor": floor.record, "recorded": recorder.record}
        for record in arms.values():
            stretch(record, steps)
        times = {name: [] for name in arms}
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            # Every round begins with another arm, so that a drift of the machine cancels.
            arms = dict([*list(arms.items())[1:], next(iter(arms.items()))])
            for name, record in arms.items():
                times[name].append(stretch(record, steps))
        states = recorder.steps + 1
    size = sum(file.stat().st_size for file in (place / "recorded").iterdir()) / states
    shutil.rmtree(place)
    plain = times["plain"]
    print(f"{network}, {count:,} parameters, {len(plain)} rounds of {steps} steps")
    print(f"  plain step       {quartiles(plain)}")
    for name in ("floor", "recorded"):
        added = [b - a for a, b in zip(plain, times[name], strict=True)]
        share = statistics.median(added) / statistics.median(plain)
        print(f"  {name + ' adds':16} {quartiles(added)} = {share:.1%} of the step")
    print(f"  bytes a state    {size:,.0f} = {size / (4 * count):.4f} × 4P")


def build(network: str) -> tuple[torch.nn.Module, tuple[int, ...]]:
    if network != "mlp":
        return build_network(network, 1, 10), (1, 32, 32)
    widths = (1024, 3072, 2048, 256, 10)
    layers: list[torch.nn.Module] = [torch.nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]), (1, 32, 32)


class Floor:
    """Copies states into three buffers that go round, and writes them; nothing else."""

    def __init__(self, directory: Path, model: torch.nn.Module) -> None:
        self.tensors = [parameter.detach().reshape(-1) for parameter in model.parameters()]
        size = sum(map(len, self.tensors))
        rows = max(1, BUFFER_BYTES // (4 * size))
        self.free: queue.SimpleQueue = queue.SimpleQueue()
        self.full: queue.SimpleQueue = queue.SimpleQueue()
        for _ in range(3):  # go round
            self.free.put(torch.empty(rows, size))
        self.buffer, self.row = self.free.get(), 0
        self.file = (directory / "floor").open("wb", buffering=0)
        self.thread = threading.Thread(target=self.write)

    def record(self, loss: torch.Tensor) -> None:
        loss.item()
        torch.cat(self.tensors, out=self.buffer[self.row])
        self.row += 1
        if self.row == len(self.buffer):
            self.full.put(self.buffer)
            self.buffer, self.row = self.free.get(), 0

    def write(self) -> None:
        while (buffer := self.full.get()) is not None:
            self.file.write(buffer.numpy())
            os.fdatasync(self.file.fileno())
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.free.put(buffer)

    def __enter__(self) -> "Floor":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.full.put(None)
        self.thread.join()
        self.file.close()


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"median {middle:.3f} ms  (quartiles {low:.3f} … {high:.3f})"


if __name__ == "__main__":
    main()
