"""Several runs as one path: all states in their order, and nothing between two runs."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from walks import network, record, truth

import losspath
from losspath import JointPath, Trajectory
from losspath.errors import ArgumentError, ModelError, PathError
from losspath.recording.joint import as_path, as_run, names_of
from losspath.recording.trajectory import ArrayPath, StateSequence


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two recorded runs of one network with buffers, of 6 and 4 states."""
    home = tmp_path_factory.mktemp("joint")
    record(home / "long", 5)
    record(home / "short", 3, network(seed=1))
    return [Trajectory(home / "long"), Trajectory(home / "short")]


def bowls(lengths, count=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, count)).cumsum(axis=0) for length in lengths]


lengths = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@settings(deadline=None, max_examples=80)
@given(lengths, st.data())
def test_states_are_those_of_all_runs_in_their_order(lengths, data):
    arrays = bowls(lengths)
    joint, expected = JointPath(arrays), np.concatenate(arrays)
    assert isinstance(joint, StateSequence)
    assert (len(joint), joint.parameter_count, joint.dtype) == (len(expected), 3, np.float64)
    start = data.draw(st.integers(0, len(expected)))
    stop = data.draw(st.integers(start, len(expected)))
    np.testing.assert_array_equal(joint.read(start, stop), expected[start:stop])
    out = np.full((3, stop - start), np.nan).T  # not contiguous
    assert joint.read(start, stop, out) is out
    np.testing.assert_array_equal(out, expected[start:stop])
    edges = [0, *np.cumsum(lengths).tolist()]
    assert list(joint.starts.values()) == edges[:-1]
    for number, (first, last) in enumerate(pairwise(edges)):
        for index in range(first, last):
            assert joint.place_of(index) == (str(number + 1), index - first)


def test_recorded_runs_have_their_own_side_tensors(runs):
    joint = JointPath(runs)
    assert list(joint.runs) == ["long", "short"]
    for index in range(10):
        run, place = (runs[0], index) if index < 6 else (runs[1], index - 6)
        assert joint.side_key(index) == run.side_key(place)
        for name, tensor in run.sides(place).items():
            assert torch.equal(joint.sides(index)[name], tensor)
    assert joint.side_kinds == runs[0].side_kinds
    assert joint.layout == runs[0].layout


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 11)])
def test_read_refuses_states_that_are_not_there(runs, start, stop):
    with pytest.raises(ArgumentError, match="expected 0 ≤ start"):
        JointPath(runs).read(start, stop)


def test_states_are_copies(runs):
    joint, expected = JointPath(runs), truth(5)[:, :23]
    joint.read(0, 6)[:] = 99
    np.testing.assert_array_equal(joint.read(0, 6), expected)


def test_windows_and_arrays_are_runs_too(runs):
    plain = [run[:] for run in runs]
    joint = JointPath([runs[0].window(stride=2), runs[1].window(1)])
    np.testing.assert_array_equal(joint.read(0, 6), np.concatenate([plain[0][::2], plain[1][1:]]))
    wide = JointPath([plain[0], plain[1].astype(np.float64)])
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide.read(0, 10), np.concatenate(plain))


def test_what_is_a_list_of_runs_and_what_of_states(runs):
    assert isinstance(as_path(runs), JointPath)
    assert isinstance(as_path({"a": runs[0]}), JointPath)
    assert isinstance(as_path([run[:] for run in runs]), JointPath)
    assert isinstance(as_path([torch.zeros(2, 3), torch.ones(1, 3)]), JointPath)
    assert isinstance(as_path(list(runs[0][:])), ArrayPath)
    assert isinstance(as_path([[0.0, 1.0], [1.0, 2.0]]), ArrayPath)


def test_joint_paths_are_taken_apart(runs):
    inner = JointPath({"a": runs[0], "b": runs[1]})
    joint = JointPath({"first": inner, "second": runs[0]})
    assert joint.starts == {"first/a": 0, "first/b": 6, "second": 10}
    with pytest.raises(PathError, match="called 'x/a'"):
        JointPath({"x": inner, "x/a": runs[0]})


