"""One plane and one surface for several runs: known answers, and nothing from run to run."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losspath
from cases import descent, objective_of, problem
from losspath import JointPath, LocalProcesses, Objective, Recorder, Trajectory
from losspath.errors import ArgumentError, ModelError, PathError
from losspath.geometry.projection import Projection
from losspath.methods import Averaged, AveragedND, Sampled
from losspath.planes import windows_plane
from losspath.surface import Surface, evaluate_states, spread_states

ONE, OTHER = descent(12, 6), descent(7, 6, seed=1) + 2.0
BOTH = problem("both", np.concatenate([ONE, OTHER]))


def shown_by(coordinates, starts=(0,)):
    coordinates = np.array(coordinates, float)
    return Projection(coordinates, np.zeros(len(coordinates)), 1.0, "", starts)


def test_the_plane_is_that_of_the_states_together():
    plane = losspath.fit_plane([ONE, OTHER])
    states = np.concatenate([ONE, OTHER])
    mean = states.mean(axis=0)
    _, singular, rows = np.linalg.svd(states - mean)
    np.testing.assert_allclose(plane.origin, mean, atol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(plane.basis * rows[:2].T, axis=0)), 1.0, atol=1e-12)
    np.testing.assert_allclose(plane.path.explained_variance, singular[:2] ** 2 / 18, rtol=1e-10)
    np.testing.assert_allclose(plane.path.coordinates, (states - mean) @ plane.basis, atol=1e-12)
    assert plane.path.starts == (0, 12)


def test_the_plane_of_long_runs_is_that_of_their_states_too():
    # Not decomposed as a whole, but by iteration.
    rng = np.random.default_rng(0)
    runs = [rng.standard_normal((length, 900)).cumsum(axis=0) for length in (500, 400)]
    plane = losspath.fit_plane(runs)
    states = np.concatenate(runs)
    rows = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)[2]
    np.testing.assert_allclose(np.abs(np.sum(plane.basis * rows[:2].T, axis=0)), 1.0, atol=1e-8)


def test_a_plane_of_several_runs_is_saved(tmp_path):
    plane = losspath.fit_plane({"a": ONE, "b": OTHER})
    plane.save(tmp_path / "plane.npz")
    again = losspath.PrincipalPlane.load(tmp_path / "plane.npz")
    assert again.path.starts == (0, 12)
    assert again.path.path_digest == JointPath([ONE, OTHER]).digest


def test_a_plane_of_other_states_shows_several_runs():
    plane = losspath.fit_plane(ONE)
    shown = plane.projection([OTHER, ONE])
    assert shown.starts == (0, 7)
    np.testing.assert_allclose(shown.coordinates[7:], plane.path.coordinates, atol=1e-12)


def test_a_state_that_is_not_finite_is_told_with_its_run():
    broken = OTHER.copy()
    broken[3, 1] = np.inf
    with pytest.raises(PathError, match=r"state 3 of run 'b' .*: run\.window\(stop=3\)"):
        losspath.fit_plane({"a": ONE, "b": broken})


# --------------------------------------------------------------------------------------------------
# Nothing from run to run


def test_there_is_no_length_from_one_run_to_the_next():
    there = [[0, 0], [3, 4], [100, 0], [100, 2], [-50, 0]]
    np.testing.assert_array_equal(shown_by(there, (0, 2, 4)).step_lengths, [5, 0, 2, 0])
    np.testing.assert_allclose(shown_by(there).step_lengths[[1, 3]], [97.082439, 150.013333])


def test_arc_lengths_of_weights_do_not_bridge_runs():
    # By hand: half of each step of its own run, at a temperature at which distances do not count.
    shown = shown_by([[0, 0], [2, 0], [6, 0], [6, 9], [0, 9]], (0, 3))
    weights = Averaged(temperature=1e12, arc_length=True).weights(np.zeros((1, 2)), shown)
    np.testing.assert_allclose(weights[0], np.array([1, 3, 2, 3, 3]) / 12, rtol=1e-6)


def test_states_are_spread_over_the_length_of_the_runs_alone():
    # Two runs of length 10, 1000 apart, whose states are a length of 1 apart.
    one = np.stack([np.arange(11.0), np.zeros(11)], axis=1)
    there = np.concatenate([one, one + 1000])
    index = spread_states(there, 6, (0, 11))
    assert index.tolist() == [0, 7, 10, 11, 14, 21]
    assert spread_states(there, 2, (0, 11)).tolist() == [0, 10, 11, 21]
    for count in range(4, 22):
        assert len(spread_states(there, count, (0, 11))) <= count


def test_window_means_are_of_one_run_each():
    ramp = np.repeat(np.arange(6.0), 4)[:, None] * np.array([1.0, 0.0, 0.0])
    bend = np.array([0.0, 5.0, 0.0]) + ramp[:12] * np.array([0.0, 1.0, 0.0])
    plane = windows_plane([ramp, bend], 3)
    means = np.array([[0.5, 0, 0], [2.5, 0, 0], [4.5, 0, 0]] + [[0, 5, 0]] * 3)
    np.testing.assert_allclose(plane.origin, means.mean(axis=0), atol=1e-12)
    with pytest.raises(PathError, match="at least 8 states, one a window, got 7"):
        windows_plane([ONE, OTHER], 8)


# --------------------------------------------------------------------------------------------------
# Surfaces


# A temperature that is not given is of each run's own spread.
@pytest.mark.parametrize(
    "method", ["pca", "sampled", "sampled-pca", Averaged(0.7), AveragedND(0.7)], ids=str
)
def test_the_surface_is_that_of_the_states_as_one_path(method):
    together = losspath.compute_surface(BOTH.path, BOTH.objective(), method, 5)
    surface = losspath.compute_surface([ONE, OTHER], BOTH.objective(), method, 5)
    np.testing.assert_allclose(surface.loss, together.loss, rtol=1e-9)
    np.testing.assert_allclose(surface.path, together.path, atol=1e-12)
    assert surface.runs == {"1": slice(0, 12), "2": slice(12, 19)}
    assert together.runs == {"": slice(0, 19)}
    assert {0, 11, 12, 18} <= set(surface.states.index.tolist())


def test_the_initial_loss_is_the_largest_of_the_runs():
    surface = losspath.compute_surface([ONE, OTHER], BOTH.objective(), "pca", 3)
    assert surface.initial_loss == pytest.approx(max(BOTH.loss(ONE[0]), BOTH.loss(OTHER[0])))
    far = losspath.compute_surface([OTHER[-2:], ONE], BOTH.objective(), "pca", 3)
    assert far.initial_loss == pytest.approx(max(BOTH.loss(OTHER[-2]), BOTH.loss(ONE[0])))


def test_runs_may_share_their_first_state():
    branch = np.concatenate([ONE[:1], OTHER])
    surface = losspath.compute_surface(
        {"SGD": ONE, "Adam": branch}, BOTH.objective(), Sampled(), 5, states=6
    )
    np.testing.assert_array_equal(surface.path[0], surface.path[12])
    own = dict(zip(surface.states.index.tolist(), surface.states.loss, strict=True))
    assert own[0] == own[12] == pytest.approx(BOTH.loss(ONE[0]))


def test_the_first_picture_has_the_ends_of_every_run():
    first = next(iter(losspath.refine_surface([ONE, OTHER], BOTH.objective(), "pca", 9)))
    assert first.states.index.tolist() == [0, 11, 12, 18]


def test_a_surface_is_saved_with_its_runs(tmp_path):
    surface = losspath.compute_surface({"a run": ONE, "b": OTHER}, BOTH.objective(), "pca", 3)
    surface.save(tmp_path / "surface.npz")
    assert Surface.load(tmp_path / "surface.npz").starts == {"a run": 0, "b": 12}
    single = losspath.compute_surface(ONE, BOTH.objective(), "pca", 3)
    single.save(tmp_path / "single.npz")
    with np.load(tmp_path / "single.npz", allow_pickle=False) as arrays:
        assert not {name for name in arrays if name.startswith("run_")}  # as it was before
    assert Surface.load(tmp_path / "single.npz").starts == {"": 0}


@pytest.mark.parametrize("starts", [{}, {"a": 1}, {"a": 0, "b": 0}, {"a": 0, "b": 19}, [0], 0])
def test_starts_that_cannot_be_are_refused(starts):
    surface = losspath.compute_surface(BOTH.path, BOTH.objective(), "pca", 3)
    fields = {name: getattr(surface, name) for name in inspect.signature(Surface).parameters}
    with pytest.raises(ArgumentError, match="expected starts"):
        Surface(**{**fields, "starts": starts})


def test_a_checkpoint_is_of_the_runs_in_their_order(tmp_path):
    asked = (BOTH.objective(), "averaged", 5)
    whole = losspath.compute_surface([ONE, OTHER], *asked)
    done = []
    for _ in range(2):
        again = losspath.compute_surface(
            [ONE, OTHER],
            *asked,
            checkpoint=tmp_path / "points",
            progress=lambda count, _: done.append(count),
        )
        np.testing.assert_array_equal(again.loss, whole.loss)
    assert done[-1] == whole.loss.size  # at once
    assert len(done) == whole.loss.size + 1
    with pytest.raises(losspath.LosspathError, match="points of another computation"):
        losspath.compute_surface([OTHER, ONE], *asked, checkpoint=tmp_path / "points")


# --------------------------------------------------------------------------------------------------
# Recorded runs, with buffers


def trained(directory, seed, steps):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 2)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    models = []
    with Recorder(directory, model) as recorder:
        for step in range(steps):
            models.append({name: value.clone() for name, value in model.state_dict().items()})
            loss = F.cross_entropy(model.train()(X[step % 2 :: 2]), Y[step % 2 :: 2])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
    models.append({name: value.clone() for name, value in model.state_dict().items()})
    return Trajectory(directory), models, model


X = torch.randn(40, 4, generator=torch.Generator().manual_seed(5)) + 1
Y = (X[:, 0] > X[:, 1]).long()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    home = tmp_path_factory.mktemp("several")
    one, other = trained(home / "one", 0, 9), trained(home / "other", 1, 5)
    objective = Objective(one[2], X, Y, F.cross_entropy)
    return [one[0], other[0]], one[1] + other[1], objective


def owners_loss(state, model):
    model.load_state_dict(state)
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(X), Y))


def test_every_state_has_the_buffers_of_its_own_run(recorded):
    runs, states, objective = recorded
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 2)
    )
    expected = [owners_loss(state, model) for state in states]
    found = evaluate_states(JointPath(runs), objective, np.arange(16))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    # The ground of `sampled` at a state is that state, with the buffers that it had.
    landscape = losspath.Landscape(runs, objective, "sampled")
    ground = landscape.evaluate(landscape.projection.coordinates)
    np.testing.assert_allclose([each.loss for each in ground], expected, rtol=1e-4)


@pytest.mark.slow
def test_workers_open_the_runs_themselves(recorded):
    runs, _, objective = recorded
    here = losspath.compute_surface(runs, objective, "averaged", 5)
    with LocalProcesses(1) as pool:
        there = losspath.compute_surface(runs, objective, "averaged", 5, executor=pool)
    np.testing.assert_allclose(there.loss, here.loss, rtol=1e-6)
    assert there.starts == {"one": 0, "other": 10}


def test_runs_of_another_network_than_the_model_are_refused(recorded):
    runs, _, _ = recorded
    with pytest.raises(ModelError, match="not of the same network"):
        losspath.compute_surface(
            runs, Objective(torch.nn.Linear(4, 2), X, Y, F.cross_entropy), "pca"
        )


def test_arrays_have_the_buffers_of_the_model(recorded):
    runs, _, objective = recorded
    arrays = [run[:] for run in runs]
    surface = losspath.compute_surface(arrays, objective.with_buffers("recorded"), "pca", 3)
    assert surface.provenance["buffers"] == "model"


def test_a_line_goes_between_states_of_two_runs():
    ends = [ONE[-1], OTHER[-1]]
    objective = objective_of(lambda w: w.square().sum(), 6)
    line = losspath.interpolate([ONE, OTHER], objective, 11, 18, alphas=[0, 0.5, 1], layers=False)
    middle = (ends[0] + ends[1]) / 2
    expected = [np.square(v).sum() for v in (ends[0], middle, ends[1])]
    np.testing.assert_allclose(line.loss[0], expected, rtol=1e-12)
