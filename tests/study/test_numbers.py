import numpy as np
import pytest

from losspath import Interpolation, StepSizes, Surface
from losspath.methods import PathGeometry
from losspath.study import numbers
from losspath.study.numbers import Development
from losspath.surface import StateLosses


def sizes_of(values):
    values = np.asarray(values, float)
    return StepSizes(values, np.arange(len(values) + 1), np.ones(len(values)), {})


TIME = np.linspace(0, 1, 2000)


@pytest.mark.parametrize(
    ("curve", "bump", "trend", "order"),
    [
        (1 + TIME, False, 1.5, 1.0),
        (2 - TIME, False, 0.5, -1.0),
        (np.ones(2000), False, 1.0, 0.0),
        (1 + 3 * np.exp(-(((TIME - 0.05) / 0.02) ** 2)), True, 1.0, None),
    ],
)
def test_developments_are_told_apart(curve, bump, trend, order):
    found = Development.of(sizes_of(curve))
    assert found.mean == pytest.approx(curve.mean())
    assert (found.bump > 1.5) == bump
    assert found.trend == pytest.approx(trend, abs=0.12)
    way = "climb" if trend > 1.2 else "decline" if trend < 0.8 else "are level"
    assert found.direction == way
    if order is not None:
        assert found.order == pytest.approx(order, abs=1e-9)


def test_a_development_of_the_first_steps_does_not_see_the_others():
    late = np.where(TIME < 0.2, 1 + TIME, 100.0)
    assert Development.of(sizes_of(late), 0.2) == Development.of(sizes_of((1 + TIME)[:400]))


def surface(height, count=21):
    x = np.linspace(-1, 1, count)
    grid = np.meshgrid(x, x)
    loss = np.asarray(height(*grid), float)
    path = np.array([[-0.8, -0.8], [0.8, 0.8]])
    states = StateLosses(np.array([0, 1]), np.array([1.0, 1.0]))
    everywhere = np.ones(loss.shape, bool)
    return Surface(x, x, loss, None, everywhere, path, np.array([0.6, 0.3]), states, {})


def line(values):
    alpha = np.linspace(0, 1, len(values))
    return Interpolation(alpha, ("whole model",), np.array([values], float), None, {})


def test_a_chord_is_read_from_start_to_end():
    exact = 3 + np.linspace(-0.8, 0.8, 11)
    read, same = numbers.chord(surface(lambda x, y: 3 + x), line(exact))
    np.testing.assert_allclose(read, exact)
    np.testing.assert_array_equal(same, exact)
    assert numbers.chord_error(surface(lambda x, y: 3 + x), line(exact)) < 1e-12
    wrong = surface(lambda x, y: 1.2 * (3 + x))
    assert numbers.chord_error(wrong, line(exact)) == pytest.approx(0.2)


def test_a_rise_is_a_share_of_the_fall():
    assert numbers.rise(np.array([3.0, 2.0, 1.0])) == 0.0
    assert numbers.rise(np.array([3.0, 2.0, 2.5, 1.0])) == pytest.approx(0.25)
    assert numbers.rise(np.array([1.0, 2.0])) == float("inf")


def test_local_extremes_are_counted():
    assert numbers.extremes(surface(lambda x, y: x**2 + y**2)) == 1
    assert numbers.extremes(surface(lambda x, y: x + y)) == 0
    generator = np.random.default_rng(0)
    noise = surface(lambda x, y: generator.standard_normal(x.shape))
    assert numbers.extremes(noise) > 40


def test_effective_states_go_from_one_to_all():
    path = np.stack([np.linspace(-1, 1, 50), np.zeros(50)], axis=1)
    geometry = PathGeometry(path, np.zeros(50), np.zeros(2))
    points = path[[0, 10, 20]]
    assert numbers.effective_states(geometry, points, 1e-4) == pytest.approx(1.0)
    assert numbers.effective_states(geometry, points, 1e4) == pytest.approx(50.0)
    assert 1 < numbers.effective_states(geometry, points, 0.1) < 50


def test_the_area_under_the_curve():
    good = [True] * 10 + [False] * 10
    area, low, high = numbers.area_under_curve(good, list(range(20, 0, -1)))
    assert (area, low, high) == pytest.approx((1.0, 1.0, 1.0))
    assert numbers.area_under_curve(good, list(range(20)))[0] == 0.0
    scores = np.random.default_rng(0).standard_normal(20)
    area, low, high = numbers.area_under_curve(good, scores)
    assert low < area < high
    assert low < 0.5 < high
    assert np.isnan(numbers.area_under_curve([True, True], [1.0, 2.0])[0])
    assert numbers.area_under_curve([True, False], [1.0, np.nan])[0] == 1.0
