"""What is recorded of a training loop: which states, which losses, in which rows."""

import gc
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from walks import (
    PARAMETERS,
    advance,
    assert_prefix,
    assert_same_run,
    loss_at,
    network,
    record,
    row,
    stored_rows,
    truth,
    walk,
)

from losspath import Recorder, Trajectory
from losspath.errors import ArgumentError, ModelError, StoreError
from losspath.recording import recorder as recorder_module
from losspath.recording import session
from losspath.thesis.networks import build_network


def test_the_first_state_is_recorded_at_once(tmp_path):
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.flush()
        path = Trajectory(tmp_path / "run")
        assert (len(path), recorder.steps) == (1, 0)
        np.testing.assert_array_equal(path[0], row(model)[:PARAMETERS])
        assert path.losses.shape == (0,)
    assert len(Trajectory(tmp_path / "run")) == 1


def test_each_loss_is_the_one_whose_gradient_leads_to_the_next_state(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    inputs, targets = torch.randn(8, 3), torch.randn(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(tmp_path / "run", model) as recorder:
        for _ in range(6):
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.record(loss)
    path = Trajectory(tmp_path / "run")
    assert (len(path), len(path.losses)) == (7, 6)
    for t in range(6):
        path.load_into(model, t)
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        assert path.losses[t] == loss.item()
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        step = torch.cat([g.reshape(-1) for g in gradient]).numpy()
        np.testing.assert_allclose(path[t] - 0.1 * step, path[t + 1], rtol=1e-6, atol=1e-7)


def test_a_row_is_the_parameters_and_buffers_are_beside_it(tmp_path):
    model = network()
    record(tmp_path / "run", 3, model)
    np.testing.assert_array_equal(stored_rows(tmp_path / "run"), truth(3))
    path = Trajectory(tmp_path / "run")
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    np.testing.assert_array_equal(path[3], vector)
    table = {entry.name: entry for entry in path.layout.entries}
    assert list(table) == [name for name, _ in model.named_parameters()]
    assert [entry.kind for entry in table.values()] == ["parameter"] * 6
    rows, sides = stored_rows(tmp_path / "run"), path.sides(3)
    for name, tensor in model.state_dict().items():
        if name in table:
            np.testing.assert_array_equal(rows[-1, table[name].place], tensor.flatten())
        else:
            assert torch.equal(sides.pop(name), tensor)
    assert not sides


def test_tied_and_shared_parameters_are_stored_once_and_frozen_ones_beside_the_rows(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.frozen = torch.nn.Linear(2, 2, bias=False).requires_grad_(False)
    model.one = torch.nn.Linear(2, 3, bias=False)
    model.tied = torch.nn.Linear(2, 3, bias=False)
    model.tied.weight = model.one.weight
    model.shared = model.one
    record(tmp_path / "run", 2, model)
    path = Trajectory(tmp_path / "run")
    assert [entry.name for entry in path.layout.entries] == ["one.weight"]
    assert path.parameter_count == 6
    np.testing.assert_array_equal(path[2], model.tied.weight.detach().flatten())
    assert path.side_kinds == {"frozen.weight": "frozen"}
    assert torch.equal(path.sides(2)["frozen.weight"], model.frozen.weight)


def test_all_parameters_can_be_in_the_path(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    record(tmp_path / "run", 2, model, parameters="all")
    path = Trajectory(tmp_path / "run")
    assert [entry.name for entry in path.layout.entries] == [n for n, _ in model.named_parameters()]
    assert path.side_kinds == {}
    np.testing.assert_array_equal(path[2], row(model))
    with pytest.raises(ArgumentError, match="parameters"):
        Recorder(tmp_path / "other", model, parameters="frozen")


def test_a_non_contiguous_parameter_is_stored_in_its_logical_order(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 2, 2).to(memory_format=torch.channels_last)
    assert not model.weight.is_contiguous()
    record(tmp_path / "run", 1, model)
    weight = Trajectory(tmp_path / "run")[1][:24].reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(weight, model.weight.detach().contiguous())


# --------------------------------------------------------------------------------------------------
# every


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [
        (1, 3, [0, 1, 2, 3]),
        (3, 0, [0]),
        (3, 2, [0, 2]),
        (3, 9, [0, 3, 6, 9]),
        (3, 10, [0, 3, 6, 9, 10]),
        (100, 7, [0, 7]),
    ],
)
def test_every_k_keeps_all_losses_and_the_last_state(tmp_path, every, steps, expected):
    record(tmp_path / "run", steps, every=every)
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == expected
    assert path.every == every
    np.testing.assert_array_equal(path[:], truth(steps)[expected])
    ordinary = [step for step in expected if step % every == 0]  # the newest has a place of its own
    np.testing.assert_array_equal(stored_rows(tmp_path / "run"), truth(steps)[ordinary])
    assert path.all_losses.tolist() == [loss_at(t) for t in range(steps)]
    assert path.losses.tolist() == [loss_at(t) for t in expected[:-1]]


def test_the_last_state_is_the_one_recorded_last_also_when_the_model_went_on(tmp_path):
    model = network()
    with Recorder(tmp_path / "run", model, every=4) as recorder:
        walk(recorder, model, 6)
        advance(model, 99)
    assert_prefix(tmp_path / "run", truth(6), count=3, every=4)


@pytest.mark.parametrize("every", [0, -1])
def test_every_below_one_is_refused(tmp_path, every):
    with pytest.raises(ArgumentError, match="every"):
        Recorder(tmp_path / "run", network(), every=every)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------
# Rows larger than a buffer


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("buffer_bytes", [4, 20, 23 * 4 - 4, 23 * 4, 23 * 4 + 4, 23 * 4 * 3])
def test_rows_in_pieces_are_the_rows(tmp_path, monkeypatch, buffer_bytes, every):
    record(tmp_path / "whole", 7, every=every)
    monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", buffer_bytes)
    record(tmp_path / "pieces", 7, every=every)
    assert_same_run(tmp_path / "pieces", tmp_path / "whole")
    assert_prefix(tmp_path / "pieces", truth(7), every=every)


def change_in_place(model):
    advance(model, 99)


def replace_a_parameter(model):
    model[0].weight = torch.nn.Parameter(torch.full((3, 2), 99.0))


def replace_the_data(model):
    model[0].weight.data = torch.full((3, 2), 99.0)


def change_nothing(model):
    pass


@pytest.mark.parametrize(
    ("change", "seconds", "kept"),
    [
        (change_in_place, 1e9, False),
        (replace_a_parameter, 1e9, False),
        (replace_the_data, 1e9, False),
        (change_nothing, 1e9, True),
        (change_in_place, 0.0, True),
    ],
)
@pytest.mark.filterwarnings("ignore:.*was not stored:losspath.LosspathWarning")
def test_a_large_model_that_went_on_is_not_taken_for_its_last_state(
    tmp_path, monkeypatch, change, seconds, kept
):
    # Rows in pieces leave no room for a copy of the last state, so it is kept from time to time.
    monkeypatch.setattr(recorder_module, "_BUFFER_BYTES", 20)
    monkeypatch.setattr(session, "_KEEP_SECONDS", seconds)
    model = network()
    with Recorder(tmp_path / "run", model, every=4) as recorder:
        walk(recorder, model, 6)
        change(model)
    path = assert_prefix(tmp_path / "run", truth(6), every=4)
    assert path.steps.tolist() == ([0, 4, 6] if kept else [0, 4])
    assert len(path.all_losses) == 6


@pytest.mark.slow
def test_buffers_stay_within_64_mebibytes(tmp_path):
    # A row of 20 MiB and then one of 12 MiB: in pieces, and whole with a copy of the last state.
    for count in (5 << 20, 3 << 20):
        model = torch.nn.Module()
        model.weight = torch.nn.Parameter(torch.zeros(count))
        before = live_tensor_bytes()
        with Recorder(tmp_path / str(count), model, every=2) as recorder:
            recorder.record(0.0)
            assert live_tensor_bytes() - before <= 64 << 20


def live_tensor_bytes():
    """Memory that tensors hold, without that of parameters, which is the model's."""
    gc.collect()
    found, models = {}, set()
    for thing in gc.get_objects():
        # Those of other tests may still be found, sparse ones among them, which have no storage.
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.layout is torch.strided:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
            if isinstance(thing, torch.nn.Parameter):
                models.add(storage.data_ptr())
    return sum(size for place, size in found.items() if place not in models)


def test_a_state_takes_little_more_than_its_numbers(tmp_path):
    model = build_network("lenet5", 1, 10)
    steps = 40
    record(tmp_path / "run", steps, model)
    size = sum(file.stat().st_size for file in (tmp_path / "run").iterdir())
    parameters = sum(p.numel() for p in model.parameters())
    assert size / (steps + 1) <= 1.02 * 4 * parameters


# --------------------------------------------------------------------------------------------------
# States as they are


def test_repeated_and_non_finite_states_are_stored_as_they_are(tmp_path):
    model = torch.nn.Linear(2, 1)
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.record(1.0)
        recorder.record(1.0)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[math.nan, math.inf]]))
            model.bias.fill_(-0.0)
        recorder.record(1.0)
    path = Trajectory(tmp_path / "run")
    assert len(path) == 4
    assert path[0].tobytes() == path[1].tobytes() == path[2].tobytes()
    np.testing.assert_array_equal(path[3], [math.nan, math.inf, -0.0])
    assert np.signbit(path[3][2])


