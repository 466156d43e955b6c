import json

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
    sample_case,
    widened_cross_entropy,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from losspath import Objective
from losspath.parameters import flatten_parameters


class Constant(nn.Module):
    """Gives the same outputs for every input: what a loss and an accuracy are then is plain."""

    def __init__(self, outputs):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.outputs = outputs

    def forward(self, x):
        return self.outputs[x.long().reshape(-1)] * self.scale


def objective_of(case, **options):
    return Objective(case.model, case.inputs, case.targets, case.loss_fn, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [250, 9])
def test_loss_and_accuracy_equal_the_plain_loop(kind, batch_size):
    case = sample_case(kind)
    objective = objective_of(case, batch_size=batch_size)
    for vector in (flat(case.model), moved(case), moved(case, 2.0)):
        loss, accuracy = plain_loop(case, vector)
        evaluation = objective(vector)
        assert evaluation.loss == pytest.approx(loss, rel=1e-5)
        assert evaluation.accuracy == accuracy


@pytest.mark.parametrize("kind", KINDS)
def test_two_evaluations_are_equal_to_the_bit(kind):
    case = sample_case(kind)
    objective = objective_of(case, batch_size=9)
    vector = moved(case)
    first = objective(vector)
    objective(flat(case.model))
    assert objective(vector) == first


@pytest.mark.parametrize("kind", ["mlp", "conv", "attention", "lstm"])
def test_no_batch_size_changes_the_loss(kind):
    case = sample_case(kind)
    vector = moved(case)
    whole = objective_of(case, batch_size=23)(vector)
    for batch_size in (1, 2, 11, 22, 24, 1000):
        parts = objective_of(case, batch_size=batch_size)(vector)
        assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
        assert parts.accuracy == whole.accuracy


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_is_taken_with_an_ordinary_loss(dtype):
    # The mean of a batch is itself rounded to the half precision, which is no sum in disguise.
    torch.manual_seed(0)
    case = Case(
        mlp().to(dtype), torch.randn(60, 6).to(dtype), torch.randint(4, (60,)), F.cross_entropy
    )
    evaluation = objective_of(case, batch_size=20)(moved(case))
    case.loss_fn = widened_cross_entropy
    loss, _ = plain_loop(case, moved(case))
    assert evaluation.loss == pytest.approx(loss, rel=2**-6)


def test_one_sample_is_enough():
    case = sample_case("mlp", count=1)
    loss, accuracy = plain_loop(case, moved(case))
    evaluation = objective_of(case)(moved(case))
    assert (evaluation.loss, evaluation.accuracy) == (pytest.approx(loss, rel=1e-6), accuracy)


def test_len_and_parameter_count():
    case = sample_case("complex")
    objective = objective_of(case)
    assert len(objective) == 23
    assert objective.parameter_count == 3 + 2 * 18


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    count=st.integers(1, 20),
    batch_size=st.integers(1, 25),
    seed=st.integers(0, 2**32 - 1),
    wide=st.booleans(),
)
def test_the_loss_equals_a_computation_in_numpy(sizes, count, batch_size, seed, wide):
    rng = np.random.default_rng(seed)
    inside, hidden, classes = sizes
    dtype = np.float64 if wide else np.float32
    model = nn.Sequential(nn.Linear(inside, hidden), nn.Tanh(), nn.Linear(hidden, classes))
    x = rng.standard_normal((count, inside)).astype(dtype)
    y = rng.integers(classes, size=count)
    objective = Objective(
        model.to(torch.from_numpy(x).dtype), x, y, F.cross_entropy, batch_size=batch_size
    )
    vector = rng.standard_normal(objective.parameter_count).astype(dtype)
    W, b, V, c = np.split(
        vector.astype(np.float64),
        np.cumsum([inside * hidden, hidden, hidden * classes]),
    )
    outputs = np.tanh(x @ W.reshape(hidden, inside).T + b) @ V.reshape(classes, hidden).T + c
    log_sum = np.log(np.exp(outputs).sum(axis=1))
    loss = np.mean(log_sum - outputs[np.arange(count), y])
    assert objective(vector).loss == pytest.approx(
        loss, rel=1e-12 if wide else 1e-5, abs=1e-12 if wide else 1e-6
    )
    # One column is a score, not a class.
    right = np.mean(outputs.argmax(axis=1) == y)
    assert objective(vector).accuracy == (right if classes > 1 else None)


def masked_sum(outputs, targets):
    kept = targets != -100
    total = F.cross_entropy(outputs.transpose(1, 2), targets, ignore_index=-100, reduction="sum")
    return total, kept.sum()


