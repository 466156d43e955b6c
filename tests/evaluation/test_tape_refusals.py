"""Forward passes that no recording can stand for."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded_passes import (
    experts,
    numbers,
    of,
    replay,
)
from torch import nn

from losspath.errors import UnsupportedError
from losspath.evaluation.compiler.tape import record
from losspath.evaluation.compiler.watch import Watch

# What each of these gives by a recording that does not refuse it is not what the module gives.


def packed(m, x):
    lengths = (x[:, 0] > 0).long() + 1
    sequence = nn.utils.rnn.pack_padded_sequence(
        x.view(5, 2, 3), lengths, batch_first=True, enforce_sorted=False
    )
    return nn.utils.rnn.pad_packed_sequence(sequence, batch_first=True)[0]


def fixed_lengths(m, x):
    sequence = nn.utils.rnn.pack_padded_sequence(x.view(5, 2, 3), [2, 2, 1, 1, 1], batch_first=True)
    return sequence.data


def count(t):
    return (t > 0).sum()


SIZES = {
    "experts that are skipped": experts,
    "nonzero": lambda m, x: m.head(x[(x[:, 0] > 0).nonzero().flatten()]).mean(),
    "nonzero as a tuple": lambda m, x: x[torch.nonzero(x > 0, as_tuple=True)].sum() / len(x),
    "where": lambda m, x: len(torch.where(x > 0)[0]) * m.head(x),
    "argwhere": lambda m, x: len(torch.argwhere(x > 0)) * m.head(x),
    "masked_select": lambda m, x: x.masked_select(x > 0).numel() * m.head(x),
    "a mask as an index": lambda m, x: m.head(x[x[:, 0] > 0]).sum() / len(x[x[:, 0] > 0]),
    "a mask in a tuple": lambda m, x: x[x[:, 0] > 0, 1:].numel() * m.head(x),
    "a mask of one number": lambda m, x: m.head(x)[x.sum() > 0].numel() * m.head(x),
    "a mask of bytes": lambda m, x: x[(x[:, 0] > 0).byte()].numel() * m.head(x),
    "index_put by a mask": lambda m, x: m.head(x.index_put((x > 0,), torch.tensor(0.0))),
    "unique": lambda m, x: len(torch.unique(x > 0, dim=0)) * m.head(x),
    "unique_consecutive": lambda m, x: len(torch.unique_consecutive(x > 0)) * m.head(x),
    "repeat_interleave": lambda m, x: m.head(x.repeat_interleave((x[:, 0] > 0).long(), dim=0)),
    "bincount": lambda m, x: len(torch.bincount((9 * x[:, 0] ** 2).long())) * m.head(x),
    "one_hot of any width": lambda m, x: F.one_hot((9 * x[:, 0] ** 2).long()).shape[1] * m.head(x),
    "packed sequences": packed,
    "packed sequences of fixed lengths": fixed_lengths,
    "slices": lambda m, x: m.head(x[: count(x)]).mean(0),
    "arange": lambda m, x: torch.arange(count(x)).float().mean() + m.head(x),
    "sizes": lambda m, x: x.new_ones(count(x), 2).sum() + m.head(x),
    "expand": lambda m, x: m.head(x)[:1, :1].expand(count(x), 2),
    "tensor_split": lambda m, x: m.head(x.tensor_split(count(x)[None] % 4)[0]).sum(0),
    "sparse": lambda m, x: x.relu().to_sparse()._nnz() * m.head(x),
    "nested": lambda m, x: torch.nested.nested_tensor([x[0], x[1, :3]]).to_padded_tensor(0.0),
    "nested of layout jagged": lambda m, x: torch.nested.nested_tensor(
        [x[0], x[1, :3]], layout=torch.jagged
    ).to_padded_tensor(0.0),
    "combinations": lambda m, x: torch.combinations(x[0]),
}


def test_what_a_recording_of_changing_sizes_would_give(monkeypatch):
    """The reason to refuse: it is right on the data that it was made with, and on no other."""
    model = of(experts)
    first = numbers(1).abs()
    first[:, 0] += 9.0
    monkeypatch.setattr(Watch, "_check_size", lambda *arguments: None)
    tape = record(of(experts), first)
    torch.testing.assert_close(replay(tape, model, first), model(first).detach())
    found, right = replay(tape, model, -first), model(-first).detach()
    assert (found - right).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_depend_on_data_are_refused(name):
    model = of(SIZES[name])
    with torch.no_grad():
        model(numbers())  # it is a model that works
    with pytest.raises(UnsupportedError, match=r"size|reads values|nested|own|watched"):
        record(model, numbers())


READS = {
    "item": lambda m, x: m.head(x) * x.sum().item(),
    "tolist": lambda m, x: m.head(x) * x[0].tolist()[0],
    "numpy": lambda m, x: m.head(torch.from_numpy(2 * x.numpy())),
    "asarray": lambda m, x: m.head(torch.from_numpy(2 * np.asarray(x))),
    "dlpack": lambda m, x: m.head(torch.from_dlpack(x.clone())),
    "NumPy by dlpack": lambda m, x: m.head(torch.from_numpy(np.from_dlpack(x) * 2)),
    "a branch": lambda m, x: m.head(x if x.sum() > 0 else -x),
    "float": lambda m, x: m.head(x) * float(x.sum()),
    "int": lambda m, x: m.head(x) * int(x.sum()),
    "a range": lambda m, x: sum(m.head(x) for _ in range(count(x))),
    "membership": lambda m, x: m.head(x) * (count(x) in [torch.tensor(3), torch.tensor(4)]),
    "a list's item": lambda m, x: m.head(x) * [1, 2, 3][count(x) % 3],
    "equal": lambda m, x: m.head(x) * torch.equal(x, x.abs()),
    "allclose": lambda m, x: m.head(x) * torch.allclose(x, x.abs()),
    "text": lambda m, x: m.head(x) * len(f"{x.sum()}"),
    "representation": lambda m, x: m.head(x) * len(repr(x)),
    "an address": lambda m, x: m.head(x) * (x.data_ptr() % 2),
    "a storage": lambda m, x: m.head(x) * x.untyped_storage()[0],
    "a list of tensors": lambda m, x: m.head(x) * torch.Tensor([x[0, 0], 1, 1, 1]),
    "a list of tensors, typed": lambda m, x: m.head(x) * torch.FloatTensor([x[0, 0], 1, 1, 1]),
    "caught": lambda m, x: caught(m, x),
    "wrapped": lambda m, x: wrapped(m, x),
    "non-zero": lambda m, x: m.head(x) * torch.is_nonzero(x[0, 0] > 0),
    "all": lambda m, x: m.head(x) if (x > -100).all() else x,
    "assertions": lambda m, x: checked(m, x),
}


def caught(m, x):
    try:
        return m.head(x) * x.sum().item()
    except Exception:
        return m.head(x)


def wrapped(m, x):
    try:
        return m.head(x) * x.sum().item()
    except Exception as error:
        raise ValueError("no such value") from error


def checked(m, x):
    assert (x < 100).all(), "too large"
    return m.head(x)


@pytest.mark.parametrize("name", READS)
def test_reading_values_is_refused(name):
    model = of(READS[name])
    with torch.no_grad():
        model(numbers())
    with pytest.raises(UnsupportedError, match=r"reads values|a size depends|of numbers where"):
        record(model, numbers())


# Held tensors that are more than constants.


class Tied(nn.Module):
    def __init__(self, view, where="attribute"):
        super().__init__()
        self.enc, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        tied = view(self.enc.weight)
        if where == "buffer":
            tied = nn.Buffer(tied.detach())
        elif where == "list":
            tied = [tied]
        self.tied = tied

    def forward(self, x):
        tied = self.tied[0] if isinstance(self.tied, list) else self.tied
        return self.head(torch.tanh(self.enc(x)) @ tied)


@pytest.mark.parametrize("where", ["attribute", "buffer", "list"])
@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.detach().t(),
        lambda w: w.data[2:3].expand(6, 6),
        lambda w: torch.from_numpy(w.data.numpy().T),
    ],
    ids=["transposed", "expanded", "by NumPy"],
)
def test_weights_tied_by_a_stored_view_are_refused(view, where):
    with pytest.raises(UnsupportedError, match="shares memory with a parameter"):
        record(Tied(view, where).eval(), numbers())


@pytest.mark.parametrize(
    "view", [lambda w: w.detach(), lambda w: nn.Parameter(w.data), lambda w: w.data[:, :6]]
)
def test_another_tensor_of_the_very_numbers_of_a_parameter_is_that_parameter(view):
    torch.manual_seed(0)
    model = Tied(view).eval()
    tape = record(model, numbers())
    first = "tied" if "tied" in dict(model.named_parameters()) else "enc.weight"
    assert sorted(tape.parameters.values()) == sorted(
        ["enc.bias", first, "head.bias", "head.weight"]
    )
    assert not tape.constants
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.enc.weight *= 2
        other.tied.copy_(other.enc.weight)
        torch.testing.assert_close(replay(tape, other, numbers(1)), other(numbers(1)))


def test_a_product_computed_before_is_refused():
    model = of(lambda m, x: m.head(x) @ m.product)
    model.__dict__["product"] = model.head.weight @ model.head.weight.T
    with pytest.raises(UnsupportedError, match="computed from its parameters before"):
        record(model, numbers())
    model.__dict__["product"] = model.product.detach()  # none can tell
    assert len(record(model, numbers()).constants) == 1


class Stateful(nn.Module):
    def __init__(self, nested):
        super().__init__()
        self.cell, self.nested = nn.GRUCell(6, 4), nested
        self.state = [torch.zeros(5, 4)] if nested else torch.zeros(5, 4)

    def forward(self, x):
        state = self.cell(x, self.state[0] if self.nested else self.state)
        self.state = [state] if self.nested else state
        return state


@pytest.mark.parametrize("nested", [False, True])
def test_what_is_carried_from_one_call_to_the_next_is_refused(nested):
    with pytest.raises(UnsupportedError, match="from one call to the next"):
        record(Stateful(nested).eval(), numbers())


def test_names_may_be_given():
    model = of(lambda m, x: m.head(x))
    tape = record(model, numbers(), {"a": model.head.weight, "b": model.inner.weight})
    assert list(tape.parameters.values()) == ["a"]
    assert [tensor is model.head.bias for tensor in tape.constants.values()] == [True]


# Randomness, gradients, casts.

RANDOM = {
    "dropout": lambda m, x: F.dropout(m.head(x), 0.5, training=True),
    "dropout of channels": lambda m, x: F.dropout1d(m.head(x)[None], 0.5, training=True),
    "normal": lambda m, x: m.head(x) + torch.randn(4),
    "rand_like": lambda m, x: m.head(x + torch.rand_like(x)),
    "permutation": lambda m, x: m.head(x)[torch.randperm(5)],
    "in place": lambda m, x: m.head(x) + torch.empty(4).uniform_(),
    "multinomial": lambda m, x: m.head(x)[torch.multinomial(torch.ones(5), 5)],
    "rrelu": lambda m, x: F.rrelu(m.head(x), training=True),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "gumbel": lambda m, x: F.gumbel_softmax(m.head(x)),
    "Python": lambda m, x: m.head(x) * random.random(),
    "NumPy": lambda m, x: m.head(x) * np.random.rand(),  # noqa: NPY002
    "seeded": lambda m, x: seeded(m, x),
    "a generator": lambda m, x: m.head(x) + torch.randn(4, generator=torch.Generator()),
    "whole numbers": lambda m, x: m.head(x) + torch.empty(4).random_(),
    "a distribution": lambda m, x: torch.distributions.Normal(m.head(x), 1.0).sample(),
}


def seeded(m, x):
    """The same at every call; a recorded call would draw anew."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return m.head(x) + torch.randn(4)


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_refused(name):
    with torch.random.fork_rng(), pytest.raises(UnsupportedError):
        record(of(RANDOM[name]), numbers())


