"""Seconds a grid point and peak memory: losspath, the plain loop, the thesis's program, and peers.

    python benchmarks/compare.py --peers DIR [--data-dir DIR] [--points 7] [--samples 10000]
        [--rounds 3] [--only NAME ...]

All evaluate the loss of the same LeNet-5, trained for some hundred steps, on the same samples and
as many points, with as many threads: MNIST where --data-dir has its files, else noise of its shape.
Every contender runs in a process of its own, which loads, warms up, times the evaluation alone (no
imports, no plane, no drawing) and measures its peak resident size, whatever else it needs included.
Each round goes through all contenders, beginning with another, so that whatever else the machine
does falls on all; ratios are taken within rounds, and printed are medians with quartiles. "Others"
is the most of the machine's cores that other processes kept busy during a measurement: where that
is not near zero, small kernels that share their work among all cores wait for each other. So a
disturbed measurement is done again, whatever it gave, twice at most; what is still disturbed then
counts, and rows with different disturbances cannot be compared. losspath's time for separate points
includes blending their parameters from the path.

Peers are installed from the package index in pinned versions, each in a virtual environment of its
own under --peers, with the torch of constraints.txt, and used as their own READMEs say. Where a
README's call does not work in its version, or leaves open what the time depends on, the notes below
the table say what was done. What could not be installed or run is listed with its error.

losspath measures what is quickest only for grids of more than 25 points; smaller ones are computed
by what is good for most networks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from contenders import CONTENDERS, PLANE, SEPARATE, Result
from peers import Environments, interleaved, quartiles
from scene import Scene

# No more than these is imported here: a process's peak resident size is never below that of the
# process that started it, which has these alone.

HERE = Path(__file__).resolve().parent
STATES = 200


@dataclass(frozen=True)
class Runner:
    """Runs contenders on one scene.

    Attributes:
        scene: what they are given.
        environments: where peers are.
        side: points of an axis.
    """

    scene: Path
    environments: Environments
    side: int

    def run(self, name: str) -> Result:
        """Measures a contender once."""
        contender = CONTENDERS[name]
        result = self.scene / "result.json"
        result.unlink(missing_ok=True)
        python = self.environments.python_of(contender.package)
        threads = str(self.environments.threads)
        with tempfile.TemporaryDirectory() as empty:  # for what it writes where it stands
            arguments = [str(self.scene), contender.name, str(self.side), threads]
            script = str(HERE / "contenders.py")
            self.environments.call([str(python), script, *arguments], cwd=Path(empty))
        return Result(**json.loads(result.read_text()))


def show(results: dict[str, list[Result]], reasons: dict[str, str]) -> None:
    print(
        f"{'contender':18} {'s/point':>8} {'quartiles':>15} {'× plane':>22} {'× separate':>22} "
        f"{'peak MiB':>8} {'others':>6}"
    )
    for name, found in results.items():
        seconds = [result.seconds for result in found]
        spread = (
            statistics.quantiles(seconds, n=4, method="inclusive")
            if len(seconds) > 1
            else seconds * 3
        )
        ratios = [
            quartiles([a / b.seconds for a, b in zip(seconds, results[other], strict=True)])
            if other in results
            else "–"
            for other in (PLANE, SEPARATE)
        ]
        print(
            f"{name:18} {spread[1]:8.4f} {f'{spread[0]:.4f}…{spread[2]:.4f}':>15} {ratios[0]:>22} "
            f"{ratios[1]:>22} {max(result.mebibytes for result in found):8.0f} "
            f"{max(result.others for result in found):6.2f}"
        )
    for name, reason in reasons.items():
        print(f"{name:18} not run: {reason}")
    print()
    for name, found in results.items():
        notes = [found[0].note, agreement(name, results)]
        print(f"{name}: {'; '.join(note for note in notes if note)}")


def agreement(name: str, results: dict[str, list[Result]]) -> str:
    """How far a contender's losses are from losspath's."""
    contender, found = CONTENDERS[name], results[name][0]
    if contender.reference == name or contender.reference not in results:
        return ""
    reference = results[contender.reference][0]
    if found.losses and reference.losses:
        pairs, where = list(zip(found.losses, reference.losses, strict=True)), "at its points"
    elif found.center is not None and reference.center is not None:
        pairs, where = [(found.center, reference.center)], "at the model itself"
    else:
        return "its losses are not compared"
    worst = max(abs(one - other) / abs(other) for one, other in pairs)
    verdict = "" if worst <= contender.rounding else ", MORE THAN ROUNDING"
    return f"losses {where} within {worst:.0e} of losspath's{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=7, help="points an axis")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=None, help="with the files of MNIST")
    parser.add_argument("--peers", type=Path, default=None, help="where peers are installed")
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=None, help="besides losspath itself"
    )
    parser.add_argument("--make", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        scene = Scene(Path(options.make))
        scene.make(options.data_dir, options.samples, options.points, STATES)
        return
    names = [
        name for name in CONTENDERS if not options.only or name in (PLANE, SEPARATE, *options.only)
    ]
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        # In a process of its own, so that this one stays small.
        again = [sys.executable, __file__, "--make", directory, *sys.argv[1:]]
        subprocess.run(again, check=True)
        environments = Environments(options.peers, threads)
        runner = Runner(Path(directory), environments, options.points)
        results, reasons = interleaved(names, options.rounds, runner.run)
    data = "MNIST" if options.data_dir else "noise of MNIST's shape"
    print(
        f"LeNet-5, {options.samples:,} samples of {data}, {options.points} × {options.points} "
        f"points, {threads} threads, {options.rounds} rounds, {STATES} states on the path"
    )
    show(results, reasons)


if __name__ == "__main__":
    main()
