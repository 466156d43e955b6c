"""Models and losses that keep things, read things and share things, against plain loops."""

import dataclasses
import functools
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import losspath.evaluation.execution.engine
from losspath import Objective, compute_surface, fit_plane, interpolate, measure_dynamics
from losspath.errors import LosspathError, LosspathWarning, ObjectiveError
from losspath.evaluation.evaluator import LENT

torch.manual_seed(0)
X = torch.randn(61, 8)
Y = (X[:, 0] > 0).long()
ce = F.cross_entropy


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """The engine looks at every surface, however small."""
    monkeypatch.setattr(losspath.evaluation.execution.engine, "_SMALL", 0)


def numbers(model):
    return np.concatenate(
        [p.detach().reshape(-1).float().numpy() for p in model.parameters() if p.requires_grad]
    )


def written(model, vector):
    """A model with a vector in it, as its owner would put it there."""
    place = 0
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                values = torch.from_numpy(np.array(vector[place : place + p.numel()]))
                p.copy_(values.view(p.shape))
                place += p.numel()
    return model.eval()


def path_of(model):
    generator = np.random.default_rng(3)
    own = numbers(model)
    steps = generator.normal(size=(4, len(own))) * 0.2
    return (own + np.cumsum(steps, axis=0)).astype(np.float32)


def assert_right(make, x=X, y=Y, **options):
    """Objective, surface and line against a plain loop over models that are made anew.

    Args:
        make: makes a model and its loss, always the same.
    """
    model, loss = made(make)
    path = path_of(model)
    objective = Objective(model, x, y, loss, **options)

    def plain(vector):
        other, its_loss = made(make)
        with torch.no_grad():
            return float(its_loss(written(other, vector)(x), y))

    for vector in (path[2], path[0], path[1] * 1.5):
        assert objective(vector).loss == pytest.approx(plain(vector), rel=1e-5)
    surface = compute_surface(path, objective, "pca", 3, states=2)
    plane = fit_plane(path)
    for row, column in ((0, 0), (1, 2), (2, 1)):
        at = np.array([surface.x[column], surface.y[row]])
        there = plane.origin + plane.basis @ at
        assert surface.loss[row, column] == pytest.approx(plain(there), rel=1e-5)
    assert surface.states.loss == pytest.approx([plain(path[0]), plain(path[-1])], rel=1e-5)
    line = interpolate(path, objective, alphas=[0.0, 0.5, 1.0], layers=False)
    middle = (path[0].astype(float) + path[-1]) / 2
    assert line.loss[0] == pytest.approx([plain(v) for v in (path[0], middle, path[-1])], rel=1e-5)
    return objective, path, surface


def made(make):
    torch.manual_seed(1)
    return make()


def mlp(outputs=2):
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, outputs))


# -- losses that read what a forward pass leaves behind --------------------------------------------


class Auxiliary(nn.Module):
    """Leaves a term of the loss in an attribute, or in a list that the loss empties."""

    def __init__(self, in_list):
        super().__init__()
        self.body, self.head = nn.Linear(8, 6), nn.Linear(6, 2)
        self.terms = [] if in_list else None
        self.term = None

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        if self.terms is None:
            self.term = hidden.pow(2).mean()
        else:
            self.terms.append(hidden.pow(2).mean())
        return self.head(hidden)


def with_attribute():
    model = Auxiliary(in_list=False)
    return model, lambda o, t: ce(o, t) + 0.3 * model.term


def with_list():
    model = Auxiliary(in_list=True)

    def loss(o, t):
        term = sum(model.terms)
        model.terms.clear()
        return ce(o, t) + 0.3 * term

    return model, loss


def with_hook():
    model, kept = mlp(), {}
    model[1].register_forward_hook(lambda module, args, output: kept.update(hidden=output))
    return model, lambda o, t: ce(o, t) + 0.1 * kept["hidden"].abs().mean()


