import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import METHODS, CountedPath, descent, named, projection_of
from losspath import Grid, fit_plane
from losspath.geometry import blend as module
from losspath.geometry.blend import blend, group_size
from losspath.recording.paths import ArrayPath
from losspath.recording.trajectory import as_path


def blended(path, plane, places, weights):
    return np.array(list(blend(as_path(path), plane, places, weights)))


def by_formula(path, plane, places, weights):
    """Σ w_i θ_i moved in the plane onto each place, in float64 and one at a time."""
    states = np.asarray(path, np.float64)
    results = []
    for place, row in zip(places, weights, strict=True):
        off = sum(w * (state - plane.origin) for w, state in zip(row, states, strict=True))
        off = off - plane.basis @ (plane.basis.T @ off)
        results.append(plane.origin + plane.basis @ place + off)
    return np.array(results)


def dense(count, points, seed=0):
    weights = np.random.default_rng(seed).random((points, count))
    return weights / weights.sum(axis=1, keepdims=True)


def one_each(count, points, seed=0):
    weights = np.zeros((points, count))
    weights[np.arange(points), np.random.default_rng(seed).integers(0, count, points)] = 1.0
    return weights


def partial(count, points, seed=0):
    """Sums other than one, gaps between states, points without any weight, negative weights."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((points, count)) * (rng.random((points, count)) < 0.3)
    weights[::4] = 0.0
    weights[:, count // 2] = 0.0
    return weights


@pytest.mark.parametrize("weights", [dense, one_each, partial])
@pytest.mark.parametrize("rows", [None, 1, 3, 7, "a stretch", "stretches"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blend_equals_the_formula(weights, rows, dtype, monkeypatch):
    path = descent(23, 9).astype(dtype)
    if isinstance(rows, int):
        monkeypatch.setattr(module, "_BLOCK_BYTES", rows * 4 * 9)
    elif rows:  # as of large states
        monkeypatch.setattr(module, "_LARGE", 0)
        monkeypatch.setattr(module, "_STRETCH_BYTES", 8 * 23 * (1 << 20 if rows[-1] == "h" else 4))
    plane = fit_plane(path)
    places = np.random.default_rng(1).standard_normal((10, 2)) * 3
    rows = weights(23, 10)
    exact = 1e-13 if dtype == np.float64 or weights is one_each else 2e-6
    np.testing.assert_allclose(
        blended(path, plane, places, rows),
        by_formula(path, plane, places, rows),
        rtol=0,
        atol=exact * np.abs(path).max() * max(1.0, np.abs(rows).sum(axis=1).max()),
    )


def test_weights_that_sum_to_one_blend_the_states():
    path = descent(8, 5)
    plane = fit_plane(path)
    weights = dense(8, 4)
    places = weights @ plane.path.coordinates
    expected = np.array([sum(w * s for w, s in zip(row, path, strict=True)) for row in weights])
    np.testing.assert_allclose(blended(path, plane, places, weights), expected, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_state_at_its_place_is_that_state(dtype):
    path = descent(12, 7).astype(dtype)
    plane = fit_plane(path)
    states = blended(path, plane, plane.path.coordinates, np.eye(12))
    np.testing.assert_allclose(states, path, rtol=0, atol=1e-14 * np.abs(path).max())


def test_no_weight_is_the_plane():
    plane = fit_plane(descent(12, 7))
    places = np.array([[0.0, 0.0], [2.0, -1.0]])
    points = blended(descent(12, 7), plane, places, np.zeros((2, 12)))
    np.testing.assert_allclose(points[0], plane.origin, rtol=1e-15)
    expected = plane.origin + 2.0 * plane.basis[:, 0] - plane.basis[:, 1]
    np.testing.assert_allclose(points[1], expected, rtol=1e-14)


@pytest.mark.parametrize(
    "used", [[], [0], [11], [3, 4, 5, 9], list(range(12)), [0, 2, 4, 6, 8, 10]], ids=str
)
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_only_states_with_a_weight_are_read_and_once(used, rows, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", rows * 4 * 7)
    path = CountedPath(descent(12, 7))
    plane = fit_plane(path)
    weights = np.zeros((len(used) + 1, 12))
    for row, state in enumerate(used):
        weights[row, state] = 0.5
    path.reads.clear()
    places = np.zeros((len(weights), 2))
    points = np.array(list(blend(path, plane, places, weights)))
    assert sorted(path.reads) == used
    np.testing.assert_allclose(points, by_formula(path.states, plane, places, weights), atol=1e-13)


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(3, 25),
    size=st.integers(3, 30),
    scale=st.sampled_from([1e-6, 1.0, 1e5]),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    wide=st.booleans(),
    method=st.sampled_from(METHODS),
    resolution=st.integers(3, 6),
)
@pytest.mark.filterwarnings("ignore:components")
def test_parameters_project_exactly_onto_their_point(
    seed, count, size, scale, offset, wide, method, resolution
):
    path = scale * (descent(count, size, seed) + offset)
    path = path.astype(np.float64 if wide else np.float32)
    plane = fit_plane(path)
    grid = Grid.around(plane.path.coordinates, resolution)
    weights = method.weights(grid.points, projection_of(plane))
    points = blended(path, plane, grid.points, weights)
    # The rounding of the parameters themselves, and nothing of the path's.
    rounding = 2.3e-16 * np.abs(points).max() * size
    np.testing.assert_allclose(plane.project(points), grid.points, rtol=0, atol=4 * rounding)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
@pytest.mark.parametrize("points", [1, 5, 300])
def test_blend_of_float32_states_rounds_by_their_spread_and_not_by_their_offset(points, offset):
    # Few points and many points go through other kernels, which sum in another order.
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.standard_normal((4000, 20)), axis=0) / np.sqrt(4000)
    path = (path + offset).astype(np.float32)
    plane = fit_plane(path)
    weights = dense(4000, points)
    places = np.repeat(plane.path.coordinates[:1], points, axis=0)
    off = weights @ (path.astype(np.float64) - plane.origin)
    off -= off @ plane.basis @ plane.basis.T
    expected = plane.origin + places @ plane.basis.T + off
    error = np.abs(blended(path, plane, places, weights) - expected).max()
    spread = np.abs(path - plane.origin).max()
    assert error <= 64 * np.finfo(np.float32).eps * spread


def test_nothing_is_left_in_the_plane_of_states_that_are_far_out_in_it():
    # Residuals of about 1, states 1e9 out, and points near the mean: what a state has in the plane
    # must go to the last digit of the point, not of the state.
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    path = rng.standard_normal((10, 8)) * [1e9, 1e8, 1, 1, 1, 1, 1, 1]
    path = (path - path.mean(axis=0)) @ turned
    plane = fit_plane(path)
    places = rng.standard_normal((10, 2))
    points = blended(path, plane, places, np.eye(10))
    np.testing.assert_allclose(plane.project(points), places, rtol=0, atol=1e-12)


def test_groups_are_bounded_by_the_memory_of_their_parameters(monkeypatch):
    plane = fit_plane(descent(5, 7))
    for points in (1, 3, 12):
        monkeypatch.setattr(module, "_GROUP_BYTES", points * 8 * 7 + 8)
        assert group_size(plane) == points
    monkeypatch.setattr(module, "_GROUP_BYTES", 1)
    assert group_size(plane) == 1


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_two_blends_are_bit_equal(method):
    path = descent(30, 11).astype(np.float32)
    plane = fit_plane(path)
    points = Grid.around(plane.path.coordinates, 5).points
    weights = method.weights(points, projection_of(plane))
    one, two = (blended(path, plane, points, weights) for _ in range(2))
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("used", [[0], [3, 4, 9]])
def test_of_large_states_those_with_a_weight_are_read(monkeypatch, used):
    monkeypatch.setattr(module, "_LARGE", 0)
    states, asked = descent(12, 7), set()

    class Asked(ArrayPath):
        def read_columns(self, start, stop, states):
            asked.update(states)
            return super().read_columns(start, stop, states)

    weights = np.zeros((2, 12))
    weights[:, used] = 0.5
    list(blend(Asked(states), fit_plane(states), np.zeros((2, 2)), weights))
    assert asked == set(used)
