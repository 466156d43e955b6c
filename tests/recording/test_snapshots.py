"""States that are copied while training goes on: on the CPU the same code, one step late."""

import threading
import time

import numpy as np
import pytest
import torch
from walks import advance, buffers, loss_at, network, row

from losspath import Recorder, Sketch, Trajectory
from losspath.errors import ArgumentError, LosspathWarning, StoreError
from losspath.recording import session, snapshots
from losspath.recording.snapshots import Snapshot


@pytest.fixture(autouse=True)
def _late():
    snapshots.DEVICES.add("cpu")
    yield
    snapshots.DEVICES.discard("cpu")


@pytest.fixture
def captured(monkeypatch):
    """The steps that snapshots were made of."""
    steps, capture = [], Snapshot.capture

    def noted(self, row, step, *rest):
        steps.append(step)
        return capture(self, row, step, *rest)

    monkeypatch.setattr(Snapshot, "capture", noted)
    return steps


def test_a_step_is_taken_over_by_the_next_or_a_moment_later(tmp_path, captured):
    model = network()
    with Recorder(tmp_path / "run", model, every=3) as recorder:
        states, sides = [row(model)], [buffers(model)]
        for step in range(20):
            advance(model, step)
            loss = torch.tensor(loss_at(step), dtype=torch.float64)
            recorder.record(loss, lr=0.1 * step, norm=torch.tensor(1.0 + step))
            loss += 5.0  # what is recorded is what it was
            states.append(row(model))
            sides.append(buffers(model))
            assert recorder.steps == step + 1
        with torch.no_grad():
            model[0].weight.add_(1.0)  # so is the state: nothing stores this one
        recorder.flush()
        path = Trajectory(tmp_path / "run")
        assert path.loss_steps[-1] == 20
        with torch.no_grad():
            model[0].weight.sub_(1.0)
            model[0].weight.copy_(torch.from_numpy(states[-1][:6]).view(3, 2))
    assert captured == list(range(1, 21))
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == [*range(0, 19, 3), 20]
    for place, step in enumerate(path.steps.tolist()):
        np.testing.assert_array_equal(path[place], states[step])
        for name, tensor in path.sides(place).items():
            assert torch.equal(tensor, sides[step][name]), (step, name)
    np.testing.assert_array_equal(path.all_losses, [loss_at(step) for step in range(20)])
    np.testing.assert_array_equal(path.values["lr"][1], 0.1 * np.arange(20))
    np.testing.assert_array_equal(path.values["norm"][1], 1.0 + np.arange(20))
    assert path.unchanged_steps == 0


