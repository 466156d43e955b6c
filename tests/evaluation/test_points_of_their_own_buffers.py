"""Points with buffers and frozen parameters of their own: fast, and by the plain loop."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective
from losspath.evaluation.execution import engine, tuning
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.points import Affine, Rows
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.parameters import Layout, flatten_parameters, side_tensors

CONFIGS = [
    EngineConfig(batch_size=5, threads=1, first_layer_group=1, group_size=32),
    EngineConfig(batch_size=7, threads=2, first_layer_group=3, group_size=4),
    EngineConfig(batch_size=9, threads=1, first_layer_group=3, group_size=5, vmap_size=4),
]
COUNT = 6


@pytest.fixture(autouse=True)
def always_fast(monkeypatch):
    monkeypatch.setattr(engine, "_SMALL", 0)


@pytest.fixture(params=CONFIGS, ids=str)
def config(request, monkeypatch):
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: request.param)


class Masked(nn.Module):
    """Its buffers: one that scales, a mask of booleans, and an integer that nothing reads."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 3)
        self.register_buffer("scale", torch.rand(5) + 0.5)
        self.register_buffer("mask", torch.tensor([True, False, True, True, False]))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x):
        return self.two(torch.relu(self.one(x)) * self.scale * self.mask)


def normalised():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )


def frozen_first():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    return model


def frozen_bias():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].bias.requires_grad_(False)
    return model


MAKERS = {
    "normalised": (normalised, (1, 6, 6)),
    "masked": (Masked, (6,)),
    "frozen first layer": (frozen_first, (6,)),
    "frozen bias": (frozen_bias, (6,)),
}


def case_of(name):
    """An objective, vectors (G, P) and side tensors of each, all different."""
    torch.manual_seed(0)
    make, shape = MAKERS[name]
    model = make()
    inputs, targets = torch.randn(23, *shape), torch.randint(3, (23,))
    model(inputs)
    objective = Objective(model, inputs, targets, F.cross_entropy)
    own = flatten_parameters(model, objective.layout).astype(np.float64)
    generator = np.random.default_rng(0)
    vectors = own + 0.1 * generator.standard_normal((COUNT, len(own)))
    layout = Layout.of(model)
    sides = [
        {each.name: moved(each.tensor) for each in side_tensors(model, layout)}
        for _ in range(COUNT)
    ]
    return objective, vectors, sides


def moved(tensor):
    if tensor.is_floating_point():
        return tensor.detach() * (0.5 + torch.rand(tensor.shape))
    return torch.rand(tensor.shape) < 0.5 if tensor.dtype == torch.bool else tensor + 1


def points_of(kind, vectors, sides):
    if kind is Rows:
        return Rows(vectors, sides)
    basis = 0.1 * np.random.default_rng(1).standard_normal((2, vectors.shape[1]))
    return Affine(vectors[0], basis, np.random.default_rng(2).standard_normal((COUNT, 2)), sides)


def evaluated(objective, points):
    fast = Engine(objective)
    found = [each for finished in fast.evaluate(points) for each in finished]
    assert [number for number, _ in found] == list(range(len(points)))
    return [evaluation.loss for _, evaluation in found], fast.notes


def by_loop(objective, points):
    """The plainest loop: each point written into a copy of the model."""
    model, layout = copy.deepcopy(objective.model).eval(), objective.layout
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    losses = []
    for vector, sides in zip(points.vectors(), points.sides, strict=True):
        with torch.no_grad():
            for entry in layout.parameters:
                part = torch.from_numpy(vector[entry.place]).view(entry.shape)
                named[entry.name].copy_(part)
            for name, value in sides.items():
                named[name].copy_(value)
            outputs = model(objective.data.inputs)
        losses.append(float(F.cross_entropy(outputs, objective.data.targets)))
    return losses


@pytest.mark.parametrize("kind", [Rows, Affine])
@pytest.mark.parametrize("name", MAKERS)
def test_each_point_has_its_own(config, name, kind):
    objective, vectors, sides = case_of(name)
    points = points_of(kind, vectors, sides)
    losses, notes = evaluated(objective, points)
    assert "plain loop" not in notes[0], notes
    assert len({*losses}) == COUNT
    np.testing.assert_allclose(losses, by_loop(objective, points), rtol=1e-5)


def test_what_all_points_share_is_computed_once(monkeypatch):
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: CONFIGS[1])
    objective, vectors, sides = case_of("frozen first layer")
    same = [sides[0]] * COUNT
    losses, notes = evaluated(objective, Rows(vectors, same))
    # The frozen layer and the function behind it, for all points at once.
    assert any("2 calls once a batch, 0 at every point" in note for note in notes), notes
    assert any("same input at every point: 2.weight" in note for note in notes), notes
    np.testing.assert_allclose(losses, by_loop(objective, Rows(vectors, same)), rtol=1e-5)


def test_buffers_of_other_shapes_go_one_by_one(monkeypatch):
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: CONFIGS[1])
    objective, vectors, sides = case_of("masked")
    sides[3] = {**sides[3], "scale": torch.tensor([1.5])}
    losses, notes = evaluated(objective, Rows(vectors, sides))
    assert "the plain loop, as points have buffers of different shapes" in notes[0]
    rest = [0, 1, 2, 4, 5]
    alike = Rows(vectors[rest], [sides[number] for number in rest])
    np.testing.assert_allclose(
        [losses[number] for number in rest], by_loop(objective, alike), rtol=1e-5
    )
    alone = {**sides[3], "scale": torch.full((5,), 1.5)}
    expected = by_loop(objective, Rows(vectors[3:4], [alone]))
    np.testing.assert_allclose(losses[3], expected[0], rtol=1e-5)


def test_a_loss_that_reads_the_model_sees_the_points_buffers(config):
    objective, vectors, sides = case_of("masked")
    model = objective.model
    inputs, targets = objective.data.inputs, objective.data.targets
    penalised = Objective(
        model, inputs, targets, lambda o, t: F.cross_entropy(o, t) + model.scale.square().mean()
    )
    points = Rows(vectors, sides)
    losses, notes = evaluated(penalised, points)
    assert "plain loop" not in notes[0], notes
    expected = [
        loss + float(each["scale"].square().mean())
        for loss, each in zip(by_loop(objective, points), sides, strict=True)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
