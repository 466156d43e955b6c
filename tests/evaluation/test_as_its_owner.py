"""The loss is that of the model as its owner uses it: the vector in it, then `eval()`."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losspath
import losspath.evaluation.data
from losspath import Objective
from losspath.errors import LosspathError, ModelError, ObjectiveError

torch.manual_seed(0)
X = torch.randn(60, 8)
Y = (X[:, 0] > 0).long()
ce = F.cross_entropy


def vector_of(model):
    """The trainable parameters, each once, by a loop of its own."""
    return np.concatenate(
        [p.detach().reshape(-1).numpy() for p in model.parameters() if p.requires_grad]
    )


def trained(model, x=X, y=Y, loss_fn=ce, steps=6, lr=0.3):
    """States of a training, each with the loss that its owner has in evaluation mode there."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
    states, losses = [], []
    for _ in range(steps):
        states.append(vector_of(model))
        model.eval()
        with torch.no_grad():
            losses.append(float(loss_fn(model(x), y)))
        model.train()
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    return np.stack(states), losses


def assert_right(objective, states, losses, rel=1e-5):
    for number in np.random.default_rng(0).permutation(len(states)):
        assert objective(states[number]).loss == pytest.approx(losses[number], rel=rel)


def content(model):
    """Everything that must be as it was: identities and bytes."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {
        "tensors": [(n, id(t), t.data_ptr(), t.detach().numpy().tobytes()) for n, t in tensors],
        "modes": [m.training for m in model.modules()],
        "held": [
            (n, k, id(v), v.detach().numpy().tobytes())
            for n, m in model.named_modules()
            for k, v in vars(m).items()
            if isinstance(v, torch.Tensor)
        ],
    }


class TwoNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(8, 8)
        self.alias = nn.Sequential(self.enc)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.enc(x)))


class SharedParameter(nn.Module):
    """One Parameter in two modules, and another in a list."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.two.weight = self.one.weight
        self.head = nn.Linear(8, 2)
        self.all = nn.ParameterList([self.head.weight])

    def forward(self, x):
        return F.linear(torch.tanh(self.two(torch.tanh(self.one(x)))), self.all[0])


class SharedMemory(nn.Module):
    """Two Parameters of one memory."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.two.weight = nn.Parameter(self.one.weight.data.t())
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))


class StoredView(nn.Module):
    """Decoder weights tied by a view that is made once."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(8, 5)
        self.dec_w = self.enc.weight.t()
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(F.linear(torch.tanh(self.enc(x)), self.dec_w))


class LoRA(nn.Module):
    """Merges its adapter in evaluation mode, as loralib does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 3, requires_grad=False)
        self.a = nn.Parameter(torch.randn(2, 8) / 3)
        self.b = nn.Parameter(torch.zeros(8, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            sign = -1 if mode else 1
            self.weight.data += sign * (self.b @ self.a).detach() * 2
            self.merged = not mode
        return self

    def forward(self, x):
        out = F.linear(x, self.weight)
        return out if self.merged else out + F.linear(F.linear(x, self.a), self.b) * 2


class Caching(nn.Module):
    """Keeps a product in evaluation mode, until it is trained again."""

    def __init__(self, own_train):
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(8, 3) / 2), nn.Parameter(torch.randn(3, 8) / 2)
        self.cache = None
        if own_train:
            self.__class__ = CachingWithTrain

    def forward(self, x):
        if self.training:
            return x @ (self.u @ self.v)
        if self.cache is None:
            self.cache = (self.u @ self.v).detach()
        return x @ self.cache


class CachingWithTrain(Caching):
    def train(self, mode=True):
        self.cache = None
        return super().train(mode)


class Scaled(nn.Module):
    """Has a train() of its own that does not look at `training` again."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.scale = 1.0

    def train(self, mode=True):
        super().train(mode)
        self.scale = 1.0 if mode else 0.5
        return self

    def forward(self, x):
        return self.inner(x) * self.scale


def headed(body):
    return nn.Sequential(body, nn.Tanh(), nn.Linear(8, 2))


def old_weight_norm():
    with pytest.warns(FutureWarning):
        return headed(nn.utils.weight_norm(nn.Linear(8, 8)))