def test_without_a_next_step_it_is_durable_in_two_seconds(tmp_path):
    model = network()
    recorder = Recorder(tmp_path / "run", model)
    recorder.flush()
    advance(model, 0)
    recorder.record(1.5)
    begin = time.monotonic()
    while not Trajectory(tmp_path / "run").all_losses.tolist() and time.monotonic() - begin < 30:
        time.sleep(0.05)
    path = Trajectory(tmp_path / "run")
    np.testing.assert_array_equal(path[1], row(model))
    advance(model, 1)
    recorder.record(2.5)
    recorder.close()
    assert Trajectory(tmp_path / "run").all_losses.tolist() == [1.5, 2.5]
    deadline = time.monotonic() + 30
    while any(each.name == "losspath-late" for each in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_refused_leaves_the_step_before_it(tmp_path):
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        advance(model, 0)
        recorder.record(1.0, step=5)
        for loss, step in ((1.0, 5), (1.0, 4), (torch.ones(2), 6), ("much", 6)):
            with pytest.raises(ArgumentError):
                recorder.record(loss, step=step)
        assert recorder.steps == 5
    assert Trajectory(tmp_path / "run").steps.tolist() == [0, 5]


def test_a_device_that_fails_costs_the_steps_from_there_on(tmp_path, monkeypatch):
    model = network()
    recorder = Recorder(tmp_path / "run", model)
    for step in range(3):
        advance(model, step)
        recorder.record(float(step))

    def failed(self):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Snapshot, "wait", failed)
    with pytest.raises(RuntimeError, match="device-side assert"):
        recorder.record(3.0)
    with pytest.raises(StoreError, match=r"RuntimeError .* device-side assert"):
        recorder.close()
    with pytest.raises(StoreError, match=r"RuntimeError .* device-side assert"):
        recorder.close()  # what was there before is closed all the same
    path = Trajectory(tmp_path / "run")
    assert path.closed
    assert path.steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "options", [{"dtype": "bfloat16"}, {"dtype": "float64"}, {"sketch": Sketch(1)}]
)
def test_rows_of_every_form(tmp_path, captured, options):
    model = torch.nn.Linear(20, 3)
    with Recorder(tmp_path / "run", model, **options) as recorder:
        states = [row(model)]
        for step in range(4):
            advance(model, step)
            recorder.record(0.0)
            states.append(row(model))
    states = np.array(states, np.float64)
    path = Trajectory(tmp_path / "run")
    wanted = states
    if "sketch" in options:
        wanted = Sketch(1).project(states)
    elif options["dtype"] == "bfloat16":
        wanted = torch.from_numpy(states).float().bfloat16().float().numpy()
    np.testing.assert_allclose(path[:], wanted, rtol=1e-12)
    assert captured == [1, 2, 3, 4]


def test_large_side_tensors_and_many_values_are_copied_at_once(tmp_path, captured):
    model = network()
    model.register_buffer("large", torch.zeros(300_000))
    with Recorder(tmp_path / "large", model) as recorder:
        recorder.record(1.0)
    assert captured == []
    model = network()
    with Recorder(tmp_path / "many", model) as recorder:
        recorder.record(1.0, **{f"v{n}": torch.tensor(float(n)) for n in range(80)})
        recorder.record(torch.tensor(2.0), **{f"v{n}": float(n) for n in range(80)})
    assert captured == [2]
    path = Trajectory(tmp_path / "many")
    assert path.all_losses.tolist() == [1.0, 2.0]
    assert path.values["v79"][1].tolist() == [79.0, 79.0]


def test_tensors_that_are_others_at_every_step_are_copied_at_once_in_the_end(tmp_path, captured):
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        for step in range(20):
            for parameter in model.parameters():
                parameter.data = parameter.data + 1.0
            recorder.record(float(step))
    assert 0 < len(captured) < 10
    path = Trajectory(tmp_path / "run")
    np.testing.assert_allclose(path[:] - path[0], np.arange(21)[:, None] * np.ones(23), rtol=1e-5)


def test_thawing_a_frozen_parameter_is_told_once_and_its_numbers_are_recorded(tmp_path):
    """A step later than otherwise."""
    model = network()
    model[0].requires_grad_(False)
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.record(1.0)
        model[0].requires_grad_(True)
        with torch.no_grad():
            model[0].weight.add_(1.0)
        recorder.record(1.0)
        with pytest.warns(LosspathWarning, match="require one now"):
            recorder.record(1.0)
        recorder.record(1.0)
    sides = Trajectory(tmp_path / "run").sides(2)
    assert torch.equal(sides["0.weight"], model[0].weight)


def test_a_schedule_that_asks_for_the_loss_has_it_at_once(tmp_path, captured):
    asked = []
    with Recorder(
        tmp_path / "run", network(), schedule=lambda step, loss: asked.append((step, loss)) or True
    ) as recorder:
        recorder.record(torch.tensor(2.5))
        assert asked == [(1, 2.5)]
    assert captured == []


def test_a_late_thread_and_the_next_step_do_not_both_take_it_over(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(snapshots, "LATE_SECONDS", 0.0)
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        for step in range(400):
            advance(model, step)
            recorder.record(float(step))
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == list(range(401))
    assert path.all_losses.tolist() == list(map(float, range(400)))
