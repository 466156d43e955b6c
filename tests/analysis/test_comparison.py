import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import losspath
from losspath import Surface, compare_surfaces
from losspath.errors import ArgumentError
from losspath.surface import StateLosses


def surface(height, x=(-2, 2), y=(-1, 1), lines=(15, 11), samples=100, initial=100.0):
    xs, ys = np.linspace(*x, lines[0]), np.linspace(*y, lines[1])
    grid = np.meshgrid(xs, ys)
    loss = np.asarray(height(*grid), float)
    path = np.array([[-1.0, 0.0], [1.0, 0.0]])
    states = StateLosses(np.array([0, 1]), np.array([initial, 1.0]))
    everywhere = np.ones(loss.shape, bool)
    provenance = {"samples": samples}
    return Surface(xs, ys, loss, None, everywhere, path, np.array([0.6, 0.3]), states, provenance)


def bowl(x, y):
    return 1 + x**2 + 2 * y**2


def test_a_surface_equals_itself():
    found = compare_surfaces(surface(bowl), surface(bowl))
    assert found.ssim == pytest.approx(1.0)
    assert (found.median_error, found.high_error, found.cost) == (0.0, 0.0, 1.0)


def test_a_factor_is_a_relative_error():
    found = compare_surfaces(surface(lambda x, y: 1.1 * bowl(x, y)), surface(bowl))
    assert found.median_error == pytest.approx(0.1)
    assert found.high_error == pytest.approx(0.1)
    assert 0.9 < found.ssim < 1.0


def test_noise_is_less_alike_than_a_coarse_grid():
    generator = np.random.default_rng(0)
    fine = surface(bowl, lines=(41, 41))
    coarse = compare_surfaces(surface(bowl, lines=(9, 9)), fine)
    noisy = compare_surfaces(
        surface(lambda x, y: bowl(x, y) + generator.standard_normal(x.shape)), fine
    )
    assert coarse.ssim > 0.98 > 0.7 > noisy.ssim
    assert coarse.median_error < 0.03 < noisy.median_error


def test_cost_counts_points_and_samples():
    found = compare_surfaces(surface(bowl, lines=(30, 22), samples=50), surface(bowl))
    assert found.cost == pytest.approx(2.0)


def test_only_common_ground_is_compared():
    shifted = surface(bowl, x=(0, 4))
    found = compare_surfaces(shifted, surface(bowl))
    assert found.high_error < 0.02
    with pytest.raises(ArgumentError, match="no ground in common"):
        compare_surfaces(surface(bowl, x=(5, 6)), surface(bowl))


def test_losses_above_the_pictures_scale_are_all_the_same():
    steep = surface(lambda x, y: np.exp(6 * x**2), initial=2.0)
    steeper = surface(lambda x, y: np.where(x**2 > 1, 1e9, np.exp(6 * x**2)), initial=2.0)
    assert compare_surfaces(steeper, steep).ssim > 0.98


def test_what_is_not_finite_is_left_out():
    holes = surface(bowl)
    holes.loss[3, 4] = np.nan
    assert compare_surfaces(holes, surface(bowl)).high_error < 0.02
    nothing = dataclasses.replace(holes, loss=np.full_like(holes.loss, np.nan))
    with pytest.raises(ArgumentError, match="no point in common"):
        compare_surfaces(nothing, surface(bowl))
    with pytest.raises(ArgumentError, match="at least 7"):
        compare_surfaces(surface(bowl), surface(bowl), resolution=5)


# -- contour lines, ranks and minima -----------------------------------------------------------


def cone(x, y):
    """Circles around the origin, flat from half a unit on."""
    return 1 + np.minimum(np.hypot(x, y), 0.5)


def square(height, lines=201, **options):
    return surface(height, x=(-1, 1), y=(-1, 1), lines=(lines, lines), **options)


