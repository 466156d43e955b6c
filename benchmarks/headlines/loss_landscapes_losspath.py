"""The loss along two random directions around the last state of a path."""

import numpy as np
import torch.nn.functional as F
from shared import inputs, keep, model, path, steps, targets

import losspath.planes

objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
plane = losspath.planes.plane_named("random:filter", path[-1:], objective)
reach = np.linalg.norm(path[-1]) * np.linspace(-0.5, 0.5, steps)
surface = losspath.compute_surface(
    path[-1:], objective, "pca", plane=plane, grid=losspath.Grid(reach, reach)
)
losspath.plot_surface(surface).savefig("surface.png")
keep(loss=surface.loss, x=surface.x, y=surface.y, origin=plane.origin, basis=plane.basis)
