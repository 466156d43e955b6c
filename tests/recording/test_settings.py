"""Numbers that modules hold as plain attributes: noted where they change, and told."""

import pytest
import torch
from torch import nn

from losspath import Recorder, Trajectory


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature, self.hard, self.stage = 2.0, False, 1

    def forward(self, x):
        return x / self.temperature


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.gate, self.drop = nn.Linear(3, 2), Gate(), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.gate(self.layer(x)))


def step(recorder, model, **values):
    model(torch.ones(1, 3))
    with torch.no_grad():
        model.layer.weight.add_(0.5)
    recorder.record(1.0, **values)


@pytest.mark.parametrize("every", [1, 3])
def test_a_temperature_that_is_annealed_is_told(tmp_path, every):
    model = Model()
    with Recorder(tmp_path / "run", model, every=every) as recorder:
        for number in range(4):
            model.gate.temperature = 2.0 if number < 2 else 1.0
            step(recorder, model, rate=0.1)
    path = Trajectory(tmp_path / "run")
    assert {name: [list(each) for each in both] for name, both in path.settings.items()} == {
        "gate.temperature": [[0, 3], [2.0, 1.0]],
        "gate.hard": [[0], [0.0]],
        "gate.stage": [[0], [1.0]],
    }
    assert list(path.values) == ["rate"]
    assert path.notes == [
        "gate.temperature (2 … 1) changed while recording and is no part of a state: losses are of "
        "the model's present value"
    ]
    assert path.window(0, 2).settings.keys() == path.settings.keys()


def test_nothing_is_told_of_what_stays(tmp_path):
    model = Model()
    with Recorder(tmp_path / "run", model) as recorder:
        step(recorder, model)
    assert Trajectory(tmp_path / "run").notes == []


def test_a_change_between_two_recordings_is_told(tmp_path):
    model = Model()
    with Recorder(tmp_path / "run", model) as recorder:
        step(recorder, model)
    model.gate.hard = True
    with Recorder(tmp_path / "run", model, existing="resume") as recorder:
        step(recorder, model)
    path = Trajectory(tmp_path / "run")
    assert [list(each) for each in path.settings["gate.hard"]] == [[0, 2], [0.0, 1.0]]
    assert len(path.notes) == 1


def test_what_is_gone_or_no_number_any_more_is_passed_over(tmp_path):
    model = Model()
    with Recorder(tmp_path / "run", model) as recorder:
        step(recorder, model)
        del model.gate.hard
        model.gate.temperature = float("nan")
        step(recorder, model)
        step(recorder, model)
        model.gate.temperature = torch.tensor(3.0)
        model.gate.forward = lambda x: x
        step(recorder, model)
    steps, values = Trajectory(tmp_path / "run").settings["gate.temperature"]
    assert list(steps) == [0, 2]
    assert values[1] != values[1]


def test_a_stage_is_told_and_a_counter_is_not(tmp_path):
    model = Model()
    model.gate.calls = 0
    with Recorder(tmp_path / "run", model) as recorder:
        for number in range(1, 9):
            model.gate.calls += 1
            model.gate.stage = 1 if number < 5 else 2
            step(recorder, model)
    path = Trajectory(tmp_path / "run")
    assert [list(each) for each in path.settings["gate.stage"]] == [[0, 5], [1.0, 2.0]]
    steps, values = path.settings["gate.calls"]
    assert list(steps) == [0, 1, 2, 3, 4]
    assert values[-1] != values[-1]
    assert [note.split(" ")[0] for note in path.notes] == ["gate.stage"]
