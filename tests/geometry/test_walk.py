"""The share of variance of a random walk: against walks that are drawn, and known answers."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import losspath
from losspath import JointPath, PrincipalPlane, RandomWalk, fit_plane, random_walk_variance
from losspath.errors import PathError
from losspath.geometry import gram, pca, walk
from losspath.recording.paths import ArrayPath


def steps_of(lengths, size, generator):
    """(T, size) steps of these lengths in random directions; the first is none."""
    steps = generator.standard_normal((len(lengths), size))
    steps *= (np.asarray(lengths) / np.linalg.norm(steps, axis=1))[:, None]
    steps[0] = 0.0
    return steps


def shares_of(states):
    squares = np.linalg.svd(states - states.mean(axis=0), compute_uv=False) ** 2
    return squares[:2] / squares.sum()


def decaying(count):
    return np.exp(-4 * np.arange(count) / count)


@pytest.mark.parametrize(
    ("lengths", "size"),
    [
        (np.ones(30), 400),
        (decaying(60), 400),
        (np.ones(5), 300),
        (np.ones(40), 100),
        (np.ones(40), 12),
        (np.ones(9), 12),
        (np.array([1.0, 9.0, 6.0, 3.0, 1.0, 1.0, 3.0]), 300),
    ],
    ids=[
        *("even", "ever smaller", "few states", "just enough", "few parameters", "few of both"),
        "a few long steps",
    ],
)
def test_walks_have_the_share_that_is_foretold(lengths, size):
    generator, walks = np.random.default_rng(1), 400 if len(lengths) > 10 else 2000
    drawn = np.array(
        [shares_of(np.cumsum(steps_of(lengths, size, generator), axis=0)) for _ in range(walks)]
    )
    found = random_walk_variance(np.cumsum(steps_of(lengths, size, generator), axis=0))
    spread = drawn.sum(axis=1).std()
    # To second order in 1/P the mean is off by less than a fifth of the spread.
    np.testing.assert_allclose(found.shares, drawn.mean(axis=0), atol=0.25 * spread)
    assert found.deviation == pytest.approx(spread, rel=0.15)


def test_even_steps_have_the_shares_of_the_paper():
    """6 / (π j)² along component j, of a walk of many steps in many dimensions."""
    found = walk.walk_of(np.ones(20_000), _Long(20_000), 3)
    np.testing.assert_allclose(found.shares, 6 / (np.pi * np.arange(1, 4)) ** 2, rtol=1e-4)


class _Long:
    """As long a path as is asked for, of a million parameters, that nobody reads."""

    parameter_count = 1_000_000

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def test_a_line_has_all_variance_and_its_walk_has_not():
    states = np.outer(np.arange(50.0), np.random.default_rng(0).standard_normal(300))
    plane = fit_plane(states)
    assert plane.path.explained_variance_ratio.sum() == pytest.approx(1.0)
    assert plane.random_walk.shares.sum() == pytest.approx(0.76, abs=0.01)
    assert plane.random_walk.deviation > 0.005


@pytest.mark.parametrize("size", [1, 2, 3, 500])
def test_few_states_and_few_parameters_leave_nothing_else(size):
    path = np.random.default_rng(0).standard_normal((3, size))
    found = random_walk_variance(path)
    assert found.shares.sum() == pytest.approx(1.0)
    assert found.deviation == pytest.approx(0.0, abs=1e-6)
    assert found.shares[0] == pytest.approx(1.0) if size == 1 else found.shares[1] > 0


@pytest.mark.parametrize("size", [300, 20])
def test_runs_are_walks_from_their_own_beginnings(size):
    generator = np.random.default_rng(2)
    starts = [np.zeros(size), 8 * np.eye(size)[0], 6 * np.eye(size)[1]]
    lengths = [np.ones(20), np.ones(30), 0.1 * np.ones(10)]

    def runs():
        return [
            start + np.cumsum(steps_of(each, size, generator), axis=0)
            for start, each in zip(starts, lengths, strict=True)
        ]

    drawn = np.array([shares_of(np.concatenate(runs())) for _ in range(400)])
    found = random_walk_variance(runs())
    spread = drawn.sum(axis=1).std()
    np.testing.assert_allclose(found.shares, drawn.mean(axis=0), atol=0.3 * spread)
    assert found.deviation == pytest.approx(spread, rel=0.2)


def test_one_run_is_the_same_as_joint_path():
    path = np.cumsum(np.random.default_rng(0).standard_normal((20, 300)), axis=0)
    one, joint = random_walk_variance(path), random_walk_variance(JointPath({"a": path}))
    np.testing.assert_array_equal(one.shares, joint.shares)


@pytest.mark.parametrize("runs", [1, 3])
def test_many_states_are_as_few(monkeypatch, runs):
    generator = np.random.default_rng(0)
    path = [np.cumsum(generator.standard_normal((80, 250)), axis=0) for _ in range(runs)]
    dense = random_walk_variance(path, 3)
    monkeypatch.setattr(walk, "_DENSE", 0)
    found = random_walk_variance(path, 3)
    np.testing.assert_allclose(found.shares, dense.shares, rtol=1e-9)
    assert found.deviation == pytest.approx(dense.deviation, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(2, 12),
    size=st.sampled_from([3, 250]),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-3, 1e3]),
)
def test_scales_places_and_the_direction_of_time_change_nothing(count, size, seed, scale):
    generator = np.random.default_rng(seed)
    path = np.cumsum(generator.standard_normal((count, size)), axis=0)
    plain = random_walk_variance(path)
    for other in (scale * path + 1.0, -path, path[:, ::-1]):
        found = random_walk_variance(other)
        np.testing.assert_allclose(found.shares, plain.shares, rtol=1e-6, atol=1e-9)
    if size > 200:  # of drawn walks other numbers are drawn
        found = random_walk_variance(path[::-1])
        np.testing.assert_allclose(found.shares, plain.shares, rtol=1e-6)
        assert found.deviation == pytest.approx(plain.deviation, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("fit", ["exact", "Krylov", "Gram"])
def test_the_plane_knows_the_walk_of_its_path(monkeypatch, fit):
    lengths = decaying(30)
    path = np.cumsum(steps_of(lengths, 300, np.random.default_rng(0)), axis=0)
    monkeypatch.setattr(pca, "_EXACT_NUMBERS", 0 if fit == "Krylov" else 1 << 22)
    monkeypatch.setattr(pca, "_BLOCK_BYTES", 8 * 16 * 300)  # some rows at a time
    monkeypatch.setattr(gram, "_LARGE", 1 if fit == "Gram" else 1 << 40)
    found = fit_plane(path).random_walk
    expected = walk.walk_of(np.concatenate([[0.0], lengths[1:]]), ArrayPath(path), 2)
    np.testing.assert_allclose(found.shares, expected.shares, rtol=1e-6)
    np.testing.assert_allclose(random_walk_variance(path).shares, expected.shares, rtol=1e-6)


def test_equal_steps_go_by_the_steps_of_training(tmp_path):
    model = torch.nn.Linear(20, 20)
    with losspath.Recorder(tmp_path / "run", model, schedule=losspath.LogSpaced(5)) as recorder:
        for _ in range(300):
            with torch.no_grad():
                for each in model.parameters():
                    each += torch.randn_like(each)
            recorder.record(1.0)
    path = losspath.Trajectory(tmp_path / "run")
    assert len(path) < 30
    equal, own = (random_walk_variance(path, steps=each) for each in ("equal", "own"))
    # It was a walk of equal steps, so both are nearly the same, and not as of states in a row.
    np.testing.assert_allclose(equal.shares, own.shares, atol=0.01)
    rows = random_walk_variance(path[:], steps="equal")
    assert abs(rows.shares.sum() - own.shares.sum()) > 0.03
    several = random_walk_variance([path, path], steps="equal")
    assert several.shares.shape == (2,)


def test_what_has_no_walk_is_refused():
    with pytest.raises(PathError, match="are the same: nothing moved"):
        random_walk_variance(np.ones((4, 5)))
    path = np.ones((4, 5))
    path[2, 1] = np.nan
    with pytest.raises(PathError, match="state 2 of the path"):
        random_walk_variance(path)


def test_a_plane_keeps_it(tmp_path):
    plane = fit_plane(np.cumsum(np.random.default_rng(0).standard_normal((9, 5)), axis=0))
    plane.save(tmp_path / "plane.npz")
    again = PrincipalPlane.load(tmp_path / "plane.npz")
    np.testing.assert_array_equal(again.random_walk.shares, plane.random_walk.shares)
    assert again.random_walk.deviation == plane.random_walk.deviation
    before = dataclasses.replace(plane, random_walk=None)
    before.save(tmp_path / "before.npz")
    assert PrincipalPlane.load(tmp_path / "before.npz").random_walk is None
    assert "random_walk" in plane.notes_on(plane.path.path_digest)
    assert "random_walk" not in plane.notes_on("another")


def test_words():
    found = RandomWalk(np.array([0.61, 0.15]), 0.02)
    assert found.describe(0.871) == (
        "87% of the path's variance (a random walk with its step lengths: 76% ± 2%)"
    )
    assert "76%)" in RandomWalk(np.array([0.61, 0.15]), 1e-5).describe(1.0)
