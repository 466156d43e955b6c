"""A residual network with batch normalisation, as everybody writes it."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from library_runs import assert_run_is_right, content, plain, trained
from torch import nn

from losspath import Objective, activations, architecture, confusion


class Block(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, width=4, classes=3):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(self.avgpool(x).flatten(1))


X = torch.randn(30, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
Y = torch.arange(30) % 3
X += F.one_hot(Y, 3).view(30, 3, 1, 1) * 1.5
BATCHES = [(X[i : i + 12], Y[i : i + 12]) for i in (0, 12, 24)]


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(params=["whole", "frozen stem"])
def run(request, tmp_path):
    torch.manual_seed(0)
    model = ResNet()
    if request.param == "frozen stem":
        model.conv1.requires_grad_(False)
    return model, *trained(tmp_path / "run", model, BATCHES, loss, steps=5)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(("of", "whose"), [("samples", "fresh"), ("batches", "trained")])
def test_from_record_to_dynamics(run, of, whose):
    model, path, models = run
    if whose == "fresh":
        model = ResNet()
    before = content(model)
    if of == "samples":
        objective = Objective(model, X, Y, F.cross_entropy, batch_size=11)
    else:
        objective = Objective.of_batches(model, BATCHES, loss)
    line = assert_run_is_right(path, models, objective, BATCHES, loss, varying_buffers=True)
    middle = copy.deepcopy(models[-1])  # parameters and buffers half-way
    first, last = models[0].state_dict(), models[-1].state_dict()
    for name, value in middle.state_dict().items():
        if value.is_floating_point():
            value.copy_((first[name] + last[name]) / 2)
    assert line.loss[0, 1] == pytest.approx(plain(middle, BATCHES, loss), rel=1e-5)
    assert content(model) == before


def test_diagnose(run):
    model, path, models = run
    objective = Objective(model, X, Y, F.cross_entropy, batch_size=11)
    assert "layer2.0" in architecture(objective) or "layer2" in architecture(objective)
    used = copy.deepcopy(models[-1]).eval()
    with torch.no_grad():
        taken = used(X).argmax(1)
    expected = np.zeros((3, 3), int)
    for right, answer in zip(Y.tolist(), taken.tolist(), strict=True):
        expected[right, answer] += 1
    found = confusion(objective, path[-1], sides=path.sides(len(path) - 1))
    np.testing.assert_array_equal(found.counts, expected)
    assert found.accuracy == pytest.approx(float((taken == Y).double().mean()))
    kept = activations(path, objective, 3, modules=["conv1", "fc"])
    assert kept.counts[0].sum(axis=1).tolist() == [30 * 4 * 36] * 3
    assert (kept.zeros[0] == 0).all()  # before the ReLU that works in place
