"""States are durable in time, and a recorder that is not closed, killed or forked loses none."""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from walks import (
    advance,
    assert_prefix,
    loss_at,
    model_at,
    network,
    record,
    truth,
    walk,
)

from losspath import Recorder, Trajectory
from losspath.errors import BusyError, StoreError
from losspath.recording import locking, newest, slots, store
from losspath.recording import recorder as recorder_module

pytestmark = pytest.mark.timeout(120)


def seen_within(run, step, seconds):
    """A path up to a step, once there is one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(StoreError):
            if (path := Trajectory(run)).steps[-1] >= step:
                return path
        time.sleep(0.02)
    return Trajectory(run)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("every", [1, 4, 100])
def test_a_state_is_durable_within_two_seconds_without_another_call(tmp_path, every):
    model = network()
    recorder = Recorder(tmp_path / "run", model, every=every)
    walk(recorder, model, 6)
    expected = {1: 7, 4: 3, 100: 2}[every]
    began = time.monotonic()
    path = seen_within(tmp_path / "run", 6, 5)
    assert time.monotonic() - began < 3
    assert (len(path), int(path.steps[-1]), len(path.all_losses)) == (expected, 6, 6)
    assert path.notes == [f"recording is going on: {expected} states so far"]
    assert "recording is going on" in repr(path)
    # What was seen stays, though the newest state's place is written again and again.
    for number in range(3):
        walk(recorder, model, 7 + number)
        recorder.flush()
    np.testing.assert_array_equal(path[-1], truth(6)[6])
    recorder.close()
    assert Trajectory(tmp_path / "run").notes == []
    assert_prefix(tmp_path / "run", truth(9), every=every)


@pytest.mark.parametrize("every", [3, 100])
@pytest.mark.parametrize(("as_read", "as_parsed"), [(0, 3), (3, 0), (1, 5), (2, 2), (9, 0)])
def test_a_run_is_opened_while_its_newest_state_is_written_again(
    tmp_path, monkeypatch, every, as_read, as_parsed
):
    model = network()
    recorder = Recorder(tmp_path / "run", model, every=every)
    walk(recorder, model, 7 if every == 3 else 6)
    recorder.flush()
    opened_at = recorder.steps

    def with_commits(function, commits):
        def call(*arguments):
            for _ in range(commits):
                walk(recorder, model, recorder.steps + 1)
                recorder.flush()
            return function(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(store, "read_copies", with_commits(store.read_copies, as_read))
        patch.setattr(slots, "merge", with_commits(slots.merge, as_parsed))
        path = Trajectory(tmp_path / "run")
    steps = path.steps
    assert opened_at <= steps[-1] <= recorder.steps
    np.testing.assert_array_equal(path[:], truth(recorder.steps)[steps])
    assert path.all_losses.tolist() == [loss_at(t) for t in range(steps[-1])]
    assert path.notes == [f"recording is going on: {len(path)} states so far"]
    recorder.close()
    np.testing.assert_array_equal(path[-1], truth(recorder.steps)[steps[-1]])
    assert_prefix(tmp_path / "run", truth(recorder.steps), every=every)


def test_where_no_place_has_a_state_that_is_known_a_run_ends_with_its_last_row(
    tmp_path, monkeypatch
):
    model = network()
    with Recorder(tmp_path / "run", model, every=4) as recorder:
        walk(recorder, model, 6)
        recorder.flush()
        # As if both places were being written at every look.
        states = iter(np.arange(20 * len(truth(0)[0]), dtype="f4").reshape(20, 1, -1))
        monkeypatch.setattr(newest, "_places", lambda *_: {id(states): next(states)})
        path = Trajectory(tmp_path / "run")
        assert path.steps.tolist() == [0, 4]
        assert len(path.all_losses) == 4
        assert any("newest state was being written again" in note for note in path.notes)
        np.testing.assert_array_equal(path[:], truth(4)[::4])


CHILD = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[2])
from walks import network, walk
from losspath import Recorder
model = network()
recorder = Recorder(sys.argv[1], model, every=int(sys.argv[3]))
walk(recorder, model, 5)
how = sys.argv[4]
if how == "sleep":
    time.sleep(2.5)
    print("slept", flush=True)
    time.sleep(600)
if how == "error":
    raise ZeroDivisionError
if how == "terminated":
    print("recorded", flush=True)
    while True:  # a signal just before a sleep is seen to only when that ends
        time.sleep(0.1)
if how == "ignored":
    recorder.close()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Recorder(sys.argv[1] + "-2", model) as second:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
"""


def start(run, every, how):
    arguments = [sys.executable, "-c", CHILD, str(run), str(Path(__file__).parent)]
    return subprocess.Popen(
        [*arguments, str(every), how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3])
def test_a_process_killed_after_two_and_a_half_seconds_lost_nothing(tmp_path, every):
    with start(tmp_path / "run", every, "sleep") as process:
        assert process.stdout.readline() == "slept\n"
        process.kill()
    path = assert_prefix(tmp_path / "run", truth(5), every=every)
    assert (int(path.steps[-1]), len(path.all_losses), path.closed) == (5, 5, False)
    assert path.notes == [f"recording was cut off: {len(path)} states until then"]
    # And recording goes on there.
    record(tmp_path / "run", 8, model_at(5), every=every, existing="resume")
    assert int(assert_prefix(tmp_path / "run", truth(8), every=every).steps[-1]) == 8


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(("how", "code"), [("end", 0), ("error", 1)])
def test_a_script_that_ends_without_close_keeps_all(tmp_path, how, code):
    with start(tmp_path / "run", 3, how) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("ZeroDivisionError" in errors) == (how == "error")
    path = assert_prefix(tmp_path / "run", truth(5), count=3, every=3)
    assert path.closed


