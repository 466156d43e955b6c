import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluated_models import flat, moved, random_states, sample_case, snapshot
from torch import nn

from losspath import Objective
from losspath.errors import ModelError, ObjectiveError, UnsupportedError
from losspath.evaluation.derivatives import Derivatives

SMOOTH = ("mlp", "conv", "attention", "lstm", "gru", "tied", "float64", "complex", "counter")


def objective_of(case, batch_size=10):
    return Objective(case.model, case.inputs, case.targets, case.loss_fn, batch_size=batch_size)


class Bowl(nn.Module):
    """(θ − c)ᵀ A (θ − c) / 2 as an output; the inputs play no part."""

    def __init__(self, matrix, center):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(len(center), dtype=torch.float64))
        self.register_buffer("matrix", torch.as_tensor(matrix))
        self.register_buffer("center", torch.as_tensor(center))

    def forward(self, x):
        away = self.theta - self.center
        return (away @ self.matrix @ away / 2).expand(len(x), 1)


def bowl(count, seed=0):
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.standard_normal((count, count)))[0]
    values = np.linspace(-2.0, 5.0, count)
    matrix = rotation @ np.diag(values) @ rotation.T
    center = generator.standard_normal(count)
    data = torch.zeros(6, 1, dtype=torch.float64)
    model = Bowl(matrix, center)
    return Objective(model, data, data, lambda out, _: out.mean(), batch_size=4), matrix, center


@pytest.mark.parametrize("count", [1, 2, 12, 13, 40])
def test_a_bowl_has_its_own_derivatives(count):
    objective, matrix, center = bowl(count)
    at = np.random.default_rng(1).standard_normal(count)
    derivatives = Derivatives(objective, at)
    loss, gradient = derivatives.gradient()
    away = at - center
    assert loss == pytest.approx(away @ matrix @ away / 2)
    np.testing.assert_allclose(gradient, matrix @ away, atol=1e-12)
    direction = np.ones(count)
    np.testing.assert_allclose(
        derivatives.hessian_product(direction), matrix @ direction, atol=1e-9
    )
    top = np.linalg.eigvalsh(matrix)[-1]
    assert derivatives.sharpness() == pytest.approx(top, rel=0.02)
    assert derivatives.sharpness(tolerance=1e-6) == pytest.approx(top, rel=1e-5)


@pytest.mark.parametrize("kind", SMOOTH)
def test_the_gradient_of_every_kind_of_model_is_that_of_all_samples_at_once(kind):
    case = sample_case(kind)
    at = moved(case)
    loss, gradient = Derivatives(objective_of(case), at).gradient()
    assert loss == pytest.approx(objective_of(case)(at).loss, rel=1e-5)
    direction = np.random.default_rng(5).standard_normal(len(at))
    direction /= np.linalg.norm(direction)
    step = 1e-2
    forward, backward = (objective_of(case)(at + s * direction).loss for s in (step, -step))
    assert gradient @ direction == pytest.approx((forward - backward) / (2 * step), abs=2e-3)


@pytest.mark.parametrize("kind", ["mlp", "conv", "attention", "lstm", "gru", "tied", "float64"])
def test_hessian_products_are_differences_of_gradients(kind):
    case = sample_case(kind)
    at = moved(case)
    direction = np.random.default_rng(5).standard_normal(len(at))
    direction /= np.linalg.norm(direction)
    objective = objective_of(case)
    product = Derivatives(objective, at).hessian_product(direction)
    step = 1e-3
    ahead, behind = (
        Derivatives(objective, at + s * direction).gradient()[1] for s in (step, -step)
    )
    difference = (ahead - behind) / (2 * step)
    if kind in ("mlp", "conv", "float64"):  # a ReLU may have its corner in between
        assert np.median(np.abs(product - difference)) < 1e-2
    else:
        np.testing.assert_allclose(product, difference, atol=5e-3)


def test_sharpness_is_the_largest_eigenvalue_of_the_whole_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(30, 3, dtype=torch.float64), torch.randint(2, (30,))
    objective = Objective(model, x, y, F.cross_entropy, batch_size=7)
    at = flat(model)

    def loss(vector):
        first, bias, second, last = vector.split([12, 4, 8, 2])
        hidden = torch.tanh(x @ first.view(4, 3).T + bias)
        return F.cross_entropy(hidden @ second.view(2, 4).T + last, y)

    hessian = torch.autograd.functional.hessian(loss, torch.from_numpy(at))
    top = float(torch.linalg.eigvalsh(hessian)[-1])
    assert Derivatives(objective, at).sharpness(tolerance=1e-6) == pytest.approx(top, rel=1e-5)


