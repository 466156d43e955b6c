import dataclasses
import inspect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import losspath
from cases import (
    AS_DRAWN,
    METHODS,
    PROBLEMS,
    descent,
    loop,
    mirrored_plane,
    named,
    projection,
    projection_of,
    reference_plane,
    reference_weights,
)
from losspath import Grid, fit_plane
from losspath import methods as package
from losspath.cli.options import DEFAULT_METHOD
from losspath.distances import Euclidean
from losspath.errors import ArgumentError
from losspath.methods import (
    PCA,
    Averaged,
    AveragedND,
    Method,
    Sampled,
    SampledPCA,
    method_class,
    method_named,
)

BLENDS = [m for m in METHODS if not isinstance(m, (PCA, SampledPCA))]
SOFTMAX = [Averaged, AveragedND]


def points_around(shown, resolution=9):
    return Grid.around(shown.coordinates, resolution).points


seeds = st.integers(0, 10_000)


@st.composite
def geometries(draw):
    rng = np.random.default_rng(draw(seeds))
    count = draw(st.integers(2, 20))
    scale = draw(st.sampled_from([1e-8, 1.0, 1e6]))
    path = rng.standard_normal((count, 2)) * scale
    if draw(st.booleans()):  # coincident states, but never all of them
        path = path[np.append([0, 1], rng.integers(0, count, count - 2))]
    return projection(path, rng.random(count) * scale)


@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("problem", PROBLEMS, ids=named)
def test_weights_equal_the_definition(problem, method):
    plane = reference_plane(problem.path)
    shown = projection_of(plane)
    points = points_around(shown, 5)
    weights = method.weights(points, shown)
    assert weights.shape == (len(points), len(problem.path))
    expected = [reference_weights(method, point, plane) for point in points]
    # Where many anchors are as near, rounding of distances is a billion times larger in shares.
    atol = 1e-6 if method.has_sheets else 1e-11
    np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=atol)


@settings(deadline=None, max_examples=60)
@given(shown=geometries(), data=st.data())
def test_sums_of_weights(shown, data):
    points = shown.coordinates[:4] + 0.3 * np.abs(shown.coordinates).max() + shown.center
    points = np.concatenate([points, shown.coordinates])
    for method in BLENDS:
        np.testing.assert_allclose(method.weights(points, shown).sum(axis=1), 1.0, rtol=1e-12)
    assert not PCA().weights(points, shown).any()
    for side in SampledPCA.sides:
        weights = SampledPCA(side).weights(points, shown)
        assert ((weights >= 0) & (weights <= 1)).all()
        assert (np.count_nonzero(weights, axis=1) <= 1).all()


@pytest.mark.parametrize("side", SampledPCA.sides)
def test_sampled_pca_is_one_on_the_path(side):
    shown = projection_of(fit_plane(descent(12, 6)))
    np.testing.assert_array_equal(SampledPCA(side).weights(shown.coordinates, shown), np.eye(12))


@pytest.mark.parametrize("side", ["centre", "hull"])
def test_sampled_pca_is_nothing_at_the_centre(side):
    # The middle of the box lies within this loop.
    shown = projection_of(fit_plane(loop()))
    assert not SampledPCA(side).weights(shown.center[None], shown).any()


@pytest.mark.parametrize("side", ["centre", "hull"])
def test_sampled_pca_is_one_where_a_state_lies_at_the_centre(side):
    shown = projection([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [-1.0, 1.0]])
    np.testing.assert_array_equal(SampledPCA(side).weights(np.zeros((1, 2)), shown), [[0, 1, 0, 0]])


def test_sampled_pca_by_hand():
    shown = projection([[-4.0, -3.0], [-4.0, 3.0], [4.0, 3.0], [4.0, -3.0]])
    # Half-way to the centre; a fifth of the way; behind the corner; beside it.
    points = np.array([[-2.0, -1.5], [3.2, 2.4], [5.0, 4.0], [-4.0, 4.0]])
    rows = {side: SampledPCA(side).weights(points, shown) for side in ("centre", "hull")}
    for weights in rows.values():
        assert weights[0, 0] == pytest.approx(0.5)
        assert weights[1, 2] == pytest.approx(0.8)
        assert weights[2, 2] == 1.0
        assert weights[3, 1] == 1.0


def test_sides_differ_where_they_should():
    shown = projection([[-4.0, -3.0], [-4.0, 3.0], [4.0, 3.0], [4.0, -3.0]])
    point = np.array([[5.0, 2.0]])  # outside of the box
    assert SampledPCA("hull").weights(point, shown)[0, 2] == 1.0
    # (1, −1)·(−4, −3) = −1: behind the corner.
    assert SampledPCA("centre").weights(point, shown)[0, 2] == 1.0
    point = np.array([[4.5, 2.0]])  # (0.5, −1)·(−4, −3) = 1: before it, and not in the hull
    assert SampledPCA("centre").weights(point, shown)[0, 2] < 1.0
    assert SampledPCA("hull").weights(point, shown)[0, 2] == 1.0


