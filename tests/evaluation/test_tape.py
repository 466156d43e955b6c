"""Recorded forward passes against the modules themselves, on other data and parameters."""

import collections
import copy
import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluated_models import KINDS, sample_case, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from losspath.errors import UnsupportedError
from losspath.evaluation.kernels import unfused
from losspath.evaluation.plan import make_plan
from losspath.evaluation.rewrites import rewrite
from losspath.evaluation.tape import record
from losspath.evaluation.watch import Watch
from losspath.parameters import named_parameters


def of(forward, **held):
    """A module of two small layers whose forward pass is a function (module, x)."""
    module = Small()
    for name, value in held.items():
        if isinstance(value, nn.Buffer | nn.Module):
            setattr(module, name, value)
        else:
            module.__dict__[name] = value
    module.function = forward
    return module.eval()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        return self.function(self, x)


def numbers(seed=0, count=5):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def words(seed=0, count=5):
    return torch.randint(11, (count, 6), generator=torch.Generator().manual_seed(seed))


def moved(model, seed=9):
    """A copy with other parameters."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


def replay(tape, model, inputs):
    """What the recorded calls give for a model's parameters and a batch."""
    module = torch.fx.GraphModule(nn.Module(), tape.graph)
    parameters = dict(named_parameters(model))
    arguments = []
    for node in tape.graph.nodes:
        if node is tape.input:
            arguments.append(inputs)
        elif node.op == "placeholder" and node in tape.parameters:
            arguments.append(parameters[tape.parameters[node]])
        elif node.op == "placeholder":
            arguments.append(tape.constants[node])
    with torch.no_grad():
        return module(*arguments)


def planned(tape, model, inputs):
    """The same through a plan in which all parameters change, twice, as points share its parts."""
    parameters = dict(named_parameters(model))
    rewrite(tape.graph)
    plan = make_plan(tape, set(parameters), with_sites=False)
    with torch.no_grad():
        fixed = [parameters[name] for name in plan.shared_parameters]
        carried = plan.shared(inputs, *fixed, *plan.shared_constants)
        given = [parameters[name] for name in plan.point_parameters]
        plan.point(*carried, *given, *plan.point_constants)
        return plan.point(*carried, *given, *plan.point_constants)


def assert_close(found, expected):
    assert type(found) is type(expected)
    if dataclasses.is_dataclass(expected) and not isinstance(expected, dict):
        found, expected = vars(found), vars(expected)
    torch.testing.assert_close(found, expected, equal_nan=True)


def assert_replays(model, first, *others):
    """Recorded once, it gives what the module gives for other parameters and other data."""
    tape = record(model, first)
    other = moved(model)
    for inputs in (first, *others):
        with torch.no_grad():
            expected = other(inputs.clone())
            kept = copy.deepcopy(inputs)
        assert_close(replay(tape, other, inputs), expected)
        assert torch.equal(inputs, kept)
    tape = record(model, first)
    assert_close(planned(tape, other, others[-1]), expected)
    return tape


def names_of(tape):
    return [getattr(node.target, "__name__", "") for node in tape.graph.nodes]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "counter"])
def test_every_kind_of_model_is_recorded(kind):
    case, other = sample_case(kind), sample_case(kind)
    others = torch.randperm(len(other.inputs), generator=torch.Generator().manual_seed(1))
    other.inputs = other.inputs[others]
    if other.inputs.is_floating_point():
        other.inputs = other.inputs * -0.7
    before = snapshot(case.model)
    case.model.eval()
    assert_replays(case.model, case.inputs, other.inputs)
    case.model.train()
    assert snapshot(case.model) == before


