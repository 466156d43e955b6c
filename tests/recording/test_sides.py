"""Buffers and frozen parameters: recorded with every state, written again only when they change."""

import contextlib
import re
import time

import numpy as np
import pytest
import torch
from torch import nn

from losspath import Recorder, Trajectory
from losspath.errors import ArgumentError, LosspathWarning, ModelError
from losspath.parameters import Layout, side_tensors
from losspath.recording import chain, session, sides, watch


class Model(nn.Module):
    """A layer, and whatever else a test gives it."""

    def __init__(self, **buffers):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        for name, value in buffers.items():
            self.register_buffer(name, value)


def told(name):
    return pytest.warns(LosspathWarning, match=f": {name} changed without torch counting it")


def step(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.125)


def now(model, rows=("layer.weight", "layer.bias")):
    """All that is not in the rows, found in another way than the source finds it."""
    found = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    return {n: t.detach().clone() for n, t in found.items() if n not in rows}


def same(one, other):
    """Name for name the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(
        (one[n].dtype, one[n].shape) == (t.dtype, t.shape)
        and torch.equal(one[n].reshape(-1).view(torch.uint8), t.reshape(-1).view(torch.uint8))
        for n, t in other.items()
        if t.numel()
    )


def walk(directory, model, changes, **options):
    """Records a state after each change; returns what each should have beside its row."""
    expected = []
    with Recorder(directory, model, **options) as recorder:
        expected.append(now(model))
        for change in changes:
            step(model)
            change(model)
            recorder.record(0.0)
            expected.append(now(model))
    return expected


def nothing(model):
    pass


def assert_read(directory, expected):
    path = Trajectory(directory)
    assert len(path) == len(expected)
    for index, there in enumerate(expected):
        assert same(path.sides(index), there), index
    # Equal keys where, and only where, all is the same.
    keys = [path.side_key(index) for index in range(len(path))]
    for one, left in zip(keys, expected, strict=True):
        for other, right in zip(keys, expected, strict=True):
            assert (one == other) == same(left, right)
    return path


def size(directory):
    return (directory / "sides.bin").stat().st_size


EVERY_DTYPE = [
    torch.arange(6, dtype=dtype).reshape(2, 3)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.float64, torch.float16)
] + [
    torch.tensor([True, False, True]),
    torch.tensor(3),
    torch.tensor(0.5, dtype=torch.bfloat16),
    torch.tensor([float("nan"), -0.0, float("inf")]),
    torch.tensor([1 + 2j, 3 - 4j]),
    torch.empty(0, 4),
    torch.empty(2, 0, dtype=torch.int64),
    torch.arange(12.0).reshape(3, 4).t(),
    torch.ones(1, 5).expand(3, 5),
    torch.arange(4).to(torch.float8_e4m3fn),
    torch.tensor([1 + 2j]).conj(),
]


@pytest.mark.parametrize("value", EVERY_DTYPE, ids=lambda t: f"{t.dtype} {tuple(t.shape)}")
def test_a_buffer_of_any_dtype_and_form_comes_back_as_it_was(tmp_path, value):
    model = Model(buffer=value)
    expected = walk(tmp_path / "run", model, [nothing, nothing])
    path = assert_read(tmp_path / "run", expected)
    assert path.side_kinds == {"buffer": "buffer"}
    array = path.buffers(1)["buffer"]
    wide = value.float() if value.dtype in (torch.bfloat16, torch.float8_e4m3fn) else value
    np.testing.assert_array_equal(array, wide.resolve_conj().numpy())


def test_what_does_not_change_is_written_once(tmp_path):
    model = Model(mask=torch.ones(256, 256, dtype=torch.bool), order=torch.randperm(100))
    expected = walk(tmp_path / "once", model, [])
    walk(tmp_path / "often", model, [nothing] * 50)
    assert size(tmp_path / "often") == size(tmp_path / "once") < 256 * 256 + 100 * 8 + 1000
    assert_read(tmp_path / "once", expected)


def test_running_statistics_are_written_at_every_step_in_little_more_than_their_bytes(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 64), nn.BatchNorm1d(64))
    rows = [name for name, _ in model.named_parameters()]
    expected = []
    with Recorder(tmp_path / "run", model) as recorder:
        expected.append(now(model, rows))
        for number in range(20):
            model(torch.randn(5, 3))
            step(model)
            recorder.record(float(number))
            expected.append(now(model, rows))
    path = assert_read(tmp_path / "run", expected)
    assert path.buffers(20)["1.num_batches_tracked"] == 20
    assert size(tmp_path / "run") < 21 * (64 * 4 * 2 + 8 + 128) + 1000


def grow(model):
    model.cache = torch.arange(float(len(model.cache) + 2))


def retype(model):
    model.cache = model.cache.to(torch.bfloat16)


def appear(model):
    model.register_buffer("late", torch.tensor([1, 2, 3]), persistent=False)


def go(model):
    del model.late


def resize(model):
    model.cache.resize_(7).fill_(2.0)


def swap_data(model):
    model.cache.data = torch.full((2, 2), 5.0)


def to_none(model):
    model.late = None


def test_buffers_may_appear_grow_change_and_go(tmp_path):
    model = Model(cache=torch.zeros(2))
    changes = [nothing, appear, grow, grow, nothing, go, nothing, appear, retype, to_none, nothing]
    expected = walk(tmp_path / "run", model, [*changes, swap_data, resize])
    path = assert_read(tmp_path / "run", expected)
    assert path.side_kinds == {"cache": "buffer", "late": "buffer"}


def test_a_cache_that_the_first_forward_pass_makes_ends_nothing(tmp_path):
    class Rotary(Model):
        def forward(self, x):
            if not hasattr(self, "cos"):
                self.register_buffer("cos", torch.arange(len(x)).float().cos(), persistent=False)
            return self.layer(x) * self.cos[:, None]

    model = Rotary()
    with Recorder(tmp_path / "run", model) as recorder:
        for number in range(3):
            model(torch.ones(4, 3)).sum().backward()
            step(model)
            recorder.record(float(number))
    path = Trajectory(tmp_path / "run")
    assert [sorted(path.sides(i)) for i in range(4)] == [[], ["cos"], ["cos"], ["cos"]]


def test_frozen_parameters_are_written_once_and_again_when_they_are_changed(tmp_path):
    model = Model()
    model.frozen = nn.Linear(4, 4).requires_grad_(False)

    def average(model):  # as an exponential moving average does, which torch does not count
        model.frozen.weight.data.mul_(0.5)

    def copy(model):
        model.frozen.bias.copy_(torch.ones(4))

    expected = walk(tmp_path / "run", model, [nothing, average, nothing, copy, average, nothing])
    path = assert_read(tmp_path / "run", expected)
    assert path.side_kinds == {"frozen.bias": "frozen", "frozen.weight": "frozen"}
    assert [entry.name for entry in path.layout.entries] == ["layer.weight", "layer.bias"]
    assert path.buffers(0) == {}


@pytest.mark.parametrize("strided", [False, True])
def test_large_frozen_parameters_are_looked_at_by_a_sample(tmp_path, monkeypatch, strided):
    monkeypatch.setattr(watch, "_WHOLE_BYTES", 100)
    monkeypatch.setattr(watch, "_SAMPLE", 16)
    monkeypatch.setattr(chain, "_LARGE_BYTES", 1000)
    model = Model(small=torch.arange(10.0))
    weight = torch.randn(40, 20)
    model.frozen = nn.Parameter(weight.t() if strided else weight, requires_grad=False)

    def average(model):
        model.frozen.data.mul_(0.5)

    def one_number(model):  # that torch counts
        model.frozen[0, 7] += 1

    def write_the_same(model):
        model.frozen.copy_(model.frozen.clone())

    changes = [nothing, average, one_number, nothing, write_the_same, average]
    with torch.no_grad():
        expected = walk(tmp_path / "run", model, changes)
    assert_read(tmp_path / "run", expected)
    assert size(tmp_path / "run") < 4 * (40 * 20 * 4) + 1500


def test_what_is_left_out_of_states_is_left_out_of_them_alone(tmp_path):
    # With every > 1 the newest state has side tensors of its own, which later ones do not have.
    model = Model(count=torch.tensor(0), flag=torch.tensor(False))

    def toggle(model):
        model.flag.logical_not_()
        model.count += 1

    expected = []
    with Recorder(tmp_path / "run", model, every=3) as recorder:
        expected.append(now(model))
        for number in range(8):
            step(model)
            toggle(model)
            recorder.record(0.0)
            expected.append(now(model))
            recorder.flush()
            path = Trajectory(tmp_path / "run")
            assert int(path.steps[-1]) == number + 1
            for index, at in enumerate(path.steps.tolist()):
                assert same(path.sides(index), expected[at])
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == [0, 3, 6, 8]
    for index, at in enumerate(path.steps.tolist()):
        assert same(path.sides(index), expected[at])


def test_thawing_a_frozen_parameter_is_told_once_and_its_numbers_are_recorded(tmp_path):
    model = Model()
    model.frozen = nn.Linear(2, 2).requires_grad_(False)
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.record(0.0)
        model.frozen.requires_grad_(True)
        step(model)
        with pytest.warns(LosspathWarning, match=r'frozen.*parameters="all"'):
            recorder.record(0.0)
        step(model)
        recorder.record(0.0)
        expected = now(model)
    assert same(Trajectory(tmp_path / "run").sides(3), expected)


def test_tensors_without_plain_bytes_are_left_out_and_named(tmp_path):
    model = Model(edges=torch.eye(3).to_sparse(), fine=torch.ones(2))
    with pytest.warns(LosspathWarning, match="edges cannot be recorded"):
        recorder = Recorder(tmp_path / "run", model)
    with recorder:
        recorder.record(0.0)  # and told no more
    assert list(Trajectory(tmp_path / "run").sides(1)) == ["fine"]


def test_side_tensors_go_on_where_a_run_goes_on(tmp_path):
    model = Model(count=torch.tensor(0), mask=torch.ones(300, dtype=torch.bool))

    def count(model):
        model.count += 1

    expected = walk(tmp_path / "run", model, [count] * 3)
    before = size(tmp_path / "run")
    expected += walk(tmp_path / "run", model, [nothing, count], existing="resume")[1:]
    assert_read(tmp_path / "run", expected)
    assert size(tmp_path / "run") - before < 300  # the mask is not written again
    model.mask[0] = False
    with pytest.raises(ModelError, match="mask"):
        Recorder(tmp_path / "run", model, existing="resume")


@pytest.mark.parametrize("buffer_bytes", [16, 200])
def test_many_large_buffers_wait_for_their_turn(tmp_path, monkeypatch, buffer_bytes):
    from losspath.recording import recorder as recorder_module

    monkeypatch.setattr(recorder_module, "_PREFERRED_BYTES", buffer_bytes)
    monkeypatch.setattr(chain, "_LARGE_BYTES", 64)
    model = Model(**{f"b{i}": torch.full((i + 1, 7), float(i)) for i in range(20)})

    def change(model):
        for buffer in model.buffers():
            buffer += 1

    assert_read(tmp_path / "run", walk(tmp_path / "run", model, [change, nothing, change]))


# --------------------------------------------------------------------------------------------------
# Loading


def test_buffers_of_every_dtype_are_loaded_when_asked_for(tmp_path):
    model = Model(order=torch.tensor([2, 0, 1]), cache=torch.zeros(2))

    def permute(model):
        model.order.copy_(model.order.roll(1))

    expected = walk(tmp_path / "run", model, [permute, grow])
    path = Trajectory(tmp_path / "run")
    for index in range(3):
        other = Model(order=torch.zeros(3, dtype=torch.int64), cache=torch.full((2,), 9.0))
        path.load_into(other, index)
        assert other.order.tolist() == [0, 0, 0]
        path.load_into(other, index, buffers=True)
        assert same(now(other), expected[index])
        assert torch.equal(other.layer.weight.flatten(), torch.from_numpy(path[index][:6]))
    with pytest.warns(LosspathWarning, match="no buffer cache"):
        path.load_into(Model(order=torch.zeros(3, dtype=torch.int64)), 0, buffers=True)


def test_frozen_parameters_are_loaded_with_the_state_and_names_are_canonical(tmp_path):
    model = Model()
    model.frozen = nn.Linear(2, 2).requires_grad_(False)
    expected = walk(tmp_path / "run", nn.DataParallel(model), [nothing])
    assert sorted(Trajectory(tmp_path / "run").side_kinds) == ["frozen.bias", "frozen.weight"]
    for frozen in (False, True):  # what requires a gradient makes no difference
        other = Model()
        other.frozen = nn.Linear(2, 2)
        other.requires_grad_(not frozen)
        Trajectory(tmp_path / "run").load_into(other, -1)
        for name, tensor in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor)
    assert len(expected) == 2


def test_a_window_has_the_side_tensors_of_its_states(tmp_path):
    model = Model(count=torch.tensor(0))

    def count(model):
        model.count += 1

    expected = walk(tmp_path / "run", model, [count] * 8)
    path = Trajectory(tmp_path / "run")
    window = path.window(1, 8, 3)
    assert len(window) == 3
    for index, at in enumerate((1, 4, 7)):
        assert same(window.sides(index), expected[at])
        assert window.side_key(index) == path.side_key(at)
        assert window.buffers(index)["count"] == at
    other = Model(count=torch.tensor(-1))
    window.load_into(other, -1, buffers=True)
    assert int(other.count) == 7
    assert (window.side_kinds, window.holes) == ({"count": "buffer"}, ())
    with pytest.raises(IndexError):
        path.sides(9)


# --------------------------------------------------------------------------------------------------
# Steps, values, models made in other ways


def test_steps_may_have_gaps_and_losses_stay_with_their_states(tmp_path):
    model = Model()
    with Recorder(tmp_path / "run", model) as recorder:
        for at in (3, 4, 10):
            step(model)
            recorder.record(float(at), step=at)
        step(model)
        recorder.record(11.0)
        assert recorder.steps == 11
        for wrong in (11, 5, -1, 2.5, True, "a"):
            with pytest.raises(ArgumentError, match="step"):
                recorder.record(0.0, step=wrong)
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == [0, 3, 4, 10, 11]
    assert path.loss_steps.tolist() == [3, 4, 10, 11]
    assert path.all_losses.tolist() == path.losses.tolist() == [3.0, 4.0, 10.0, 11.0]
    assert path.window(1, 5, 2).losses.tolist() == [4.0]


def test_with_every_a_gap_stores_the_first_state_behind_each_multiple(tmp_path):
    model = Model()
    with Recorder(tmp_path / "run", model, every=10) as recorder:
        for at in range(7, 50, 7):
            step(model)
            recorder.record(float(at), step=at)
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == [0, 14, 21, 35, 42, 49]
    assert path.losses.tolist() == [7.0, 21.0, 28.0, 42.0, 49.0]


def test_a_step_in_a_gap_cannot_be_gone_on_from(tmp_path):
    from losspath.errors import StoreError

    model = Model()
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.record(0.0, step=5)
        recorder.record(0.0, step=9)
    with pytest.raises(StoreError, match="5 and 9"):
        Recorder(tmp_path / "run", model, existing="resume", step=7)
    with Recorder(tmp_path / "run", model, existing="resume") as recorder:
        assert recorder.steps == 9


def test_named_values_are_kept_with_their_steps(tmp_path):
    model = Model()
    long = "a name that is longer than one slot holds, und mit Umlauten: äöü"
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.record(0.0, lr=0.1, norm=torch.tensor(2.0))
        recorder.record(0.0, lr=0.05)
        recorder.record(0.0, **{long: float("nan"), "": 4})
        with pytest.raises(ArgumentError, match="lr"):
            recorder.record(0.0, lr="high")
        with pytest.raises(ArgumentError, match=r"begin with '\.', .* got '\.dot'"):
            recorder.record(0.0, **{".dot": 4})
        recorder.record(0.0, step=4, array=np.array([2.0]))
    with Recorder(tmp_path / "run", model, existing="resume") as recorder:
        recorder.record(0.0, lr=0.025, other=-1)
    values = Trajectory(tmp_path / "run").values
    plain = {name: (s.tolist(), v.tolist()) for name, (s, v) in values.items() if name != long}
    assert plain == {
        "lr": ([1, 2, 5], [0.1, 0.05, 0.025]),
        "array": ([4], [2.0]),
        "norm": ([1], [2.0]),
        "": ([3], [4.0]),
        "other": ([5], [-1.0]),
    }
    assert values[long][0].tolist() == [3]
    assert np.isnan(values[long][1]).all()


def test_steps_at_which_nothing_changed_are_counted_and_told(tmp_path):
    model = Model()
    with Recorder(tmp_path / "run", model, every=2) as recorder:
        for number in range(6):
            if number not in (2, 3):
                step(model)
            recorder.record(float(number))
        assert recorder.unchanged_steps == 2
    path = Trajectory(tmp_path / "run")
    assert path.unchanged_steps == 2
    assert path.notes == ["no parameter changed at 2 of the steps"]
    with Recorder(tmp_path / "run", model, every=2, existing="resume") as recorder:
        assert recorder.unchanged_steps == 2
        recorder.record(0.0)
        assert recorder.unchanged_steps == 3


RATES = {
    "one": ([{"lr": 0.0}, {"lr": 0.1}], []),
    "groups": ([{"lr": 0.0, "lr/group1": 0.0}, {"lr": 0.1, "lr/group1": 0.2}], []),
    "groups that were alike": ([{"lr": 0.0}, {"lr": 0.1, "lr/group1": 0.2}], []),
    "one group alone": ([{"lr": 0.0, "lr/group1": 0.1}, {"lr": 0.1}], [1]),
    "another name": ([{"lrs": 0.0}, {"lrs": 0.1}], [1]),
}


@pytest.mark.parametrize("kind", RATES)
def test_steps_at_a_learning_rate_of_zero_are_no_news(tmp_path, kind):
    (first, second), told = RATES[kind]
    model = Model()
    with Recorder(tmp_path / "run", model) as recorder:
        recorder.record(0.0, **first)  # a warm-up begins
        step(model)
        recorder.record(1.0, **second)
    path = Trajectory(tmp_path / "run")
    assert path.unchanged_steps == 1
    assert path.notes == [f"no parameter changed at {count} of the steps" for count in told]
    with Recorder(tmp_path / "run", model, existing="resume") as recorder:
        recorder.record(0.0, **second)
    assert Trajectory(tmp_path / "run").notes == ["no parameter changed at 2 of the steps"]


@pytest.mark.parametrize("where", ["recorder", "both", "model"])
def test_inference_mode_makes_no_difference(tmp_path, where):
    with torch.inference_mode() if where != "recorder" else contextlib.nullcontext():
        model = Model(count=torch.zeros(3))
    with torch.inference_mode() if where != "model" else contextlib.nullcontext():
        recorder = Recorder(tmp_path / "run", model)
    expected = []
    with recorder:
        for number in range(3):
            with torch.inference_mode():
                for tensor in (*model.parameters(), *model.buffers()):
                    tensor += 1
            recorder.record(float(number))
            expected.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy())
    path = Trajectory(tmp_path / "run")
    np.testing.assert_array_equal(path[1:], np.stack(expected))
    assert [path.buffers(i)["count"].tolist() for i in range(4)] == [
        [float(i)] * 3 for i in range(4)
    ]


def test_blobs_are_found_without_any_record_of_them(tmp_path):
    model = Model(count=torch.tensor(0))

    def count(model):
        model.count += 1

    walk(tmp_path / "run", model, [count] * 3)
    raw = (tmp_path / "run" / "sides.bin").read_bytes()
    begins = [found.start() for found in re.finditer(re.escape(sides.MAGIC), raw)]
    blobs = [sides.parse_head(raw[at : at + sides.HEAD_BYTES], at) for at in begins]
    assert [blob.what for blob in blobs] == [sides.FORM, *[sides.DATA] * 4]
    assert [blob.step for blob in blobs] == [0, 0, 1, 2, 3]


# --------------------------------------------------------------------------------------------------
# Changes that torch does not count


@pytest.mark.parametrize("how", ["data", "numpy"])
@pytest.mark.parametrize("mebibytes", [2, 8, 16])
def test_one_number_of_a_large_buffer_that_changes_uncounted_is_recorded(tmp_path, how, mebibytes):
    model = Model(bank=torch.zeros(mebibytes << 18))
    there = model.bank.data if how == "data" else model.bank.numpy()
    with Recorder(tmp_path / "run", model) as recorder:
        for step in range(1, 4):
            there[step * 7919] = step
            recorder.record(0.0)
        recorder.record(0.0)
    path = Trajectory(tmp_path / "run")
    assert [path.sides(t)["bank"].sum().item() for t in range(5)] == [0, 1, 3, 6, 6]
    # What did not change is not written again.
    assert (tmp_path / "run" / "sides.bin").stat().st_size < (4 * mebibytes + 1) << 20


def test_of_a_very_large_buffer_every_part_is_looked_at_by_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_PART_BYTES", 1 << 20)
    monkeypatch.setattr(watch, "_TURN_BYTES", 1 << 20)
    model = Model(bank=torch.zeros(4 << 18))
    with Recorder(tmp_path / "run", model) as recorder:
        for number in (1, 1 << 18, (4 << 18) - 1):
            model.bank.data[number] = 1.0
            with told("bank") if number == 1 else contextlib.nullcontext():
                for _ in range(4):
                    recorder.record(0.0)
    path = Trajectory(tmp_path / "run")
    sums = [path.sides(t)["bank"].sum().item() for t in range(13)]
    assert sums[0] == 0
    assert [sums[4], sums[8], sums[12]] == [1, 2, 3]


def test_more_buffers_than_can_be_hashed_at_each_record_are_looked_at_by_turns(monkeypatch):
    monkeypatch.setattr(watch, "_HASHED_BYTES", 3 << 20)
    monkeypatch.setattr(watch, "_TURN_BYTES", 1 << 20)
    model = Model(a=torch.zeros(2 << 18), b=torch.zeros(2 << 18))
    sides = side_tensors(model, Layout.of(model))
    watched = watch.SideWatch("here")
    known, _, _ = watched.compare(sides, watch.Known())
    seen = []
    for name in "ab":
        getattr(model, name).data[-3] = 1.0
        with told("b") if name == "b" else contextlib.nullcontext():
            for _ in range(2):
                known, changes, _ = watched.compare(sides, known)
                seen += [change.described.name for change in changes]
    assert seen == ["a", "b"]


def frozen_model(mebibytes, count=1):
    model = Model()
    for number in range(count):
        zeros = torch.zeros(mebibytes << 18)
        model.register_parameter(f"bank{number}", nn.Parameter(zeros, requires_grad=False))
    return model


def sums(run, name):
    path = Trajectory(run)
    return [path.sides(t)[name].sum().item() for t in range(len(path))]


def test_of_large_frozen_parameters_every_part_is_looked_at_by_turns(tmp_path):
    model = frozen_model(2, 2)
    with Recorder(tmp_path / "run", model) as recorder:
        model.bank0.data[7919] = 1.0
        with told("bank0"):
            for _ in range(4):
                recorder.record(0.0)
        model.bank1.data.numpy()[-2] = 1.0
        with told("bank1"):
            for _ in range(4):
                recorder.record(0.0)
        # What was found to change is looked at at every record.
        model.bank0.data[79] = 1.0
        recorder.record(0.0)
        model.bank1.data[(1 << 18) + 5] = 1.0
        recorder.record(0.0)
    zeros, ones = sums(tmp_path / "run", "bank0"), sums(tmp_path / "run", "bank1")
    assert (zeros[0], zeros[4:]) == (0, [1, 1, 1, 1, 1, 2, 2])
    assert (ones[:5], ones[8:]) == ([0] * 5, [1, 1, 2])
    # What did not change is not written again.
    assert (tmp_path / "run" / "sides.bin").stat().st_size < 13 << 20


@pytest.mark.parametrize("end", ["flush", "close"])
def test_the_newest_state_is_told_again_where_a_frozen_parameter_had_changed(tmp_path, end):
    model = frozen_model(40)
    recorder = Recorder(tmp_path / "run", model, every=10)
    step(model)
    model.bank0.data[-7919] = 1.0
    recorder.record(0.0)
    with told("bank0"):
        getattr(recorder, end)()
    assert sums(tmp_path / "run", "bank0") == [0, 1]
    recorder.close()
    assert sums(tmp_path / "run", "bank0") == [0, 1]


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("changes", [False, True])
def test_at_the_end_side_tensors_are_looked_at_once(tmp_path, every, changes, monkeypatch):
    looks, compare = [], watch.Plan.compare
    monkeypatch.setattr(
        watch.Plan, "compare", lambda *given, **named: looks.append(0) or compare(*given, **named)
    )
    model = frozen_model(40)
    recorder = Recorder(tmp_path / "run", model, every=every)
    step(model)
    model.bank0.data[-7919] = float(changes)
    recorder.record(0.0)
    looks.clear()
    with told("bank0") if changes else contextlib.nullcontext():
        recorder.close()
    assert len(looks) == 1
    # A state that has a row stays as it was recorded.
    assert sums(tmp_path / "run", "bank0") == [0, changes and every > 1]


def test_a_change_that_was_found_stays_in_the_newest_states_until_a_row_has_it(tmp_path):
    model = frozen_model(40)
    with Recorder(tmp_path / "run", model, every=20) as recorder:
        model.bank0.data[7919] = 1.0
        with told("bank0"):
            recorder.flush()
        for _ in range(3):
            step(model)
            recorder.record(0.0)
            recorder.flush()
            assert sums(tmp_path / "run", "bank0") == [0, 1]


def test_a_model_that_went_on_is_not_told_as_the_newest_state(tmp_path):
    model = frozen_model(40)
    with Recorder(tmp_path / "run", model, every=10) as recorder:
        step(model)
        recorder.record(0.0)
        step(model)
        model.bank0.data[-7919] = 1.0
        with told("bank0"):
            recorder.flush()
        assert sums(tmp_path / "run", "bank0") == [0, 0]
        recorder.record(0.0)
    assert sums(tmp_path / "run", "bank0") == [0, 1]


def test_where_the_last_state_has_a_row_closing_tells_what_it_may_lack(tmp_path):
    model = frozen_model(40)
    recorder = Recorder(tmp_path / "run", model)
    model.bank0.data[-7919] = 1.0
    recorder.record(0.0)
    with told("bank0"):
        recorder.close()
    assert Trajectory(tmp_path / "run").closed


def test_the_number_that_is_taken_on_a_gpu_tells_bytes_apart():
    torch.manual_seed(0)
    raw = torch.randint(256, (1003,), dtype=torch.uint8)
    found = {watch._sum_of_mixed(raw)}
    for place in range(1003):
        changed = raw.clone()
        changed[place] ^= 1 << place % 8
        found.add(watch._sum_of_mixed(changed))
    for one, other in ((7, 15), (7, 23)):  # of numbers next to each other, the signs
        changed = raw.clone()
        changed[[one, other]] ^= 128
        found.add(watch._sum_of_mixed(changed))
    found.add(watch._sum_of_mixed(torch.cat([raw[8:16], raw[:8], raw[16:]])))
    assert len(found) == 1007


# --------------------------------------------------------------------------------------------------
# With every=k


@pytest.mark.parametrize("mebibytes", [2, 20])
def test_large_buffers_of_states_that_are_not_kept_are_not_written(tmp_path, mebibytes):
    model = Model(bank=torch.zeros(mebibytes << 18))
    with Recorder(tmp_path / "run", model, every=10) as recorder:
        for _ in range(25):
            step(model)
            model.bank += 1
            recorder.record(0.0)
        recorder.flush()
        # Three of rows and the newest, and one more for each sync or second that came between.
        size = (tmp_path / "run" / "sides.bin").stat().st_size
        assert size < 8 * (mebibytes << 20)
        assert Trajectory(tmp_path / "run").steps.tolist() == [0, 10, 20, 25]
        assert Trajectory(tmp_path / "run").sides(-1)["bank"][0] == 25
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == [0, 10, 20, 25]
    for index, number in enumerate(path.steps):
        assert torch.equal(path.sides(index)["bank"], torch.full_like(model.bank, float(number)))


def test_large_buffers_of_the_newest_state_are_durable_in_time(tmp_path):
    model = Model(bank=torch.zeros(2 << 18))
    recorder = Recorder(tmp_path / "run", model, every=1000)
    recorder.flush()
    for _ in range(5):
        step(model)
        model.bank += 1
        recorder.record(0.0)
    began = time.monotonic()
    while Trajectory(tmp_path / "run").steps[-1] < 5 and time.monotonic() - began < 10:
        time.sleep(0.05)
    assert time.monotonic() - began < 4
    assert Trajectory(tmp_path / "run").sides(-1)["bank"][0] == 5
    recorder.close()


def test_a_last_state_whose_buffers_changed_since_is_not_stored_with_others(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "_HELD_BYTES", 0)
    monkeypatch.setattr(session, "_KEEP_SECONDS", 1e9)
    model = Model(bank=torch.zeros(2))
    recorder = Recorder(tmp_path / "run", model, every=10)
    step(model)
    model.bank += 1
    recorder.record(0.0)
    model.bank += 1
    with pytest.warns(LosspathWarning, match="the state at the last step, 1, was not stored"):
        recorder.close()
    assert Trajectory(tmp_path / "run").steps.tolist() == [0]
