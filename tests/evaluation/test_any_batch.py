"""Any inputs, any batches, any loss, and other quantities by name."""

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluated_models import random_states
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
)

from losspath import Objective, compute_surface
from losspath.errors import ArgumentError, LosspathError, LosspathWarning, ObjectiveError

X = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
Z = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(30) % 3
ce = F.cross_entropy


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 3), nn.Linear(4, 3)

    def forward(self, x, z, scale=1.0):
        return self.one(x) + scale * self.two(z)


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class Named(NamedTuple):
    logits: torch.Tensor
    extra: tuple


class Mapped(nn.Module):
    """As transformers' models: a mapping or dataclass with a loss in it, of a mapping."""

    def __init__(self, kind=dict):
        super().__init__()
        self.inner, self.kind = nn.Linear(6, 3), kind

    def forward(self, x, labels=None):
        logits = self.inner(x)
        if self.kind is dict:
            found = {"logits": logits}
            return found if labels is None else {**found, "loss": ce(logits, labels)}
        return Output(logits) if self.kind is Output else Named(logits, (logits,))


def vector_of(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy() * 1.2


def moved(model):
    """The model with the vector that is evaluated in it."""
    import copy

    other = copy.deepcopy(model)
    nn.utils.vector_to_parameters(torch.from_numpy(vector_of(model)), other.parameters())
    return other.eval()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("batch_size", [250, 7])
@pytest.mark.parametrize("arrays", [False, True])
def test_inputs_may_be_several(batch_size, arrays):
    model = Two()
    x, z, y = (t.double().numpy() if arrays and t.is_floating_point() else t for t in (X, Z, Y))
    expected = float(ce(moved(model)(X, Z), Y))
    for inputs in ((x, z), {"x": x, "z": z}):
        found = Objective(model, inputs, y, ce, batch_size=batch_size)(vector_of(model))
        assert found.loss == pytest.approx(expected, rel=1e-5)
        assert found.accuracy == float((moved(model)(X, Z).argmax(1) == Y).double().mean())
    found = Objective(model, {"x": x, "z": z, "scale": 2.0}, y, ce)(vector_of(model))
    assert found.loss == pytest.approx(float(ce(moved(model)(X, Z, 2.0), Y)), rel=1e-5)


def test_targets_may_be_anything():
    model = Two()
    out = moved(model)(X, Z)
    pair = Objective(model, (X, Z), (Y, X), lambda o, t: ce(o, t[0]) + t[1].pow(2).mean())
    assert pair(vector_of(model)).loss == pytest.approx(float(ce(out, Y) + X.pow(2).mean()), 1e-5)
    named = Objective(model, (X, Z), {"y": Y, "w": 0.5}, lambda o, t: t["w"] * ce(o, t["y"]))
    assert named(vector_of(model)).loss == pytest.approx(float(0.5 * ce(out, Y)), rel=1e-5)
    for loss in (lambda o: o.pow(2).mean(), lambda o, t: o.pow(2).mean()):
        alone = Objective(model, (X, Z), None, loss)
        assert alone(vector_of(model)).loss == pytest.approx(float(out.pow(2).mean()), rel=1e-5)


@pytest.mark.parametrize("kind", [dict, Output, Named])
def test_outputs_may_be_named(kind):
    model = Mapped(kind)
    get = (lambda o: o["logits"]) if kind is dict else (lambda o: o.logits)
    objective = Objective(model, X, Y, lambda o, t: ce(get(o), t), batch_size=8)
    assert objective(vector_of(model)).loss == pytest.approx(
        float(ce(get(moved(model)(X)), Y)), rel=1e-5
    )
    assert objective(vector_of(model)).accuracy is None


class Pairs(Dataset):
    def __len__(self):
        return 30

    def __getitem__(self, i):
        return X[i], Y[i]


def mean_loss(model, batch):
    x, y = batch
    return ce(model(x), y)


@pytest.mark.parametrize(
    "batches",
    [
        lambda: [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 30, 8)],
        lambda: Pairs(),
        lambda: TensorDataset(X, Y),
        lambda: DataLoader(Pairs(), batch_size=8),
        lambda: DataLoader(Pairs(), batch_size=7, num_workers=1),
        lambda: ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 30, 8)),
        lambda: [[X.numpy(), Y.numpy()]],
    ],
    ids=["list", "dataset", "tensors", "loader", "workers", "generator", "arrays"],
)
def test_batches_of_every_origin(batches):
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))
    states = random_states()
    objective = Objective.of_batches(model, batches(), mean_loss, batch_size=4)
    assert random_states() == states
    assert len(objective) == 30
    assert objective(vector_of(model)).loss == pytest.approx(
        float(ce(moved(model)(X), Y)), rel=1e-5
    )