@pytest.mark.parametrize(
    "path", [[[0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1, 1], [3, 3]]]
)
def test_a_path_without_an_inside_has_no_hull(path):
    shown = projection(path)
    weights = SampledPCA("hull").weights(points_around(shown), shown)
    np.testing.assert_array_equal(weights, Sampled().weights(points_around(shown), shown))


@pytest.mark.parametrize("method", [Sampled(), SampledPCA()], ids=named)
def test_of_states_equally_near_the_earliest_counts(method):
    shown = projection([[3.0, 4.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    nearest = Euclidean().nearest(np.array([[0.0, 0.0], [2.0, 0.0]]), shown)
    np.testing.assert_array_equal(nearest, [1, 1])
    weights = method.weights(np.array([[0.0, 0.0], [2.0, 0.0], [-1.0, 1.0]]), shown)
    np.testing.assert_array_equal(weights.argmax(axis=1), [1, 1, 2])
    assert (np.count_nonzero(weights, axis=1) == 1).all()


@settings(deadline=None, max_examples=60)
@given(seed=seeds, count=st.integers(1, 30), size=st.integers(2, 30))
def test_distances_are_those_of_vectors_in_parameter_space(seed, count, size):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((size, 2)))[0]
    mean, states = rng.standard_normal(size), rng.standard_normal((count, size))
    path = (states - mean) @ basis
    residuals = states - mean - path @ basis.T
    shown = projection(path, np.linalg.norm(residuals, axis=1))
    points = 3 * rng.standard_normal((5, 2))
    weights = AveragedND(temperature=0.7).weights(points, shown)
    for point, row in zip(points, weights, strict=True):
        distances = np.array([np.linalg.norm(mean + basis @ point - state) for state in states])
        raw = np.exp(-(distances - distances.min()) / 0.7)
        np.testing.assert_allclose(row, raw / raw.sum(), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("kind", SOFTMAX)
def test_softmax_by_hand(kind):
    # Distances of 1 and 2 in the plane; √(1 + 8) and √(4 + 5) = 3 in all of the space.
    shown = projection([[1.0, 0.0], [0.0, 2.0]], np.sqrt([8.0, 5.0]))
    weights = kind(temperature=0.5).weights(np.zeros((1, 2)), shown)[0]
    first = 1 / (1 + math.exp(-1.0 / 0.5)) if kind is Averaged else 0.5
    np.testing.assert_allclose(weights, [first, 1 - first], rtol=1e-12)


def test_the_temperature_follows_the_path_where_none_is_given():
    assert Averaged().temperature == AveragedND().temperature == "auto"
    shown = projection_of(fit_plane(descent(12, 6)))
    assert Averaged().resolve(shown).temperature != 1.0


@pytest.mark.parametrize("kind", SOFTMAX)
def test_a_path_that_is_recorded_more_densely_has_the_same_temperature(kind):
    bends = np.stack([np.linspace(0, 9, 400), np.sin(np.linspace(0, 9, 400))], axis=1)
    few, many = projection(bends[::2]), projection(bends)
    found = [kind().resolve(shown).temperature for shown in (few, many)]
    assert found[1] == pytest.approx(found[0], rel=0.01)


@pytest.mark.parametrize("kind", SOFTMAX)
def test_most_states_at_the_end_leave_the_beginning_to_itself(kind):
    # Nine tenths of the states are where training stayed.
    way = np.stack([np.linspace(0, 1, 100), np.linspace(0, 1, 100) ** 2], axis=1)
    shown = projection(np.concatenate([way, np.tile(way[-1:], (900, 1))]))
    weights = kind().weights(way[:1], shown)[0]
    assert weights[100:].sum() < 0.01
    assert weights[:30].sum() > 0.9


@pytest.mark.parametrize("kind", SOFTMAX)
def test_runs_that_are_far_apart_have_the_temperature_of_each(kind):
    one = descent(200, 2)
    alone = kind().resolve(projection(one)).temperature
    for far in (0.0, 1.0, 1e6):
        both = projection(np.concatenate([one, one + far]))
        both = dataclasses.replace(both, starts=(0, 200))
        assert kind().resolve(both).temperature == pytest.approx(alone, rel=1e-3)
    # Runs of one state each have no spread of their own.
    ends = dataclasses.replace(projection([[0.0, 0.0], [2.0, 0.0]]), starts=(0, 1))
    expected = math.sqrt(1 / 2) * 2 ** (-1 / 6)
    assert kind().resolve(ends).temperature == pytest.approx(expected)


@pytest.mark.parametrize("kind", SOFTMAX)
@pytest.mark.parametrize("distance", ["euclidean", "manhattan", "mahalanobis"])
@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_states_at_one_place_are_blended_alike(kind, distance, noise):
    if kind is AveragedND:
        distance = "euclidean-nd"
    places = noise * np.random.default_rng(0).standard_normal((4, 2)) * [[3.0, 0.1]]
    points = np.array([[0.0, 0.0], [1e-16, 0.0], [0.3, -0.1]])
    for norms in (np.zeros(4), np.ones(4)):
        shown = projection(places, norms)
        method = kind(distance=distance)
        if noise and not norms.any():
            continue  # a path of that size
        np.testing.assert_allclose(method.weights(points, shown), 0.25, rtol=1e-6)


@pytest.mark.parametrize("kind", SOFTMAX)
def test_averaged_tends_to_the_nearest_state_and_to_the_mean(kind):
    plane = fit_plane(descent(12, 6))
    shown = projection_of(plane)
    if kind is AveragedND:  # nearest in all of the space
        shown = dataclasses.replace(shown, residual_norms=np.full(12, 0.3))
    points = points_around(shown)
    cold = kind(temperature=1e-6).weights(points, shown)
    np.testing.assert_allclose(cold, Sampled().weights(points, shown), atol=1e-12)
    hot = kind(temperature=1e9).weights(points, shown)
    np.testing.assert_allclose(hot, 1 / 12, rtol=1e-6)
    # All residuals together are none, so this is the plane.
    residuals = descent(12, 6) - plane.origin - plane.path.coordinates @ plane.basis.T
    np.testing.assert_allclose(hot @ residuals, 0.0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-3, 1.0, 1e300, "auto"])
@pytest.mark.parametrize("far", [0.0, 1.0, 1e8, 1e150, 1e300])
@pytest.mark.parametrize("arc_length", [False, True])
@pytest.mark.parametrize("kind", SOFTMAX)
def test_no_temperature_and_no_distance_gives_nan(kind, arc_length, far, temperature):
    path = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.5], [-2.0, 1.0], [-2.0, 1.0]])
    shown = projection(path, [0.0, 0.0, 1.0, 2.0, 0.5])
    points = far * np.array([[1.0, 1.0], [-1.0, 0.3], [0.0, 0.0]])
    weights = kind(temperature, arc_length).weights(points, shown)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, "scott", None, [1.0]])
