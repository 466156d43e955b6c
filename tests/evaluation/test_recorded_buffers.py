"""States are evaluated with the buffers that were recorded with them; blends with blends."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import (
    Objective,
    Recorder,
    Trajectory,
    compute_surface,
    fit_plane,
    interpolate,
    measure_dynamics,
)
from losspath.errors import LosspathWarning, ModelError, ObjectiveError
from losspath.evaluation.recorded import along
from losspath.figures.style import describe_origin
from losspath.methods import Averaged
from losspath.surface import evaluate_states

ce = F.cross_entropy


class Residual(nn.Module):
    """A small residual network with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv, self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.first(self.stem(x)))
        x = F.relu(x + self.second(self.conv(x)))
        return self.head(x.mean(dim=(2, 3)))


class Permuted(nn.Module):
    """An integer buffer that decides what the network computes, and a mask."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("order", torch.randperm(16, generator=generator))
        self.register_buffer("mask", torch.rand(16, generator=generator) > 0.3)
        self.body = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        return self.body((x.flatten(1) * self.mask)[:, self.order])


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(48, 1, 4, 4, generator=generator) * 2 + 1
    return x, (x[:, 0, 0, 0] > 1).long()


X, Y = data()


def recorded(directory, model, steps=8, every=1):
    """A run, and the model as its owner had it at each recorded state."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], 0.2, momentum=0.5
    )
    models = [copy.deepcopy(model)]
    with Recorder(directory, model, every=every) as recorder:
        for step in range(steps):
            model.train()
            loss = ce(model(X[step % 3 :: 3]), Y[step % 3 :: 3])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
            models.append(copy.deepcopy(model))
    return Trajectory(directory), models


def owners_loss(model, x=X, y=Y):
    with torch.no_grad():
        return float(ce(model.eval()(x), y))


@pytest.fixture(params=["residual", "permuted", "frozen"])
def run(request, tmp_path):
    torch.manual_seed(0)
    if request.param == "permuted":
        return (*recorded(tmp_path / "run", Permuted(3)), Permuted(9))
    model = Residual()
    if request.param == "frozen":
        model.stem.requires_grad_(False)
    path, models = recorded(tmp_path / "run", model)
    return path, models, Residual()  # a fresh model, as a function that makes one has it


@pytest.mark.parametrize("whose", ["trained", "fresh"])
def test_dots_have_the_loss_of_the_model_at_that_step(run, whose):
    path, models, fresh = run
    model = models[-1] if whose == "trained" else fresh
    objective = Objective(model, X, Y, ce)
    expected = [owners_loss(copy.deepcopy(m)) for m in models]
    found = evaluate_states(path, objective, np.arange(len(path)))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    window = path.window(2, 7, 2)
    found = evaluate_states(window, objective, np.arange(len(window)))
    np.testing.assert_allclose(found.loss, expected[2:7:2], rtol=1e-5)


def test_a_surface_says_whose_buffers_and_has_blends_of_them(tmp_path):
    torch.manual_seed(0)
    path, models = recorded(tmp_path / "run", Residual())
    objective = Objective(models[0], X, Y, ce)
    plane = fit_plane(path)
    surface = compute_surface(path, objective, Averaged(), 5, plane=plane, states=4)
    assert surface.provenance["buffers"] == "recorded"
    # By hand: weights, the mean of the buffers, their blend.
    from losspath.geometry.blend import blend
    from losspath.geometry.grid import Grid

    grid = Grid.around(plane.path.coordinates, 5)
    weights = Averaged().weights(grid.points, plane.path)
    names = ["first.running_mean", "first.running_var", "second.running_mean", "second.running_var"]
    buffers = {
        n: np.stack([path.buffers(i)[n].astype(float) for i in range(len(path))]) for n in names
    }
    vectors = list(blend(path, plane, grid.points, weights))
    for number in (0, 7, 12, 24):
        model = copy.deepcopy(models[0])
        torch.nn.utils.vector_to_parameters(
            torch.from_numpy(vectors[number].astype(np.float32)), model.parameters()
        )
        left = 1 - weights[number].sum()
        for name, values in buffers.items():
            value = weights[number] @ values + left * values.mean(axis=0)
            module, attribute = name.split(".")
            getattr(getattr(model, module), attribute).copy_(torch.from_numpy(value))
        assert surface.loss.reshape(-1)[number] == pytest.approx(owners_loss(model), rel=1e-5)


def test_pca_has_the_mean_of_the_buffers(tmp_path):
    torch.manual_seed(0)
    path, models = recorded(tmp_path / "run", Residual())
    plane = fit_plane(path)
    surface = compute_surface(path, Objective(models[0], X, Y, ce), "pca", 3, plane=plane, states=2)
    model = copy.deepcopy(models[0])
    middle = plane.origin + plane.basis @ [surface.x[1], surface.y[1]]
    torch.nn.utils.vector_to_parameters(
        torch.from_numpy(middle.astype(np.float32)), model.parameters()
    )
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            values = [path.buffers(i)[name] for i in range(len(path))]
            buffer.copy_(torch.from_numpy(np.mean(values, axis=0)))
    assert surface.loss[1, 1] == pytest.approx(owners_loss(model), rel=1e-5)


