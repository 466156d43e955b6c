"""Loss, gradient and sharpness at the end of a path."""

import torch.nn.functional as F
from shared import inputs, keep, model, path, targets

import losspath

objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
dynamics = losspath.measure_dynamics(path[-3:], objective, states=2)
losspath.plot_dynamics(dynamics).savefig("report.png")
keep(sharpness=dynamics.sharpness[-1])