@pytest.mark.parametrize("shift", [0.03, 0.2])
def test_contours_of_a_slope_that_is_moved_are_apart_by_just_that(shift):
    found = compare_surfaces(square(lambda x, y: 3 + x), square(lambda x, y: 3 + x - shift))
    assert found.contour_error == pytest.approx(shift / 2, rel=1e-6)  # the sides are 2 long
    assert found.high_contour_error == pytest.approx(shift / 2, rel=1e-6)
    assert found.rank_correlation == pytest.approx(1.0, abs=1e-6)  # for all its equals


def test_circles_that_are_moved_are_apart_as_circles_are():
    shift = 0.05
    moved = square(lambda x, y: cone(x - shift, y))
    found = compare_surfaces(moved, square(cone), resolution=201)
    # |cos φ| times the shift around a circle, in units of a side of 2: its mean is 2 / π.
    assert found.contour_error == pytest.approx(shift / 2 * 2 / np.pi, rel=0.03)
    assert found.high_contour_error == pytest.approx(shift / 2, rel=0.03)
    assert found.common_levels == 1.0


def test_ranks_are_kept_by_what_is_monotone():
    surfaces = [surface(each) for each in (bowl, lambda x, y: np.exp(bowl(x, y)))]
    assert compare_surfaces(*surfaces, resolution=15).rank_correlation > 0.999
    same_grid = surface(bowl, lines=(9, 9)), surface(lambda x, y: bowl(x, y) ** 3, lines=(9, 9))
    assert compare_surfaces(*same_grid, resolution=9).rank_correlation == pytest.approx(1.0)
    upside_down = surface(lambda x, y: 20 - bowl(x, y), lines=(9, 9))
    found = compare_surfaces(upside_down, same_grid[0], resolution=9)
    assert found.rank_correlation == pytest.approx(-1.0)


def test_a_flat_surface_has_no_ranks_and_no_contours():
    found = compare_surfaces(surface(lambda x, y: 1 + 0 * x), surface(bowl))
    assert np.isnan([found.rank_correlation, found.contour_error]).all()
    assert found.common_levels == 0.0
    both = compare_surfaces(surface(lambda x, y: 1 + 0 * x), surface(lambda x, y: 1 + 0 * x))
    assert np.isnan(both.common_levels)
    assert (both.minima, both.ssim) == (1, 1.0)
    assert both.to_json()["contour_error"] is None


@pytest.mark.parametrize("depth", [0.5, 0.001])
def test_minima_are_counted_that_can_be_seen(depth):
    def box(x, y):
        ripples = np.cos(np.pi * 2 * x) + np.cos(np.pi * 2 * y)
        return 10 + x + y + depth * ripples

    found = compare_surfaces(square(box, lines=61), square(bowl, lines=61))
    assert (found.minima, found.reference_minima) == (4 if depth == 0.5 else 1, 1)


def test_of_accuracies_maxima_are_counted_and_differences_are_plain():
    def hills(x, y):
        return 0.5 + 0.2 * np.cos(2 * np.pi * x)

    one, other = (
        dataclasses.replace(each, accuracy=of(*np.meshgrid(each.x, each.y)))
        for each, of in (
            (square(bowl, lines=41), hills),
            (square(bowl, lines=41), lambda x, y: hills(x, y) - 0.1),
        )
    )
    found = compare_surfaces(one, other, quantity="accuracy")
    assert found.median_error == pytest.approx(0.1)
    assert found.minima == 3  # at −1, 0 and 1
    with pytest.raises(ArgumentError, match="depth"):
        compare_surfaces(one, other, quantity="depth")