@pytest.mark.parametrize("buffers", ["model", "recalibrated"])
def test_other_buffers_on_request(tmp_path, buffers):
    torch.manual_seed(0)
    path, models = recorded(tmp_path / "run", Residual())
    objective = Objective(models[3], X, Y, ce, buffers=buffers, batch_size=16)
    found = evaluate_states(path, objective, np.array([0, 5]))
    for loss, index in zip(found.loss, (0, 5), strict=True):
        model = copy.deepcopy(models[3])
        model.load_state_dict(dict(models[index].named_parameters()), strict=False)
        if buffers == "recalibrated":
            loader = [X[i : i + 16] for i in (0, 16, 32)]
            torch.optim.swa_utils.update_bn(loader, model)
        assert loss == pytest.approx(owners_loss(model), rel=1e-5)
    surface = compute_surface(path, objective, "pca", 3, states=2)
    assert surface.provenance["buffers"] == buffers


def test_a_line_blends_buffers_with_the_parameters(run):
    path, models, fresh = run
    line = interpolate(path, Objective(fresh, X, Y, ce), alphas=[0.0, 0.4, 1.0], layers=True)
    assert line.loss[0, 0] == pytest.approx(owners_loss(copy.deepcopy(models[0])), rel=1e-5)
    assert line.loss[0, 2] == pytest.approx(owners_loss(copy.deepcopy(models[-1])), rel=1e-5)
    model = copy.deepcopy(models[-1])
    first = models[0].state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(0.6 * first[name] + 0.4 * value)
    assert line.loss[0, 1] == pytest.approx(owners_loss(model), rel=1e-5)


def test_a_line_beyond_its_ends_has_the_buffers_of_the_nearer(tmp_path):
    torch.manual_seed(0)
    path, models = recorded(tmp_path / "run", Residual())
    line = interpolate(path, Objective(models[3], X, Y, ce), alphas=[-0.3, 1.0, 1.3])
    first, second = path[0].astype(float), path[-1].astype(float)
    for column, alpha, nearer in ((0, -0.3, models[0]), (2, 1.3, models[-1])):
        model = copy.deepcopy(nearer)
        vector = torch.from_numpy(first + alpha * (second - first)).float()
        torch.nn.utils.vector_to_parameters(vector, model.parameters())
        assert line.loss[0, column] == pytest.approx(owners_loss(model), rel=1e-5)
    # One layer alone: all others stay at the second state, with its buffers.
    model = copy.deepcopy(models[-1])
    model.second.load_state_dict(models[0].second.state_dict())
    with torch.no_grad():
        for value, other in zip(
            model.second.parameters(), models[-1].second.parameters(), strict=True
        ):
            value.copy_(value - 0.3 * (other - value))
    found = line.loss[line.names.index("second"), 0]
    assert found == pytest.approx(owners_loss(model), rel=1e-5)


def test_captions_say_whose_buffers_a_line_and_a_surface_have(tmp_path):
    torch.manual_seed(0)
    path, models = recorded(tmp_path / "run", Residual())
    objective = Objective(models[3], X, Y, ce)
    line = interpolate(path, objective, layers=False)
    assert "blended between them, as they are beyond" in describe_origin(line.provenance)
    surface = compute_surface(path, objective, "pca", 3, states=2)
    assert "each state, and blends of them" in describe_origin(surface.provenance)
    line = interpolate(path, Objective(models[3], X, Y, ce, buffers="model"), layers=False)
    assert "the model's own" in describe_origin(line.provenance)


def test_derivatives_are_of_what_is_trained_and_with_its_buffers(run):
    path, models, fresh = run
    dynamics = measure_dynamics(path, Objective(fresh, X, Y, ce), 3)
    for number, index in enumerate(dynamics.index.tolist()):
        model = copy.deepcopy(models[index]).eval()
        trained = [p for p in model.parameters() if p.requires_grad]
        gradient = torch.autograd.grad(ce(model(X), Y), trained)
        norm = float(torch.cat([g.flatten() for g in gradient]).norm())
        assert dynamics.gradient_norm[number] == pytest.approx(norm, rel=1e-4)
        assert dynamics.loss[number] == pytest.approx(owners_loss(model), rel=1e-5)


def test_arrays_have_the_models_buffers(tmp_path):
    torch.manual_seed(0)
    path, models = recorded(tmp_path / "run", Residual())
    surface = compute_surface(path[:], Objective(models[3], X, Y, ce), "pca", 3, states=2)
    assert surface.provenance["buffers"] == "model"
    model = copy.deepcopy(models[3])
    model.load_state_dict(dict(models[0].named_parameters()), strict=False)
    assert surface.states.loss[0] == pytest.approx(owners_loss(model), rel=1e-5)


def test_another_network_is_refused_by_name(tmp_path):
    path, _ = recorded(tmp_path / "run", Residual())
    other = Residual()
    other.conv = nn.Conv2d(4, 4, 1, bias=False)
    with pytest.raises(ModelError, match=r"conv\.weight"):
        compute_surface(path, Objective(other, X, Y, ce), "pca", 3)


