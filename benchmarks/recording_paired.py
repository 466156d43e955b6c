"""What recording adds to a training step, against another version of the package, in pairs.

    python benchmarks/recording_paired.py OTHER/src [--network lenet5] [--rounds 300]

Two child processes, one with each version, train the same network and take turns: a stretch of
steps without recording and one with it, then the other child. So whatever else the machine does
falls on both. Printed are medians, with quartiles, of what recording adds to a step in each, of the
differences within rounds, and the share of the step; by the clock, and in processor time inside the
call alone, which is steadier on a machine that does other things (without recording, the call only
asks for the loss). One thread.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = "--child"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the src folder of the other version")
    parser.add_argument("--network", default="lenet5")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="in a stretch")
    options = parser.parse_args()
    own = Path(__file__).parent.parent / "src"
    children = [
        Child(source, options.network, options.steps, options.batch)
        for source in (options.other, own)
    ]
    rounds = []
    for number in range(options.rounds):
        pair = {}
        for which in (0, 1) if number % 2 else (1, 0):
            pair[which] = children[which].stretch()
        rounds.append((pair[0], pair[1]))
    for child in children:
        child.close()
    print(
        f"{options.network}, {options.rounds} rounds of {options.steps} steps "
        f"with batches of {options.batch}, one thread"
    )
    for clock, name in enumerate(("by the clock", "processor time inside the call")):
        print(f" {name}")
        tell([tuple(side[clock::2] for side in pair) for pair in rounds])


def tell(rounds: list[tuple[list[float], list[float]]]) -> None:
    """What recording adds, of (without, with) for each version in each round."""
    plain = [without for pair in rounds for without, _ in pair]
    added = [[pair[which][1] - pair[which][0] for pair in rounds] for which in (0, 1)]
    print(f"  plain step        {quartiles(plain)}")
    for name, values in zip(("other adds", "this adds"), added, strict=True):
        share = statistics.median(values) / statistics.median(plain)
        print(f"  {name:17} {quartiles(values)} = {share:.1%} of the step")
    differences = [mine - others for others, mine in zip(*added, strict=True)]
    print(f"  this − other      {quartiles(differences)}")
    ratio = statistics.median(added[1]) / statistics.median(added[0])
    print(f"  ratio of medians  {ratio:.3f}")


class Child:
    """A process that trains with one version, a stretch whenever it is told to."""

    def __init__(self, source: Path, network: str, steps: int, batch: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, CHILD, network, str(steps), str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        )
        assert Path(self.process.stdout.readline().strip()).is_relative_to(source.resolve())

    def stretch(self) -> list[float]:
        """Milliseconds a step without: by the clock, processor time; and the same with."""
        self.process.stdin.write("go\n")
        return [float(word) for word in self.process.stdout.readline().split()]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def train(network: str, steps: int, batch: int) -> None:
    import torch
    import torch.nn.functional as F

    import losspath

    try:
        from losspath.thesis.networks import build_network
    except ModuleNotFoundError:  # the other version is one that has them elsewhere
        from losspath.reference.networks import build_network

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_network(network, 1, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, targets = torch.randn(batch, 1, 32, 32), torch.randint(0, 10, (batch,))

    def stretch(record) -> list[float]:
        began, inside = time.perf_counter(), 0.0
        for _ in range(steps):
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            before = time.thread_time()
            record(loss)
            inside += time.thread_time() - before
        return [1e3 * (time.perf_counter() - began) / steps, 1e3 * inside / steps]

    def nothing(loss) -> None:
        loss.item()

    with (
        tempfile.TemporaryDirectory() as place,
        losspath.Recorder(Path(place) / "run", model) as recorder,
    ):
        stretch(nothing), stretch(recorder.record)
        print(Path(losspath.__file__).resolve(), flush=True)
        for number, _ in enumerate(sys.stdin):
            order = (nothing, recorder.record) if number % 2 else (recorder.record, nothing)
            times = {record is nothing: stretch(record) for record in order}
            print(*times[True], *times[False], flush=True)


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"median {middle:+.4f} ms  (quartiles {low:+.4f} … {high:+.4f})"


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        train(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main()
