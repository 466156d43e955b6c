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
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from contenders import CONTENDERS, PLANE, SEPARATE, Contender, Result
from scene import Scene

# No more than these is imported here: a process's peak resident size is never below that of the
# process that started it, which has these alone.

HERE = Path(__file__).resolve().parent
STATES = 200
TIME_LIMIT = 1800.0  # seconds a process
# Cores that others may keep busy before a measurement is done again, and how often it is.
QUIET, AGAIN = 0.1, 2


class UnavailableError(Exception):
    """Why a contender cannot be installed or run."""


@dataclass(frozen=True)
class Runner:
    """Runs contenders on one scene.

    Attributes:
        scene: what they are given.
        peers: where virtual environments are kept; None for none.
        side: points of an axis.
        threads: of each process.
    """

    scene: Path
    peers: Path | None
    side: int
    threads: int

    @cached_property
    def torch(self) -> str:
        """The pinned torch: others may bring gigabytes that a processor has no use for."""
        lines = (HERE.parent / "constraints.txt").read_text().splitlines()
        return next(line for line in lines if line.startswith("torch=="))

    def python_of(self, contender: Contender) -> Path:
        """The interpreter of a contender, after installing what it needs."""
        if not contender.package:
            return Path(sys.executable)
        if self.peers is None:
            raise UnavailableError("no --peers DIR to install it in")
        home = self.peers.resolve() / contender.package.replace("==", "-")
        python, done = home / "bin" / "python", home / ".installed"
        if not done.exists():
            print(f"installing {contender.package} in {home}", file=sys.stderr, flush=True)
            shutil.rmtree(home, ignore_errors=True)
            self._call([sys.executable, "-m", "venv", str(home)])
            self._call(
                [str(python), "-m", "pip", "install", "--quiet", contender.package, self.torch]
            )
            done.touch()
        return python

    def run(self, contender: Contender) -> Result:
        """Measures a contender once, or again where others disturbed it."""
        for _ in range(1 + AGAIN):
            result = self._run(contender)
            if not result.others > QUIET:
                break
            print(f"  disturbed: {result.others:.2f} cores", file=sys.stderr, flush=True)
        return result

    def _run(self, contender: Contender) -> Result:
        result = self.scene / "result.json"
        result.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as empty:  # for what it writes where it stands
            arguments = [str(self.scene), contender.name, str(self.side), str(self.threads)]
            script = str(HERE / "contenders.py")
            self._call([str(self.python_of(contender)), script, *arguments], cwd=Path(empty))
        return Result(**json.loads(result.read_text()))

    def _call(self, command: list[str], cwd: Path | None = None) -> None:
        threads = {f"{name}_NUM_THREADS": str(self.threads) for name in ("OMP", "MKL")}
        environment = os.environ | threads | {"MPLBACKEND": "Agg"}
        try:
            ended = subprocess.run(
                command,
                cwd=cwd,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"took more than {TIME_LIMIT:.0f} s") from None
        if ended.returncode:
            lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")]
            last = (errors or lines or [f"exit status {ended.returncode}"])[-1]
            raise UnavailableError(last)


def interleaved(
    names: list[str], rounds: int, runner: Runner
) -> tuple[dict[str, list[Result]], dict[str, str]]:
    """Results of every round by contender, and the reasons of those that have none."""
    results: dict[str, list[Result]] = {name: [] for name in names}
    reasons: dict[str, str] = {}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if name in reasons:
                continue
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
            try:
                results[name].append(runner.run(CONTENDERS[name]))
            except UnavailableError as error:
                reasons[name] = str(error)
    return {name: found for name, found in results.items() if name not in reasons}, reasons


def quartiles(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:6.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:6.2f} ({low:.2f}…{high:.2f})"


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
        runner = Runner(Path(directory), options.peers, options.points, threads)
        results, reasons = interleaved(names, options.rounds, runner)
    data = "MNIST" if options.data_dir else "noise of MNIST's shape"
    print(
        f"LeNet-5, {options.samples:,} samples of {data}, {options.points} × {options.points} "
        f"points, {threads} threads, {options.rounds} rounds, {STATES} states on the path"
    )
    show(results, reasons)


if __name__ == "__main__":
    main()