MODELS = {
    "two names": TwoNames,
    "shared parameter": SharedParameter,
    "lora": lambda: headed(LoRA()),
    "cache dropped by train": lambda: headed(Caching(True)),
    "own train": lambda: headed(Scaled()),
    "old weight norm": old_weight_norm,
    "weight norm": lambda: headed(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))),
    "old spectral norm": lambda: headed(nn.utils.spectral_norm(nn.Linear(8, 8))).eval(),
    "orthogonal": lambda: headed(nn.utils.parametrizations.orthogonal(nn.Linear(8, 8))),
    "scripted": lambda: headed(torch.jit.script(nn.Linear(8, 8))),
    "frozen": lambda: headed(nn.Linear(8, 8).requires_grad_(False)),
}


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("kind", [kind for kind in MODELS if "spectral" not in kind])
def test_every_state_has_the_loss_of_its_owner(kind, mode):
    torch.manual_seed(1)
    model = MODELS[kind]()
    states, losses = trained(model)
    model.train(mode == "training")
    before = content(model)
    objective = Objective(model, X, Y, ce, batch_size=25)
    assert_right(objective, states, losses)
    assert content(model) == before


@pytest.mark.parametrize("kind", MODELS)
def test_training_goes_on_as_if_nothing_had_been_evaluated(kind):
    made = []
    for _ in range(2):
        torch.manual_seed(1)
        made.append(MODELS[kind]())
    model, other = made
    objective = Objective(model, X, Y, ce)
    optimizers = [torch.optim.SGD(list(m.parameters()), 0.1) for m in made]
    for _ in range(3):
        objective(vector_of(model) * 0.5)
        for each, optimizer in zip((model, other), optimizers, strict=True):
            optimizer.zero_grad()
            ce(each(X), Y).backward()
            optimizer.step()
    np.testing.assert_array_equal(vector_of(model), vector_of(other))


def test_weights_tied_by_a_stored_view_are_right():
    model = StoredView()
    states = [vector_of(model), vector_of(model) * 1.5]
    losses = []
    for state in states:  # by the formula alone
        enc, bias, head, out = np.split(state.astype(np.float64), [40, 45, 61])
        hidden = np.tanh(X.double().numpy() @ enc.reshape(5, 8).T + bias) @ enc.reshape(5, 8)
        logits = torch.from_numpy(hidden @ head.reshape(2, 8).T + out)
        losses.append(float(ce(logits, Y)))
    objective = Objective(model, X, Y, ce)
    assert_right(objective, states, losses)


def test_parameters_of_one_memory_are_one():
    model = SharedMemory()
    states = [vector_of(model)[64:] * scale for scale in (1.0, 1.5, 0.5)]
    objective = Objective(model, X, Y, ce)
    for _ in range(10):  # copies of every call share memory as the model does
        for state in states:
            w, head, bias = np.split(state.astype(np.float64), [64, 80])
            w = w.reshape(8, 8)
            hidden = np.tanh(np.tanh(X.double().numpy() @ w.T) @ w)
            logits = torch.from_numpy(hidden @ head.reshape(2, 8).T + bias)
            assert objective(state).loss == pytest.approx(float(ce(logits, Y)), rel=1e-5)
    assert model.one.weight.data_ptr() == model.two.weight.data_ptr()


def test_a_cache_that_nothing_drops_is_right_or_refused():
    model = headed(Caching(False))
    states = [vector_of(model), vector_of(model) * 1.5]
    losses = [float(ce(m(X), Y)) for m in map(copy.deepcopy, [model])]
    objective = Objective(model, X, Y, ce)
    assert objective(states[0]).loss == pytest.approx(losses[0], rel=1e-5)
    assert objective(states[1]).loss != pytest.approx(losses[0], rel=1e-3)
    model.eval()(X)  # and now it is kept
    with pytest.raises(ObjectiveError, match="cache"):
        Objective(model, X, Y, ce)(states[1])


def penalties(model):
    class Penalty(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))  # of a loss object of its own
            self.beta = 0.1

        def forward(self, o, t):
            return ce(o, t) + self.beta * sum(p.abs().sum() for p in model.parameters())

    yield lambda o, t: ce(o, t) + 0.1 * sum(p.pow(2).sum() for p in model.parameters())
    yield (
        lambda o, t: (
            ce(o, t) + 0.1 * model[0].weight.norm() + 0.01 * model.state_dict()["2.bias"].sum()
        )
    )
    yield Penalty()
    held = list(model.parameters())
    yield lambda o, t: ce(o, t) + 0.1 * torch.cat([p.flatten() for p in held]).norm(p=1)
    yield lambda o, t: (ce(o, t, reduction="sum") + len(t) * held[0].pow(2).mean(), len(t))


@pytest.mark.parametrize("number", range(5))
def test_a_penalty_sees_the_vector(number):
    torch.manual_seed(0)
    model = headed(nn.Linear(8, 8))
    loss = list(penalties(model))[number]

    def mean(o, t):
        result = loss(o, t)
        return result[0] / result[1] if isinstance(result, tuple) else result

    states, losses = trained(model, loss_fn=mean)
    before = content(model)
    assert_right(Objective(model, X, Y, loss, batch_size=60), states, losses)
    assert content(model) == before