class Gates(nn.Module):
    """Dense experts, weighted by a softmax: every expert sees every sample."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))

    def forward(self, x):
        weights = self.gate(x).softmax(dim=1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return torch.einsum("ne,neo->no", weights, outputs)


class TwoNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.alias = nn.Sequential(self.inner)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.tanh(self.alias(self.inner(x))))


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(11, 8), nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("mask", torch.triu(torch.ones(6, 6, dtype=torch.bool), 1))

    def forward(self, x):
        h = self.words(x)
        mask = self.mask[: x.shape[1], : x.shape[1]]
        return self.head(self.attention(h, h, h, attn_mask=mask, need_weights=False)[0])


class Rotary(nn.Module):
    """Keeps a table that depends on shapes alone, made without gradients in the first pass."""

    def __init__(self):
        super().__init__()
        self.inner, self.table = nn.Linear(6, 4), None

    @torch.no_grad()
    def angles(self, length):
        if self.table is None:
            self.table = torch.outer(torch.arange(length), torch.ones(6)).cos()
        return self.table

    def forward(self, x):
        return self.inner(x * self.angles(x.shape[0]))


class Looped(nn.Module):
    """A recurrence by hand, over the rows of a batch."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(6, 4)

    def forward(self, x):
        state = x.new_zeros(1, 4)
        for row in x:
            state = self.cell(row[None], state)
        return state


Named = collections.namedtuple("Named", ["logits", "loss"])


@dataclasses.dataclass
class Made:
    logits: Any
    rest: Any = None


@dataclasses.dataclass
class MadeMapping(collections.OrderedDict):
    logits: Any = None
    hidden: Any = None

    def __post_init__(self):
        self.update(logits=self.logits, hidden=self.hidden)


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Unchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def old_style(layer, apply):
    with pytest.warns(FutureWarning):
        return apply(layer)


def normalised(style):
    def build():
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
        if style == "old":
            model[0] = old_style(model[0], nn.utils.weight_norm)
        elif style == "new":
            nn.utils.parametrizations.weight_norm(model[0])
        else:
            nn.utils.parametrizations.spectral_norm(model[0])
        return model.eval()

    return build


def sequential(*layers):
    return lambda: nn.Sequential(*layers, nn.Linear(6, 4)).eval()


def padded_positions(m, x):
    return m.head(x.masked_fill(x < 0, 0.0)) * torch.where(x[:, :1] > 0, 1.0, 0.5)


