"""A misleading and an honest picture of one run, side by side: the README's figure.

    python benchmarks/two_pictures.py --data-dir DIR --runs DIR [--out FILE]

LeNet-5 trained by Adam at a rate of 0.01, of seed 1, which is trained where it is not there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from fidelity import trained
from fidelity_runs import kinds

import losspath

KIND, OPTIMIZER, SEED = "lenet5", "adam-0.01", 1
RESOLUTION = 31
METHODS = ("averaged", "local-planes")
TITLE = "LeNet-5, MNIST, Adam: the loss of mean weights, and the mean loss of real ones"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="has MNIST and CIFAR-10")
    parser.add_argument("--runs", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results/two-pictures.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    kind = kinds(options.data_dir)[KIND]
    run = trained(kind, OPTIMIZER, SEED, options.runs / f"{KIND}-{OPTIMIZER}-s{SEED}") / "run"
    path, objective = losspath.Trajectory(run), kind.objective()
    landscape = losspath.Landscape(path, objective)
    surfaces = [landscape.with_method(method).surface(RESOLUTION, states=100) for method in METHODS]
    figure = losspath.plot_surfaces(
        surfaces,
        title=TITLE,
        columns=2,
    )
    figure.savefig(options.out)
    for name, surface in zip(METHODS, surfaces, strict=True):
        assert surface.fidelity is not None
        print(f"{name}: {surface.fidelity.describe()}")


if __name__ == "__main__":
    main()