def test_a_penalty_gives_its_share_to_derivatives():
    from losspath.evaluation.derivatives import Derivatives

    model = headed(nn.Linear(8, 8))
    loss = lambda o, t: ce(o, t) + 0.1 * sum(p.pow(2).sum() for p in model.parameters())  # noqa: E731
    at = vector_of(model) * 1.3
    derivatives = Derivatives(Objective(model, X, Y, loss), at)
    other = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(at), other.parameters())
    total = ce(other(X), Y) + 0.1 * sum(p.pow(2).sum() for p in other.parameters())
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(total, list(other.parameters()))]
    )
    np.testing.assert_allclose(derivatives.gradient()[1], expected, rtol=1e-4, atol=1e-6)
    ones = np.ones(len(at))
    without = Derivatives(Objective(model, X, Y, ce), at).hessian_product(ones)
    np.testing.assert_allclose(derivatives.hessian_product(ones), without + 0.2, atol=1e-5)


def test_a_layer_added_later_is_refused():
    model = headed(nn.Linear(8, 8))
    objective = Objective(model, X, Y, ce)
    vector = vector_of(model)
    model.append(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="other parameters"):
        objective(vector)
    model.pop(3)
    objective(vector)
    model[0] = nn.Linear(8, 8, bias=False)
    with pytest.raises(ModelError, match=r"0\.bias"):
        objective(vector)


def test_an_attribute_that_changes_counts_from_then_on():
    class Temperature(nn.Linear):
        temperature = 1.0

        def forward(self, x):
            return super().forward(x) / self.temperature

    model = Temperature(8, 2)
    objective = Objective(model, X, Y, ce)
    model.temperature = 4.0
    expected = float(ce(model(X), Y))
    assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)


def test_data_are_the_objectives_own():
    model, x, y = headed(nn.Linear(8, 8)), X.clone(), Y.clone()
    array = X.numpy().copy()
    objectives = [Objective(model, x, y, ce), Objective(model, array, y.numpy(), ce)]
    expected = objectives[0](vector_of(model)).loss
    x *= 0.1
    array *= 0.1
    y.fill_(1)
    assert [o(vector_of(model)).loss for o in objectives] == [expected] * 2


def test_data_too_large_to_copy_are_looked_at(monkeypatch):
    monkeypatch.setattr("losspath.evaluation.data.COPIED_BYTES", 100)
    model, x = headed(nn.Linear(8, 8)), X.clone()
    objective = Objective(model, x, Y, ce)
    objective(vector_of(model))
    x *= 0.1
    with pytest.raises(ObjectiveError, match="data have changed"):
        objective(vector_of(model))


def test_large_data_are_read_once_for_each_public_call(monkeypatch):
    monkeypatch.setattr("losspath.evaluation.data.COPIED_BYTES", 100)
    model, digests = headed(nn.Linear(8, 8)), []
    digest = losspath.evaluation.data.digest_of_tensors
    monkeypatch.setattr(
        "losspath.evaluation.data.digest_of_tensors", lambda v: digests.append(0) or digest(v)
    )
    x = X.clone()
    objective = Objective(model, x, Y, ce)
    start = vector_of(model)
    path = start + np.cumsum(np.random.default_rng(0).normal(size=(6, len(start))), axis=0)
    calls = [
        lambda: losspath.compute_surface(path, objective, "averaged", 3, states=4),
        lambda: losspath.interpolate(path, objective),
        lambda: losspath.measure_dynamics(path, objective, 3),
        lambda: objective(start),
    ]
    for call in calls:
        digests.clear()
        call()
        assert len(digests) == 1
    x *= 0.1
    for call in calls:
        with pytest.raises(ObjectiveError, match="data have changed"):
            call()


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf"), 1e-30])
def test_a_sum_is_refused_whatever_the_model_has_learnt(scale):
    model = nn.Linear(8, 1)
    targets = torch.zeros(60, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0).mul_(scale)
    for loss in (nn.MSELoss(reduction="sum"), lambda o, t: (o - t).pow(2).mean(dim=1).sum()):
        with pytest.raises(ObjectiveError, match="mean over samples"):
            Objective(model, X, targets, loss)
    Objective(model, X, targets, F.mse_loss)


