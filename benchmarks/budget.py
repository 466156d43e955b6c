"""Surfaces within budgets, against full ones: how near they are, and what they cost.

    python benchmarks/budget.py --data-dir DIR [--keep DIR] [--only picture|time] [--samples 2000]
        [--lines 61] [--methods NAME …] [--trainings NAME …]

DIR holds mnist/ and cifar10/. "picture": of five real trainings the surface that `budget="auto"`
gives is held against the one of all points and all samples: their structural similarity, how far
contours are apart (of the picture's longer side, as `losspath.compare_surfaces` has it), and the
evaluations of samples at points, those that were done twice included. "time": LeNet-5 is trained
for three epochs on MNIST, recorded; then pictures of it take as long as its last epoch at most, the
plane included, and are held, like the full one, against vectors near the path
(`Fidelity.typical_error`). With --keep full surfaces stay there, and are not computed again.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from budget_runs import TRAININGS, mnist, recorded, train
from measuring import Meanwhile

import losspath
from losspath.thesis.networks import build_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--only", choices=["picture", "time"])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--trainings", nargs="*", default=list(TRAININGS))
    parser.add_argument("--lines", type=int, default=61, help="of an axis, for pictures")
    parser.add_argument("--methods", nargs="*", default=["averaged", "local-planes"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        keep = options.keep or Path(directory)
        if options.only != "time":
            pictures(options, keep)
        if options.only != "picture":
            times(options, keep)


def pictures(options: argparse.Namespace, keep: Path) -> None:
    head = f"{'contours apart: mean, 95 %':>27} {'points':>7} {'samples':>12} {'cost':>6} {'s':>6}"
    print(f"{'training':26} {'method':13} {'SSIM':>7} {head} {'full s':>7}")
    for name in options.trainings:
        training = train(name, options.data_dir, keep / name.replace(" ", "_"), options.samples)
        plane = losspath.fit_plane(training.path)
        for method in options.methods:
            told = picture(f"{name} {method}", training, method, options.lines, plane, keep)
            print(f"{name:26} {method:13} {told}", flush=True)


def picture(name, training, method, lines, plane, keep) -> str:
    """How near the picture of a training is that `budget="auto"` gives, and what it costs."""
    path, objective = training.path, training.objective
    began = time.perf_counter()
    found = losspath.compute_surface(
        path, objective, method, lines, plane=plane, budget="auto", fidelity=False
    )
    seconds = time.perf_counter() - began
    full, full_seconds = whole(keep, name, path, objective, method, lines, plane)
    difference = losspath.compare_surfaces(found, full, resolution=lines)
    reached = found.provenance["budget"]
    return (
        f"{difference.ssim:7.4f} {difference.contour_error:18.2%}"
        f" {difference.high_contour_error:8.2%} {found.evaluated.sum():7,}"
        f" {found.provenance['samples']:5,}/{len(objective):6,}"
        f" {reached['cost'] / full.loss.size:6.1%} {seconds:6.1f} {full_seconds:7.1f}"
    )


def whole(keep, name, path, objective, method, lines, plane):
    """A full surface, kept or computed, and its seconds; NaN where it was kept."""
    file = keep / f"{name.replace(' ', '_')}_{lines}_{len(objective)}.npz"
    if file.exists():
        kept = losspath.Surface.load(file)
        if kept.provenance["path_digest"] == path.digest:
            return kept, math.nan
    began = time.perf_counter()
    found = losspath.compute_surface(path, objective, method, lines, plane=plane, fidelity=False)
    seconds = time.perf_counter() - began
    found.save(file)
    return found, seconds


def times(options: argparse.Namespace, keep: Path) -> None:
    meanwhile = Meanwhile()
    x, y = mnist(options.data_dir, 60_000)
    torch.manual_seed(0)  # so that full surfaces which were kept are of this run
    model = build_network("lenet5", 1, 10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    path, epochs = recorded(model, optimizer, (x, y), keep / "lenet5", 3)
    objective = losspath.Objective(model, x[:10_000], y[:10_000], F.cross_entropy)
    print(f"\nLeNet-5, MNIST: {len(path):,} states; epochs recorded {seconds_of(epochs)}")
    epoch = epochs[-1]
    for method in options.methods:
        began = time.perf_counter()
        plane = losspath.fit_plane(path)
        landscape = losspath.Landscape(path, objective, method, plane=plane)
        seconds = time.perf_counter() - began
        full, more = whole(keep, f"lenet5 {method}", path, objective, method, 19, plane)
        typical = {"full": landscape.fidelity(full).typical_error.value}
        print(f"{method}: full, 19 × 19 points, 10,000 samples: {seconds + more:.1f} s")
        for share in (1.0, 0.75, 0.5):
            began = time.perf_counter()
            found = losspath.compute_surface(
                path, objective, method, budget=f"{share * epoch:.3f}s", fidelity=False
            )
            taken = time.perf_counter() - began
            typical[share] = landscape.fidelity(found).typical_error.value
            apart = abs(math.log(typical[share]) - math.log(typical["full"]))
            reached = found.provenance["budget"]
            print(
                f"  within {share:4.0%} of an epoch ({share * epoch:.2f} s): {taken:5.2f} s,"
                f" {len(found.path):,} states, {found.evaluated.sum():,} points,"
                f" {found.provenance['samples']:,} samples; typical error {typical[share]:.3f}"
                f" (full {typical['full']:.3f}), {apart:.3f} apart as logarithms;"
                f" predicted {reached['predicted_error']:.1%}, samples {reached['standard_error']}",
                flush=True,
            )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        elsewhere = Path(tempfile.mkdtemp()) / "again"
        (again,) = recorded(model, optimizer, (x, y), elsewhere, 1)[1]
        print(f"  an epoch, recorded, after them: {again:.2f} s")
    print(f"other processes kept {meanwhile.others():.1f} cores busy meanwhile")


def seconds_of(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values) + " s"


if __name__ == "__main__":
    main()
