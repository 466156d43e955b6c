"""Batches and model attributes of any class: read without building, copied, told apart."""

import dataclasses
import threading
from collections import OrderedDict, UserDict
from dataclasses import InitVar, dataclass, field
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.data import DataLoader

from losspath import Objective
from losspath.errors import LosspathError, ObjectiveError
from losspath.evaluation.data import digest_of_tensors, map_tensors, size_of, tensors_in

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
ce = F.cross_entropy


def mlp(outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, outputs))


def far(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy() * 1.2 + 0.1


@torch.no_grad()
def expected_loss(model, x=X, y=Y):
    other = mlp(model[2].out_features)
    nn.utils.vector_to_parameters(torch.from_numpy(far(model)), other.parameters())
    return float(ce(other(x), y))


@dataclass
class Doubled:
    """Its constructor does more than to keep what it is given."""

    x: torch.Tensor
    y: torch.Tensor
    scale: InitVar[float] = 2.0
    made: int = field(init=False)

    def __post_init__(self, scale):
        self.x = self.x * scale
        self.made = 1


@dataclass(frozen=True, slots=True)
class Frozen:
    x: torch.Tensor
    y: torch.Tensor


class Listed(list):
    def __init__(self, x, y):
        super().__init__([x, y])
        self.mark = "kept"


class Tupled(tuple):
    __slots__ = ()

    def __new__(cls, x, y):
        return super().__new__(cls, (x, y))


class Dotted(dict):
    def __getattr__(self, name):
        return self[name]


class Easy(dict):
    def __init__(self, **items):
        super().__init__(**items)
        self.__dict__ = self


class Plain:
    def __init__(self, x, y):
        self.x, self.y = x, y


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


class Graph(Plain):
    def to(self, device):
        raise AssertionError("not called")

    def clone(self):
        return self


class Pair(NamedTuple):
    x: object
    y: object


MAKES = {
    "doubled": lambda x, y: Doubled(x, y, 1.0),
    "frozen": Frozen,
    "dotted": lambda x, y: Dotted(x=x, y=y),
    "easy": lambda x, y: Easy(x=x, y=y),
    "plain": Plain,
    "slotted": Slotted,
    "graph": Graph,
    "namespace": lambda x, y: SimpleNamespace(x=x, y=y),
    "pair": Pair,
}


def loss_of_object(model, batch):
    x, y = torch.as_tensor(batch.x), torch.as_tensor(batch.y)
    return ce(model(x), y)


@pytest.mark.parametrize("arrays", [False, True], ids=["tensors", "arrays"])
@pytest.mark.parametrize("name", MAKES)
def test_batches_of_any_class(name, arrays):
    model, x, y = mlp(), X.clone(), Y.clone()
    given = (x.numpy(), y.numpy()) if arrays else (x, y)
    # Uneven, so that a batch that counts as one sample shows.
    batches = [MAKES[name](given[0][part], given[1][part]) for part in (slice(33), slice(33, 40))]
    objective = Objective.of_batches(model, batches, loss_of_object)
    assert len(objective) == 40
    before = objective(far(model)).loss
    assert before == pytest.approx(expected_loss(model), rel=1e-5)
    for batch in batches:  # the caller's
        batch.x[:] = batch.x + 1.0
    assert objective(far(model)).loss == before
    other = Objective.of_batches(model, batches, loss_of_object)
    assert other.samples_digest != objective.samples_digest
    assert other(far(model)).loss != before


@pytest.mark.parametrize("arrays", [False, True], ids=["tensors", "arrays"])
@pytest.mark.parametrize("name", MAKES)
def test_a_loss_that_writes_to_its_batch_leaves_the_callers(name, arrays):
    model, x, y = mlp(), X.clone(), Y.clone()
    batch = MAKES[name](x.numpy(), y.numpy()) if arrays else MAKES[name](x, y)
    kept = torch.as_tensor(batch.x).clone()

    def loss(m, b):
        b.x[:] = b.x * 2.0
        return loss_of_object(m, b)

    objective = Objective.of_batches(model, [batch], loss)
    found = [objective(far(model)).loss for _ in range(3)]
    assert found[0] == found[2] == pytest.approx(expected_loss(model, 2 * kept), rel=1e-5)
    assert torch.equal(torch.as_tensor(batch.x), kept)


def test_a_second_pass_over_objects_that_differs_is_refused():
    def collate(rows):
        return Plain(*map(torch.stack, zip(*rows, strict=True)))

    rows = list(zip(X, Y, strict=True))
    loader = DataLoader(rows, 16, shuffle=True, collate_fn=collate)
    with pytest.raises(ObjectiveError, match="shuffle=False"):
        Objective.of_batches(mlp(), loader, loss_of_object)


def test_copies_keep_classes_and_attributes():
    x = X[:3]
    listed, tupled = Listed(x, Y), Tupled(x, Y)
    listed.more = [x]
    made = map_tensors([listed, tupled, listed], torch.Tensor.clone)
    assert type(made[0]) is Listed
    assert type(made[1]) is Tupled
    assert made[0].mark == "kept"
    assert made[0].more[0] is made[0][0] is made[1][0]
    assert made[0][0] is not x
    assert torch.equal(made[0][0], x)
    assert made[2] is made[0]
    assert listed.more[0] is x
    easy = map_tensors(Easy(x=x, deep=Easy(y=Y)), torch.Tensor.clone)
    assert easy.x is easy["x"]
    assert easy.x is not x
    assert easy.deep.y is easy["deep"]["y"]
    doubled = map_tensors(Doubled(x, Y), torch.Tensor.clone)
    assert torch.equal(doubled.x, 2 * x)
    assert doubled.made == 1
    for kind in (OrderedDict, UserDict):
        other = map_tensors(kind(x=x), torch.Tensor.clone)
        assert type(other) is kind
        assert other["x"] is not x
        assert torch.equal(other["x"], x)
    packed = pack_padded_sequence(X.view(2, 20, 8), torch.tensor([7, 20]), True, False)
    other = map_tensors(packed, torch.Tensor.clone)
    assert type(other) is PackedSequence
    assert torch.equal(other.data, packed.data)
    assert other.data is not packed.data


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, Dotted])
def test_mappings_of_arrays_keep_their_class(kind):
    def loss(m, batch):
        assert type(batch) is kind
        return ce(m(batch["x"]), batch["y"])

    model, arrays = mlp(), {"x": X.double().numpy(), "y": Y.numpy()}
    objective = Objective.of_batches(model, [kind(**arrays)], loss)
    assert objective(far(model)).loss == pytest.approx(expected_loss(model), rel=1e-5)
    named = Objective(mlp(), kind(input=arrays["x"]), arrays["y"], ce)
    assert named(far(model)).loss == pytest.approx(expected_loss(model), rel=1e-5)


