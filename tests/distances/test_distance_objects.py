"""Distances between points and states: known answers."""

import doctest
import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import losspath.distances
from cases import PROBLEMS, CountedPath, assert_same, descent, line, loop, named, projection
from losspath import Grid, Landscape, compute_surface, fit_plane
from losspath.distances import (
    DISTANCES,
    Distance,
    Euclidean,
    EuclideanND,
    Mahalanobis,
    MahalanobisND,
    Manhattan,
    ManhattanND,
    distance_named,
)
from losspath.errors import ArgumentError
from losspath.geometry.plane import Plane
from losspath.methods import Averaged, AveragedND, Sampled
from losspath.recording.trajectory import as_path

IN_PLANE = [Euclidean(), Manhattan(), Mahalanobis()]
ND = [EuclideanND(), ManhattanND(), MahalanobisND()]
ORIGIN = np.zeros((1, 2))
# On the corners of a square and one more, with covariance diag(4, 1) · 4/3.
SQUARE = np.array([[-2.0, -1.0], [-2.0, 1.0], [2.0, 1.0], [2.0, -1.0]])


def bound(distance, states, plane=None):
    """A distance that knows the states, and the path as the plane shows it."""
    path = as_path(states)
    plane = plane or fit_plane(path)
    shown = plane.projection(path)
    return distance.bind(path, plane, shown), shown


def points_around(shown, resolution=5):
    return Grid.around(shown.coordinates, resolution).points


def test_three_states_on_a_square_by_hand():
    # From the corner (0, 0) of a square of side 3: two states along its sides, one across.
    shown = projection([[3.0, 0.0], [0.0, 3.0], [3.0, 3.0]])
    diagonal = math.sqrt(18)
    np.testing.assert_allclose(Euclidean().distances(ORIGIN, shown), [[3, 3, diagonal]])
    np.testing.assert_allclose(Manhattan().distances(ORIGIN, shown), [[3, 3, 6]])
    # Deviations (1, −2), (−2, 1), (1, 1): C = [[3, −1.5], [−1.5, 3]], C⁻¹ = [[4, 2], [2, 4]] / 9.
    expected = [[2.0, 2.0, math.sqrt(12)]]
    np.testing.assert_allclose(Mahalanobis().distances(ORIGIN, shown), expected, rtol=1e-12)
    # At temperature 1 the far one has exp(3 − d) to 1.
    for distance, far in ((Euclidean(), diagonal - 3), (Manhattan(), 3), (Mahalanobis(), None)):
        far = math.sqrt(12) - 2 if far is None else far
        weights = Averaged(1.0, distance=distance).weights(ORIGIN, shown)
        expected = np.array([1, 1, math.exp(-far)])
        np.testing.assert_allclose(weights[0], expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_manhattan_is_euclidean_on_an_axis(axis):
    path = np.random.default_rng(0).standard_normal((9, 2))
    path[:, 1 - axis] = 0.7
    points = np.linspace(-2, 2, 5)[:, None] * np.eye(2)[axis] + 0.7 * np.eye(2)[1 - axis]
    shown = projection(path)
    one, other = (d.distances(points, shown) for d in (Manhattan(), Euclidean()))
    np.testing.assert_allclose(one, other, rtol=1e-15)


def test_the_nearest_state_depends_on_the_distance():
    shown = projection([[3.0, 3.0], [0.0, 4.5], [-30.0, 0.0], [30.0, 0.0]])
    assert Euclidean().nearest(ORIGIN, shown) == [0]  # √18 and 4.5
    assert Manhattan().nearest(ORIGIN, shown) == [1]  # 6 and 4.5
    # The path is long along the first axis, so 30 there are less than 3 along the other.
    assert Mahalanobis().nearest(ORIGIN, shown) == [2]
    assert Mahalanobis().nearest(np.array([[1.0, 0.0]]), shown) == [3]
    assert Euclidean().nearest(np.array([[1.0, 0.0]]), shown) == [0]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    factors=st.tuples(*[st.sampled_from([1e-3, 0.1, -3.0, 1.0, 1e4])] * 2),
    skew=st.floats(-2, 2),
)
def test_mahalanobis_is_invariant_to_linear_maps_of_the_plane(seed, factors, skew):
    rng = np.random.default_rng(seed)
    path, points = rng.standard_normal((12, 2)), 3 * rng.standard_normal((5, 2))
    shown = projection(path)
    scaled = projection(path * factors)
    expected = Mahalanobis().distances(points, shown)
    for method in (Averaged(1.0, distance=Mahalanobis()), Averaged(distance=Mahalanobis())):
        np.testing.assert_allclose(
            method.weights(points * factors, scaled), method.weights(points, shown), atol=1e-9
        )
    np.testing.assert_allclose(
        Mahalanobis().distances(points * factors, scaled), expected, rtol=1e-7
    )
    linear = np.array([[1.0, skew], [0.0, 1.0]])
    np.testing.assert_allclose(
        Mahalanobis().distances(points @ linear, projection(path @ linear)), expected, rtol=1e-6
    )
    # What it is by definition.
    inverse = np.linalg.inv(np.cov(path.T))
    for point, row in zip(points, expected, strict=True):
        for state, found in zip(path, row, strict=True):
            assert found == pytest.approx(math.sqrt((point - state) @ inverse @ (point - state)))


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2])
def test_mahalanobis_of_a_path_on_a_line_measures_along_it(angle):
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    where = np.array([-3.0, -1.0, 0.0, 4.0])
    shown = projection(where[:, None] * along)
    deviation = where.std(ddof=1)
    for off in (0.0, 1e-9, 2.5):
        point = (1.5 * along + off * across)[None]
        found = Mahalanobis().distances(point, shown)
        np.testing.assert_allclose(found, [np.abs(1.5 - where) / deviation], rtol=1e-9)
    assert Mahalanobis().nearest((3.0 * along + 7 * across)[None], shown) == [3]