def test_what_happens_to_the_model_after_record_is_not_in_the_state(tmp_path):
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        for step in range(5):
            advance(model, step)
            recorder.record(loss_at(step))
            kept = [p.detach().clone() for p in model.parameters()]
            with torch.no_grad():
                for p in model.parameters():
                    p.fill_(7)
                for p, value in zip(model.parameters(), kept, strict=True):
                    p.copy_(value)
    assert_prefix(tmp_path / "run", truth(5), count=6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_widen_exactly(tmp_path, dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(bits.view(dtype))
    model.other = torch.nn.Parameter(torch.ones(3))  # mixed with another dtype
    with Recorder(tmp_path / "run", model):
        pass
    path = Trajectory(tmp_path / "run")
    assert path.dtype == np.float32
    np.testing.assert_array_equal(path[0][:-3], model.weight.detach().double())
    back = torch.nn.Module()
    back.weight = torch.nn.Parameter(torch.zeros(2**16, dtype=dtype))
    back.other = torch.nn.Parameter(torch.zeros(3))
    path.load_into(back, 0)
    assert back.weight.dtype == dtype
    finite = model.weight.isfinite()
    assert torch.equal(back.weight[finite], model.weight[finite])


def test_float64_is_refused_unless_asked_for_and_then_exact(tmp_path):
    model = torch.nn.Linear(3, 2).double()
    with pytest.raises(ModelError, match='dtype="float64"'):
        Recorder(tmp_path / "run", model)
    assert not (tmp_path / "run").exists()
    with Recorder(tmp_path / "run", model, dtype="float64"):
        pass
    path = Trajectory(tmp_path / "run")
    assert path[0].dtype == path.dtype == np.float64
    np.testing.assert_array_equal(path[0][:6], model.weight.detach().flatten())


def test_complex_is_refused_unless_asked_for_and_then_pairs(tmp_path):
    model = torch.nn.Linear(2, 1, dtype=torch.complex64)
    with pytest.raises(ModelError, match="allow_complex=True"):
        Recorder(tmp_path / "run", model)
    with Recorder(tmp_path / "run", model, allow_complex=True):
        pass
    path = Trajectory(tmp_path / "run")
    np.testing.assert_array_equal(path[0].view(np.complex64)[:2], model.weight.detach().flatten())
    other = torch.nn.Linear(2, 1, dtype=torch.complex64)
    path.load_into(other, 0)
    assert torch.equal(other.weight, model.weight)


@pytest.mark.parametrize(
    "model",
    [
        torch.nn.LazyLinear(3),
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LazyLinear(3)),
        torch.nn.ReLU(),
        torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(0))]),
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ParameterList()).double(),
    ],
    ids=["lazy", "partly lazy", "none", "empty", "double"],
)
def test_a_model_that_cannot_be_recorded_is_refused_before_anything_is_made(tmp_path, model):
    with pytest.raises(ModelError):
        Recorder(tmp_path / "run", model)
    assert not (tmp_path / "run").exists()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(0, 9), st.sampled_from([4, 60, 92, 1 << 20]))
