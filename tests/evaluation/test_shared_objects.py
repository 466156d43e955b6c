"""What a model leaves in objects outside of it for its loss; models that are not copied."""

import copy
import functools
import threading
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective, Recorder, Trajectory, compute_surface, measure_dynamics
from losspath.surface import evaluate_states

ce = F.cross_entropy
X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def trained(directory, model, loss, steps=6, rate=0.3):
    """A run of full batches, whose losses are those of its states."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], rate)
    with Recorder(directory, model) as recorder:
        for _ in range(steps):
            value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            recorder.record(value.item())
    return Trajectory(directory)


class Features:
    """Keeps what a layer puts out."""

    def __init__(self, layer, kind):
        hook = self.keep if kind == "method" else functools.partial(self.keep)
        layer.register_forward_hook(hook)

    def keep(self, module, inputs, output):
        self.value = output


class Extractor(nn.Module):
    """A module around a model, whose method is a hook of it."""

    def __init__(self, model):
        super().__init__()
        self.model, self.found = model, {}
        model[0].register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.found["value"] = output


class Collecting(nn.Module):
    """Adds an auxiliary loss to an object that it was given."""

    def __init__(self, store, put):
        super().__init__()
        self.body, self.head, self.store, self.put = nn.Linear(8, 8), nn.Linear(8, 2), store, put

    def forward(self, x):
        hidden = self.body(x).tanh()
        self.put(self.store, hidden.pow(2).mean())
        return self.head(hidden)


def plain():
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


def case(kind):
    """A model, and a loss that reads what a pass left outside of it."""
    torch.manual_seed(0)
    if kind in ("method", "partial"):
        model = plain()
        features = Features(model[0], kind)
        return model, lambda o, t: ce(o, t) + 0.5 * features.value.pow(2).mean(), features
    if kind == "extractor":
        model = plain()
        extractor = Extractor(model)
        return model, lambda o, t: ce(o, t) + 0.5 * extractor.found["value"].pow(2).mean(), None
    if kind == "list":
        store = []

        def loss(o, t):
            penalty = sum(store)
            store.clear()
            return ce(o, t) + 0.5 * penalty

        return Collecting(store, list.append), loss, store
    if kind == "dict":
        store = {}
        model = Collecting(store, lambda s, v: s.update(v=v))
        return model, lambda o, t: ce(o, t) + 0.5 * store["v"], store
    store = types.SimpleNamespace()
    model = Collecting(store, lambda s, v: setattr(s, "v", v))
    return model, lambda o, t: ce(o, t) + 0.5 * store.v, store


@pytest.mark.parametrize("kind", ["method", "partial", "extractor", "list", "dict", "namespace"])
def test_what_a_pass_leaves_outside_of_the_model_is_that_of_the_vector(kind, tmp_path):
    model, loss, store = case(kind)
    path = trained(tmp_path / "run", model, lambda: loss(model(X), Y))
    before = copy.copy(vars(store)) if hasattr(store, "__dict__") else copy.copy(store)
    for objective in (
        Objective(model, X, Y, loss),
        Objective.of_batches(model, [(X, Y)], lambda m, b: loss(m(b[0]), b[1])),
    ):
        found = [objective(path[i]).loss for i in (5, 0, 3)]
        np.testing.assert_allclose(found, path.all_losses[[5, 0, 3]], rtol=1e-5)
    surface = compute_surface(path, objective, "sampled", 3, states=4)
    index = surface.states.index[:-1]
    np.testing.assert_allclose(surface.states.loss[:-1], path.all_losses[index], rtol=1e-5)
    after = vars(store) if hasattr(store, "__dict__") else store
    same = before.items() if isinstance(before, dict) else enumerate(before or ())
    assert all(after[name] is value for name, value in same)
    assert len(after or ()) == len(before or ())
    gradient = measure_dynamics(path, Objective(model, X, Y, loss), 2).gradient_norm[-1]
    own = torch.autograd.grad(loss(model(X), Y), list(model.parameters()))
    assert gradient == pytest.approx(float(sum(g.pow(2).sum() for g in own)) ** 0.5, rel=1e-4)


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self, lock=True, frozen=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        self.net[0].requires_grad_(not frozen)
        if lock:
            self.lock = threading.Lock()

    def forward(self, x):
        return self.net(x)


def numbers(model):
    return [tensor.clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_model_that_cannot_be_copied_keeps_its_buffers_and_has_those_of_states(frozen, tmp_path):
    results = []
    for lock in (True, False):
        torch.manual_seed(0)
        model = Locked(lock, frozen)
        path = trained(tmp_path / f"{lock}", model, lambda m=model: ce(m.train()(X), Y))
        torch.manual_seed(9)
        for used in (model, Locked(lock, frozen)):  # another one, with other frozen weights
            objective, before = Objective(used, X, Y, ce), numbers(used)
            dynamics = measure_dynamics(path, objective, 3)
            surfaces = [
                compute_surface(path, objective, m, 3, states=3) for m in ("pca", "sampled")
            ]
            losses = evaluate_states(path, objective, np.arange(len(path))).loss
            assert all(map(torch.equal, numbers(used), before))
            results.append(
                np.concatenate(
                    [dynamics.sharpness, dynamics.gradient_norm, losses]
                    + [surface.loss.reshape(-1) for surface in surfaces]
                )
            )
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=2e-3)
        np.testing.assert_allclose(other[3:], results[0][3:], rtol=1e-4)


class Rotary(nn.Module):
    """A table that grows with the pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.ones(1))
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        if self.training:
            self.table = torch.linspace(1, 2, len(self.table) + 1)
        return self.inner(x) * self.table.mean()


@pytest.mark.filterwarnings("error::losspath.LosspathWarning")
def test_buffers_inside_a_wrapped_part_are_found(tmp_path):
    torch.manual_seed(0)
    wrapped = nn.DataParallel(nn.Sequential(Rotary(), nn.BatchNorm1d(8)))
    model = nn.Sequential(wrapped, nn.Linear(8, 2))
    models = [copy.deepcopy(model)]

    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    with Recorder(tmp_path / "run", model) as recorder:
        for _ in range(4):
            value = ce(model.train()(X), Y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            recorder.record(value)
            models.append(copy.deepcopy(model))
    path = Trajectory(tmp_path / "run")
    with torch.no_grad():
        expected = [float(ce(m.eval()(X), Y)) for m in models]
    objective = Objective(model, X, Y, ce)
    found = evaluate_states(path, objective, np.arange(5)).loss
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert objective.notes == []