@pytest.mark.parametrize("size", [0.0, 1.0, 1e8])
def test_mahalanobis_of_a_path_that_is_a_point_weighs_all_alike(size):
    shown = projection(np.full((4, 2), size), [0.0, 1.0, 2.0, 3.0])
    assert not Mahalanobis().distances(np.ones((1, 2)), shown).any()
    np.testing.assert_array_equal(
        Averaged(distance=Mahalanobis()).weights(np.ones((1, 2)), shown), [[0.25] * 4]
    )


@pytest.mark.parametrize("distance", IN_PLANE, ids=named)
@pytest.mark.parametrize("states", [descent(12, 6), loop(), line()], ids=["way", "loop", "line"])
def test_in_the_plane_every_state_is_nearest_to_its_own_place(distance, states):
    shown = fit_plane(states).path
    # Exactly at 0, whatever the coordinates.
    assert not np.diagonal(distance.distances(shown.coordinates, shown)).any()
    weights = Sampled(distance=distance).weights(shown.coordinates, shown)
    # A loop ends where it begins, and of states equally near the earliest counts.
    np.testing.assert_array_equal(
        weights.argmax(axis=1),
        [
            next(i for i in range(len(states)) if (shown.coordinates[i] == place).all())
            for place in shown.coordinates
        ],
    )


@pytest.mark.parametrize("distance", IN_PLANE, ids=named)
def test_little_temperature_is_the_nearest_and_much_the_plane(distance):
    shown = fit_plane(descent(12, 6)).path
    points = points_around(shown, 9)
    cold = Averaged(1e-6, distance=distance).weights(points, shown)
    np.testing.assert_allclose(cold, Sampled(distance=distance).weights(points, shown), atol=1e-12)
    hot = Averaged(1e9, distance=distance).weights(points, shown)
    np.testing.assert_allclose(hot, 1 / 12, rtol=1e-6)


