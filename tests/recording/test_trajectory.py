"""Reading a path back: shapes, copies, windows, and that reading leaves the store as it is."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from walks import (
    ALL_FILES,
    DATA_FILES,
    PARAMETERS,
    advance,
    contents,
    loss_at,
    network,
    record,
    row,
    truth,
)

from losspath import Recorder, Trajectory
from losspath.errors import ArgumentError, LosspathError, ModelError, PathError, StoreError
from losspath.recording.trajectory import ArrayPath, StateSequence, as_path

T = 9
STATES = truth(T - 1)[:, :PARAMETERS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trajectory") / "run"
    record(directory, T - 1)
    return directory


@pytest.fixture(scope="module")
def path(run):
    return Trajectory(run)


indices = st.none() | st.integers(-T - 3, T + 3)


@settings(deadline=None, max_examples=100)
@given(indices, indices, st.none() | st.integers(-4, 4).filter(bool))
def test_slices_are_those_of_an_array(path, start, stop, stride):
    chosen = path[start:stop:stride]
    expected = STATES[start:stop:stride]
    assert (chosen.shape, chosen.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(chosen, expected)


@settings(deadline=None, max_examples=50)
@given(st.integers(-3 * T, 3 * T))
def test_single_states_are_those_of_an_array(path, index):
    if -T <= index < T:
        assert path[index].shape == (PARAMETERS,)
        np.testing.assert_array_equal(path[index], STATES[index])
        np.testing.assert_array_equal(path[np.int64(index)], STATES[index])
    else:
        with pytest.raises(IndexError, match=str(index)):
            path[index]


def test_iteration_ends(path):
    np.testing.assert_array_equal(np.stack(list(path)), STATES)


@pytest.mark.parametrize("index", ["a", 1.0, None, (1, 2)])
def test_what_is_no_index_is_refused(path, index):
    with pytest.raises(ArgumentError, match="expected the index of a state as a whole number"):
        path[index]


def test_states_are_copies_and_training_them_on_leaves_the_store_as_it_is(run):
    before = contents(run, ALL_FILES)
    path = Trajectory(run)
    model = network(seed=1)
    path.load_into(model, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(4, 2)).square().sum().backward()
    optimizer.step()
    state = path[0]
    vector = torch.from_numpy(state)
    vector.fill_(99)
    for view in (path[:], path[2:4], path[::-2], path.window(1, 5).read(0, 2)):
        view[:] = 99
    assert contents(run, ALL_FILES) == before
    np.testing.assert_array_equal(path[:], STATES)


def test_losses_and_steps_are_copies_too(run):
    path = Trajectory(run)
    digest = Trajectory(run).digest
    for name in ("losses", "all_losses", "steps"):
        expected = getattr(path, name).copy()
        values = getattr(path, name)
        with contextlib.suppress(ValueError):  # read-only is as good
            values[:] = 0
        np.testing.assert_array_equal(getattr(path, name), expected)
    assert path.losses.tolist() == [loss_at(t) for t in range(T - 1)]
    assert path.digest == digest


def test_a_state_is_loaded_into_the_parameters_alone(path):
    model = network(seed=1)
    buffers = [b.clone() for b in model.buffers()]
    path.load_into(model, -1)
    expected = network()
    for step in range(T - 1):
        advance(expected, step)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
    assert all(p.requires_grad for p in model.parameters())


def test_a_state_is_not_loaded_into_another_network(path):
    model = torch.nn.Linear(2, 3)
    before = model.weight.detach().clone()
    with pytest.raises(ModelError, match="not of the same network"):
        path.load_into(model, 0)
    assert torch.equal(model.weight, before)
    with pytest.raises(IndexError):
        path.load_into(network(), T)


@pytest.mark.parametrize("made", ["parameters", "buffers"])
def test_a_model_that_cannot_be_written_to_is_refused_as_it_is(run, path, made):
    model = network(seed=1)
    with torch.inference_mode():
        tensors = network(seed=1)
    for name, module in model.named_modules():
        table = f"_{made}"
        getattr(module, table).update(getattr(tensors.get_submodule(name), table))
    before = [tensor.clone() for tensor in model.state_dict().values()]
    with pytest.raises(ModelError, match=r"made under torch.inference_mode\(\)"):
        path.load_into(model, 2, buffers=True)
    for one, other in zip(before, model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with torch.inference_mode():
        path.load_into(model, 2, buffers=True)
    np.testing.assert_array_equal(row(model), STATES[2])


# --------------------------------------------------------------------------------------------------
# read


@pytest.mark.parametrize(("start", "stop"), [(0, T), (3, 3), (2, 5), (T, T)])
def test_read_fills_the_array_that_it_is_given(path, start, stop):
    strided = np.full((PARAMETERS, stop - start), 9, np.float32).T
    for out in (np.full((stop - start, PARAMETERS), 9, np.float32), strided):
        assert path.read(start, stop, out) is out
        np.testing.assert_array_equal(out, STATES[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, T + 1)])
def test_read_refuses_states_that_are_not_there(path, start, stop):
    with pytest.raises(ArgumentError, match="expected 0 ≤ start"):
        path.read(start, stop)


@pytest.mark.parametrize("with_buffers", [True, False])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, -1), "f8"), ((3, -1), "f4"), ((1, -1), "f4"), ((2, 5), "f4"), ((2, -1), "i4")],
)
def test_read_refuses_an_array_that_does_not_fit(tmp_path, with_buffers, shape, dtype):
    # Bytes of one dtype in an array of another would be other numbers.
    model = network() if with_buffers else torch.nn.Linear(3, 2)
    record(tmp_path / "run", 4, model)
    path = Trajectory(tmp_path / "run")
    path[:]
    shape = tuple(path.parameter_count if length < 0 else length for length in shape)
    with pytest.raises(ArgumentError):
        path.read(0, 2, np.zeros(shape, dtype))


# --------------------------------------------------------------------------------------------------
# Windows


@settings(deadline=None, max_examples=60)
@given(indices.filter(lambda i: i is not None), indices, st.integers(1, 4), st.data())
def test_a_window_is_a_path_of_the_chosen_states(path, start, stop, stride, data):
    chosen = range(T)[start:stop:stride]
    if len(chosen) == 0:
        with pytest.raises(ArgumentError, match="window"):
            path.window(start, stop, stride)
        return
    window = path.window(start, stop, stride)
    assert isinstance(window, StateSequence)
    assert (len(window), window.parameter_count) == (len(chosen), PARAMETERS)
    assert window.steps.tolist() == list(chosen)
    assert window.losses.tolist() == [loss_at(t) for t in chosen[:-1]]
    first = data.draw(st.integers(0, len(chosen)))
    last = data.draw(st.integers(first, len(chosen)))
    expected = STATES[list(chosen)[first:last]]
    np.testing.assert_array_equal(window.read(first, last), expected)
    out = np.zeros_like(expected)
    assert window.read(first, last, out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("stride", [0, -1])
def test_a_window_goes_forward(path, stride):
    with pytest.raises(ArgumentError):
        path.window(0, None, stride)


def test_windows_of_other_states_have_other_digests(path):
    windows = [path.window(), path.window(1), path.window(0, -1), path.window(0, None, 2)]
    windows.append(path.window(0, 5))
    assert len({w.digest for w in windows}) == len(windows)
    assert path.window(0, 5).digest == path.window(0, -4).digest


def test_a_window_of_a_thinned_path_has_its_steps_and_losses(tmp_path):
    record(tmp_path / "run", 10, every=3)
    window = Trajectory(tmp_path / "run").window(1)
    assert window.steps.tolist() == [3, 6, 9, 10]
    assert window.losses.tolist() == [loss_at(t) for t in (3, 6, 9)]
    assert len(window.all_losses) == 10


# --------------------------------------------------------------------------------------------------
# Reading never writes


def test_reading_leaves_every_file_as_it_is(run):
    for torn in (False, True):
        if torn:
            for name in DATA_FILES:
                with (run / name).open("ab") as file:
                    file.write(b"torn")
        before = [(f.name, f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(run.iterdir())]
        path = Trajectory(run)
        np.testing.assert_array_equal(path[:], STATES)
        assert path.losses.shape == (T - 1,)
        # A torn row, slot and copy of the slot; what is behind the last blob is no matter.
        assert path.tail_bytes == (12 if torn else 0)
        assert path.digest
        assert repr(path) == f"Trajectory({str(run)!r}): {T} × {PARAMETERS}"
        assert before == [
            (f.name, f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(run.iterdir())
        ]
    for name in DATA_FILES:
        (run / name).write_bytes((run / name).read_bytes()[:-4])


def test_where_there_is_no_trajectory_nothing_is_made(tmp_path):
    with pytest.raises(StoreError, match="no such directory"):
        Trajectory(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(StoreError, match=r"cannot read .*: File name too long"):
        Trajectory(tmp_path / ("n" * 300))
    with pytest.raises(StoreError, match=r"holds no recorded trajectory$"):
        Trajectory(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_lies_beside_or_in_a_run_is_told_from_it(run):
    (run / "results").mkdir()
    with pytest.raises(StoreError, match=rf"holds no recorded trajectory; {run} is a run$"):
        Trajectory(run / "results")
    (run / "notes.txt").touch()
    with pytest.raises(StoreError, match=r"it is a file, and a run is a directory$"):
        Trajectory(run / "notes.txt")


def test_the_digest_is_of_what_was_recorded(tmp_path, path):
    for name, options in [("every", {"every": 2}), ("seed", {"model": network(seed=1)})]:
        record(tmp_path / name, T - 1, **options)
        assert Trajectory(tmp_path / name).digest != path.digest
    record(tmp_path / "same", T - 1, metadata={"note": "other"})
    assert Trajectory(tmp_path / "same").digest == path.digest


# --------------------------------------------------------------------------------------------------
# Paths in memory


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_is_a_path(dtype):
    array = np.arange(12, dtype=dtype).reshape(4, 3)
    path = as_path(array)
    assert isinstance(path, StateSequence)
    assert (len(path), path.parameter_count, path.dtype) == (4, 3, dtype)
    states = path.read(1, 3)
    np.testing.assert_array_equal(states, array[1:3])
    states[:] = 99
    out = np.empty((2, 3), dtype)
    assert path.read(2, 4, out) is out
    np.testing.assert_array_equal(out, array[2:])
    assert array.max() == 11
    assert path.digest != as_path(array + 1).digest


def test_a_tensor_is_a_path_and_a_path_is_itself(path):
    tensor = torch.ones(3, 2, requires_grad=True)
    np.testing.assert_array_equal(as_path(tensor).read(0, 3), np.ones((3, 2)))
    assert as_path(path) is path


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((2, 0)), np.zeros((0, 2)), np.zeros((2, 2), int), [["a"]]]
)
def test_what_is_no_path_is_refused(array):
    with pytest.raises(PathError):
        ArrayPath(array)
    assert issubclass(PathError, LosspathError)


@pytest.mark.parametrize("steps", [3, 20])
def test_a_run_recorded_anew_under_an_open_path_is_told_apart_from_damage(tmp_path, steps):
    record(tmp_path / "run", 9)
    path = Trajectory(tmp_path / "run")
    record(tmp_path / "run", steps, network(seed=3), existing="overwrite")
    with pytest.raises(StoreError, match="has changed since this trajectory was opened"):
        path[5]
    assert len(Trajectory(tmp_path / "run")) == steps + 1


def test_the_process_may_go_to_another_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    model = network()
    record("before", 2, model)
    path = Trajectory("before")
    with Recorder("run", model) as recorder:
        monkeypatch.chdir(tmp_path / "elsewhere")
        advance(model, 0)
        recorder.record(0.0)
    np.testing.assert_array_equal(path[2], Trajectory(tmp_path / "run")[0])
    assert len(Trajectory(tmp_path / "run")) == 2
    assert not list((tmp_path / "elsewhere").iterdir())
