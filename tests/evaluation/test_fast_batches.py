"""Losses of a model and a batch: the fast evaluation against the plainest loop."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from losspath import Objective
from losspath.errors import LosspathWarning
from losspath.evaluation.execution import engine, tuning
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.fast import FastEvaluator
from losspath.evaluation.execution.points import Affine, Rows
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.evaluation.execution.verifying import Verifier

CONFIGS = [
    EngineConfig(0, threads=1, first_layer_group=1, group_size=32),
    EngineConfig(0, threads=2, first_layer_group=3, group_size=4),
    EngineConfig(0, threads=1, first_layer_group=2, group_size=5, vmap_size=3),
]
COUNT = 6


@pytest.fixture(autouse=True)
def always_fast(monkeypatch):
    monkeypatch.setattr(engine, "_SMALL", 0)


@pytest.fixture(params=CONFIGS, ids=["plain threads", "two threads", "vmap"])
def config(request, monkeypatch):
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: request.param)


@pytest.fixture
def chosen(monkeypatch):
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: CONFIGS[1])


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )


def batches():
    """Of 5, 5, 5 and 2 samples, bytes as a data set has them."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (17, 1, 6, 6), generator=generator, dtype=torch.uint8)
    targets = torch.randint(3, (17,), generator=generator)
    return DataLoader(TensorDataset(images, targets), 5)


def plain(model, batch):
    return F.cross_entropy(model(batch[0].float() / 255), batch[1])


def summed(model, batch):
    outputs = model(batch[0].float() / 255)
    return F.cross_entropy(outputs, batch[1], reduction="sum"), len(batch[1])


def named(model, batch):
    outputs = model(batch[0] / 255)
    return {"loss": F.cross_entropy(outputs, batch[1]), "margin": outputs[:, 0].mean()}


def penalised(model, batch):
    weights = sum(parameter.square().sum() for parameter in model.parameters())
    return plain(model, batch) + 0.01 * weights + 0.1 * model[1].running_var.mean()


def contrastive(model, batch):
    """Of a whole batch, and written into what it is given."""
    outputs = model(batch[0] / 255)
    outputs -= outputs.mean(dim=0)
    return (outputs @ outputs.T).square().mean()


def twice(model, batch):
    inputs = batch[0] / 255
    return (model(inputs) - model(inputs)).square().sum() + F.cross_entropy(model(inputs), batch[1])


def two_views(model, batch):
    inputs = batch[0] / 255
    return F.mse_loss(model(inputs), model(inputs.flip(-1)))


def by_layers(model, batch):
    return F.cross_entropy(model[3:](model[:3](batch[0] / 255)), batch[1])


def by_name(model, batch):
    return F.cross_entropy(model(input=batch[0] / 255), batch[1])


def through_a_hook(model, batch):
    kept = []
    handle = model[2].register_forward_hook(lambda module, args, output: kept.append(output))
    outputs = model(batch[0] / 255)
    handle.remove()
    return F.cross_entropy(outputs, batch[1]) + (kept[0].mean() if kept else 0.0)


def points_of(kind, objective):
    from losspath.parameters import flatten_parameters

    own = flatten_parameters(objective.model, objective.layout).astype(np.float64)
    generator = np.random.default_rng(0)
    if kind is Rows:
        return Rows(own + 0.1 * generator.standard_normal((COUNT, len(own))))
    directions = 0.1 * generator.standard_normal((2, len(own)))
    return Affine(own, directions, generator.standard_normal((COUNT, 2)))


def by_loop(objective, loss, points):
    """The plainest loop, on a copy of the model."""
    model, found = copy.deepcopy(objective.model).eval(), []
    for vector in points.vectors():
        nn.utils.vector_to_parameters(torch.from_numpy(vector).float(), model.parameters())
        total = weight = 0.0
        for batch in batches():
            with torch.no_grad():
                value = loss(model, [each.clone() for each in batch])
            value = value["loss"] if isinstance(value, dict) else value
            one, count = (
                value if isinstance(value, tuple) else (value * len(batch[1]), len(batch[1]))
            )
            total, weight = total + float(one), weight + count
        found.append(total / weight)
    return found


def evaluated(objective, points):
    fast = Engine(objective)
    found = [pair for pairs in fast.evaluate(points) for pair in pairs]
    assert [number for number, _ in found] == list(range(COUNT))
    return [each for _, each in found], fast.notes


