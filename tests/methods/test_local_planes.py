import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import losspath
from cases import descent, noise_off_the_plane, objective_of, projection, projection_of
from losspath import Landscape, fit_plane
from losspath.errors import ArgumentError
from losspath.evaluation.execution import engine, tuning
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.methods import LocalPlanes

PATH = descent(12, 6)
SHOWN = projection_of(fit_plane(PATH))
FEW = LocalPlanes(states=5, line=2, chords=4, neighbours=3)
seeds = st.integers(0, 10_000)


def rough(vector):
    """A loss with no plane in it, above zero."""
    return 1.0 + torch.sin(3 * vector).square().sum() + 0.1 * (vector @ vector)


# -- anchors ---------------------------------------------------------------------------------------


def arc(states, centre=0.0):
    """Half of a circle."""
    angle = np.linspace(0, np.pi, states)
    return np.stack([centre + np.cos(angle), np.sin(angle)], axis=1)


def test_anchors_are_states_lines_and_chords():
    path = arc(12)
    anchors = LocalPlanes(states=12, line=2, chords=400).anchors(projection(path)).toarray()
    np.testing.assert_allclose(anchors.sum(axis=1), 1.0, rtol=1e-14)
    states, line, chords = anchors[:12], anchors[12:14], anchors[14:]
    np.testing.assert_array_equal(states, np.eye(12))
    np.testing.assert_allclose(line[:, 0], [2 / 3, 1 / 3])
    np.testing.assert_allclose(line[:, -1], [1 / 3, 2 / 3])
    assert (np.count_nonzero(chords, axis=1) == 2).all()
    assert ((chords >= 0) & (chords <= 1)).all()
    # Those near a state are left out, and no others.
    away = ((chords @ path)[:, None] - path) / np.ptp(path, axis=0)
    beside = np.linalg.norm(away, axis=2).min(axis=1)
    assert 0.08 < beside.min() < 0.09
    assert 150 < len(chords) < 250


@given(st.floats(0, 2), st.integers(0, 6))
@settings(deadline=None, max_examples=30)
def test_states_alone_are_anchors_within_reach(reach, scale):
    path = arc(30) * 10.0**scale
    every = LocalPlanes(states=30, line=20, chords=30, reach=0.0).anchors(projection(path))
    kept = LocalPlanes(states=30, line=20, chords=30, reach=reach).anchors(projection(path))
    assert every.shape[0] == 80
    np.testing.assert_array_equal(kept.toarray()[:30], np.eye(30))
    away = ((every[30:] @ path)[:, None] - path) / np.ptp(path, axis=0)
    beside = np.linalg.norm(away, axis=2).min(axis=1)
    assert abs(kept.shape[0] - 30 - (beside >= reach).sum()) <= (abs(beside - reach) < 1e-9).sum()


@given(st.floats(1e-8, 1e8))
@settings(deadline=None, max_examples=30)
def test_reach_is_in_steps_of_the_grid_however_narrow_the_path_is(height):
    def kept(path):
        return LocalPlanes(states=30, line=20, chords=30).anchors(projection(path))

    # The line is from state 0 to 29, of whatever height.
    assert kept(arc(30) * [1.0, height]).shape[0] > 45
    flat = kept(arc(30) * [1.0, 0.0])  # a path on an axis: its line is the path
    assert (np.diff(flat.indptr) == 1).all()


def test_a_ridge_on_the_straight_line_of_a_narrow_path_is_drawn():
    time = np.linspace(0, np.pi, 301)
    path = np.stack([-np.cos(time), 0.05 * np.sin(time), np.sin(time)], axis=1)
    plane = losspath.Plane(np.zeros(3), np.eye(3)[:, :2], ("x", "y"))
    objective = objective_of(lambda w: 0.1 + 5 * torch.exp(-20 * w[2].square()), 3)
    landscape = Landscape(path, objective, "local-planes", plane=plane)
    line = np.stack([np.linspace(-1, 1, 27), np.zeros(27)], axis=1)[4:-4]  # its anchors
    drawn = np.array([each.loss for each in landscape.evaluate(line)])
    np.testing.assert_allclose(drawn, 5.1, rtol=0.02)


def test_anchors_are_spread_by_arc_length():
    # Ten states in one place, and ten along a line: none of the ten is there twice.
    shown = projection(np.stack([[0.0] * 10 + [*range(1, 11)], [0.0] * 20], axis=1))
    anchors = LocalPlanes(states=6, line=0, chords=0).anchors(shown).toarray()
    assert np.count_nonzero(anchors[:, 1:10]) == 0
    assert anchors.shape[0] == 6


