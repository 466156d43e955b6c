"""The headline examples of four peers, made again with losspath in fewer lines.

    python benchmarks/headlines.py --peers DIR [--data-dir DIR] [--points 15] [--samples 2000]
        [--rounds 3] [--again 2] [--only NAME ...]

Each example is two whole programs in benchmarks/headlines: one in the way of the peer's README (of
landscaper, whose README points to its quick start, in the way of that), and one with losspath. Both
get the same trained LeNet-5, samples and resolution from headlines/shared.py: samples of MNIST
where --data-dir has its files, else noise of its shape. A line is a statement; imports count, and
so does the last one, which leaves the numbers for the comparison, on both sides alike.

Every program runs in a process of its own. Seconds are of all that it does after its imports and
the reading of data: evaluation, drawing and writing the picture. Peak memory is the process's.
Rounds go through all programs by turns, ratios are taken within rounds, medians are printed with
quartiles, and "others" is the most of the machine's cores that other processes kept busy meanwhile;
a disturbed measurement is done again, --again times at most. In its first round losspath also
measures what is quickest on this machine, which it remembers; what that round took is told below
the table.

"Off" is the largest relative difference of the numbers from plain torch in double precision, at the
parameters where the picture says that they are, of a surface at 60 points (headlines/judge.py).
Losspath's is the larger of that of its own picture and of what it evaluates at the peer's points.

nngeometry's example, a quadratic form with a diagonal Fisher matrix, is not made again: losspath
has no Fisher matrices.
"""

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peers import AGAIN, Environments, UnavailableError, interleaved, quartiles

PROGRAMS = Path(__file__).resolve().parent / "headlines"
STATES = 200


@dataclass(frozen=True)
class Example:
    """What two programs do.

    Attributes:
        name: of the programs, without "_theirs" and "_losspath".
        shows: what, in a few words.
        package: the peer's, pinned.
        beside: what its program needs that the package does not bring.
        is_traced: whether its picture leaves open at which parameters it is.
    """

    name: str
    shows: str
    package: str
    beside: tuple[str, ...] = ()
    is_traced: bool = False

    @property
    def programs(self) -> tuple[str, str]:
        """The peer's and losspath's, without their ending."""
        return f"{self.name}_theirs", f"{self.name}_losspath"


THREE_D = "loss-landscape-3d==0.1.3"
EXAMPLES = {
    example.name: example
    for example in (
        Example(
            "loss_landscapes",
            "two random directions",
            "loss-landscapes==3.0.6",
            ("matplotlib",),
            is_traced=True,
        ),
        Example("landscaper", "two eigenvectors", "landscaper==1.3.1", is_traced=True),
        Example("loss_landscape_3d", "two given directions", THREE_D),
        Example("loss_landscape_3d_path", "training on its plane", THREE_D),
        Example("nngeom", "report on one model", "nngeom==0.2.0", ("matplotlib",)),
        Example("nngeom_barrier", "barrier of two models", "nngeom==0.2.0", ("matplotlib",)),
    )
}


