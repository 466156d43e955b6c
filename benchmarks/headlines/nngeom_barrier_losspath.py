"""How far the loss rises between two models."""

import torch.nn.functional as F
from shared import inputs, keep, model, other_state, path, targets

import losspath

objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
barriers = losspath.barriers({"one": other_state, "two": path[-1]}, objective)
losspath.plot_barriers(barriers).savefig("line.png")
keep(loss=barriers.values[0, 1], barrier=barriers.barrier[0, 1])