def test_a_circle_is_copied_as_a_circle():
    batch = Plain(X, Y)
    batch.self, batch.inner = batch, [batch]
    made = map_tensors(batch, torch.Tensor.clone)
    assert made.self is made
    assert made.inner == [made]
    assert made.x is not X
    assert digest_of_tensors(made) == digest_of_tensors(batch)
    assert tensors_in(batch, objects=True)[0] is X


@pytest.mark.parametrize(
    "change",
    [
        lambda b: setattr(b, "words", ["one", "three"]),
        lambda b: setattr(b, "number", 4.0),
        lambda b: b.array.__setitem__(1, 9.0),
        lambda b: b.names.__setitem__(0, "c"),
        lambda b: b.ragged[1].append(4),
        lambda b: setattr(b, "raw", b"12"),
        lambda b: b.kinds.add("z"),
        lambda b: setattr(b.inner, "x", X + 1),
        lambda b: setattr(b, "inner", SimpleNamespace(x=X)),
        lambda b: setattr(b, "complex", 1j),
        lambda b: setattr(b, "single", np.float32(2)),
    ],
)
def test_what_is_in_an_object_is_told_by_value(change):
    def make():
        made = Plain(X, Y)
        made.words, made.number, made.array = ["one", "two"], 3.0, np.arange(3.0)
        made.names, made.raw, made.kinds = np.array(["a", "b"]), b"11", {"x", "y"}
        made.ragged = np.array([[1], [2, 3]], dtype=object)
        made.inner, made.complex, made.single = Plain(X, Y), 2j, np.float32(1)
        return made

    one, other = make(), make()
    assert digest_of_tensors(one) == digest_of_tensors(other)
    digest = digest_of_tensors(one)
    copied = map_tensors(one, torch.Tensor.clone)
    assert digest_of_tensors(copied) == digest
    change(copied)
    assert digest_of_tensors(one) == digest != digest_of_tensors(copied)