def with_hook_and_queue():
    model, kept = mlp(), []
    model[1].register_forward_hook(lambda module, args, output: kept.append(output))
    return model, lambda o, t: ce(o, t) + 0.1 * kept.pop().abs().mean()


@pytest.mark.parametrize("make", [with_attribute, with_list, with_hook, with_hook_and_queue])
def test_what_a_pass_leaves_behind_is_that_of_the_vector(make):
    objective, path, surface = assert_right(make)
    assert "leaves behind" in surface.provenance["evaluation"][0]
    model, loss = made(make)
    total = loss(written(model, path[1])(X), Y)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(total, [*model.parameters()])])
    measured = measure_dynamics(path[:3], objective, 3).gradient_norm[1]
    assert measured == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_an_attribute_of_the_model_is_afterwards_what_it_was():
    model, loss = with_attribute()
    model(X)
    before = model.term
    objective = Objective(model, X, Y, loss)
    objective(numbers(model) * 2)
    assert model.term is before
    model, loss = with_list()
    model(X)
    before = list(model.terms)
    Objective(model, X, Y, loss)(numbers(model) * 2)
    assert [id(term) for term in model.terms] == [id(term) for term in before]


# -- models that close over themselves -------------------------------------------------------------


class Closed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 6), nn.Linear(6, 2)
        self.function = lambda x: self.head(torch.tanh(self.body(x)))

    def forward(self, x):
        return self.function(x)


def patched():
    model = mlp()
    original = model.forward
    model.forward = lambda x: original(x) * 2
    return model


@pytest.mark.parametrize("make", [Closed, patched])
def test_a_model_that_closes_over_itself(make):
    _, _, surface = assert_right(lambda: (make(), ce))
    assert "plain" not in surface.provenance["evaluation"][0]


# -- caches ----------------------------------------------------------------------------------------


class Caching(nn.Module):
    """Computes weights once in evaluation mode, and keeps them in a container of some kind."""

    def __init__(self, cache):
        super().__init__()
        self.inner, self.head, self.cache = nn.Linear(8, 6), nn.Linear(6, 2), cache

    def kept(self):
        if isinstance(self.cache, list):
            if not self.cache:
                self.cache.append(self.inner.weight.detach().clone())
            return self.cache[0]
        held = self.cache if isinstance(self.cache, dict) else vars(self.cache)
        if "weight" not in held:
            held["weight"] = self.inner.weight.detach().clone()
        return held["weight"]

    def forward(self, x):
        weight = self.inner.weight if self.training else self.kept()
        return self.head(torch.tanh(F.linear(x, weight, self.inner.bias)))


class Drawer:
    """An object that things are kept in."""


@pytest.mark.parametrize("kind", [dict, list, Drawer])
def test_a_cache_that_is_filled_in_a_pass_is_of_that_pass(kind):
    assert_right(lambda: (Caching(kind()), ce))


@pytest.mark.parametrize("kind", [dict, list])
def test_a_cache_that_is_full_already_is_refused(kind):
    model = Caching(kind())
    model.eval()(X)
    with pytest.raises(ObjectiveError, match=r"cache holds a tensor that the model computes"):
        Objective(model, X, Y, ce)


def test_what_is_computed_once_and_is_no_cache_of_parameters_is_fine():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.grid, self.mask = mlp(), None, torch.ones(8)

        def forward(self, x):
            if self.grid is None:
                self.grid = torch.linspace(0, 1, 8)
            if self.mask is not None:
                x = x * self.mask * 2
            return self.inner(x + self.grid)

    def make():
        model = Lazy()
        model(X)
        return model, ce

    assert_right(make)


def test_a_cache_by_object_is_refused():
    class Remembering(nn.Linear):
        @functools.lru_cache  # noqa: B019
        def kept(self):
            return self.weight.detach().clone()

        def forward(self, x):
            return F.linear(x, self.weight if self.training else self.kept(), self.bias)

    with pytest.raises(ObjectiveError, match="a cache"):
        Objective(nn.Sequential(Remembering(8, 6), nn.Linear(6, 2)), X, Y, ce)


