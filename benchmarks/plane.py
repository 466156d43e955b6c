"""The plane of a path of 12,195 states of 61,706 parameters: time, memory, residual.

    python benchmarks/plane.py [RUN]

Without a run it records a synthetic path of that size first (3 GB, under the temporary directory)
and measures in a process of its own, so that the peak is the measured work's alone.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import losspath

STATES, PARAMETERS = 12_195, 61_706


class Vector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(PARAMETERS))


def record(directory: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Vector()
    axes = torch.randn(6, PARAMETERS, generator=generator) / PARAMETERS**0.5
    time_ = np.arange(STATES) / STATES
    curve = np.stack([3 * np.exp(-3 * time_), *(np.sin(k * 3 * time_) / k for k in range(1, 6))], 1)
    steps = torch.from_numpy(np.diff(curve, axis=0)).float()
    with torch.no_grad(), losspath.Recorder(directory, model) as recorder:
        for step in steps:
            model.weight += step @ axes
            model.weight += 2e-5 * torch.randn(PARAMETERS, generator=generator)
            recorder.record(0.0)


def measure(directory: Path) -> None:
    path = losspath.Trajectory(directory)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    plane = losspath.fit_plane(path)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ratio = ", ".join(f"{share:.2%}" for share in plane.path.explained_variance_ratio)
    print(
        f"{len(path):,} × {path.parameter_count:,}: {seconds:.1f} s, peak {peak:.0f} MiB "
        f"(of which {before:.0f} before), residual {plane.residual:.1e}, explained {ratio}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.run)
        return
    directory = options.run or Path(tempfile.mkdtemp()) / "run"
    if options.run is None:
        record(directory)
    for _ in range(3):
        subprocess.run([sys.executable, __file__, "--measure", str(directory)], check=True)
    if options.run is None:
        shutil.rmtree(directory.parent)


if __name__ == "__main__":
    main()