RIGHT = {
    "experts without gaps": Gates,
    "a module of two names": TwoNames,
    "a table of the shape": Rotary,
    "old weight norm": normalised("old"),
    "weight norm": normalised("new"),
    "spectral norm": normalised("spectral"),
    "a loop over rows": Looped,
    "gather": lambda: of(lambda m, x: m.head(x.gather(1, x.argsort(dim=1)))),
    "integer indices": lambda: of(lambda m, x: m.head(x)[m.order, [0, 1, 2, 3, 0]], order=ORDER),
    "an index of one number": lambda: of(lambda m, x: m.head(x)[m.order[1]], order=ORDER),
    "the row of the largest": lambda: of(lambda m, x: m.head(x)[x[:, 0].argmax()]),
    "permuted columns": lambda: of(lambda m, x: m.head(x[:, m.o]), o=nn.Buffer(torch.randperm(6))),
    "masks that fill": lambda: of(padded_positions),
    "top-k": lambda: of(lambda m, x: m.head(x).topk(2, dim=1).values),
    "maximum": lambda: of(lambda m, x: m.head(x).max(dim=1).values),
    "sort": lambda: of(lambda m, x: torch.sort(m.head(x), dim=0)[0]),
    "one-hot": lambda: of(lambda m, x: m.inner(F.one_hot(x.argmax(1), 6).float())),
    "einsum": lambda: of(lambda m, x: torch.einsum("ni,oi->no", x, m.head.weight)),
    "squeeze": lambda: of(lambda m, x: m.head(x).sum(1, keepdim=True).squeeze()),
    "reshape by shape": lambda: of(lambda m, x: m.head(x).reshape(x.shape[0] * 2, -1)),
    "transposes": lambda: of(lambda m, x: (m.head(x).T @ m.inner(x)).mT),
    "detached": lambda: of(lambda m, x: m.head(x).data + x.detach().mean()),
    "unpacking": lambda: of(lambda m, x: sum(m.head(x).unbind(1))),
    "parts": lambda: of(lambda m, x: torch.cat(m.head(x).chunk(2, dim=1)[::-1], 1)),
    "an array": lambda: of(lambda m, x: m.head(x * torch.tensor(np.arange(6.0), dtype=x.dtype))),
    "NumPy numbers": lambda: of(lambda m, x: m.head(x * np.float64(2.0)).view(np.int64(-1))),
    "tensors of tensors": lambda: of(lambda m, x: m.inner(torch.tensor([[x[0, 0]] * 6]))),
    "a power": lambda: of(lambda m, x: m.head(x) ** 2 + 2 ** x[:, :4]),
    "a new tensor": lambda: of(lambda m, x: m.head(x) * x.new_tensor([1.0, 2.0, 3.0, 4.0])),
    "repeats": lambda: of(lambda m, x: m.head(x).repeat_interleave(2, dim=0)),
    "no casts": lambda: of(lambda m, x: without_casts(m, x)),
    "half-open gradients": lambda: of(lambda m, x: without_gradients(m, x)),
    "a function of its own": lambda: of(lambda m, x: Doubling.apply(m.head(Doubling.apply(x)))),
    "a function that returns its argument": lambda: of(
        lambda m, x: Unchanged.apply(m.head(Unchanged.apply(x)))
    ),
    "an operator by name": lambda: of(lambda m, x: torch.ops.aten.mul(m.head(x), 2.0)),
    "an overload by name": lambda: of(lambda m, x: torch.ops.aten.mul.Tensor(m.head(x), m.head(x))),
    "a sparse constant": lambda: of(lambda m, x: torch.sparse.mm(m.a, m.head(x)), a=SPARSE),
    "a parameter held twice": lambda: of(
        lambda m, x: m.head(x) @ m.twice.data, twice=nn.Linear(4, 4).weight
    ),
    "in-place layers": sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Dropout(0.5, True)),
    "in-place by position": sequential(
        nn.Linear(6, 6), nn.LeakyReLU(0.2, True), nn.Linear(6, 6), nn.Hardtanh(-1, 1, inplace=True)
    ),
    "in-place operators": lambda: of(lambda m, x: in_place(m.inner(x), x)),
    "in-place methods": lambda: of(
        lambda m, x: m.head(m.inner(x).mul_(2).clamp_(-1, 1).masked_fill_(x > 0, 3.0))
    ),
    "in-place functions": lambda: of(lambda m, x: torch.sigmoid_(F.elu_(m.inner(x)))),
    "in-place shapes": lambda: of(lambda m, x: m.head(x).unsqueeze_(1).squeeze_(1)),
    "whole numbers in place": lambda: of(lambda m, x: whole(m, x)),
    "a namedtuple": lambda: of(lambda m, x: Named(m.head(x), None)),
    "a dataclass": lambda: of(lambda m, x: Made(m.head(x), [x, 3])),
    "a mapping that is a dataclass": lambda: of(lambda m, x: MadeMapping(m.head(x), (m.inner(x),))),
    "a mapping": lambda: of(lambda m, x: {"a": m.head(x), "b": (None, [m.inner(x)])}),
    "a constant among the outputs": lambda: of(lambda m, x: (m.head(x), m.order), order=ORDER),
}
ORDER = torch.tensor([4, 0, 3, 1, 2])
SPARSE = torch.eye(5).to_sparse()


def without_gradients(m, x):
    with torch.no_grad():
        scale = x.abs().mean()
    with torch.set_grad_enabled(m.training):
        return m.head(x / scale)


def without_casts(m, x):
    with torch.autocast("cpu", enabled=False):
        return m.head(x)


