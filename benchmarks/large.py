"""A large model through record, plane and surface on a small machine: seconds and memory.

    python benchmarks/large.py [--millions 100] [--states 60] [--resolution 5] [--directory DIR]

Each stage runs in a process of its own, whose largest resident memory is printed. Steps are
synthetic: a drift and noise, so that the path has a plane. The network is two linear layers with
half of the parameters each; its loss is over 64 samples, as what is measured is the way of the
parameters, not of the data. "floor" is what reading or writing the path's bytes once takes here.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
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


def record(options: argparse.Namespace) -> None:
    import losspath

    model, directory = network(options.millions), options.directory / "run"
    drifts = [1e-4 * torch.randn(p.shape) for p in model.parameters()]
    inside = 0.0
    with losspath.Recorder(directory, model, existing="overwrite") as recorder:
        for step in range(1, options.states):
            with torch.no_grad():
                for parameter, drift in zip(model.parameters(), drifts, strict=True):
                    parameter += drift * np.cos(step / options.states * np.pi)
                    parameter.view(-1)[step :: options.states] += 1e-3
            begin = time.perf_counter()
            recorder.record(1.0 / step)
            inside += time.perf_counter() - begin
    print(f"    inside record: {inside / (options.states - 1):.2f} s a step")


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
    "steps": steps,
    "plane": plane,
    "surface": surface,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=100)
    parser.add_argument("--states", type=int, default=60)
    parser.add_argument("--resolution", type=int, default=5)
    parser.add_argument("--method", default="averaged")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
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
            for name in ("millions", "states", "resolution", "method"):
                command += [f"--{name}", str(getattr(options, name))]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