def test_automatic_temperatures_by_hand():
    # 64 states: 64^(−1/6) = ½. Deviations of 2 and 1 along the axes.
    shown = projection(np.tile(SQUARE, (16, 1)) + 5.0)
    auto = {d.name: Averaged("auto", distance=d).resolve(shown).temperature for d in IN_PLANE}
    assert auto["euclidean"] == pytest.approx(math.sqrt(5 / 2) / 2)
    assert auto["manhattan"] == pytest.approx(3 / math.sqrt(2) / 2)
    # All at distance √(1 + 1), but for T−1 in the covariance.
    assert auto["mahalanobis"] == pytest.approx(math.sqrt(63 / 64) / 2)


@pytest.mark.parametrize("distance", IN_PLANE, ids=named)
def test_automatic_temperature_blends_about_as_many_states_by_any_distance(distance):
    rng = np.random.default_rng(0)
    path = rng.standard_normal((400, 2))

    def states_in(distance):
        shown = projection(path)
        weights = Averaged("auto", distance=distance).weights(0.5 * path[:40], shown)
        return np.median(1 / np.sum(weights**2, axis=1))

    assert states_in(distance) == pytest.approx(states_in(Euclidean()), rel=0.1)


def loops(name, place, states, index):
    """The distance from a vector to a state by its definition."""
    away = [abs(float(a) - float(b)) for a, b in zip(place, states[index], strict=True)]
    if name == "euclidean-nd":
        return math.sqrt(sum(each**2 for each in away))
    if name == "manhattan-nd":
        return sum(away)
    variances = [np.var(column.astype(np.float64), ddof=1) for column in np.asarray(states).T]
    pairs = zip(away, variances, strict=True)
    return math.sqrt(sum(each**2 / variance for each, variance in pairs if variance > 0))


@pytest.mark.parametrize("problem", PROBLEMS, ids=named)
@pytest.mark.parametrize("distance", ND, ids=named)
@pytest.mark.parametrize("other", [False, True], ids=["principal", "random"])
def test_in_all_dimensions_as_a_plain_loop_over_all_states(problem, distance, other):
    plane = fit_plane(problem.path)
    if other:
        axes = np.random.default_rng(1).standard_normal((problem.path.shape[1], 2))
        plane = Plane(plane.origin + 0.1, np.linalg.qr(axes)[0], ("one", "two"))
    measured, shown = bound(distance, problem.path, plane)
    points = points_around(shown)[::3]
    found = measured.distances(points, shown)
    expected = [
        [
            loops(distance.name, plane.origin + plane.basis @ point, problem.path, i)
            for i in range(len(problem.path))
        ]
        for point in points
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7 * np.max(expected))
    method = AveragedND("auto", distance=distance)
    landscape = Landscape(problem.path, problem.objective(), method, plane=plane)
    mean = plane.origin + plane.basis @ shown.coordinates.mean(axis=0)
    squares = [loops(distance.name, mean, problem.path, i) ** 2 for i in range(len(problem.path))]
    auto = math.sqrt(np.mean(squares) / 2) * len(problem.path) ** (-1 / 6)
    if not (other and distance.name == "euclidean-nd"):  # σ there is about the residuals' origin
        assert landscape.method.temperature == pytest.approx(auto, rel=1e-6)


def test_parameters_that_never_move_are_left_out_and_rescaling_others_changes_nothing():
    states = descent(10, 6)
    still = np.column_stack([states, np.full(10, 0.1), np.full(10, 1e7)])
    plane = Plane(np.zeros(6), np.linalg.qr(states[:2].T)[0], ("x", "y"))
    wide = Plane(np.zeros(8), np.vstack([plane.basis, np.zeros((2, 2))]), ("x", "y"))
    measured, shown = bound(MahalanobisND(), states, plane)
    points = points_around(shown)
    expected = measured.distances(points, shown)
    assert np.isfinite(expected).all()
    same, _ = bound(MahalanobisND(), still, wide)
    np.testing.assert_allclose(same.distances(points, shown), expected, rtol=1e-9)
    # In float32 as well, where 0.1 is rounded.
    same, _ = bound(MahalanobisND(), still.astype(np.float32), wide)
    np.testing.assert_allclose(same.distances(points, shown), expected, rtol=1e-4, atol=1e-5)


