"""A large model through record, plane and surface on a small machine: seconds and memory.

    python benchmarks/large.py [--millions 100] [--states 60] [--resolution 5] [--directory DIR]
    python benchmarks/large.py --millions 1000 --states 4 --stages floor checkpoints import steps \
        distances sketch sketched

Each stage runs in a process of its own, whose largest resident memory is printed. Steps are
synthetic: a drift and noise, so that the path has a plane. The network is two linear layers with
half of the parameters each; its loss is over 64 samples, as what is measured is the way of the
parameters, not of the data. "steps" and "distances" are
of the run that was made before them. "floor" is what reading or writing the path's bytes once
takes here.
"""

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

WIDTH, SAMPLES = 500, 64


def network(millions: float) -> nn.Module:
    hidden = round(millions * 1e6 / (2 * WIDTH))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, hidden), nn.Tanh(), nn.Linear(hidden, WIDTH, bias=False))
    return model.requires_grad_(True)


def objective(millions: float):
    import losspath

    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, WIDTH, generator=generator)
    targets = torch.randint(WIDTH, (SAMPLES,), generator=generator)
    return losspath.Objective(network(millions), inputs, targets, F.cross_entropy)


def training(model: nn.Module, states: int) -> Iterator[int]:
    """Moves a model on; yields the step that it came to."""
    for step in range(1, states):
        generator = torch.Generator().manual_seed(1)  # the same drift at every step
        with torch.no_grad():
            for parameter in model.parameters():
                for row in parameter.view(-1).split(1 << 22):
                    drift = torch.randn(row.shape, generator=generator)
                    row.add_(drift, alpha=1e-4 * math.cos(step / states * math.pi))
                parameter.view(-1)[step::states] += 1e-3
        yield step


def record(options: argparse.Namespace, run: str = "run", sketch: int | None = None) -> None:
    import losspath

    model, inside = network(options.millions), 0.0
    directory = options.directory / run
    with losspath.Recorder(directory, model, existing="overwrite", sketch=sketch) as recorder:
        for step in training(model, options.states):
            begin = time.perf_counter()
            recorder.record(1.0 / step)
            inside += time.perf_counter() - begin
    print(f"    inside record: {inside / (options.states - 1):.2f} s a step")


def checkpoints(options: argparse.Namespace) -> None:
    from safetensors.torch import save_file

    folder = options.directory / "checkpoints"
    folder.mkdir(exist_ok=True)
    model = network(options.millions)
    save_file(model.state_dict(), folder / "step-0.safetensors")
    for step in training(model, options.states):
        save_file(model.state_dict(), folder / f"step-{step}.safetensors")


def import_(options: argparse.Namespace) -> None:
    import losspath

    pattern, run = str(options.directory / "checkpoints" / "*"), options.directory / "run"
    imported = losspath.import_checkpoints(pattern, run, existing="overwrite")
    print(f"    {imported!r}")


def distances(options: argparse.Namespace) -> None:
    import losspath

    found = losspath.state_distances(losspath.Trajectory(options.directory / "run"))
    print(f"    from the first to the others: {found[0, 1]:.4g} to {found[0, -1]:.4g}")


def sketch(options: argparse.Namespace) -> None:
    record(options, "sketched", options.sketch)


def sketched(options: argparse.Namespace) -> None:
    import losspath

    path = losspath.Trajectory(options.directory / "sketched")
    print(f"    {path!r}; {losspath.step_sizes(path)!r}")
    found = losspath.state_distances(path)
    print(f"    from the first to the others: {found[0, 1]:.4g} to {found[0, -1]:.4g}")
    print(f"    {losspath.fit_plane(path)!r}")


def plane(options: argparse.Namespace) -> None:
    import losspath

    fitted = losspath.fit_plane(losspath.Trajectory(options.directory / "run"))
    fitted.save(options.directory / "plane.npz")
    shares = fitted.path.explained_variance_ratio
    print(f"    {fitted!r}; {shares[0]:.1%} and {shares[1]:.1%} of the variance")


def surface(options: argparse.Namespace) -> None:
    import losspath

    path = losspath.Trajectory(options.directory / "run")
    found = losspath.compute_surface(
        path,
        objective(options.millions),
        options.method,
        options.resolution,
        plane=losspath.PrincipalPlane.load(options.directory / "plane.npz"),
        states=2,
        fidelity=False,
    )
    print(f"    {found!r}; {'; '.join(found.provenance['evaluation'])}")


def steps(options: argparse.Namespace) -> None:
    import losspath

    found = losspath.step_sizes(losspath.Trajectory(options.directory / "run"))
    print(f"    {found!r}")


def floor(options: argparse.Namespace) -> None:
    file, chunk = options.directory / "floor.bin", np.zeros(1 << 22, np.float32)
    chunk += np.random.default_rng(0).standard_normal(len(chunk), np.float32)
    size = int(options.millions * 1e6 * 4 * options.states)
    begin = time.perf_counter()
    with file.open("wb") as out:
        for _ in range(size // chunk.nbytes):
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    middle = time.perf_counter()
    with file.open("rb", buffering=0) as raw:
        while raw.readinto(chunk):
            pass
    print(f"    write {middle - begin:.1f} s, read {time.perf_counter() - middle:.1f} s")
    file.unlink()


STAGES = {
    "floor": floor,
    "record": record,
    "checkpoints": checkpoints,
    "import": import_,
    "steps": steps,
    "plane": plane,
    "surface": surface,
    "distances": distances,
    "sketch": sketch,
    "sketched": sketched,
}
USUAL = ("floor", "record", "steps", "plane", "surface")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=100)
    parser.add_argument("--states", type=int, default=60)
    parser.add_argument("--resolution", type=int, default=5)
    parser.add_argument("--method", default="averaged")
    parser.add_argument("--sketch", type=int, default=100_000)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--stages", nargs="+", default=USUAL, choices=STAGES)
    options = parser.parse_args()
    if options.stage:
        begin = time.perf_counter()
        STAGES[options.stage](options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        taken = time.perf_counter() - begin
        print(f"{options.stage:10} {taken:8.1f} s {peak:8.2f} GiB", flush=True)
        return
    size = options.millions * 4e6 * options.states / (1 << 30)
    print(
        f"{options.millions:g} million parameters, {options.states} states ({size:.1f} GiB), "
        f"{os.cpu_count()} cores, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        directory.mkdir(exist_ok=True)
        for stage in options.stages:
            command = [sys.executable, __file__, "--stage", stage, "--directory", str(directory)]
            for name in ("millions", "states", "resolution", "method", "sketch"):
                command += [f"--{name}", str(getattr(options, name))]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
