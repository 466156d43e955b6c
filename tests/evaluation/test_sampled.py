"""The losses of single samples, by hand and whatever the loss function looks like."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losspath
from losspath.errors import ObjectiveError
from losspath.evaluation.execution import sampled
from losspath.evaluation.execution.sampled import (
    SampledEvaluation,
    SampleEngine,
    influences,
    with_moments,
)

N = 40


def data(count=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator), torch.randint(
        4, (count,), generator=generator
    )


def network(*more):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), *more)


def vector_of(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double().numpy()


def own_losses(model, x, y):
    with torch.no_grad():
        return F.cross_entropy(model(x), y, reduction="none").double().numpy()


def mean_of_two(outputs, targets):
    return F.cross_entropy(outputs, targets)


def by_item(outputs, targets):
    return F.cross_entropy(outputs, targets).item()  # which vmap cannot take


def writing(outputs, targets):
    loss = F.cross_entropy(outputs, targets)
    outputs.zero_()
    return loss


def pair(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="sum"), len(targets)


def negative(outputs, targets):
    return -F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("loss", [mean_of_two, by_item, writing, pair, negative])
@pytest.mark.parametrize("batch_size", [7, 40])
def test_samples_have_their_own_losses(loss, batch_size):
    model, (x, y) = network(), data()
    objective = losspath.Objective(model, x, y, loss, batch_size=batch_size)
    found = SampleEngine(objective).at(vector_of(model))
    sign = -1 if loss is negative else 1
    np.testing.assert_allclose(found.sums, sign * own_losses(model, x, y), rtol=1e-5)
    np.testing.assert_array_equal(found.weights, 1.0)
    assert found.values == objective(vector_of(model)).values


def test_a_penalty_is_part_of_each_sample():
    model, (x, y) = network(), data()

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets) + model[0].weight.square().sum()

    found = SampleEngine(losspath.Objective(model, x, y, loss)).at(2 * vector_of(model))
    assert with_moments([found], [1.0]).metrics["deviation"] < found.loss / 5
    np.testing.assert_allclose(found.sums.mean(), found.loss, rtol=1e-5)


def test_tokens_weigh_samples():
    model, (x, _) = network(), data()
    targets = torch.randint(4, (N, 5), generator=torch.Generator().manual_seed(2))
    targets[::3, 2:] = -100

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, inputs):
            return self.inner(inputs)[:, :, None].expand(-1, -1, 5)

    def loss(outputs, targets):
        return (
            F.cross_entropy(outputs, targets, reduction="sum", ignore_index=-100),
            (targets != -100).sum(),
        )

    found = SampleEngine(losspath.Objective(Tokens(), x, targets, loss)).at(vector_of(model))
    np.testing.assert_array_equal(found.weights, (targets != -100).sum(dim=1))
    assert found.sums.sum() / found.weights.sum() == pytest.approx(found.loss, rel=1e-5)


def test_a_loss_that_is_no_mean_of_samples_is_one_of_batches():
    """Objectives refuse these unless they are told not to check."""
    model, (x, y) = network(), data()
    weighted = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0, 9.0]))
    with pytest.raises(ObjectiveError, match="8 batches or more"):
        SampleEngine(losspath.Objective(model, x, y, weighted, check=False)).at(vector_of(model))
    objective = losspath.Objective(model, x, y, weighted, batch_size=5, check=False)
    found = SampleEngine(objective).at(vector_of(model))
    assert len(found.sums) == 8  # batches: the loss of one sample has lost its weight
    assert found.sums.sum() / found.weights.sum() == pytest.approx(found.loss, rel=1e-6)


def test_batches_of_the_callers_are_what_is_drawn():
    model, (x, y) = network(), data()
    batches = list(zip(x.split(4), y.split(4), strict=True))
    made = losspath.Objective.of_batches(
        model, batches, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])
    )
    found = SampleEngine(made).at(vector_of(model))
    own = own_losses(model, x, y).reshape(10, 4).sum(axis=1)
    np.testing.assert_allclose(found.sums, own, rtol=1e-5)
    np.testing.assert_array_equal(found.weights, 4)


def test_a_loss_that_is_a_mean_here_and_not_there_is_refused():
    model, (x, y) = network(), data()

    def flooded(outputs, targets):
        return (F.cross_entropy(outputs, targets) - 1.3).abs() + 1.3

    engine = SampleEngine(losspath.Objective(model, x, y, flooded, check=False))
    engine.at(np.zeros(16))  # log 4 for all, and now some are below 1.3
    with pytest.raises(ObjectiveError, match="at some parameters and not at others"):
        engine.at(9 * vector_of(model))


def test_several_inputs_and_running_statistics():
    x, y = data()

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 4)

        def forward(self, one, other):
            return self.last(self.norm(one) + other)

    torch.manual_seed(0)
    model = Two()
    model(x, x)  # statistics
    objective = losspath.Objective(model, (x, 2 * x), y, F.cross_entropy, batch_size=7)
    found = SampleEngine(objective).at(vector_of(model))
    with torch.no_grad():
        expected = F.cross_entropy(model.eval()(x, 2 * x), y, reduction="none")
    np.testing.assert_allclose(found.sums, expected, rtol=1e-5)


def test_a_loss_that_is_not_finite_has_no_interval_and_spoils_no_other():
    model, (x, y) = network(), data()
    engine = SampleEngine(losspath.Objective(model, x, y, F.cross_entropy))
    bad = with_moments([engine.at(np.full(16, np.nan))], [1.0])
    assert math.isnan(bad.loss)
    assert math.isnan(bad.metrics["deviation"])
    good = with_moments([engine.at(vector_of(model))], [1.0])
    assert good.metrics["deviation"] > 0
    mixed = [engine.at(np.full(16, np.nan)), engine.at(vector_of(model))]
    assert math.isnan(with_moments(mixed, [0.5, 0.5], True).metrics["deviation"])


def evaluation(sums, weights=None):
    weights = np.ones(len(sums)) if weights is None else weights
    return SampledEvaluation(float(sums.sum() / weights.sum()), None, {}, sums, weights)


def test_the_deviation_is_the_standard_error_of_a_mean():
    losses = np.random.default_rng(0).exponential(size=50)
    metrics = with_moments([evaluation(losses)], [1.0]).metrics
    assert metrics["deviation"] == pytest.approx(losses.std(ddof=1) / math.sqrt(50))
    assert metrics["parts"] == 50
    assert 0.5 < metrics["skewness"] < 4
    assert influences(evaluation(losses)).mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_samples_that_are_in_all_of_a_points_vectors_count_once(logarithmic):
    """Against a bootstrap of the whole computation, with vectors whose losses go together."""
    generator = np.random.default_rng(1)
    base = generator.exponential(size=300)
    weights = generator.integers(1, 9, size=300).astype(float)
    rows = [scale * base * generator.uniform(0.5, 1.5, 300) * weights for scale in (1, 3, 10)]
    shares = [0.5, 0.3, 0.2]
    found = with_moments([evaluation(row, weights) for row in rows], shares, logarithmic)
    heights = []
    for _ in range(3000):
        drawn = generator.integers(300, size=300)
        losses = np.array([row[drawn].sum() / weights[drawn].sum() for row in rows])
        heights.append(np.exp(shares @ np.log(losses)) if logarithmic else shares @ losses)
    assert found.metrics["deviation"] == pytest.approx(np.std(heights), rel=0.06)
    own = [row.sum() / weights.sum() for row in rows]
    expected = math.exp(np.dot(shares, np.log(own))) if logarithmic else np.dot(shares, own)
    assert found.loss == pytest.approx(expected)


def test_many_samples_are_put_together_at_random(monkeypatch):
    monkeypatch.setattr(sampled, "_MOST", 50)
    model, (x, y) = network(), data(3000)
    order = torch.argsort(y)  # data in order, as of folders: neighbours are alike
    objective = losspath.Objective(model, x[order], y[order], F.cross_entropy)
    found = SampleEngine(objective).at(vector_of(model))
    assert len(found.sums) == 50
    assert found.weights.sum() == 3000
    expected = own_losses(model, x, y).std(ddof=1) / math.sqrt(3000)
    assert with_moments([found], [1.0]).metrics["deviation"] == pytest.approx(expected, rel=0.25)
