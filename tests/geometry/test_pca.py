"""Principal components against scikit-learn's, exactly and streamed."""

from operator import attrgetter

import numpy as np
import pytest
import sklearn.decomposition
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import CountedPath
from losspath import fit_plane
from losspath.geometry import pca


def walk(count, size, seed=0):
    """A random walk, whose first axes are far apart."""
    return np.cumsum(np.random.default_rng(seed).standard_normal((count, size)), axis=0)


def spread(count, size, seed=0):
    """A cloud with known scales along mixed axes."""
    rng = np.random.default_rng(seed)
    cloud = rng.standard_normal((count, size)) * np.geomspace(5.0, 0.2, size)
    return cloud @ np.linalg.qr(rng.standard_normal((size, size)))[0]


@pytest.fixture(params=["exact", "iterated", "iterated in many blocks", "restarted"])
def way(request, monkeypatch):
    """Every way of finding the axes."""
    if request.param == "iterated":
        monkeypatch.setattr(pca, "_EXACT_RANK", 0)
    elif request.param != "exact":
        monkeypatch.setattr(pca, "_EXACT_NUMBERS", 0)
        monkeypatch.setattr(pca, "_BLOCK_BYTES", 3000)
    if request.param == "restarted":
        monkeypatch.setattr(pca, "_BASIS_BYTES", 1)
    return request.param


def scikit(states, components=2):
    """Scikit-learn's decomposition, turned so that the path starts on the negative side."""
    states = np.asarray(states, np.float64)
    fitted = sklearn.decomposition.PCA(n_components=components, svd_solver="full").fit(states)
    coordinates = fitted.transform(states)
    signs = np.where(coordinates[0] > 0, -1.0, 1.0)
    return fitted, fitted.components_.T * signs, coordinates * signs


PATHS = {
    "walk": walk(80, 30),
    "short walk": walk(15, 120, seed=1),
    "long walk": walk(700, 9, seed=2),
    "cloud": spread(100, 25, seed=3),
    "float32 walk": walk(80, 30, seed=4).astype(np.float32),
    "float32 cloud": spread(60, 40, seed=5).astype(np.float32),
    "far away": walk(80, 30, seed=6) + 1e4 * np.sqrt(80.0),
    "far away in float32": (walk(90, 30, seed=7) + 1e4 * np.sqrt(90.0)).astype(np.float32),
}