def statements(source: str) -> int:
    """Lines of code: the statements of a program, imports included and docstrings not."""
    tree = ast.parse(source)
    found = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    texts = [
        node
        for node in found
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    return len(found) - len(texts)


def lines_of(program: str) -> int:
    return statements((PROGRAMS / f"{program}.py").read_text())


@dataclass
class Cost:
    """What a program's process measured; as `run.py` writes it."""

    seconds: float
    mebibytes: float
    others: float


@dataclass(frozen=True)
class Runner:
    """Runs programs on one scene.

    Attributes:
        scene: what they are given.
        environments: where peers are.
    """

    scene: Path
    environments: Environments

    def run(self, program: str, *more: str) -> Cost:
        """Runs and measures a program once."""
        name, _, which = program.rpartition("_")
        example = EXAMPLES[name]
        needs = (example.package, *example.beside) if which == "theirs" else ("",)
        python = self.environments.python_of(*needs)
        self._call(python, "run.py", program, str(self.environments.threads), *more)
        return Cost(**json.loads((self.scene / "result.json").read_text()))

    def judge(self, example: Example) -> dict[str, float | str]:
        """How far both programs are off, by what they left when they ran last."""
        print(f"judging {example.name}", file=sys.stderr, flush=True)
        if example.is_traced:
            self.run(example.programs[0], "traced")
        self._call(Path(sys.executable), "judge.py", example.name)
        return json.loads((self.scene / "judged.json").read_text())

    def _call(self, python: Path, script: str, *arguments: str) -> None:
        cache = {"XDG_CACHE_HOME": str(self.scene / "cache")}  # empty at first
        with tempfile.TemporaryDirectory() as empty:  # for what a program writes where it stands
            command = [str(python), str(PROGRAMS / script), str(self.scene), *arguments]
            self.environments.call(command, cwd=Path(empty), variables=cache)


def make(directory: Path, data_dir: Path | None, samples: int, points: int) -> None:
    """Writes what the programs are given; in a process of its own, so that this one stays small."""
    import numpy as np
    from scene import Scene, train

    from losspath.parameters import Layout
    from losspath.planes import random_plane
    from losspath.thesis.networks import build_network

    scene = Scene(directory)
    scene.make(data_dir, samples, points, STATES)
    other = build_network("lenet5", 1, 10, seed=1)
    np.save(directory / "other.npy", train(other, *scene.samples(), STATES)[-1])
    last = scene.path()[-1]
    plane = random_plane(last, Layout.of(scene.model()), vectors=True)
    directions = plane.basis.T * np.linalg.norm(last)
    np.save(directory / "directions.npy", directions.astype(np.float32))


def show(
    costs: dict[str, list[Cost]],
    reasons: dict[str, str],
    judged: dict[str, dict[str, float | str]],
) -> None:
    print(
        f"{'example':23} {'shows':22} {'lines':>8} {'seconds':>14} {'theirs / losspath':>22} "
        f"{'peak MiB':>11} {'off':>15} {'others':>6}"
    )
    for example in EXAMPLES.values():
        found = [costs.get(program) for program in example.programs]
        if not all(found):
            continue
        theirs, ours = found
        ratios = [a.seconds / b.seconds for a, b in zip(theirs, ours, strict=True)]
        verdict = judged.get(example.name)
        wrong = [f"{verdict[which]:.0e}" for which in ("theirs", "losspath")] if verdict else ["–"]
        print(
            f"{example.name:23} {example.shows:22} "
            f"{both(*(str(lines_of(program)) for program in example.programs)):>8} "
            f"{both(*(f'{statistics.median(c.seconds for c in side):.2f}' for side in found)):>14} "
            f"{quartiles(ratios):>22} "
            f"{both(*(f'{max(c.mebibytes for c in side):.0f}' for side in found)):>11} "
            f"{both(*wrong):>15} "
            f"{max(cost.others for cost in [*theirs, *ours]):6.2f}"
        )
    for name, reason in reasons.items():
        print(f"{name}: not run: {reason}")
    print()
    for name, verdict in judged.items():
        first = costs[f"{name}_losspath"][0].seconds
        print(f"{name}: {verdict['note']}; losspath's first round took {first:.2f} s")


def both(*values: str) -> str:
    """The peer's and losspath's."""
    return " / ".join(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=15, help="points an axis")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--again", type=int, default=AGAIN, help="times, where others disturb")
    parser.add_argument("--data-dir", type=Path, default=None, help="with the files of MNIST")
    parser.add_argument("--peers", type=Path, default=None, help="where peers are installed")
    parser.add_argument("--only", nargs="+", choices=EXAMPLES, default=list(EXAMPLES))
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make, options.data_dir, options.samples, options.points)
        return
    threads = len(os.sched_getaffinity(0))
    programs = [program for name in options.only for program in EXAMPLES[name].programs]
    with tempfile.TemporaryDirectory() as directory:
        again = [sys.executable, __file__, "--make", directory, *sys.argv[1:]]
        subprocess.run(again, check=True)
        runner = Runner(Path(directory), Environments(options.peers, threads))
        costs, reasons = interleaved(programs, options.rounds, runner.run, options.again)
        judged = {}
        for name in options.only:
            if all(program in costs for program in EXAMPLES[name].programs):
                try:
                    judged[name] = runner.judge(EXAMPLES[name])
                except UnavailableError as error:
                    reasons[f"judge of {name}"] = str(error)
    data = "MNIST" if options.data_dir else "noise of MNIST's shape"
    print(
        f"LeNet-5, {options.samples:,} samples of {data}, {options.points} × {options.points} "
        f"points, {threads} threads, {options.rounds} rounds; in every column with two numbers the "
        "peer's is the first\n"
    )
    show(costs, reasons, judged)


if __name__ == "__main__":
    main()
