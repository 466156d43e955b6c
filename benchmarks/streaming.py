"""A path larger than memory: recorded, its plane fitted, points blended and evaluated.

    python benchmarks/streaming.py [--gigabytes 24] [--directory DIR]

Records a walk of LeNet-5's 61,706 parameters until the file has the size that was asked for, then
fits the plane and computes a surface by `averaged`, which weighs every state at every point, in a
process of its own, whose peak memory is printed. The walk drifts along two directions with noise
about it, so that there is a plane to find. The directory needs the room; it is removed at the end.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import losspath
from losspath.thesis.networks import build_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=24)
    parser.add_argument("--directory", type=Path, default=None, help="where there is room")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read)
        return
    place = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        states, seconds = write(place / "run", options.gigabytes * 1e9)
        size = (place / "run" / "states.bin").stat().st_size
        print(f"{states:,} states, {size / 1e9:.1f} GB, recorded in {seconds:.0f} s", flush=True)
        command = [sys.executable, __file__, "--read", str(place / "run")]
        for line in subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.splitlines():
            print(describe(json.loads(line)))
    finally:
        shutil.rmtree(place)


def write(directory: Path, size: float) -> tuple[int, float]:
    torch.manual_seed(0)
    model = build_network("lenet5", 1, 10)
    parameters = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    count = round(size / (4 * len(parameters)))
    start, drift, bend = parameters.clone(), *(torch.randn(2, len(parameters)) / 100)
    noise = torch.randn(2 * len(parameters)) / 1000
    began = time.perf_counter()
    with losspath.Recorder(directory, model) as recorder, torch.no_grad():
        for step in range(1, count):
            along = step / count
            offset = step * 7919 % len(parameters)
            torch.add(start, drift, alpha=3 * along, out=parameters)
            parameters.add_(bend, alpha=4 * along * (1 - along))
            parameters.add_(noise[offset : offset + len(parameters)])
            torch.nn.utils.vector_to_parameters(parameters, model.parameters())
            recorder.record(1 - along)
    return count, time.perf_counter() - began


def read(directory: Path) -> None:
    path = losspath.Trajectory(directory)
    report("opened", 0.0)
    began = time.perf_counter()
    plane = losspath.fit_plane(path)
    shares = ", ".join(f"{share:.1%}" for share in plane.path.explained_variance_ratio)
    report(f"plane (residual {plane.residual:.1e}, {shares})", time.perf_counter() - began)
    torch.manual_seed(0)
    model = build_network("lenet5", 1, 10)
    inputs, targets = torch.randn(1000, 1, 32, 32), torch.randint(10, (1000,))
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
    began = time.perf_counter()
    surface = losspath.compute_surface(path, objective, "averaged", plane=plane, fidelity=False)
    assert np.isfinite(surface.loss).all()
    name = f"surface of {surface.loss.size} points, 1,000 samples"
    report(name, time.perf_counter() - began)


def report(what: str, seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([what, seconds, peak]), flush=True)


def describe(line: list) -> str:
    what, seconds, peak = line
    return f"{what}: {seconds:.0f} s, peak memory so far {peak:,.0f} MiB"


if __name__ == "__main__":
    main()