def differentiated(m, x):
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        return torch.autograd.grad(m.head(x).sum(), x)[0]


def backwards(m, x):
    with torch.enable_grad():
        weight = m.head.weight.detach().requires_grad_()
        (x @ weight.T).sum().backward()
    return weight.grad * x.sum()


@torch.enable_grad()
def decorated(m, x):
    return torch.autograd.grad(m.head(x).sum(), m.head.weight)[0]


def directional(m, x):
    with torch.autograd.forward_ad.dual_level():
        made = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        return torch.autograd.forward_ad.unpack_dual(m.head(made)).tangent


GRADIENTS = {
    "autograd.grad": differentiated,
    "backward": backwards,
    "decorated": decorated,
    "forward mode": directional,
    "vmap": lambda m, x: torch.vmap(m.head)(x),
    "func.grad": lambda m, x: torch.func.grad(lambda v: m.head(v).sum())(x),
    "jacrev": lambda m, x: torch.func.jacrev(m.head)(x[0]),
    "jvp": lambda m, x: torch.func.jvp(m.head, (x,), (x,))[1],
    "a call with other weights": lambda m, x: torch.vmap(
        lambda w: torch.func.functional_call(m.head, {"weight": w}, (x,))
    )(m.head.weight[None]),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_and_transforms_are_refused(name):
    model = of(GRADIENTS[name])
    with torch.no_grad():
        model(numbers())
    with pytest.raises(UnsupportedError, match=r"gradients|transforms of torch\.func"):
        record(model, numbers())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_casts_that_a_replay_would_not_make_are_refused():
    def forward(m, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.head(x)

    with pytest.raises(UnsupportedError, match="autocast"):
        record(of(forward), numbers())
    with torch.autocast("cpu"), pytest.raises(UnsupportedError, match="autocast"):
        record(of(lambda m, x: m.head(x)), numbers())