def test_a_terminated_process_keeps_all_and_is_seen_to_be_terminated(tmp_path):
    with start(tmp_path / "run", 3, "terminated") as process:
        assert process.stdout.readline() == "recorded\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
    assert assert_prefix(tmp_path / "run", truth(5), count=3, every=3).closed


def test_handlers_of_others_stay(tmp_path):
    with start(tmp_path / "run", 1, "ignored") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_a_recorder_that_nobody_has_any_more_is_closed(tmp_path):
    model = network()
    recorder = Recorder(tmp_path / "run", model)
    walk(recorder, model, 4)
    alive = weakref.ref(recorder)
    del recorder
    gc.collect()
    assert alive() is None
    assert assert_prefix(tmp_path / "run", truth(4), count=5).closed
    record(tmp_path / "run", 6, model, existing="resume")


def test_a_second_recorder_of_the_same_process_is_told_so(tmp_path, monkeypatch):
    model = network()
    recorder = Recorder(tmp_path / "run", model)
    monkeypatch.chdir(tmp_path)
    for existing in ("error", "resume", "overwrite"):
        with pytest.raises(BusyError, match=r"this very process .* close\(\)"):
            Recorder("run", model, existing=existing)
    walk(recorder, model, 2)
    recorder.close()
    record(tmp_path / "run", 3, model_at(2), existing="resume")
    assert_prefix(tmp_path / "run", truth(3), count=4)


def test_a_reader_does_not_keep_a_writer_out(tmp_path):
    record(tmp_path / "run", 2)
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            locking.is_locked(tmp_path / "run" / ".lock")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for step in range(2, 12):
            record(tmp_path / "run", step + 1, model_at(step), existing="resume")
    finally:
        stop.set()
        thread.join()
    assert_prefix(tmp_path / "run", truth(12), count=13)


# --------------------------------------------------------------------------------------------------
# Forks


def in_fork(action, end):
    """Runs `action` in a forked child, which then ends in a way; returns its exit status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            if end == "collected":
                gc.collect()
            os._exit(code)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"


@pytest.mark.mostly_slow(1)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("calls", [1, 10, 2000])
@pytest.mark.parametrize("every", [1, 3])
def test_a_copy_in_a_forked_child_refuses_and_the_parent_goes_on(tmp_path, calls, every):
    model = network()
    recorder = Recorder(tmp_path / "run", model, every=every)
    walk(recorder, model, 5)

    def use_the_copy():
        nonlocal recorder
        for _ in range(calls):
            with pytest.raises(StoreError, match=r"copy of the recorder .* forked process"):
                recorder.record(0.0)
        with pytest.raises(StoreError, match="forked process"):
            recorder.flush()
        with recorder:
            pass
        recorder.close()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(BusyError, match="another process"):
            Recorder(tmp_path / "run", model, existing="overwrite")
        recorder = None  # and with it the copy is gone

    assert in_fork(use_the_copy, "collected") == 0
    with pytest.raises(BusyError):  # the lock is the parent's still
        locking_by_another(tmp_path / "run")
    walk(recorder, model, 9)
    recorder.close()
    assert assert_prefix(tmp_path / "run", truth(9), every=every).closed
    locking_by_another(tmp_path / "run")


def locking_by_another(run):
    """Takes the lock of a run as another process would, and gives it back."""
    lock = locking.RunLock(run, ".lock")
    known = dict(locking._open_runs)
    locking._open_runs.clear()
    try:
        lock.acquire()
        lock.release()
    finally:
        locking._open_runs.update(known)


def record_in(recorder, queue):
    try:
        recorder.record(0.0)
    except StoreError as error:
        queue.put(str(error))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_copy_in_a_forked_worker_refuses_too(tmp_path):
    context = multiprocessing.get_context("fork")
    model, queue = network(), context.SimpleQueue()
    with Recorder(tmp_path / "run", model) as recorder:
        walk(recorder, model, 3)
        worker = context.Process(target=record_in, args=(recorder, queue))
        worker.start()
        worker.join(30)
        assert worker.exitcode == 0
        assert "make the Recorder in the process that trains" in queue.get()
        walk(recorder, model, 6)
    assert_prefix(tmp_path / "run", truth(6), count=7)


SCRIPT_THAT_FORKS = """
import os, sys
sys.path.insert(0, sys.argv[2])
from walks import network, walk
from losspath import Recorder
model = network()
recorder = Recorder(sys.argv[1], model)
walk(recorder, model, 3)
pid = os.fork()
if pid == 0:
    sys.exit(3)  # runs what is to run at exit, and finalizers
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 3
walk(recorder, model, 6)
"""


def test_a_forked_child_that_exits_leaves_the_run_to_its_parent(tmp_path):
    arguments = [sys.executable, "-c", SCRIPT_THAT_FORKS, str(tmp_path / "run")]
    subprocess.run([*arguments, str(Path(__file__).parent)], check=True, timeout=60)
    assert assert_prefix(tmp_path / "run", truth(6), count=7).closed


def test_a_slow_training_is_durable_too(tmp_path, monkeypatch):
    # Nothing but time makes states durable here: buffers never fill.
    monkeypatch.setattr(recorder_module, "_COMMIT_SECONDS", 0.2)
    model = network()
    recorder = Recorder(tmp_path / "run", model)
    for step in range(3):
        advance(model, step)
        recorder.record(loss_at(step))
        path = seen_within(tmp_path / "run", step + 1, 5)
        assert len(path) == step + 2
    recorder.close()
