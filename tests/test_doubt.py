"""What a picture fades: where no state is near, and where the vectors of a point disagree."""

import dataclasses
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import losspath
from cases import descent, objective_of
from losspath import Landscape, Objective, Surface
from losspath.errors import ArgumentError
from losspath.evaluation.quantities import SPREAD, Evaluation
from losspath.geometry.spacing import extent_of
from losspath.methods import METHODS, LocalPlanes
from losspath.surface import StateLosses

# From (−1, 0) to (1, 0): √((1 + 0 + 1 + 0) / 4) along an axis.
TWO, EXTENT = np.array([[-1.0, 0.0], [1.0, 0.0]]), math.sqrt(1 / 2)
LINE = np.stack([np.linspace(-1, 1, 11), np.zeros(11)], axis=1)


def surface_of(path, x=(-1.0, 0.0, 1.0), y=(0.0, 1.0, 4.0), **changes):
    x, y = np.array(x), np.array(y)
    form = (len(y), len(x))
    values = {
        "x": x,
        "y": y,
        "loss": np.full(form, 2.0),
        "accuracy": None,
        "evaluated": np.ones(form, bool),
        "path": np.asarray(path, float),
        "explained_variance_ratio": np.array([0.8, 0.15]),
        "states": StateLosses(np.array([0, len(path) - 1]), np.array([2.0, 1.0])),
        "provenance": {},
    }
    return Surface(**{**values, **changes})


# -- distances -------------------------------------------------------------------------------------


def test_distances_by_hand():
    expected = np.array([[0, 1, 0], [1, math.sqrt(2), 1], [4, math.sqrt(17), 4]]) / EXTENT
    np.testing.assert_allclose(surface_of(TWO).doubt, expected, rtol=1e-12)


def test_the_extent_is_of_the_path_and_not_of_the_time_that_it_took():
    # Nine tenths of the states are at the end; and twice as many states are the same path.
    way = np.stack([np.linspace(0, 1, 500), np.linspace(0, 1, 500) ** 2], axis=1)
    stayed = np.concatenate([way, np.tile(way[-1:], (4500, 1))])
    assert extent_of(stayed) == pytest.approx(extent_of(way), rel=0.03)
    assert extent_of(way[::2]) == pytest.approx(extent_of(way), rel=0.01)


def test_the_extent_of_several_runs_is_that_of_each():
    one = descent(60, 2)
    both = np.concatenate([one, one + 1e3])
    assert extent_of(both, (0, 60)) == pytest.approx(extent_of(one), rel=0.1)
    assert extent_of(TWO, (0, 1)) == pytest.approx(EXTENT)  # runs of one state each


def test_a_path_without_extent_says_nothing_of_distances():
    assert not surface_of(np.zeros((2, 2))).doubt.any()
    alone = StateLosses(np.zeros(1, int), np.ones(1))
    assert not surface_of(np.zeros((1, 2)), states=alone).doubt.any()


# -- vectors that disagree -------------------------------------------------------------------------


def spread_of(losses, shares):
    parts = [Evaluation(loss, 0.5, {"f1": 0.1}) for loss in losses]
    found = parts[0].with_spread_of(parts, shares)
    assert {**found.values, SPREAD: 0.0} == {**parts[0].values, SPREAD: 0.0}
    return found.metrics[SPREAD]


def test_the_spread_of_losses_by_hand():
    expected = math.sqrt(0.25 * 1.5**2 + 0.75 * 0.5**2)
    assert spread_of([1.0, 3.0], [0.25, 0.75]) == pytest.approx(expected)
    assert spread_of([1.0], [1.0]) == 0.0
    assert spread_of([1.0, math.inf], [0.5, 0.5]) == math.inf
    assert spread_of([1e300, -1e300], [0.5, 0.5]) == pytest.approx(1e300)
    assert math.isnan(spread_of([1.0, math.nan], [0.5, 0.5]))


