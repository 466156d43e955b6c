"""Forward passes that write into tensors: into which they must not."""

import pytest
import torch
import torch.nn.functional as F
from evaluated_models import snapshot
from recorded_passes import (
    numbers,
    of,
    replay,
)
from torch import nn

from losspath.errors import UnsupportedError
from losspath.evaluation.compiler.tape import record


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
