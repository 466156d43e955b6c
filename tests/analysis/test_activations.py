import dataclasses
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective, activations
from losspath.analysis.activations import last_finite
from losspath.analysis.outputs import default_modules, outputs_in_parts
from losspath.errors import ArgumentError, UnsupportedError
from losspath.parameters import flatten_parameters
from losspath.recording.trajectory import as_path


def flat(model):
    return flatten_parameters(model).astype(float)


def network():
    torch.manual_seed(0)
    layers = [
        ("conv", nn.Conv2d(2, 4, 3)),
        ("relu", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(64, 3)),
    ]
    return nn.Sequential(OrderedDict(layers))


def images(count=11):
    torch.manual_seed(1)
    return torch.randn(count, 2, 6, 6), torch.randint(3, (count,))


def outputs_of(objective, vector, names, samples):
    parts = outputs_in_parts(objective, vector, names, objective.batches(samples))
    return [np.concatenate(parts[name]) for name in names]


def test_default_modules_are_activation_functions_and_the_last_layer():
    assert default_modules(network()) == ("relu", "fc")
    assert default_modules(nn.Sequential(nn.Linear(2, 2), nn.Flatten())) == ("0",)
    assert default_modules(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == ("0", "1")


def test_outputs_are_those_of_the_modules():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy, batch_size=4)
    vector = flat(model)
    conv, fc = outputs_of(objective, vector, ["conv", "fc"], 9)
    with torch.no_grad():
        np.testing.assert_allclose(conv, model.conv(x[:9]), atol=1e-6)
        np.testing.assert_allclose(fc, model(x[:9]), atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


def test_activations_are_histograms_over_training():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy)
    vector = flat(model)
    path = as_path(np.array([vector, vector * 2, vector * 3, vector * 4]))
    found = activations(path, objective, 3, samples=10, bins=5)
    assert found.names == ("relu", "fc")
    assert found.counts.shape == (2, 3, 5)
    assert found.counts[0].sum(axis=1).tolist() == [10 * 64] * 3
    assert found.counts[1].sum(axis=1).tolist() == [10 * 3] * 3
    with torch.no_grad():
        values = F.relu(model.conv(x[:10])).numpy()
    assert found.zeros[0, 0] == pytest.approx((values == 0).mean())
    expected = np.histogram(np.clip(values, *found.edges[0, [0, -1]]), found.edges[0])[0]
    np.testing.assert_array_equal(found.counts[0, 0], expected)


def test_dead_units_are_seen():
    model, (x, y) = network(), images()
    with torch.no_grad():
        model.conv.bias[1] = -1000.0
    objective = Objective(model, x, y, F.cross_entropy)
    found = activations(as_path(flat(model)[None]), objective)
    assert found.dead[0].tolist() == [0.25]
    assert found.steps.tolist() == [0]


def test_chosen_modules_and_unknown_ones():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy)
    path = as_path(flat(model)[None])
    assert activations(path, objective, modules=["conv"]).names == ("conv",)
    with pytest.raises(ArgumentError, match="conv, relu, flatten, fc, got 'convolution'"):
        activations(path, objective, modules=["convolution"])
    with pytest.raises(ArgumentError, match="at least one state"):
        activations(path, objective, 0)


@dataclasses.dataclass
class Answer:
    note: str
    loss: torch.Tensor
    scores: torch.Tensor