def in_place(h, x):
    h += x
    h -= 0.5
    h *= h.abs().mean()
    h /= 3
    h **= 2
    h %= 1.7
    h //= 0.1
    h @= torch.eye(6)
    return h


def whole(m, x):
    k = (x * 10).long()
    k &= 127
    k |= 8
    k ^= 3
    k <<= 2
    k >>= 1
    return m.inner(k.float())


@pytest.mark.parametrize("name", RIGHT)
def test_it_gives_what_the_module_gives_on_other_data(name):
    torch.manual_seed(0)
    model = RIGHT[name]()
    if not isinstance(model, Small | nn.Sequential):
        model.eval()
    assert_replays(model, numbers(1), numbers(2), -numbers(1).flip(0))


def test_a_causal_mask_is_recorded():
    torch.manual_seed(0)
    assert_replays(Causal().eval(), words(1), words(2))


def test_graphs_of_outputs_are_of_the_models_own_type():
    model = of(lambda m, x: MadeMapping(m.head(x)))
    found = replay(record(model, numbers()), model, numbers(1))
    assert type(found) is MadeMapping
    assert torch.equal(found.logits, found["logits"])
    assert found.hidden is None


# What each of these gives by a recording that does not refuse it is not what the module gives.


def experts(m, x):
    top, out = m.inner(x)[:, :4].argmax(1), torch.zeros_like(x)
    for e in range(4):
        i = torch.where(top == e)[0]
        if i.shape[0]:
            out = out.index_add(0, i, x[i] * (e + 1))
    return m.head(out)


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


def spelled(operator):
    return lambda t: getattr(t, operator)(t)


FRACTIONS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
WHOLE = ("and", "or", "xor", "lshift", "rshift")
OPERATORS = [f"__i{name}__" for name in (*FRACTIONS, *WHOLE)]
WRITES = {
    "setitem": lambda t: t.__setitem__((slice(None), 0), 1.0),
    "setitem by a mask": lambda t: t.__setitem__(t > 0, 1.0),
    "copy_": lambda t: t.copy_(torch.ones(())),
    "a view": lambda t: t[0].add_(1),
    "zero_": lambda t: t.zero_(),
    "fill_": lambda t: t.fill_(2.0),
    "index_put_": lambda t: t.index_put_((torch.tensor([0]),), torch.tensor(1.0)),
    "index_fill_": lambda t: t.index_fill_(0, torch.tensor([0]), 1.0),
    "set_": lambda t: t.set_(torch.ones(t.shape)),
    "resize_": lambda t: t.resize_(2, 2),
    "data": lambda t: setattr(t, "data", torch.ones(t.shape)),
    "into data": lambda t: t.data.add_(1),
    "into detached": lambda t: t.detach().add_(1),
    "out": lambda t: torch.add(t, 1, out=t),
    "out of an operator": lambda t: torch.ops.aten.add.out(t, t, out=t),
    "an operator by name": lambda t: torch.ops.aten.add_.Tensor(t, t),
    "a packet by name": lambda t: torch.ops.aten.add_(t, t),
    "foreach": lambda t: torch._foreach_add_([t], 1.0),
    "relu": lambda t: F.relu(t, inplace=True),
    "relu by position": lambda t: F.relu(t, True),
    "threshold by position": lambda t: F.threshold(t, 0.1, 1.0, True),
    "relu_": lambda t: torch.relu_(t),
    "dropout in place": lambda t: F.dropout(t, 0.5, False, True).add_(1),
    "functions": lambda t: torch.sigmoid_(t),
    "fill_diagonal_": lambda t: t.fill_diagonal_(1.0),
    "an initialiser": lambda t: nn.init.constant_(t, 1.0),
    "t_": lambda t: t.t_(),
    "requires_grad_": lambda t: t.requires_grad_(False),
    "a running mean": lambda t: F.batch_norm(t, t[0], t[0].abs(), training=True),
    "renormalised rows": lambda t: F.embedding(torch.tensor([0]), t, max_norm=0.1),
}
WRITES |= {operator: spelled(operator) for operator in OPERATORS}


