"""Flat vectors and models: there and back without a change."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losspath.errors import DamagedError, ModelError
from losspath.parameters import (
    Layout,
    flatten_parameters,
    load_parameters,
    named_parameters,
    side_tensors,
    unflatten,
)
from losspath.parameters.names import notes_on_sharing
from losspath.recording.state import StateReader

NARROW = [torch.float32, torch.float16, torch.bfloat16, torch.complex64]
WIDE = [*NARROW, torch.float64, torch.complex128]

shapes = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=5)


def model_of(tensors):
    """A model with a tree of modules, a parameter of each tensor in one of them."""
    model = torch.nn.Module()
    model.child = torch.nn.Module()
    for index, tensor in enumerate(tensors):
        owner = model if index % 2 else model.child
        owner.register_parameter(f"p{index}", torch.nn.Parameter(tensor))
    return model


@st.composite
def models(draw, dtypes=WIDE):
    chosen = draw(shapes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(
            draw(st.sampled_from(dtypes))
        )
        for shape in [*chosen, [2]]
    ]
    return model_of(tensors)


def state(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert torch.equal(one[name], other[name])


def zeroed(model):
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return model


@settings(deadline=None, max_examples=80)
@given(models())
def test_flattened_and_loaded_is_the_same(model):
    before = state(model)
    vector = flatten_parameters(model)
    wide = any(p.dtype in (torch.float64, torch.complex128) for p in model.parameters())
    assert vector.dtype == (np.float64 if wide else np.float32)
    assert vector.shape == (
        sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters()),
    )
    load_parameters(zeroed(model), vector)
    assert_same(state(model), before)


@settings(deadline=None, max_examples=80)
@given(models())
def test_unflattened_is_every_parameter_by_name(model):
    layout = Layout.of(model, "float64", allow_complex=True)
    vector = torch.from_numpy(flatten_parameters(model))
    assert_same(unflatten(vector, layout), state(model))


@settings(deadline=None, max_examples=80)
@given(models(), st.integers(0, 3))
def test_a_layout_survives_json(model, buffers):
    for index in range(buffers):
        model.register_buffer(f"b{index}", torch.zeros(index, 2))
    layout = Layout.of(model, "float64", allow_complex=True)
    again = Layout.from_json(json.loads(json.dumps(layout.to_json())))
    assert again == layout
    assert again.row_size == again.parameter_count  # buffers have no place in a row
    ends = [entry.place.stop for entry in layout.entries]
    assert [entry.offset for entry in layout.entries] == [0, *ends[:-1]]
    assert ends[-1] == layout.row_size


def test_the_order_is_that_of_named_parameters():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    expected = torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    np.testing.assert_array_equal(flatten_parameters(model), expected)
    names = [entry.name for entry in Layout.of(model).parameters]
    assert names == [name for name, _ in model.named_parameters()]


def test_a_flat_vector_shares_no_memory_with_the_model():
    model = torch.nn.Linear(3, 2)
    vector = flatten_parameters(model)
    kept = vector.copy()
    zeroed(model)
    np.testing.assert_array_equal(vector, kept)
    load_parameters(model, vector)
    zeroed(model)
    np.testing.assert_array_equal(vector, kept)
    load_parameters(model, vector)
    vector[:] = 9
    np.testing.assert_array_equal(flatten_parameters(model), kept)


def test_unflattened_tensors_are_views():
    layout = Layout.of(torch.nn.Linear(3, 2))
    vector = torch.arange(8.0)
    unflatten(vector, layout)["bias"][0] = 99
    assert vector[6] == 99


def test_loading_leaves_the_tensors_their_identity_and_their_gradients():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    model(torch.ones(1, 2)).sum().backward()
    before = {name: (p, p.data_ptr(), p.grad) for name, p in model.named_parameters()}
    load_parameters(model, np.arange(4, dtype=np.float32))  # the bias is frozen
    everything = Layout.of(model, parameters="all")
    load_parameters(model, np.arange(6, dtype=np.float32), everything)
    assert model.bias.tolist() == [4, 5]
    for name, p in model.named_parameters():
        assert before[name] == (p, p.data_ptr(), p.grad)
        assert p.is_leaf
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)


def test_tied_parameters_are_loaded_once():
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    )
    model[1].weight = model[0].weight
    vector = np.arange(4, dtype=np.float32)
    load_parameters(model, vector)
    np.testing.assert_array_equal(flatten_parameters(model), vector)
    assert model[1].weight is model[0].weight


@pytest.mark.parametrize("vector", [np.arange(6.0)[::-1], np.arange(12, dtype=np.float32)[::2]])
def test_vectors_that_are_strided_or_read_only_are_loaded(vector):
    model = torch.nn.Linear(2, 2)
    vector.flags.writeable = False
    load_parameters(model, vector)
    np.testing.assert_array_equal(flatten_parameters(model), vector)


@pytest.mark.parametrize("shape", [(5,), (7,), (0,), (6, 1), (2, 3), ()])
def test_a_vector_of_another_shape_is_refused(shape):
    model = torch.nn.Linear(2, 2)
    before = state(model)
    with pytest.raises(ModelError, match="expected a vector of 6 parameters"):
        load_parameters(model, np.zeros(shape, np.float32))
    assert_same(state(model), before)


def test_float64_buffers_do_not_widen_the_parameters():
    model = torch.nn.Linear(2, 2)
    model.register_buffer("statistics", torch.zeros(2, dtype=torch.float64))
    assert flatten_parameters(model).dtype == np.float32


# --------------------------------------------------------------------------------------------------
# Layouts


def test_buffers_of_every_dtype_and_frozen_parameters_are_side_tensors():
    model = torch.nn.Linear(2, 1)
    model.register_buffer("count", torch.zeros(3, dtype=torch.int64))
    model.register_buffer("mask", torch.zeros(3, dtype=torch.bool))
    model.register_buffer("wave", torch.zeros(3, dtype=torch.complex64), persistent=False)
    model.register_buffer("none", None)
    model.register_buffer("turned", model.weight.detach().t())  # memory that is in the rows
    model.bias.requires_grad_(False)
    layout = Layout.of(model)
    assert [entry.name for entry in layout.entries] == ["weight"]
    assert [(side.name, side.kind) for side in side_tensors(model, layout)] == [
        ("bias", "frozen"),
        ("count", "buffer"),
        ("mask", "buffer"),
        ("wave", "buffer"),
    ]


WRAPPED = {
    "compiled": lambda: torch.compile(torch.nn.Linear(2, 1)),
    "data parallel": lambda: torch.nn.DataParallel(torch.nn.Linear(2, 1)),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 1)),
    "twice": lambda: torch.compile(torch.nn.DataParallel(torch.nn.Linear(2, 1))),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_wraps_a_module_leaves_no_trace_in_names(kind):
    assert [name for name, _ in named_parameters(WRAPPED[kind]())] == ["weight", "bias"]
    inside = torch.nn.Sequential(torch.nn.Linear(2, 2), WRAPPED[kind]())
    assert [name for name, _ in named_parameters(inside)][2:] == ["1.weight", "1.bias"]


def test_a_module_of_the_users_may_be_called_module():
    model = torch.nn.Module()
    model.module = torch.nn.Linear(2, 1)
    assert [name for name, _ in named_parameters(model)] == ["module.weight", "module.bias"]


def test_memory_that_two_parameters_share_counts_once_or_is_refused():
    one, other = torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False)
    other.weight = torch.nn.Parameter(one.weight.data.t())
    assert Layout.of(torch.nn.Sequential(one, other)).parameter_count == 9
    other.weight = torch.nn.Parameter(one.weight.data[1:])
    with pytest.raises(ModelError, match=r"0\.weight and 1\.weight share a part"):
        Layout.of(torch.nn.Sequential(one, other))
    flat_memory = torch.randn(12)
    one.weight = torch.nn.Parameter(flat_memory[:6].view(2, 3))
    other.weight = torch.nn.Parameter(flat_memory[6:].view(2, 3))
    assert Layout.of(torch.nn.Sequential(one, other)).parameter_count == 12


def test_a_parametrised_layer_is_one_layer():
    norm = torch.nn.utils.parametrizations.weight_norm
    model = torch.nn.Sequential(norm(torch.nn.Linear(2, 2)), torch.nn.Linear(2, 1))
    assert list(Layout.of(model).layers) == ["0", "1"]


@pytest.mark.parametrize(
    ("dtype", "rows", "message"),
    [
        (torch.float64, "float32", 'pass dtype="float64"'),
        (torch.int32, "float32", "only floating-point parameters"),
        (torch.int64, "float64", "only floating-point parameters"),
    ],
)
def test_what_rows_do_not_hold_exactly_is_refused(dtype, rows, message):
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(2, dtype=dtype), requires_grad=False)
    with pytest.raises(ModelError, match=message):
        Layout.of(model, rows)


def test_complex128_needs_both_permissions():
    model = torch.nn.Linear(2, 1, dtype=torch.complex128)
    with pytest.raises(ModelError, match="allow_complex"):
        Layout.of(model, "float64")
    with pytest.raises(ModelError, match="complex128"):
        Layout.of(model, allow_complex=True)
    assert Layout.of(model, "float64", allow_complex=True).parameter_count == 6


@pytest.mark.parametrize("mark", ["ds_id", "ds_tensor"])
def test_parameters_that_deepspeed_has_emptied_are_refused(mark):
    model = torch.nn.Linear(2, 2)
    model.bias = torch.nn.Parameter(torch.empty(0))
    assert Layout.of(model).parameter_count == 4  # empty ones may be meant
    setattr(model.bias, mark, 1)
    with pytest.raises(ModelError, match=r"parameter bias is empty.*ZeRO-3.*ZeRO stage 2 or less"):
        Layout.of(model)
    model.bias = torch.nn.Parameter(torch.ones(2))  # gathered
    setattr(model.bias, mark, 1)
    assert Layout.of(model).parameter_count == 6


def test_lazy_parameters_and_buffers_are_refused_until_they_have_seen_data():
    model = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.LazyBatchNorm1d())
    with pytest.raises(ModelError, match=r"0\.weight has no shape yet"):
        Layout.of(model)
    model[0](torch.zeros(2, 4))
    with pytest.raises(ModelError, match=r"1\.\w+ has no shape yet"):
        Layout.of(model)
    model(torch.zeros(2, 4))
    assert Layout.of(model).parameter_count == 4 * 3 + 3 + 3 + 3


def test_layers_are_the_modules_that_own_parameters():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.BatchNorm1d(2))
    model.scale = torch.nn.Parameter(torch.ones(()))
    layers = Layout.of(model).layers
    assert {name: [e.name for e in entries] for name, entries in layers.items()} == {
        "": ["scale"],
        "0": ["0.weight", "0.bias"],
        "2": ["2.weight", "2.bias"],
    }


def test_the_first_difference_between_networks_is_named():
    one = Layout.of(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)))
    other = Layout.of(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1000)))
    one.check_same(one, "this", "that")
    with pytest.raises(ModelError) as error:
        one.check_same(other, "this", "that")
    assert str(error.value) == (
        "this and that are not of the same network: parameter 2 is 1.weight [1, 3] in this "
        "(13 numbers in all) and 1.weight [1000, 3] in that (4,009)"
    )


@pytest.mark.parametrize("swap", [False, True])
def test_a_parameter_that_one_network_lacks_is_absent(swap):
    pair = [Layout.of(torch.nn.Linear(2, 3)), Layout.of(torch.nn.Linear(2, 3, bias=False))]
    one, other = pair[::-1] if swap else pair
    with pytest.raises(ModelError, match=r"parameter 1 is .*absent in") as error:
        one.check_same(other, "this", "that")
    assert ("absent in this" in str(error.value)) == swap


def test_buffers_and_dtypes_do_not_make_another_network():
    plain, half = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3).half()
    half.register_buffer("extra", torch.zeros(2))
    Layout.of(plain).check_same(Layout.of(half), "this", "that")


ROW = {"name": "w", "shape": [2], "dtype": "float32", "kind": "parameter"}


@pytest.mark.parametrize(
    "table",
    [
        [{**ROW, "kind": "other"}],
        [{**ROW, "shape": [2, -1]}],
        [{**ROW, "shape": ["a"]}],
        [{**ROW, "shape": 2}],
        [{key: value for key, value in ROW.items() if key != "name"}],
        [None],
        None,
        3,
    ],
)
def test_a_table_that_is_none_is_damage(table):
    with pytest.raises(DamagedError, match="layout table"):
        Layout.from_json(table)


# --------------------------------------------------------------------------------------------------
# Reading again and again


def test_a_reader_follows_a_replaced_parameter_and_sees_changes_in_place():
    model = torch.nn.Linear(2, 2)
    reader = StateReader(model, Layout.of(model))
    row = torch.zeros(6)
    digest = reader.digest()
    assert reader.digest() == digest
    model.bias.data[1] += 1  # torch counts no change
    assert reader.digest() != digest
    zeroed(model)
    model.weight = torch.nn.Parameter(torch.full((2, 2), 3.0))
    reader.read_into(row)
    assert row.tolist() == [3.0] * 4 + [0.0] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_reader_fills_a_part_of_a_buffer_and_no_more(dtype):
    model = torch.nn.Linear(2, 2)
    buffer = torch.full((10,), 9, dtype=dtype)
    StateReader(model, Layout.of(model)).read_into(buffer[2:8])
    np.testing.assert_array_equal(buffer[2:8], flatten_parameters(model))
    assert buffer[[0, 1, 8, 9]].tolist() == [9] * 4


def test_a_module_with_a_list_of_its_own_is_read_whole():
    class Own(torch.nn.Linear):
        def named_parameters(self):
            yield "weight", self.weight

    assert [entry.name for entry in Layout.of(Own(2, 3)).parameters] == ["weight", "bias"]


def test_names_of_wrappers_are_no_other_names_of_what_is_inside():
    wrapped = [
        torch.nn.DataParallel(torch.nn.Linear(3, 3)),
        torch.optim.swa_utils.AveragedModel(torch.nn.Linear(3, 3)),
        torch.compile(torch.nn.Linear(3, 3)),
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 3)),
    ]
    model = torch.nn.Sequential(*wrapped)
    names = {name for name, _ in named_parameters(model)}
    assert notes_on_sharing(model, names) == []
    # One module at two places of one parent, and two places further on.
    both = torch.nn.ModuleDict({"a": wrapped[0], "b": wrapped[0].module, "c": model})
    names = {name for name, _ in named_parameters(both)}
    assert names > {"a.weight", "a.bias"}
    (note,) = notes_on_sharing(both, names)
    assert note == (
        "shared: b.weight counts as a.weight, b.bias counts as a.bias, "
        "c.0.weight counts as a.weight …"
    )
