import warnings
from operator import attrgetter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import PROBLEMS, descent, line, loop, named
from losspath import LosspathWarning, fit_plane
from losspath.errors import ArgumentError, DamagedError, PathError, StoreError
from losspath.geometry import pca
from losspath.geometry.plane import Plane, PrincipalPlane

ARRAYS = ("origin", "basis", "path.coordinates", "path.residual_norms")


@pytest.mark.parametrize("problem", PROBLEMS, ids=named)
def test_directions_have_a_cosine_of_zero(problem):
    basis = fit_plane(problem.path).basis
    assert abs(basis[:, 0] @ basis[:, 1]) < 1e-14
    np.testing.assert_allclose(np.linalg.norm(basis, axis=0), 1.0, rtol=1e-14)


@pytest.mark.parametrize("problem", PROBLEMS, ids=named)
def test_projecting_the_states_gives_their_coordinates(problem):
    plane = fit_plane(problem.path)
    np.testing.assert_allclose(plane.project(problem.path), plane.path.coordinates, atol=1e-12)
    assert plane.project(problem.path[3 % len(problem.path)]).shape == (2,)
    np.testing.assert_allclose(
        plane.project(plane.origin + 2 * plane.basis[:, 1]), [0, 2], atol=1e-12
    )


def test_axes_of_a_path_with_known_axes():
    path = np.zeros((5, 4))
    path[:, 2] = [-4.0, -2.0, 0.0, 2.0, 4.0]
    path[:, 0] = [-1.0, 2.0, -2.0, 2.0, -1.0]
    plane = fit_plane(path + 7.0)
    np.testing.assert_allclose(plane.origin, 7.0)
    np.testing.assert_allclose(plane.basis, np.eye(4)[:, [2, 0]], atol=1e-15)
    np.testing.assert_allclose(plane.path.coordinates, path[:, [2, 0]], atol=1e-14)
    np.testing.assert_allclose(plane.path.explained_variance, [10.0, 3.5])
    np.testing.assert_allclose(plane.path.explained_variance_ratio, [10 / 13.5, 3.5 / 13.5])
    np.testing.assert_allclose(plane.path.residual_norms, 0.0, atol=1e-7)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(3, 30),
    size=st.integers(3, 20),
    signs=st.integers(0, 2**20 - 1),
)
def test_path_starts_on_the_negative_side_however_it_is_mirrored(seed, count, size, signs):
    rng = np.random.default_rng(seed)
    path = np.cumsum(rng.standard_normal((count, size)) * np.linspace(3, 1, size), axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LosspathWarning)
        plane = fit_plane(path)
        flips = np.array([1.0 if signs >> k & 1 else -1.0 for k in range(size)])
        mirrored = fit_plane(path * flips)
    extent = np.abs(plane.path.coordinates).max(axis=0)
    told = np.abs(plane.path.coordinates[0]) > 2e-3 * extent
    assert (plane.path.coordinates[0][told] < 0).all()
    tolerance = 1e-10 / max(plane.gap, 1e-12) * extent[0] / extent[1]
    np.testing.assert_allclose(
        mirrored.path.coordinates[:, told],
        plane.path.coordinates[:, told],
        atol=tolerance * extent[0],
    )


def test_start_in_the_middle_leaves_the_sign_to_the_farthest_state():
    path = np.zeros((5, 3))
    path[:, 0] = along = np.array([0.0, 6.0, 1.0, -3.0, -4.0])
    across = np.array([0.0, 0.5, -0.5, 0.5, -0.5])
    path[:, 1] = across - along * (along @ across) / (along @ along)
    for sign in (1.0, -1.0):
        plane = fit_plane(path * [sign, 1.0, 1.0])
        np.testing.assert_allclose(
            plane.path.coordinates[:, 0], [0.0, -6.0, -1.0, 3.0, 4.0], atol=1e-12
        )