class Late(nn.Module):
    """A running mean that the first batch of training makes, in one of two ways."""

    def __init__(self, begins):
        super().__init__()
        self.head = nn.Linear(16, 2)
        if begins == "as None":
            self.register_buffer("mean", None)

    def forward(self, x):
        x = x.flatten(1)
        mean = getattr(self, "mean", None) if "mean" in self._buffers else 0.0
        if self.training:
            seen = x.mean(0).detach() + 1
            if isinstance(mean, torch.Tensor):
                self.mean = 0.9 * mean + 0.1 * seen
            elif "mean" in self._buffers:
                self.mean = seen
            else:
                self.register_buffer("mean", seen)
            mean = self.mean
        return self.head(x if mean is None else x - mean)


class Sized(nn.Module):
    """A buffer whose size is that of the last batch in training."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 2)
        self.register_buffer("seen", torch.ones(3))
        self.calls = 0

    def forward(self, x):
        if self.training:
            self.calls += 1
            self.seen = torch.full((3 + self.calls % 3,), 1.0 + 0.1 * self.calls)
        return self.head(x.flatten(1)) * self.seen.mean()


@pytest.mark.parametrize("whose", ["trained", "fresh"])
@pytest.mark.parametrize("kind", ["as None", "not at all", "sized"])
def test_buffers_that_come_late_or_change_their_form(tmp_path, kind, whose):
    torch.manual_seed(0)
    make = Sized if kind == "sized" else lambda: Late(kind)
    path, models = recorded(tmp_path / "run", make())
    objective = Objective(models[-1] if whose == "trained" else make(), X, Y, ce)
    expected = [owners_loss(copy.deepcopy(m)) for m in models]
    found = evaluate_states(path, objective, np.arange(len(path)))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    assert len(set(np.round(expected, 5))) == len(expected)
    line = interpolate(path, objective, alphas=[0, 1], layers=False)
    np.testing.assert_allclose(line.loss[0], [expected[0], expected[-1]], rtol=1e-5)
    for method in ("pca", "sampled"):
        surface = compute_surface(path, objective, method, 5, states=3)
        assert np.isfinite(surface.loss).all()
        assert surface.provenance["buffers"] == "recorded"
    # The grid has lines through both ends, at which `sampled` is the states themselves.
    ends = surface.at(surface.path[[0, -1]])
    np.testing.assert_allclose(ends, [expected[0], expected[-1]], rtol=1e-5)


def test_points_share_the_tensors_that_do_not_change(tmp_path):
    torch.manual_seed(0)
    model = Residual()
    model.stem.requires_grad_(False)
    path, models = recorded(tmp_path / "run", model)
    bound = along(Objective(models[0], X, Y, ce), path)
    one, other = bound.sides_of_points(np.eye(2), np.eye(9)[[2, 5]], np.zeros((9, 2)))
    assert one["stem.weight"] is other["stem.weight"]
    assert one["first.running_mean"] is not other["first.running_mean"]


def test_an_array_has_no_buffers_whatever_was_asked(tmp_path):
    torch.manual_seed(0)
    path, models = recorded(tmp_path / "run", Residual())
    objective = Objective(models[3], X, Y, ce, buffers="recorded")
    surface = compute_surface(path[:], objective, "pca", 3, states=2)
    assert surface.provenance["buffers"] == "model"


def test_a_buffer_of_a_module_that_the_model_lacks_is_told(tmp_path):
    torch.manual_seed(0)
    counted = Residual()
    counted.counter = nn.Module()
    counted.counter.register_buffer("count", torch.zeros(1))
    path, _ = recorded(tmp_path / "run", counted)
    objective = Objective(Residual(), X, Y, ce)
    with pytest.warns(LosspathWarning, match=r"no place for .* of buffers: counter\.count"):
        surface = compute_surface(path, objective, "pca", 3, states=2)
    assert any("counter.count" in note for note in surface.provenance["notes"])


class OwnNorm(nn.Module):
    """A normalisation of one's own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("fixed", torch.ones(16))
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean(0).detach())
        return self.head((x - self.mean) * self.fixed)


def test_statistics_that_are_not_estimated_anew_are_named():
    with pytest.warns(LosspathWarning, match="mean is changed by training, but not estimated anew"):
        objective = Objective(OwnNorm(), X, Y, ce, buffers="recalibrated")
    (note,) = objective.notes
    assert "fixed" not in note
    assert Objective(Residual(), X, Y, ce, buffers="recalibrated").notes == []


def test_a_batch_of_one_that_cannot_be_normalised_is_told():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    batches = [(X[:20], Y[:20]), (X[20:21], Y[20:21])]
    objective = Objective.of_batches(
        model, batches, lambda m, b: ce(m(b[0]), b[1]), buffers="recalibrated"
    )
    vector = torch.nn.utils.parameters_to_vector(model.parameters())
    with pytest.raises(ObjectiveError, match=r"\(1, 1, 4, 4\).*more than 1 value per channel"):
        objective(vector)