@pytest.mark.parametrize("kind", SOFTMAX)
def test_temperature_that_is_none_is_refused(kind, temperature):
    with pytest.raises(ArgumentError, match="temperature"):
        kind(temperature=temperature)


@pytest.mark.parametrize("kind", SOFTMAX)
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1e5])
def test_automatic_temperature_scales_with_the_path(kind, scale):
    shown = projection_of(fit_plane(descent(12, 6)))
    scaled = projection(shown.coordinates * scale, shown.residual_norms * scale)
    method = kind(temperature="auto")
    one, other = method.resolve(shown).temperature, method.resolve(scaled).temperature
    assert other == pytest.approx(scale * one, rel=1e-12)
    points = points_around(shown)
    np.testing.assert_allclose(
        method.weights(points * scale, scaled), method.weights(points, shown), atol=1e-9
    )


def test_automatic_temperature_by_hand():
    # Deviations of 1 along each axis, 64 states: τ = 1 · 64^(−1/6) = ½.
    path = np.tile([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], (16, 1))
    shown = projection(path + 5.0, np.full(64, np.sqrt(6.0)))
    assert Averaged("auto").resolve(shown).temperature == pytest.approx(0.5)
    # With residuals: σ² = (2 + 6)/2 = 4.
    assert AveragedND("auto").resolve(shown).temperature == pytest.approx(1.0)
    assert Averaged(3.0).resolve(shown) == Averaged(3.0)
    assert Averaged("auto", True).resolve(shown).arc_length


@pytest.mark.parametrize("kind", SOFTMAX)
def test_arc_length_makes_duplicated_states_count_once(kind):
    shown = projection_of(fit_plane(descent(12, 6)))
    times = np.array([1, 3, 1, 2, 1, 1, 5, 1, 1, 2, 1, 4])
    places = np.repeat(np.arange(12), times)
    dense = projection(shown.coordinates[places], shown.residual_norms[places])
    points = points_around(shown)
    method = kind(temperature=1.3, arc_length=True)
    sums = np.zeros((len(points), 12))
    np.add.at(sums, (slice(None), places), method.weights(points, dense))
    np.testing.assert_allclose(sums, method.weights(points, shown), atol=1e-10)
    # Without the option they count as often as they are there.
    plain = np.zeros((len(points), 12))
    np.add.at(plain, (slice(None), places), kind(temperature=1.3).weights(points, dense))
    assert np.abs(plain - kind(temperature=1.3).weights(points, shown)).max() > 0.1


