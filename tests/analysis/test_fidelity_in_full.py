"""The full form of fidelity: with what neither plane nor method know of."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losspath
from cases import objective_of
from losspath import measure_fidelity
from losspath.analysis.evidence import Evidence, held_out
from losspath.analysis.fidelity import bare_surface, judge
from losspath.errors import ArgumentError, PathError
from losspath.recording.joint import JointPath
from losspath.recording.selection import Selection, recorded_losses
from losspath.surface import Fidelity


def noisy_path(states=300, off=60, seed=0):
    """A curve downhill in two dimensions, with noise of variance 1 in all others."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, states)
    curve = np.stack([40 - 40 * time, 10 * np.sin(3 * time)])
    return np.concatenate([curve, rng.standard_normal((off, states))]).T


def quadratic(vector):
    """On a state 2 + the slope, on their mean 1 + the slope, but for chance."""
    return 1.0 + vector[2:].square().mean() + 0.003 * vector[:2].square().sum()


OBJECTIVE = objective_of(quadratic, 62)


# -- some states of a path -------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    """Two runs of a network with buffers."""
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        with losspath.Recorder(tmp_path / str(seed), model) as recorder:
            for step in range(9):
                loss = model(torch.randn(5, 3)).square().sum()
                with torch.no_grad():
                    model[0].weight += 0.1 * torch.randn(4, 3)
                recorder.record(loss + step)
        runs.append(losspath.Trajectory(tmp_path / str(seed)))
    return runs


def test_some_states_of_a_run(recorded):
    run = recorded[0]
    some = Selection(run, [0, 1, 4, 5, 6, 9])
    np.testing.assert_array_equal(some.read(0, 6), run[:][some.indices])
    np.testing.assert_array_equal(some.read(2, 5), run[:][[4, 5, 6]])
    np.testing.assert_array_equal(some.read_columns(1, 3, [0, 3]), run[:][[0, 5], 1:3])
    assert some.side_key(2) == run.side_key(4)
    assert torch.equal(some.sides(5)["1.running_mean"], run.sides(9)["1.running_mean"])
    np.testing.assert_array_equal(some.losses, run.losses[[0, 1, 4, 5, 6]])
    assert some.layout == run.layout
    assert some.digest != Selection(run, [0, 1, 4, 5, 6, 8]).digest
    assert some.digest == Selection(run, [0, 1, 4, 5, 6, 9]).digest


def test_some_states_of_several_runs(recorded):
    joint = JointPath(recorded)
    some = Selection(joint, [0, 3, 9, 10, 14, 19])
    assert some.starts == {"0": 0, "1": 3}
    np.testing.assert_array_equal(some.read(0, 6), joint.read(0, 20)[some.indices])
    assert some.side_key(4) == recorded[1].side_key(4)
    assert Selection(joint, [12, 14]).starts == {"1": 0}
    assert np.isnan(some.losses[2])  # the last state of the first run has none
    assert some.losses[4] == recorded[1].losses[4]


def test_some_states_of_an_array():
    path = losspath.recording.joint.as_path(np.arange(12.0).reshape(6, 2))
    some = Selection(path, [1, 4])
    np.testing.assert_array_equal(some.read(0, 2), [[2, 3], [8, 9]])
    assert np.isnan(recorded_losses(some)).all()
    assert some.sides(0) == {}
    assert some.layout is None
    assert losspath.fit_plane(Selection(path, [0, 2, 5])).path.coordinates.shape == (3, 2)


@pytest.mark.parametrize("indices", [[], [3, 2], [0, 0], [-1, 2], [0, 6], [[0, 1]]])
def test_indices_of_no_states_are_refused(indices):
    with pytest.raises(ArgumentError, match="indices"):
        Selection(losspath.recording.joint.as_path(np.eye(6)), indices)


def test_the_same_surface_as_of_the_states_alone(recorded):
    run = recorded[0]
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    x, y = torch.randn(20, 3), torch.randn(20, 4)
    objective = losspath.Objective(model, x, y, F.mse_loss)
    one = losspath.compute_surface(run.window(0, 10, 3), objective, "sampled", 5)
    other = losspath.compute_surface(Selection(run, [0, 3, 6, 9]), objective, "sampled", 5)
    np.testing.assert_allclose(other.loss, one.loss, rtol=1e-6)
    np.testing.assert_allclose(other.states.loss, one.states.loss, rtol=1e-6)


