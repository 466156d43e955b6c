"""An evaluation leaves everything of the caller's as it was."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluated_models import (
    KINDS,
    Case,
    flat,
    mlp,
    moved,
    plain_loop,
    random_states,
    sample_case,
    snapshot,
)
from torch import nn

from losspath import Objective
from losspath.errors import ObjectiveError


def in_use(kind):
    """A case whose model is in the middle of a training: gradients, mixed modes, frozen parts."""
    case = sample_case(kind)
    case.model.train()
    outputs = case.model(case.inputs)
    case.loss_fn(outputs, case.targets).backward()
    parameters = list(case.model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].grad = None
    list(case.model.modules())[-1].eval()
    return case


class Greedy(nn.Module):
    """Draws from and reseeds every source of random numbers, to no effect on its outputs."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        torch.manual_seed(int(torch.randint(1000, ())))
        random.seed(random.random())
        np.random.seed(int(np.random.rand() * 1000))  # noqa: NPY002
        return self.inner(x)


class Stop(BaseException):
    pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["mixed", "training", "evaluation"])
def test_the_model_is_left_as_it_was(kind, mode):
    case = in_use(kind)
    if mode != "mixed":
        case.model.train(mode == "training")
    before, states = snapshot(case.model), random_states()
    objective = Objective(case.model, case.inputs, case.targets, case.loss_fn, batch_size=9)
    assert snapshot(case.model) == before
    objective(moved(case))
    assert snapshot(case.model) == before
    assert random_states() == states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["loss", "model"])
@pytest.mark.parametrize("error", [ZeroDivisionError, Stop])
def test_also_when_an_evaluation_fails_half_way(kind, where, error):
    case = in_use(kind)
    calls = {"left": None}

    def fail_later(*_):
        if calls["left"] is not None:
            torch.rand(1), random.random()
            calls["left"] -= 1
            if calls["left"] == 0:
                raise error

    def loss_fn(outputs, targets):
        if where == "loss":
            fail_later()
        return case.loss_fn(outputs, targets)

    if where == "model":
        list(case.model.modules())[-1].register_forward_pre_hook(fail_later)
    objective = Objective(case.model, case.inputs, case.targets, loss_fn, batch_size=9)
    before, states = snapshot(case.model), random_states()
    calls["left"] = 2
    told = (ObjectiveError, "ZeroDivisionError") if error is ZeroDivisionError else (error, None)
    with pytest.raises(told[0], match=told[1]):
        objective(moved(case))
    assert calls["left"] == 0
    assert snapshot(case.model) == before
    assert random_states() == states
    calls["left"] = None
    assert objective(moved(case)).loss == pytest.approx(plain_loop(case, moved(case))[0], rel=1e-5)


def test_also_when_the_objective_is_refused():
    case = in_use("conv")
    before, states = snapshot(case.model), random_states()
    with pytest.raises(ObjectiveError):
        Objective(
            case.model,
            case.inputs,
            case.targets,
            lambda o, t: F.cross_entropy(o, t, reduction="sum"),
        )
    assert snapshot(case.model) == before
    assert random_states() == states


def test_a_model_that_draws_and_reseeds_changes_no_random_state():
    case = in_use("mlp")
    torch.manual_seed(1), random.seed(2), np.random.seed(3)  # noqa: NPY002
    states = random_states()
    objective = Objective(Greedy(case.model), case.inputs, case.targets, case.loss_fn, batch_size=9)
    objective(moved(case))
    assert random_states() == states


@pytest.mark.parametrize("kind", ["mlp", "conv", "attention", "lstm"])
def test_dropout_is_off_whatever_the_mode(kind):
    case = in_use(kind)
    objective = Objective(case.model, case.inputs, case.targets, case.loss_fn)
    losses = set()
    for training in (True, False):
        case.model.train(training)
        losses.add(objective(moved(case)).loss)
    assert len(losses) == 1
    # The mode matters to this model: in training mode its loss is another one.
    assert losses.pop() == pytest.approx(plain_loop(case, moved(case))[0], rel=1e-5)
    case.model.train()
    with torch.no_grad():
        trained = case.loss_fn(case.model(case.inputs), case.targets)
    assert float(trained) != objective(flat(case.model)).loss


