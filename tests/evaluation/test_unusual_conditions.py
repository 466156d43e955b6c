"""Autocast, writing losses, half precision, hidden states and caches, against plain loops."""

import copy
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losspath.evaluation.checking.counting
import losspath.evaluation.execution.engine
from losspath import Objective, interpolate
from losspath.errors import LosspathWarning, ModelError, ObjectiveError

torch.manual_seed(0)
X = torch.randn(400, 8)
Y = (X[:, 0] > 0).long()
B = [(X[i : i + 150], Y[i : i + 150]) for i in range(0, 400, 150)]
ce = F.cross_entropy


def mlp(outputs=2):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, outputs))


def vector_of(model):
    return np.concatenate([p.detach().float().reshape(-1).numpy() for p in model.parameters()])


def put(model, vector):
    """A copy of a model with a vector in it, in evaluation mode."""
    made = copy.deepcopy(model)
    nn.utils.vector_to_parameters(torch.from_numpy(vector), made.parameters())
    return made.eval()


def others(model, count=3):
    generator, own = np.random.default_rng(0), vector_of(model)
    return [(own + generator.normal(size=own.shape) * 0.3).astype(np.float32) for _ in range(count)]


# -- autocast ----------------------------------------------------------------------------------


@pytest.mark.parametrize("small", [0, losspath.evaluation.execution.engine._SMALL])
def test_under_autocast_every_point_has_its_own_loss(monkeypatch, small):
    monkeypatch.setattr(losspath.evaluation.execution.engine, "_SMALL", small)
    model = mlp()
    one, other = others(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        objective = Objective(model, X, Y, ce, batch_size=400)
        model(X)  # autocast keeps the weights of now
        alphas = np.linspace(0, 1, 5)
        line = interpolate(np.stack([one, other]), objective, alphas=alphas, layers=False)
        found = line.loss[0].tolist()
        expected = [
            ce(put(model, one + np.float32(t) * (other - one))(X).float(), Y).item() for t in alphas
        ]
    assert len(set(found)) == 5
    assert found == pytest.approx(expected, rel=2e-3)
    assert "made under autocast to bfloat16" in objective.notes[0]


def test_autocast_keeps_afterwards_what_it_kept_before():
    model = mlp()
    with torch.autocast("cpu", torch.bfloat16):
        objective = Objective(model, X, Y, ce)
        objective(others(model)[0])
        assert torch.is_autocast_cache_enabled()


# -- losses and metrics that write -------------------------------------------------------------


def test_a_loss_that_writes_into_the_outputs_changes_no_metric():
    model, y = mlp(1), (X[:, :1] > 0).float()

    def writes(outputs, targets):
        targets.mul_(0.9).add_(0.05)
        return F.binary_cross_entropy(outputs.sigmoid_(), targets)

    def mean(outputs, targets):
        value = outputs.mean() + targets.mean()
        outputs.zero_()
        return value

    def mean_again(outputs, targets):
        return outputs.mean() + targets.mean()

    objective = Objective(model, X, y, writes, metrics={"mean": mean, "again": mean_again})
    vector = others(model)[0]
    outputs = put(model, vector)(X)
    found = objective(vector)
    expected = float(outputs.mean() + y.mean())
    assert found.metrics["mean"] == pytest.approx(expected, rel=1e-4)
    assert found.metrics["again"] == pytest.approx(expected, rel=1e-4)
    assert found.loss == pytest.approx(float(writes(outputs.detach(), y.clone())), rel=1e-5)


def test_a_loss_that_writes_into_the_outputs_leaves_the_accuracy():
    model = mlp()

    def writes(outputs, targets):
        loss = ce(outputs, targets)
        outputs.neg_()
        return loss

    vector = others(model)[0]
    right = (put(model, vector)(X).argmax(1) == Y).float().mean()
    assert Objective(model, X, Y, writes)(vector).accuracy == pytest.approx(float(right))


# -- train() and eval() without a result --------------------------------------------------------


class FrozenNorm(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[1].training = False


class FrozenBoth(FrozenNorm):
    def eval(self):
        super().eval()


@pytest.mark.parametrize("kind", [FrozenNorm, FrozenBoth])
@pytest.mark.parametrize("mode", [True, False])
def test_train_need_not_return_the_model(kind, mode):
    model = kind(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    model.train(mode)
    objective = Objective(model, X, Y, ce)
    vector = others(model)[0]
    made = copy.deepcopy(model)
    nn.utils.vector_to_parameters(torch.from_numpy(vector), made.parameters())
    made.eval()
    assert objective(vector).loss == pytest.approx(float(ce(made(X), Y)), rel=1e-5)


# -- half precision ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_penalty_over_held_parameters_of_half_precision_is_right_or_refused(dtype):
    model = mlp().to(dtype)
    held = list(model.parameters())
    views = list(model.state_dict().values())

    def penalty(of):
        return lambda o, t: ce(o, t) + 0.1 * sum(p.float().pow(2).sum() for p in of())

    for stale in (held, views):
        with pytest.raises(ObjectiveError, match="half precision is evaluated in float32"):
            Objective(model, X, Y, penalty(lambda stale=stale: stale))
    objective = Objective(model, X, Y, penalty(model.parameters))
    vector = others(model)[0]
    wide = put(copy.deepcopy(model).float(), vector)
    expected = ce(wide(X), Y) + 0.1 * sum(p.pow(2).sum() for p in wide.parameters())
    assert objective(vector).loss == pytest.approx(float(expected), rel=1e-5)


def test_checking_a_model_of_half_precision_leaves_every_bit():
    model = mlp().to(torch.bfloat16)
    before = [p.detach().clone() for p in model.parameters()]
    Objective(model, X, Y, ce)
    assert all(map(torch.equal, before, model.parameters()))


def test_half_precision_of_a_model_that_cannot_be_copied_is_noted():
    class Casting(nn.Sequential):
        def forward(self, x):
            return super().forward(x.bfloat16())

    model = Casting(*mlp()).to(torch.bfloat16)
    model.lock = threading.Lock()
    notes = Objective(model, X, Y, ce, batch_size=400, check=False).notes
    assert any("in half precision" in note for note in notes)


# -- gradients ---------------------------------------------------------------------------------


def test_the_numbers_of_grad_are_left():
    model = mlp()
    ce(model(X), Y).backward()
    before = [p.grad.clone() for p in model.parameters()]
    grads = [p.grad for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def loss(outputs, targets):
        optimizer.zero_grad(set_to_none=False)
        penalty = sum(p.pow(2).sum() for p in optimizer.param_groups[0]["params"])
        penalty.backward()
        return ce(outputs, targets) + 0.1 * penalty.detach()

    objective = Objective(model, X, Y, loss)
    objective(others(model)[0])
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert all(map(torch.equal, before, grads))


# -- parameters without memory of their own ----------------------------------------------------


def test_a_parameter_that_repeats_one_number_is_refused():
    model = mlp()
    model.register_parameter("scale", nn.Parameter(torch.ones(1).expand(2)))
    with pytest.raises(ModelError, match="scale"):
        Objective(model, X, Y, ce)


# -- what is kept from batch to batch ----------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, resets):
        super().__init__()
        self.cell, self.head = nn.RNNCell(8, 6), nn.Linear(6, 2)
        self.resets, self.state = resets, None

    def forward(self, x):
        state = None
        if not self.resets and self.state is not None:
            state = self.state[: len(x)]
        self.state = self.cell(x, state).detach()
        return self.head(self.state)


def test_a_state_that_goes_from_batch_to_batch_is_refused():
    def loss(model, batch):
        return ce(model(batch[0]), batch[1])

    with pytest.raises(ObjectiveError, match="from one batch to the next"):
        Objective.of_batches(Recurrent(False), B, loss)
    with pytest.raises(ObjectiveError, match="from one batch to the next"):
        Objective(Recurrent(False), X, Y, ce)
    model = Recurrent(True)
    objective = Objective.of_batches(model, B, loss)
    vector = others(model)[0]
    expected = float(ce(put(model, vector)(X), Y).detach())
    assert objective(vector).loss == pytest.approx(expected, rel=1e-5)


# -- rare classes ------------------------------------------------------------------------------


@pytest.mark.parametrize("rare", [7, -100])
@pytest.mark.parametrize("ends", [0, 1990])
def test_the_weight_of_a_rare_class_is_noticed(rare, ends):
    x = torch.randn(2000, 8)
    y = (x[:, 0] > 0).long()
    y[ends + 3] = rare
    weight = torch.ones(8)
    weight[7] = 300.0

    def weighted(outputs, targets):
        return F.cross_entropy(outputs, targets, weight)

    with pytest.raises(ObjectiveError, match="mean"):
        Objective(mlp(8), x, y, weighted, batch_size=100)


def test_the_samples_that_are_tried_are_as_many_as_asked_for():
    targets = torch.arange(1000) // 10
    for count in (1, 2, 7, 60, 999, 5000):
        chosen = losspath.evaluation.checking.counting.spread(1000, count, targets)
        assert len(set(chosen.tolist())) == len(chosen) == min(count, 1000)
        assert chosen.tolist() == sorted(chosen.tolist())
    rare = torch.zeros(1000, 3, dtype=torch.int32)
    rare[501, 2] = -1
    assert 501 in losspath.evaluation.checking.counting.spread(
        1000, 10, {"a": rare, "b": torch.rand(1000)}
    )


# -- tolerances --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 1e-11])
@pytest.mark.parametrize("constant", [0.0, 1000.0])
def test_neither_a_small_loss_nor_a_large_constant_hides_anything(size, constant):
    model, weight = mlp(), torch.tensor([1.0, 3.0])

    def plain(outputs, targets):
        return size * (ce(outputs, targets) + constant)

    def weighted(outputs, targets):  # no mean over samples
        return size * (F.cross_entropy(outputs, targets, weight) + constant)

    vector = others(model)[0]
    expected = size * (float(ce(put(model, vector)(X), Y).detach()) + constant)
    assert Objective(model, X, Y, plain)(vector).loss == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ObjectiveError, match="mean"):
        Objective(model, X, Y, weighted)


def test_a_small_loss_is_held_against_the_owners():
    model = mlp()
    views = list(model.state_dict().values())
    with pytest.raises(ObjectiveError, match="written into it"):
        Objective(
            model,
            X,
            Y,
            lambda o, t: 1e-11 * (ce(o, t) + sum(p.pow(2).sum() for p in views)),
        )


# -- modules that a loss uses ------------------------------------------------------------------

TEACHER = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


class Distils:
    def __init__(self, teacher):
        self.parts = {"teacher": [teacher]}

    def __call__(self, model, batch):
        return ce(model(batch[0]), batch[1]) + self.parts["teacher"][0](batch[0]).mean()


def _by_closure(teacher):
    return lambda model, batch: ce(model(batch[0]), batch[1]) + teacher(batch[0]).mean()


def _by_nested(teacher):
    def inner(x):
        return teacher(x).mean()

    return lambda model, batch: ce(model(batch[0]), batch[1]) + inner(batch[0])


def _by_default(teacher):
    def loss(model, batch, by=teacher):
        return ce(model(batch[0]), batch[1]) + by(batch[0]).mean()

    return loss


def _by_global(teacher):
    return lambda model, batch: ce(model(batch[0]), batch[1]) + TEACHER(batch[0]).mean()


def _by_method(teacher):
    return Distils(teacher).__call__


@pytest.mark.parametrize(
    "make", [_by_closure, _by_nested, _by_default, _by_global, Distils, _by_method]
)
def test_a_teacher_in_training_mode_is_put_back(make):
    model = mlp()
    loss = make(TEACHER)
    TEACHER.train()
    before = [(b, b.clone()) for b in TEACHER.buffers()]
    objective = Objective.of_batches(model, B, loss)
    objective(others(model)[0])
    assert all(torch.equal(buffer, value) for buffer, value in before)
    assert any("parameters of its own" in note for note in objective.notes)


def test_modules_that_hold_the_model_are_no_part_of_the_loss():
    model = mlp()
    wrapper = nn.ModuleDict({"net": model})
    objective = Objective.of_batches(
        model, B, lambda m, batch: ce(wrapper["net"](batch[0]), batch[1])
    )
    vector = others(model)[0]
    assert not objective.notes
    expected = float(ce(put(model, vector)(X), Y).detach())
    assert objective(vector).loss == pytest.approx(expected, rel=1e-5)


# -- modules that are not registered -----------------------------------------------------------


class Blocks(nn.Module):
    def __init__(self, wrap, frozen=False):
        super().__init__()
        block = nn.Linear(6, 6)
        block.requires_grad_(not frozen)
        self.first, self.blocks, self.last = nn.Linear(8, 6), wrap(block), nn.Linear(6, 2)
        self.block = [block]

    def forward(self, x):
        return self.last(torch.tanh(self.block[0](torch.tanh(self.first(x)))))


@pytest.mark.parametrize("wrap", [lambda b: [b], lambda b: {"a": (b,)}])
def test_modules_in_a_list_are_told(wrap):
    with pytest.warns(LosspathWarning, match="Blocks.blocks holds a module with parameters"):
        Objective(Blocks(wrap), X, Y, ce)


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: nn.ModuleList([b])])
def test_modules_that_are_registered_too_are_not_told(wrap, recwarn):
    model = Blocks(wrap)
    model.first.parents = [model]
    model.first.lasts = {"last": model.last}
    Objective(model, X, Y, ce)
    Objective(Blocks(lambda b: [b], frozen=True), X, Y, ce)
    assert not recwarn.list


def test_a_part_of_a_model_may_refer_to_the_whole(recwarn):
    model = mlp()
    model.owner = [nn.Sequential(model, nn.Linear(2, 2))]
    Objective(model, X, Y, ce)
    assert not recwarn.list


# -- models that cannot be copied --------------------------------------------------------------


class Counting(nn.Sequential):
    def __init__(self, *layers):
        super().__init__(*layers)
        self.lock = threading.Lock()
        self.seen, self.rows = torch.zeros(1), {"all": [np.zeros(2)]}

    def forward(self, x):
        self.seen += len(x)
        self.rows["all"][0] += len(x)
        return super().forward(x)


def test_numbers_in_attributes_of_a_model_that_cannot_be_copied_are_put_back():
    model = Counting(*mlp())
    seen, rows = model.seen, model.rows["all"][0]
    objective = Objective(model, X, Y, ce)
    objective(others(model)[0])
    assert model.seen is seen
    assert float(seen) == 0
    assert model.rows["all"][0] is rows
    assert not rows.any()


# -- caches in objects -------------------------------------------------------------------------


class Box:
    def __init__(self):
        self.w = None


class CallableBox(Box):
    def __call__(self):
        return self.w


class Cached(nn.Module):
    """Keeps a product of its weights in an object, from the first pass in evaluation mode on."""

    def __init__(self, box, held):
        super().__init__()
        self.one, self.two = nn.Linear(8, 6, bias=False), nn.Linear(6, 2, bias=False)
        self.last = nn.Linear(2, 2)
        self.c, self.box = held(box), [box]

    def forward(self, x):
        (box,) = self.box
        if box.w is None:
            box.w = (self.two.weight @ self.one.weight).detach()
        return self.last(x @ box.w.T)


@pytest.mark.parametrize("kind", [Box, CallableBox])
@pytest.mark.parametrize("held", [lambda box: box, lambda box: {"a": box}, lambda box: None])
def test_a_cache_in_a_plain_object_is_refused(kind, held):
    model = Cached(kind(), held).eval()
    vector = others(model)[0]
    objective = Objective(model, X, Y, ce)  # nothing is kept yet, and nothing afterwards
    expected = float(ce(put(model, vector)(X), Y).detach())
    assert objective(vector).loss == pytest.approx(expected, rel=1e-5)
    assert model.box[0].w is None
    model(X)
    before = model.box[0].w.clone()
    with pytest.raises(ObjectiveError, match=r"\.w|box|c\."):
        Objective(model, X, Y, ce)
    assert torch.equal(model.box[0].w, before)
