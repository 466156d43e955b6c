"""Seconds a grid point and peak memory: losspath, the plain loop, the thesis's program, and peers.

    python benchmarks/compare.py --peers DIR [--data-dir DIR] [--points 5] [--samples 10000]
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
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

# No more than these is imported here: peers' environments have no losspath, and a process's peak
# resident size is never below that of the process that started it, which has these alone.

REPOSITORY = Path(__file__).resolve().parents[1]
BATCH_SIZES = (25, 50, 100, 250, 1000)  # tried for the plain loop
# For peers whose README names none: near the best, so that what it leaves open costs them nothing.
LOADER_BATCH_SIZE = 250
STATES = 200
TIME_LIMIT = 1800.0  # seconds a process
# Cores that others may keep busy before a measurement is done again, and how often it is.
QUIET, AGAIN = 0.1, 2
# Largest difference from losspath's losses: sums in float32, and where images are resized by
# Pillow, which rounds to whole grey levels, those as well.
ROUNDING, GREY_ROUNDING = 1e-4, 5e-3


class Scene:
    """What all contenders are given, as files.

    Args:
        directory: where the files are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self, data_dir: Path | None, samples: int, points: int, states: int) -> None:
        """Writes the files.

        Args:
            data_dir: a folder with the files of MNIST; None for noise.
            samples: how many.
            points: of the grid, on each axis.
            states: of the path, the first before training.
        """
        import losspath
        from losspath.reference.networks import build_network

        images, inputs, targets = _mnist(data_dir, samples) if data_dir else _noise(samples)
        model = build_network("lenet5", 1, 10)
        path = _train(model, inputs, targets, states)
        plane = losspath.fit_plane(path)
        around = losspath.Grid.around(plane.path, 4)  # two even lines, and two through its ends
        # As many lines an axis as peers have, so without those through the path's ends.
        x, y = (np.linspace(axis[0], axis[-1], points) for axis in (around.x, around.y))
        np.savez(self.directory / "grid.npz", x=x, y=y, center=around.center, path=plane.path)
        np.save(self.directory / "path.npy", path)
        np.savez(self.directory / "images.npz", images=images, labels=targets.numpy())
        torch.save((inputs, targets), self.directory / "samples.pt")
        torch.save(model, self.directory / "model.pt")  # of torch's own layers alone

    def model(self):
        """The network at the path's last state."""
        return torch.load(self.directory / "model.pt", weights_only=False)

    def samples(self):
        """Inputs (N, 1, 32, 32) and targets (N,), tensors."""
        return torch.load(self.directory / "samples.pt")

    def images(self):
        """The same images as they are in the files (N, 28, 28), and their classes; arrays."""
        with np.load(self.directory / "images.npz") as file:
            return file["images"], file["labels"]

    def path(self):
        """(T, P) states, float32."""
        return np.load(self.directory / "path.npy")

    def grid(self):
        """The grid in losspath's plane."""
        import losspath

        with np.load(self.directory / "grid.npz") as file:
            return losspath.Grid(file["x"], file["y"], file["center"])

    def coordinates(self):
        """(T, 2) coordinates of the states in losspath's plane."""
        with np.load(self.directory / "grid.npz") as file:
            return file["path"]


def _mnist(data_dir: Path, samples: int):
    from losspath.reference import formats
    from losspath.reference.datasets import load_dataset, sample_indices

    dataset = load_dataset("mnist", data_dir, download=False)
    chosen = sample_indices(samples, len(dataset.train_targets))
    files = [
        next(iter(sorted(data_dir.rglob(f"train-{name}-ubyte*"))))
        for name in ("images-idx3", "labels-idx1")
    ]
    images, _ = formats.read_labelled_idx(*files, (28, 28), classes=10)
    return images[chosen.numpy(), 0], dataset.train_inputs[chosen], dataset.train_targets[chosen]


def _noise(samples: int):
    from losspath.reference.arrays import normalise_, unit_images

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (samples, 28, 28), dtype=np.uint8)
    targets = torch.from_numpy(generator.integers(0, 10, samples))
    return images, normalise_(unit_images(images[:, None]), [0.1307], [0.3081]), targets


def _train(model, inputs, targets, states: int):
    """The states of a short training, which the model ends in."""
    from losspath.parameters import flatten_parameters

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    path = [flatten_parameters(model).copy()]
    while len(path) < states:
        batch = torch.randint(len(inputs), (64,), generator=generator)
        loss = F.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        path.append(flatten_parameters(model).copy())
    return np.array(path, np.float32)


# Contenders. Each gets the scene and the points of an axis, and returns what was measured.