def test_evaluates_without_gradients():
    case = in_use("mlp")
    seen = []

    def loss_fn(outputs, targets):
        seen.append((torch.is_grad_enabled(), outputs.requires_grad))
        return F.cross_entropy(outputs, targets)

    with torch.enable_grad():
        objective = Objective(case.model, case.inputs, case.targets, loss_fn)
        objective(torch.from_numpy(moved(case)).float().requires_grad_())
        assert torch.is_grad_enabled()
    assert set(seen) == {(False, False)}


def test_the_models_current_buffers_are_used_at_every_point():
    case = in_use("conv")
    objective = Objective(case.model, case.inputs, case.targets, case.loss_fn)
    before = objective(moved(case)).loss
    case.model[1].running_mean += 1
    assert objective(moved(case)).loss == pytest.approx(plain_loop(case, moved(case))[0], rel=1e-5)
    assert objective(moved(case)).loss != before


def test_the_models_current_parameters_play_no_part():
    case = in_use("conv")
    objective = Objective(case.model, case.inputs, case.targets, case.loss_fn)
    before = objective(moved(case))
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.mul_(-3)
    assert objective(moved(case)) != objective(flat(case.model))
    vector = moved(sample_case("conv"))
    assert objective(vector) == before


def test_a_buffer_changed_by_one_batch_plays_no_part_in_the_next():
    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            outputs = self.inner(x) * (1 + self.calls)
            self.calls += 1
            return outputs

    x, y = torch.randn(12, 6), torch.randint(4, (12,))
    case = Case(Drifting(), x, y, F.cross_entropy)
    loss, _ = plain_loop(case, moved(case))
    objective = Objective(case.model, x, y, F.cross_entropy, batch_size=5)
    assert objective(moved(case)).loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_vector_is_left_as_it_was(kind, dtype):
    # An embedding with max_norm shortens its rows in place, also in evaluation mode.
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Flatten(), nn.Linear(12, 3))
    x, y = torch.randint(5, (8, 3)), torch.randint(3, (8,))
    objective = Objective(model.to(torch.float32), x, y, F.cross_entropy)
    vector = (3 * flat(model)).astype(dtype)
    kept = vector.copy()
    objective(torch.from_numpy(vector) if kind == "tensor" else vector)
    np.testing.assert_array_equal(vector, kept)


def test_the_data_are_left_as_they_were():
    model = nn.Sequential(nn.ReLU(inplace=True), mlp())
    x, y = torch.randn(12, 6), torch.randint(4, (12,))
    kept = x.clone()
    Objective(model, x, y, F.cross_entropy, batch_size=5)(flat(model))
    assert torch.equal(x, kept)


def test_a_model_that_changes_its_inputs_in_place_is_not_called_random():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 4)

        def forward(self, x):
            x -= 1
            return self.inner(x)

    x, y = torch.randn(12, 6), torch.randint(4, (12,))
    case = Case(Shifted(), x.clone(), y, F.cross_entropy)
    expected, _ = plain_loop(Case(case.model.inner, x - 1, y, F.cross_entropy), moved(case))
    objective = Objective(case.model, x, y, F.cross_entropy, batch_size=5)
    assert objective(moved(case)).loss == pytest.approx(expected, rel=1e-5)


def test_an_evaluation_between_two_training_steps_changes_nothing_of_the_training():
    def train(evaluate):
        case = sample_case("conv")
        torch.manual_seed(5)
        optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(4):
            case.model.train()
            loss = case.loss_fn(case.model(case.inputs), case.targets)
            loss.backward()
            if evaluate:
                objective = Objective(case.model, case.inputs, case.targets, case.loss_fn)
                objective(moved(case))
            optimizer.step()
            optimizer.zero_grad()
        return flat(case.model)

    np.testing.assert_array_equal(train(evaluate=True), train(evaluate=False))