class Masked(nn.Module):
    """A causal mask and padding: rows that are all masked are NaN by the fused kernel alone."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.words = nn.Embedding(11, 8, padding_idx=0)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        hidden = self.encoder(self.words(x), mask=causal, src_key_padding_mask=x == 0)
        return self.head(hidden.mean(dim=1))


def test_attention_is_that_of_training():
    torch.manual_seed(0)
    model = Masked()
    words = torch.randint(1, 11, (60, 6))
    words[::3, 3:] = 0
    words[1::7, :3] = 0  # padding on the left: nothing to attend to
    flag = torch.backends.mha.get_fastpath_enabled()
    objective = Objective(model, words, Y, ce)
    expected = float(ce(model(words), Y))  # in training mode, without dropout
    assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert torch.backends.mha.get_fastpath_enabled() == flag


def test_a_model_that_cannot_be_copied_is_evaluated_itself():
    class Locked(nn.Linear):
        def __init__(self):
            super().__init__(8, 2)
            import threading

            self.lock = threading.Lock()

    model = Locked()
    states, losses = trained(model)
    before = content(model)
    objective = Objective(model, X, Y, ce)
    assert_right(objective, states, losses)
    assert content(model) == before
    assert "not on a copy" in objective.provenance["notes"][0]


def test_an_interrupt_leaves_the_model_as_it_was():
    model = headed(nn.Linear(8, 8))
    calls = []

    def loss(o, t):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return ce(o, t)

    stop = -1
    objective = Objective(model, X, Y, loss, batch_size=10)
    before = content(model)
    calls.clear()
    stop = 3
    with pytest.raises(KeyboardInterrupt):
        objective(vector_of(model) * 2)
    assert content(model) == before


def test_inference_mode_makes_no_difference():
    with torch.inference_mode():
        made = headed(nn.Linear(8, 8))
        objective = Objective(made, X, Y, ce)
        inside = objective(vector_of(made)).loss
        expected = float(ce(made(X), Y))
    assert objective(vector_of(made)).loss == inside
    assert inside == pytest.approx(expected, rel=1e-5)


def test_check_can_be_left_out_and_is_told():
    model = headed(nn.Linear(8, 8))
    sums = Objective(model, X, Y, lambda o, t: ce(o, t, reduction="sum"), check=False)
    assert sums.provenance["checked"] is False
    assert Objective(model, X, Y, ce).provenance["checked"] is True


@pytest.mark.parametrize("wrong", [None, 3, "ce"])
def test_a_loss_that_is_no_function(wrong):
    with pytest.raises(LosspathError, match="loss_fn"):
        Objective(headed(nn.Linear(8, 8)), X, Y, wrong)


def test_a_model_that_cannot_be_copied_can_be_looked_into():
    class Locked(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
            import threading

            self.lock = threading.Lock()

    model = Locked()
    states, _ = trained(model)
    before = content(model)
    objective = Objective(model, X, Y, ce)
    found = losspath.confusion(objective, states[1])
    own = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
    nn.utils.vector_to_parameters(torch.from_numpy(states[1]), own.parameters())
    predicted = own(X).argmax(1)
    np.testing.assert_array_equal(
        found.counts, [[int(((a == Y) & (predicted == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    )
    seen = losspath.activations(states, objective, 2)
    assert len(seen.names) >= 2
    assert content(model) == before
    assert not any(module._forward_hooks for module in model.modules())


def test_a_loss_that_no_parameter_moves_is_told():
    kept = {}

    class Cached(nn.Linear):
        def forward(self, x):
            return kept.setdefault(len(x), super().forward(x).detach())

    with pytest.warns(losspath.LosspathWarning, match="every picture of it is flat"):
        objective = Objective(Cached(8, 2), X, Y, ce)
    assert "the loss is the same at very different parameters" in objective.provenance["notes"]


def test_a_loss_that_no_scale_moves_is_nothing_to_tell():
    class Normed(nn.Linear):
        def forward(self, x):
            return F.normalize(F.linear(x, self.weight), dim=1)

    objective = Objective(Normed(8, 2, bias=False), X, Y, ce)
    assert "notes" not in objective.provenance


def test_parameters_of_the_loss_are_told():
    class Margin(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, outputs, targets):
            return ce(outputs * self.scale, targets)

    objective = Objective(headed(nn.Linear(8, 8)), X, Y, Margin())
    told = "the loss has parameters of its own, which are those of now"
    assert objective.provenance["notes"] == [told]


def test_derivatives_of_what_is_merged_are_refused(tmp_path):
    model = headed(LoRA())
    objective = Objective(model, X, Y, ce)
    start = vector_of(model)
    path = start + np.cumsum(np.random.default_rng(0).normal(size=(4, len(start))), axis=0)
    with pytest.raises(LosspathError, match=r"merges parameters.*adapters stay apart"):
        losspath.measure_dynamics(path, objective, 2)