def test_batches_that_are_mappings_and_their_own_loss():
    model = Mapped()
    batches = [{"x": X[i : i + 9], "labels": Y[i : i + 9]} for i in range(0, 30, 9)]
    objective = Objective.of_batches(model, batches, lambda m, b: m(**b)["loss"])
    assert objective(vector_of(model)).loss == pytest.approx(
        float(ce(moved(model).inner(X), Y)), rel=1e-5
    )


def test_a_second_pass_that_differs_is_refused_unless_it_is_meant():
    model = nn.Linear(6, 3)
    shuffled = DataLoader(Pairs(), batch_size=8, shuffle=True)
    with pytest.raises(ObjectiveError, match="shuffle=False"):
        Objective.of_batches(model, shuffled, mean_loss)
    staged = Objective.of_batches(model, shuffled, mean_loss, stage=True)
    found = [staged(vector_of(model)).loss for _ in range(2)]
    assert found[0] == found[1] == pytest.approx(float(ce(moved(model)(X), Y)), rel=1e-5)


@pytest.mark.parametrize("owner", ["loader", "sampler", "data set"])
def test_generators_of_a_loader_are_put_back(owner):
    ours, arrays, plain = torch.Generator(), np.random.default_rng(0), random.Random(0)

    class Noisy(Pairs):
        def __init__(self):
            self.arrays, self.plain = arrays, plain

        def __getitem__(self, i):
            return X[i] + self.arrays.random() + self.plain.random(), Y[i]

    data = Pairs()
    given = {
        "loader": lambda: DataLoader(data, 8, shuffle=True, generator=ours),
        "sampler": lambda: DataLoader(data, 8, sampler=RandomSampler(data, generator=ours)),
        "data set": lambda: DataLoader(Subset(Noisy(), range(30)), 8),
    }[owner]()
    before = ours.get_state(), arrays.bit_generator.state, plain.getstate()
    with pytest.raises(ObjectiveError, match="two passes"):
        Objective.of_batches(nn.Linear(6, 3), given, mean_loss)
    Objective.of_batches(nn.Linear(6, 3), given, mean_loss, stage=True)
    assert torch.equal(ours.get_state(), before[0])
    assert (arrays.bit_generator.state, plain.getstate()) == before[1:]


class Once(IterableDataset):
    def __init__(self):
        self.rows = iter([(X[i], Y[i]) for i in range(30)])

    def __iter__(self):
        return self.rows


def test_what_can_be_gone_through_once_is_told():
    model = nn.Linear(6, 3)
    with pytest.raises(ObjectiveError, match=r"gone through once.*stage=True"):
        Objective.of_batches(model, Once(), mean_loss)
    kept = Objective.of_batches(model, Once(), mean_loss, stage=True)
    expected = float(ce(moved(model)(X), Y))
    assert kept(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)


class Augmented(Pairs):
    def __getitem__(self, i):
        return X[i] + np.random.standard_normal(6).astype(np.float32), Y[i]  # noqa: NPY002


def test_augmented_data_are_refused():
    with pytest.raises(ObjectiveError, match="augmentation"):
        Objective.of_batches(nn.Linear(6, 3), Augmented(), mean_loss)


def test_sums_and_weights_and_names():
    model = nn.Linear(6, 3)

    def loss(m, batch):
        x, y = batch
        out = m(x)
        return {
            "loss": (ce(out, y, reduction="sum"), len(y)),
            "norm": sum(p.pow(2).sum() for p in m.parameters()),
            "wrong": ((out.argmax(1) != y).sum(), len(y)),
        }

    batches = [(X[:5], Y[:5]), (X[5:6], Y[5:6]), (X[6:], Y[6:])]
    metrics = {
        "perplexity": (mean_loss, math.exp),
        "accuracy": lambda m, b: (m(b[0]).argmax(1) == b[1]).float().mean(),
    }
    objective = Objective.of_batches(model, batches, loss, metrics=metrics)
    found, out = objective(vector_of(model)), moved(model)(X)
    assert found.loss == pytest.approx(float(ce(out, Y)), rel=1e-5)
    right = float((out.argmax(1) == Y).double().mean())
    assert found.accuracy == pytest.approx(right)
    assert found.metrics["wrong"] == pytest.approx(1 - right)
    assert found.metrics["norm"] == pytest.approx(float((vector_of(model) ** 2).sum()), rel=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(float(ce(out, Y))), rel=1e-5)


