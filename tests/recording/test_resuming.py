"""Directories that already hold something: refused, gone on in, or replaced."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from walks import (
    ALL_FILES,
    DATA_FILES,
    RECORDS,
    advance,
    assert_prefix,
    assert_same_run,
    buffers,
    contents,
    loss_at,
    model_at,
    network,
    record,
    row,
    stored_rows,
    truth,
    walk,
)

from losspath import Recorder, Trajectory
from losspath.errors import (
    ArgumentError,
    BusyError,
    DamagedError,
    ExistsError,
    LosspathError,
    LosspathWarning,
    ModelError,
    StoreError,
)
from losspath.files import read_document, write_document
from losspath.recording import aside as aside_module
from losspath.recording.repair import repair_trajectory


@pytest.fixture
def run(tmp_path):
    """A run of ten steps."""
    record(tmp_path / "run", 10)
    return tmp_path / "run"


def test_an_existing_directory_is_refused_unless_one_says_what_to_do(run, tmp_path):
    before = contents(run, ALL_FILES)
    with pytest.raises(ExistsError, match=r'existing="resume".*existing="overwrite"'):
        Recorder(run, network())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        Recorder(tmp_path / "other", network())
    assert contents(run, ALL_FILES) == before
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_an_empty_directory_is_as_good_as_none(tmp_path):
    (tmp_path / "run").mkdir()
    record(tmp_path / "run", 2)
    assert_prefix(tmp_path / "run", truth(2), count=3)


def test_existing_takes_three_words(tmp_path):
    with pytest.raises(ArgumentError, match="existing"):
        Recorder(tmp_path / "run", network(), existing="append")


def test_a_file_in_the_way_is_an_error_of_the_package(tmp_path):
    (tmp_path / "run").write_text("a file")
    for existing in ("error", "resume", "overwrite"):
        with pytest.raises(StoreError):
            Recorder(tmp_path / "run", network(), existing=existing)


# --------------------------------------------------------------------------------------------------
# Resuming


@pytest.mark.parametrize("every", [1, 3, 4])
@pytest.mark.parametrize("stops", [[0], [5], [6], [9], [1, 2, 3, 4], [4, 8, 9, 10]])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, every, stops):
    record(tmp_path / "whole", 12, every=every)
    for stop in [*stops, 12]:
        begun = (tmp_path / "run").exists()
        model = network()
        if begun:
            path = Trajectory(tmp_path / "run")
            assert path.closed
            model = model_at(path.steps[-1])
        record(tmp_path / "run", stop, model, every=every, existing="resume")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("every", [1, 3, 4])
@pytest.mark.parametrize("step", [0, 2, 3, 6, 10])
def test_step_cuts_back_to_a_checkpoint_and_goes_on(tmp_path, every, step):
    record(tmp_path / "whole", 12, every=every)
    record(tmp_path / "run", 10, every=every)
    later = Trajectory(tmp_path / "run")
    kept = {int(s): later[i] for i, s in enumerate(later.steps) if s > step}
    losses = later.all_losses[step:]
    model = model_at(step)
    with moved_aside(tmp_path / "run", step < 10):
        recorder = Recorder(tmp_path / "run", model, every=every, existing="resume", step=step)
    with recorder:
        assert recorder.steps == step
        walk(recorder, model, 12)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    if step < 10:  # what made way is a run of its own
        aside = Trajectory(tmp_path / "run" / "aside-1")
        assert aside.steps.tolist() == list(kept)
        np.testing.assert_array_equal(aside[:], list(kept.values()))
        assert aside.all_losses.tolist() == losses.tolist()
        for index, later_step in enumerate(kept):
            expected = buffers(model_at(later_step))
            assert all(torch.equal(aside.sides(index)[n], v) for n, v in expected.items())


@contextlib.contextmanager
def moved_aside(run, is_moved):
    if not is_moved:
        yield
        return
    with pytest.warns(LosspathWarning, match=rf"put into {re.escape(str(run))}.aside-"):
        yield


def test_a_newest_state_whose_place_was_written_again_is_told_anew(tmp_path):
    model = network()
    with Recorder(tmp_path / "run", model, every=100) as recorder:
        for step in (2, 4, 6, 8):
            walk(recorder, model, step)
            recorder.flush()  # into one of two places
    for step in (6, 2):
        with moved_aside(tmp_path / "run", True):
            recorder = Recorder(
                tmp_path / "run", model_at(step), every=100, existing="resume", step=step
            )
        recorder.flush()
        assert Trajectory(tmp_path / "run").steps.tolist() == [0, step]
        recorder.close()
        assert_prefix(tmp_path / "run", truth(step), count=2, every=100)
    record(tmp_path / "run", 9, model_at(2), every=100, existing="resume")
    assert_prefix(tmp_path / "run", truth(9), count=2, every=100)


def test_a_copy_that_the_writer_has_not_come_to_is_no_damage(tmp_path):
    model = network()
    recorder = Recorder(tmp_path / "run", model)
    walk(recorder, model, 5)
    recorder.flush()
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ALL_FILES:
        (copy / name).write_bytes((tmp_path / "run" / name).read_bytes())
    recorder.close()
    os.truncate(copy / RECORDS[1], 64 * 4)
    path = assert_prefix(copy, truth(5), count=6)
    assert path.notes == ["recording was cut off: 6 states until then"]
    record(copy, 6, model_at(5), existing="resume")
    assert (copy / RECORDS[0]).read_bytes() == (copy / RECORDS[1]).read_bytes()
    os.truncate(copy / RECORDS[1], 64 * 4)
    (note,) = Trajectory(copy).notes
    assert "records.copy.bin is damaged or missing" in note


def test_where_nothing_can_be_put_aside_nothing_is_done(run, monkeypatch):
    before = contents(run)

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(aside_module, "_copy_bytes", refuse)
    with pytest.raises(StoreError, match="No space left"):
        Recorder(run, model_at(4), existing="resume", step=4)
    assert contents(run) == before
    assert not list(run.glob("aside-*"))
    assert_prefix(run, truth(10), count=11)


def test_who_makes_later_states_again_gets_no_copy_of_them(run):
    # As the reference training does from its newest checkpoint, and from no other.
    model = model_at(4)
    with Recorder(run, model, existing="resume", step=4, _made_again=True) as recorder:
        walk(recorder, model, 6)
    assert_prefix(run, truth(6), count=7)
    assert not list(run.glob("aside-*"))


def test_who_has_a_checkpoint_goes_on_after_lost_states_and_they_stay_lost(run):
    size = 4 * row(network()).size
    raw = bytearray((run / "states.bin").read_bytes())
    raw[3 * size] ^= 1
    (run / "states.bin").write_bytes(raw)
    repair_trajectory(run)
    with pytest.raises(StoreError, match="lost between steps 2 and 4"):
        Recorder(run, model_at(8), existing="resume", step=8)
    model = model_at(8)
    with moved_aside(run, True):
        recorder = Recorder(run, model, existing="resume", step=8, _by_checkpoint=True)
    with recorder:
        walk(recorder, model, 12)
    path = Trajectory(run)
    assert path.steps.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert path.holes == (2,)
    np.testing.assert_array_equal(path[:], truth(12)[path.steps])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("step", [0, 3, 7, 10, None])
def test_resuming_without_a_step_more_ends_at_that_step(tmp_path, every, step):
    record(tmp_path / "run", 10, every=every)
    expected = 10 if step is None else step
    with moved_aside(tmp_path / "run", expected < 10):
        record(tmp_path / "run", 0, model_at(expected), every=every, existing="resume", step=step)
    path = assert_prefix(tmp_path / "run", truth(10), every=every)
    assert path.steps[-1] == len(path.all_losses) == expected
    np.testing.assert_array_equal(path[-1], truth(10)[expected])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(("step", "model_step"), [(None, 9), (None, 0), (3, 10), (6, 5), (10, 6)])
def test_a_model_in_another_state_is_refused_and_nothing_is_cut(tmp_path, every, step, model_step):
    run = tmp_path / "run"
    record(run, 10, every=every)
    before = contents(run, ALL_FILES)
    with pytest.raises(ModelError, match="not in the state"):
        Recorder(run, model_at(model_step), every=every, existing="resume", step=step)
    assert contents(run, ALL_FILES) == before
    # The refused call holds no lock.
    record(run, 11, model_at(10), every=every, existing="resume")


def test_a_buffer_in_another_state_is_refused(run):
    model = model_at(10)
    model[1].running_var += 1
    with pytest.raises(ModelError, match="not in the state"):
        Recorder(run, model, existing="resume")


def test_a_run_that_lost_its_writer_goes_on_at_its_newest_state(tmp_path):
    record(tmp_path / "whole", 12, every=3)
    model = network()
    recorder = Recorder(tmp_path / "run", model, every=3)
    walk(recorder, model, 8)
    recorder.flush()
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (*ALL_FILES, "newest.bin"):
        (copy / name).write_bytes((tmp_path / "run" / name).read_bytes())
    recorder.close()
    path = Trajectory(copy)
    assert (path.steps[-1], len(path.all_losses), path.closed) == (8, 8, False)
    model = model_at(8)
    with Recorder(copy, model, every=3, existing="resume") as recorder:
        assert recorder.steps == 8
        walk(recorder, model, 12)
    assert_same_run(copy, tmp_path / "whole")


def wider(model):
    model[0] = torch.nn.Linear(2, 4)
    return model


def renamed(model):
    return torch.nn.Sequential(*model[:2], torch.nn.Sequential(model[2]))


def test_buffers_that_are_there_on_one_side_alone_are_no_other_state(run):
    # Some appear in the first forward pass, after the recorder is made.
    model = model_at(10)
    del model[1].num_batches_tracked
    model[0].register_buffer("cache", torch.ones(2))
    with Recorder(run, model, existing="resume") as recorder:
        recorder.record(0.0)
    path = Trajectory(run)
    assert sorted(path.sides(-1)) == ["0.cache", "1.running_mean", "1.running_var"]
    assert sorted(path.sides(-2)) == ["1.num_batches_tracked", "1.running_mean", "1.running_var"]


@pytest.mark.parametrize("change", [wider, renamed])
def test_another_network_is_refused(run, change):
    before = contents(run, ALL_FILES)
    with pytest.raises(ModelError, match="not of the same network"):
        Recorder(run, change(model_at(10)), existing="resume")
    assert contents(run, ALL_FILES) == before


@pytest.mark.parametrize(
    ("model", "options", "named"),
    [
        (model_at(10), {"every": 2}, "every"),
        (model_at(10), {"dtype": "float64"}, "dtype"),
        (model_at(10).half(), {}, "dtypes"),
    ],
)
def test_another_way_of_recording_is_refused(run, model, options, named):
    before = contents(run, ALL_FILES)
    with pytest.raises(StoreError, match=named):
        Recorder(run, model, existing="resume", **options)
    assert contents(run, ALL_FILES) == before


@pytest.mark.parametrize("step", [11, -1])
def test_a_step_that_was_not_recorded_is_refused(run, step):
    before = contents(run, ALL_FILES)
    with pytest.raises(LosspathError):
        Recorder(run, model_at(10), existing="resume", step=step)
    assert contents(run, ALL_FILES) == before


def test_a_step_of_a_run_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(StoreError, match="found none"):
        Recorder(tmp_path / "run", network(), existing="resume", step=3)


def test_resuming_where_nothing_is_begins(tmp_path):
    record(tmp_path / "run", 3, existing="resume")
    assert_prefix(tmp_path / "run", truth(3), count=4)


def test_metadata_is_kept(tmp_path):
    metadata = {"lr": 1e-5, "name": "ü", "nested": {"list": [1, None, True]}}
    record(tmp_path / "run", 1, metadata=metadata)
    record(tmp_path / "run", 2, model_at(1), existing="resume")
    assert Trajectory(tmp_path / "run").metadata == metadata


def test_metadata_that_a_run_does_not_get_are_told_of(tmp_path):
    metadata = {"lr": float("nan"), "shape": (3, 2), "name": None, 4: 5}
    record(tmp_path / "run", 1, metadata=metadata)
    record(tmp_path / "run", 2, model_at(1), existing="resume", metadata=metadata)
    other = {"lr": 1e-4, "shape": [3, 2], "seed": 1, "4": 5}
    with pytest.warns(LosspathWarning, match="keeps the metadata .* in 'lr', 'name', 'seed'$"):
        record(tmp_path / "run", 3, model_at(2), existing="resume", metadata=other)
    assert Trajectory(tmp_path / "run").metadata == {
        "lr": "nan",
        "shape": [3, 2],
        "name": None,
        "4": 5,
    }
    record(tmp_path / "run", 4, model_at(3), existing="resume", metadata={})
    record(tmp_path / "run", 4, existing="overwrite", metadata=other)
    assert Trajectory(tmp_path / "run").metadata == other


def test_a_run_whose_header_was_lost_is_not_begun_anew(run):
    # What the index vouches for is still there: it must not be emptied by who wants to go on.
    (run / "trajectory.json").unlink()
    (run / "trajectory.copy.json").unlink()
    before = contents(run, DATA_FILES)
    with pytest.raises(DamagedError, match="are missing, but there are recorded states"):
        Recorder(run, model_at(10), existing="resume")
    assert contents(run, DATA_FILES) == before


@pytest.mark.parametrize("name", ALL_FILES[:2])
def test_with_one_copy_of_the_header_recording_goes_on_and_there_are_two_again(run, name):
    (run / name).unlink()
    assert_prefix(run, truth(10), count=11)
    record(run, 12, model_at(10), existing="resume")
    assert_prefix(run, truth(12), count=13)
    headers = contents(run, ALL_FILES[:2])
    assert headers["trajectory.json"] == headers["trajectory.copy.json"]


@pytest.mark.parametrize("name", ALL_FILES[:2])
def test_keys_of_a_later_version_stay_where_a_copy_of_the_header_is_mended(run, name):
    content = read_document(run / name) | {"sketches": {"future": 1}}
    for each in ALL_FILES[:2]:
        write_document(run / each, content)
    (run / name).unlink()
    with moved_aside(run, True):
        record(run, 0, model_at(7), existing="resume", step=7)
    for directory in (run, run / "aside-1"):
        for each in ALL_FILES[:2]:
            assert read_document(directory / each) == content


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("size", [None, 0, 130, 64 * 3])
def test_with_one_copy_of_the_records_recording_goes_on_and_there_are_two_again(run, name, size):
    if size is None:
        (run / name).unlink()
    else:
        os.truncate(run / name, size)
    assert_prefix(run, truth(10), count=11)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*cut off .* of an unfinished write")
        record(run, 12, model_at(10), existing="resume")
    assert_prefix(run, truth(12), count=13)
    assert (run / RECORDS[0]).read_bytes() == (run / RECORDS[1]).read_bytes()


def test_states_without_any_record_are_moved_aside_and_not_cut(run):
    before = (run / "states.bin").read_bytes()
    for name in RECORDS:
        (run / name).unlink()
    with pytest.warns(LosspathWarning, match="aside-1"):
        record(run, 2, existing="resume")
    assert (run / "aside-1" / "states.bin").read_bytes() == before
    assert_prefix(run, truth(2), count=3)


# --------------------------------------------------------------------------------------------------
# Overwriting


def test_overwriting_replaces_the_trajectory_and_leaves_other_files_alone(run):
    (run / "notes.txt").write_text("mine")
    (run / "results").mkdir()
    (run / "results" / "old.npz").write_bytes(b"old")
    model = network(seed=1)
    first = row(model)
    record(run, 3, model, existing="overwrite", every=2)
    path = Trajectory(run)
    assert (path.steps.tolist(), path.every) == ([0, 2, 3], 2)
    np.testing.assert_array_equal(stored_rows(run)[0], first)
    np.testing.assert_array_equal(path[-1], row(model))
    assert (run / "notes.txt").read_text() == "mine"
    assert (run / "results" / "old.npz").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (network().double(), {}),
        (torch.nn.ReLU(), {}),
        (network(), {"every": 0}),
        (network(), {"dtype": "float16"}),
        (network(), {"step": -3}),
        (network(), {"metadata": {"device": torch.device("cpu")}}),
        (network(), {"metadata": {"name": "\ud800"}}),
    ],
    ids=["model", "no parameters", "every", "dtype", "step", "metadata", "surrogate"],
)
def test_what_is_refused_has_overwritten_nothing(run, model, options):
    before = contents(run, ALL_FILES)
    with pytest.raises(LosspathError):
        Recorder(run, model, existing="overwrite", **options)
    assert contents(run, ALL_FILES) == before


def test_metadata_that_is_not_json_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ArgumentError, match="metadata"):
        Recorder(tmp_path / "run", network(), metadata={"path": Path("data")})
    assert not (tmp_path / "run").exists()


def test_a_damaged_run_can_be_overwritten_but_not_gone_on_with(run):
    for name in ALL_FILES[:2]:
        (run / name).write_text("{}")
    with pytest.raises(DamagedError):
        Recorder(run, model_at(10), existing="resume")
    record(run, 2, existing="overwrite")
    assert_prefix(run, truth(2), count=3)


# --------------------------------------------------------------------------------------------------
# One writer


@pytest.mark.parametrize("existing", ["resume", "overwrite"])
def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path, existing):
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        walk(recorder, model, 3)
        recorder.flush()
        with pytest.raises(BusyError, match=r"this very process .* close\(\)"):
            Recorder(tmp_path / "run", model_at(3), existing=existing)
        walk(recorder, model, 6)
    assert_prefix(tmp_path / "run", truth(6), count=7)
    record(tmp_path / "run", 7, model, existing="resume")


def test_where_a_run_was_that_was_renamed_another_one_can_be_recorded(tmp_path):
    model, other = network(), network()
    with Recorder(tmp_path / "run", model) as recorder:
        walk(recorder, model, 3)
        (tmp_path / "run").rename(tmp_path / "renamed")
        with Recorder(tmp_path / "run", other) as second:
            walk(second, other, 2)
            for name in ("run", "renamed"):
                with pytest.raises(BusyError, match="this very process"):
                    Recorder(tmp_path / name, network(), existing="resume", step=0)
            (tmp_path / "link").symlink_to(tmp_path / "run")
            with pytest.raises(BusyError, match="this very process"):
                Recorder(tmp_path / "link", network())
            walk(recorder, model, 5)
        walk(recorder, model, 6)
    assert_prefix(tmp_path / "renamed", truth(6), count=7)
    assert_prefix(tmp_path / "run", truth(2), count=3)
    record(tmp_path / "renamed", 7, model, existing="resume")


HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from walks import network, walk
from losspath import Recorder
model = network()
recorder = Recorder(sys.argv[1], model)
walk(recorder, model, 5)
recorder.flush()
print("flushed", flush=True)
time.sleep(600)
"""


def test_the_lock_dies_with_its_process(tmp_path):
    run = tmp_path / "run"
    arguments = [sys.executable, "-c", HOLDER, str(run), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "flushed\n"
            with pytest.raises(BusyError, match="another process is writing"):
                Recorder(run, model_at(5), existing="resume")
            assert_prefix(run, truth(5), count=6)  # readers need no lock
        finally:
            os.kill(process.pid, signal.SIGKILL)
    model = model_at(5)
    with Recorder(run, model, existing="resume") as recorder:
        advance(model, 5)
        recorder.record(loss_at(5))
    assert_prefix(run, truth(6), count=7)
