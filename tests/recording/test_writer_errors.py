"""Disks that are full, slow or read-only."""

import errno
import threading
import time
import warnings

import pytest
from walks import (
    RECORDS,
    advance,
    assert_prefix,
    assert_same_run,
    contents,
    loss_at,
    model_at,
    network,
    record,
    truth,
    walk,
)

from losspath import Recorder, Trajectory
from losspath.errors import LosspathWarning, StoreError
from losspath.recording import disk as disk_module
from losspath.recording import recorder as recorder_module
from losspath.recording import store

# A deadlock ends the test soon, rather than at the limit that all tests share.
pytestmark = pytest.mark.timeout(60)


class FullDisk:
    """Lets so many bytes through to a file, and then no more, until there is room again."""

    def __init__(self, monkeypatch, name):
        self.name, self.left = name, None
        original = disk_module.Files.write

        def write(files, name, data, offset):
            if name == self.name and self.left is not None:
                room = memoryview(data)[: self.left]
                self.left -= len(room)
                original(files, name, room, offset)
                if len(room) < len(data):
                    raise StoreError(f"cannot write {name}: No space left on device")
            else:
                original(files, name, data, offset)

        monkeypatch.setattr(disk_module.Files, "write", write)


@pytest.fixture(params=[store.STATES, store.SIDES, store.RECORDS, store.RECORDS_COPY])
def disk(request, monkeypatch):
    return FullDisk(monkeypatch, request.param)


def fill(run, model, disk, left):
    """A recorder whose disk is full; five steps are durable."""
    recorder = Recorder(run, model)
    walk(recorder, model, 5)
    recorder.flush()
    disk.left = left
    return recorder


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("left", [0, 7, 20])
def test_a_full_disk_is_told_by_the_next_record(tmp_path, disk, left):
    model = network()
    recorder = fill(tmp_path / "run", model, disk, left)
    walk(recorder, model, 8)
    with pytest.raises(StoreError, match="No space left"):
        recorder.flush()
    with pytest.raises(StoreError, match="what was durable before is intact"):
        recorder.record(0.0)
    assert recorder.steps == 8
    with pytest.raises(StoreError, match="No space left"):
        recorder.close()
    assert_durable(tmp_path / "run", disk, 8)
    with pytest.raises(StoreError, match=r"closed|stopped"):
        recorder.record(0.0)


@pytest.mark.mostly_slow(1)
def test_a_full_disk_is_told_by_close(tmp_path, disk):
    model = network()
    recorder = fill(tmp_path / "run", model, disk, 0)
    walk(recorder, model, 8)
    with pytest.raises(StoreError, match="No space left"):
        recorder.close()
    assert_durable(tmp_path / "run", disk, 8)


def assert_durable(run, disk, recorded):
    """What was flushed is there; all of it, where only the copy of what vouches is behind."""
    path = assert_prefix(run, truth(recorded))
    assert len(path) == (recorded if disk.name == store.RECORDS_COPY else 5) + 1
    assert not path.closed


@pytest.mark.mostly_slow(1)
def test_a_loop_that_goes_on_is_stopped(tmp_path, disk, monkeypatch):
    # Many more states than buffers hold: neither does record wait for ever nor is the error lost.
    monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 256)
    monkeypatch.setattr(recorder_module, "_COMMIT_SECONDS", 0.0)
    model = network()
    with pytest.raises(StoreError, match="No space left"):  # noqa: PT012
        recorder = fill(tmp_path / "run", model, disk, 0)
        with recorder:
            while True:
                walk(recorder, model, recorder.steps + 1)
    path = assert_prefix(tmp_path / "run", truth(5 if disk.name != store.RECORDS_COPY else 60))
    assert len(path) >= 6


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("left", [0, 3, 70])
def test_closing_again_writes_what_is_held_once_there_is_room(tmp_path, disk, left):
    record(tmp_path / "whole", 7)
    model = network()
    recorder = fill(tmp_path / "run", model, disk, left)
    walk(recorder, model, 7)
    with pytest.raises(StoreError, match="No space left"):
        recorder.flush()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"close\(\) tries to write the rest again"):
            recorder.close()
        with pytest.raises(StoreError):
            recorder.record(0.0)
    assert_durable(tmp_path / "run", disk, 7)
    disk.left = None
    recorder.close()
    recorder.close()
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert Trajectory(tmp_path / "run").notes == []
    for name in RECORDS:  # nothing is told twice
        assert contents(tmp_path / "run")[name] == contents(tmp_path / "whole")[name]
    record(tmp_path / "run", 8, model, existing="resume")  # the lock was let go


@pytest.mark.filterwarnings("ignore:.*unfinished write:losspath.LosspathWarning")
def test_closing_again_adds_nothing_to_what_another_recorded_since(tmp_path, disk):
    model = network()
    recorder = fill(tmp_path / "run", model, disk, 3)
    walk(recorder, model, 7)
    with pytest.raises(StoreError):
        recorder.close()
    disk.left = None
    step = int(Trajectory(tmp_path / "run").steps[-1])
    other = Recorder(tmp_path / "run", model_at(step), existing="resume")
    with pytest.raises(StoreError, match=r"this very process|was changed|was removed"):
        recorder.close()
    other.close()
    after = contents(tmp_path / "run")
    with pytest.raises(StoreError, match=r"was changed after this recorder|was removed"):
        recorder.close()
    assert contents(tmp_path / "run") == after
    record(tmp_path / "run", step + 1, model_at(step), existing="resume")