class Inner(nn.Module):
    """Puts out its input, in a form of one's own."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.form(x * self.scale)


FORMS = {
    "dict": lambda x: {"loss": x.sum(), "scores": x},
    "tuple": lambda x: (x, x + 1),
    "nested": lambda x: [("a note", x), x + 1],
    "dataclass": lambda x: Answer("a note", x.sum(), x),
}


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.spare = nn.Linear(3, 3)
        self.worded = Inner(lambda x: "words")
        self.rooted = Inner(lambda x: torch.complex(x, x))
        for name, form in FORMS.items():
            self.add_module(name, Inner(form))
        self.cell = nn.GRU(3, 3, batch_first=True)

    def forward(self, x):
        self.worded(x), self.rooted(x)
        for name in FORMS:
            getattr(self, name)(x)
        return self.cell(self.layer(self.layer(x))[:, None])[0][:, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layer", "layer runs 2 times in a forward pass"),
        ("spare", "spare does not run in a forward pass"),
        ("worded", "worded puts out a str without a tensor"),
        ("rooted", "rooted puts out a complex tensor"),
    ],
)
def test_modules_that_have_no_one_output_are_refused_by_name(name, message):
    torch.manual_seed(0)
    model = Odd()
    objective = Objective(model, torch.randn(4, 3), torch.randint(3, (4,)), F.cross_entropy)
    with pytest.raises(UnsupportedError, match=message):
        outputs_of(objective, flat(model), [name], 4)
    with pytest.raises(UnsupportedError, match=message):
        activations(as_path(flat(model)[None]), objective, modules=["cell", name])
    assert not any(module._forward_hooks for module in model.modules())


def test_modules_without_one_output_do_not_hide_the_others():
    torch.manual_seed(0)
    model, x = Odd(), torch.randn(4, 3)
    objective = Objective(model, x, torch.randint(3, (4,)), F.cross_entropy)
    path = as_path(flat(model)[None])
    assert activations(path, objective).names == (*FORMS, "cell")
    (output,) = outputs_of(objective, flat(model), ["cell"], 4)
    with torch.no_grad():
        expected = model.cell(model.layer(model.layer(x))[:, None])[0]
    np.testing.assert_allclose(output, expected, atol=1e-6)
    for found in outputs_of(objective, flat(model), list(FORMS), 4):
        np.testing.assert_array_equal(found, x)


def test_states_that_are_not_finite_are_left_out():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy)
    vector = flat(model)
    path = np.array([vector, vector * 2, vector * np.nan, vector * np.inf])
    found = activations(as_path(path), objective)
    assert (found.steps.tolist(), found.left_out) == ([0, 1], (2, 3))
    whole = activations(as_path(path[:2]), objective)
    np.testing.assert_array_equal(found.counts, whole.counts)
    assert (last_finite(as_path(path), 4), last_finite(as_path(path), 1)) == (1, 0)
    assert last_finite(as_path(path[2:]), 2) is None
    with pytest.raises(UnsupportedError, match="no state is finite"):
        activations(as_path(path[2:]), objective)


# What rewrites the output of a convolution right after it.
IN_PLACE = {
    "module": lambda: nn.ReLU(inplace=True),
    "function": lambda: Function(lambda x: F.relu(x, inplace=True)),
    "operator": lambda: Function(lambda x: x.mul_(0.0)),
}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("what", IN_PLACE)
def test_outputs_are_kept_before_they_are_rewritten(what):
    model, (x, y) = network(), images()
    model.relu = IN_PLACE[what]()
    objective = Objective(model, x, y, F.cross_entropy, batch_size=4)
    found, after = outputs_of(objective, flat(model), ["conv", "relu"], 11)
    with torch.no_grad():
        expected = F.conv2d(x, model.conv.weight, model.conv.bias)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (expected < 0).any()
    assert after.min() >= 0
    counted = activations(as_path(flat(model)[None]), objective, modules=["conv"])
    assert counted.zeros.tolist() == [[0.0]]


def test_small_numbers_of_double_precision_are_not_zero():
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight.fill_(1e-60), model.bias.zero_()
    x = torch.ones(5, 3, dtype=torch.float64)
    objective = Objective(model, x, torch.zeros(5, dtype=torch.long), F.cross_entropy)
    found = activations(as_path(flat(model)[None]), objective)
    assert (found.zeros.item(), found.dead.item()) == (0.0, 0.0)


def dead_share(model, x, name, axis, y=None):
    """What is found, after a check of what modules put out against a call of one's own."""
    y = torch.zeros(len(x)) if y is None else y
    objective = Objective(model, x, y, lambda outputs, y: outputs.float().mean(), check=False)
    objective.data.batch_size = 4
    found = activations(as_path(flat(model)[None]), objective, modules=[name])
    outputs: list[Any] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda _, __, output: outputs.append(output.detach().clone().numpy())
    )
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    (values,) = outputs
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    expected = (values == 0).all(axis=others)
    assert len(expected) == values.shape[axis]
    assert found.dead[0, 0] == expected.mean()
    return found.dead[0, 0]


def with_dead(layer, units):
    """A layer some of whose units are far below zero."""
    with torch.no_grad():
        layer.bias[units] = -1000.0
    return layer


class Steps(nn.Sequential):
    """Modules and functions, one after the other."""

    def __init__(self, *steps):
        super().__init__(*(s if isinstance(s, nn.Module) else Function(s) for s in steps))


class Bare(nn.Module):
    """Two layers and what is no module between them."""

    def __init__(self, layer, between, relu=None):
        super().__init__()
        self.layer, self.relu = layer, relu or nn.ReLU()
        self.between = [between]

    def forward(self, x):
        return self.relu(self.between[0](self.layer(x)))


