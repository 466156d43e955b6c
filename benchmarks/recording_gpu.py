"""What recording adds to a training step on a GPU, in turns.

    python benchmarks/recording_gpu.py [NETWORK ...] [--rounds 15]

Each round times a stretch of steps without recording and one with it. Printed are medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import losspath
from losspath.thesis.networks import build_network

STEPS, BATCH = 30, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=["lenet5", "vgg"])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batches of {BATCH}")
    for network in options.networks:
        measure(network, options.rounds)


def measure(network: str, rounds: int) -> None:
    channels = 3 if network == "vgg" else 1
    model = build_network(network, channels, 10).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    inputs = torch.randn(BATCH, channels, 32, 32).cuda()
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
        losspath.Recorder(Path(place) / "run", model) as recorder,
    ):
        stretch(nothing), stretch(recorder.record)
        times = [(stretch(nothing), stretch(recorder.record)) for _ in range(rounds)]
    without, with_it = (statistics.median(each) for each in zip(*times, strict=True))
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{network:15} {count:8,} parameters: step {without:.3f} ms, recorded {with_it:.3f} ms")


if __name__ == "__main__":
    main()
