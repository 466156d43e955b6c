import dataclasses

import numpy as np
import pytest

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