class Kernel(nn.Module):
    """A convolution of one's own."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return F.conv2d(x, self.kernel, self.bias)


class KernelOfSeries(nn.Module):
    """A convolution of one's own over series."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return F.conv1d(x, self.kernel, self.bias)


class Shift(nn.Module):
    """Adds a number to each channel of a series."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, 3, 1))

    def forward(self, x):
        return x + self.shift


class Dense(nn.Module):
    """A linear layer of one's own, its weight the other way round."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return x @ self.weight + self.bias


def cases():
    """Networks with one dead unit of four: data, the module that is looked at, its unit axis."""
    torch.manual_seed(0)
    dead, linear = [2], nn.Linear(5, 4)
    picture, tokens = torch.randn(10, 3, 7, 7), torch.randn(10, 7, 5)
    series = torch.randn(10, 3, 9)

    shift = Shift()
    with torch.no_grad():
        shift.shift[:, 2] = -1000.0

    def conv():
        return with_dead(nn.Conv2d(3, 4, 3), dead)

    def conv1d():
        return with_dead(nn.Conv1d(3, 4, 3), dead)

    def fc():
        return with_dead(nn.Linear(5, 4), dead)

    add = lambda x: x + 0.0  # noqa: E731  # nothing of the layer's own memory is left
    return {
        "images": (Steps(conv(), nn.ReLU()), picture, "1", 1),
        "images, in place": (Steps(conv(), nn.ReLU(inplace=True)), picture, "1", 1),
        "series": (Steps(conv1d(), nn.ReLU()), series, "1", 1),
        "features": (Steps(fc(), nn.ReLU()), tokens[:, 0], "1", 1),
        "tokens": (Steps(fc(), nn.ReLU()), tokens, "1", 2),
        "tokens of images": (Steps(fc(), nn.ReLU()), torch.randn(10, 4, 4, 5), "1", 3),
        "tokens as many as units": (Steps(fc(), nn.ReLU()), tokens[:, :4], "1", 2),
        "batch norm": (
            Steps(conv(), with_dead(nn.BatchNorm2d(4), dead), nn.ReLU()),
            picture,
            "2",
            1,
        ),
        "batch norm of series": (
            Steps(conv1d(), with_dead(nn.BatchNorm1d(4), dead), nn.ReLU()),
            series,
            "2",
            1,
        ),
        "group norm": (
            Steps(conv(), with_dead(nn.GroupNorm(2, 4), dead), nn.ReLU()),
            picture,
            "2",
            1,
        ),
        "layer norm": (
            Steps(linear, with_dead(nn.LayerNorm(4), dead), nn.ReLU()),
            tokens,
            "2",
            2,
        ),
        "dropout and pooling": (
            Steps(conv(), nn.MaxPool2d(2), nn.Dropout2d(), nn.ReLU()),
            picture,
            "3",
            1,
        ),
        "channels last": (
            Steps(conv(), lambda x: x.permute(0, 2, 3, 1), nn.ReLU()),
            picture,
            "2",
            3,
        ),
        "channels last, by a function": (
            Bare(conv(), lambda x: x.permute(0, 2, 3, 1) + 0.0),
            picture,
            "relu",
            3,
        ),
        "patches": (
            Bare(conv(), lambda x: x.flatten(2).transpose(1, 2)),
            picture,
            "relu",
            2,
        ),
        "patches, by a function": (
            Bare(conv(), lambda x: x.flatten(2).transpose(1, 2) + 0.0),
            picture,
            "relu",
            2,
        ),
        "series turned, as long as wide": (
            Bare(conv1d(), lambda x: x[..., :4].transpose(1, 2)),
            series,
            "relu",
            2,
        ),
        "pooled": (
            Steps(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU()),
            picture,
            "3",
            1,
        ),
        "shortcut": (Bare(conv(), add), picture, "relu", 1),
        "shortcut of tokens": (Bare(fc(), add), tokens, "relu", 2),
        "a function of one's own": (Bare(conv(), add, nn.SELU()), picture, "layer", 1),
        "kernel of one's own": (Steps(with_dead(Kernel(), dead), nn.ReLU()), picture, "1", 1),
        "kernel of one's own over series": (
            Steps(with_dead(KernelOfSeries(), dead), nn.ReLU()),
            series[..., :6],  # as many places as channels are left
            "1",
            1,
        ),
        "a shift of channels": (Steps(shift, nn.ReLU()), series, "1", 1),
        "weights of one's own": (Steps(with_dead(Dense(), dead), nn.ReLU()), tokens, "1", 2),
        "in a block": (Steps(Steps(conv(), nn.ReLU()), nn.Identity()), picture, "0", 1),
    }


