"""Draw one run's surfaces by different distances, side by side.

    python examples/distances.py [EPOCHS]

Trains Modified-LeNet on scikit-learn's digits by Adam, which needs no download, writes
runs/distances and distances.png, and says for each surface how far its ground is from the own
losses of states all along the path.
"""

import sys

import numpy as np

import losspath
from losspath.methods import Averaged, AveragedND, Sampled
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import load_dataset
from losspath.thesis.objectives import training_objective
from losspath.thesis.training import train

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
resolution = 25 if epochs >= 10 else 5

config = TrainingConfig(network="modified-lenet", data="digits", optimizer="adam", lr=0.003)
dataset = load_dataset(config.data)
train(config, dataset, "runs/distances", epochs)

path = losspath.Trajectory("runs/distances")
objective = training_objective(config, dataset, samples=500)
plane = losspath.fit_plane(path)
distances = ("euclidean", "manhattan", "mahalanobis")
methods = [Averaged("auto", distance=name) for name in distances]
methods += [AveragedND("auto", distance=name) for name in distances]
methods += [Sampled(distance=name) for name in distances]

surfaces, titles, states = [], [], 60
for method in methods:
    surface = losspath.compute_surface(
        path, objective, method, resolution, plane=plane, states=states
    )
    states = surface.states  # the same for all of them
    surfaces.append(surface)
    titles.append(f"{method.name}: {method.distance.name.removesuffix('-nd').title()}")
    off = np.nanmedian(surface.state_errors), np.nanmax(surface.state_errors)
    print(f"{surface.description}: median {off[0]:.1%}, at most {off[1]:.0%} off")  # noqa: T201

losspath.plot_surfaces(surfaces, titles=titles).savefig("distances.png", dpi=200)
print("distances.png")  # noqa: T201
