"""What nine states over many samples are worth to a picture over few.

    python benchmarks/correction.py --data-dir DIR --runs DIR

Of nine of the runs of benchmarks/fidelity.py (trained where they are not there) the default picture
of 9 × 9 points is computed over all samples, and over few: how far the latter is off, as it is and
corrected, at all points and at those within a tenth of the path's longer side, as root mean squares
of differences of log-losses; and the standard error that the correction says of itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from fidelity import trained
from fidelity_runs import kinds

import losspath
from losspath.geometry.grid import Grid
from losspath.surface import Landscape
from losspath.surface.correction import STATES, Correction, samples_for

# Kind, optimiser, samples in all, and few.
RUNS = (
    ("lenet5", "sgd", 5000, 512),
    ("lenet5", "adam-0.01", 5000, 512),
    ("modified-lenet", "adam", 4000, 512),
    ("modified-lenet", "adam-0.01", 4000, 512),
    ("resnet8", "sgd", 1000, 128),
    ("resnet8", "adam", 1000, 128),
    ("transformer", "adam", 800, 128),
    ("regression", "sgd", 2000, 256),
    ("regression", "adam", 2000, 256),
)
NEAR = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args()
    known = kinds(options.data_dir)
    head = f"{'run':26} {'samples':>10}  {'all points':>16}  {'near the path':>16}"
    print(f"{head}  standard error\n{'':39}  {'off   corrected':>16}  {'off   corrected':>16}")
    for name, optimizer, count, few in RUNS:
        kind = known[name]
        folder = trained(kind, optimizer, 0, options.runs / f"{name}-{optimizer}-s0")
        inputs, targets = (each[:count] for each in kind.data)
        objective = losspath.Objective(kind.build(), inputs, targets, kind.loss)
        landscape = Landscape(losspath.Trajectory(folder / "run"), objective)
        print(
            f"{name + ' ' + optimizer:26} {few:4}/{count:5,}  {measured(landscape, few)}",
            flush=True,
        )


def measured(landscape: Landscape, few: int) -> str:
    """The numbers of a run."""
    path = landscape.projection.coordinates
    grid = Grid.around(path, 9)
    some = landscape.over(few)
    full, drawn = (
        each.surface(grid=grid, states=STATES, fidelity=False) for each in (landscape, some)
    )
    count = len(landscape.objective)
    more = samples_for(few, count)[0]
    many = landscape.over(more).states(STATES)
    correction = Correction.of(drawn, drawn.states, many, (few, more, count))
    corrected = drawn if correction is None else correction.applied(drawn, to_states=True)
    apart = np.linalg.norm(grid.points[:, None] - path[None], axis=2).min(axis=1)
    near = apart < NEAR * np.ptp(path, axis=0).max()
    told = []
    for where in (np.ones_like(near), near):
        off = [
            (np.log(each.loss) - np.log(full.loss)).reshape(-1)[where]
            for each in (drawn, corrected)
        ]
        told += [f"{np.sqrt(np.mean(np.square(each))):8.3f}" for each in off]
    error = "none"  # where too few states have a loss
    if correction is not None:
        error = f"{correction.standard_error * correction.shares.span:.3f}"
    return f"{told[0]} {told[1]} {told[2]} {told[3]}  {error:>14}"


if __name__ == "__main__":
    main()