BATCHES = [(X[:8], Y[:8]), (X[8:20], Y[8:20]), (X[20:], Y[20:])]
WEIGHTS = torch.tensor([0.01, 0.02, 0.05])


def accuracy(model, batch):
    return (model(batch[0]).argmax(1) == batch[1]).float().mean()


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, b: (mean_loss(m, b), accuracy(m, b)),
        lambda m, b: (mean_loss(m, b), accuracy(m, b) * len(b[0])),
        lambda m, b: (mean_loss(m, b), len(b[0])),
        lambda m, b: (mean_loss(m, b), 0.3),
        lambda m, b: {"loss": mean_loss(m, b), "other": (mean_loss(m, b), accuracy(m, b))},
    ],
    ids=["accuracy", "correct", "count", "share", "named"],
)
def test_a_pair_that_is_no_sum_and_weight_is_told(loss):
    with pytest.warns(LosspathWarning, match=r"taken as \(sum, weight\)"):
        objective = Objective.of_batches(nn.Linear(6, 3), BATCHES, loss)
    assert any("(sum, weight)" in note for note in objective.notes)


@pytest.mark.filterwarnings("error::losspath.LosspathWarning")
@pytest.mark.parametrize(
    "loss",
    [
        lambda m, b: (ce(m(b[0]), b[1], reduction="sum"), len(b[0])),
        lambda m, b: (ce(m(b[0]), b[1], WEIGHTS, reduction="sum"), WEIGHTS[b[1]].sum()),
        lambda m, b: (mean_loss(m, b), 1),
        lambda m, b: {"loss": mean_loss(m, b), "accuracy": accuracy(m, b)},
        mean_loss,
    ],
    ids=["count", "class weights", "alike", "named", "mean"],
)
def test_a_sum_and_its_weight_are_taken_silently(loss):
    model = nn.Linear(6, 3)
    objective = Objective.of_batches(model, BATCHES, loss)
    assert objective.notes == []
    if "WEIGHTS" in loss.__code__.co_names:
        expected = float(ce(moved(model)(X), Y, WEIGHTS))
        assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (lambda m, b: ce(m(b[0]), b[1], reduction="sum"), "loss"),
        (lambda m, b: m(b[0]).square().sum(), "loss"),
        (
            lambda m, b: {
                "loss": mean_loss(m, b),
                "correct": (m(b[0]).argmax(1) == b[1]).sum() + m(b[0]).sum() * 1e-3,
            },
            "correct",
        ),
    ],
    ids=["sum", "squares", "named"],
)
def test_a_sum_over_a_batch_is_refused_where_there_are_several(loss, name):
    with pytest.raises(ObjectiveError, match=rf"the {name} of a batch as a mean.*as a sum is"):
        Objective.of_batches(nn.Linear(6, 3), BATCHES, loss)
    model = nn.Linear(6, 3)
    if name == "loss":  # of one batch it is what the loop computes
        objective = Objective.of_batches(model, [(X, Y)], loss)
        expected = float(loss(moved(model), (X, Y)))
        assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)


def test_a_negative_weight_is_refused():
    with pytest.raises(ObjectiveError, match="not negative"):
        Objective.of_batches(nn.Linear(6, 3), BATCHES, lambda m, b: (mean_loss(m, b), -1.0))


def test_batches_without_a_size_are_told():
    model, rows = nn.Linear(6, 3), [(x, y) for x, y in zip(X, Y, strict=True)]

    def loss(m, batch):
        return ce(m(torch.stack([x for x, _ in batch])), torch.stack([y for _, y in batch]))

    with pytest.warns(LosspathWarning, match="lists of samples"):
        Objective.of_batches(model, [rows[:20], rows[20:]], loss)
    numbers = [list(range(20)), list(range(20, 30))]
    named = [[(f"{i}", float(i)) for i in part] for part in numbers]
    with pytest.warns(LosspathWarning, match="how many samples"):
        Objective.of_batches(
            model, named, lambda m, b: ce(m(X[[int(i) for i, _ in b]]), Y[[int(i) for i, _ in b]])
        )


