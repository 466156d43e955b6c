"""What recording adds to a training step on a GPU, in turns.

    python benchmarks/recording_gpu.py [NETWORK ...] [--rounds 15] [--every 1]

Each round times a stretch of steps without recording and one with it. Printed are medians, for
states that are copied while training goes on and for states that `record` waits for. A network
may be `mlp-N`, of N million parameters.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import losspath
from losspath.recording import snapshots
from losspath.thesis.networks import build_network

STEPS, BATCH = 30, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=["lenet5", "vgg"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batches of {BATCH}")
    for network in options.networks:
        at_once, while_training = (
            measure(network, options.rounds, options.every, devices)
            for devices in (set(), {"cuda"})
        )
        print(
            f"{network:10} {at_once[0]:11,} parameters, every={options.every}: "
            f"step {while_training[1]:.3f} ms, recorded {while_training[2]:.3f} ms "
            f"(waiting for the state: {at_once[1]:.3f}, {at_once[2]:.3f})",
            flush=True,
        )


def built(network: str) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """A network, and the shape of a batch."""
    if network.startswith("mlp-"):
        width = round(math.sqrt(float(network.removeprefix("mlp-")) * 1e6 / 4))
        layers: list[torch.nn.Module] = []
        for _ in range(4):
            layers += [torch.nn.Linear(width, width), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(width, 10)), (BATCH, width)
    channels = 3 if network == "vgg" else 1
    return build_network(network, channels, 10), (BATCH, channels, 32, 32)


def measure(network: str, rounds: int, every: int, devices: set[str]) -> tuple[int, float, float]:
    snapshots.DEVICES.clear()
    snapshots.DEVICES.update(devices)
    model, shape = built(network)
    model = model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    inputs = torch.randn(shape).cuda()
    targets = torch.randint(0, 10, (BATCH,)).cuda()

    def stretch(record) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(STEPS):
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record(loss)
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - began) / STEPS

    def nothing(loss) -> None:
        pass

    with (
        tempfile.TemporaryDirectory() as place,
        losspath.Recorder(Path(place) / "run", model, every=every) as recorder,
    ):
        stretch(nothing), stretch(recorder.record)
        times = [(stretch(nothing), stretch(recorder.record)) for _ in range(rounds)]
    without, with_it = (statistics.median(each) for each in zip(*times, strict=True))
    return sum(parameter.numel() for parameter in model.parameters()), without, with_it


if __name__ == "__main__":
    main()
