"""Which states a recorder keeps."""

import numpy as np
import pytest
import torch

import losspath
from losspath import LogSpaced, Pairs, Recorder, Trajectory, step_sizes
from losspath.errors import ArgumentError, StoreError


def train(directory, count, schedule, model=None, begin=0, **options):
    """Records steps at each of which the weight grows by the number of the step."""
    model = model or torch.nn.Linear(1, 1)
    if not begin:
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
    with Recorder(directory, model, schedule=schedule, **options) as recorder:
        for step in range(begin + 1, begin + count + 1):
            with torch.no_grad():
                model.weight += step
            recorder.record(1.0 / step)
    return Trajectory(directory), model


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (LogSpaced(5), [0, 1, 2, 3, 4, 7, 10, 16, 26, 40, 50]),
        (Pairs(20), [0, 1, 20, 21, 40, 41, 50]),
        (lambda step, loss: loss > 0.2 or step == 30, [0, 1, 2, 3, 4, 30, 50]),
        (lambda step, loss: False, [0, 50]),
    ],
    ids=["log-spaced", "pairs", "condition", "none"],
)
def test_states_are_those_of_the_schedule_and_the_newest(tmp_path, schedule, expected):
    path, _ = train(tmp_path / "run", 50, schedule)
    assert path.steps.tolist() == expected
    assert [row[0] for row in path[:]] == [step * (step + 1) / 2 for step in expected]
    assert path.loss_steps.tolist() == [*range(1, 51)]
    assert path.losses.tolist() == [1 / (step + 1) for step in expected[:-1]]


@pytest.mark.parametrize("stop", [1, 7, 20, 21, 33])
@pytest.mark.parametrize("schedule", [LogSpaced(5), Pairs(20)])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, schedule, stop):
    whole, _ = train(tmp_path / "whole", 50, schedule)
    _, model = train(tmp_path / "run", stop, schedule)
    path, _ = train(tmp_path / "run", 50 - stop, schedule, model, stop, existing="resume")
    assert path.steps.tolist() == whole.steps.tolist()
    assert path.digest == whole.digest


def test_a_run_keeps_its_schedule(tmp_path):
    path, model = train(tmp_path / "run", 5, Pairs(20))
    assert path.schedule == {"name": "pairs", "every": 20}
    assert path.every == 1
    for other in (Pairs(30), LogSpaced(), None, lambda step, loss: True):
        with pytest.raises(StoreError, match="schedule was"):
            Recorder(tmp_path / "run", model, schedule=other, existing="resume")


def test_what_a_condition_raises_records_nothing(tmp_path):
    def condition(step, loss):
        if step == 2:
            raise ZeroDivisionError
        return True

    model = torch.nn.Linear(1, 1)
    with Recorder(tmp_path / "run", model, schedule=condition) as recorder:
        recorder.record(1.0)
        with pytest.raises(ZeroDivisionError):
            recorder.record(2.0)
        recorder.record(3.0, step=3)
    path = Trajectory(tmp_path / "run")
    assert (path.steps.tolist(), path.all_losses.tolist()) == ([0, 1, 3], [1.0, 3.0])


def test_step_sizes_of_pairs_are_those_of_single_steps(tmp_path):
    path, _ = train(tmp_path / "run", 41, Pairs(20))
    found = step_sizes(path)
    assert found.sizes[[0, 2, 4]].tolist() == [1.0, 21.0, 41.0]
    assert np.isnan(found.sizes[[1, 3]]).all()
    assert found.holes == (1, 3)
    assert found.provenance["between_pairs"] == 2
    figure = losspath.plot_step_sizes(found)
    texts = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
    assert "those of pairs of states in a row" in texts
    assert "were lost" not in texts
    assert figure.axes[0].get_ylabel().startswith("size of a step")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"schedule": "log"}, "schedule as LogSpaced"),
        ({"schedule": 3}, "schedule as LogSpaced"),
        ({"schedule": Pairs(), "every": 2}, "every or schedule"),
    ],
)
def test_what_is_no_schedule(tmp_path, options, says):
    with pytest.raises(ArgumentError, match=says):
        Recorder(tmp_path / "run", torch.nn.Linear(1, 1), **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("make", [lambda: Pairs(2), lambda: LogSpaced(0), lambda: Pairs("a")])
def test_options_of_schedules_are_checked(make):
    with pytest.raises(ArgumentError, match="whole number"):
        make()


def test_pairs_need_every_step(tmp_path):
    with Recorder(tmp_path / "run", torch.nn.Linear(1, 1), schedule=Pairs(20)) as recorder:
        recorder.record(1.0)
        with pytest.raises(ArgumentError, match=r"steps one by one, .* got step 4 after 1"):
            recorder.record(1.0, step=4)
        recorder.record(1.0, step=2)
    assert Trajectory(tmp_path / "run").loss_steps.tolist() == [1, 2]