# -- stretches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", [12, 13, 40, 1000])
def test_stretches_do_not_touch_and_leave_the_ends(states):
    for seed in range(20):
        found = held_out([0], states, np.random.default_rng(seed))
        assert 1 <= len(found) <= 5
        taken = np.zeros(states, int)
        for first, stop in found:
            assert stop - first == max(1, round(0.04 * states))
            assert 1 <= first < stop <= states - 1
            taken[first:stop] += 1
            assert taken[first - 1] == 0
        assert taken.max() == 1


def test_stretches_leave_the_ends_of_each_run():
    for seed in range(20):
        for first, stop in held_out([0, 20], 40, np.random.default_rng(seed)):
            assert not {0, 19, 20, 39} & {*range(first, stop)}


def test_a_short_path_has_none():
    assert held_out([0], 11, np.random.default_rng(0)) == []
    found = measure_fidelity(noisy_path(8), OBJECTIVE, "pca", 4, count=8)
    assert set(found.strata) == {"chords", "balls"}


# -- known answers ---------------------------------------------------------------------------------


def test_all_strata_tell_the_known_bias():
    path = noisy_path()
    forks = [noisy_path(seed=seed)[at : at + 8] for seed, at in ((1, 40), (2, 120), (3, 250))]
    found = measure_fidelity(path, OBJECTIVE, "pca", 21, forks=forks)
    slope = 0.003 * np.square(path[:, :2]).sum(axis=1)
    expected = math.expm1(np.mean(np.log((1 + slope) / (2 + slope))))
    assert list(found.strata) == ["held-out", "chords", "balls", "forks"]
    for name in ("balls", "held-out", "forks"):
        assert found.strata[name].bias.value == pytest.approx(expected, abs=0.08)
    assert found.bias.value == pytest.approx(expected, abs=0.05)
    assert found.bias.low < found.bias.value < found.bias.high < 0
    assert found.strata["forks"].count == 21  # the first of each fork is the path's own

    better = measure_fidelity(path, OBJECTIVE, "local-planes", 21, forks=forks)
    assert abs(better.bias.value) < 0.08
    assert better.typical_error.value < found.typical_error.value
    for name in ("balls", "held-out", "forks"):
        assert abs(better.strata[name].bias.value) < 0.12


def test_what_is_held_out_is_known_to_nobody():
    # The states of five stretches have a direction of their own, and a loss that only they have.
    path = noisy_path()
    kept = np.ones(len(path), bool)
    for first, stop in held_out([0], len(path), np.random.default_rng(0)):
        kept[first:stop] = False
    path[~kept, 2] += 30.0

    def loss(vector):
        return 1.0 + 0.1 * vector[2].square()

    found = measure_fidelity(path, objective_of(loss, 62), "sampled", 9)
    # Drawn are about 1 to 1.4, and the truth is about 91.
    assert found.strata["held-out"].bias.value < -0.2
    assert found.strata["held-out"].typical_error.value > 1.3


def test_another_run_is_told_nothing_of():
    # Elsewhere off the plane, where losses are ten times as high.
    far = noisy_path(seed=5) + np.where(np.arange(62) < 2, 0.0, 3.0)
    found = measure_fidelity(noisy_path(), OBJECTIVE, "local-planes", 9, control=far)
    assert found.control.value < 0.1
    assert found.control.low <= found.control.value <= found.control.high
    assert "control" not in found.strata


def test_a_given_plane_stays(monkeypatch):
    path = noisy_path(60)
    basis = np.eye(62)[:, :2]
    plane = losspath.Plane(path.mean(axis=0), basis, ("x", "y"))
    seen = []
    init = losspath.Landscape.__init__

    def watched(self, *arguments, **options):
        init(self, *arguments, **options)
        seen.append(self.plane)

    monkeypatch.setattr(losspath.Landscape, "__init__", watched)
    measure_fidelity(path, OBJECTIVE, "pca", 4, plane=plane, count=8)
    assert seen == [plane, plane]
    seen.clear()
    measure_fidelity(path, OBJECTIVE, "pca", 4, count=8)
    assert seen[0].path.path_digest != seen[1].path.path_digest


