"""What modules hold beside parameters and buffers: noted where it changes, and told."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from losspath import Recorder, Trajectory
from losspath.recording.settings import SettingsReader, changed


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


class Options:
    def __init__(self, **values):
        vars(self).update(values)


class Everything(nn.Module):
    """A model that holds what it is set to in all kinds of places."""

    def __init__(self):
        super().__init__()
        self.layer, self.soft, self.drop = nn.Linear(3, 2), nn.Softplus(1.0), nn.Dropout(0.5)
        self.leaky, self.clip = nn.LeakyReLU(0.1), nn.Hardtanh(-1, 1)
        self.options = Options(temperature=2.0, inner=Options(hard=False), name="a", _seen=0)
        self.given = SimpleNamespace(share=0.25)
        self.table, self.stages = {"rate": 1.0, "deep": {"rate": 3}}, [1.0, 2.0]
        self.mean = torch.zeros(3)
        self.large = torch.zeros(100, 100)
        self.held = {"mean": torch.zeros(2)}

    def forward(self, x):
        return self.drop(self.leaky(self.soft(self.layer(x))))


CHANGES = {
    "soft.beta": lambda m: setattr(m.soft, "beta", 2.0),
    "drop.p": lambda m: setattr(m.drop, "p", 0.1),
    "leaky.negative_slope": lambda m: setattr(m.leaky, "negative_slope", 0.2),
    "clip.max_val": lambda m: setattr(m.clip, "max_val", 3),
    "options.temperature": lambda m: setattr(m.options, "temperature", 1.0),
    "options.inner.hard": lambda m: setattr(m.options.inner, "hard", True),
    "given.share": lambda m: setattr(m.given, "share", 0.5),
    "table.rate": lambda m: m.table.update(rate=2.0),
    "table.deep.rate": lambda m: m.table["deep"].update(rate=4),
    "stages.1": lambda m: m.stages.__setitem__(1, 3.0),
    "mean": lambda m: setattr(m, "mean", m.mean + 1),
    "mean in place": lambda m: m.mean.add_(1.0),
    "mean of as much": lambda m: m.mean.copy_(torch.tensor([1.0, 0.0, -1.0])),
    "large": lambda m: m.large.add_(1.0),
    "held.mean": lambda m: m.held["mean"].fill_(2.0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_is_told_and_nothing_else(tmp_path, what):
    model, name = Everything(), what.partition(" ")[0]
    with Recorder(tmp_path / "run", model) as recorder:
        step(recorder, model)
        CHANGES[what](model)
        for _ in range(3):
            step(recorder, model)
    path = Trajectory(tmp_path / "run")
    assert list(path.settings) == [name]
    steps, values = path.settings[name]
    assert steps.tolist() == [2, 2]  # what it was, and what it is
    assert values[0] != values[1]
    assert [note.partition(" ")[0] for note in path.notes] == [name]


def test_a_number_that_goes_on_changing_is_told_each_time(tmp_path):
    model = Everything()
    with Recorder(tmp_path / "run", model) as recorder:
        for number in range(4):
            model.soft.beta = 1.0 + number
            model.mean = model.mean + 1
            step(recorder, model)
    settings = Trajectory(tmp_path / "run").settings
    assert [list(each) for each in settings["soft.beta"]] == [[2, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]]
    assert [list(each) for each in settings["mean"]] == [[1, 1], [0.0, 1.0]]  # once


def test_an_object_of_settings_that_is_replaced_is_told(tmp_path):
    model = Everything()
    with Recorder(tmp_path / "run", model) as recorder:
        model.options = Options(temperature=1.0)
        for _ in range(4):
            step(recorder, model)
    assert list(Trajectory(tmp_path / "run").settings) == ["options.temperature"]


def test_a_change_is_told_though_the_record_that_saw_it_was_interrupted():
    model = Everything()
    reader = SettingsReader(model)
    before = reader.read(())
    model.soft.beta = 2.0
    assert reader.read(before) == ((".soft.beta", 1.0), (".soft.beta", 2.0))
    again = reader.read(before)  # nothing of the last one was kept
    assert changed(before, again) == ((".soft.beta", 1.0), (".soft.beta", 2.0))
    assert changed(again, reader.read(again)) == ()


def test_caches_views_and_equal_tensors_are_not_told(tmp_path):
    model = Everything()
    model.view, model.last, model.count = model.layer.weight.detach()[0], None, {"calls": 0}
    with Recorder(tmp_path / "run", model) as recorder:
        for _ in range(9):
            model.last = model.layer(torch.ones(1, 3))  # with its history
            model.mean, model.large = model.mean.clone(), model.large.clone()
            model.count["calls"] += 1
            step(recorder, model)
    path = Trajectory(tmp_path / "run")
    assert path.notes == []
    assert "count.calls" in path.settings  # until it was given up


class Unwilling:
    """Neither can be looked into nor be compared."""

    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __eq__(self, other):
        raise RuntimeError


def test_what_cannot_be_looked_into_never_ends_training(tmp_path):
    model = Everything()
    model.loop = {"self": model.table, "numbers": np.ones(3), 3: 1.0, (1, 2): 2.0}
    model.loop["loop"] = model.loop
    model.huge = 10**400
    with Recorder(tmp_path / "run", model) as recorder:
        step(recorder, model)
        vars(model)["unwilling"] = vars(model.options)["unwilling"] = Unwilling()
        model.options.temperature, model.given.share = torch.ones(3), np.ones(3)
        vars(model)["mean"] = model.table["rate"] = Unwilling()
        model.later = 1.0
        for _ in range(4):
            step(recorder, model)
        del model.options, model.mean, model.table["rate"], model.stages[1]
        for _ in range(4):
            step(recorder, model)
    path = Trajectory(tmp_path / "run")
    assert len(path) == 10
    assert list(path.settings) == ["later"]


def test_reading_costs_next_to_nothing():
    reader, before = SettingsReader(nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), Model())), ()
    before = reader.read(before)
    begin = time.perf_counter()
    for _ in range(5000):
        assert reader.read(before) is before
    assert (time.perf_counter() - begin) / 5000 < 2e-5  # of 1 µs on a machine of 2026
