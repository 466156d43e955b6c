"""Which points of a grid are evaluated, on functions whose every value is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losspath.surface.refinement import Refinement

LINES = np.linspace(0.0, 1.0, 61)
X, Y = np.meshgrid(LINES, LINES)
TOLERANCE = 0.01


def refined(values, x=LINES, y=LINES, tolerance=TOLERANCE, top=1.0):
    """What is known in the end, and what was evaluated for it, asking as a surface does."""
    refinement = Refinement(x, y)
    known = np.zeros(values.shape, bool)
    known.reshape(-1)[refinement.first] = True
    for _ in range(values.size):
        forecast = refinement.forecast(np.where(known, values, np.nan), known, tolerance, top)
        assert not known.reshape(-1)[forecast.wanted].any()
        if not len(forecast.wanted):
            return forecast, known
        known.reshape(-1)[forecast.wanted] = True
    raise AssertionError("it never ends")


def off(forecast, values, top=1.0):
    """By how much what was interpolated is off."""
    return np.abs(np.minimum(forecast.heights, top) - np.minimum(values, top))


# By name: the function, the share of points that may be evaluated, the largest error.
SURFACES = {
    "bowl": ((X - 0.3) ** 2 + 2 * (Y - 0.6) ** 2, 0.1, 1e-9),
    "valley": (np.log(0.01 + (Y - 0.5 - 0.3 * np.sin(4 * X)) ** 2) / 5, 0.25, TOLERANCE),
    "plateau": (4 * ((X - 0.3) ** 2 + (Y - 0.6) ** 2), 0.35, 2 * TOLERANCE),
    "cliff": ((X + 0.3 * Y > 0.6).astype(float), 0.4, 2 * TOLERANCE),
    "island": (((X - 0.5) ** 2 + (Y - 0.4) ** 2 < 0.04).astype(float), 0.5, 2 * TOLERANCE),
    "narrow ridge": (np.exp(-(((X - 0.34) / 0.012) ** 2)), 0.25, 2 * TOLERANCE),
    "slanted ridge": (np.exp(-(((X + 0.7 * Y - 0.8) / 0.02) ** 2)), 0.55, 0.1),
    "needle": (np.exp(-((X - 0.37) ** 2 + (Y - 0.61) ** 2) / 0.015**2), 0.2, 2 * TOLERANCE),
}


@pytest.mark.parametrize("name", SURFACES)
def test_a_surface_is_found_by_a_part_of_its_points(name):
    values, share, most = SURFACES[name]
    forecast, known = refined(values)
    errors = off(forecast, values)
    assert errors.max() <= most
    assert np.quantile(errors, 0.99) <= TOLERANCE
    assert known.mean() <= share
    np.testing.assert_array_equal(forecast.heights[known], values[known])
    assert (forecast.errors[known] == 0).all()
    assert forecast.errors.max() <= TOLERANCE


def test_what_nothing_predicts_is_evaluated_everywhere():
    values = np.random.default_rng(0).uniform(size=X.shape)
    forecast, known = refined(values)
    assert known.all()
    np.testing.assert_array_equal(forecast.heights, values)


def test_the_border_of_a_region_without_a_finite_loss_is_gone_after():
    values = np.where((X - 0.7) ** 2 + Y**2 < 0.05, np.nan, X * Y)
    values[values > 0.9] = np.inf  # is as little a number
    forecast, known = refined(values)
    apart = np.isnan(forecast.heights) != ~np.isfinite(values)
    assert apart.mean() < 0.005
    assert known.mean() < 0.35
    assert np.nanmax(off(forecast, np.where(np.isfinite(values), values, np.nan))) < TOLERANCE


def test_without_a_finite_value_nothing_is_known_and_it_ends():
    forecast, known = refined(np.full(X.shape, np.nan))
    assert np.isnan(forecast.heights).all()
    assert known.mean() < 0.1


def test_every_cell_of_two_grids_before_the_last_is_looked_into():
    _, known = refined(np.zeros(X.shape))
    lines = np.linspace(0, 60, 17).round().astype(int)
    for top, bottom in itertools.pairwise(lines):
        for left, right in itertools.pairwise(lines):
            cell = known[top : bottom + 1, left : right + 1].copy()
            cell[[0, 0, -1, -1], [0, -1, 0, -1]] = False
            assert cell.any()


@settings(max_examples=25, deadline=None)
@given(
    counts=st.tuples(*2 * (st.integers(1, 24),)),
    powers=st.tuples(*2 * (st.integers(0, 3),)),
    seed=st.integers(0, 1000),
)
def test_polynomials_up_to_cubic_are_exact_on_any_lines(counts, powers, seed):
    generator = np.random.default_rng(seed)
    x, y = (np.cumsum(generator.uniform(0.2, 1.0, count)) for count in counts)
    x, y = x / x[-1], y / y[-1]
    values = x[None] ** powers[0] * y[:, None] ** powers[1]
    refinement = Refinement(x, y)
    known = np.zeros(values.shape, bool)
    known.reshape(-1)[np.concatenate([refinement.first, refinement.whole])] = True
    filled = refinement.filled(np.where(known, values, np.nan), known)
    if min(map(len, (x, y))) >= 7:  # five lines among them, of which four are the nearest
        np.testing.assert_allclose(filled, values, atol=1e-6)
    np.testing.assert_array_equal(filled[known], values[known])
    forecast, _ = refined(values, x, y)
    np.testing.assert_allclose(forecast.heights, values, atol=3 * TOLERANCE)


def test_values_are_never_asked_for_twice_nor_do_others_than_known_ones_matter():
    values = SURFACES["valley"][0]
    refinement = Refinement(LINES, LINES)
    known = np.zeros(values.shape, bool)
    known.reshape(-1)[refinement.first] = True
    one = refinement.forecast(np.where(known, values, 7.0), known, TOLERANCE, 1.0)
    other = refinement.forecast(np.where(known, values, np.nan), known, TOLERANCE, 1.0)
    np.testing.assert_array_equal(one.heights, other.heights)
    np.testing.assert_array_equal(one.wanted, other.wanted)