def test_a_method_keeps_its_options_as_they_were_asked_for():
    seen = []

    class Watched(losspath.methods.Averaged):
        def resolve(self, path):
            seen.append((self.temperature, len(path)))
            return super().resolve(path)

    path = noisy_path(100)
    measure_fidelity(path, OBJECTIVE, Watched("auto"), 4, count=8)
    assert ("auto", 100) in seen
    assert ("auto", 80) in seen


# -- as a call -------------------------------------------------------------------------------------


def test_it_goes_on_where_it_was_stopped(tmp_path):
    class Stop(Exception):
        pass

    path = noisy_path(60)
    whole = measure_fidelity(path, OBJECTIVE, "averaged", 5, count=8)
    done = []

    def stop(count, total):
        done.append((count, total))
        if len(done) == 30:
            raise Stop

    options = {"count": 8, "checkpoint": tmp_path / "points"}
    with pytest.raises(Stop):
        measure_fidelity(path, OBJECTIVE, "averaged", 5, progress=stop, **options)
    points = done[-1][1]
    assert done[-1][0] == 30 < points < 50  # where nothing is read, nothing is evaluated
    assert (tmp_path / "points").exists()
    assert len(list(tmp_path.glob("points.held-out-*"))) == 1 + 1  # and its lock
    found = measure_fidelity(path, OBJECTIVE, "averaged", 5, progress=stop, **options)
    assert found == whole
    assert done[30] == (25, 25)  # what was there counts at once
    assert done[31][0] == 30
    assert done[-1] == (points, points)


def test_a_checkpoint_serves_another_number_of_vectors(tmp_path):
    options = {"count": 8, "checkpoint": tmp_path / "points"}
    measure_fidelity(noisy_path(60), OBJECTIVE, "pca", 5, **options)
    found = measure_fidelity(noisy_path(60), OBJECTIVE, "pca", 5, **options | {"count": 20})
    assert found == measure_fidelity(noisy_path(60), OBJECTIVE, "pca", 5, count=20)


def test_nothing_is_evaluated_where_nothing_is_read():
    landscape = losspath.Landscape(noisy_path(20), OBJECTIVE, "averaged")
    grid = landscape.grid(5)
    told = []
    for places, count in ((np.full((3, 2), 1e9), 0), (np.array([[0.01, 0.01]]), 4)):
        surface = bare_surface(landscape, grid, places, progress=lambda *at: told.append(at))
        assert surface.evaluated.sum() == count
        assert np.isfinite(surface.at(places)).all() == (count > 0)
    assert told[-1] == (4, 4)


def test_it_is_kept_in_a_file(tmp_path):
    found = measure_fidelity(noisy_path(60), OBJECTIVE, "pca", 4, count=8, control=noisy_path(20))
    found.save(tmp_path / "fidelity.npz")
    again = Fidelity.load(tmp_path / "fidelity.npz")
    assert again == found
    assert again.provenance["count"] == 8


def test_of_several_runs(recorded):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    objective = losspath.Objective(model, torch.randn(20, 3), torch.randn(20, 4), F.mse_loss)
    found = measure_fidelity(recorded, objective, "local-planes", 5, count=12)
    assert set(found.strata) == {"chords", "balls", "held-out"}
    assert found.typical_error.value > 1


def test_one_state_has_no_fidelity():
    plane = losspath.Plane(np.zeros(62), np.eye(62)[:, :2], ("x", "y"))
    with pytest.raises(PathError, match="two states"):
        measure_fidelity(noisy_path(1), OBJECTIVE, "pca", 4, plane=plane)


@pytest.mark.parametrize("method", ["averaged", "local-planes"])
def test_what_no_method_has_a_part_in_serves_all(method):
    path = noisy_path(60)
    landscape = losspath.Landscape(path, OBJECTIVE, "pca")
    evidence = Evidence.of(landscape, forks=[path[-9:]], control=path[:9] + 1, count=8)
    other = landscape.with_method(method)
    surface = other.surface(5, fidelity=False)
    found = judge(other, surface, evidence, 5, lambda left, grid, _: left.surface(grid=grid))
    asked = {"forks": [path[-9:]], "control": path[:9] + 1, "count": 8}
    expected = losspath.measure_fidelity(path, OBJECTIVE, method, 5, **asked)
    assert found.to_json() == expected.to_json()
    assert found.control is not None
