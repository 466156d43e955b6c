"""The loss along two directions."""

import numpy as np
import torch.nn.functional as F
from shared import inputs, keep, model, path, steps, targets

import losspath.planes

objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
plane = losspath.planes.random_plane(path[-1], objective.layout, vectors=True)
reach = np.linalg.norm(path[-1]) * np.linspace(-1, 1, steps)
surface = losspath.compute_surface(
    path[-1:], objective, "pca", plane=plane, grid=losspath.Grid(reach, reach)
)
losspath.plot_surface(surface, title="Around the last state").savefig("surface.png")
keep(loss=surface.loss, x=surface.x, y=surface.y, origin=plane.origin, basis=plane.basis)
