"""How far pictures are off where they are faded, and where they are not.

    python benchmarks/support.py [--data-dir DIR]

Trains small networks, and holds their surfaces against vectors near the path that they were not
made of: 240 places on chords between two states, and 80 draws of the path's own distribution. By
`Surface.doubt` each vector's place is faded or not: as the vectors of the point disagree, or as no
state is near. Printed is the factor that 68 % of the vectors are off by at most, as typical errors
are, with how many there are; and by the distance to the nearest state, in extents of the path.
"""

import argparse
import math
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from losspath.cli.runs import Run
from losspath.evaluation.quantities import SPREAD
from losspath.geometry.spacing import extent_of
from losspath.surface import Landscape
from losspath.surface.judging import Heights
from losspath.surface.strata import balls, chords, together
from losspath.surface.surface import DISAGREEMENT, REACH

RUNS = {
    "digits, SGD 0.2": ("--lr", "0.2", "--epochs", "10"),
    "digits, Adam 0.001": ("--optimizer", "adam", "--lr", "0.001", "--epochs", "60"),
    "MNIST, Adam 0.01": ("--data", "mnist", "--optimizer", "adam", "--lr", "0.01", "--epochs", "2"),
}
METHODS = ("averaged", "local-planes")
CHORDS, BALLS, RESOLUTION, SAMPLES = 240, 80, 19, 1000
BINS = (0.0, 0.1, 0.3, 0.5, 0.7, REACH, math.inf)


def typical(errors: np.ndarray) -> str:
    """The factor that 68 % are off by at most, and of how many."""
    known = errors[np.isfinite(errors)]
    shown = f"x{math.exp(np.quantile(known, 0.68)):.2f}" if len(known) else "-"
    return f"{shown:>6} ({len(known):3})"


def measure(name: str, directory: Path, data_dir: Path | None) -> None:
    run = Run(directory, data_dir)
    first = Landscape(run.path, run.training_objective(SAMPLES), METHODS[0])
    path, generator = first.projection, np.random.default_rng(7)
    vectors = together([chords(path, CHORDS, generator), balls(path, BALLS, generator)])
    places, losses = vectors.places(path), None
    extent = extent_of(path.coordinates, path.starts)
    distances = KDTree(path.coordinates).query(places)[0] / extent
    far = np.quantile(distances[:CHORDS], [0.9, 0.99])
    print(
        f"{name}: of the chords, 90 % are within {far[0]:.2f} extents of a state, 99 % {far[1]:.2f}"
    )
    for method in METHODS:
        landscape = first.with_method(method)
        surface = landscape.surface(RESOLUTION, fidelity=False)
        losses = landscape.ground(surface).losses(vectors) if losses is None else losses
        heights = Heights.of(surface, losses)
        errors = np.abs(heights(surface.at(places)) - heights(losses))
        disagree = np.zeros(len(places), bool)
        if SPREAD in surface.metrics:
            disagree = surface.at(places, SPREAD) > DISAGREEMENT * surface.at(places)
        is_far = distances > REACH
        parts = {"not faded": ~disagree & ~is_far, "losses disagree": disagree, "far": is_far}
        told = ", ".join(f"{part} {typical(errors[which])}" for part, which in parts.items())
        print(f"  {method:13} {told}; {(surface.doubt > 1).mean():.0%} of the picture is faded")
        parts = {f"{a:g}-{b:g}": (a <= distances) & (distances < b) for a, b in pairwise(BINS)}
        told = ", ".join(f"{part} {typical(errors[which])}" for part, which in parts.items())
        print(f"  {'':13} by distance: {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="a directory that holds MNIST")
    data_dir = parser.parse_args().data_dir
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, options) in enumerate(RUNS.items()):
            if "--data" in options and data_dir is None:
                print(f"{name}: left out, as it needs --data-dir")
                continue
            directory = Path(folder) / str(number)
            place = ("--data-dir", data_dir) if data_dir else ()
            asked = ("train", "--network", "modified-lenet", *options, *place, "--out", directory)
            command = [sys.executable, "-m", "losspath", *map(str, asked)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            measure(name, directory, data_dir)


if __name__ == "__main__":
    main()