def test_batches_whose_first_tensors_are_no_samples_are_told():
    graphs = [
        {
            "x": torch.randn(sum(sizes), 6),
            "sizes": torch.tensor(sizes),
            "y": torch.arange(len(sizes)),
        }
        for sizes in ([9, 8, 9], [3, 2, 3])
    ]

    def loss(model, batch):
        sums = [part.sum(0) for part in batch["x"].split(batch["sizes"].tolist())]
        return ce(model(torch.stack(sums)), batch["y"])

    with pytest.warns(LosspathWarning, match="lengths that do not go together"):
        Objective.of_batches(nn.Linear(6, 3), graphs, loss)


def test_packed_sequences_and_graphs_say_how_many_they_are():
    pack = nn.utils.rnn.pack_sequence

    class Graphs:
        def __init__(self, count):
            self.num_graphs, self.x = count, torch.randn(count * 3, 6)

    def loss(model, batch):
        if isinstance(batch, Graphs):
            return model(batch.x.view(-1, 3, 6).sum(1)).pow(2).mean()
        padded, _ = nn.utils.rnn.pad_packed_sequence(batch[0], batch_first=True)
        return ce(model(padded.sum(1)), batch[1])

    packed = [
        (pack([torch.randn(5, 6), torch.randn(4, 6)]), torch.tensor([0, 1])),
        (pack([torch.randn(2, 6)]), torch.tensor([2])),
    ]
    for batches, count in ((packed, 3), ([Graphs(4), Graphs(2)], 6)):
        model = nn.Linear(6, 3)
        objective = Objective.of_batches(model, batches, loss)
        assert (len(objective), objective.notes) == (count, [])
        sizes = (2, 1) if batches is packed else (4, 2)
        means = [float(loss(moved(model), batch)) for batch in batches]
        expected = np.average(means, weights=sizes)
        assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)


def test_metrics_of_outputs():
    model = nn.Linear(6, 3)
    metrics = {
        "top two": lambda o, t: (o.topk(2)[1] == t[:, None]).any(1).float().mean(),
        "perplexity": (lambda o, t: (ce(o, t, reduction="sum"), len(t)), math.exp),
        "accuracy": lambda o, t: torch.tensor(0.25),
    }
    found = Objective(model, X, Y, ce, metrics=metrics, batch_size=7)(vector_of(model))
    out = moved(model)(X)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(float(ce(out, Y))), rel=1e-5)
    top = (out.topk(2)[1] == Y[:, None]).any(1).double().mean()
    assert found.metrics["top two"] == pytest.approx(float(top))
    assert found.accuracy == 0.25


@pytest.mark.parametrize("metrics", [{"loss": ce}, {"a": 3}, {"a": (ce, 3)}, {"a": (ce, ce, ce)}])
def test_metrics_that_are_none(metrics):
    with pytest.raises(ArgumentError, match="metrics"):
        Objective(nn.Linear(6, 3), X, Y, ce, metrics=metrics)


@pytest.mark.parametrize(
    ("batches", "match"),
    [
        ([], "at least one batch"),
        (X, "list, a Dataset or a DataLoader"),
        ({"x": X}, "single batch into a list"),
        (3, "list, a Dataset or a DataLoader"),
    ],
)
def test_what_is_no_batches(batches, match):
    with pytest.raises(LosspathError, match=match):
        Objective.of_batches(nn.Linear(6, 3), batches, mean_loss)


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, b: None,
        lambda m, b: m(b[0]),
        lambda m, b: {"nll": mean_loss(m, b)},
        lambda m, b: 1 / 0,
        lambda m, b: m(b),
    ],
    ids=["None", "not reduced", "no loss", "fails", "wrong call"],
)
def test_a_loss_over_batches_that_is_none(loss):
    with pytest.raises(LosspathError):
        Objective.of_batches(nn.Linear(6, 3), Pairs(), loss)