def target_of(place):
    """What is written into, and the rest of the module's work."""

    def forward(m, x):
        t = x
        if place == "buffer":
            t = m.kept
        elif place == "attribute":
            t = m.held
        elif place == "parameter":
            t = m.inner.weight
        elif place == "result that is viewed":
            t = x * 2
            view = t.view(-1)
        elif place == "view of the input":
            t = x.view(x.shape)
        m.write(t)
        rest = view.sum() if place == "result that is viewed" else x.sum()
        return m.head(torch.ones(6)) * rest + m.kept.sum() + m.held.sum() + m.inner.weight.sum()

    return forward


PLACES = (
    "input",
    "view of the input",
    "buffer",
    "attribute",
    "parameter",
    "result that is viewed",
)


WRITTEN = [
    (name, place)
    for name in WRITES
    for place in PLACES
    if name[3:-2] not in WHOLE or place != "parameter"  # which are no whole numbers
]


@pytest.mark.parametrize(("name", "place"), WRITTEN)
def test_writing_into_what_is_shared_is_refused(name, place):
    whole = name[3:-2] in WHOLE
    make = (lambda *shape: torch.full(shape, 3)) if whole else torch.randn
    model = of(target_of(place), kept=nn.Buffer(make(6, 6)), held=make(6, 6), write=WRITES[name])
    inputs = make(9, 6)[:6]  # a view, as batches of a data set are
    before = snapshot(model), inputs.clone(), model.held.clone()
    with pytest.raises(UnsupportedError):
        record(model, inputs)
    assert torch.equal(inputs, before[1])
    assert snapshot(model)["buffers"] == before[0]["buffers"]
    if name not in ("data", "requires_grad_", "t_"):
        assert snapshot(model)["parameters"] == before[0]["parameters"]


def test_buffers_are_lent_and_given_back():
    """A pass that puts others in their place, or takes them away, leaves them as they were."""

    def forward(m, x):
        before = m.a
        m.a, m.c = m.head(x), 3
        m.register_buffer("d", torch.ones(2))
        del m.b
        return m.a + before.shape[0]

    model = of(forward, a=nn.Buffer(torch.zeros(3)), b=nn.Buffer(torch.ones(2)))
    before = snapshot(model)["buffers"]
    first, second = numbers(1), numbers(2)
    tape = record(model, first)
    assert snapshot(model)["buffers"] == before
    expected = F.linear(second, model.head.weight, model.head.bias) + 3
    torch.testing.assert_close(replay(tape, model, second), expected)


def test_constants_are_the_tapes_own():
    model = of(lambda m, x: m.head(x) + m.a, a=nn.Buffer(torch.ones(4)))
    tape = record(model, numbers())
    expected = replay(tape, model, numbers(1))
    model.a.zero_()
    assert torch.equal(replay(tape, model, numbers(1)), expected)


def test_an_in_place_function_that_rounds_otherwise_is_refused():
    """Written over float32, a sum with float64 numbers is float32; returned, it is not."""
    model = of(lambda m, x: m.head(x).add_(torch.ones(4, dtype=torch.float64)))
    with pytest.raises(UnsupportedError, match="writes into a tensor"):
        record(model, numbers())


def test_a_batch_norm_of_its_own_mind_is_refused():
    """It updates its running statistics in evaluation mode too."""

    def forward(m, x):
        return F.batch_norm(m.head(x), m.mean, m.var, training=True)

    model = of(forward, mean=nn.Buffer(torch.zeros(4)), var=nn.Buffer(torch.ones(4)))
    with pytest.raises(UnsupportedError, match="writes into"):
        record(model, numbers())
    assert not model.mean.any()


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


# Chains of small functions.

