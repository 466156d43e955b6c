"""The loss along the Hessian's first eigenvectors."""

import numpy as np
import torch.nn.functional as F
from shared import inputs, keep, model, path, steps, targets

import losspath.planes

objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
plane = losspath.planes.hessian_plane(objective, path[-1])
reach = 0.01 * np.linalg.norm(path[-1]) * np.linspace(-1, 1, steps)
surface = losspath.compute_surface(
    path[-1:], objective, "pca", plane=plane, grid=losspath.Grid(reach, reach)
)
losspath.plot_surface(surface).savefig("surface.png")
keep(loss=surface.loss, x=surface.x, y=surface.y, origin=plane.origin, basis=plane.basis)