def test_parametrised_tensors_are_not_those_that_the_caller_has_cached():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 6)), nn.Linear(6, 2))
    vector = numbers(model) * 1.5
    with parametrize.cached():
        model(X)
        objective = Objective(model, X, Y, ce)
        found = [objective(v).loss for v in (vector, vector * 0.5)]
        assert (parametrize._cache_enabled, len(parametrize._cache)) == (1, 1)
    for loss, at in zip(found, (vector, vector * 0.5), strict=True):
        assert loss == pytest.approx(float(ce(written(model, at)(X), Y)), rel=1e-5)


def test_a_hidden_state_of_another_batch_is_named():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head, self.state = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 2), None

        def forward(self, x):
            out, state = self.cell(x.view(-1, 2, 4), self.state)
            self.state = state.detach()
            return self.head(out[:, -1])

    model = Stateful()
    model(X)
    with pytest.raises(ObjectiveError, match="hidden state"):
        Objective(model, X, Y, ce)


# -- losses ----------------------------------------------------------------------------------------


def test_views_that_a_loss_holds_are_refused():
    model = mlp()
    held = model.state_dict()
    loss = lambda o, t: ce(o, t) + 0.05 * sum(v.pow(2).sum() for v in held.values())  # noqa: E731
    with pytest.raises(ObjectiveError, match="views of the model's memory"):
        Objective(model, X, Y, loss)


class Bank(nn.Module):
    """Counts its calls, and compares with outputs of the last one."""

    def __init__(self):
        super().__init__()
        self.calls, self.log = 0, []
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("bank", torch.ones(2))

    def forward(self, o, t):
        self.calls += 1
        self.log.append(1)
        self.count += 1
        loss = ce(o, t) + 0.1 * (o @ self.bank).pow(2).mean()
        self.bank = o.detach()[0].clone()
        return loss


@pytest.mark.parametrize("form", ["module", "method", "partial"])
def test_a_loss_with_a_state_keeps_it(form):
    bank = Bank()
    loss = {"module": bank, "method": bank.forward, "partial": functools.partial(bank)}[form]
    model, tensor = mlp(), bank.bank
    vector = numbers(model) * 1.5
    objective = Objective(model, X, Y, loss, batch_size=20, metrics={"again": Bank()})
    found = objective(vector)
    compute_surface(path_of(model), objective, "pca", 3, states=2)
    measure_dynamics(path_of(model), objective, 2)
    assert (bank.calls, bank.log, int(bank.count)) == (0, [], 0)
    assert bank.bank is tensor
    assert bank.bank.tolist() == [1.0, 1.0]
    with torch.no_grad():
        outputs = written(model, vector)(X)
        expected = float(ce(outputs, Y) + 0.1 * outputs.sum(dim=1).pow(2).mean())
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.metrics["again"] == pytest.approx(expected, rel=1e-5)


class Squeezing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp(1)

    def forward(self, x):
        return self.inner(x).squeeze()


def squeezed_loss(o, t):
    return F.binary_cross_entropy_with_logits(o.squeeze(), t)


@pytest.mark.parametrize(
    ("make", "loss"),
    [(Squeezing, F.binary_cross_entropy_with_logits), (lambda: mlp(1), squeezed_loss)],
)
def test_squeezing_bears_a_last_batch_of_one(make, loss):
    assert_right(lambda: (make(), loss), y=Y.float(), batch_size=20)  # 61 = 3 · 20 + 1


def test_a_loss_may_write_into_outputs():
    model = mlp()
    vector = numbers(model) * 1.5
    objective = Objective(model, X, Y, lambda o, t: ce(o.mul_(2), t), batch_size=20)
    expected = float(ce(written(model, vector)(X) * 2, Y))
    assert objective(vector).loss == pytest.approx(expected, rel=1e-5)


