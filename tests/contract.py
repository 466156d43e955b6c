"""What errors are tested with: one of each thing, and whether a message teaches."""

import types

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import losspath


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).flatten(1))


def record(directory, model, x, y, loss_fn, steps=6, rate=0.3):
    optimizer = torch.optim.SGD(model.parameters(), rate)
    with losspath.Recorder(directory, model) as recorder:
        for _ in range(steps):
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
    return losspath.Trajectory(directory)


def make_world(home):
    """One of each thing, by name.

    Args:
        home: a directory for its files.
    """
    it = types.SimpleNamespace()
    torch.manual_seed(0)
    it.home = home
    it.x = torch.randn(12, 1, 4, 4)
    it.y = (it.x.mean((1, 2, 3)) > 0).long()
    it.model = Net()
    it.run = it.home / "run"
    it.path = record(it.run, it.model, it.x, it.y, F.cross_entropy)
    it.objective = losspath.Objective(it.model, it.x, it.y, F.cross_entropy)
    it.plane = losspath.fit_plane(it.path)
    it.grid = losspath.Grid.around(it.plane.path.coordinates, 3)
    it.landscape = losspath.Landscape(it.path, it.objective, "averaged", plane=it.plane)
    it.surface = losspath.compute_surface(it.path, it.objective, "pca", 3, states=2)
    it.file = it.home / "surface.npz"
    it.surface.save(it.file)
    it.checkpoint = it.home / "step-5.pt"
    torch.save(it.model.state_dict(), it.checkpoint)
    it.surface_h5 = it.home / "surface.h5"
    with h5py.File(it.surface_h5, "w") as content:
        content["xcoordinates"] = content["ycoordinates"] = np.arange(2.0)
        content["train_loss"] = np.ones((2, 2))
    it.line = losspath.interpolate(it.path, it.objective, alphas=[0, 1])
    it.uncertainty = losspath.surface_uncertainty(it.path, it.objective, "pca", 3)
    it.barriers = losspath.barriers([it.path, it.path[0]], it.objective, points=3)
    it.functions = losspath.function_distances(it.path, it.objective, states=3)
    it.sizes = losspath.step_sizes(it.path)
    it.dynamics = losspath.measure_dynamics(it.path, it.objective, 2)
    it.history = losspath.measure_history(it.path, it.objective, 3)
    it.activations = losspath.activations(it.path, it.objective, 2)
    it.confusion = losspath.confusion(it.objective, it.path[-1])
    it.filters = losspath.filters(it.model, it.path[-1])
    it.maps = losspath.feature_maps(it.objective, it.path[-1])
    it.saliency = losspath.saliency(it.objective, it.path[-1], [0, 1])
    it.distance = losspath.distance_map(it.plane, 3)
    it.runs = losspath.RunCurves(it.sizes, it.history, 0)
    return it


# What Python and the libraries say when a value reaches them that nobody has looked at.
RAW = (
    "has no attribute",
    "not supported between",
    "has no len",
    "not subscriptable",
    "not iterable",
)


def teaches(error):
    """Whether an error's message can be one that teaches."""
    words = str(error)
    if len(words) <= 25 or len(words.split()) < 5 or "\n" in words:
        return False
    # What the user's own model, loss or data raise is theirs, and told as theirs.
    is_quoted = " fails on " in words or "cannot be gone through" in words
    return is_quoted or not any(raw in words for raw in RAW)


def surface_of(it, path=None, objective=None, **options):
    options = {"method": "pca", "resolution": 3, "states": 2} | options
    path = it.path if path is None else path
    return losspath.compute_surface(path, objective or it.objective, **options)


def objective_of(it, model=None, inputs=None, targets=None, loss_fn=F.cross_entropy, **options):
    inputs = it.x if inputs is None else inputs
    targets = it.y if targets is None else targets
    return losspath.Objective(model or it.model, inputs, targets, loss_fn, **options)


def of_batches(it, batches, loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])):
    return losspath.Objective.of_batches(it.model, batches, loss)