def test_a_sum_and_its_weight_are_added_up_exactly():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7))
    words = torch.randint(7, (10, 6))
    targets = torch.randint(7, (10, 6))
    # Batches of three with 18, 7, 0 and 5 words that count.
    targets[3:6, 2:] = -100
    targets[3, 1], targets[5, 1] = 3, 4
    targets[4, 0] = 2
    targets[6:9] = -100
    targets[9, 5] = -100
    outputs = model(words)
    mean = F.cross_entropy(outputs.transpose(1, 2), targets, ignore_index=-100)
    evaluation = Objective(model, words, targets, masked_sum, batch_size=3)(flat(model))
    assert evaluation.loss == pytest.approx(mean.item(), rel=1e-6)
    counted = targets >= 0
    right = (outputs.argmax(dim=-1) == targets)[counted]
    assert evaluation.accuracy == float(right.double().mean())


def test_a_weight_of_zero_in_all_gives_nan():
    words = torch.randint(7, (4, 6))
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7))
    evaluation = Objective(model, words, torch.full((4, 6), -100), masked_sum)(flat(model))
    assert np.isnan(evaluation.loss)
    assert evaluation.accuracy is None


def test_class_weights_are_taken_as_a_sum_and_its_weight():
    case = sample_case("mlp")
    weights = torch.tensor([0.1, 1.0, 3.0, 10.0])

    def weighted(outputs, targets):
        total = F.cross_entropy(outputs, targets, weight=weights, reduction="sum")
        return total, weights[targets].sum()

    vector = moved(case)
    expected, _ = plain_loop(
        Case(case.model, case.inputs, case.targets, nn.CrossEntropyLoss(weight=weights)), vector
    )
    objective = Objective(case.model, case.inputs, case.targets, weighted, batch_size=5)
    assert objective(vector).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "convert", [float, lambda loss: loss.reshape(1), lambda loss: np.float32(float(loss))]
)
def test_a_mean_may_be_any_single_number(convert):
    case = sample_case("mlp")
    loss, _ = plain_loop(case, moved(case))
    case.loss_fn = lambda outputs, targets: convert(F.cross_entropy(outputs, targets))
    assert objective_of(case)(moved(case)).loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")]
)
@pytest.mark.parametrize("bad", ["everywhere", "in one batch"])
def test_losses_that_are_not_finite_stay_so(loss, expected, bad):
    outputs = torch.full((6, 1), loss) if bad == "everywhere" else torch.ones(6, 1)
    outputs[5] = loss
    model = Constant(outputs)
    objective = Objective(
        model, torch.arange(6), torch.zeros(6, 1), lambda o, t: o.mean(), batch_size=2
    )
    assert str(objective(np.ones(1)).loss) == expected


def test_parameters_that_are_not_finite_give_nan():
    case = sample_case("conv")
    vector = flat(case.model)
    vector[-1] = np.nan
    assert np.isnan(objective_of(case)(vector).loss)


@pytest.mark.parametrize("layout", ["N,K", "N,K,L", "N,L,K"])
def test_accuracy_counts_positions_and_ignores_negative_targets(layout):
    scores = torch.tensor([[0.0, 2, 1], [5, 0, 0], [0, 0, 1], [0, 3, 0]])
    if layout == "N,K":
        targets = torch.tensor([1, 0, 1, -1])  # right, right, wrong, ignored
        outputs = scores
        expected = 2 / 3
    else:
        targets = torch.tensor([[1, 1], [0, -100], [1, 2], [-1, -1]])
        # The second position has the scores turned round: the answers are (1, 1), (0, 2), …
        outputs = torch.stack([scores, scores.flip(1)], dim=1)
        expected = 3 / 5
        if layout == "N,K,L":
            outputs = outputs.transpose(1, 2)
    model = Constant(outputs)
    objective = Objective(
        model, torch.arange(4), targets, lambda o, t: o.square().mean(), batch_size=3
    )
    assert objective(np.ones(1)).accuracy == expected


@pytest.mark.parametrize(
    "targets",
    [torch.rand(4), torch.tensor([True, False, True, True]), torch.ones(4, 3, dtype=torch.int64)],
    ids=["floats", "booleans", "as many dimensions as the outputs"],
)
def test_accuracy_is_absent_where_targets_are_no_classes(targets):
    model = Constant(torch.rand(4, 3))
    objective = Objective(model, torch.arange(4), targets, lambda o, t: o.mean())
    assert objective(np.ones(1)).accuracy is None


def test_accuracy_is_absent_where_all_targets_are_ignored():
    model = Constant(torch.rand(4, 3))
    objective = Objective(model, torch.arange(4), torch.full((4,), -1), lambda o, t: o.mean())
    assert objective(np.ones(1)).accuracy is None


