"""The methods as the thesis's program drew them."""

import dataclasses
import math

import numpy as np
import pytest

from cases import (
    AS_DRAWN,
    PROBLEMS,
    descent,
    loop,
    named,
    projection,
    projection_of,
    reference_plane,
)
from losspath import Grid, compute_surface, distance_map, fit_plane
from losspath.errors import ArgumentError
from losspath.methods import Averaged, AveragedND, SampledPCA, method_class, method_named
from losspath.thesis.as_drawn import (
    AveragedAsPrinted,
    AveragedNDAsPrinted,
    PCAAsDrawn,
    SampledPCAAsDrawn,
)

DESCENT = PROBLEMS[0]
SIDES = SampledPCAAsDrawn.sides


def points_around(shown, resolution=9):
    return Grid.around(shown.coordinates, resolution).points


def test_pca_averages_the_four_extreme_states():
    path = np.array([[0.0, 1.0], [-5.0, 2.0], [1.0, 9.0], [7.0, 3.0], [2.0, -1.0]])
    points = np.array([[0.0, 0.0], [1.0, 4.0]])
    lift = PCAAsDrawn().lift(points, projection(path))
    np.testing.assert_array_equal(lift.weights, [[0, 0.25, 0.25, 0.25, 0.25]])
    # Centre (1, 4), average of the extremes (1.25, 3.25).
    np.testing.assert_allclose(lift.places, np.add(points, [0.25, -0.75]))
    np.testing.assert_allclose(lift.weights @ path, [[1.25, 3.25]])


def test_pca_counts_a_state_that_is_extreme_twice_twice():
    path = np.array([[-1.0, -1.0], [3.0, 0.0], [0.0, 2.0]])
    weights = PCAAsDrawn().weights(np.zeros((1, 2)), projection(path))
    np.testing.assert_array_equal(weights, [[0.5, 0.25, 0.25]])


def test_pca_is_the_plane_surface_displaced():
    # The average of the four extreme states, not its shadow, is drawn at the middle of the box.
    surface = compute_surface(DESCENT.path, DESCENT.objective(), "pca-as-drawn", 5)
    plane = reference_plane(DESCENT.path)
    extremes = [f(plane.path[:, axis]) for axis in (0, 1) for f in (np.argmin, np.argmax)]
    average = DESCENT.path[extremes].mean(axis=0)
    j = np.abs(surface.x - plane.center[0]).argmin()
    i = np.abs(surface.y - plane.center[1]).argmin()
    assert surface.loss[i, j] == pytest.approx(DESCENT.loss(average), rel=1e-10)


@pytest.mark.parametrize("side", SIDES)
def test_sampled_pca_is_the_state_on_the_path(side):
    shown = projection_of(fit_plane(descent(12, 6)))
    lift = SampledPCAAsDrawn(side).lift(shown.coordinates, shown)
    np.testing.assert_array_equal(lift.weights, np.eye(12))
    np.testing.assert_array_equal(lift.places, shown.coordinates)


@pytest.mark.parametrize("side", SIDES)
def test_sampled_pca_is_pca_for_what_the_state_leaves(side):
    shown = projection_of(fit_plane(descent(12, 6)))
    points = points_around(shown)
    lift, drawn = SampledPCAAsDrawn(side).lift(points, shown), PCAAsDrawn().lift(points, shown)
    nearest = SampledPCAAsDrawn(side).state_weights(
        points, np.linalg.norm(points[:, None] - shown.coordinates, axis=2).argmin(axis=1), shown
    )[:, None]
    np.testing.assert_allclose(lift.weights.sum(axis=1), 1.0)
    np.testing.assert_allclose(lift.places, nearest * points + (1 - nearest) * drawn.places)


def test_by_sign_the_centre_of_a_loop_has_nothing_of_a_state():
    shown = projection_of(fit_plane(loop()))
    weights = SampledPCAAsDrawn("sign").weights(shown.center[None], shown)
    np.testing.assert_array_equal(weights, PCAAsDrawn().weights(shown.center[None], shown))


def test_by_sign_a_point_is_inside_that_lies_towards_the_centre_in_height_alone():
    shown = projection([[-4.0, -3.0], [-4.0, 3.0], [4.0, 3.0], [4.0, -3.0]])
    point = np.array([[5.0, 2.0]])  # outside of the box, yet below the corner's height
    share = math.hypot(5.0, 2.0) / (math.hypot(5.0, 2.0) + math.hypot(1.0, 1.0))
    found = SampledPCAAsDrawn("sign").state_weights(point, np.array([2]), shown)
    assert found == pytest.approx(share)


def test_above_and_below_are_told_by_the_second_axis_alone():
    shown = projection([[-4.0, -3.0], [-4.0, 3.0], [4.0, 3.0], [4.0, -3.0]])
    points = np.array([[3.0, 2.0], [3.0, 3.5], [4.5, 3.0]])
    d_c = np.linalg.norm(points, axis=1)
    d_p = np.linalg.norm(points - [4.0, 3.0], axis=1)
    share = d_c / (d_c + d_p)
    nearest = np.array([2, 2, 2])
    above, below = (
        SampledPCAAsDrawn(side).state_weights(points, nearest, shown) for side in ("above", "below")
    )
    np.testing.assert_allclose(above, [1.0, share[1], share[2]])
    np.testing.assert_allclose(below, [share[0], 1.0, share[2]])


@pytest.mark.parametrize("side", SampledPCA.sides)
def test_the_sides_of_the_repaired_method_are_the_same(side):
    shown = projection_of(fit_plane(descent(12, 6)))
    points = points_around(shown)
    nearest = np.linalg.norm(points[:, None] - shown.coordinates, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(
        SampledPCAAsDrawn(side).state_weights(points, nearest, shown),
        SampledPCA(side).state_weights(points, nearest, shown),
    )


@pytest.mark.parametrize("side", ["sign", "above", "below", "center"])
def test_the_repaired_method_has_two_sides(side):
    with pytest.raises(ArgumentError, match="side"):
        SampledPCA(side)


@pytest.mark.parametrize(
    ("printed", "plain"),
    [
        (AveragedAsPrinted(), Averaged(temperature=1.0)),
        (AveragedAsPrinted("auto", True), Averaged("auto", True)),
        (AveragedNDAsPrinted(2.0), AveragedND(2.0)),
    ],
    ids=lambda method: method.describe(),
)
def test_averages_lie_where_the_blends_project(printed, plain):
    shown = projection_of(fit_plane(descent(12, 6)))
    points = points_around(shown)
    lift, usual = printed.lift(points, shown), plain.lift(points, shown)
    np.testing.assert_array_equal(lift.weights, usual.weights)
    np.testing.assert_allclose(lift.places, lift.weights @ shown.coordinates)
    assert np.abs(lift.places - points).max() > 0.1


@pytest.mark.parametrize("method", AS_DRAWN, ids=named)
def test_they_are_known_by_name_wherever_methods_are(method):
    kind = method_class(method.name)
    assert type(method) is kind
    assert method_named(method.name) == kind()
    options = method.to_json()
    assert method_class(options.pop("name"))(**options) == method
    assert dataclasses.replace(method) == method


def test_the_distance_map_is_not_drawn_of_what_moves_several_residuals():
    plane = fit_plane(descent(12, 6))
    with pytest.raises(ArgumentError, match="sampled-pca-as-drawn, whose parameters lie elsewhere"):
        distance_map(plane, method=SampledPCAAsDrawn())