@pytest.mark.parametrize("case", cases())
def test_units_are_channels_of_images_and_features_of_tokens(case):
    model, x, name, axis = cases()[case]
    share = dead_share(model, x, name, axis)
    assert share == 0.0 if name == "layer" else share >= 0.25


def test_flattened_units_are_each_number():
    model = Steps(with_dead(nn.Conv2d(3, 4, 3), [2]), nn.ReLU(), nn.Flatten(), nn.ReLU())
    assert dead_share(model, torch.randn(9, 3, 6, 6), "3", 1) == 0.25


def test_sequences_with_time_first_are_counted_by_features():
    torch.manual_seed(0)
    cell = nn.RNN(5, 4, nonlinearity="relu")  # (T, N, F): the objective's first axis is time
    with torch.no_grad():
        cell.bias_ih_l0[1] = -1000.0
    objective = Objective(
        cell, torch.randn(6, 3, 5), None, lambda out: out[0].sum(), batch_size=6, check=False
    )
    found = activations(as_path(flat(cell)[None]), objective, modules=[""])
    assert found.dead.tolist() == [[0.25]]


def test_a_unit_that_lives_in_one_batch_is_not_dead():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    x = torch.tensor([[-1.0, -1.0]] * 7 + [[-1.0, 1.0]])
    objective = Objective(model, x, torch.zeros(8), lambda out, y: out.mean(), batch_size=4)
    found = activations(as_path(np.eye(2).reshape(1, 4)), objective, modules=["1"])
    assert (found.dead.tolist(), found.zeros.tolist()) == ([[0.5]], [[15 / 16]])