# -- data and parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_inputs(layout):
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 2))

        def forward(self, x):
            return x @ self.weight

    dense = F.relu(X)
    x = dense.to_sparse(layout=layout)
    model = Sparse()
    vector = numbers(model) * 1.5
    losses = [
        Objective(model, x, Y, ce, batch_size=20)(vector).loss,
        Objective.of_batches(model, [(x, Y)], lambda m, b: ce(m(b[0]), b[1]))(vector).loss,
    ]
    assert losses == pytest.approx([float(ce(written(model, vector)(dense), Y))] * 2, rel=1e-5)


class Quantised(nn.Module):
    """A frozen table of integers under a trained layer."""

    def __init__(self):
        super().__init__()
        table = torch.randint(-5, 5, (6, 8), dtype=torch.int8)
        self.table = nn.Parameter(table, requires_grad=False)
        self.trained, self.head = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.trained(x) + F.linear(x, self.table.float())))


def test_frozen_integers_are_left_alone():
    assert_right(lambda: (Quantised(), ce))


def test_derivatives_inside_inference_mode():
    model = mlp()
    objective, path = Objective(model, X, Y, ce), path_of(model)
    expected = measure_dynamics(path, objective, 2)
    with torch.inference_mode():
        found = measure_dynamics(path, Objective(model, X, Y, ce), 2)
    np.testing.assert_allclose(found.gradient_norm, expected.gradient_norm)
    np.testing.assert_allclose(found.sharpness, expected.sharpness, rtol=0.02)


