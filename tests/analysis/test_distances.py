import dataclasses

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from losspath import Grid, fit_plane
from losspath.analysis import distances
from losspath.analysis.distances import distance_map, state_distances
from losspath.errors import ArgumentError, PathError
from losspath.geometry import gram
from losspath.geometry.blend import blend
from losspath.methods import Sampled, SampledPCA
from losspath.recording.trajectory import as_path


def curved_path(count=30, width=12, seed=0):
    """A path that bends through its space, so that its states lie well off their plane."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 3, count)[:, None]
    directions = rng.standard_normal((3, width))
    bend = np.concatenate([3 * time, np.sin(2 * time) * 2, np.cos(5 * time)], axis=1)
    return bend @ directions + 0.1 * rng.standard_normal((count, width))


@pytest.fixture(scope="module")
def states():
    return curved_path()


@pytest.fixture(scope="module")
def plane(states):
    return fit_plane(states)


def explicit(states, plane, grid, method):
    """‖θ_sampled(g) − θ_sampled-pca(g)‖₂ with both vectors of every point."""
    path = as_path(states)
    one, two = (
        np.array(list(blend(path, plane, grid.points, rule.weights(grid.points, plane.path))))
        for rule in (Sampled(), method)
    )
    return np.linalg.norm(one - two, axis=1).reshape(grid.shape)


@pytest.mark.parametrize("side", ["centre", "hull"])
@pytest.mark.parametrize("resolution", [5, 19])
def test_equals_the_norm_of_the_two_methods_difference(states, plane, side, resolution):
    method = SampledPCA(side=side)
    result = distance_map(plane, resolution, method=method)
    grid = Grid.around(plane.path.coordinates, resolution)
    np.testing.assert_array_equal(result.x, grid.x)
    np.testing.assert_array_equal(result.y, grid.y)
    expected = explicit(states, plane, grid, method)
    assert result.distance.shape == expected.shape == grid.shape
    assert expected.max() > 0.1
    np.testing.assert_allclose(result.distance, expected, rtol=1e-9, atol=1e-9)


def test_the_default_side_is_the_centres(plane):
    default = distance_map(plane).distance
    np.testing.assert_array_equal(default, distance_map(plane, method=SampledPCA()).distance)
    other = distance_map(plane, method=SampledPCA(side="hull")).distance
    assert not np.array_equal(other, default)


def test_a_grid_of_ones_own_that_is_not_square(states, plane):
    middle = plane.path.coordinates.mean(axis=0)
    grid = Grid(middle[0] + np.array([-1.0, 0, 0.5]), middle[1] + np.array([-0.5, 2.0]))
    result = distance_map(plane, grid=grid)
    assert result.distance.shape == (2, 3)
    np.testing.assert_allclose(
        result.distance, explicit(states, plane, grid, SampledPCA()), rtol=1e-9, atol=1e-9
    )


def test_zero_behind_the_path_and_more_on_the_centres_side(plane):
    result = distance_map(plane)
    grid = Grid.around(plane.path.coordinates, 19)
    ahead = 0
    for point, distance in zip(grid.points, result.distance.reshape(-1), strict=True):
        nearest = int(np.argmin(np.linalg.norm(plane.path.coordinates - point, axis=1)))
        state = plane.path.coordinates[nearest]
        toward = float((point - state) @ (plane.path.center - state))
        if toward < -1e-9 or np.linalg.norm(point - state) == 0:
            assert distance == 0
        elif toward > 1e-9:
            assert 0 < distance <= plane.path.residual_norms[nearest]
            ahead += 1
    assert 50 < ahead < result.distance.size - 50


def test_zero_at_the_states_and_the_whole_residual_at_the_centre(plane):
    center = plane.path.center
    nearest = int(np.argmin(np.linalg.norm(plane.path.coordinates - center, axis=1)))
    at_center = distance_map(plane, grid=Grid(center[:1], center[1:]))
    assert at_center.distance[0, 0] == pytest.approx(plane.path.residual_norms[nearest], rel=1e-12)
    for state in plane.path.coordinates:
        at_state = distance_map(plane, grid=Grid(state[:1], state[1:]))
        assert at_state.distance[0, 0] == 0


def test_mirroring_an_axis_mirrors_the_map(states, plane):
    result = distance_map(plane)
    mirrored = Grid(-result.x[::-1], result.y)
    shown = dataclasses.replace(plane.path, coordinates=plane.path.coordinates * [-1, 1])
    other = dataclasses.replace(plane, path=shown, basis=plane.basis * [-1, 1])
    np.testing.assert_allclose(
        distance_map(other, grid=mirrored).distance, result.distance[:, ::-1], atol=1e-12
    )


def test_the_map_carries_what_a_figure_needs(plane):
    result = distance_map(plane, 7)
    np.testing.assert_array_equal(result.path, plane.path.coordinates)
    np.testing.assert_array_equal(
        result.explained_variance_ratio, plane.path.explained_variance_ratio
    )


def test_a_resolution_below_three_is_refused(plane):
    with pytest.raises(ArgumentError, match="resolution"):
        distance_map(plane, 2)


def test_a_plane_of_three_axes_is_refused(states):
    with pytest.raises(ArgumentError):
        distance_map(fit_plane(states, 3))


@pytest.mark.parametrize("stretch", [1 << 26, 8 * 9 * 7])
def test_distances_between_states_are_scipys(monkeypatch, stretch):
    monkeypatch.setattr(gram, "_STRETCH_BYTES", stretch)  # several stretches, the last one shorter
    # Far from the origin, as the states of a large network are.
    states = np.random.default_rng(0).normal(size=(9, 40)) + 1e4
    found = state_distances(states)
    np.testing.assert_allclose(found, cdist(states, states), atol=1e-7)
    assert np.all(np.diag(found) == 0)
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize("lost", [[3], [2], [1, 2, 3]])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_distances_of_states_that_are_not_finite_are_not(lost, value):
    states = np.ones((4, 3))
    states[lost, 1] = value
    found = state_distances(states)
    kept = [index for index in range(4) if index not in lost]
    assert np.all(found[np.ix_(kept, kept)] == 0)
    assert not np.isfinite(found[lost]).any()
    assert not np.isfinite(found[:, lost]).any()


def test_distances_of_several_runs_are_between_all_their_states():
    one, other = np.zeros((2, 3)), np.full((1, 3), 2.0)
    root = np.sqrt(12.0)
    np.testing.assert_allclose(
        state_distances({"one": one, "other": other}), [[0, 0, root], [0, 0, root], [root, root, 0]]
    )


def test_too_many_states_for_all_distances_are_refused(monkeypatch):
    monkeypatch.setattr(distances, "_MOST_STATES", 4)
    with pytest.raises(PathError, match=r"at most 4 states.*got 9.*stride=3"):
        state_distances(np.zeros((9, 2)))
