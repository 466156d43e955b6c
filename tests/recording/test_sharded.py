"""Models of which each process has a part: what is recorded of them, and that nobody waits in vain.

What two processes do is in `sharded.py`, and is done once for all tests.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sharded
import torch
import torch.distributed as dist

from losspath import Objective, Recorder, Sketch, Trajectory, import_checkpoints
from losspath.errors import ModelError
from losspath.parameters import sharded as parts
from losspath.recording.repair import repair_trajectory
from losspath.recording.trainers import Settings

NAMES = ["scale", "first.weight", "first.bias", "norm.weight", "norm.bias", "second.weight"]
WITHOUT_NORM = [name for name in NAMES if not name.startswith("norm")]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Where every scenario left its runs, and what came of it in both processes."""
    base = tmp_path_factory.mktemp("sharded")
    program = str(Path(__file__).with_name("sharded.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, program, str(rank), str(base)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (1, 0)
    ]
    try:
        said = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return base


def found(ran, name):
    """What came of a scenario, alike in both processes."""
    both = [json.loads((ran / name / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    for each in both:
        assert "failed" not in each, each["failed"]
    assert both[0] == both[1]
    return both[0]


def check_states(path, states, steps=None):
    """A path has the states that training had at its steps, bit for bit."""
    if steps is not None:
        assert path.steps.tolist() == steps
    np.testing.assert_array_equal(path[:], np.array(states, np.float32)[path.steps])
    assert path.closed


@pytest.mark.slow
def test_every_state_is_what_training_had(ran):
    result = found(ran, "every_step")
    path = Trajectory(ran / "every_step" / "run")
    check_states(path, result["states"], [0, 1, 2, 3, 4])
    assert (result["steps"], result["unchanged"]) == (4, 0)
    assert [entry.name for entry in path.layout.parameters] == NAMES
    assert path.side_kinds["last.weight"] == "frozen"
    assert path.values["lr"][1].tolist() == [0.1] * 4
    assert path.settings["warmth"][1].tolist() == [0.5, 0.25, 0.125, 0.0625]
    plain = sharded.network()
    frozen = plain.last.weight.detach().clone()
    with torch.no_grad():
        plain.last.weight.zero_()
    path.load_into(plain, -1, buffers=True)
    assert torch.equal(plain.last.weight, frozen)
    assert plain.norm.num_batches_tracked == 4
    # Stored once.
    assert (ran / "every_step" / "run" / "sides.bin").read_bytes().count(frozen.numpy()) == 1


@pytest.mark.slow
def test_a_schedule_gathers_at_its_steps_and_at_the_end(ran):
    result = found(ran, "every_third_step")
    assert result["kinds"] == [["DTensor", "Tensor"]] * 2  # whole ones, of an evaluation
    path = Trajectory(ran / "every_third_step" / "run")
    check_states(path, result["states"], [0, 3, 6, 7])
    assert [entry.name for entry in path.layout.parameters] == WITHOUT_NORM


@pytest.mark.slow
def test_conditions_are_those_of_the_first_process(ran):
    result = found(ran, "schedules")
    check_states(Trajectory(ran / "schedules" / "condition"), result["condition"], [0, 2, 5, 6])
    check_states(Trajectory(ran / "schedules" / "pairs"), result["pairs"], [0, 1, 4, 5, 6])


@pytest.mark.slow
def test_rows_of_every_form(ran):
    result = found(ran, "forms")
    for name in ("all", "part", "pieces", "bfloat16"):
        path = Trajectory(ran / "forms" / name)
        whole = np.array(result[name], np.float32)
        if name == "bfloat16":
            whole = torch.from_numpy(whole).bfloat16().float().numpy()
        if name == "part":
            whole = whole[:, 1:36]
        own = path[:][:, : whole.shape[1]]
        np.testing.assert_array_equal(own, whole[path.steps])
        assert path.closed
    assert Trajectory(ran / "forms" / "pieces").steps.tolist() == [0, 2, 3]
    assert Trajectory(ran / "forms" / "all").parameter_count == 71 + 18
    sketches = Trajectory(ran / "forms" / "sketch")
    expected = Sketch(3).project(result["sketch"])
    np.testing.assert_array_equal(sketches[:], expected)


@pytest.mark.slow
def test_the_newest_state_is_kept_by_the_clock(ran):
    result = found(ran, "by_the_clock")
    check_states(Trajectory(ran / "by_the_clock" / "run"), result["states"], [0, 3])


@pytest.mark.slow
def test_flush_keeps_the_newest_state(ran):
    result = found(ran, "flushed")
    assert result["flushed"] == [0, 3]
    check_states(Trajectory(ran / "flushed" / "run"), result["states"], [0, 4])


@pytest.mark.slow
def test_recording_goes_on_from_the_same_state_alone(ran):
    result = found(ran, "resumed")
    assert result["exists"].startswith("ExistsError")
    assert result["step"] == 3
    assert result["other"].startswith("ModelError: the model is not in the state")
    assert result["load"].startswith("ModelError: scale of the model is sharded")
    check_states(Trajectory(ran / "resumed" / "run"), result["states"], [0, 2, 4, 6, 8])


@pytest.mark.slow
def test_two_recorders(ran):
    result = found(ran, "two_recorders")
    check_states(Trajectory(ran / "two_recorders" / "states"), result["states"], [0, 2, 3])
    sketches = Trajectory(ran / "two_recorders" / "sketches")
    np.testing.assert_array_equal(sketches[:], Sketch(3).project(result["states"]))


@pytest.mark.slow
def test_all_refuse_what_one_was_given_wrong_and_go_on(ran):
    result = found(ran, "arguments")
    for said, expected in zip(
        result["told"],
        [
            "ArgumentError: expected the loss as a float or a tensor of one number, got None",
            "ArgumentError: expected the loss as a float or a tensor of one number, got 'much'",
            "ArgumentError: expected a step after the last one, 1, got 1",
            "StoreError: expected the same step from all processes, got 7 from rank 0 and 8 from",
            "StoreError: expected the same step from all processes, got 2 from rank 0 and none",
            "StoreError: expected the same call from all processes, got record() from rank 0",
            "StoreError: the recorder is closed",
        ],
        strict=True,
    ):
        assert said.startswith(expected)
    check_states(Trajectory(ran / "arguments" / "run"), result["states"], [0, 1, 2])


@pytest.mark.slow
def test_all_refuse_a_model_that_changed_in_one(ran):
    result = found(ran, "changed_models")
    assert result["told"][0].startswith("ModelError: the model has changed: parameter first.bias")
    assert result["told"][1].startswith("StoreError: expected parts of the same parameters")
    assert Trajectory(ran / "changed_models" / "run").steps.tolist() == [0, 1]


@pytest.mark.slow
def test_all_are_told_of_a_full_disk(ran):
    result = found(ran, "a_full_disk")
    assert len(result["told"]) == 4
    assert all("No space left on device" in said for said in result["told"])
    check_states(Trajectory(ran / "a_full_disk" / "run"), result["states"], [0, 1, 2, 3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "other"),
    [
        ("interrupts", "interrupted", "the process of rank 0 raised KeyboardInterrupt: "),
        (
            "a_raising_condition",
            "ValueError: no such step",
            "StoreError: the process of rank 0 raised ValueError: no such step",
        ),
    ],
)
def test_all_are_told_what_the_first_raised(ran, name, first, other):
    both = [json.loads((ran / name / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    assert [each.get("told", each) for each in both] == [first, other]
    path = Trajectory(ran / name / "run")
    steps = [0, 1, 2] if name == "interrupts" else [0, 1, 3]
    check_states(path, both[0]["states"], steps)


@pytest.mark.slow
def test_after_an_error_of_the_loop_nothing_is_gathered(ran):
    for rank in (0, 1):
        result = json.loads((ran / "errors_of_the_loop" / f"found-{rank}.json").read_text())
        assert list(result) == ["states"], result.get("failed")
    path = Trajectory(ran / "errors_of_the_loop" / "run")
    check_states(path, result["states"], [0])
    assert len(path.all_losses) == 3


@pytest.mark.slow
def test_a_recorder_that_nobody_has_any_more_gathers_nothing(ran):
    result = found(ran, "forgotten")
    check_states(Trajectory(ran / "forgotten" / "run"), result["states"], [0])


@pytest.mark.slow
def test_waiting_for_a_process_that_does_not_come_has_an_end(ran):
    name = "one_that_does_not_come"
    both = [json.loads((ran / name / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    assert all("lost each other" in said for said in both[0]["told"])
    assert both[1]["told"][0] is None
    assert "lost each other" in both[1]["told"][1]
    check_states(Trajectory(ran / name / "run"), both[0]["states"], [0, 1])


@pytest.mark.slow
def test_a_state_that_was_changed_later_is_not_the_last_ones(ran):
    both = [json.loads((ran / "late_changes" / f"found-{r}.json").read_text()) for r in (0, 1)]
    assert "was not stored, as the model was changed" in both[0]["warned"][0]
    assert both[1]["warned"] == []
    check_states(Trajectory(ran / "late_changes" / "run"), both[0]["states"], [0])


@pytest.mark.slow
def test_frozen_parameters_that_change_in_another_process(ran):
    result = found(ran, "frozen_ones_that_change")
    path = Trajectory(ran / "frozen_ones_that_change" / "run")
    for index, number in ((0, 0), (2, 0), (3, 1)):
        weight = path.sides(index)["last.weight"]
        assert weight.tolist() == result["frozen"][number]


@pytest.mark.slow
def test_it_is_what_checkpoints_of_the_same_steps_hold(ran, tmp_path):
    result = found(ran, "checkpoints")
    recorded = Trajectory(ran / "checkpoints" / "run")
    check_states(recorded, result["states"], [0, 1, 2])
    read = import_checkpoints(ran / "checkpoints" / "step_*", tmp_path / "run")
    places = {entry.name: entry.place for entry in read.layout.parameters}
    for entry in recorded.layout.parameters:
        np.testing.assert_array_equal(read[:][:, places[entry.name]], recorded[:][:, entry.place])


@pytest.mark.slow
def test_tensor_parallel_models(ran):
    result = found(ran, "tensor_parallel")
    check_states(Trajectory(ran / "tensor_parallel" / "run"), result["states"], [0, 1, 2])
    found(ran, "sums")
    summed = Trajectory(ran / "sums" / "run")
    assert summed[-1].tolist() == [3.0, 3.0, 3.0, 1.0, 1.0]
    assert summed.all_losses.tolist() == [3.0]


@pytest.mark.slow
def test_a_process_that_ends_is_missed_at_once(ran):
    name = "zz_a_process_that_ends"
    result = json.loads((ran / name / "found-0.json").read_text())
    assert all("lost each other" in said for said in result["told"])
    assert result["closed"]
    check_states(Trajectory(ran / name / "run"), result["states"], [0, 1, 2])


@pytest.mark.slow
def test_damage_is_repaired(ran, tmp_path):
    """A state between others, and then the newest, of whose step no digest was known at first."""
    states = found(ran, "every_third_step")["states"]
    run = shutil.copytree(ran / "every_third_step" / "run", tmp_path / "run")
    with (run / "states.bin").open("r+b") as file:
        file.seek(Trajectory(run).parameter_count * 4)
        file.write(b"damaged")
    assert "step 3" in " ".join(repair_trajectory(run))
    check_states(Trajectory(run), states, [0, 6, 7])
    (run / "newest.bin").unlink()
    repair_trajectory(run)
    check_states(Trajectory(run), states, [0, 6])


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A process group of this process alone."""
    method = f"file://{tmp_path}/rendezvous"
    dist.init_process_group("gloo", init_method=method, rank=0, world_size=1)
    monkeypatch.setattr(sharded, "COUNT", 1)
    yield
    dist.destroy_process_group()


def test_one_process_records_as_if_nothing_were_sharded(alone, tmp_path):
    plain = sharded.network()
    optimizer = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], 0.1, 0.5)
    training = sharded.Training()
    with (
        Recorder(tmp_path / "run", training.model, every=2) as recorder,
        Recorder(tmp_path / "plain", plain, every=2) as other,
    ):
        for _ in range(3):
            loss = plain(training.inputs).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            other.record(loss)
            recorder.record(training.step())
            plain.warmth *= 0.5
            training.model.warmth *= 0.5
    path, expected = Trajectory(tmp_path / "run"), Trajectory(tmp_path / "plain")
    check_states(path, training.states, [0, 2, 3])
    np.testing.assert_array_equal(path[:], expected[:])
    np.testing.assert_array_equal(path.all_losses, expected.all_losses)
    assert path.layout == expected.layout
    assert path.notes == expected.notes
    settings = [
        {name: [each.tolist() for each in told] for name, told in run.settings.items()}
        for run in (path, expected)
    ]
    assert settings[0] == settings[1]
    assert list(settings[0]) == ["warmth"]
    for index in range(3):
        assert path.side_key(index) == expected.side_key(index)


def test_elsewhere_sharded_models_are_refused(alone, tmp_path):
    model = sharded.shard(sharded.network())
    inputs, targets = torch.randn(4, 6), torch.randn(4, 3)
    with pytest.raises(ModelError, match=r"is a DTensor, of which.*evaluate with the plain model"):
        Objective(model, inputs, targets, torch.nn.functional.mse_loss)
    with pytest.raises(ModelError, match=r"is a DTensor, of which.*loop of your own"):
        Settings(tmp_path / "run").check(model)  # as callbacks of training libraries do


def test_parts_that_are_kept_on_the_cpu_are_moved_to_where_they_are_gathered():
    """As with FSDP2's CPUOffloadPolicy, which this machine need not have a GPU for."""

    class Offloaded:
        device = torch.device("cpu")
        device_mesh = type("Mesh", (), {"device_type": "cuda"})
        moved = None

        def to(self, place):
            self.moved = place
            self.device = torch.device(place)
            return self

        def to_local(self):
            raise AssertionError

        def full_tensor(self):
            assert self.device.type == "cuda"
            return torch.ones(2)

    tensor = Offloaded()
    assert parts.whole(tensor).tolist() == [1.0, 1.0]
    assert tensor.moved == "cuda"