def test_what_waits_behind_an_error_that_does_not_last_is_written(tmp_path, monkeypatch):
    # The disk fails once and has room again.
    monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 23 * 4)
    monkeypatch.setattr(recorder_module, "_COMMIT_SECONDS", 0.0)
    gate, failures = threading.Event(), [OSError(errno.ENOSPC, "full")]
    model = network()
    recorder = Recorder(tmp_path / "run", model)
    walk(recorder, model, 5)
    recorder.flush()

    def write(files, name, data, offset, write=disk_module.Files.write):
        gate.wait(30)
        if failures:
            raise failures.pop()
        write(files, name, data, offset)

    monkeypatch.setattr(disk_module.Files, "write", write)
    walk(recorder, model, 7)
    gate.set()
    recorder.close()
    assert assert_prefix(tmp_path / "run", truth(7), count=8).closed


@pytest.mark.filterwarnings("ignore:.*unfinished write:losspath.LosspathWarning")
def test_a_run_goes_on_once_there_is_room(tmp_path, disk):
    record(tmp_path / "whole", 9)
    model = network()
    recorder = fill(tmp_path / "run", model, disk, 5)
    walk(recorder, model, 8)
    with pytest.raises(StoreError):
        recorder.close()
    disk.left = None
    step = int(Trajectory(tmp_path / "run").steps[-1])
    record(tmp_path / "run", 9, model_at(step), existing="resume")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def walk_and_fail(recorder, model, until):
    walk(recorder, model, until)
    raise ZeroDivisionError


def test_the_loops_own_error_is_the_one_to_see(tmp_path, disk):
    model = network()
    recorder = fill(tmp_path / "run", model, disk, 0)
    with pytest.raises(ZeroDivisionError), recorder:
        walk_and_fail(recorder, model, 8)
    assert_durable(tmp_path / "run", disk, 8)
    disk.left = None
    step = int(Trajectory(tmp_path / "run").steps[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LosspathWarning)  # where the error left a tail
        # The lock was let go.
        record(tmp_path / "run", step + 1, model_at(step), existing="resume")


def test_an_error_in_the_loop_keeps_what_was_recorded_until_then(tmp_path):
    model = network()
    with pytest.raises(ZeroDivisionError), Recorder(tmp_path / "run", model) as recorder:
        walk_and_fail(recorder, model, 5)
    assert assert_prefix(tmp_path / "run", truth(5), count=6).closed


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("every", [1, 3])
def test_a_full_disk_at_the_first_state(tmp_path, disk, every):
    disk.left = 0
    with pytest.raises(StoreError, match="No space left"):
        record(tmp_path / "run", 1, every=every)
    if disk.name == store.RECORDS_COPY:
        assert not assert_prefix(tmp_path / "run", truth(1)).closed
    else:
        with pytest.raises(StoreError, match="no recorded state yet"):
            Trajectory(tmp_path / "run")


def test_a_slow_disk_makes_record_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 2 * 23 * 4)
    gate, original = threading.Event(), disk_module.Files.write

    def write(files, *arguments):
        gate.wait(30)
        original(files, *arguments)

    monkeypatch.setattr(disk_module.Files, "write", write)
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        loop = threading.Thread(target=walk, args=(recorder, model, 40), daemon=True)
        loop.start()
        steps = -1
        while steps != recorder.steps:  # until it stands still
            steps = recorder.steps
            time.sleep(0.2)
        # Three buffers of two states, and the state that waits for its place.
        assert loop.is_alive()
        assert steps <= 3 * 2
        gate.set()
        loop.join(30)
        assert not loop.is_alive()
    assert_prefix(tmp_path / "run", truth(40), count=41)


def test_states_are_made_durable_also_when_buffers_fill_quickly(tmp_path, monkeypatch):
    # A buffer for every two states: were its hand-over taken for a commit, none would follow.
    monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 2 * 23 * 4)
    real, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead[0])
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        for step in range(40):
            ahead[0] += recorder_module._COMMIT_SECONDS / 4
            advance(model, step)
            recorder.record(loss_at(step))
        deadline = real() + 5
        while len(Trajectory(tmp_path / "run")) < 30 and real() < deadline:
            time.sleep(0.01)
        path = assert_prefix(tmp_path / "run", truth(40))
        assert len(path) >= 30
        assert not path.closed


def test_states_are_made_durable_from_time_to_time(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "_COMMIT_SECONDS", 0.0)
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.flush()
        walk(recorder, model, 10)
        deadline = time.monotonic() + 5
        while len(Trajectory(tmp_path / "run")) < 11 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert_prefix(tmp_path / "run", truth(10), count=11)


def test_a_failed_opening_lets_go_of_the_lock(tmp_path, monkeypatch):
    record(tmp_path / "run", 3)

    def refuse(files, directory, names):
        raise StoreError("read-only")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_module.Files, "__init__", refuse)
        with pytest.raises(StoreError, match="read-only") as error:
            Recorder(tmp_path / "run", model_at(3), existing="resume")
    # While the error is still at hand, and with it all that its frames hold.
    record(tmp_path / "run", 4, model_at(3), existing="resume")
    assert error is not None
