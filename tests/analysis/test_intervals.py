"""Intervals, on distributions whose mean is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from losspath.analysis.intervals import (
    conformal,
    draws_interval,
    least_draws,
    mean_interval,
    spread,
)

SETS = 4000


def intervals(samples, level=0.9, skewed=True):
    """Of the means of rows."""
    count = samples.shape[1]
    skewness = stats.skew(samples, axis=1) if skewed else np.zeros(len(samples))
    deviation = samples.std(axis=1, ddof=1) / math.sqrt(count)
    parts = np.full(len(samples), float(count))
    return mean_interval(samples.mean(axis=1), deviation, skewness, parts, level)


def test_without_skewness_it_is_students_interval():
    samples = np.random.default_rng(0).normal(size=(5, 12))
    low, high = intervals(samples, skewed=False)
    expected = stats.t.interval(0.9, 11, samples.mean(axis=1), stats.sem(samples, axis=1))
    np.testing.assert_allclose((low, high), expected, rtol=1e-12)


def test_a_little_skewness_is_as_near_as_none():
    mean, deviation, parts = np.ones(1), np.ones(1), np.full(1, 100.0)
    known = mean_interval(mean, deviation, np.zeros(1), parts, 0.9)
    for skewness in (1e-9, 1e-4, -1e-4):
        near = mean_interval(mean, deviation, np.full(1, skewness), parts, 0.9)
        np.testing.assert_allclose(near, known, atol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_skewed_losses_are_held_as_often_as_it_says_and_as_often_on_either_side(sign):
    # Exponential: mean 1. The usual interval is too low where it misses, twice as often as not.
    samples = sign * np.random.default_rng(1).exponential(size=(SETS, 60))
    low, high = intervals(samples)
    assert np.mean((low <= sign) & (sign <= high)) == pytest.approx(0.9, abs=0.015)
    usual_low, usual_high = intervals(samples, skewed=False)

    def lopsided(one, other):
        return abs(np.mean(other < sign) - np.mean(one > sign))

    assert lopsided(low, high) < 0.5 * lopsided(usual_low, usual_high)


def test_the_mean_is_inside():
    samples = np.random.default_rng(2).lognormal(sigma=2, size=(500, 30))
    low, high = intervals(samples)
    assert ((low < samples.mean(axis=1)) & (samples.mean(axis=1) < high)).all()


@pytest.mark.parametrize(("level", "draws"), [(0.9, 19), (0.9, 20), (0.5, 7)])
def test_another_draw_is_between_the_ends_as_often_as_it_says(level, draws):
    values = np.random.default_rng(3).lognormal(size=(draws + 1, 20_000))
    low, high = draws_interval(values[:-1], level)
    inside = np.mean((low <= values[-1]) & (values[-1] <= high))
    assert inside == pytest.approx(level, abs=0.01)


def test_so_many_draws_are_needed():
    assert [least_draws(level) for level in (0.5, 0.9, 0.95)] == [3, 19, 39]


def test_a_draw_that_is_not_finite_leaves_no_interval_that_lies():
    low, high = draws_interval(np.array([[1.0, 1.0]] * 19 + [[math.nan, math.inf]]), 0.9)
    assert math.isnan(low[0])
    assert math.isnan(high[0])
    assert not high[1] < 1e300


VALUES = st.lists(st.tuples(st.floats(-10, 10), st.floats(0.01, 1)), min_size=2, max_size=8)


@given(VALUES)
def test_the_spread_is_that_of_pairs(pairs):
    values, shares = np.array(pairs).T
    shares /= shares.sum()
    weights = np.outer(shares, shares)
    np.fill_diagonal(weights, 0)
    squares = np.square(values[:, None] - values)
    expected = math.sqrt((weights * squares).sum() / weights.sum() / 2)
    assert spread(values, shares) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_equal_shares_give_the_standard_deviation():
    values = [1.0, 4.0, 2.0, 8.0]
    assert spread(values, [0.25] * 4) == pytest.approx(np.std(values, ddof=1))


def test_a_value_with_nearly_all_does_not_make_the_spread_small():
    rest = 1e-6
    assert spread([0.0, 2.0], [1 - rest, rest]) == pytest.approx(math.sqrt(2), rel=1e-4)
    assert math.isnan(spread([3.0], [1.0]))


def test_a_score_to_come_is_below_as_often_as_it_says():
    scores = np.random.default_rng(4).exponential(size=(5000, 41))
    below = [row[-1] <= conformal(row[:-1], 0.9) for row in scores]
    assert np.mean(below) == pytest.approx(0.9, abs=0.02)
    assert conformal(np.array([3.0, 1.0]), 0.9) == 3.0
