import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import losspath
from cases import descent, noise_off_the_plane, objective_of, projection, projection_of
from losspath import Landscape, fit_plane
from losspath.errors import ArgumentError
from losspath.methods import LocalDraws

PATH = descent(12, 6)
SHOWN = projection_of(fit_plane(PATH))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), draws=st.sampled_from([2, 4, 16]))
def test_draws_have_the_mean_of_states_and_their_rows_sum_to_one(seed, draws):
    rng = np.random.default_rng(seed)
    shown = projection(rng.normal(size=(15, 2)))
    method, points = LocalDraws(draws=draws, bandwidth=0.5), rng.normal(size=(6, 2))
    lift = method.lift(points, shown)
    np.testing.assert_allclose(lift.weights.sum(axis=1), 1.0, rtol=1e-9)
    means = lift.weights.reshape(6, draws, 15).mean(axis=1)
    np.testing.assert_allclose(means, method.weights(points, shown), atol=1e-12)
    np.testing.assert_array_equal(lift.places, np.repeat(points, draws, axis=0))


def test_draws_have_the_covariance_of_states():
    rng = np.random.default_rng(0)
    shown, residuals = projection(rng.normal(size=(9, 2))), rng.normal(size=(9, 3))
    method = LocalDraws(draws=40_000, bandwidth=0.7)
    point = np.array([[0.2, -0.1]])
    drawn = method.lift(point, shown).weights @ residuals
    (weights,) = method.weights(point, shown)
    expected = np.cov(residuals.T, aweights=weights, ddof=0)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.03)
    # The mean square is that of the states, for any bandwidth.
    square = np.square(drawn).sum(axis=1).mean()
    assert square == pytest.approx(weights @ np.square(residuals).sum(axis=1), rel=0.03)


def test_a_narrow_bandwidth_has_the_state_itself():
    method = LocalDraws(bandwidth=1e-3)
    landscape = Landscape(PATH, objective_of(lambda w: 1 + (3 * w).sin().square().sum(), 6), method)
    found = [each.loss for each in landscape.evaluate(landscape.projection.coordinates)]
    own = 1 + np.square(np.sin(3 * PATH)).sum(axis=1)
    np.testing.assert_allclose(found, own, rtol=1e-5)


def test_it_tells_the_expected_loss_where_a_blend_does_not():
    path, plane, objective, places, expected = noise_off_the_plane()
    for bandwidth in ("auto", 0.5, 3.0):
        method = LocalDraws(bandwidth=bandwidth, draws=64)
        found = Landscape(path, objective, method, plane=plane).evaluate(places)
        ratio = np.mean([each.loss for each in found] / expected)
        assert ratio == pytest.approx(1.0, abs=0.05)


def test_it_comes_to_the_expected_loss_as_draws_grow():
    path, plane, objective, places, expected = noise_off_the_plane()
    off = []
    for draws in (2, 16, 128):
        method = LocalDraws(bandwidth=0.5, draws=draws)
        found = Landscape(path, objective, method, plane=plane).evaluate(places)
        apart = np.log([each.loss for each in found] / expected)
        off.append(float(np.sqrt(np.mean(np.square(apart)))))
    assert off[1] < 0.75 * off[0]
    assert off[2] < off[1]


def test_draws_have_the_buffers_of_the_mean(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)
    )
    inputs, targets = 3 * torch.randn(60, 4) + 2, torch.randint(3, (60,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with losspath.Recorder(tmp_path / "run", model) as recorder:
        for start in range(0, 60, 5):
            loss = F.cross_entropy(model(inputs[start : start + 5]), targets[start : start + 5])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
    path = losspath.Trajectory(tmp_path / "run")
    wide, narrow = (
        Landscape(path, objective, LocalDraws(bandwidth=bandwidth, draws=16))
        for bandwidth in (1e3, 1e-6)
    )
    # Draws of far states have signed weights, by which a variance would be below zero.
    found = wide.evaluate(wide.projection.coordinates)
    assert np.isfinite([each.loss for each in found]).all()
    own = narrow.states(len(path))
    found = narrow.evaluate(narrow.projection.coordinates[own.index])
    np.testing.assert_allclose([each.loss for each in found], own.loss, rtol=1e-5)


def test_options_that_are_none_are_refused():
    for option, value in [
        ("draws", 3),
        ("draws", 0),
        ("bandwidth", 0),
        ("mean", "x"),
        ("seed", -1),
    ]:
        with pytest.raises(ArgumentError, match=option):
            LocalDraws(**{option: value})
