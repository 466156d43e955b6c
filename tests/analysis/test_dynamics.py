"""Gradient descent on a bowl: every number is known, and so is what to call it."""

import numpy as np
import pytest
import torch
from torch import nn

from losspath import (
    Dynamics,
    LosspathError,
    Objective,
    judge_dynamics,
    measure_dynamics,
    step_cosines,
)
from losspath.analysis import dynamics
from losspath.errors import ArgumentError, PathError, StoreError


class Bowl(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.theta = nn.Parameter(torch.ones(len(values), dtype=torch.float64))
        self.register_buffer("values", torch.as_tensor(values, dtype=torch.float64))

    def forward(self, x):
        return ((self.values * self.theta**2).sum() / 2).expand(len(x), 1)


def objective_of(values):
    data = torch.zeros(3, 1, dtype=torch.float64)
    return Objective(Bowl(values), data, data, lambda outputs, _: outputs.mean())


def descend(values, rate, steps=60, noise=0.0):
    generator = np.random.default_rng(0)
    values = np.asarray(values, float)
    path = [np.ones(len(values))]
    for _ in range(steps):
        gradient = values * path[-1] + noise * generator.standard_normal(len(values))
        path.append(path[-1] - rate * gradient)
    return np.array(path)


VALUES = [4.0, 1.0]


def test_what_is_measured_is_what_a_bowl_has():
    path = descend(VALUES, 0.1)
    found = measure_dynamics(path, objective_of(VALUES), states=7)
    assert found.index.tolist() == [0, 10, 20, 30, 40, 50, 60]
    np.testing.assert_allclose(found.loss, (path[found.index] ** 2 @ VALUES) / 2)
    expected = np.linalg.norm(path[found.index] * VALUES, axis=1)
    np.testing.assert_allclose(found.gradient_norm, expected)
    np.testing.assert_allclose(found.sharpness, 4.0)


def test_cosines_of_successive_steps():
    path = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 3.0], [2.0, 1.0], [2.0, 1.0]])
    np.testing.assert_allclose(step_cosines(path), [1.0, 0.0, -1.0, np.nan])
    with pytest.raises(PathError, match="from three states"):
        step_cosines(path[:2])


def test_cosines_do_not_depend_on_how_a_path_is_read(monkeypatch):
    from losspath.geometry import pca

    path = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    whole = step_cosines(path)
    for block in (1, 200, 500, 10**6):
        monkeypatch.setattr(pca, "_BLOCK_BYTES", block)
        np.testing.assert_array_equal(step_cosines(path), whole)
    steps = np.diff(path.astype(float), axis=0)
    norms = np.linalg.norm(steps, axis=1)
    expected = (steps[1:] * steps[:-1]).sum(axis=1) / (norms[1:] * norms[:-1])
    np.testing.assert_allclose(whole, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("rate", "noise", "name"),
    [
        (0.05, 0.0, "smooth"),
        (0.48, 0.0, "oscillating"),
        (0.5, 0.0, "oscillating"),
        (0.55, 0.0, "overshooting"),
        (1e-5, 0.0, "stuck"),
        (0.05, 0.05, "smooth"),
    ],
)
def test_gradient_descent_is_read_as_what_it_is(rate, noise, name):
    # Along the steepest axis a step multiplies by 1 − 4·rate: 2/4 is the largest rate that holds.
    path = descend([4.0, 0.0], rate, noise=noise)
    assert judge_dynamics(measure_dynamics(path, objective_of([4.0, 0.0]))).name == name


def make(loss, cosines=None):
    count = len(loss)
    cosines = np.zeros(98) if cosines is None else cosines
    steps = np.linspace(0, 99, count).astype(np.int64)
    ones = np.ones(count)
    return Dynamics(steps, steps, np.array(loss, float), ones, ones, cosines, np.arange(100), {})


