"""Barriers between states, against plain loops and known answers."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cases import objective_of
from losspath import Objective, Recorder, Trajectory
from losspath.analysis.barriers import Barriers, barriers
from losspath.errors import ArgumentError, ModelError

X = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()
ce = F.cross_entropy


def double_well(w):
    return (w[0] ** 2 - 1) ** 2 + w[1:].pow(2).sum()


def test_a_double_well_has_its_known_barrier():
    objective = objective_of(double_well, 4)
    states = {
        "left": np.array([-1.0, 0, 0, 0]),
        "right": np.array([1.0, 0, 0, 0]),
        "top": np.array([0.0, 0, 0, 0]),
    }
    found = barriers(states, objective, points=101)
    assert found.names == ("left", "right", "top")
    assert found.barrier[0, 1] == pytest.approx(1.0, abs=1e-12)
    # From the well to the top: (a² − 1)² − (1 − |a|) along a, at its largest.
    along = np.linspace(0, 1, 101)
    excess = ((1 - along) ** 2 - 1) ** 2 - along
    assert found.barrier[0, 2] == pytest.approx(excess.max(), rel=1e-9)
    np.testing.assert_array_equal(np.diag(found.barrier), 0.0)
    np.testing.assert_array_equal(found.barrier, found.barrier.T)
    np.testing.assert_allclose(found.values[0, 1], found.values[1, 0][::-1])


def test_rounding_makes_no_barrier():
    names = ("one", "other")
    for seed in range(50):
        ends = np.random.default_rng(seed).standard_normal(2)
        alpha = np.linspace(0, 1, 13)
        line = ends[0] + alpha * (ends[1] - ends[0]) + np.sin(alpha * np.pi) / 3
        same = np.broadcast_to(ends[:, None], (2, 13))
        values = np.stack([np.stack([same[0], line]), np.stack([line[::-1], same[1]])])
        found = Barriers(names, alpha, values, "loss", False, {})
        np.testing.assert_array_equal(np.diag(found.barrier), 0.0)
        np.testing.assert_array_equal(found.barrier, found.barrier.T)
        assert found.barrier[0, 1] == pytest.approx(1 / 3)


def below_the_line(seed, points=25):
    """Values of a convex line, which has no barrier."""
    first, last = np.random.default_rng(seed).uniform(0.1, 3, 2)
    alpha = np.linspace(0, 1, points)
    line = first + alpha * (last - first) - 0.05 * alpha * (1 - alpha)
    line[0], line[-1] = first, last
    return alpha, line


def barriers_along(alpha, line, provenance):
    values = np.stack([np.stack([np.full_like(line, line[0]), line])] * 2)
    values[1] = values[0, ::-1, ::-1]
    return Barriers(("one", "other"), alpha, values, "loss", False, provenance)


def test_rounding_of_the_line_is_no_barrier():
    for seed in range(200):
        found = barriers_along(*below_the_line(seed), {})
        assert found.barrier[0, 1] == 0.0
        assert found.excess[0, 1, 12] == pytest.approx(-0.0125)


def test_rounding_of_the_losses_is_no_barrier():
    """Half a unit in the last place of what a loss was evaluated in, and no more than that."""
    alpha = np.linspace(0, 1, 5)
    for precision, unit in (("float32", 2.0**-23), ("float64", 2.0**-52)):
        line = np.array([1.0, 1.0, 1.0 + unit, 1.0, 1.0])
        assert barriers_along(alpha, line, {"precision": precision}).barrier[0, 1] == 0.0
        line[2] = 1.0 + 3 * unit
        assert barriers_along(alpha, line, {"precision": precision}).barrier[0, 1] == 3 * unit
    line[2] = np.inf
    assert barriers_along(alpha, line, {}).barrier[0, 1] == np.inf
    line[2] = np.nan
    assert np.isnan(barriers_along(alpha, line, {}).barrier[0, 1])


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "float32"), ("float64", "float64")])
def test_the_precision_is_that_of_the_model(dtype, precision):
    model = nn.Linear(6, 2).to(getattr(torch, dtype))
    objective = Objective(model, X.to(model.weight.dtype), Y, ce)
    found = barriers({"one": np.zeros(14), "other": np.ones(14)}, objective, points=3)
    assert found.provenance["precision"] == precision
    assert found.rounding == 2 * np.finfo(precision).eps


def make():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def trained(directory, seed):
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    with Recorder(directory, model) as recorder:
        for _ in range(15):
            loss = ce(model(X), Y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
    return Trajectory(directory), model.eval()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("barriers")
    return [trained(home / f"seed{seed}", seed) for seed in range(3)]


def plainly(models, i, j, alpha, accuracy):
    """The blend of two networks, with statistics estimated over the data."""
    blend = copy.deepcopy(models[i])
    with torch.no_grad():
        for one, other in zip(blend.parameters(), models[j].parameters(), strict=True):
            one.mul_(1 - alpha).add_(other, alpha=alpha)
    torch.optim.swa_utils.update_bn([X[:40], X[40:]], blend)
    with torch.no_grad():
        out = blend.eval()(X)
    return float((out.argmax(1) == Y).float().mean()) if accuracy else float(ce(out, Y))


@pytest.mark.parametrize("quantity", ["loss", "accuracy"])
def test_runs_of_other_seeds_with_statistics_estimated_anew(runs, quantity):
    paths, models = [path for path, _ in runs], [model for _, model in runs]
    objective = Objective(make(), X, Y, ce, batch_size=40)
    found = barriers(paths, objective, points=5, quantity=quantity)
    assert found.names == ("seed0", "seed1", "seed2")
    is_accuracy = quantity == "accuracy"
    for i, j in ((0, 1), (2, 0), (1, 2)):
        expected = [plainly(models, i, j, alpha, is_accuracy) for alpha in found.alpha]
        np.testing.assert_allclose(found.values[i, j], expected, rtol=1e-4, atol=1e-6)
        line = np.interp(found.alpha, [0, 1], [expected[0], expected[-1]])
        worse = line - expected if is_accuracy else expected - line
        assert found.barrier[i, j] == pytest.approx(max(worse), abs=1e-4)
    assert (found.barrier >= 0).all()
    assert found.provenance["buffers"] == "recalibrated"
    kept = barriers(paths, objective.with_buffers("model"), points=3)
    assert kept.provenance["buffers"] == "model"


class Backbone(nn.Module):
    """A layer that is never trained, with a buffer that training writes, and a head."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(6, 8).requires_grad_(False)
        self.register_buffer("scale", torch.ones(8))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        if self.training:
            self.scale = self.scale * 0.9
        return self.head(torch.tanh(self.frozen(x)) * self.scale)


