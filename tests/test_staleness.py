"""What was computed never meets another meaning: losses, models, data and buffers that changed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective, compute_surface, interpolate, measure_dynamics
from losspath.errors import StoreError

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True).sin()


class Huber(nn.Module):
    """A loss object with a constant that can be changed."""

    def __init__(self):
        super().__init__()
        self.beta = 1.0

    def forward(self, o, t):
        return F.smooth_l1_loss(o, t, beta=self.beta)


class Scaled(nn.Linear):
    """A model with an attribute that its forward pass reads, for large inputs alone."""

    scale = 1.0

    def forward(self, x):
        out = super().forward(x)
        return torch.where(x[:, :1] > 1.5, out * self.scale, out)


def change(what, model, loss):
    if what == "loss":
        loss.beta = 10.0
    elif what == "model":
        model[0].scale = 3.0
    elif what == "buffer":
        model[1].running_mean += 1
    else:
        assert what == "hook"
        model.register_forward_hook(lambda module, args, out: out + 1)


def setting():
    torch.manual_seed(0)
    model, loss = nn.Sequential(Scaled(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), Huber()
    count = sum(p.numel() for p in model.parameters())
    path = np.cumsum(np.random.default_rng(0).standard_normal((6, count)), axis=0) * 0.2
    return model, loss, path.astype(np.float32)


USES = {
    "surface": lambda path, o, file: compute_surface(path, o, "pca", 4, states=3, checkpoint=file),
    "line": lambda path, o, file: interpolate(path, o, checkpoint=file),
    "dynamics": lambda path, o, file: measure_dynamics(path, o, 3, checkpoint=file),
}


def numbers(result):
    found = [result.loss]
    if hasattr(result, "states"):
        found.append(result.states.loss)
    return [each.tolist() for each in found]


@pytest.mark.parametrize("what", ["loss", "model", "buffer", "hook"])
@pytest.mark.parametrize("use", USES)
def test_what_changes_after_a_checkpoint_is_not_mixed_with_it(tmp_path, what, use):
    model, loss, path = setting()
    objective = Objective(model, X, Y, loss)
    before = numbers(USES[use](path, objective, tmp_path / "points"))
    assert numbers(USES[use](path, objective, tmp_path / "points")) == before
    change(what, model, loss)
    fresh = numbers(USES[use](path, objective, None))
    assert fresh != before
    assert fresh == numbers(USES[use](path, Objective(model, X, Y, loss), None))
    try:
        again = numbers(USES[use](path, objective, tmp_path / "points"))
    except StoreError as refusal:
        assert "another computation" in str(refusal)  # noqa: PT017
    else:
        assert again == fresh
