"""What has no surface is refused at once, with a reason."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluated_models import flat, mlp, moved, plain_loop, sample_case
from torch import nn

from losspath import Objective
from losspath.errors import ArgumentError, ModelError, ObjectiveError

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4


def refuse(match, model=None, inputs=X, targets=Y, loss_fn=F.cross_entropy, **options):
    torch.manual_seed(0)
    with pytest.raises(ObjectiveError, match=match):
        Objective(model or mlp(), inputs, targets, loss_fn, **options)


class Noisy(nn.Module):
    """Adds something to its outputs."""

    def __init__(self, noise):
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.noise = noise

    def forward(self, x):
        return self.inner(x) + self.noise(x)


@pytest.mark.parametrize(
    "noise",
    [
        lambda x: 1e-3 * torch.randn(len(x), 4),
        lambda x: F.dropout(torch.ones(len(x), 4), 0.5),
        lambda x: torch.from_numpy(np.random.rand(len(x), 4)),  # noqa: NPY002
    ],
    ids=["torch", "dropout always on", "numpy"],
)
def test_a_model_that_is_random_in_evaluation_mode(noise):
    refuse("two evaluations of the same state differ", Noisy(noise))


def test_a_random_model_is_found_where_the_loss_does_not_show_it():
    refuse(
        "two evaluations of the same state differ",
        Noisy(lambda x: torch.randn(len(x), 4)),
        loss_fn=lambda outputs, targets: 0 * outputs.mean(),
    )


def test_a_random_model_is_found_where_the_outputs_are_no_tensor():
    class Named(Noisy):
        def forward(self, x):
            return {"logits": super().forward(x)}

    refuse(
        "two evaluations of the same state differ",
        Named(lambda x: torch.randn(len(x), 4)),
        loss_fn=lambda outputs, targets: F.cross_entropy(outputs["logits"], targets),
    )


def test_a_random_loss():
    refuse(
        "two evaluations of the same state differ",
        loss_fn=lambda o, t: F.cross_entropy(o, t) + torch.rand(()),
    )


@pytest.mark.parametrize("batch_size", [250, 40, 7, 2])
@pytest.mark.parametrize("count", [40, 3, 2])
def test_a_sum_that_is_no_mean(batch_size, count):
    refuse(
        "mean over samples",
        inputs=X[:count],
        targets=Y[:count],
        loss_fn=lambda o, t: F.cross_entropy(o, t, reduction="sum"),
        batch_size=batch_size,
    )


def test_a_mean_with_the_wrong_weight():
    refuse("mean", loss_fn=lambda o, t: (F.cross_entropy(o, t), len(t)))
    refuse("mean", loss_fn=lambda o, t: (F.cross_entropy(o, t, reduction="sum"), 1))


def test_a_loss_that_was_not_reduced():
    refuse(r"shape \(40,\)", loss_fn=lambda o, t: F.cross_entropy(o, t, reduction="none"))


@pytest.mark.parametrize(
    "result",
    [
        lambda loss, outputs: None,
        lambda loss, outputs: (loss, outputs),
        lambda loss, outputs: (loss, None),
        lambda loss, outputs: (loss, {"accuracy": 1.0}),
        lambda loss, outputs: (loss, loss, loss),
        lambda loss, outputs: {"loss": loss},
        lambda loss, outputs: loss * (1 + 1j),
    ],
    ids=["None", "with outputs", "with None", "with numbers", "three", "dictionary", "complex"],
)
def test_a_result_that_is_no_number_and_no_pair(result):
    refuse(
        r"one mean or a pair \(sum, weight\)",
        loss_fn=lambda o, t: result(F.cross_entropy(o, t), o),
    )


WEIGHTS = torch.tensor([0.2, 1.0, 2.0, 5.0])


def weighted_mean(outputs, targets):
    return F.cross_entropy(outputs, targets, weight=WEIGHTS)


@pytest.mark.parametrize("seed", range(12))
def test_a_mean_with_class_weights(seed):
    # As a user has it: shuffled samples, a network that has not learnt, many samples a batch.
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4))
    with pytest.raises(ObjectiveError, match="mean over samples"):
        Objective(model, torch.randn(500, 20), torch.randint(4, (500,)), weighted_mean)


def test_a_mean_with_class_weights_where_samples_are_sorted_by_class():
    order = Y.argsort()
    refuse(
        "mean over samples",
        inputs=X[order],
        targets=Y[order],
        loss_fn=weighted_mean,
        batch_size=10,
    )


def token_mean(outputs, targets):
    return F.cross_entropy(outputs.transpose(1, 2), targets, ignore_index=-100)


@pytest.mark.parametrize("padded", [slice(0, 10), slice(30, 40)], ids=["first", "last"])
def test_a_mean_over_tokens_whose_number_varies(padded):
    words = torch.randint(5, (40, 6), generator=torch.Generator().manual_seed(2))
    targets = words.roll(1, dims=1).clone()
    targets[padded, 2:] = -100
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
    refuse("mean over samples", model, words, targets, token_mean, batch_size=20)


def test_the_same_mean_is_taken_where_every_sample_has_as_many_tokens():
    words = torch.randint(5, (40, 6), generator=torch.Generator().manual_seed(2))
    targets = words.roll(1, dims=1).clone()
    targets[:, 4:] = -100
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
    expected = token_mean(model(words), targets)
    evaluation = Objective(model, words, targets, token_mean, batch_size=7)(flat(model))
    assert evaluation.loss == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("batch_size", [250, 7])
def test_outputs_that_depend_on_the_rest_of_the_batch(batch_size):
    norm = nn.BatchNorm1d(9, track_running_stats=False)
    model = nn.Sequential(nn.Linear(6, 9), norm, nn.ReLU(), nn.Linear(9, 4))
    refuse("depend on what else is in its batch", model, batch_size=batch_size)
    centred = Noisy(lambda x: (x - x.mean(dim=0))[:, :4])
    refuse("depend on what else is in its batch", centred, batch_size=batch_size)


def test_ordinary_batch_norm_is_taken():
    case = sample_case("conv", count=40)
    objective = Objective(case.model, case.inputs, case.targets, case.loss_fn, batch_size=7)
    assert objective(moved(case)).loss == pytest.approx(plain_loop(case, moved(case))[0], rel=1e-5)


@pytest.mark.parametrize(
    "loss_fn",
    [
        F.mse_loss,
        F.l1_loss,
        F.smooth_l1_loss,
        nn.BCEWithLogitsLoss(),
        nn.KLDivLoss(reduction="batchmean"),
        lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1),
    ],
    ids=["mse", "l1", "smooth l1", "bce", "kl", "label smoothing"],
)
def test_ordinary_means_are_taken(loss_fn):
    targets = torch.softmax(X[:, :4], dim=1)
    torch.manual_seed(0)
    model = nn.Sequential(mlp(), nn.LogSoftmax(dim=1))
    expected = loss_fn(model.eval()(X), targets)
    evaluation = Objective(model, X, targets, loss_fn, batch_size=7)(flat(model))
    assert evaluation.loss == pytest.approx(expected.item(), rel=1e-5)


def test_no_data_and_lengths_that_differ():
    refuse("at least one sample", inputs=X[:0], targets=Y[:0])
    refuse("39 targets for 40 inputs", targets=Y[:39])


def test_data_that_are_no_arrays():
    for inputs, targets in [(X.tolist(), Y), (X, Y.tolist()), (X, torch.tensor(1))]:
        with pytest.raises(ArgumentError, match=r"expected (inputs|targets)"):
            Objective(mlp(), inputs, targets, F.cross_entropy)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one(batch_size):
    with pytest.raises(ArgumentError, match="batch_size"):
        Objective(mlp(), X, Y, F.cross_entropy, batch_size=batch_size)


def test_buffers_of_an_unknown_kind():
    with pytest.raises(ArgumentError, match="buffers"):
        Objective(mlp(), X, Y, F.cross_entropy, buffers="path")


@pytest.mark.parametrize("shape", [(102,), (104,), (1, 103), (0,), ()])
def test_a_vector_of_another_shape(shape):
    objective = Objective(mlp(), X, Y, F.cross_entropy)
    assert objective.parameter_count == 103
    with pytest.raises(ModelError, match=r"103 parameters, got shape \("):
        objective(np.zeros(shape))


def test_a_model_without_parameters():
    with pytest.raises(ModelError, match="parameters"):
        Objective(nn.Flatten(), X, Y, F.cross_entropy)


@pytest.mark.parametrize("loss", ["class weights", "ignored targets"])
def test_losses_of_torchs_that_divide_by_something_else_are_told_what_to_return(loss):
    torch.manual_seed(0)
    inputs, targets = torch.randn(60, 4), torch.arange(60) % 3
    weight = torch.tensor([1.0, 2.0, 5.0])
    loss_fn = nn.CrossEntropyLoss(weight=weight)
    if loss == "ignored targets":
        targets[::4] = -100
        loss_fn = nn.CrossEntropyLoss()
    with pytest.raises(ObjectiveError) as refused:
        Objective(nn.Linear(4, 3), inputs, targets, loss_fn)
    told = str(refused.value).partition("that is ")[2]
    model = nn.Linear(4, 3)
    right = eval(told, {"cross_entropy": nn.functional.cross_entropy, "w": weight})
    vector = torch.nn.utils.parameters_to_vector(model.parameters())
    wanted = loss_fn(model(inputs), targets).item()
    assert Objective(model, inputs, targets, right)(vector).loss == pytest.approx(wanted, rel=1e-6)