def test_manhattan_in_all_dimensions_reads_no_more_states_than_asked_for():
    states = np.cumsum(np.random.default_rng(0).standard_normal((200, 7)), axis=0)
    path, plane = CountedPath(states), fit_plane(states)
    measured = ManhattanND(states=9).bind(path, plane, plane.path)
    points = points_around(plane.path)
    path.reads.clear()
    found = measured.distances(points, plane.path)
    chosen = measured.states_of(plane.path)
    assert len(chosen) <= 9
    assert {0, 199} <= set(chosen.tolist())
    assert sorted(path.reads) == chosen.tolist()
    path.reads.clear()
    Averaged(1.0, distance=measured).weights(np.tile(points, (40, 1)), plane.path)  # in one go
    assert sorted(path.reads) == chosen.tolist()
    assert np.isinf(np.delete(found, chosen, axis=1)).all()
    everything, shown = bound(ManhattanND(states=200), states, plane)
    expected = everything.distances(points, shown)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found[:, chosen], expected[:, chosen])


@pytest.mark.parametrize("arc_length", [False, True])
def test_a_thinned_path_is_weighed_as_if_it_had_no_other_states(arc_length):
    states = np.cumsum(np.random.default_rng(1).standard_normal((150, 6)), axis=0)
    plane = fit_plane(states)
    method = AveragedND("auto", arc_length, distance=ManhattanND(states=11))
    measured = method.bind(as_path(states), plane, plane.path)
    chosen = measured.distance.states_of(plane.path)
    few = as_path(states[chosen])
    alone = method.bind(few, plane, plane.projection(few))
    points = points_around(plane.path)
    assert len(chosen) == len(few) < 12
    assert not np.delete(measured.weights(points, plane.path), chosen, axis=1).any()
    # Temperatures are about another mean, but for as many states.
    one, other = measured.resolve(plane.path), alone.resolve(plane.projection(few))
    assert one.temperature == pytest.approx(other.temperature, rel=0.2)
    fixed = [AveragedND(2.0, arc_length, distance=m.distance) for m in (measured, alone)]
    weights = fixed[0].weights(points, plane.path)
    expected = fixed[1].weights(points, plane.projection(few))
    np.testing.assert_allclose(weights[:, chosen], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("parts", [8, 200, 1 << 20])
def test_manhattan_is_the_same_in_whatever_parts(parts, monkeypatch):
    states = descent(9, 6)
    measured, shown = bound(ManhattanND(), states)
    points = points_around(shown)
    expected = measured.distances(points, shown)
    monkeypatch.setattr("losspath.distances.manhattan._PART_BYTES", parts)
    monkeypatch.setattr("losspath.distances.manhattan._STATES_BYTES", parts)
    np.testing.assert_allclose(measured.distances(points, shown), expected, rtol=1e-13)


@pytest.mark.parametrize("method", [Sampled(), Averaged(0.3, True), AveragedND()], ids=named)
@pytest.mark.parametrize("numbers", [1, 30, 1 << 30])
def test_blocks_do_not_change_a_bit(method, numbers, monkeypatch):
    shown = fit_plane(descent(12, 6)).path
    points = points_around(shown, 9)
    expected = method.weights(points, shown)
    monkeypatch.setattr("losspath.distances.distance._NUMBERS", numbers)
    np.testing.assert_array_equal(method.weights(points, shown), expected)


def test_distances_of_many_points_take_little_memory():
    @dataclass(frozen=True)
    class Watched(Euclidean):
        name = "watched"

        def distances(self, points, path):
            sizes.append(len(points) * len(path))
            return super().distances(points, path)

    sizes = []
    shown = projection(np.random.default_rng(0).standard_normal((3000, 2)))
    assert len(Watched().nearest(np.zeros((500, 2)), shown)) == 500
    assert max(sizes) <= 1 << 16
    assert sum(sizes) == 500 * 3000


@pytest.mark.parametrize(
    "method",
    [
        *(kind(distance=d) for kind in (Sampled, Averaged) for d in (*IN_PLANE, *ND)),
        *(AveragedND("auto", distance=d) for d in ND),
        Averaged("auto", arc_length=True, distance=ManhattanND(states=4)),
    ],
    ids=named,
)
def test_surfaces_are_of_blends_by_the_distance(method):
    problem = PROBLEMS[0]
    surface = compute_surface(problem.path, problem.objective(), method, 4)
    path, plane = as_path(problem.path), fit_plane(problem.path)
    rule = method.bind(path, plane, plane.path).resolve(plane.path)
    for (i, b), (j, a) in itertools.product(enumerate(surface.y), enumerate(surface.x)):
        weights = rule.weights(np.array([[a, b]]), plane.path)[0]
        blend = weights @ problem.path
        vector = blend + plane.basis @ ([a, b] - plane.project(blend))
        assert surface.loss[i, j] == pytest.approx(problem.loss(vector), rel=1e-9)
    assert surface.provenance["method"] == rule.to_json()
    assert surface.description == rule.describe()


def test_keys_tell_distances_apart_and_keep_those_of_before():
    problem = PROBLEMS[0]
    plane = fit_plane(problem.path)
    grid = Grid.around(plane.path.coordinates, 4)
    methods = [Sampled(distance=d) for d in (*IN_PLANE, *ND, ManhattanND(states=50))]
    methods += [AveragedND(distance=d) for d in (*ND, ManhattanND(states=50))]
    keys = [
        Landscape(problem.path, problem.objective(), method, plane=plane).key(grid)
        for method in methods
    ]
    assert len(set(keys)) == len(keys)
    assert Sampled(distance="euclidean").to_json() == {"name": "sampled"}
    assert AveragedND(distance="euclidean").to_json() == {
        "name": "averaged-nd",
        "temperature": "auto",
        "arc_length": False,
    }
    assert Sampled(distance=ManhattanND(5)).to_json() == {
        "name": "sampled",
        "distance": {"name": "manhattan-nd", "states": 5},
    }


def test_distances_are_found_by_name_and_made_of_json_again():
    for name, kind in DISTANCES.items():
        assert distance_named(name) == kind() == distance_named({"name": name})
        assert distance_named(kind()) == kind()
        for distance in (kind(), *([kind(states=7)] if name == "manhattan-nd" else [])):
            assert distance_named(json.loads(json.dumps(distance.to_json()))) == distance
    assert ManhattanND(states=7).describe() == "manhattan-nd (states 7)"
    assert Averaged(distance="manhattan") == Averaged(distance=Manhattan())
    assert AveragedND(distance="manhattan") == AveragedND(distance=ManhattanND())
    assert AveragedND(distance="manhattan-nd") == AveragedND(distance="manhattan")
    for distance in ("manhatten", "", None, 3, {}, {"name": "euclidean", "states": 3}, Manhattan):
        with pytest.raises(ArgumentError, match="distance"):
            distance_named(distance)
        with pytest.raises(ArgumentError, match="distance"):
            Averaged(distance=distance)
    with pytest.raises(ArgumentError, match="states as a whole number, at least 2"):
        ManhattanND(states=1)


def test_averaged_nd_takes_distances_in_all_dimensions_alone():
    with pytest.raises(ArgumentError, match=r"all dimensions, got manhattan.*ManhattanND\(\)"):
        AveragedND(distance=Manhattan())
    shown = fit_plane(descent(12, 6)).path
    points = points_around(shown)
    np.testing.assert_array_equal(
        Averaged(distance=EuclideanND()).weights(points, shown),
        AveragedND().weights(points, shown),
    )


@pytest.mark.parametrize("distance", [ManhattanND(), MahalanobisND()], ids=named)
def test_a_distance_without_its_states_says_so(distance):
    shown = projection(SQUARE)
    for method in (Sampled(distance=distance), AveragedND("auto", distance=distance)):
        with pytest.raises(ArgumentError, match="with the states that it is measured to"):
            method.weights(ORIGIN, shown)


@pytest.mark.parametrize(
    "answer",
    [
        lambda points, path: np.zeros(len(path)),
        lambda points, path: np.zeros((len(path), len(points))),
        lambda points, path: np.full((len(points), len(path)), np.nan),
        lambda points, path: np.full((len(points), len(path)), np.inf),
        lambda points, path: np.full((len(points), len(path)), -1.0),
        lambda points, path: None,
    ],
    ids=["one row", "turned", "NaN", "infinite", "negative", "nothing"],
)
def test_what_is_no_distance_is_refused(answer):
    @dataclass(frozen=True)
    class Own(Distance):
        name = "own"

        def distances(self, points, path):
            return answer(points, path)

    for method in (Sampled(distance=Own()), Averaged(distance=Own())):
        with pytest.raises(ArgumentError, match="the distance own to give numbers"):
            method.weights(np.zeros((3, 2)), projection(SQUARE))


def test_a_distance_of_ones_own_is_drawn_by():
    @dataclass(frozen=True)
    class Minkowski(Distance):
        name = "minkowski"
        power: float = 3.0

        def distances(self, points, path):
            apart = np.abs(points[:, None] - path.coordinates[None])
            return np.sum(apart**self.power, axis=2) ** (1 / self.power)

    problem = PROBLEMS[0]
    path, objective = problem.path, problem.objective()
    for power, same in ((1.0, Manhattan()), (2.0, Euclidean())):
        own = compute_surface(path, objective, Averaged(distance=Minkowski(power)), 4)
        other = compute_surface(path, objective, Averaged(distance=same), 4)
        np.testing.assert_allclose(own.loss, other.loss, rtol=1e-9)
        described = own.provenance["method"]["distance"]
        assert described == {"name": "minkowski", "power": power}
    auto = Landscape(path, objective, Averaged("auto", distance=Minkowski()))
    low, high = (
        Landscape(path, objective, Averaged("auto", distance=d)).method.temperature
        for d in (Euclidean(), Manhattan())
    )
    assert 0.9 * low < auto.method.temperature < high


@pytest.mark.parametrize("name", ["losspath.distances", "losspath.distances.distance"])
def test_examples(name):
    module = __import__(name, fromlist=["_"])
    found = doctest.testmod(module)
    assert found.attempted > 1
    assert found.failed == 0
    assert losspath.distances.Distance.__doc__.count(">>>") > 5


@pytest.mark.parametrize("distance", ["manhattan", "mahalanobis"])
def test_by_workers_and_after_a_stop_the_surface_is_the_same(distance, tmp_path):
    problem, method = PROBLEMS[0], AveragedND("auto", distance=distance)
    whole = compute_surface(problem.path, problem.objective(), method, 7)
    with ThreadPoolExecutor(2) as pool:
        other = compute_surface(problem.path, problem.objective(), method, 7, executor=pool)
    np.testing.assert_allclose(other.loss, whole.loss, rtol=1e-12)

    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done > total // 2:
            raise StoppedError

    file = tmp_path / "points"
    with pytest.raises(StoppedError):
        compute_surface(
            problem.path, problem.objective(), method, 7, checkpoint=file, progress=stop
        )
    again = compute_surface(problem.path, problem.objective(), method, 7, checkpoint=file)
    assert_same(again, whole)
