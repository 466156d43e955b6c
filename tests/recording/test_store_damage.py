"""Torn, cut and flipped bytes: ignored, refused or repaired, never taken for the truth."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walks import (
    ALL_FILES,
    DATA_FILES,
    PARAMETERS,
    assert_prefix,
    contents,
    loss_at,
    model_at,
    network,
    record,
    row,
    truth,
)

from losspath import Recorder, Trajectory
from losspath.errors import (
    BusyError,
    DamagedError,
    LosspathError,
    LosspathWarning,
    StoreError,
)
from losspath.files import read_document, write_document
from losspath.recording.repair import repair_trajectory
from losspath.recording.store import INDEX, LOSSES, META, RECORDS, STATES

STEPS = 10
ROWS = truth(STEPS + 2)


@pytest.fixture(scope="module", params=[1, 3])
def whole(request, tmp_path_factory):
    """A run whose index has several lines, most of them closing it, and the run it grows to."""
    every = request.param
    directory = tmp_path_factory.mktemp("whole") / "run"
    for begin, stop in ((0, 3), (3, 6), (6, 9), (9, STEPS)):
        record(directory, stop, model_at(begin), every=every, existing="resume")
    finished = tmp_path_factory.mktemp("finished") / "run"
    record(finished, STEPS + 2, every=every)
    return directory, finished, every


@pytest.fixture
def run(tmp_path):
    record(tmp_path / "run", STEPS)
    return tmp_path / "run"


def append(path, data):
    path.write_bytes(path.read_bytes() + data)


# --------------------------------------------------------------------------------------------------
# Tails


@pytest.mark.parametrize("name", [*DATA_FILES, INDEX])
def test_a_tail_is_ignored_by_readers_and_cut_off_by_the_next_writer(run, tmp_path, name):
    before = contents(run)
    append(run / name, b"torn" * 50)
    assert assert_prefix(run, ROWS, count=STEPS + 1).tail_bytes == 200
    assert contents(run) != before or name == INDEX
    with pytest.warns(LosspathWarning, match="cut off 200 bytes of an unfinished write"):
        record(run, STEPS + 1, model_at(STEPS), existing="resume")
    path = assert_prefix(run, ROWS, count=STEPS + 2)
    assert path.tail_bytes == 0
    record(tmp_path / "whole", STEPS + 1)
    assert contents(run) == contents(tmp_path / "whole")


def test_a_line_without_its_end_is_a_tail(run):
    raw = (run / INDEX).read_bytes()
    last = raw[:-1].rfind(b"\n") + 1
    (run / INDEX).write_bytes(raw[: last + 20])
    path = assert_prefix(run, ROWS)
    assert len(path) < STEPS + 1
    assert not path.closed
    with pytest.warns(LosspathWarning):
        record(run, STEPS, model_at(len(path) - 1), existing="resume")
    assert_prefix(run, ROWS, count=STEPS + 1)


def test_whole_lines_that_are_no_commits_are_damage(run):
    append(run / INDEX, b"[]\n")
    with pytest.raises(DamagedError, match="line 3 of the index"):
        Trajectory(run)


def test_a_line_twice_is_not_believed(tmp_path):
    # This one adds nothing, so only the chain tells that it is not the next.
    with Recorder(tmp_path / "run", network()) as recorder:
        recorder.flush()
    lines = (tmp_path / "run" / INDEX).read_bytes().splitlines(keepends=True)
    append(tmp_path / "run" / INDEX, lines[-1])
    with pytest.raises(DamagedError, match=f"line {len(lines) + 1} of the index"):
        Trajectory(tmp_path / "run")


def test_lines_of_another_run_are_not_believed(run, tmp_path):
    # Each line is chained to the one before.
    record(tmp_path / "other", STEPS, network(seed=1))
    append(run / INDEX, (tmp_path / "other" / INDEX).read_bytes())
    with pytest.raises(DamagedError, match="index"):
        Trajectory(run)


# --------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.parametrize("name", DATA_FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_bytes_that_are_vouched_for_are_refused_when_wrong_and_then_repaired(run, name, damage):
    raw = bytearray((run / name).read_bytes())
    if damage == "cut":
        del raw[-1:]
    elif damage == "flip":
        raw[len(raw) // 2] ^= 1
    (run / name).write_bytes(raw)
    if damage == "missing":
        (run / name).unlink()
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(DamagedError, match="losspath repair"):
        Trajectory(run)[:]
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    lines = repair_trajectory(run)
    assert "cut back to" in lines[-1]
    assert len(lines) >= 2
    assert repair_trajectory(run) == []
    try:
        model = model_at(int(Trajectory(run).steps[-1]))
    except StoreError:
        model = network()
    record(run, STEPS, model, existing="resume")
    assert_prefix(run, ROWS, count=STEPS + 1)


def test_repair_keeps_every_state_before_a_damaged_one(run):
    raw = bytearray((run / STATES).read_bytes())
    raw[6 * row(network()).nbytes + 3] ^= 128
    (run / STATES).write_bytes(raw)
    path = Trajectory(run)
    np.testing.assert_array_equal(path[:6], ROWS[:6, :PARAMETERS])
    np.testing.assert_array_equal(path[7:], ROWS[7 : STEPS + 1, :PARAMETERS])
    for read in (lambda: path[6], lambda: path[5:8], lambda: path.window(0, None, 2).read(2, 4)):
        with pytest.raises(DamagedError, match="state 6 has other bytes"):
            read()
    lines = repair_trajectory(run)
    assert lines[0] == "state 6 has other bytes than were recorded"
    assert lines[-1] == "cut back to 6 states, the last at step 5"
    assert_prefix(run, ROWS, count=6)
    assert len(Trajectory(run).all_losses) == 5


def test_a_damaged_buffer_is_a_damaged_state(run):
    raw = bytearray((run / STATES).read_bytes())
    raw[-1] ^= 1  # the last buffer of the last state
    (run / STATES).write_bytes(raw)
    with pytest.raises(DamagedError):
        Trajectory(run)[-1]


def test_repair_of_a_sound_run_changes_nothing(run):
    before = contents(run, ALL_FILES)
    assert repair_trajectory(run) == []
    assert contents(run, ALL_FILES) == before


def test_repair_waits_for_no_writer(tmp_path):
    with Recorder(tmp_path / "run", network()), pytest.raises(BusyError):
        repair_trajectory(tmp_path / "run")


def test_repair_says_what_it_cannot(run, tmp_path):
    with pytest.raises(StoreError, match="holds no recorded trajectory"):
        repair_trajectory(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (run / META).write_bytes(b"{}")
    before = contents(run, ALL_FILES)
    with pytest.raises(StoreError, match="cannot repair"):
        repair_trajectory(run)
    assert contents(run, ALL_FILES) == before


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_damage_is_refused_or_a_prefix_of_the_truth_is_read(whole, tmp_path_factory, data):
    source, finished, every = whole
    run = tmp_path_factory.mktemp("damage") / "run"
    shutil.copytree(source, run)
    file = run / data.draw(st.sampled_from(ALL_FILES))
    raw = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del raw[place:]
    file.write_bytes(raw)
    read_or_refuse(run, every)
    try:
        repair_trajectory(run)
    except StoreError:
        assert file.name == META  # without the table of what lies where there is nothing to read
        return
    assert repair_trajectory(run) == []
    path = read_or_refuse(run, every)
    model = network() if path is None else model_at(int(path.steps[-1]))
    record(run, STEPS + 2, model, every=every, existing="resume")
    assert contents(run) == contents(finished)
    shutil.rmtree(run.parent)


def read_or_refuse(run, every):
    try:
        path = Trajectory(run)
        losses = path.all_losses
        steps = path.steps
    except LosspathError:
        return None
    assert losses.tolist() == [loss_at(t) for t in range(len(losses))]
    assert steps.tolist() == [*range(0, int(steps[-1]), every), int(steps[-1])]
    assert path.losses.tolist() == [loss_at(t) for t in steps[:-1].tolist()]
    for index, step in enumerate(steps.tolist()):
        try:
            state = path[index]
        except DamagedError:
            continue
        np.testing.assert_array_equal(state, ROWS[step, :PARAMETERS])
    return path


# --------------------------------------------------------------------------------------------------
# Other versions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "is in version 2 of the trajectory format.*reads 1"),
        ({"version": None}, "version None"),
        ({"format": "something else"}, "is not a losspath trajectory"),
    ],
)
def test_another_version_or_format_is_refused_by_name(run, change, message):
    write_document(run / META, {**read_document(run / META), **change})
    before = contents(run, ALL_FILES)
    calls = [
        lambda: Trajectory(run),
        lambda: Recorder(run, model_at(STEPS), existing="resume"),
        lambda: repair_trajectory(run),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=message) as error:
            call()
        assert not isinstance(error.value, DamagedError)
    assert contents(run, ALL_FILES) == before


def test_a_directory_with_no_state_yet_is_told_from_none(tmp_path):
    record(tmp_path / "run", 0)
    for name in (*DATA_FILES, INDEX):
        (tmp_path / "run" / name).write_bytes(b"")
    with pytest.raises(StoreError, match="no recorded state yet"):
        Trajectory(tmp_path / "run")


@pytest.mark.parametrize("name", [STATES, RECORDS, LOSSES])
def test_files_are_what_anything_can_read(run, name):
    raw = (run / name).read_bytes()
    if name == STATES:
        expected = ROWS[: STEPS + 1].astype("<f4").tobytes()
        assert raw == expected
    elif name == LOSSES:
        assert np.frombuffer(raw, "<f8").tolist() == [loss_at(t) for t in range(STEPS)]
    else:
        assert np.frombuffer(raw, "<i8")[::2].tolist() == list(range(STEPS + 1))