class Potential(nn.Module):
    """Its forward pass takes a gradient: forces of an energy."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        x = x.requires_grad_()
        return torch.autograd.grad(self.body(x).sum(), x, create_graph=self.training)[0]


def test_a_forward_pass_that_takes_gradients():
    model = Potential()
    objective = Objective(model, X, X.sin(), F.mse_loss, batch_size=8)
    expected = float(F.mse_loss(moved(model)(X.clone()), X.sin()))
    assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)
    assert all(p.grad is None for p in model.parameters())


def residual(model, points):
    """u'' + u = 0, by two gradients; and u(0) = 1."""
    t = points.requires_grad_()
    u = model(t)
    (first,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), t, create_graph=True)
    return (second + u).pow(2).mean() + (model(torch.zeros(1, 1)) - 1).pow(2).mean()


def test_a_residual_of_an_equation():
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    points = torch.linspace(0, 3, 40)[:, None]
    objective = Objective.of_batches(model, [points[:25], points[25:]], residual)
    expected = float(residual(moved(model), points.clone()))
    assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)
    states = np.stack([vector_of(model) * s for s in (0.5, 0.8, 1.0, 1.3)])
    states += 0.01 * np.random.default_rng(0).standard_normal(states.shape)
    surface = compute_surface(states, objective, "pca", 3, states=4)
    for loss, index in zip(surface.states.loss, surface.states.index, strict=True):
        assert loss == pytest.approx(objective(states[index]).loss, rel=1e-6)
    from losspath.evaluation.derivatives import Derivatives

    other = moved(model)
    expected = torch.autograd.grad(residual(other, points.clone()), list(other.parameters()))
    found = Derivatives(objective, vector_of(model)).gradient()[1]
    np.testing.assert_allclose(
        found, torch.cat([g.flatten() for g in expected]), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("shape", ["NK", "NTK", "NKT"])
def test_accuracy_is_known_or_absent(columns, shape):
    class Free(nn.Module):
        def __init__(self, outputs):
            super().__init__()
            self.outputs = nn.Parameter(outputs)

        def forward(self, index):
            return self.outputs[index]

    for length in (1, 2, 5, 7):
        sizes = {"NK": (20, columns), "NTK": (20, length, columns), "NKT": (20, columns, length)}
        outputs = torch.randn(sizes[shape])
        axis = 2 if shape == "NTK" else 1
        rest = [n for i, n in enumerate(outputs.shape) if i != axis]
        targets = torch.randint(columns, rest)
        model = Free(outputs)
        found = Objective(model, torch.arange(20), targets, lambda o, t: o.pow(2).mean())
        accuracy = found(outputs.flatten().numpy()).accuracy
        known = columns > 1 and (shape == "NK" or length != columns)
        right = (outputs.argmax(axis) == targets).double().mean()
        assert accuracy == (pytest.approx(float(right)) if known else None)


def test_targets_that_are_no_column_have_no_accuracy():
    model = nn.Linear(6, 3)
    counts = torch.arange(30) % 9
    found = Objective(model, X, counts, lambda o, t: (o - t[:, None]).pow(2).mean(), batch_size=4)
    assert found(vector_of(model)).accuracy is None


def test_broadcast_outputs_are_told():
    squeeze = pytest.raises(ObjectiveError, match="squeeze")
    with pytest.warns(UserWarning, match="target size"), squeeze:
        Objective(nn.Linear(6, 1), X, X[:, 0], F.mse_loss)


def test_float64_data_of_numpy_are_taken_by_a_model_of_single_precision():
    model = nn.Linear(6, 3)
    for inputs in (X.double().numpy(), X.double()):
        found = Objective(model, inputs, Y.numpy(), ce)(vector_of(model)).loss
        assert found == pytest.approx(float(ce(moved(model)(X), Y)), rel=1e-5)
    wide = nn.Linear(6, 3).double()
    objective = Objective(wide, X.double().numpy(), Y, ce)
    expected = float(ce(moved(wide)(X.double()), Y))
    assert objective(vector_of(wide)).loss == pytest.approx(expected, rel=1e-12)


class Clock(nn.Module):
    """Takes times since 1970, and subtracts one."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 3)
        self.register_buffer("start", torch.tensor(1.7e9, dtype=torch.float64))

    def forward(self, times, x):
        return self.inner(torch.stack([((times - self.start) / 30).float(), x[:, 0]], 1))


def test_arrays_that_single_precision_cannot_hold_stay_double():
    model, times = Clock(), 1.7e9 + np.arange(30.0)
    objective = Objective(model, (times, X.double().numpy()), Y, ce)
    expected = float(ce(moved(model)(torch.from_numpy(times), X), Y))
    assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)
    assert objective.data.inputs[1].dtype == torch.float32  # which loses nothing
    wrong = float(ce(moved(model)(torch.from_numpy(times).float(), X), Y))
    assert abs(wrong - expected) > 1e-3
    # One column of two.
    both = np.stack([times, X[:, 0].numpy()], 1)
    alone = Objective(Columns(model), both, Y, ce)
    assert alone(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)


