"""`record` from several threads, from handlers that interrupt it, and in children of processes."""

import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading

import pytest
import torch

from losspath import Recorder, Trajectory
from losspath.errors import ArgumentError, ModelError, StoreError
from losspath.recording import turns


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(50))


def step(model, value):
    with torch.no_grad():
        model.weight.fill_(value)


def test_threads_take_turns(tmp_path):
    model = Model()
    with Recorder(tmp_path / "run", model) as recorder:

        def many():
            for _ in range(300):
                recorder.record(1.0)

        threads = [threading.Thread(target=many, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == list(range(901))
    assert path.loss_steps.tolist() == list(range(1, 901))
    assert not path[:].any()


@pytest.mark.parametrize("every", [1, 3])
def test_a_handler_that_records_within_record_is_refused_wherever_it_comes(tmp_path, every):
    model = Model()
    told, lines = [], 0

    def trace(frame, event, argument):
        nonlocal lines
        if "losspath/recording" not in frame.f_code.co_filename:
            return None
        if event == "line" and threading.current_thread() is threading.main_thread():
            lines += 1
            if lines % 7 == number % 7:
                sys.settrace(None)  # as Python does while a handler runs
                try:
                    recorder.record(0.5)
                    told.append("recorded")
                except StoreError as error:
                    told.append(str(error))
                recorder.flush()
                sys.settrace(trace)
        return trace

    with Recorder(tmp_path / "run", model, every=every) as recorder:
        for number in range(1, 15):
            step(model, number)
            sys.settrace(trace)
            try:
                recorder.record(float(number))
            finally:
                sys.settrace(None)
    refused = [words for words in told if "while record() runs" in words]
    assert len(refused) > 50
    assert set(told) <= {*refused, "recorded"}  # before the turn is taken, or after it
    path = Trajectory(tmp_path / "run")
    losses = dict(zip(path.loss_steps.tolist(), path.all_losses.tolist(), strict=True))
    of_loop = {at: loss for at, loss in losses.items() if loss != 0.5}
    assert list(of_loop.values()) == [float(number) for number in range(1, 15)]
    assert len(losses) == 14 + told.count("recorded")
    found = dict(zip(path.steps.tolist(), path[:].tolist(), strict=True))
    assert {0, max(losses)} <= found.keys()
    for at in found.keys() & of_loop.keys():
        assert found[at] == [of_loop[at]] * 50


def test_a_call_that_ended_by_an_exception_has_no_turn_any_more():
    held = turns.Turns()

    def forgets():
        assert held.take()
        raise KeyboardInterrupt  # before what gives the turn back

    with pytest.raises(KeyboardInterrupt):
        forgets()

    def next_one():
        try:
            return held.take()
        finally:
            held.give()

    assert next_one()
    assert not held._frames


def _records_and_ends(directory):
    model = Model()
    _kept.append(recorder := Recorder(directory, model))
    for value in range(1, 21):
        step(model, value)
        recorder.record(float(value))


_kept = []


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_a_child_of_multiprocessing_closes_what_it_leaves_open(tmp_path, start):
    process = multiprocessing.get_context(start).Process(
        target=_records_and_ends, args=(tmp_path / "run",)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 0
    path = Trajectory(tmp_path / "run")
    assert path.closed
    assert len(path) == 21
    assert path[20][0] == 20


def test_a_run_that_is_removed_while_it_is_recorded_is_told(tmp_path):
    model = Model()
    recorder = Recorder(tmp_path / "run", model)
    recorder.record(1.0)
    recorder.flush()
    for file in (tmp_path / "run").iterdir():
        file.unlink()
    recorder.record(1.0)
    with pytest.raises(StoreError, match="was removed while it was being recorded"):
        recorder.flush()
    with pytest.raises(StoreError, match="was removed while it was being recorded"):
        recorder.close()


def test_a_file_that_is_replaced_while_it_is_recorded_is_told(tmp_path):
    model = Model()
    recorder = Recorder(tmp_path / "run", model)
    recorder.record(1.0)
    recorder.flush()
    states = tmp_path / "run" / "states.bin"
    raw = states.read_bytes()
    states.unlink()
    states.write_bytes(raw)
    recorder.record(1.0)
    with pytest.raises(StoreError, match=r"states\.bin was removed .* or another file put in"):
        recorder.close()


def test_a_run_that_is_moved_while_it_is_recorded_is_as_good_as_before(tmp_path):
    model = Model()
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.record(1.0)
        (tmp_path / "run").rename(tmp_path / "other")
        recorder.record(2.0)
    assert len(Trajectory(tmp_path / "other")) == 3


def test_a_large_model_that_went_on_by_its_data_is_not_taken_for_its_last_state(tmp_path):
    model = torch.nn.Linear(2100, 2100)  # more than a buffer
    recorder = Recorder(tmp_path / "run", model, every=10)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.data.add_(0.01)
        recorder.record(1.0)
    model.bias.data[7] += 1  # torch counts no change
    with pytest.warns(UserWarning, match="was not stored"):
        recorder.close()
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == [0]
    assert len(path.all_losses) == 3


@pytest.mark.slow
def test_another_default_device_is_none_of_the_packages(tmp_path):
    program = """
import sys, torch, losspath
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
with torch.device("meta"):
    with losspath.Recorder(sys.argv[1], model) as recorder:
        for _ in range(3):
            recorder.record(1.0)
    path = losspath.Trajectory(sys.argv[1])
    assert path[2].shape == (24,) and path.sides(1)["1.running_mean"].device.type == "cpu"
    path.load_into(model, 0, buffers=True)
    x, y = torch.randn(40, 3, device="cpu"), torch.arange(40, device="cpu") % 4
    objective = losspath.Objective(model, x, y, torch.nn.functional.cross_entropy)
    model.eval()
    assert abs(objective(path[2]).loss - float(objective.loss_fn(model(x), y))) < 1e-6
    with torch.no_grad():
        states = [path[0] + 0.1 * k * path[0] ** 2 for k in range(4)]
    losspath.compute_surface(states, objective, "averaged", 3)
    losspath.interpolate(states, objective, alphas=[0.0, 1.0])
    losspath.measure_dynamics(states, objective, 2)
"""
    subprocess.run([sys.executable, "-c", program, tmp_path / "run"], check=True, timeout=120)


def test_the_copy_of_a_model_that_holds_its_recorder_holds_the_same_one(tmp_path):
    model = Model()
    with Recorder(tmp_path / "run", model) as recorder:
        model.recorder = recorder
        average = torch.optim.swa_utils.AveragedModel(model)
        assert average.module.recorder is recorder
        with pytest.raises(StoreError, match="keep it out of what is sent to other processes"):
            pickle.dumps(model)
        recorder.record(1.0)


def test_counting_from_zero_is_told(tmp_path):
    with Recorder(tmp_path / "run", Model()) as recorder:
        with pytest.raises(ArgumentError, match="step 0 is the state before training"):
            recorder.record(1.0, step=0)
        recorder.record(1.0, step=1)


@pytest.mark.parametrize("frozen_first", [True, False])
def test_layers_that_were_thawed_or_frozen_since_are_named(tmp_path, frozen_first):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    model[0].requires_grad_(not frozen_first)
    Recorder(tmp_path / "run", model).close()
    model[0].requires_grad_(frozen_first)
    now = "and now it is trainable" if frozen_first else "and now it is frozen"
    with pytest.raises(ModelError, match=f"{now}.*set requires_grad as it was"):
        Recorder(tmp_path / "run", model, existing="resume")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_a_terminal_that_is_closed_closes_the_run(tmp_path):
    program = """
import os, signal, sys, torch, losspath
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may be deaf to it
recorder = losspath.Recorder(sys.argv[1], torch.nn.Linear(2, 3))
for _ in range(5):
    recorder.record(1.0)
os.kill(os.getpid(), signal.SIGHUP)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "run"], timeout=120)
    assert done.returncode == -signal.SIGHUP
    path = Trajectory(tmp_path / "run")
    assert (len(path), path.closed) == (6, True)