def test_one_state_on_a_given_plane_has_no_shares_of_variance_and_no_warning():
    plane = Plane(np.zeros(3), np.eye(3)[:, :2], ("x", "y"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = plane.projection(np.ones((1, 3)))
        assert np.isnan(shown.explained_variance_ratio).all()
    assert shown.coordinates.tolist() == [[1.0, 1.0]]


def test_one_state_is_refused():
    with pytest.raises(PathError, match="one state"):
        fit_plane(np.ones((1, 4)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e20, -1e-30])
def test_constant_path_is_refused(value, dtype):
    with pytest.raises(PathError, match="all 5 states are the same"):
        fit_plane(np.full((5, 7), value, dtype))


def test_path_that_moves_less_than_rounding_is_refused():
    path = np.ones((3, 100), np.float32)
    path[1, 0] = np.nextafter(np.float32(1), np.float32(2))
    with pytest.raises(PathError):
        fit_plane(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("number", [0, 1, 6, 11])
@pytest.mark.parametrize("streamed", [False, True])
def test_state_that_is_not_finite_is_named(bad, number, streamed, monkeypatch):
    if streamed:
        monkeypatch.setattr(pca, "_BLOCK_BYTES", 5 * 16 * 6)
    path = descent(12, 6)
    path[number, 3] = bad
    path[-1, 0] = np.nan  # a later one is not the news
    with pytest.raises(PathError, match=rf"state {number} of the path"):
        fit_plane(path)


def test_state_that_is_too_large_to_square_is_named():
    path = descent(12, 6)
    path[7, 2] = 1e200
    with pytest.raises(PathError, match="state 7 of the path"):
        fit_plane(path)


def test_float32_states_near_its_largest_number_are_taken():
    path = (descent(12, 6) * 1e37).astype(np.float32)
    small = fit_plane(descent(12, 6))
    np.testing.assert_allclose(
        fit_plane(path).path.coordinates / 1e37, small.path.coordinates, atol=1e-5
    )


def test_fewer_parameters_than_components_are_refused():
    with pytest.raises(PathError, match="expected at least 2 parameters, got 1"):
        fit_plane(np.arange(5.0)[:, None])
    line = fit_plane(np.array([0.0, 1.0, 3.0, 4.0])[:, None], components=1)
    np.testing.assert_allclose(line.path.coordinates[:, 0], [-2.0, -1.0, 1.0, 2.0])
    with pytest.raises(ArgumentError, match="components"):
        fit_plane(descent(5, 4), components=0)


@pytest.mark.parametrize("states", [np.ones(4), np.ones((2, 3, 4)), np.empty((0, 3))])
def test_states_of_another_shape_are_refused(states):
    with pytest.raises(PathError, match=r"\(T, P\)"):
        fit_plane(states)


def test_integers_are_refused():
    with pytest.raises(PathError, match="floating-point"):
        fit_plane(np.arange(12).reshape(4, 3))


def test_two_states_lie_on_the_first_axis():
    path = np.array([[1.0, 2.0, 3.0], [1.0, 5.0, 7.0]])
    plane = fit_plane(path)
    np.testing.assert_allclose(plane.path.coordinates, [[-2.5, 0.0], [2.5, 0.0]], atol=1e-14)
    np.testing.assert_allclose(
        plane.basis, np.array([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]]).T, atol=1e-14
    )
    np.testing.assert_array_equal(plane.path.explained_variance_ratio[1], 0.0)
    np.testing.assert_allclose(plane.path.explained_variance, [12.5, 0.0])


def test_second_axis_of_a_line_has_a_sign_that_does_not_come_from_rounding():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        path = np.outer(rng.random(9), rng.standard_normal(6)) + rng.standard_normal(6)
        basis = fit_plane(path).basis
        assert basis[np.abs(basis[:, 0]).argmin(), 1] > 0


def test_closed_loop_has_one_start_and_end():
    plane = fit_plane(loop())
    np.testing.assert_allclose(plane.path.coordinates[0], plane.path.coordinates[-1], atol=1e-14)
    assert (plane.path.coordinates[0] <= 1e-12).all()


def test_states_that_coincide_have_one_place():
    path = np.repeat(descent(6, 5), 3, axis=0)
    plane, once = fit_plane(path), fit_plane(descent(6, 5))
    np.testing.assert_allclose(plane.path.coordinates[::3], once.path.coordinates, atol=1e-12)
    np.testing.assert_allclose(
        plane.path.coordinates[1::3], plane.path.coordinates[::3], atol=1e-13
    )
    np.testing.assert_allclose(plane.path.residual_norms[::3], once.path.residual_norms, atol=1e-7)


def test_undetermined_plane_is_warned_of():
    # Variance along the third axis almost as large as along the second.
    path = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 0.995], [0, 0, -0.995]])
    with pytest.warns(LosspathWarning, match="components 2 and 3 .* not determined"):
        plane = fit_plane(path)
    assert plane.gap == pytest.approx(1 - 0.995**2, rel=1e-9)
    # λ₁ ≈ λ₂ turns the picture within its plane, which is determined.
    path[:2] /= 3.0
    path[4:] /= 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_plane(path)