class Columns(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, both):
        return self.inner(both[:, 0], both[:, 1:].float())


def test_targets_that_single_precision_cannot_hold_stay_double():
    model, times = nn.Linear(6, 1), 1.7e9 + np.arange(30.0)

    def loss(outputs, targets):
        return (outputs[:, 0] - (targets - 1.7e9)).pow(2).mean()

    found = Objective(model, X.double().numpy(), times, loss)(vector_of(model)).loss
    expected = (moved(model)(X)[:, 0] - torch.arange(30.0)).pow(2).mean()
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)


def test_what_single_precision_loses_is_told():
    model = nn.Linear(1, 3)
    for times in (1.7e9 + np.arange(30.0)[:, None], 1.7e9 + torch.arange(30.0).double()[:, None]):
        with pytest.warns(LosspathWarning, match="taken in single"):
            Objective(model, times, Y, lambda o, t: ce(o / 1e9, t))


class Pool(nn.Module):
    """Takes sequences of different lengths."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, rows):
        return torch.stack([self.inner(row).mean(0) for row in rows.unbind()])


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_nested_tensors(layout):
    rows = [X[: 1 + i % 4] + i for i in range(30)]
    nested, model = torch.nested.nested_tensor(rows, layout=layout), Pool()
    expected = float(ce(moved(model)(nested), Y).detach())
    halves = [torch.nested.nested_tensor(r, layout=layout) for r in (rows[:20], rows[20:])]
    batches = [(halves[0], Y[:20]), (halves[1], Y[20:])]
    for objective in (
        Objective(model, nested, Y, ce, batch_size=7),
        Objective.of_batches(model, batches, mean_loss),
    ):
        assert len(objective) == 30
        assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)
    other = torch.nested.nested_tensor([*rows[:-1], rows[-1] + 1], layout=layout)
    assert Objective(model, other, Y, ce).samples_digest != (
        Objective(model, nested, Y, ce).samples_digest
    )


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"] * 30),
        np.array([b"a"] * 30, dtype=object),
        np.array(["2020-01-01"] * 30, dtype="M8[D]"),
        np.zeros(30, np.longdouble),
        np.ma.masked_equal(np.arange(30), 3),
    ],
    ids=["words", "objects", "dates", "long", "masked"],
)
def test_arrays_that_are_no_tensors(array):
    model = nn.Linear(6, 3)

    def loss(m, batch):
        assert type(batch["info"]) is type(array)
        return ce(m(batch["x"]), batch["y"])

    objective = Objective.of_batches(model, [{"x": X, "y": Y, "info": array}], loss)
    expected = float(ce(moved(model)(X), Y).detach())
    assert objective(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ArgumentError, match="arrays of numbers"):
        Objective(model, X, {"y": Y, "info": array}, lambda o, t: ce(o, t["y"]))


@pytest.mark.parametrize("kind", [np.uint16, ">i8"])
def test_targets_of_rare_types(kind):
    model = nn.Linear(6, 3)
    targets = Y.numpy().astype(kind)
    found = Objective(model, X, targets, lambda o, t: ce(o, t.long()))(vector_of(model))
    assert found.loss == pytest.approx(float(ce(moved(model)(X), Y).detach()), rel=1e-5)
    assert found.accuracy == float((moved(model)(X).argmax(1) == Y).double().mean())


def test_a_hidden_state_that_is_kept_is_named():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.hidden = nn.RNNCell(6, 3), torch.zeros(1, 3)

        def forward(self, x):
            out = self.cell(x, self.hidden.expand(len(x), 3))
            self.hidden += out.mean(0, keepdim=True).detach()
            return out

    with pytest.raises(ObjectiveError, match="hidden state"):
        Objective(Stateful(), X, Y, ce)


@pytest.mark.parametrize(
    "inputs", [X[:, :3], torch.arange(30), (X, X)], ids=["width", "dtype", "two"]
)
def test_data_that_the_model_does_not_take(inputs):
    with pytest.raises(ObjectiveError, match="fails on the data"):
        Objective(nn.Linear(6, 3), inputs, Y, ce)


def test_data_parallel_is_its_module():
    model = nn.DataParallel(nn.Linear(6, 3))
    expected = float(ce(moved(model.module)(X), Y))
    assert Objective(model, X, Y, ce)(vector_of(model)).loss == pytest.approx(expected, rel=1e-5)