def test_the_spread_of_a_surface_is_that_of_its_vectors():
    path, method = descent(12, 6), LocalPlanes(states=5, line=2, chords=4, neighbours=3)
    objective = objective_of(lambda w: 1 + (3 * w).sin().square().sum() + 0.1 * (w @ w), 6)
    landscape = Landscape(path, objective, method)
    surface = landscape.surface(4, fidelity=False)
    x, y = np.meshgrid(surface.x, surface.y)
    points = np.stack([x.reshape(-1), y.reshape(-1)], axis=1)
    parts = {}
    for point, share, vector in landscape.vectors(points):
        loss = 1 + np.sum(np.sin(3 * vector) ** 2) + 0.1 * (vector @ vector)
        parts.setdefault(point, []).append((share, loss))
    expected = [
        math.sqrt(np.cov([loss for _, loss in each], aweights=[share for share, _ in each], ddof=0))
        if len(each) > 1
        else 0.0
        for each in parts.values()
    ]
    found = surface.metrics[SPREAD].reshape(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert (found > 0.1).any()
    # A single vector, as at the path's start, agrees with itself.
    start = np.linalg.norm(points - surface.path[0], axis=1).argmin()
    assert found[start] == pytest.approx(0.0, abs=1e-6)
    assert SPREAD not in landscape.with_method("averaged").surface(4).metrics


def test_vectors_that_disagree_are_doubtful():
    spread = np.array([[0.0, 0.6, 6.0], [np.nan, 0.3, np.inf], [0.0, 0.0, 0.0]])
    still = {"path": np.zeros((2, 2)), "metrics": {SPREAD: spread}}
    surface = surface_of(**still)
    expected = [[0, 1, 10], [0, 0.5, np.inf], [0, 0, 0]]  # of a loss of 2: 0.3 of it is 0.6
    np.testing.assert_allclose(surface.doubt, expected, rtol=1e-12)
    # Where a loss is not positive, of the range of losses.
    loss = np.full((3, 3), 1.0)
    loss[0, 0] = -5.0
    np.testing.assert_allclose(surface_of(**still, loss=loss).doubt[0], [0, 1 / 3, 10 / 3])
    assert np.isfinite(surface_of(**still, loss=np.full((3, 3), np.nan)).doubt).all()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    exponent=st.floats(-12, 12),
    loss=st.floats(-6, 6),
    mirrored=st.booleans(),
)
def test_doubt_depends_neither_on_units_nor_on_signs(seed, exponent, loss, mirrored):
    rng = np.random.default_rng(seed)
    grid = {"x": np.sort(rng.normal(size=3)), "y": np.sort(rng.normal(size=3))}
    spread = {SPREAD: rng.exponential(size=(3, 3))}
    surface = surface_of(descent(20, 2, seed), metrics=spread, **grid)
    scale, height, sign = 10.0**exponent, 10.0**loss, -1 if mirrored else 1
    other = dataclasses.replace(
        surface,
        x=np.sort(sign * surface.x * scale),
        y=surface.y * scale,
        path=surface.path * scale * [sign, 1],
        loss=surface.loss * height,
        metrics={SPREAD: surface.metrics[SPREAD][:, ::sign] * height},
    )
    np.testing.assert_allclose(other.doubt[:, ::sign], surface.doubt, rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_number_for_every_point(method, tmp_path):
    path = descent(12, 6)
    surface = losspath.compute_surface(path, objective_of(lambda w: 1 + w @ w, 6), method, 4)
    assert (surface.doubt >= 0).all()
    surface.save(tmp_path / "a.npz")
    np.testing.assert_array_equal(Surface.load(tmp_path / "a.npz").doubt, surface.doubt)


def test_a_surface_that_was_stopped_has_the_spread_of_one_that_was_not(tmp_path):
    asked = (descent(12, 6), objective_of(lambda w: 1 + w @ w, 6), "local-planes", 5)
    whole = losspath.compute_surface(*asked)

    def stop(done, total):
        if done > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        losspath.compute_surface(*asked, checkpoint=tmp_path / "points", progress=stop)
    again = losspath.compute_surface(*asked, checkpoint=tmp_path / "points")
    np.testing.assert_array_equal(again.metrics[SPREAD], whole.metrics[SPREAD])


def test_a_metric_of_this_name_is_refused():
    with pytest.raises(ArgumentError, match="other than 'loss' and 'loss spread'"):
        Objective(
            torch.nn.Linear(1, 1),
            torch.ones(3, 1),
            torch.ones(3, 1),
            F.mse_loss,
            metrics={SPREAD: F.l1_loss},
        )


# -- figures ---------------------------------------------------------------------------------------


def veils(figure):
    """What is drawn over contours and their lines."""
    found = figure.findobj(mpl.contour.ContourSet)
    return [each for each in found if each.filled and each.zorder == 2.5]


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def test_what_is_doubtful_is_faded_and_the_legend_says_so():
    surface = surface_of(TWO, y=(-1.0, 0.0, 2.0))
    drawn = losspath.plot_surface(surface)
    (veil,) = veils(drawn)
    assert veil.levels[0] == 1.0
    assert "pale: no state near" in words(drawn)
    assert "disagree" not in words(drawn)
    # Where the veil lies: over the point that is two from both states, and over no state.
    (path,) = veil.get_paths()
    assert path.contains_point((0.0, 1.9))
    assert not any(path.contains_point(state * 0.99) for state in TWO)
    plain = losspath.plot_surface(surface, fade=False)
    assert not veils(plain)
    assert "pale" not in words(plain)


def test_nothing_is_said_where_nothing_is_faded():
    drawn = losspath.plot_surface(surface_of(LINE, y=(-0.2, 0.0, 0.2)))
    assert not veils(drawn)
    assert "pale" not in words(drawn)


def test_several_side_by_side():
    sure, doubtful = (surface_of(LINE, y=y) for y in ((-0.2, 0.0, 0.2), (0.0, 1.0, 4.0)))
    spread = {SPREAD: np.array([[0.0, 1.0, 9.0]] * 3)}
    apart = surface_of(LINE, y=(-0.2, 0.0, 0.2), metrics=spread)
    drawn = losspath.plot_surfaces([sure, doubtful, apart])
    assert [len(veils(axes)) for axes in drawn.axes[:3]] == [0, 1, 1]
    assert "pale: no state near, or a point's losses disagree" in words(drawn)
    assert not veils(losspath.plot_surfaces([sure, doubtful, apart], fade=False))
    assert losspath.plot_surface(apart, height=SPREAD).axes