def test_outputs_may_be_a_dictionary():
    case = sample_case("mlp")
    loss, _ = plain_loop(case, moved(case))

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = case.model

        def forward(self, x):
            return {"logits": self.inner(x)}

    evaluation = Objective(
        Named(), case.inputs, case.targets, lambda o, t: F.cross_entropy(o["logits"], t)
    )(moved(case))
    assert evaluation.loss == pytest.approx(loss, rel=1e-6)
    assert evaluation.accuracy is None


def test_a_model_may_return_its_own_loss():
    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x):
            return (self.inner(x) - x).square().mean()

    x = torch.randn(9, 6)
    model = Autoencoder()
    objective = Objective(model, x, x, lambda outputs, targets: outputs, batch_size=4)
    assert objective(flat(model)).loss == pytest.approx(model(x).item(), rel=1e-6)


def test_outputs_may_have_the_batch_in_another_place():
    case = sample_case("mlp", count=8)

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = case.model

        def forward(self, x):
            return self.inner(x).T  # (K, N)

    objective = Objective(
        Turned(), case.inputs, case.targets, lambda o, t: F.cross_entropy(o.T, t), batch_size=3
    )
    assert objective(moved(case)).loss == pytest.approx(plain_loop(case, moved(case))[0], rel=1e-6)


def test_arrays_and_tensors_are_the_same():
    case = sample_case("attention")
    arrays = Objective(case.model, case.inputs.numpy(), case.targets.numpy(), case.loss_fn)
    tensors = objective_of(case)
    vector = moved(case)
    assert arrays(vector) == tensors(torch.from_numpy(vector)) == tensors(vector)
    assert arrays.samples_digest == tensors.samples_digest
    assert tensors(torch.from_numpy(vector).requires_grad_()) == tensors(vector)


def test_the_samples_digest_is_of_content_dtype_and_shape():
    model = nn.Linear(4, 2)

    def digest(inputs, targets):
        return Objective(model, inputs, targets, lambda o, t: o.mean()).samples_digest

    inputs = torch.arange(24.0).reshape(6, 4)
    targets = torch.arange(6)
    one = digest(inputs, targets)
    other = inputs.clone()
    other[5, 3] += 1
    assert digest(inputs.clone(), targets.clone()) == one
    assert digest(inputs.T.contiguous().T, targets) == one
    different = [
        digest(other, targets),
        digest(inputs, targets.flip(0)),
        digest(inputs, targets.int()),
        digest(inputs, targets.reshape(6, 1)),
        digest(inputs[:5], targets[:5]),
        digest(inputs.flip(0), targets.flip(0)),
    ]
    assert len({one, *different}) == 7
    halves = torch.ones(6, dtype=torch.bfloat16)
    assert digest(inputs, halves) != digest(inputs, halves.view(torch.int16))


def test_provenance_is_json_and_names_the_loss():
    case = sample_case("conv")
    objective = objective_of(case, batch_size=10)
    provenance = json.loads(json.dumps(objective.provenance))
    assert provenance["samples"] == 23
    assert provenance["batch_size"] == 10
    assert provenance["loss"] == "cross_entropy"
    assert provenance["samples_digest"] == objective.samples_digest
    case.loss_fn = nn.CrossEntropyLoss()
    assert objective_of(case).provenance["loss"] == "CrossEntropyLoss"
    assert objective_of(case, name="mine").provenance["loss"] == "mine"
    case.loss_fn = lambda outputs, targets: F.cross_entropy(outputs, targets)
    assert objective_of(case).provenance["loss"] == ""  # a lambda has no name
    assert objective_of(case, name="mine").provenance["loss"] == "mine"


def test_the_fingerprint_tells_functions_of_one_name_apart():
    case = sample_case("conv")
    vectors = np.stack([flat(case.model), moved(case)])
    objective = objective_of(case)
    fingerprint = json.loads(json.dumps(objective.fingerprint(vectors)))
    assert fingerprint == objective_of(case).fingerprint(vectors)
    assert [[e.loss, e.accuracy, {}] for e in map(objective, vectors)] == fingerprint[7]
    assert objective.fingerprint(vectors[0])[7] == fingerprint[7][:1]
    loss = case.loss_fn
    case.loss_fn = lambda outputs, targets: 2 * loss(outputs, targets)
    assert objective_of(case, name="cross_entropy").fingerprint(vectors) != fingerprint
    case.loss_fn = loss
    case.model[1].running_var *= 2
    assert objective_of(case).fingerprint(vectors) != fingerprint


def test_a_vector_is_read_in_the_order_of_a_recorded_state():
    case = sample_case("tied")
    np.testing.assert_array_equal(flatten_parameters(case.model), flat(case.model))