@dataclass
class Result:
    """What a contender's process measured.

    Attributes:
        seconds: a point.
        losses: of the grid's points in losspath's order, where they are known.
        center: the loss of the model as it is given, by the contender's own evaluation.
        note: how it was used, where that is not plain.
        mebibytes: peak resident size of the process.
        others: cores that other processes kept busy while it ran.
    """

    seconds: float
    losses: list[float] | None = None
    center: float | None = None
    note: str = ""
    mebibytes: float = 0.0
    others: float = 0.0


def timed(work: Callable):
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    value = work()
    return value, time.perf_counter() - began


def plain_loop(scene: Scene, side: int) -> Result:
    import losspath

    (inputs, targets), model, plane = (
        scene.samples(),
        scene.model(),
        losspath.fit_plane(scene.path()),
    )
    vectors = plane.origin + scene.grid().points @ plane.basis.T
    few = losspath.Objective(model, inputs[:1000], targets[:1000], F.cross_entropy)

    def plain_time(batch_size: int) -> float:
        few.batch_size = batch_size
        return min(timed(lambda: few(vectors[0]))[1] for _ in range(3))

    best = min(BATCH_SIZES, key=plain_time)
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy, batch_size=best)
    losses, seconds = timed(lambda: [objective(vector).loss for vector in vectors])
    return Result(seconds / len(vectors), losses, note=f"batches of {best}")


def on_plane(scene: Scene, side: int) -> Result:
    return _losspath(scene, "pca")


def separate(scene: Scene, side: int) -> Result:
    return _losspath(scene, "averaged")


def _losspath(scene: Scene, method: str) -> Result:
    import losspath

    path, grid = scene.path(), scene.grid()
    objective = losspath.Objective(scene.model(), *scene.samples(), F.cross_entropy)
    given = {"plane": losspath.fit_plane(path), "grid": grid}
    # Once before, for the choice that is measured and remembered, and the states' own losses.
    first = losspath.compute_surface(path, objective, method, **given)
    surface, seconds = timed(
        lambda: losspath.compute_surface(path, objective, method, states=first.states, **given)
    )
    return Result(
        seconds / surface.loss.size,
        surface.loss.reshape(-1).tolist(),
        float(first.states.loss[-1]),
        "; ".join(surface.provenance["evaluation"][:1]),
    )


def thesis_shipped(scene: Scene, side: int) -> Result:
    return _thesis(scene, "shipped")


def thesis_staged(scene: Scene, side: int) -> Result:
    return _thesis(scene, "staged")


def _thesis(scene: Scene, variant: str) -> Result:
    import thesis

    path, model, (images, labels) = scene.path(), scene.model(), scene.images()
    # The sign of an axis is free: points as they are in the axes of its plane.
    signs = np.sign(np.sum(thesis.Reduced(path).path * scene.coordinates(), axis=0))
    points = scene.grid().points * signs
    warm_up(model, *scene.samples())
    costs = thesis.measure(path, model, images, labels, points, "averaged", variant)
    return Result(costs.evaluation, costs.losses, note="losses of its averaged surface")


def loss_landscapes(scene: Scene, side: int) -> Result:
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    model, (inputs, targets) = scene.model(), scene.samples()
    warm_up(model, inputs, targets)
    metric = Loss(F.cross_entropy, inputs, targets)
    center = loss_landscapes.point(model, metric)
    _, seconds = timed(
        lambda: loss_landscapes.random_plane(model, metric, steps=side, normalization="filter")
    )
    return Result(
        seconds / side**2,
        center=center,
        note="random_plane, all samples as one batch; the README's normalize= is normalization=",
    )


def landscaper(scene: Scene, side: int) -> Result:
    from landscaper import LossLandscape
    from landscaper.utils import generate_random_orthogonal_directions

    model, (inputs, targets) = scene.model(), scene.samples()
    warm_up(model, inputs, targets)
    data = list(zip(inputs.split(LOADER_BATCH_SIZE), targets.split(LOADER_BATCH_SIZE), strict=True))

    def mean_loss(model, data):
        losses = [F.cross_entropy(model.forward(sample), label) for sample, label in data]
        return sum(losses) / len(losses)

    directions = generate_random_orthogonal_directions(model, n=2)
    landscape, seconds = timed(
        lambda: LossLandscape.compute(
            model, data, directions, mean_loss, steps=side, dim=2, device="cpu"
        )
    )
    return Result(
        seconds / side**2,
        center=_middle(landscape.loss, side),
        note=f"LossLandscape.compute, a list of batches of {LOADER_BATCH_SIZE} (its quick start "
        "names no size), random directions rather than the Hessian's",
    )


