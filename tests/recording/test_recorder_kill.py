"""Recordings that are killed at any moment."""

import os
import random
import signal
import time

import pytest
import torch
from walks import RECORDS, assert_prefix, assert_same_run, model_at, network, record, truth, walk

from killing import in_child
from losspath import Recorder, Trajectory
from losspath.errors import StoreError
from losspath.recording import recorder as recorder_module

STEPS = 800


def record_in_child(directory, every, commit_seconds, buffer_bytes):
    """Goes on from the last recorded state in a child process; returns its id."""

    def work():
        recorder_module._COMMIT_SECONDS = commit_seconds
        recorder_module._BUFFER_BYTES = buffer_bytes
        model, step = last_state(directory)
        with Recorder(directory, model, every=every, existing="resume", step=step) as recorder:
            walk(recorder, model, STEPS)

    return in_child(work)


def last_state(directory):
    """The model at the last recorded state, buffers and all, and its step."""
    model = network()
    try:
        path = Trajectory(directory)
    except StoreError:  # killed before the first state was durable
        return model, None
    step = int(path.steps[-1])
    path.load_into(model, len(path) - 1)
    with torch.no_grad():
        expected = model_at(step)
        for buffer, value in zip(model.buffers(), expected.buffers(), strict=True):
            buffer.copy_(value)
    return model, step


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("every", "commit_seconds", "buffer_bytes"),
    [(1, 0.0, 300), (1, 0.005, 50), (7, 0.001, 1 << 20)],
)
def test_a_recording_killed_anywhere_equals_one_that_was_not(
    tmp_path, every, commit_seconds, buffer_bytes
):
    record(tmp_path / "whole", STEPS, every=every)
    rows = truth(STEPS)
    run = tmp_path / "run"
    moments, kills, lengths = random.Random(every), 0, []
    for attempt in range(60):
        pid = record_in_child(run, every, commit_seconds, buffer_bytes)
        time.sleep(moments.uniform(0.0, 0.05 + 0.03 * attempt))  # ever longer, so that it ends
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if any((run / name).exists() and (run / name).stat().st_size >= 64 for name in RECORDS):
            lengths.append(len(assert_prefix(run, rows, every=every)))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    else:
        pytest.fail("never finished")
    assert kills >= 3
    assert len(set(lengths)) >= 3  # kills fell into the recording
    assert lengths == sorted(lengths)  # what is durable stays
    assert not list(run.glob("aside-*/records.bin"))
    assert_same_run(run, tmp_path / "whole")
    assert Trajectory(run).closed