NUMBERS = ("rank_correlation", "contour_error", "high_contour_error", "common_levels")


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_mirrors_and_scales_change_nothing(seed):
    """The new numbers are symmetric; a mirror or other units of loss and weights leave them be."""
    generator = np.random.default_rng(seed)
    waves = generator.standard_normal((2, 4, 3))

    def height(number, sign=1, scale=1.0, unit=1.0):
        def of(x, y):
            parts = [
                a * np.sin(2 * sign * x / unit + b + c * y / unit) for a, b, c in waves[number]
            ]
            return scale * (20 + sum(parts))

        return of

    def compared(first=0, second=1, unit=1.0, **options):
        sides = {"x": (-2 * unit, 2 * unit), "y": (-unit, unit), "initial": 1e9}
        return compare_surfaces(
            *(surface(height(n, unit=unit, **options), **sides) for n in (first, second))
        )

    plain = compared()
    others = (compared(1, 0), compared(sign=-1), compared(scale=7.0), compared(unit=0.1))
    for found in others:
        for name in NUMBERS:
            assert getattr(found, name) == pytest.approx(getattr(plain, name), rel=1e-3, abs=1e-3)
    assert (others[0].minima, others[0].reference_minima) == (plain.reference_minima, plain.minima)
    assert {(each.minima, each.reference_minima) for each in others[1:]} == {
        (plain.minima, plain.reference_minima)
    }


# -- planes ------------------------------------------------------------------------------------


def of_path(places, height=bowl, digest="a", **options):
    made = surface(height, x=(-3, 3), y=(-3, 3), lines=(61, 61), **options)
    states = StateLosses(np.array([0, len(places) - 1]), np.array([100.0, 1.0]))
    provenance = {"path_digest": digest}
    return dataclasses.replace(
        made, path=np.asarray(places, float), states=states, provenance=provenance
    )


PLACES = np.array([[0.0, 0.0], [1.0, 0.5], [0.5, 1.5]])


@pytest.mark.parametrize("side", [1, -1], ids=["turned", "mirrored"])
def test_a_plane_with_other_axes_is_the_same_plane(side):
    angle = 0.7
    turn = np.array([[np.cos(angle), side * np.sin(angle)], [-np.sin(angle), side * np.cos(angle)]])
    moved = PLACES @ turn + [0.3, -0.2]

    def turned(x, y):
        back = (np.stack([x, y], axis=-1) - [0.3, -0.2]) @ turn.T
        return bowl(back[..., 0], back[..., 1])

    found = compare_surfaces(of_path(moved, turned), of_path(PLACES))
    assert found.contour_error < 0.003
    assert found.median_error < 0.003
    as_they_are = compare_surfaces(of_path(moved, turned), of_path(PLACES), check=False)
    assert as_they_are.contour_error > 0.05


@pytest.mark.parametrize("rank", [1, 2])
def test_another_plane_is_refused(rank):
    places = PLACES if rank == 2 else PLACES[:, :1] * [1.0, 0.0]
    with pytest.raises(ArgumentError, match=r"different planes.*apart.*check=False"):
        compare_surfaces(of_path(places * [1.0, 0.7] + [0, 0.1]), of_path(places))


def test_another_path_is_refused_unless_the_plane_is_the_same():
    one, other = of_path(PLACES), of_path(PLACES[:2], digest="b")
    with pytest.raises(ArgumentError, match=r"other paths, of 2 and 3 states.*one plane"):
        compare_surfaces(other, one)
    assert compare_surfaces(other, one, check=False).ssim == pytest.approx(1.0)
    for each in (one, other):
        each.provenance["plane"] = "p"
    assert compare_surfaces(other, one).ssim == pytest.approx(1.0)


def test_surfaces_of_a_run_are_compared_with_those_of_its_plane_alone(tmp_path):
    path = np.cumsum(np.random.default_rng(0).standard_normal((9, 6)), axis=0)
    model = torch.nn.Linear(6, 1, bias=False)
    x = torch.eye(6)
    objective = losspath.Objective(model, x, 0 * x[:, :1], F.mse_loss)
    fitted = losspath.fit_plane(path)
    one, coarse = (
        losspath.compute_surface(path, objective, "pca", n, plane=fitted) for n in (31, 9)
    )
    assert compare_surfaces(coarse, one).contour_error < 0.01
    part = losspath.compute_surface(path[:5], objective, "pca", 9, plane=fitted)
    assert compare_surfaces(part, one).median_error < 0.1
    own = losspath.compute_surface(path[:5], objective, "pca", 9)
    with pytest.raises(ArgumentError, match="other paths"):
        compare_surfaces(own, one)