class Attending(nn.Module):
    """A transformer whose evaluation takes a fused kernel, which runs no module inside."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(x)[:, 0])


def test_layers_of_a_transformer():
    torch.manual_seed(0)
    model, x = Attending(), torch.randn(9, 5, 8)
    inner = model.encoder.layers[1]
    with_dead(inner.linear1, [0, 1, 2, 3])
    objective = Objective(model, x, torch.randint(3, (9,)), F.cross_entropy)
    path = as_path(flat(model)[None])
    names = ["encoder.layers.1.linear1", "encoder.layers.1.self_attn", "encoder.layers.1.norm2"]
    linear, attention, normed = outputs_of(objective, flat(model), names, 9)
    with torch.no_grad():
        torch.backends.mha.set_fastpath_enabled(False)
        hidden = model.eval().encoder.layers[0](x)
        one = inner.norm1(hidden + inner.self_attn(hidden, hidden, hidden)[0])
        two = inner.norm2(one + inner.linear2(F.relu(inner.linear1(one))))
        torch.backends.mha.set_fastpath_enabled(True)
    np.testing.assert_allclose(linear, inner.linear1(one).detach(), atol=1e-5)
    np.testing.assert_allclose(
        attention, inner.self_attn(hidden, hidden, hidden)[0].detach(), atol=1e-5
    )
    np.testing.assert_allclose(normed, two, atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()
    found = activations(path, objective)
    assert found.names[-1] == "head"
    assert "encoder.layers.1.self_attn.out_proj" not in found.names
    with pytest.raises(UnsupportedError, match="out_proj does not run"):
        activations(path, objective, modules=["encoder.layers.1.self_attn.out_proj"])


def test_parametrised_layers_are_layers_and_activation_functions_of_others_are_found():
    class Loud(nn.ReLU):
        pass

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        Loud(),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)),
    )
    assert default_modules(model) == ("1", "2")
    x = torch.randn(6, 3)
    objective = Objective(model, x, torch.randint(2, (6,)), F.cross_entropy)
    assert activations(as_path(flat(model)[None]), objective).names == ("1", "2")
    (found,) = outputs_of(objective, flat(model), ["2"], 6)
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x), atol=1e-6)


def test_experts_that_do_not_run_for_every_batch_are_left_out():
    class Choosing(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
            self.head = nn.Linear(2, 2)

        def forward(self, x):
            for chosen, expert in ((x[:, 0] > 0, self.one), (x[:, 0] <= 0, self.two)):
                if chosen.any():
                    x = x.index_put((chosen,), expert(x[chosen]))
            return self.head(x)

    torch.manual_seed(0)
    model, x = Choosing(), torch.rand(8, 2) + 1
    x[4:] *= -1
    objective = Objective(model, x, torch.randint(2, (8,)), F.cross_entropy, batch_size=4)
    path = as_path(flat(model)[None])
    assert activations(path, objective).names == ("head",)
    with pytest.raises(UnsupportedError, match="two does not run"):
        activations(path, objective, modules=["two"])


def test_every_batch_finds_the_network_as_the_first():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("seen", torch.zeros(1))
            self.last = None

        def forward(self, x):
            self.seen += 1
            x = self.layer(x) * self.seen + (0 if self.last is None else 100)
            self.last = x
            return x

    torch.manual_seed(0)
    model, x = Counting(), torch.randn(8, 2)
    objective = Objective(
        model, x, torch.randint(2, (8,)), F.cross_entropy, batch_size=2, check=False
    )
    (found,) = outputs_of(objective, flat(model), [""], 8)
    with torch.no_grad():
        np.testing.assert_allclose(found, model.layer(x), atol=1e-6)
    assert (model.seen.item(), model.last) == (0.0, None)


def test_names_are_those_of_the_model_without_its_wrappers():
    model, (x, y) = network(), images()
    wrapped = nn.Sequential(OrderedDict(inner=torch.optim.swa_utils.AveragedModel(model)))
    objective = Objective(wrapped, x, y, F.cross_entropy)
    path = as_path(flat(wrapped)[None])
    assert activations(path, objective).names == ("inner.relu", "inner.fc")
    same = activations(path, objective, modules=["inner.module.relu"])
    np.testing.assert_array_equal(same.counts[0], activations(path, objective).counts[0])


def test_a_state_whose_layers_overflow_is_left_out():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy)
    vector = flat(model).astype(np.float32)
    huge = np.full_like(vector, 3e38)
    found = activations(as_path(np.array([vector, huge])), objective)
    assert (found.steps.tolist(), found.left_out) == ([0], (1,))


def test_parts_that_are_compiled_are_looked_into():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    model = nn.Sequential(torch.compile(block, backend="eager"), nn.Linear(4, 2))
    x = torch.randn(9, 8)
    objective = Objective(model, x, torch.randint(2, (9,)), F.cross_entropy)
    found = activations(as_path(flat(model)[None]), objective)
    assert found.names == ("0.1", "1")
    with torch.no_grad():
        zeros = (F.relu(block[0](x)) == 0).float().mean().item()
    assert found.zeros[0, 0] == pytest.approx(zeros)
    assert type(model[0]).__name__ == "OptimizedModule"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_scripted_parts_are_passed_over():
    torch.manual_seed(0)
    inner = torch.jit.script(nn.Sequential(nn.Linear(8, 4), nn.ReLU()))
    model, x = nn.Sequential(inner, nn.Linear(4, 2)), torch.randn(9, 8)
    objective = Objective(model, x, torch.randint(2, (9,)), F.cross_entropy)
    path = as_path(flat(model)[None])
    assert activations(path, objective).names == ("1",)
    with pytest.raises(UnsupportedError, match=r"0.1 does not run.*TorchScript"):
        activations(path, objective, modules=["0.1"])


class Recorded:
    """A path whose states have side tensors of their own."""

    def __init__(self, states, sides):
        self._path, self._sides = as_path(states), sides

    def __len__(self):
        return len(self._path)

    def read(self, *arguments):
        return self._path.read(*arguments)

    def sides(self, index):
        return self._sides[index]

    def side_key(self, index):
        return str(index)

    def __getattr__(self, name):
        return getattr(self._path, name)


def test_recorded_states_have_their_own_running_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    x, y = torch.randn(9, 3), torch.randint(2, (9,))
    objective = Objective(model, x, y, F.cross_entropy, batch_size=4)
    vector = flat(model).astype(np.float32)
    sides = [
        {
            "1.running_mean": torch.randn(4) + shift,
            "1.running_var": torch.rand(4) + 0.1,
            "1.num_batches_tracked": torch.tensor(shift),
        }
        for shift in range(3)
    ]
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    path = Recorded(np.stack([vector] * 3), sides)
    found = activations(path, objective, modules=["2"])
    for index, own in enumerate(sides):
        with torch.no_grad():
            hidden = (model[0](x) - own["1.running_mean"]) / torch.sqrt(
                own["1.running_var"] + model[1].eps
            )
            zero = (hidden * model[1].weight + model[1].bias) <= 0
        assert found.zeros[0, index] == pytest.approx(zero.float().mean().item())
        assert found.dead[0, index] == pytest.approx(zero.all(0).float().mean().item())
    assert len(set(found.zeros[0])) > 1
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    own = Objective(model, x, y, F.cross_entropy, buffers="model")
    assert len(set(activations(path, own, modules=["2"]).zeros[0])) == 1