def test_sums_with_weights_count_by_their_weight():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.randn(20, 3)
    y = torch.randint(2, (20,))
    y[::3] = -100

    def loss(outputs, targets):
        total = F.cross_entropy(outputs, targets, ignore_index=-100, reduction="sum")
        return total, (targets >= 0).sum()

    objective = Objective(model, x, y, loss, batch_size=6)
    value, gradient = Derivatives(objective, flat(model)).gradient()
    whole = F.cross_entropy(model(x), y, ignore_index=-100)
    grads = torch.autograd.grad(whole, list(model.parameters()))
    assert value == pytest.approx(whole.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, torch.cat([g.reshape(-1) for g in grads]), atol=1e-6)


def test_a_linear_loss_has_no_curvature():
    data = torch.zeros(4, 1)
    model = nn.Linear(20, 1)
    objective = Objective(model, torch.ones(4, 20), data, lambda out, _: out.mean())
    derivatives = Derivatives(objective, flat(model))
    np.testing.assert_array_equal(derivatives.hessian_product(np.ones(21)), np.zeros(21))
    assert derivatives.sharpness() == pytest.approx(0.0, abs=1e-12)


def test_where_the_loss_is_not_finite_there_is_no_sharpness():
    case = sample_case("mlp")
    at = moved(case)
    at[0] = np.nan
    derivatives = Derivatives(objective_of(case), at)
    assert np.isnan(derivatives.gradient()[0])
    assert np.isnan(derivatives.sharpness())


@pytest.mark.parametrize("kind", ["conv", "counter", "attention"])
def test_nothing_of_the_callers_changes(kind):
    case = sample_case(kind)
    objective = objective_of(case)
    before = snapshot(case.model), random_states()
    derivatives = Derivatives(objective, moved(case))
    derivatives.gradient()
    derivatives.hessian_product(np.ones(objective.parameter_count))
    assert (snapshot(case.model), random_states()) == before
    assert torch.is_grad_enabled()


def test_a_failing_loss_leaves_the_model_as_it_was():
    calls = []

    def loss(outputs, targets):
        calls.append(None)
        if torch.is_grad_enabled() and outputs.requires_grad:
            raise RuntimeError("no such loss")
        return F.cross_entropy(outputs, targets)

    case = sample_case("conv")
    case.model.train()
    objective = Objective(case.model, case.inputs, case.targets, loss)
    with pytest.raises(ObjectiveError, match="no such loss"):
        Derivatives(objective, moved(case)).gradient()
    assert case.model.training


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ModelError, match="expected a vector of 103 parameters"):
        Derivatives(objective_of(sample_case("mlp")), np.zeros(7))


IDS = torch.randint(0, 10, (40, 3), generator=torch.Generator().manual_seed(0))
SORTS = (IDS[:, 0] > 4).long()


class Bag(nn.Module):
    """Means of embeddings, by a kernel without a second derivative or by one that has one."""

    def __init__(self, layer):
        super().__init__()
        self.words = layer
        self.head = nn.Linear(4, 2)

    def forward(self, ids):
        found = self.words(ids)
        return self.head(torch.tanh(found.mean(1) if found.dim() == 3 else found))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embeddings_of_every_kind_have_the_derivatives_of_a_dense_one(kind, sparse):
    torch.manual_seed(0)
    layer = kind(10, 4, sparse=sparse, **({"mode": "mean"} if kind is nn.EmbeddingBag else {}))
    at = np.random.default_rng(0).standard_normal(50)
    found = Derivatives(Objective(Bag(layer), IDS, SORTS, F.cross_entropy), at)
    dense = Derivatives(Objective(Bag(nn.Embedding(10, 4)), IDS, SORTS, F.cross_entropy), at)
    np.testing.assert_allclose(found.gradient()[1], dense.gradient()[1], atol=1e-6)
    direction = np.random.default_rng(1).standard_normal(50)
    np.testing.assert_allclose(
        found.hessian_product(direction), dense.hessian_product(direction), atol=1e-5
    )
    assert found.sharpness(tolerance=1e-6) == pytest.approx(dense.sharpness(tolerance=1e-6), 1e-4)
    assert (layer.sparse, layer.weight.dtype) == (sparse, torch.float32)


class OnceTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * (1 - ctx.saved_tensors[0].tanh() ** 2)


class HiddenTanh(OnceTanh):
    """As a kernel that torch knows nothing of."""

    @staticmethod
    def backward(ctx, slope):
        x, given = ctx.saved_tensors[0].detach().numpy(), slope.detach().numpy()
        return torch.from_numpy(given * (1 - np.tanh(x) ** 2))


class TwiceTanh(OnceTanh):
    @staticmethod
    def backward(ctx, slope):
        return slope * (1 - ctx.saved_tensors[0].tanh() ** 2)


class SingleTanh(OnceTanh):
    """Hidden, and for single precision alone."""

    @staticmethod
    def forward(ctx, x):
        assert x.dtype == torch.float32
        return OnceTanh.forward(ctx, x)


class Activated(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.head = nn.Linear(6, 5), nn.Linear(5, 4)
        self.function = function

    def forward(self, x):
        return self.head(self.function(self.first(x)))


@pytest.mark.parametrize("function", [OnceTanh, HiddenTanh, TwiceTanh])
def test_a_second_derivative_that_is_missing_in_silence_is_not_left_out(function):
    x, y = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4
    at = np.random.default_rng(0).standard_normal(59)
    found = Derivatives(Objective(Activated(function.apply), x, y, F.cross_entropy), at)
    plain = Derivatives(Objective(Activated(torch.tanh), x, y, F.cross_entropy), at)
    direction = np.random.default_rng(1).standard_normal(59)
    for _ in range(2):  # the first one finds out
        product = found.hessian_product(direction)
        np.testing.assert_allclose(product, plain.hessian_product(direction), atol=1e-5)
    assert found._is_exact is (function is TwiceTanh)


def test_what_has_no_second_derivative_and_no_double_precision_is_refused():
    x, y = torch.randn(30, 6), torch.arange(30) % 4
    objective = Objective(Activated(SingleTanh.apply), x, y, F.cross_entropy)
    derivatives = Derivatives(objective, np.ones(59))
    derivatives.gradient()
    with pytest.raises(UnsupportedError, match="SingleTanhBackward may lack a second derivative"):
        derivatives.hessian_product(np.ones(59))


def test_where_the_loss_has_no_double_precision_the_layer_is_named():
    weight = torch.ones(2)  # of single precision
    loss = nn.CrossEntropyLoss(weight, reduction="sum")
    layer = nn.EmbeddingBag(10, 4, mode="mean")
    objective = Objective(Bag(layer), IDS, SORTS, lambda out, to: (loss(out, to), len(to)))
    with pytest.raises(UnsupportedError, match=r"words \(EmbeddingBag\).*leave that layer out"):
        Derivatives(objective, np.ones(50)).hessian_product(np.ones(50))


def test_a_penalty_on_parameters_held_elsewhere_is_right_or_refused():
    model = Bag(nn.EmbeddingBag(10, 4, mode="mean"))
    held = list(model.parameters())

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets) + sum(p.pow(2).sum() for p in held)

    with pytest.raises(UnsupportedError, match="EmbeddingBag"):
        Derivatives(Objective(model, IDS, SORTS, loss), np.ones(50)).hessian_product(np.ones(50))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda out, to: F.cross_entropy(out, to).item(), "got a float"),
        (lambda out, to: F.cross_entropy(out, to).detach(), "has no graph"),
        (lambda out, to: torch.tensor(out.detach().numpy().mean()), "has no graph"),
        (lambda out, to: torch.tensor(out.numpy().mean()), r"numpy\(\)"),
    ],
)
def test_a_loss_that_torch_cannot_follow_is_refused(loss, says):
    case = sample_case("mlp")
    objective = Objective(case.model, case.inputs, case.targets, loss)
    with pytest.raises(ObjectiveError, match=says):
        Derivatives(objective, moved(case)).gradient()


def test_a_model_that_was_made_in_inference_mode():
    case = sample_case("mlp")
    expected = Derivatives(objective_of(case), moved(case)).sharpness()
    with torch.inference_mode():
        copy = sample_case("mlp").model
    objective = Objective(copy, case.inputs, case.targets, case.loss_fn)
    assert Derivatives(objective, moved(case)).sharpness() == pytest.approx(expected, rel=1e-3)