def test_chords_and_lines_stay_within_a_run():
    path = np.concatenate([arc(30), arc(10, 5.0)])
    shown = dataclasses.replace(projection(path), starts=(0, 30))
    anchors = LocalPlanes(states=100, line=3, chords=40, reach=0.0).anchors(shown).toarray()
    in_first, in_other = anchors[:, :30].any(axis=1), anchors[:, 30:].any(axis=1)
    assert not (in_first & in_other).any()
    made = (anchors > 0).sum(axis=1) > 1
    assert (made & in_first).sum() == 3 + 30  # by the number of states
    assert (made & in_other).sum() == 3 + 10
    line = anchors[made][:6]
    assert line[0, 29] == line[3, 39] == pytest.approx(1 / 4)


def test_a_picture_is_the_same_each_time():
    one, other = (LocalPlanes().anchors(SHOWN).toarray() for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("count", [1, 2])
def test_paths_of_few_states_have_anchors(count):
    shown = projection(np.arange(2.0 * count).reshape(count, 2))
    weights = LocalPlanes().weights(np.array([[0.3, -0.2]]), shown)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)


# -- what is drawn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", ["loss", "log-loss"])
def test_exact_at_each_anchor(mean):
    method = LocalPlanes(states=5, line=2, chords=4, neighbours=3, mean=mean)
    landscape = Landscape(PATH, objective_of(rough, 6), method)
    anchors = method.anchors(landscape.projection).toarray()
    found = landscape.evaluate(anchors @ landscape.projection.coordinates)
    for anchor, each in zip(anchors, found, strict=True):
        own = float(rough(torch.from_numpy(anchor @ PATH)))
        assert each.loss == pytest.approx(own, rel=1e-6)


def test_losses_are_averaged_and_not_parameters():
    # Two anchors as far from a point on either side, off the plane in opposite directions.
    path = np.array([[-1.0, 0.0, 2.0, 0.0], [1.0, 0.0, 2.0, 0.0], [0.0, 3.0, -4.0, 0.0]])
    plane = losspath.Plane(np.zeros(4), np.eye(4)[:, :2], ("x", "y"))
    objective = objective_of(lambda w: 1.0 + (w[2] ** 2), 4)
    method = LocalPlanes(states=3, line=0, chords=0, neighbours=3, mean="loss", power=2.0)
    (found,) = Landscape(path, objective, method, plane=plane).evaluate([[0.0, 1.0]])
    # Distances √2, √2 and 2: shares of 1/2, 1/2 and 1/4, over 5/4.
    assert found.loss == pytest.approx(0.8 * 5 + 0.2 * 17)
    method = LocalPlanes(states=3, line=0, chords=0, neighbours=3, power=2.0)
    (found,) = Landscape(path, objective, method, plane=plane).evaluate([[0.0, 1.0]])
    assert found.loss == pytest.approx(math.exp(0.8 * math.log(5) + 0.2 * math.log(17)))
    blend = Landscape(path, objective, "averaged", plane=plane).evaluate([[0.0, 1.0]])
    assert blend[0].loss < found.loss  # whose floor is too low


def test_a_loss_that_is_not_positive_has_the_plain_mean():
    losses = {}
    for mean in ("loss", "log-loss"):
        method = LocalPlanes(states=5, line=2, chords=4, neighbours=3, mean=mean)
        landscape = Landscape(PATH, objective_of(lambda w: rough(w) - 100.0, 6), method)
        losses[mean] = [each.loss for each in landscape.evaluate(SHOWN.coordinates + 0.1)]
    np.testing.assert_allclose(losses["loss"], losses["log-loss"], rtol=1e-12)


def test_it_tells_the_expected_loss_where_a_blend_does_not():
    path, plane, objective, places, expected = noise_off_the_plane()
    ratios = {}
    for method in ("pca", "averaged", "local-planes"):
        found = Landscape(path, objective, method, plane=plane).evaluate(places)
        ratios[method] = np.mean([each.loss for each in found] / expected)
    assert ratios["pca"] < ratios["averaged"] < 0.9
    assert ratios["local-planes"] == pytest.approx(1.0, abs=0.05)


def test_it_comes_to_the_expected_loss_as_states_and_neighbours_grow():
    # The mean of losses is a regression on place: nearest neighbours, as many as √T and fewer.
    off = []
    for states, neighbours in ((100, 2), (400, 8), (1600, 32)):
        path, plane, objective, places, expected = noise_off_the_plane(states)
        method = LocalPlanes(states=states, line=0, chords=0, neighbours=neighbours, mean="loss")
        # Beside the states, where a point is no state's own loss.
        found = Landscape(path, objective, method, plane=plane).evaluate(
            places + np.array([0.0, 0.02])
        )
        apart = np.log([each.loss for each in found] / expected)
        off.append(float(np.sqrt(np.mean(np.square(apart)))))
    assert off[1] < 0.75 * off[0]
    assert off[2] < 0.75 * off[1]