def losscape(scene: Scene, side: int) -> Result:
    import matplotlib.pyplot as plt
    from losscape.create_landscape import create_3D_losscape
    from torch.utils.data import DataLoader, TensorDataset

    model, (inputs, targets) = scene.model(), scene.samples()
    warm_up(model, inputs, targets)
    loader = DataLoader(TensorDataset(inputs, targets), LOADER_BATCH_SIZE)
    contour, ended = plt.contour, []

    def first_of_drawing(*arguments, **options):
        ended.append(time.perf_counter())
        return contour(*arguments, **options)

    # It draws in the same call; the clock stops where drawing begins.
    plt.contour = first_of_drawing
    began = time.perf_counter()
    _, _, losses = create_3D_losscape(
        model, loader, num_batches=len(loader), save_only=True, num_points=side
    )
    return Result(
        (ended[0] - began) / side**2,
        center=_middle(losses, side),
        note=f"create_3D_losscape over a DataLoader with batches of {LOADER_BATCH_SIZE} (its "
        "README names no size), all of them; the README's create_2D_losscape draws a line, and "
        "refuses the README's output_vtp=",
    )


def loss_landscape_3d(scene: Scene, side: int) -> Result:
    from loss_landscape_3d import LossLandscapeCalculator, data, generate_random_directions

    model, (inputs, targets) = scene.model(), scene.samples()
    warm_up(model, inputs, targets)
    loader = data.DataLoader(data.TensorDataset(inputs, targets), batch_size=32)
    x_axis, y_axis = generate_random_directions(model, normalize=True)
    lines = np.linspace(-1, 1, side)
    calculator = LossLandscapeCalculator(model, loader, F.cross_entropy)
    center = {name: value.clone() for name, value in model.state_dict().items()}
    losses, seconds = timed(
        lambda: calculator.calculate(lines, lines, x_axis, y_axis, center_state=center)
    )
    return Result(
        seconds / side**2,
        center=_middle(losses, side),
        note="calculate over a DataLoader with the README's batches of 32; center_state is a copy, "
        "as the README's model.state_dict() moves with the model from point to point",
    )


def warm_up(model, inputs, targets) -> None:
    """One pass, so that no contender pays for starting threads."""

    with torch.no_grad():
        F.cross_entropy(model(inputs[:1000]), targets[:1000])


def _middle(losses, side: int) -> float | None:
    return float(losses[side // 2][side // 2]) if side % 2 else None


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        name: in the table and for --only.
        evaluate: measures it, in a process of its own.
        rounding: the largest relative difference of its losses from `reference`'s, at the same
            points, or at the model itself where it has other points.
        reference: whose losses are compared.
        package: to install, pinned; empty for what needs this repository alone.
    """

    name: str
    evaluate: Callable[[Scene, int], Result]
    rounding: float = ROUNDING
    reference: str = "losspath-plane"
    package: str = ""


PLANE, SEPARATE = "losspath-plane", "losspath-separate"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(PLANE, on_plane),
        Contender(SEPARATE, separate, reference=SEPARATE),
        Contender("plain-loop", plain_loop),
        Contender("thesis-staged", thesis_staged, GREY_ROUNDING, SEPARATE),
        Contender("thesis-shipped", thesis_shipped, GREY_ROUNDING, SEPARATE),
        Contender("loss-landscapes", loss_landscapes, package="loss-landscapes==3.0.6"),
        Contender("landscaper", landscaper, package="landscaper==1.3.1"),
        Contender("losscape", losscape, package="losscape==1.5.10"),
        Contender("loss-landscape-3d", loss_landscape_3d, package="loss-landscape-3d==0.1.3"),
    )
}


# Processes


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
        lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
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
            script = str(Path(__file__).resolve())
            self._call(
                [str(self.python_of(contender)), script, "--measure", *arguments], cwd=Path(empty)
            )
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


def measure(directory: str, name: str, side: str, threads: str) -> None:
    """What a contender's process does."""

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    began, busy = time.perf_counter(), busy_seconds()
    with contextlib.redirect_stdout(sys.stderr):
        result = CONTENDERS[name].evaluate(Scene(Path(directory)), int(side))
    result.others = (busy_seconds() - busy) / (time.perf_counter() - began)
    result.mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (Path(directory) / "result.json").write_text(json.dumps(vars(result)))


def busy_seconds() -> float:
    """Processor time that the machine has spent on other processes; NaN where it cannot tell."""
    kernel = Path("/proc/stat")
    if not kernel.exists():
        return float("nan")
    fields = [int(field) for field in kernel.read_text().splitlines()[0].split()[1:9]]
    spent = sum(fields) - fields[3] - fields[4]  # idle, and idle while a disk works
    return spent / os.sysconf("SC_CLK_TCK") - time.process_time()


# The table


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
    parser.add_argument("--points", type=int, default=5, help="points an axis")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=None, help="with the files of MNIST")
    parser.add_argument("--peers", type=Path, default=None, help="where peers are installed")
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=None, help="besides losspath itself"
    )
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
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