@pytest.mark.parametrize(
    "thing", [threading.Lock(), (i for i in range(3)), iter(zip(X, Y, strict=True)).__class__]
)
def test_what_cannot_be_copied_is_refused(thing):
    batch = Plain(X, Y)
    batch.thing = [thing]
    if isinstance(thing, type):  # a class is nobody's data
        Objective.of_batches(mlp(), [batch], loss_of_object)
        return
    with pytest.raises(ObjectiveError, match="can be copied and compared"):
        Objective.of_batches(mlp(), [batch], loss_of_object)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(26, 2)

    def forward(self, words):
        return torch.stack(
            [self.table(torch.tensor([ord(c) - 97 for c in w])).sum(0) for w in words]
        )


def test_words_are_told_by_value_and_counted():
    model = Words()
    words = ["ab", "c", "dd", "xyz", "q"]

    def loss(m, batch):
        return m(batch).pow(2).mean()

    objective = Objective.of_batches(model, [words[:1], words[1:]], loss)
    vector = far(model)
    other = Words()
    nn.utils.vector_to_parameters(torch.from_numpy(vector), other.parameters())
    assert objective(vector).loss == pytest.approx(float(loss(other, words).detach()), rel=1e-5)
    again = Objective.of_batches(model, [["ab"], ["c", "dd", "xyz", "p"]], loss)
    assert again.samples_digest != objective.samples_digest
    assert size_of([("a", 0), ("b", 1)]) == 1
    assert size_of({"text": ["a", "b", "c"], "label": Y[:3]}) == 3


def test_reading_a_models_attributes_builds_nothing():
    made = []

    @dataclass
    class Odd:
        x: torch.Tensor
        needed: InitVar[int]
        absent: int = field(init=False)

        def __post_init__(self, needed):
            made.append(needed)

    model = mlp()
    model.odd = Odd(X, 3)
    model.held = Listed(Tupled(X, Y), pack_padded_sequence(X.view(2, 20, 8), [20, 20], True))
    model.dotted = Dotted(x=X)
    objective = Objective(model, X, Y, ce)
    assert objective(far(model)).loss == pytest.approx(expected_loss(mlp()), rel=1e-5)
    assert made == [3]
    assert len(tensors_in(model.odd)) == 1
    assert tensors_in(dataclasses) == []


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_may_be_held():
    model = mlp()
    program = torch.export.export(nn.Linear(3, 2), (torch.zeros(2, 3),))
    model.programs = vars(program)
    object.__setattr__(model, "program", program)
    assert tensors_in(vars(program))
    assert np.isfinite(Objective(model, X, Y, ce, check=False)(far(model)).loss)


def test_a_cache_in_a_batch_does_not_grow():
    transformers = pytest.importorskip("transformers")
    cache = transformers.DynamicCache()
    cache.update(torch.ones(1, 1, 2, 8), torch.ones(1, 1, 2, 8), 0)

    def loss(m, batch):
        x, y, held = batch
        keys, _ = held.update(torch.ones(1, 1, 1, 8), torch.ones(1, 1, 1, 8), 0)
        return ce(m(x + keys.shape[2]), y)

    model = mlp()
    objective = Objective.of_batches(model, [(X, Y, cache)], loss)
    found = [objective(far(model)).loss for _ in range(2)]
    assert found[0] == found[1] == pytest.approx(expected_loss(model, X + 3), rel=1e-5)
    assert cache.get_seq_length() == 2


def test_points_that_require_a_gradient_do_so_in_the_loss():
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    points = torch.linspace(0, 3, 40)[:, None].requires_grad_()

    def residual(m, t):
        (first,) = torch.autograd.grad(m(t).sum(), t, create_graph=True)
        return (first + m(t)).pow(2).mean()

    objective = Objective.of_batches(model, [points], residual)
    vector = far(model)
    found = objective(vector).loss
    kept = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(torch.from_numpy(vector), model.parameters())
    assert found == pytest.approx(float(residual(model, points).detach()), rel=1e-5)
    nn.utils.vector_to_parameters(kept, model.parameters())
    assert points.grad is None
    assert points.requires_grad


def test_samples_that_require_a_gradient_do_so_in_the_model():
    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp(1)

        def forward(self, x):
            return torch.autograd.grad(self.body(x).sum(), x, create_graph=True)[0]

    model, x = Slope(), X.clone().requires_grad_()
    objective = Objective(model, x, Y, lambda o, t: (o[:, 0] - t).pow(2).mean())
    vector = far(model)
    found = objective(vector).loss
    nn.utils.vector_to_parameters(torch.from_numpy(vector), model.parameters())
    assert found == pytest.approx((model(x)[:, 0] - Y).pow(2).mean().item(), rel=1e-5)


def test_errors_of_packed_samples_are_of_the_library():
    with pytest.raises(LosspathError):
        Objective(mlp(), {"x": Plain(X, Y[:3])}, Y, ce)