def test_axes_short_of_the_tolerance_are_warned_of(monkeypatch):
    monkeypatch.setattr(pca, "_EXACT_NUMBERS", 0)
    monkeypatch.setattr(pca, "_MAX_PASSES", 1)
    path = np.random.default_rng(0).standard_normal((400, 60)) * np.geomspace(3.0, 0.5, 60)
    with pytest.warns(LosspathWarning, match="only accurate to"):
        plane = fit_plane(path)
    assert plane.residual > 1e-5


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e8])
def test_scaling_the_path_scales_the_plane(scale):
    plane, scaled = fit_plane(descent(12, 6)), fit_plane(scale * descent(12, 6))
    np.testing.assert_allclose(
        scaled.path.coordinates, scale * plane.path.coordinates, atol=1e-12 * scale
    )
    np.testing.assert_allclose(scaled.basis, plane.basis, atol=1e-12)
    np.testing.assert_allclose(
        scaled.path.explained_variance_ratio, plane.path.explained_variance_ratio, rtol=1e-12
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_common_offset_keeps_the_digits(dtype):
    # Multiples of 2^-8 near 1e4 are exact in float32: the same path, moved exactly.
    path = np.round(descent(40, 8) * 2**8) / 2**8
    offset = 1e4 * np.linspace(-1.0, 1.0, 8).round(1)
    near, far = fit_plane(path.astype(dtype)), fit_plane((path + offset).astype(dtype))
    np.testing.assert_allclose(far.path.coordinates, near.path.coordinates, atol=1e-10)
    np.testing.assert_allclose(far.origin - offset, near.origin, atol=1e-11)
    np.testing.assert_allclose(far.path.residual_norms, near.path.residual_norms, atol=1e-7)


def test_tensors_and_lists_are_paths():
    path = descent(12, 6).astype(np.float32)
    expected = fit_plane(path)
    for other in (torch.from_numpy(path), torch.from_numpy(path).requires_grad_(), path.tolist()):
        plane = fit_plane(other)
        np.testing.assert_allclose(plane.path.coordinates, expected.path.coordinates, atol=1e-6)
    every_other = np.repeat(path, 2, axis=0)[::2]
    assert fit_plane(every_other).path.coordinates.tobytes() == expected.path.coordinates.tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_widen_exactly(dtype):
    states = torch.from_numpy(descent(12, 6)).to(dtype)
    half, single = fit_plane(states), fit_plane(states.float())
    np.testing.assert_allclose(half.path.coordinates, single.path.coordinates, atol=1e-9)


@pytest.mark.parametrize("components", [1, 2, 3])
def test_saved_plane_is_loaded_bit_for_bit(tmp_path, components):
    plane = fit_plane(descent(12, 6), components)
    plane.save(tmp_path / "plane.npz")
    loaded = PrincipalPlane.load(tmp_path / "plane.npz")
    for name in ARRAYS:
        one, other = attrgetter(name)(loaded), attrgetter(name)(plane)
        assert (one.tobytes(), one.shape) == (other.tobytes(), other.shape)
    for name in ("labels", "residual", "gap", "path.total_variance", "path.path_digest"):
        assert attrgetter(name)(loaded) == attrgetter(name)(plane)


def test_damaged_plane_is_refused(tmp_path):
    file = tmp_path / "plane.npz"
    fit_plane(line()).save(file)
    whole = file.read_bytes()
    for place in range(0, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            PrincipalPlane.load(file)  # a byte that carries nothing, such as a time
        except StoreError:
            continue
        assert np.load(file, allow_pickle=False)["coordinates"].tobytes() == (
            fit_plane(line()).path.coordinates.tobytes()
        )
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedError):
        PrincipalPlane.load(file)
    with pytest.raises(StoreError, match="no file"):
        PrincipalPlane.load(tmp_path / "none.npz")