def test_any_walk_is_recorded_as_it_was(tmp_path_factory, every, steps, buffer_bytes):
    directory = tmp_path_factory.mktemp("walk") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder_module, "_BUFFER_BYTES", buffer_bytes)
        record(directory, steps, every=every)
    path = assert_prefix(directory, truth(steps), every=every)
    assert path.steps[-1] == steps
    assert path.closed
    assert path.tail_bytes == 0


def test_a_closed_recorder_records_no_more(tmp_path):
    recorder = Recorder(tmp_path / "run", network())
    recorder.close()
    recorder.close()
    for call in (lambda: recorder.record(0.0), recorder.flush):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_what_recording_cost_is_told(tmp_path, caplog):
    caplog.set_level("INFO", "losspath")
    model = torch.nn.Linear(20, 30)
    recorder = Recorder(tmp_path / "run", model)
    assert (recorder.cost.steps, recorder.cost.seconds) == (0, 0.0)
    assert np.isnan(recorder.cost.share)
    for _ in range(5):
        recorder.record(1.0)
        time.sleep(0.01)
    recorder.close()
    recorder.close()
    cost = recorder.cost
    assert cost.steps == 5
    assert 0 < cost.seconds < cost.loop_seconds
    assert cost.loop_seconds > 0.04
    assert 0 < cost.share < 1
    assert cost.bytes == sum(f.stat().st_size for f in (tmp_path / "run").iterdir() if f.suffix)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path / 'run'}: 5 steps recorded in ")
    assert line.endswith(f"{cost.bytes / 1e6:,.1f} MB")
