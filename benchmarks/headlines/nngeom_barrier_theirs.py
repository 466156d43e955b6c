"""How far the loss rises between two models, as the README of nngeom asks it."""

import nngeom as ng
import torch.nn.functional as F
from shared import inputs, keep, model, other, targets


def loss(module, batch):
    return F.cross_entropy(module(batch[0]), batch[1])


one, two = ng.Model(other, loss_fn=loss), ng.Model(model, loss_fn=loss)
curve = ng.linear_interpolation(one, two, (inputs, targets))
curve.plot().figure.savefig("line.png")
keep(loss=curve.losses, barrier=curve.barrier_height())