def made(loss, **options):
    model = network()
    for batch in batches():  # running statistics of some use
        model(batch[0].float() / 255)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LosspathWarning)
        return Objective.of_batches(model, batches(), loss, **options)


@pytest.mark.mostly_slow(18)
@pytest.mark.parametrize("kind", [Affine, Rows])
@pytest.mark.parametrize("loss", [plain, summed, named, penalised, contrastive, twice])
def test_a_loss_that_calls_the_model_with_one_tensor_is_fast(config, loss, kind):
    objective = made(loss)
    points = points_of(kind, objective)
    found, notes = evaluated(objective, points)
    assert "the given batches through" in notes[0], notes
    expected = by_loop(objective, loss, points)
    np.testing.assert_allclose([each.loss for each in found], expected, rtol=1e-5)
    assert len(set(expected)) == COUNT


@pytest.mark.parametrize("kind", [Affine, Rows])
@pytest.mark.parametrize("loss", [two_views, by_layers, by_name, through_a_hook])
def test_any_other_is_evaluated_by_the_plain_loop(chosen, loss, kind):
    objective = made(loss)
    points = points_of(kind, objective)
    found, notes = evaluated(objective, points)
    assert any("plain loop" in note for note in notes), notes
    expected = by_loop(objective, loss, points)
    np.testing.assert_allclose([each.loss for each in found], expected, rtol=1e-5)


def test_metrics_are_of_the_same_outputs(config):
    def accuracy(model, batch):
        return (model(batch[0].float() / 255).argmax(1) == batch[1]).float().mean()

    objective = made(plain, metrics={"right": accuracy})
    points = points_of(Affine, objective)
    found, notes = evaluated(objective, points)
    assert "the given batches through" in notes[0]
    expected = by_loop(objective, accuracy, points)
    np.testing.assert_allclose([each.metrics["right"] for each in found], expected, rtol=1e-6)


def test_named_quantities_come_along(chosen):
    objective = made(named)
    points = points_of(Rows, objective)
    found, _ = evaluated(objective, points)
    expected = by_loop(objective, lambda model, batch: named(model, batch)["margin"], points)
    np.testing.assert_allclose([each.metrics["margin"] for each in found], expected, rtol=1e-4)


def test_what_is_measured_to_be_quickest_has_the_given_batches(monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    objective = made(plain)
    points = points_of(Affine, objective)
    found, notes = evaluated(objective, points)
    assert "the given batches" in notes[0] or "plain loop" in notes[0]
    expected = by_loop(objective, plain, points)
    np.testing.assert_allclose([each.loss for each in found], expected, rtol=1e-5)


def test_memory_that_runs_out_on_a_given_batch_leaves_it_to_the_plain_loop(chosen, monkeypatch):
    def full(self, *arguments):
        raise torch.cuda.OutOfMemoryError("no room")

    objective = made(plain)
    points = points_of(Affine, objective)
    fast = Engine(objective)
    monkeypatch.setattr(Verifier, "checked", lambda self, points, config: (config, None, True))
    monkeypatch.setattr(FastEvaluator, "evaluate", full)
    found = [each.loss for pairs in fast.evaluate(points) for _, each in pairs]
    assert any("memory runs out on a given batch" in note for note in fast.notes), fast.notes
    np.testing.assert_allclose(found, by_loop(objective, plain, points), rtol=1e-5)


def test_no_class_is_made_of_the_callers_and_its_modes_stay(chosen):
    made_of = []

    class Noted(nn.Sequential):
        def __init_subclass__(cls):
            made_of.append(cls)

    def trains_and_evaluates(model, batch):
        model.train()
        model.eval()
        return plain(model, batch)

    torch.manual_seed(0)
    model = Noted(*network())
    objective = Objective.of_batches(model, batches(), trains_and_evaluates)
    points = points_of(Affine, objective)
    found, notes = evaluated(objective, points)
    assert "the given batches through" in notes[0], notes
    assert not made_of
    expected = by_loop(objective, plain, points)
    np.testing.assert_allclose([each.loss for each in found], expected, rtol=1e-5)


def test_the_callers_model_and_batches_are_as_before(chosen):
    objective = made(contrastive)
    before = copy.deepcopy(objective.model.state_dict())
    digest = objective.samples_digest
    evaluated(objective, points_of(Affine, objective))
    for name, value in objective.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert type(objective.model) is nn.Sequential
    assert objective.data.digest == digest