def test_the_digest_is_of_the_runs_and_their_order(runs):
    one, other = runs
    every = [[one, other], [other, one], [one], [one, other, other], [one.window(1), other]]
    assert len({JointPath(each).digest for each in every}) == len(every)
    assert JointPath({"x": one, "y": other}).digest == JointPath(runs).digest
    array = np.arange(12.0).reshape(4, 3)
    assert JointPath([array[:1], array[1:]]).digest != JointPath([array[:2], array[2:]]).digest


def test_it_is_sent_as_runs_that_the_other_process_opens(runs):
    joint = JointPath(runs)
    assert joint.digest  # which must not be sent along
    sent = pickle.dumps(joint)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert "digest" not in vars(again)
    assert (again.digest, again.starts) == (joint.digest, joint.starts)


def test_notes_say_of_which_run_they_are(runs, tmp_path):
    open_run = tmp_path / "open"
    with losspath.Recorder(open_run, network()) as recorder:
        recorder.record(1.0)
        recorder.flush()
        notes = JointPath({"a": Trajectory(open_run), "b": runs[0]}).notes
    assert notes[0].startswith("a: recording is going on")
    assert all(note.startswith("a: ") for note in notes)


def test_runs_in_a_list_are_named_by_what_tells_their_directories_apart(tmp_path):
    for name in ("a/one/path", "a/two/path", "b/one/path"):
        record(tmp_path / name, 1)
    one, two, other = (
        Trajectory(tmp_path / name) for name in ("a/one/path", "a/two/path", "b/one/path")
    )
    assert names_of([one, two]) == ["one/path", "two/path"]
    assert names_of([one, two, other]) == ["a/one/path", "a/two/path", "b/one/path"]
    assert names_of([one.window(0, 1), one.window(1)]) == ["path", "path (2)"]
    assert names_of([one, np.zeros((1, 2))]) == ["path", "2"]


# --------------------------------------------------------------------------------------------------
# What is refused


def test_runs_of_different_networks_are_refused_by_what_differs(runs, tmp_path):
    record(tmp_path / "other", 2, torch.nn.Sequential(torch.nn.Linear(2, 4)))
    expected = (
        r"run 'long' and run 'other' .* parameter 0 is 0.weight \[3, 2\] .* 0.weight \[4, 2\]"
    )
    with pytest.raises(ModelError, match=expected):
        JointPath([*runs, Trajectory(tmp_path / "other")])
    with pytest.raises(PathError, match="of 23 numbers in run 'long' and of 22 in run '2'"):
        JointPath([runs[0], np.zeros((3, 22))])


def test_a_run_with_buffers_and_an_array_without_are_refused(runs, tmp_path):
    with pytest.raises(PathError, match=r"'long' was recorded with buffers .* run '2' is an array"):
        JointPath([runs[0], runs[1][:]])
    record(tmp_path / "plain", 2, torch.nn.Linear(3, 2))
    plain = Trajectory(tmp_path / "plain")
    assert len(JointPath([plain, plain[:]])) == 6


@pytest.mark.parametrize("given", [[], {}, "runs", 3, None, np.zeros((2, 2)), [np.zeros(3)]])
def test_what_is_no_runs_is_refused(given):
    with pytest.raises(PathError):
        JointPath(given)


@pytest.mark.parametrize(
    "along", [losspath.step_sizes, losspath.step_cosines], ids=lambda f: f.__name__
)
def test_what_goes_from_step_to_step_is_of_one_run(runs, along):
    with pytest.raises(PathError, match=r"expected one run.* got 2 \(long, short\)"):
        along(runs)
    one, same = along(JointPath(runs[:1])), along(runs[0])
    np.testing.assert_array_equal(getattr(one, "sizes", one), getattr(same, "sizes", same))
    assert as_run(JointPath(runs[:1])) is runs[0]