STEPS = {
    "relu": lambda m, t, k: F.relu(t),
    "relu in place": lambda m, t, k: F.relu(t, inplace=True),
    "leaky in place": lambda m, t, k: F.leaky_relu(t, 0.1, True),
    "add": lambda m, t, k: t + k[0],
    "add in place": lambda m, t, k: t.add_(1.5),
    "times": lambda m, t, k: t.__imul__(0.5),
    "sum in place": lambda m, t, k: t.__iadd__(k[-1]),
    "written into the first": lambda m, t, k: k[0].mul_(2) + t,
    "written into the last": lambda m, t, k: k[-1].clamp_(min=-1) + t,
    "view": lambda m, t, k: t.view(-1, t.shape[-1]),
    "transposed": lambda m, t, k: t.mT.contiguous().mT,
    "reshaped": lambda m, t, k: t.reshape(t.shape[-1], -1).reshape(t.shape),
    "flipped": lambda m, t, k: t.flip(0),
    "rows": lambda m, t, k: t[torch.tensor([1, 0, 2, 4, 3])],
    "first row": lambda m, t, k: t - t[0],
    "written into a row": lambda m, t, k: (t[0].add_(1), t)[1],
    "an item": lambda m, t, k: (t.__setitem__(0, 1.0), t)[1],
    "sorted": lambda m, t, k: t.sort(dim=0).values,
    "where": lambda m, t, k: torch.where(t > 0, t, k[-1]),
    "masked": lambda m, t, k: t.masked_fill(t > 1, 0.5),
    "masked in place": lambda m, t, k: t.masked_fill_(t > 1, 0.5),
    "selected": lambda m, t, k: t * t[t > 0].numel(),
    "counted": lambda m, t, k: t * (t > 0).sum(),
    "read": lambda m, t, k: t * float(t.max() > 1),
    "layer": lambda m, t, k: m.inner(t),
    "normalised": lambda m, t, k: F.layer_norm(t, (6,)),
    "buffer": lambda m, t, k: t * m.scale,
    "written into a buffer": lambda m, t, k: t * m.scale.add_(1),
    "detached": lambda m, t, k: t.detach(),
    "detached in place": lambda m, t, k: t.detach().sub_(0.1),
    "dropout": lambda m, t, k: F.dropout(t, 0.3, False, True),
    "unsqueezed": lambda m, t, k: t.unsqueeze(0).squeeze_(0),
    "copied": lambda m, t, k: t.clone(),
    "chunk": lambda m, t, k: torch.cat(t.chunk(2, dim=1)[::-1], dim=1),
    "powers": lambda m, t, k: t.pow_(2),
}


@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_chain_of_functions_is_refused_or_replays(steps, seed):
    def forward(m, x):
        t, kept = x if seed % 2 else 2 * x, [x]
        for step in steps:
            t = STEPS[step](m, t, kept)
            kept.append(t)
        return t, kept[len(kept) // 2]

    model = of(forward, scale=nn.Buffer(torch.linspace(-1, 2, 6)))
    first, second = numbers(seed), numbers(seed + 1)
    kept = first.clone()
    try:
        tape = record(model, first)
    except UnsupportedError:
        tape = None
    assert torch.equal(first, kept)
    if tape is None:
        return
    other = moved(model)
    with torch.no_grad():
        expected = other(second.clone())
    torch.testing.assert_close(replay(tape, other, second), expected)
    torch.testing.assert_close(planned(tape, other, second), expected)


def test_most_chains_without_writing_into_what_is_shared_are_recorded():
    refused = []
    for name, step in STEPS.items():
        model = of(lambda m, x, step=step: step(m, x * 1.5, [x]), scale=nn.Buffer(torch.ones(6)))
        try:
            record(model, numbers())
        except UnsupportedError:
            refused.append(name)
    assert refused == [
        "written into the first",
        "written into the last",
        "written into a row",
        "an item",
        "selected",
        "read",
        "written into a buffer",
        "detached in place",
        "unsqueezed",
    ]
