import numpy as np
import pytest

from losspath import Interpolation, StepSizes, Surface
from losspath.geometry.projection import Projection
from losspath.surface import StateLosses
from losspath.thesis.study import numbers, statistics
from losspath.thesis.study.numbers import Development
from losspath.thesis.study.techniques import direction


def sizes_of(values):
    values = np.asarray(values, float)
    return StepSizes(values, np.arange(len(values) + 1), np.ones(len(values)), {})


TIME = np.linspace(0, 1, 2000)


@pytest.mark.parametrize(
    ("curve", "bump", "trend", "order"),
    [
        (1 + TIME, False, 1.9, 1.0),
        (2 - TIME, False, 1 / 1.9, -1.0),
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
    assert direction(found.trend) == way
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


def test_a_linear_path_is_read_from_start_to_end():
    exact = 3 + np.linspace(-0.8, 0.8, 11)
    read, same = numbers.linear_path(surface(lambda x, y: 3 + x), line(exact))
    np.testing.assert_allclose(read, exact)
    np.testing.assert_array_equal(same, exact)
    assert numbers.linear_path_error(surface(lambda x, y: 3 + x), line(exact)) < 1e-12
    wrong = surface(lambda x, y: 1.2 * (3 + x))
    assert numbers.linear_path_error(wrong, line(exact)) == pytest.approx(0.2 * 3.8 / 1.6)


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
    shown = Projection(path, np.zeros(50), 1.0, "made up")
    points = path[[0, 10, 20]]
    assert numbers.effective_states(shown, points, 1e-4) == pytest.approx(1.0)
    assert numbers.effective_states(shown, points, 1e4) == pytest.approx(50.0)
    assert 1 < numbers.effective_states(shown, points, 0.1) < 50


def test_the_area_under_the_curve():
    good = [True] * 10 + [False] * 10
    area = statistics.area_under_curve(good, list(range(20, 0, -1)))
    assert (area.value, area.low, area.high) == pytest.approx((1.0, 1.0, 1.0))
    assert statistics.area_under_curve(good, list(range(20))).value == 0.0
    scores = np.random.default_rng(0).standard_normal(20)
    area = statistics.area_under_curve(good, scores)
    assert area.low < area.value < area.high
    assert area.low < 0.5 < area.high
    wider = statistics.area_under_curve(good, scores, level=0.99)
    assert wider.low < area.low < area.high < wider.high
    assert np.isnan(statistics.area_under_curve([True, True], [1.0, 2.0]).value)
    assert statistics.area_under_curve([True, False], [1.0, np.nan]).value == 1.0


def test_pairs_within_groups_do_not_see_what_tells_groups_apart():
    # Scores that follow the group alone: all between groups is told, nothing within.
    apart = [([1.0, 2.0], [5.0, 5.0]), ([11.0, 12.0], [9.0, 9.0])]
    assert statistics.concordance(apart).value == 0.5
    told = [([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]), ([4.0, 5.0], [0.05, 0.06])]
    area = statistics.concordance(told)
    assert (area.value, area.low, area.high) == (1.0, 1.0, 1.0)
    mixed = [([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])] * 4
    assert statistics.concordance(mixed).value == pytest.approx(2 / 3)
    assert statistics.concordance([([1.0, 2.0], [np.nan, 0.0])]).value == 1.0
    assert np.isnan(statistics.concordance([([1.0, 1.0], [0.0, 1.0])]).value)
    assert str(area) == "1.00 (1.00…1.00)"


@pytest.mark.parametrize(
    "curve", [2 - TIME, 1 / np.sqrt(TIME + 0.01), 1 + np.exp(-TIME / 0.05), 1 + TIME]
)
def test_what_only_falls_or_only_climbs_has_no_bump(curve):
    assert Development.of(sizes_of(curve)).bump == pytest.approx(1.0, abs=0.05)


def test_a_run_that_diverges_has_no_development():
    sizes = np.where(TIME < 0.5, 1.0, np.nan)
    found = Development.of(sizes_of(sizes))
    assert np.isnan([found.mean, found.bump, found.trend, found.order]).all()
    assert np.isfinite(Development.of(sizes_of(sizes), 0.2).order)


def test_roughness_is_of_the_ground_and_not_of_its_scale():
    plane, bowl = (surface(height) for height in (lambda x, y: 3 + x, lambda x, y: x**2 + y**2))
    rng = np.random.default_rng(0)
    jagged = surface(lambda x, y: x**2 + y**2 + 0.5 * rng.random(x.shape))
    assert numbers.roughness(plane) < 1e-12
    assert numbers.roughness(jagged) > 2 * numbers.roughness(bowl)
    scaled = surface(lambda x, y: 7 * (x**2 + y**2))
    assert numbers.roughness(scaled) == pytest.approx(numbers.roughness(bowl))
