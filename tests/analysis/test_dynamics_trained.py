"""Dynamics are of what is trained, whatever else a path has in its rows."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective, Recorder, Trajectory, measure_dynamics
from losspath.errors import StoreError
from recording.old_format import row_of, write_run

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
STEPS = 6


class Model(nn.Module):
    """A frozen layer, running statistics, and a layer that is trained."""

    def __init__(self):
        super().__init__()
        self.frozen, self.norm, self.last = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.frozen.requires_grad_(False)
        self.norm.requires_grad_(False)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.frozen(x))))


def loss_of(model):
    return F.cross_entropy(model(X), Y)


def expected(model):
    """Norm of the gradient, and largest eigenvalue of the Hessian, by plain torch."""
    model.eval()
    parameters = [model.last.weight, model.last.bias]
    norm = torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(model), parameters)]).norm()

    def loss_at(weight, bias):
        values = {"last.weight": weight, "last.bias": bias}
        return F.cross_entropy(torch.func.functional_call(model, values, (X,)), Y)

    blocks = torch.autograd.functional.hessian(loss_at, tuple(parameters))
    rows = [
        torch.cat([b.reshape(p.numel(), -1) for b in row], 1)
        for p, row in zip(parameters, blocks, strict=True)
    ]
    model.train()
    return float(norm), float(torch.linalg.eigvalsh(torch.cat(rows))[-1])


def train(after):
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD([model.last.weight, model.last.bias], 0.5)
    found = []

    def done(loss):
        after(model, loss)
        found.append(expected(model))

    done(None)
    for _ in range(STEPS):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done(loss.item())
    return model, np.array(found)


def record(directory, parameters):
    recorders = []

    def after(model, loss):
        if loss is None:
            recorders.append(Recorder(directory, model, parameters=parameters))
        else:
            recorders[0].record(loss)

    found = train(after)
    recorders[0].close()
    return found


def write_first_format(directory):
    rows, losses = [], []

    def after(model, loss):
        rows.append(row_of(model))
        losses.extend([] if loss is None else [loss])

    model, found = train(after)
    write_run(directory, model, rows, range(STEPS + 1), losses, [(STEPS + 1, STEPS, True)])
    return model, found


RUNS = {
    "trainable": lambda directory: record(directory, "trainable"),
    "all": lambda directory: record(directory, "all"),
    "format 1": write_first_format,
}


@pytest.mark.parametrize("kind", RUNS)
def test_frozen_parameters_in_the_rows_have_no_share(tmp_path, kind):
    model, right = RUNS[kind](tmp_path / "run")
    path = Trajectory(tmp_path / "run")
    assert path.parameter_count == (8 if kind == "trainable" else 29)
    found = measure_dynamics(path, Objective(model, X, Y, F.cross_entropy), STEPS + 1)
    np.testing.assert_allclose(found.gradient_norm, right[:, 0], rtol=1e-4)
    np.testing.assert_allclose(found.sharpness, right[:, 1], rtol=1e-3)
    assert found.provenance["parameters"] == path.parameter_count
    assert found.provenance["trained_parameters"] == 8


def test_rows_of_all_parameters_as_an_array_are_read_as_the_path_is(tmp_path):
    model, _ = record(tmp_path / "run", "all")
    path = Trajectory(tmp_path / "run")
    objective = Objective(model.eval(), X, Y, F.cross_entropy, buffers="model")
    found, of_array = (measure_dynamics(each, objective, 3) for each in (path, path[:]))
    np.testing.assert_array_equal(found.gradient_norm, of_array.gradient_norm)
    np.testing.assert_array_equal(found.sharpness, of_array.sharpness)


def test_frozen_parameters_have_the_numbers_of_their_state(tmp_path):
    model, right = record(tmp_path / "run", "all")
    with torch.no_grad():
        model.frozen.weight.mul_(3.0)  # since the recording
    path, objective = Trajectory(tmp_path / "run"), Objective(model, X, Y, F.cross_entropy)
    found = measure_dynamics(path, objective, STEPS + 1)
    np.testing.assert_allclose(found.gradient_norm, right[:, 0], rtol=1e-4)


def test_a_model_in_which_nothing_requires_a_gradient_has_all(tmp_path):
    model, _ = record(tmp_path / "run", "all")
    path, objective = Trajectory(tmp_path / "run"), Objective(model, X, Y, F.cross_entropy)
    some = measure_dynamics(path, objective, 2, checkpoint=tmp_path / "some.points")
    model.requires_grad_(False)
    objective = Objective(model, X, Y, F.cross_entropy)
    with pytest.raises(StoreError, match="of another computation"):
        measure_dynamics(path, objective, 2, checkpoint=tmp_path / "some.points")
    every = measure_dynamics(path, objective, 2)
    assert every.provenance["trained_parameters"] == 29
    assert (every.gradient_norm > some.gradient_norm).all()


def test_complex_and_half_parameters_that_are_frozen_are_held_as_they_are(tmp_path):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.wave = nn.Parameter(torch.randn(3, dtype=torch.complex64), requires_grad=False)
            self.scale = nn.Parameter(torch.ones(3, dtype=torch.bfloat16) * 2, requires_grad=False)
            self.last = nn.Linear(3, 2)

        def forward(self, x):
            return self.last(x[:, :3] * self.wave.abs() * self.scale.float())

    torch.manual_seed(0)
    model = Mixed()
    with Recorder(
        tmp_path / "run", model, parameters="all", allow_complex=True, dtype="float32"
    ) as recorder:
        for _ in range(2):
            with torch.no_grad():
                model.last.weight.add_(0.1)
            recorder.record(1.0)
    right = torch.autograd.grad(loss_of(model), list(model.last.parameters()))
    norm = torch.cat([g.flatten() for g in right]).norm().item()
    found = measure_dynamics(
        Trajectory(tmp_path / "run"), Objective(model, X, Y, F.cross_entropy), 2
    )
    assert found.gradient_norm[-1] == pytest.approx(norm, rel=1e-4)
    assert found.provenance["trained_parameters"] == 8