class SharedMemory(nn.Module):
    """Two Parameters of one memory, one of them turned."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 6, bias=False)
        self.second = nn.Linear(6, 8, bias=False)
        self.second.weight = nn.Parameter(self.first.weight.data.t())
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def test_derivatives_are_by_numbers_not_by_parameters():
    model = SharedMemory()
    path = np.stack([numbers(model)[48:] * scale for scale in (1.0, 1.3, 0.7)])
    found = measure_dynamics(path, Objective(model, X, Y, ce), 3)

    def loss(vector):
        weight, head, bias = vector[:48].view(6, 8), vector[48:64].view(2, 8), vector[64:]
        hidden = torch.tanh(torch.tanh(X.double() @ weight.t()) @ weight)
        return ce(hidden @ head.t() + bias, Y)

    for row, vector in enumerate(path):
        at = torch.from_numpy(vector.astype(np.float64)).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(at), at)
        hessian = torch.autograd.functional.hessian(loss, at.detach())
        assert found.gradient_norm[row] == pytest.approx(float(gradient.norm()), rel=1e-4)
        largest = float(torch.linalg.eigvalsh(hessian)[-1])
        assert found.sharpness[row] == pytest.approx(largest, rel=0.02)


def test_modules_that_are_not_copied_are_put_back():
    class Single(nn.Linear):
        def __deepcopy__(self, memo):
            return self

    def make():
        return nn.Sequential(Single(8, 6), nn.Tanh(), nn.Linear(6, 2))

    model = make()
    before = [p.detach().clone() for p in model.parameters()]
    objective = Objective(model, X, Y, ce)
    vector = numbers(model) * 1.5
    found = objective(vector).loss
    assert model.training
    assert model[0].training
    assert all(map(torch.equal, before, model.parameters()))
    assert found == pytest.approx(float(ce(written(make(), vector)(X), Y)), rel=1e-5)
    assert "__deepcopy__" in objective.provenance["notes"][0]


def test_trained_parameters_in_a_dataclass_are_told_of():
    model = nn.Linear(8, 2)
    model.held = dataclasses.make_dataclass("Held", ["scales"])([nn.Parameter(torch.ones(2))])
    with pytest.warns(LosspathWarning, match="held holds a parameter that the model does not"):
        Objective(model, X, Y, ce)


def test_trained_parameters_that_no_module_knows_are_told_of(tmp_path):
    class Hiding(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights, self.head = [nn.Parameter(torch.randn(8, 6))], nn.Linear(6, 2)

        def forward(self, x):
            return self.head(torch.tanh(x @ self.weights[0]))

    model = Hiding()
    with pytest.warns(LosspathWarning, match=r"weights holds a parameter that the model does not"):
        Objective(model, X, Y, ce)
    with pytest.warns(LosspathWarning, match="neither recorded nor set") as warned:
        losspath.Recorder(tmp_path / "run", model).close()
    assert warned[0].filename == __file__
    model.weights[0].requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Objective(model, X, Y, ce)
        losspath.Recorder(tmp_path / "other", model).close()


# -- interrupts ------------------------------------------------------------------------------------


def everything(model):
    """What a caller has, by identity and bytes."""
    modules = dict(model.named_modules())
    return (
        [(n, id(t), t.data_ptr(), t.detach().numpy().tobytes()) for n, t in all_tensors(model)],
        [(n, k, id(v)) for n, m in modules.items() for k, v in vars(m).items()],
        {
            n: list(vars(m)["_buffers"].items())
            for n, m in modules.items()
            if not list(m.children())
        },
        [m.training for m in modules.values()],
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),  # noqa: NPY002
        (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()),
    )


def all_tensors(model):
    return [*model.named_parameters(), *model.named_buffers()]


def test_an_interrupt_at_any_line_leaves_all_as_it_was():
    model, loss = with_list()
    model.add_module("norm", nn.BatchNorm1d(2))
    objective = Objective(model, X, Y, loss, batch_size=61)
    vector = numbers(model) * 2
    before, lines, stop = everything(model), [], [-1]

    def trace(frame, event, argument):
        if "losspath/evaluation" not in frame.f_code.co_filename:
            return None

        def line(frame, event, argument):
            if event == "line":
                lines.append(frame.f_lineno)
                if len(lines) == stop[0]:
                    raise KeyboardInterrupt
            return line

        return line

    def traced():
        lines.clear()
        other = sys.gettrace()
        sys.settrace(trace)
        try:
            objective(vector)
        finally:
            sys.settrace(other)

    traced()
    first_time = {}  # one interrupt for each place, first and last that it is come to
    for number, place in enumerate(lines, 1):
        first_time.setdefault(place, []).append(number)
    expected = objective(vector).loss
    interrupted = 0
    for numbers_of_place in first_time.values():
        for number in {numbers_of_place[0], numbers_of_place[-1]}:
            stop[0] = number
            try:
                traced()
            except KeyboardInterrupt:
                interrupted += 1
            assert everything(model) == before
            # Python leaves a `with` by a line of its own, where an error planted by a trace (and
            # no interrupt) comes before the lock is given back.
            while LENT._is_owned():
                LENT.release()
    stop[0] = -1
    assert interrupted > 100
    assert objective(vector).loss == expected


# -- accuracy --------------------------------------------------------------------------------------


def test_accuracy_is_absent_where_the_loss_leaves_targets_out():
    """Which they are is not seen: class 0 is padding, say."""

    def loss(o, t):
        return ce(o, t, reduction="sum", ignore_index=0), (t != 0).sum()

    model = mlp()
    assert Objective(model, X, Y, loss, batch_size=20)(numbers(model)).accuracy is None
    targets = Y.clone()
    targets[:10] = -100  # seen by torch's own convention

    def usual(o, t):
        return ce(o, t, reduction="sum"), (t >= 0).sum()

    right = (model(X).argmax(dim=1) == Y)[10:].float().mean()
    found = Objective(model, X, targets, usual, batch_size=20)(numbers(model)).accuracy
    assert found == pytest.approx(float(right))


# -- staleness -------------------------------------------------------------------------------------


class Capped(nn.Module):
    """Its setting matters far from the path alone."""

    def __init__(self):
        super().__init__()
        self.inner, self.cap = mlp(), 1e6

    def forward(self, x):
        return self.inner(x).clamp(max=self.cap)


def capped_losses(model):
    class Object:
        cap = None

        def __init__(self):
            self.cap, self.calls = 1e6, 0

        def __call__(self, o, t):
            self.calls += 1
            return ce(o, t).clamp(max=self.cap)

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.cap, self.calls = 1e6, 0

        def forward(self, o, t):
            self.calls += 1
            return ce(o, t).clamp(max=self.cap)

    def function(cap):
        calls = 0

        def loss(o, t):
            nonlocal calls
            calls += 1
            return ce(o, t).clamp(max=cap)

        return loss

    def capped(o, t, cap):
        return ce(o, t).clamp(max=cap)

    def changed(holder):
        holder.cap = 1e5
        return holder

    for holder in (Object(), Module()):
        yield holder, lambda holder=holder: changed(holder)
    yield Object().__call__, lambda: changed(Object()).__call__
    yield function(1e6), lambda: function(1e5)
    yield functools.partial(capped, cap=1e6), lambda: functools.partial(capped, cap=1e5)
    yield lambda o, t: ce(o, t).clamp(max=1e6), lambda: lambda o, t: ce(o, t).clamp(max=1e5)
    yield ce, lambda: changed(model) and ce


@pytest.mark.parametrize("number", range(7))
def test_a_setting_that_no_state_shows_makes_a_checkpoint_another(number, tmp_path):
    model = Capped()
    path = path_of(model)
    loss, change = list(capped_losses(model))[number]
    checkpoint = tmp_path / "surface.journal"

    def surface(loss_fn):
        objective = Objective(model, X, Y, loss_fn, name="capped")
        return compute_surface(path, objective, "pca", 3, states=2, checkpoint=checkpoint)

    first = surface(loss)
    np.testing.assert_array_equal(surface(loss).loss, first.loss)  # goes on, whatever was counted
    changed = change()
    with pytest.raises(LosspathError, match="another"):
        surface(changed)


# -- half precisions and spare parameters ----------------------------------------------------------


class CastingToHalf(nn.Module):
    """Casts its inputs by itself, so that it does not go in single precision."""

    def __init__(self, is_frozen):
        super().__init__()
        self.narrow = nn.Linear(8, 6).bfloat16().requires_grad_(not is_frozen)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.narrow(x.bfloat16())).float())


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_model_that_casts_to_half_is_evaluated_in_half(is_frozen):
    objective, _, _ = assert_right(lambda: (CastingToHalf(is_frozen), ce))
    assert "half precision" in objective.provenance["notes"][0]


def test_a_model_that_fails_in_every_precision_is_refused_with_the_first_error():
    model = nn.Sequential(nn.Linear(7, 2)).bfloat16()
    with pytest.raises(ObjectiveError, match="cannot be multiplied"):
        Objective(model, X, Y, ce)


def test_parameters_that_nothing_uses_are_no_matter():
    def make():
        model = mlp()
        model[0].spare = nn.Parameter(torch.ones(3))
        return model, ce

    assert_right(make)


class WithAuxiliary(nn.Module):
    """A head that is for training alone, and holds a plain tensor."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.auxiliary = nn.Linear(8, 2)
        self.auxiliary.scale = torch.tensor(2.0)

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        out = self.head(hidden)
        return out + self.auxiliary(hidden) * self.auxiliary.scale if self.training else out


@pytest.mark.parametrize("scale", [torch.tensor(2.0), torch.tensor([2.0]).expand(2)])
def test_a_head_that_evaluation_does_without_is_no_cache(scale):
    x, model = torch.randn(30, 8), WithAuxiliary()
    model.auxiliary.scale = scale
    objective = Objective(model, x, x[:, 0].gt(0).long(), F.cross_entropy)
    assert objective.notes == []
    assert model.auxiliary.scale is scale