def test_arc_length_by_hand():
    # Steps of 2 and 4: the states stand for 1, 3 and 2 of a length of 6.
    shown = projection([[0.0, 0.0], [2.0, 0.0], [2.0, 4.0]])
    weights = Averaged(temperature=1e12, arc_length=True).weights(np.zeros((1, 2)), shown)
    np.testing.assert_allclose(weights, [[1 / 6, 1 / 2, 1 / 3]], rtol=1e-9)


def test_a_path_without_any_length_shares_its_weights():
    shown = projection(np.ones((4, 2)))
    weights = Averaged(arc_length=True).weights(np.array([[0.0, 0.0]]), shown)
    np.testing.assert_allclose(weights, 0.25)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_places_are_the_points(method):
    shown = projection_of(fit_plane(descent(12, 6)))
    points = points_around(shown)
    lift = method.lift(points, shown)
    np.testing.assert_array_equal(lift.places, points[lift.point])
    assert sorted({*lift.point.tolist()}) == list(range(len(points)))
    np.testing.assert_allclose(np.bincount(lift.point, lift.share), 1.0, rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, count=st.integers(3, 20), axis=st.integers(0, 1))
@pytest.mark.parametrize("method", [*METHODS, *AS_DRAWN], ids=named)
def test_mirroring_an_axis_mirrors_the_weights(method, seed, count, axis):
    plane = reference_plane(descent(count, 5, seed))
    shown = projection_of(plane)
    mirrored = projection_of(mirrored_plane(plane, axis))
    points = points_around(shown, 6)
    others = points * np.where([axis == 0, axis == 1], -1.0, 1.0)
    other = method
    if axis == 1 and getattr(method, "side", None) in ("above", "below"):
        other = dataclasses.replace(method, side={"above": "below", "below": "above"}[method.side])
    np.testing.assert_allclose(
        other.weights(others, mirrored), method.weights(points, shown), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("method", [*METHODS, *AS_DRAWN], ids=named)
def test_points_do_not_depend_on_each_other(method):
    shown = projection_of(fit_plane(descent(12, 6)))
    points = points_around(shown)
    whole = method.weights(points, shown)
    each = np.concatenate([method.weights(point[None], shown) for point in points])
    np.testing.assert_allclose(each, whole, rtol=1e-13)
    assert method.weights(points[:0], shown).shape == (0, 12)


def test_methods_are_found_by_name_with_their_default_options():
    for name, kind in package.METHODS.items():
        assert method_named(name) == kind()
        assert kind().name == name
    rule = Averaged(2.0, arc_length=True)
    assert method_named(rule) is rule
    for name in ("average", "", "PCA", None):
        with pytest.raises(ArgumentError, match="pca, sampled, sampled-pca, averaged, averaged-nd"):
            method_named(name)


def test_side_that_is_none_is_refused():
    with pytest.raises(ArgumentError, match="side"):
        SampledPCA(side="center")


def test_options_in_json_make_the_method_again():
    for method in [*METHODS, *AS_DRAWN]:
        options = method.to_json()
        assert method_class(options.pop("name"))(**options) == method


def test_descriptions_tell_the_methods_apart():
    described = {method.describe() for method in [*METHODS, *AS_DRAWN]}
    assert len(described) == len(METHODS) + len(AS_DRAWN)
    assert Averaged(2.5, arc_length=True).describe() == "averaged (temperature 2.5, arc length)"
    assert PCA().describe() == "pca"


def test_a_rule_of_ones_own_is_a_method():
    @dataclasses.dataclass(frozen=True)
    class Last(Method):
        name = "last"

        def weights(self, points, shown):
            return np.repeat(np.eye(len(shown.coordinates))[-1:], len(points), axis=0)

    assert method_named(Last()).weights(np.zeros((2, 2)), projection(np.eye(2))).shape == (2, 2)
    assert Last().to_json() == {"name": "last"}


def test_pictures_without_a_method_are_by_one():
    """On the command line and in Python; the former names it, as importing takes time."""
    assert DEFAULT_METHOD == package.DEFAULT
    for draws in (losspath.compute_surface, losspath.refine_surface, losspath.Landscape):
        assert inspect.signature(draws).parameters["method"].default == package.DEFAULT
    for tells in (losspath.measure_fidelity, losspath.surface_uncertainty):
        assert inspect.signature(tells).parameters["method"].default == package.DEFAULT
