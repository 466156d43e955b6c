"""A training's path on the ground around it."""

import torch.nn.functional as F
from shared import inputs, keep, steps, targets, training, untrained

import losspath

with losspath.Recorder("run", untrained) as recorder:
    for loss in training(untrained):
        recorder.record(loss)
path = losspath.Trajectory("run")
objective = losspath.Objective(untrained, inputs, targets, F.cross_entropy)
fitted = losspath.fit_plane(path)
plane = losspath.Plane(path[-1], fitted.basis, fitted.labels)
surface = losspath.compute_surface(path, objective, "pca", steps, plane=plane)
losspath.plot_surface(surface, title="The way of the optimiser").savefig("path.png")
keep(loss=surface.loss, x=surface.x, y=surface.y, origin=plane.origin, basis=plane.basis)
