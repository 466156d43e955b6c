"""Models that change while they are recorded: followed where the network stays the same."""

import numpy as np
import pytest
import torch
from walks import (
    advance,
    assert_prefix,
    buffers,
    loss_at,
    network,
    row,
    stored_rows,
    truth,
    walk,
)

from losspath import Recorder, Trajectory
from losspath.errors import ModelError


def test_a_parameter_replaced_by_one_of_the_same_shape_is_followed(tmp_path):
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        walk(recorder, model, 2)
        model[0].weight = torch.nn.Parameter(torch.full((3, 2), 5.0))
        recorder.record(0.0)
        expected, sides = [row(model)], [buffers(model)]
        model[1].running_mean = torch.full((3,), 6.0)
        recorder.record(0.0)
        expected.append(row(model))
        sides.append(buffers(model))
        model[2] = torch.nn.Linear(3, 2)
        recorder.record(0.0)
        expected.append(row(model))
        sides.append(buffers(model))
        model[1].running_var.data = torch.full((3,), 7.0)
        recorder.record(0.0)
        expected.append(row(model))
        sides.append(buffers(model))
    np.testing.assert_array_equal(stored_rows(tmp_path / "run")[3:], expected)
    path = Trajectory(tmp_path / "run")
    for index, there in enumerate(sides, 3):
        found = path.sides(index)
        assert found.keys() == there.keys()
        assert all(torch.equal(found[name], value) for name, value in there.items())


def another_layer(model):
    model[2] = torch.nn.Linear(3, 4)


def one_layer_more(model):
    model.append(torch.nn.Linear(2, 2))


def one_layer_less(model):
    del model[2]


def one_parameter_more(model):
    model[0].extra = torch.nn.Parameter(torch.zeros(2))


def no_bias(model):
    model[0].bias = None


def newly_tied(model):
    model[1].bias = model[1].weight


def pruned_data(model):
    model[0].weight.data = torch.zeros(2, 2)


def larger_data(model):
    model[2].bias.data = torch.zeros(5)


def same_size_other_shape(model):
    model[0].weight.data = torch.zeros(2, 3)


def doubled(model):
    model.double()


CHANGES = [
    another_layer,
    one_layer_more,
    one_layer_less,
    one_parameter_more,
    no_bias,
    newly_tied,
    pruned_data,
    larger_data,
    same_size_other_shape,
    doubled,
]


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.filterwarnings("ignore::losspath.LosspathWarning")
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_is_refused_and_what_was_recorded_stays(tmp_path, change, every):
    model = network()
    with Recorder(tmp_path / "run", model, every=every) as recorder:
        walk(recorder, model, 6)
        change(model)
        with pytest.raises(ModelError, match="changed"):
            recorder.record(loss_at(6))
    path = assert_prefix(tmp_path / "run", truth(6), every=every)
    assert path.steps[-1] == 6
    assert len(path.all_losses) == 6
    assert path.tail_bytes == 0


@pytest.mark.parametrize("every", [1, 2, 4])
def test_recording_goes_on_when_the_network_is_what_it_was(tmp_path, every):
    model = network()
    layer = model[2]
    with Recorder(tmp_path / "run", model, every=every) as recorder:
        walk(recorder, model, 3)
        model[2] = torch.nn.Linear(5, 5)
        with pytest.raises(ModelError, match="changed"):
            recorder.record(loss_at(3))
        assert recorder.steps == 3
        model[2] = layer
        walk(recorder, model, 6)
    path = assert_prefix(tmp_path / "run", truth(6), every=every)
    assert path.steps[-1] == 6


def test_a_model_that_moves_between_half_and_single_precision_is_told_apart(tmp_path):
    # The layout says what dtype a state had; a state of another would be read back as another.
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        walk(recorder, model, 2)
        model.half()
        with pytest.raises(ModelError, match="changed"):
            recorder.record(0.0)
    assert_prefix(tmp_path / "run", truth(2))


def test_freezing_and_evaluation_mode_change_nothing(tmp_path):
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        walk(recorder, model, 2)
        model.eval().requires_grad_(False)
        advance(model, 2)
        recorder.record(loss_at(2))
    assert_prefix(tmp_path / "run", truth(3), count=4)
    assert len(Trajectory(tmp_path / "run")) == 4


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_model_with_a_scripted_part_is_recorded(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.jit.script(torch.nn.Linear(3, 2)))
    expected = []
    with Recorder(tmp_path / "run", model) as recorder:
        for step in range(3):
            expected.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy())
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.5
            recorder.record(float(step))
    np.testing.assert_array_equal(Trajectory(tmp_path / "run")[:3], np.stack(expected))