@pytest.mark.parametrize(
    ("loss", "cosine", "name"),
    [
        ([2.0, 1.5, 1.0, 0.5, 0.1], 0.0, "smooth"),
        ([2.0, 1.5, 1.0, 0.5, 0.1], -0.25, "unclear"),
        ([2.0, 0.5, 0.1, 0.101, 0.1], 0.0, "smooth"),
        ([2.0, 1.5, 1.0, 0.5, 0.1], -0.9, "oscillating"),
        ([2.0, 1.0, 1.4, 0.8, 1.2], 0.0, "unclear"),
        ([2.0, 1.0, 1.9, 0.8, 1.5], 0.0, "overshooting"),
        ([2.0, 1.0, 0.5, 0.2, 1.4, 1.0, 0.8, 0.6, 0.4], 0.0, "overshooting"),
        ([2.0, 1.0, 0.5, 0.2, 0.7, 0.5, 0.4, 0.3, 0.2], 0.0, "unclear"),
        ([2.0, 1.0, 0.5, 0.2, 0.5, 0.4, 0.3, 0.2, 0.1], 0.0, "smooth"),
        ([2.0, 1.99, 1.98, 1.99, 1.985], 0.0, "stuck"),
        ([2.0, 1.94, 1.92, 1.99, 1.95], 0.0, "stuck"),
        ([2.0, 1.0, 3.5, 1.0, 0.5], 0.0, "overshooting"),
        ([2.0, 1.0, np.nan, np.nan, np.nan], 0.0, "overshooting"),
        ([0.0, 0.0, 0.0, 0.0, 0.0], 0.0, "stuck"),
        ([2.0, 1.0, 0.1], 0.0, "unclear"),
        ([2.0, 9.0], 0.0, "overshooting"),
        ([2.0, 1.5, 1.0, 0.5, 0.1], np.nan, "smooth"),
    ],
)
def test_readings_follow_their_rules(loss, cosine, name):
    reading = judge_dynamics(make(loss, np.full(98, cosine)))
    assert reading.name == name
    assert str(reading).startswith(f"{name}: ")


def test_a_stopped_measurement_goes_on(tmp_path, monkeypatch):
    path, objective = descend(VALUES, 0.1), objective_of(VALUES)
    whole = measure_dynamics(path, objective, states=5)
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    file = tmp_path / "dynamics.points"
    with pytest.raises(KeyboardInterrupt):
        measure_dynamics(path, objective, states=5, checkpoint=file, progress=stop)
    assert seen == [(1, 5), (2, 5), (3, 5)]
    measured, of_a_state = [], dynamics.by_trained_parameters

    def counted(*arguments):
        measured.append(None)
        return of_a_state(*arguments)

    monkeypatch.setattr(dynamics, "by_trained_parameters", counted)
    again = measure_dynamics(path, objective, states=5, checkpoint=file)
    assert len(measured) == 2
    for name in ("loss", "gradient_norm", "sharpness"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_another_computations_checkpoint_is_not_believed(tmp_path):
    file = tmp_path / "dynamics.points"
    measure_dynamics(descend(VALUES, 0.1), objective_of(VALUES), states=5, checkpoint=file)
    with pytest.raises(StoreError, match="points of another computation"):
        measure_dynamics(descend(VALUES, 0.2), objective_of(VALUES), states=5, checkpoint=file)


def test_saved_and_loaded(tmp_path):
    found = measure_dynamics(descend(VALUES, 0.1), objective_of(VALUES), states=5)
    found.save(tmp_path / "dynamics.npz")
    again = Dynamics.load(tmp_path / "dynamics.npz")
    for name in ("index", "steps", "loss", "gradient_norm", "sharpness", "cosines", "path_steps"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert again.provenance == found.provenance


def test_binned_cosines_are_means_of_what_is_known():
    cosines = np.array([1.0, 0.0, np.nan, -1.0, np.nan, np.nan])
    found = make([1.0, 0.5], cosines)
    middles, means = found.binned_cosines(3)
    np.testing.assert_allclose(means, [0.5, -1.0, np.nan])
    assert (np.diff(middles) > 0).all()
    assert len(found.binned_cosines(100)[0]) == 6


def test_too_few_states_are_refused():
    with pytest.raises(ArgumentError, match="at least 2 states"):
        measure_dynamics(descend(VALUES, 0.1), objective_of(VALUES), states=1)
    with pytest.raises(LosspathError):
        measure_dynamics(descend(VALUES, 0.1)[:2], objective_of(VALUES))
