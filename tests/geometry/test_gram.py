"""Few large states: components by the Gram matrix are those of the exact decomposition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import descent
from losspath import JointPath, Recorder, Trajectory, fit_plane
from losspath.errors import DamagedError, PathError
from losspath.geometry import gram
from losspath.recording.paths import ArrayPath, columns


def walk(count, size, seed=0, offset=0.0, dtype=np.float64):
    steps = np.random.default_rng(seed).standard_normal((count, size))
    return (np.cumsum(steps * np.linspace(3, 0.1, size), axis=0) + offset).astype(dtype)


def exact(states, components):
    centred = states.astype(np.float64) - states.astype(np.float64).mean(axis=0)
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    return centred, values[:components] ** 2 / len(states), rows[:components].T


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(2, 12),
    size=st.integers(3, 40),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 1e3]),
    components=st.integers(1, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_axes_are_those_of_the_decomposition(count, size, seed, offset, components, dtype):
    states = walk(count, size, seed, offset, dtype)
    mean, axes, final = gram.fit(ArrayPath(states), components)
    centred, values, basis = exact(states, components)
    np.testing.assert_allclose(mean, states.astype(np.float64).mean(axis=0), rtol=1e-12)
    kept = min(axes.determined, len(values))
    np.testing.assert_allclose(axes.basis.T @ axes.basis, np.eye(components), atol=1e-9)
    found = np.mean(final.coordinates**2, axis=0)[:kept]
    np.testing.assert_allclose(found, values[:kept], rtol=1e-6)
    np.testing.assert_allclose(final.squares, np.sum(centred**2, axis=1), rtol=1e-9)
    along = np.abs(np.sum(axes.basis[:, :kept] * basis[:, :kept], axis=0))
    gaps = np.abs(np.diff([*values, 0.0])) / values[0]
    assert (along[(gaps > 0.05)[:kept]] > 0.99).all()
    assert final.residual < 1e-6


def test_they_are_those_of_the_usual_way():
    states = descent(60, 40)
    plane = fit_plane(states)
    mean, axes, final = gram.fit(ArrayPath(states), 2)
    np.testing.assert_allclose(mean, plane.origin)
    signs = np.sign(np.sum(axes.basis * plane.basis, axis=0))
    np.testing.assert_allclose(axes.basis * signs, plane.basis, atol=1e-9)
    np.testing.assert_allclose(final.coordinates * signs, plane.path.coordinates, atol=1e-9)
    assert axes.gap == pytest.approx(plane.gap, rel=1e-6)
    assert axes.determined == 2


def test_a_path_on_a_line_has_one_axis():
    states = np.outer(np.arange(5.0), [1.0, 2.0, -1.0, 0.5])
    _, axes, _ = gram.fit(ArrayPath(states), 2)
    assert axes.determined == 1
    np.testing.assert_allclose(axes.basis.T @ axes.basis, np.eye(2), atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_is_named(bad):
    states = walk(6, 30)
    states[3, 7] = bad
    with pytest.raises(PathError, match="state 3 of the path"):
        gram.fit(ArrayPath(states), 2)


def test_states_that_are_the_same():
    with pytest.raises(PathError, match="all 4 states are the same"):
        gram.fit(ArrayPath(np.ones((4, 9))), 2)


def test_which_paths_it_is_for():
    class Large:
        parameter_count = 100_000_000

        def __len__(self):
            return 60

    class Long(Large):
        def __len__(self):
            return 100_000

    assert gram.is_for(Large())
    assert not gram.is_for(Long())
    assert not gram.is_for(ArrayPath(np.ones((4, 9))))


@pytest.fixture
def recorded(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 3)
    with Recorder(tmp_path / "run", model, every=3) as recorder:
        for _ in range(10):
            with torch.no_grad():
                model.weight += torch.randn(3, 20)
            recorder.record(1.0)
    return Trajectory(tmp_path / "run")


def test_columns_of_every_kind_of_path(recorded):
    whole = recorded[:]
    joint = JointPath([recorded, recorded.window(1, None, 2)])

    class Plain:  # a path of one's own, which reads whole states
        parameter_count, dtype, digest = recorded.parameter_count, recorded.dtype, "plain"

        def __len__(self):
            return len(recorded)

        def read(self, start, stop, out=None):
            return recorded.read(start, stop, out)

    for start, stop in ((0, 63), (5, 9), (62, 63), (4, 4)):
        np.testing.assert_array_equal(columns(recorded, start, stop), whole[:, start:stop])
        np.testing.assert_array_equal(columns(Plain(), start, stop), whole[:, start:stop])
        some = recorded.window(1, None, 2)
        np.testing.assert_array_equal(columns(some, start, stop), whole[1::2, start:stop])
        both = np.concatenate([whole, whole[1::2]])[:, start:stop]
        np.testing.assert_array_equal(columns(joint, start, stop), both)


def test_columns_are_of_states_that_were_checked(recorded):
    file = recorded.directory / "states.bin"
    raw = bytearray(file.read_bytes())
    raw[63 * 4 + 100] ^= 1  # in the second state, in no column that is read
    file.write_bytes(raw)
    path = Trajectory(recorded.directory)
    with pytest.raises(DamagedError, match="state 1 has other bytes"):
        path.read_columns(0, 2, range(3))