def test_a_line_that_crosses_the_path_in_the_plane_alone_does_not_change_the_path():
    # A path up to 2 off the plane, and a line in the plane that it crosses three times there.
    time = np.linspace(0, 1, 200)
    off = 2 * np.sin(np.pi * time)
    path = np.stack([2 * time, np.sin(4 * np.pi * time), off], axis=1)
    plane = losspath.Plane(np.zeros(3), np.eye(3)[:, :2], ("x", "y"))
    objective = objective_of(lambda w: torch.exp(-w[2]), 3)
    method = LocalPlanes(states=50, line=25, chords=0)
    landscape = Landscape(path, objective, method, plane=plane)
    found = np.log([each.loss for each in landscape.evaluate(path[:, :2])])
    np.testing.assert_allclose(found, -off, atol=0.4)  # the line's is 0 all along
    line = np.stack([np.linspace(0, 2, 27), np.zeros(27)], axis=1)
    away = np.linalg.norm(line[:, None] - path[None, :, :2], axis=2).min(axis=1) > 0.17
    found = np.log([each.loss for each in landscape.evaluate(line[away])])
    np.testing.assert_allclose(found, 0.0, atol=1e-5)  # exact at its own anchors nevertheless
    assert away.sum() == 8


@settings(deadline=None, max_examples=40)
@given(seed=seeds, scale=st.sampled_from([1e-6, 1e3]))
def test_it_follows_the_scale_of_the_path(seed, scale):
    rng = np.random.default_rng(seed)
    path, points = rng.normal(size=(15, 2)), rng.normal(size=(6, 2))
    one = FEW.weights(points, projection(path))
    other = FEW.weights(points * scale, projection(path * scale))
    np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=40)
@given(seed=seeds)
def test_shares_are_continuous(seed):
    rng = np.random.default_rng(seed)
    shown = projection(rng.normal(size=(30, 2)))
    start, end = rng.normal(size=(2, 2))
    along = np.linspace(0, 1, 2001)[:, None]
    weights = FEW.weights(start + along * (end - start), shown)
    # A nearest-neighbour rule jumps by 1.
    assert np.abs(np.diff(weights, axis=0)).max() < 0.2


def test_a_point_costs_no_more_than_its_neighbours():
    points = np.random.default_rng(0).normal(size=(50, 2))
    lift = LocalPlanes(neighbours=6).lift(points, SHOWN)
    assert np.bincount(lift.point).max() <= 6
    assert LocalPlanes(neighbours=6).vectors_at_a_point == 6


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("states", 1),
        ("line", -1),
        ("chords", 1.5),
        ("neighbours", 0),
        ("mean", "log"),
        ("power", 0),
    ],
)
def test_options_that_are_none_are_refused(option, value):
    with pytest.raises(ArgumentError, match=option):
        LocalPlanes(**{option: value})


# -- how it is computed ----------------------------------------------------------------------------


@pytest.fixture
def normed(tmp_path):
    """A run of a network whose buffers change."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    )
    inputs, targets = 3 * torch.randn(60, 4) + 2, torch.randint(3, (60,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with losspath.Recorder(tmp_path / "run", model) as recorder:
        for start in itertools.chain(range(0, 60, 10), range(0, 60, 10)):
            loss = F.cross_entropy(model(inputs[start : start + 10]), targets[start : start + 10])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
    return losspath.Trajectory(tmp_path / "run"), objective


def test_planes_together_equal_the_plain_loop_with_buffers_of_their_own(normed, monkeypatch):
    path, objective = normed
    landscape = Landscape(path, objective, FEW)
    places = np.concatenate([landscape.projection.coordinates, np.zeros((1, 2))])
    monkeypatch.setattr(engine, "_SMALL", 1e99)
    plain = [each.loss for each in landscape.evaluate(places)]
    monkeypatch.setattr(engine, "_SMALL", 0)
    chosen = EngineConfig(batch_size=16, threads=2, first_layer_group=3, group_size=5)
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: chosen)
    notes = landscape.surface(6).provenance["evaluation"]
    assert any(note.startswith("points on a plane") for note in notes)
    quick = [each.loss for each in landscape.evaluate(places)]
    np.testing.assert_allclose(quick, plain, rtol=1e-5)
    first = landscape.states(2)
    assert plain[0] == pytest.approx(first.loss[0], rel=1e-6)  # with its own buffers