@pytest.mark.parametrize("name", PATHS)
def test_plane_equals_scikit_learns(name, way):
    path = PATHS[name]
    plane = fit_plane(path)
    fitted, basis, coordinates = scikit(path)
    scale = np.abs(coordinates).max()
    gaps = (fitted.explained_variance_[0] / -np.diff(scikit(path, 3)[0].explained_variance_)).max()
    # Axes turn by the eigen-residual over the gap between eigenvalues.
    turn = 1e-11 * gaps if way == "exact" else 1e-6 * gaps
    np.testing.assert_allclose(plane.origin, fitted.mean_, rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(plane.basis, basis, atol=turn)
    np.testing.assert_allclose(plane.path.coordinates, coordinates, atol=turn * scale)
    exactly = {"rtol": 1e-9 if way == "exact" else 1e-7}
    np.testing.assert_allclose(plane.path.explained_variance, fitted.explained_variance_, **exactly)
    ratio = fitted.explained_variance_ratio_
    np.testing.assert_allclose(plane.path.explained_variance_ratio, ratio, **exactly)
    assert plane.residual <= 1e-6


@pytest.mark.parametrize("name", PATHS)
def test_axes_are_orthonormal_and_norms_are_explicit(name, way):
    path = PATHS[name].astype(np.float64)
    plane = fit_plane(PATHS[name])
    np.testing.assert_allclose(plane.basis.T @ plane.basis, np.eye(2), rtol=0, atol=1e-14)
    centred = path - path.mean(axis=0)
    scale = np.abs(centred).max() * np.sqrt(path.shape[1])
    away = np.abs(path).max()  # the mean is rounded
    np.testing.assert_allclose(
        plane.path.coordinates, centred @ plane.basis, atol=1e-12 * scale + 1e-14 * away
    )
    explicit = np.linalg.norm(centred - plane.path.coordinates @ plane.basis.T, axis=1)
    np.testing.assert_allclose(plane.path.residual_norms, explicit, atol=1e-7 * scale)
    assert (plane.path.residual_norms >= 0).all()
    total = np.sum(centred**2) / (len(path) - 1)
    assert plane.path.total_variance == pytest.approx(total, rel=1e-10)


def test_residual_is_that_of_the_eigenvectors(way):
    path = PATHS["cloud"]
    plane = fit_plane(path, tolerance=0.5 if way != "exact" else 1e-6)
    covariance = np.cov(path.T, ddof=0)
    values = np.sum(plane.path.coordinates**2, axis=0) / len(path)
    off = covariance @ plane.basis - plane.basis * values
    explicit = np.linalg.norm(off, axis=0).max() / values[0]
    assert plane.residual == pytest.approx(explicit, rel=1e-6, abs=1e-14)


def test_gap_is_that_of_the_second_and_third_variance(way):
    path = PATHS["cloud"]
    variances = np.linalg.svd(path - path.mean(axis=0), compute_uv=False) ** 2
    expected = 1 - variances[2] / variances[1]
    # The third axis is not what the iteration waits for.
    assert fit_plane(path).gap == pytest.approx(expected, abs=1e-9 if way == "exact" else 0.02)


@pytest.mark.filterwarnings("ignore:components")
@pytest.mark.parametrize(("count", "size"), [(200, 20), (20, 200), (60, 60)])
def test_flat_spectrum_gives_axes_to_the_tolerance(count, size, way):
    # White noise: which axes come first is open, what they explain is not.
    path = np.random.default_rng(8).standard_normal((count, size)).astype(np.float32)
    plane = fit_plane(path)
    fitted, _, _ = scikit(path)
    np.testing.assert_allclose(plane.path.explained_variance, fitted.explained_variance_, rtol=1e-5)
    assert plane.residual <= 1e-6
    np.testing.assert_allclose(plane.basis.T @ plane.basis, np.eye(2), rtol=0, atol=1e-14)


@pytest.mark.filterwarnings("ignore:components")
def test_path_with_equal_variances_gives_two_axes_of_them(way):
    path = np.concatenate([np.eye(12), -np.eye(12)])
    plane = fit_plane(path)
    np.testing.assert_allclose(plane.path.explained_variance, 2 / 23, rtol=1e-10)
    np.testing.assert_allclose(plane.path.explained_variance_ratio, 1 / 12, rtol=1e-10)
    np.testing.assert_allclose(plane.basis.T @ plane.basis, np.eye(2), rtol=0, atol=1e-14)


@pytest.mark.parametrize("components", [1, 3, 5])
def test_other_numbers_of_components(components, way):
    path = walk(90, 20, seed=9)
    plane = fit_plane(path, components)
    fitted, basis, coordinates = scikit(path, components)
    assert plane.basis.shape == (20, components)
    np.testing.assert_allclose(plane.basis.T @ plane.basis, np.eye(components), rtol=0, atol=1e-14)
    np.testing.assert_allclose(plane.path.explained_variance, fitted.explained_variance_, rtol=1e-7)
    np.testing.assert_allclose(plane.basis, basis, atol=1e-4)
    np.testing.assert_allclose(plane.path.coordinates, coordinates, atol=1e-3)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [2, 3, 50])