@pytest.mark.parametrize("buffers", [None, "model"])
def test_each_run_has_its_own_frozen_parameters_and_buffers(tmp_path, buffers):
    paths, models = [], []
    for seed in range(2):
        torch.manual_seed(seed)
        model = Backbone()
        optimizer = torch.optim.SGD(model.head.parameters(), 0.3)
        with Recorder(tmp_path / f"seed{seed}", model) as recorder:
            for _ in range(3 + seed):
                loss = ce(model(X), Y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.record(loss)
        paths.append(Trajectory(tmp_path / f"seed{seed}"))
        models.append(model.eval())
    own = Backbone().eval()
    vector = np.asarray(paths[0][0])
    found = barriers([*paths, vector], Objective(own, X, Y, ce, buffers=buffers), points=5)

    def expected(i, j, alpha):
        blend = copy.deepcopy(own)
        one, other = (models[k].state_dict() for k in (i, j))
        names = one if buffers is None else ("head.weight", "head.bias")
        blended = {name: one[name].lerp(other[name], alpha) for name in names}
        blend.load_state_dict(blended, strict=False)
        with torch.no_grad():
            return float(ce(blend(X), Y))

    for i, j in ((0, 0), (1, 1), (0, 1), (1, 0)):
        values = [expected(i, j, alpha) for alpha in found.alpha.tolist()]
        np.testing.assert_allclose(found.values[i, j], values, rtol=1e-5)
    with torch.no_grad():  # a vector has what the model has
        own.head.weight.copy_(torch.as_tensor(vector[:16]).view(2, 8))
        own.head.bias.copy_(torch.as_tensor(vector[16:]))
        assert found.values[2, 2, 0] == pytest.approx(float(ce(own(X), Y)), rel=1e-5)


def test_they_are_saved_and_gone_on_with(runs, tmp_path):
    paths = [path for path, _ in runs]

    def again(**options):
        objective = Objective(make_known(), X, Y, ce, metrics={"top": lambda o, t: o.abs().mean()})
        return barriers(paths, objective, points=4, quantity="top", **options)

    def make_known():
        torch.manual_seed(0)
        return make()

    whole = again()
    stop = {"left": 5}

    def stopping(done, total):
        assert total == 3 + 3 * 2
        stop["left"] -= 1
        if not stop["left"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(checkpoint=tmp_path / "points", progress=stopping)
    np.testing.assert_array_equal(again(checkpoint=tmp_path / "points").values, whole.values)
    whole.save(tmp_path / "barriers.npz")
    loaded = Barriers.load(tmp_path / "barriers.npz")
    np.testing.assert_array_equal(loaded.values, whole.values)
    assert (loaded.names, loaded.quantity, loaded.provenance["key"]) == (
        whole.names,
        "top",
        whole.provenance["key"],
    )


def test_what_is_no_set_of_states_is_refused(runs):
    path, model = runs[0]
    objective = Objective(model, X, Y, ce)
    with pytest.raises(ArgumentError, match="at least two states"):
        barriers([path], objective)
    with pytest.raises(ArgumentError, match="one of loss, accuracy, got 'perplexity'"):
        barriers([path, path[0]], objective, points=3, quantity="perplexity")
    with pytest.raises(ModelError, match=r"other: .*numbers"):
        barriers({"run": path, "other": np.zeros(7)}, objective)
