"""Planes beside the principal one: known answers."""

import numpy as np
import pytest
import torch

from cases import PROBLEMS, descent, named, objective_of
from losspath import Landscape, Objective, Recorder, Trajectory, fit_plane
from losspath.errors import ArgumentError, PathError, UnsupportedError
from losspath.parameters import Layout, flatten_parameters
from losspath.planes import (
    PLANES,
    hessian_plane,
    plane_named,
    random_plane,
    states_plane,
    windows_plane,
)

DESCENT = PROBLEMS[0]


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3),
        torch.nn.BatchNorm2d(3),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 4),
    )


def state_of(model):
    layout = Layout.of(model)
    return layout, flatten_parameters(model, layout).astype(np.float64)


def rows_of(layout, vector, name):
    (entry,) = [entry for entry in layout.parameters if entry.name == name]
    return vector[entry.place].reshape(entry.shape[0], -1)


@pytest.mark.parametrize("normalisation", ["filter", "layer", "model"])
@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_directions_have_the_norms_of_the_state_and_are_orthogonal(
    normalisation, vectors, seed
):
    layout, state = state_of(network())
    plane = random_plane(state, layout, normalisation=normalisation, vectors=vectors, seed=seed)
    first, second = plane.basis.T
    assert abs(first @ second) < 1e-12
    np.testing.assert_allclose(np.linalg.norm(plane.basis, axis=0), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(plane.project(state), [0.0, 0.0])
    moving = [e for e in layout.parameters if vectors or len(e.shape) > 1]
    length = np.linalg.norm(np.concatenate([state[e.place] for e in moving]))
    for entry in layout.parameters:
        if entry not in moving:
            assert not plane.basis[entry.place].any()
    for name in ("0.weight", "3.weight"):
        own, one, other = (rows_of(layout, v, name) for v in (state, first, second))
        if normalisation == "filter":
            norms = np.linalg.norm(own, axis=1)
            np.testing.assert_allclose(np.linalg.norm(one, axis=1) * length, norms, rtol=1e-9)
            ratio = np.linalg.norm(other, axis=1) / norms
            np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
        elif normalisation == "layer":
            assert np.linalg.norm(one) * length == pytest.approx(np.linalg.norm(own), rel=1e-9)
    assert np.linalg.norm(first - random_plane(state, layout, seed=seed + 1).basis[:, 0]) > 0.1


def test_a_filter_of_zeros_stays_where_it_is():
    model = network()
    with torch.no_grad():
        model[0].weight[1] = 0.0
    layout, state = state_of(model)
    plane = random_plane(state, layout)
    assert np.isfinite(plane.basis).all()
    assert not rows_of(layout, plane.basis[:, 0], "0.weight")[1].any()


def test_what_has_no_scale_is_refused():
    layout, state = state_of(network())
    with pytest.raises(ArgumentError, match="not zero"):
        random_plane(np.zeros_like(state), layout)
    with pytest.raises(ArgumentError, match="as the layout has"):
        random_plane(state[1:], layout)


@pytest.mark.parametrize("problem", PROBLEMS[:5], ids=named)
def test_a_plane_goes_through_its_three_states(problem):
    states = np.asarray(problem.path, np.float64)[[0, len(problem.path) // 2, -2]]
    plane = states_plane(states)
    shown = plane.projection(states)
    np.testing.assert_allclose(shown.residual_norms, 0.0, atol=1e-7 * np.abs(states).max())
    np.testing.assert_allclose(shown.coordinates[:, 1][:2], 0.0, atol=1e-10)
    assert shown.coordinates[0, 0] == 0.0
    assert shown.coordinates[2, 1] > 0
    apart = np.linalg.norm(states[1] - states[0])
    assert shown.coordinates[1, 0] == pytest.approx(apart, rel=1e-12)
    landscape = Landscape(states, problem.objective(), "pca", plane=plane)
    found = landscape.evaluate(shown.coordinates)
    for state, each in zip(states, found, strict=True):
        assert each.loss == pytest.approx(problem.loss(state), rel=1e-6)


def test_states_on_a_line_have_no_plane():
    with pytest.raises(PathError, match="not on a line"):
        states_plane(np.outer([0.0, 1.0, 3.0], [1.0, 2.0, 3.0]))
    with pytest.raises(PathError, match="not on a line"):
        states_plane(np.ones((3, 4)))
    with pytest.raises(PathError, match="three states"):
        states_plane(np.eye(4))


def test_the_plane_of_window_means():
    path = descent(40, 6)
    found = windows_plane(path, 8)
    expected = fit_plane(path.reshape(8, 5, 6).mean(axis=1))
    np.testing.assert_allclose(found.basis, expected.basis, atol=1e-10)
    np.testing.assert_allclose(found.origin, expected.origin, atol=1e-12)
    with pytest.raises(PathError, match="one a window"):
        windows_plane(path[:5], 8)


@pytest.mark.parametrize("size", [6, 60])
def test_a_quadratic_has_its_largest_curvatures_in_the_hessians_plane(size):
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((size, size)))[0]
    values = np.concatenate([[9.0, 5.0], np.linspace(-2.0, 1.0, size - 2)])
    matrix = torch.from_numpy(frame @ np.diag(values) @ frame.T)
    objective = objective_of(lambda w: 0.5 * w @ (matrix @ w), size)
    state = rng.standard_normal(size)
    plane = hessian_plane(objective, state, tolerance=1e-9)
    np.testing.assert_allclose(np.abs(np.sum(plane.basis * frame[:, :2], axis=0)), 1.0, rtol=1e-6)
    assert plane.labels == ("eigenvector 1 (λ = 9)", "eigenvector 2 (λ = 5)")
    landscape = Landscape(state[None], objective, "pca", plane=plane)
    middle, one, other = (each.loss for each in landscape.evaluate([[0, 0], [1e-2, 0], [0, 1e-2]]))
    behind = [each.loss for each in landscape.evaluate([[-1e-2, 0], [0, -1e-2]])]
    curvature = (np.array([one, other]) + behind - 2 * middle) / 1e-4
    np.testing.assert_allclose(curvature, [9.0, 5.0], rtol=1e-5)


def test_a_hessian_that_is_not_finite_is_refused():
    objective = objective_of(lambda w: w.pow(2).sum().sqrt(), 6)
    with pytest.raises(UnsupportedError, match="finite"):
        hessian_plane(objective, np.zeros(6))


# -- by name ---------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    """A run of a small network, and its objective."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    x, y = torch.randn(20, 3), torch.randint(2, (20,))
    for name in ("one", "other"):
        optimizer = torch.optim.SGD(model.parameters(), 0.3)
        with Recorder(tmp_path / name, model) as recorder:
            for _ in range(12):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.record(loss)
    objective = Objective(model, x, y, torch.nn.functional.cross_entropy)
    return Trajectory(tmp_path / "one"), Trajectory(tmp_path / "other"), objective


def test_planes_by_their_names(recorded):
    path, other, objective = recorded
    layout = objective.layout
    made = {
        "pca": fit_plane(path),
        "random": random_plane(path[12], layout),
        "random:layer:3": random_plane(path[12], layout, normalisation="layer", seed=3),
        "random:5": random_plane(path[12], layout, seed=5),
        "hessian": hessian_plane(objective, path[12]),
        "states:first,3,last": states_plane(np.stack([path[0], path[3], path[12]])),
        f"states:0,-1,{other.directory}@4": states_plane(np.stack([path[0], path[12], other[4]])),
        "windows": windows_plane(path),
        "windows:3": windows_plane(path, 3),
    }
    for name, expected in made.items():
        plane = plane_named(name, path, objective)
        np.testing.assert_array_equal(plane.origin, expected.origin, err_msg=name)
        np.testing.assert_array_equal(plane.basis, expected.basis, err_msg=name)
    assert {name.partition(":")[0] for name in made} == set(PLANES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tsne", r"expected a plane as one of pca, .*, got 'tsne'"),
        ("pca:3", "expected the plane 'pca' alone, got pca:3"),
        ("random:unit", "seed of random directions as a whole number, got 'unit'"),
        ("random:layer:1:2", r"expected random\[:filter"),
        ("hessian:2", "expected the plane 'hessian' alone"),
        ("states:1,2", "expected three states"),
        ("states:1,2,x", "expected a state as a number from 0 to 12 .* got 'x'"),
        ("states:1,2,99", "expected a state as a number from 0 to 12 .* got '99'"),
        ("windows:few", "expected a number of windows as a whole number"),
        (3, "expected name as text"),
    ],
)
def test_names_of_no_plane(recorded, name, message):
    path, _, objective = recorded
    with pytest.raises(ArgumentError, match=message):
        plane_named(name, path, objective)


def test_states_of_another_network(recorded, tmp_path):
    path, _, objective = recorded
    with Recorder(tmp_path / "small", torch.nn.Linear(2, 2)):
        pass
    with pytest.raises(ArgumentError, match="expected states of one network, got 26, 26, 6"):
        plane_named(f"states:0,last,{tmp_path / 'small'}@0", path, objective)