@pytest.mark.parametrize("components", [1, 2])
def test_smallest_paths(count, size, components, way):
    # The combinations that the iteration starts from are fewer, or vanish.
    path = walk(count, size, seed=10) + np.linspace(-3.0, 3.0, count)[:, None]
    plane = fit_plane(path, components)
    centred = path - path.mean(axis=0)
    variances = np.linalg.svd(centred, compute_uv=False)[:components] ** 2 / (count - 1)
    np.testing.assert_allclose(plane.path.explained_variance, variances, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(plane.basis.T @ plane.basis, np.eye(components), rtol=0, atol=1e-14)


def test_three_axes_of_three_states(way):
    plane = fit_plane(walk(3, 40, seed=11), components=3)
    np.testing.assert_allclose(plane.basis.T @ plane.basis, np.eye(3), rtol=0, atol=1e-14)
    assert plane.path.explained_variance[2] == 0.0


@pytest.mark.parametrize("size", [20, 300])
@pytest.mark.parametrize("count", [3, 10, 80])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_path_on_a_line_has_exactly_one_axis(count, size, dtype, way):
    rng = np.random.default_rng(12)
    along = rng.standard_normal(size)
    path = (rng.standard_normal(size) + np.outer(rng.random(count), along)).astype(dtype)
    plane = fit_plane(path)
    assert plane.path.explained_variance_ratio[1] == 0.0
    assert plane.path.explained_variance_ratio[0] == pytest.approx(1.0, abs=1e-6)
    assert (plane.path.coordinates[:, 1] == 0.0).all()
    cosine = plane.basis[:, 0] @ along / np.linalg.norm(along)
    assert abs(cosine) == pytest.approx(1.0, abs=1e-6)
    # The second axis is the unit vector least along the first, and its sign no accident.
    least = int(np.abs(plane.basis[:, 0]).argmin())
    expected = np.eye(size)[least] - plane.basis[least, 0] * plane.basis[:, 0]
    np.testing.assert_allclose(plane.basis[:, 1], expected / np.linalg.norm(expected), atol=1e-12)


def test_states_that_differ_by_one_axis_only(way):
    path = np.ones((9, 30))
    path[:, 4] = [0.0, 0.1, 0.7, 1.5, 1.6, 2.0, 2.0, 2.5, 3.0]
    plane = fit_plane(path)
    np.testing.assert_allclose(plane.basis[:, 0], np.eye(30)[4], atol=1e-12)
    np.testing.assert_allclose(plane.basis[:, 1], np.eye(30)[0], atol=1e-12)
    np.testing.assert_allclose(plane.path.residual_norms, 0.0, atol=1e-7)


@pytest.mark.parametrize("name", ["walk", "float32 walk", "float32 cloud"])
def test_fits_are_bit_equal(name, way):
    one, two = fit_plane(PATHS[name]), fit_plane(PATHS[name])
    for field in ("origin", "basis", "path.coordinates", "path.residual_norms"):
        assert attrgetter(field)(one).tobytes() == attrgetter(field)(two).tobytes()
    assert (one.residual, one.gap) == (two.residual, two.gap)


def test_global_random_states_play_no_part(way):
    torch.manual_seed(1)
    first = fit_plane(PATHS["walk"]).basis
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert fit_plane(PATHS["walk"]).basis.tobytes() == first.tobytes()
    assert torch.equal(torch.get_rng_state(), before)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(6, 60),
    size=st.integers(3, 60),
    rows=st.integers(1, 20),
    wide=st.booleans(),
)
def test_streamed_equals_not_streamed(seed, count, size, rows, wide):
    path = walk(count, size, seed).astype(np.float64 if wide else np.float32)
    path[:, 0] += np.linspace(-50.0, 50.0, count)  # keeps the first two axes apart
    path[:, 1] += 10.0 * np.cos(np.linspace(0.0, 7.0, count))
    whole = fit_plane(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pca, "_EXACT_NUMBERS", 0)
        patch.setattr(pca, "_BLOCK_BYTES", rows * 16 * size)
        streamed = fit_plane(path)
    scale = np.abs(whole.path.coordinates).max()
    np.testing.assert_allclose(streamed.origin, whole.origin, atol=1e-12 * scale)
    first, second = whole.path.explained_variance
    np.testing.assert_allclose(streamed.path.explained_variance, [first, second], rtol=1e-6)
    turn = 1e-5 * first / (whole.gap * second)
    np.testing.assert_allclose(streamed.path.coordinates, whole.path.coordinates, atol=turn * scale)


def test_iteration_reads_every_state_and_only_in_blocks(monkeypatch):
    monkeypatch.setattr(pca, "_EXACT_NUMBERS", 0)
    monkeypatch.setattr(pca, "_BLOCK_BYTES", 16 * 30 * 7)
    path = CountedPath(PATHS["walk"])
    sizes = []
    read = path.read
    path.read = lambda start, stop, out=None: sizes.append(stop - start) or read(start, stop, out)
    fit_plane(path)
    assert set(path.reads) == set(range(80))
    assert max(sizes) <= 14
