"""The loss along two random directions, as the README of loss-landscapes measures it."""

import matplotlib.pyplot as plt
import torch.nn.functional as F
from loss_landscapes import random_plane
from loss_landscapes.metrics import Loss
from shared import inputs, keep, model, steps, targets

metric = Loss(F.cross_entropy, inputs, targets)
landscape = random_plane(model, metric, steps=steps, normalization="filter")
plt.contourf(landscape, levels=30)
plt.colorbar(label="loss")
plt.savefig("surface.png")
keep(loss=landscape)
