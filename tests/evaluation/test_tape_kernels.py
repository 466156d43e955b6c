"""Kernels that a recording takes or leaves: compiled, scripted and fused ones."""

import copy

import pytest
import torch
from recorded_passes import (
    Small,
    assert_replays,
    moved,
    names_of,
    numbers,
    of,
    replay,
    words,
)
from torch import nn

from losspath.errors import UnsupportedError
from losspath.evaluation.compiler.tape import record
from losspath.evaluation.isolation.kernels import unfused

# Modules that are not made of Python.


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, numbers())])
def test_scripted_modules_are_refused(make):
    model = nn.Sequential(nn.Linear(6, 6), make(nn.Linear(6, 4))).eval()
    with pytest.raises(UnsupportedError, match="scripted or traced"):
        record(model, numbers())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_functions_are_refused():
    scripted = torch.jit.trace(lambda t: t * t.sum(), numbers())
    with pytest.raises(UnsupportedError, match="cannot be watched"):
        record(of(lambda m, x: m.head(scripted(x))), numbers())
    with pytest.raises(UnsupportedError, match="cannot be watched"):
        record(of(lambda m, x: x * scripted(m.head.weight).sum()), numbers())


def test_compiled_modules_are_recorded_as_they_were_written():
    torch._dynamo.reset()
    inner = torch.compile(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), backend="eager")
    model = nn.Sequential(inner, nn.Linear(6, 4)).eval()
    for _ in range(2):  # before the code is compiled, and after
        tape = record(model, numbers())
        assert [name for name in names_of(tape) if name] == ["linear", "relu", "linear"]
        assert sorted(tape.parameters.values()) == ["0.0.bias", "0.0.weight", "1.bias", "1.weight"]
        other = copy.deepcopy(nn.Sequential(inner._orig_mod, model[1]))
        other = moved(other)
        with torch.no_grad():
            expected = other(numbers(1))
            model(numbers())
        torch.testing.assert_close(replay(tape, other, numbers(1)), expected)
    torch._dynamo.reset()


def hidden(x):
    """A function that overrides see as one, and that computes with more than it is given."""
    if torch.overrides.has_torch_function((x,)) or torch._C._is_torch_function_mode_enabled():
        return torch.overrides.handle_torch_function(hidden, (x,), x)
    return x @ hidden.model.head.weight.T


def test_functions_that_know_a_parameter_are_refused():
    model = hidden.model = of(lambda m, x: hidden(x))
    with pytest.raises(UnsupportedError, match="cannot be watched"):
        record(model, numbers())


class Wrapped(torch.Tensor):
    pass


def test_tensors_of_ones_own_type_are_refused():
    with pytest.raises(UnsupportedError, match="of their own"):
        record(of(lambda m, x: m.head(x) * m.a, a=torch.ones(4).as_subclass(Wrapped)), numbers())


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: {m.head(x)},
        lambda m, x: Small(),
        lambda m, x: (m.head(x), range(3)),
        lambda m, x: m.head(x).as_strided((5, 2), (1, 1)),
        lambda m, x: m.head(x) + torch.normal(x.sum(), 1.0, generator=torch.Generator()),
        lambda m, x: m.head(nn.Parameter(x)),
        lambda m, x: m.inner.weight.grad + x.sum(),
    ],
)
def test_what_cannot_be_written_down_is_refused(forward):
    model = of(forward)
    model.inner.weight.grad = torch.ones(6, 6)
    with pytest.raises(UnsupportedError):
        record(model, numbers())


# Attention.


class Encoder(nn.Module):
    def __init__(self, mask="none", layers=2):
        super().__init__()
        self.words, self.head, self.mask = nn.Embedding(11, 8, padding_idx=0), nn.Linear(8, 4), mask
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers)

    def forward(self, x):
        options = {}
        if "causal" in self.mask:
            options = {
                "mask": nn.Transformer.generate_square_subsequent_mask(x.shape[1]),
                "is_causal": True,
            }
        if "padding" in self.mask:
            options["src_key_padding_mask"] = x == 0
        return self.head(self.layers(self.words(x), **options)[:, 0])


def sentences(seed):
    found = words(seed).clamp(min=1)
    found[1, 3:] = 0
    found[2, 1 + seed :] = 0
    return found


def fused_calls(tape):
    return [name for name in names_of(tape) if name == "_transformer_encoder_layer_fwd"]


def test_fused_kernels_are_recorded_where_there_is_no_mask():
    tape = assert_replays(Encoder().eval(), sentences(1), sentences(2))
    assert len(fused_calls(tape)) == 2


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("mask", ["causal", "padding", "causal and padding"])
def test_fused_kernels_are_not_recorded_with_a_mask(mask):
    torch.manual_seed(0)
    model = Encoder(mask).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    tape = record(model, sentences(1))
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert not fused_calls(tape)
    other = moved(model)
    with torch.no_grad(), unfused():
        expected = other(sentences(2))
    assert expected.isfinite().all()
    torch.testing.assert_close(replay(tape, other, sentences(2)), expected)


def test_unfused_kernels_are_those_of_training():
    """With a mask and padding torch's fused kernels give NaN where training has numbers."""
    torch.manual_seed(0)
    model = Encoder("causal and padding")
    for module in model.modules():
        module.p = 0.0 if isinstance(module, nn.Dropout) else getattr(module, "p", None)
    inputs = sentences(1).flip(1)  # padding comes first
    with torch.no_grad():
        model.train()
        for layer in model.layers.layers:
            layer.self_attn.dropout = 0.0
        trained = model(sentences(1))
        model.eval()
        with unfused():
            torch.testing.assert_close(model(sentences(1)), trained)
            assert not torch.backends.mha.get_fastpath_enabled()
            assert model(inputs).shape == (5, 4)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_flag_is_given_back_when_something_fails():
    for value in (True, False):
        torch.backends.mha.set_fastpath_enabled(value)
        try:
            with pytest.raises(ZeroDivisionError), unfused():
                raise ZeroDivisionError
            assert torch.backends.mha.get_fastpath_enabled() == value
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


class Keeping(Encoder):
    """Keeps a product of its parameters from the first call on, as caches do."""

    product = None

    def forward(self, x):
        if self.product is None:
            self.product = self.head.weight @ self.head.weight.T
        return super().forward(x) @ self.product


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_the_first_attempt_left_behind_is_not_taken_for_a_constant():
    with pytest.raises(UnsupportedError, match="from one call to the next"):
        record(Keeping("padding").eval(), sentences(1))
