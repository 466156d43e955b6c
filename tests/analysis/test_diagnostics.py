from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from losspath import Objective, architecture, confusion, feature_maps, filters
from losspath.errors import ArgumentError, UnsupportedError
from losspath.parameters import flatten_parameters


def flat(model):
    return flatten_parameters(model).astype(float)


def passing_through(count=7):
    """A network that gives its input back: classes are chosen by the data alone."""
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
        model.bias.zero_()
    return model


def network():
    torch.manual_seed(0)
    layers = [
        ("conv", nn.Conv2d(2, 4, 3)),
        ("relu", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(64, 3)),
    ]
    return nn.Sequential(OrderedDict(layers))


def images(count=11):
    torch.manual_seed(1)
    return torch.randn(count, 2, 6, 6), torch.randint(3, (count,))


def test_confusion_counts_who_is_taken_for_whom():
    answers, right = [0, 0, 1, 2, 2, 2, 1], [0, 1, 1, 2, 0, 2, 1]
    inputs = F.one_hot(torch.tensor(answers), 3).float()
    objective = Objective(passing_through(), inputs, torch.tensor(right), F.cross_entropy)
    found = confusion(objective, flat(objective.model), ["a", "b", "c"])
    np.testing.assert_array_equal(found.counts, [[1, 0, 1], [1, 2, 0], [0, 0, 2]])
    np.testing.assert_allclose(found.shares, [[0.5, 0, 0.5], [1 / 3, 2 / 3, 0], [0, 0, 1]])
    assert found.accuracy == pytest.approx(5 / 7)
    assert found.labels == ("a", "b", "c")
    assert confusion(objective, flat(objective.model)).labels == ("0", "1", "2")


def test_confusion_is_of_the_state_that_is_given():
    model, (x, y) = network(), images(40)
    objective = Objective(model, x, y, F.cross_entropy, batch_size=7)
    vector = np.random.default_rng(0).standard_normal(objective.parameter_count)
    found = confusion(objective, vector)
    assert found.accuracy == pytest.approx(objective(vector).accuracy)
    assert found.counts.sum() == 40


def test_classes_without_samples_have_no_shares():
    inputs = torch.eye(3)[:2]
    objective = Objective(passing_through(), inputs, torch.tensor([0, 1]), F.cross_entropy)
    found = confusion(objective, flat(objective.model))
    assert np.isnan(found.shares[2]).all()


def test_ignored_targets_do_not_count():
    def loss(outputs, targets):
        total = F.cross_entropy(outputs, targets, ignore_index=-100, reduction="sum")
        return total, (targets >= 0).sum()

    inputs, targets = torch.eye(3), torch.tensor([0, -100, 2])
    objective = Objective(passing_through(), inputs, targets, loss)
    assert confusion(objective, flat(objective.model)).counts.sum() == 2


def test_confusion_without_classes_is_refused():
    objective = Objective(nn.Linear(3, 1), torch.randn(5, 3), torch.randn(5, 1), F.mse_loss)
    with pytest.raises(
        UnsupportedError, match=r"got outputs \(5, 1\) of float32 and targets.*predict="
    ):
        confusion(objective, flat(objective.model))
    objective = Objective(passing_through(), torch.eye(3), torch.arange(3), F.cross_entropy)
    with pytest.raises(ArgumentError, match="expected 3 labels"):
        confusion(objective, flat(objective.model), ["a"])


def one_column(targets):
    """A logit that is the input itself, and its loss."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    inputs = torch.tensor([[3.0], [-1.0], [-2.0], [0.5], [4.0]])

    def loss(outputs, targets):
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets.float().reshape(-1))

    return Objective(model, inputs, targets, loss)


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([1, 0, 1, 1, 0]),
        torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]),
        torch.tensor([[True], [False], [True], [True], [False]]),
    ],
)
def test_one_column_has_classes_by_a_function_that_is_given(targets):
    objective = one_column(targets)
    with pytest.raises(UnsupportedError, match="predict="):
        confusion(objective, [1.0])
    found = confusion(objective, [1.0], ["no", "yes"], predict=lambda outputs: outputs > 0)
    np.testing.assert_array_equal(found.counts, [[1, 1], [1, 2]])
    assert found.accuracy == pytest.approx(3 / 5)


def test_tokens_have_classes_by_a_function_that_is_given():
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.randn(6, 3, 4)  # as many tokens as classes
    y = torch.randint(3, (6, 3))
    y[0, 0] = -100

    def loss(outputs, targets):
        return F.cross_entropy(outputs.reshape(-1, 3), targets.reshape(-1), ignore_index=-100)

    def summed(outputs, targets):
        return loss(outputs, targets) * (targets >= 0).sum(), (targets >= 0).sum()

    objective = Objective(model, x, y, summed, batch_size=4)
    with pytest.raises(UnsupportedError, match="predict="):
        confusion(objective, flat(model))
    found = confusion(objective, flat(model), predict=lambda outputs: outputs.argmax(-1))
    expected = np.zeros((3, 3), int)
    with torch.no_grad():
        answers = (x @ model.weight.T + model.bias).argmax(-1)
    for answer, right in zip(answers.flatten().tolist(), y.flatten().tolist(), strict=True):
        if right >= 0:
            expected[right, answer] += 1
    np.testing.assert_array_equal(found.counts, expected)


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda outputs: outputs, "fractions"),
        (lambda outputs: (outputs > 0)[:2], r"for each target \(5,\) of int64, got \(2, 1\)"),
        (lambda outputs: [0, 1], "expected predict to return class numbers in a tensor, got a lis"),
        (lambda outputs: 2 * (outputs > 0), "expected classes from 0 to 1.*got 0 to 2"),
        (lambda outputs: (outputs > 0).long() - 1, "expected classes from 0 to 1.*got -1 to 1"),
    ],
)
def test_what_a_function_gives_must_be_classes(predict, message):
    objective = one_column(torch.tensor([1, 0, 1, 1, 0]))
    with pytest.raises(ArgumentError, match=message):
        confusion(objective, [1.0], ["no", "yes"], predict=predict)


def test_targets_that_are_no_class_are_refused():
    def loss(outputs, targets):  # as of segmentation, where 255 marks what is to be ignored
        return F.cross_entropy(outputs, targets, ignore_index=255, reduction="sum"), 2

    targets = torch.tensor([0, 255, 2])
    objective = Objective(passing_through(), torch.eye(3), targets, loss, check=False)
    with pytest.raises(UnsupportedError, match=r"expected targets from 0 to 2.*got 255"):
        confusion(objective, flat(objective.model))


def test_answers_that_are_not_numbers_are_refused():
    objective = Objective(passing_through(), torch.eye(3), torch.arange(3), F.cross_entropy)
    with pytest.raises(UnsupportedError, match="outputs are NaN"):
        confusion(objective, np.full(12, np.nan))


def test_classes_of_outputs_by_name_and_of_batches():
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = passing_through()

        def forward(self, x, labels=None):
            logits = self.layer(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    answers, right = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0])
    batches = [
        {"x": F.one_hot(answers, 3).float()[part], "labels": right[part]}
        for part in (slice(0, 3), slice(3, 4))
    ]
    objective = Objective.of_batches(Scores(), batches, lambda model, batch: model(**batch)["loss"])
    found = confusion(objective, flat(objective.model))
    np.testing.assert_array_equal(found.counts, [[1, 0, 1], [1, 1, 0], [0, 0, 0]])


def test_a_confusion_without_targets_is_refused():
    model = passing_through()
    batches = [(torch.eye(3), torch.arange(3))]
    objective = Objective.of_batches(model, batches, lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    with pytest.raises(UnsupportedError, match="which classes are right is not known"):
        confusion(objective, flat(model))


def test_filters_are_the_weights_of_convolutions():
    model = network()
    found = filters(model, flat(model))
    assert list(found) == ["conv"]
    np.testing.assert_allclose(found["conv"], model.conv.weight.detach(), atol=1e-7)


def test_filters_of_frozen_layers_are_those_of_the_model():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv1d(4, 5, 2))
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    vector = flat(model)
    assert len(vector) == 45
    found = filters(model, 2 * vector)
    np.testing.assert_array_equal(found["0"], model[0].weight.detach())
    np.testing.assert_allclose(found["1"], 2 * model[1].weight.detach()[:, :, None], atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*")
@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["old", "new"]
)
def test_filters_of_a_normed_layer_are_the_weights_that_it_computes_with(norm):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Conv2d(2, 4, 3)), nn.Flatten(), nn.Linear(64, 3))
    length, direction = torch.randn(4, 1, 1, 1), torch.randn(4, 2, 3, 3)
    with torch.no_grad():
        for name, parameter in model[0].named_parameters():
            if parameter.shape == length.shape:
                parameter.copy_(length)
            elif parameter.shape == direction.shape:
                parameter.copy_(direction)
            else:
                assert name == "bias"
    vector = flat(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    before = dict(model.named_parameters())
    norms = direction.reshape(4, -1).norm(dim=1).reshape(4, 1, 1, 1)
    np.testing.assert_allclose(filters(model, vector)["0"], length * direction / norms, rtol=1e-5)
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    assert not any(parameter.any() for parameter in model.parameters())


def test_filters_of_a_pruned_layer_have_its_mask():
    model = network()
    prune.l1_unstructured(model.conv, "weight", amount=0.5)
    expected = 3 * model.conv.weight_orig.detach() * model.conv.weight_mask
    np.testing.assert_allclose(filters(model, 3 * flat(model))["conv"], expected, rtol=1e-5)
    assert (expected == 0).any()


def test_a_linear_network_on_images_has_templates():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    found = filters(model, flat(model), (3, 2, 2))
    assert found["1"].shape == (3, 3, 2, 2)
    assert filters(model, flat(model)) == {}
    assert filters(nn.Linear(5, 2), np.zeros(12), (5,)) == {}


def test_feature_maps_of_one_input():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy)
    found = feature_maps(objective, flat(model), 3)
    with torch.no_grad():
        np.testing.assert_allclose(found["conv"], model.conv(x[3:4])[0], atol=1e-6)
    with pytest.raises(ArgumentError, match="from 0 to 10"):
        feature_maps(objective, flat(model), 11)
    linear = Objective(passing_through(), torch.eye(3), torch.arange(3), F.cross_entropy)
    assert feature_maps(linear, flat(linear.model)) == {}


def test_feature_maps_are_those_before_a_function_in_place():
    model, (x, y) = network(), images()
    model.relu = nn.ReLU(inplace=True)
    objective = Objective(model, x, y, F.cross_entropy)
    found = feature_maps(objective, flat(model), 3)["conv"]
    with torch.no_grad():
        np.testing.assert_allclose(found, model.conv(x[3:4])[0], atol=1e-6)
    assert found.min() < 0


def test_convolutions_that_run_twice_have_no_one_map():
    class Again(nn.Module):
        def __init__(self, twice):
            super().__init__()
            self.conv, self.last, self.twice = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 6), twice

        def forward(self, x):
            x = self.conv(self.conv(x))
            x = (
                self.last(torch.cat([x[:, :1], self.last(x).mean() + x[:, 1:]], dim=1))
                if self.twice
                else self.last(x)
            )
            return x.flatten(1)

    x, y = images(5)
    model = Again(False)
    objective = Objective(model, x, y, F.cross_entropy)
    assert list(feature_maps(objective, flat(model))) == ["last"]
    model = Again(True)
    objective = Objective(model, x, y, F.cross_entropy, check=False)
    with pytest.raises(UnsupportedError, match="none of its convolutions runs exactly once"):
        feature_maps(objective, flat(model))


class Named(nn.Module):
    """Takes two tensors and a switch, and has a setting of the table's by the same name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, depth, switch=None):
        return {"logits": self.layer(x + depth), "switch": switch}


def test_the_architecture_of_a_network_with_several_inputs():
    data = {"x": torch.randn(6, 3), "depth": torch.randn(6, 3)}
    y = torch.randint(2, (6,))

    def loss(outputs, targets):
        return F.cross_entropy(outputs["logits"], targets)

    for inputs in (data, tuple(data.values())):
        table = architecture(Objective(Named(), inputs, y, loss))
        assert "Linear (layer)" in table
        assert "Total params: 8" in table
    batches = [{**data, "y": y}]
    objective = Objective.of_batches(
        Named(), batches, lambda model, b: loss(model(b["x"], depth=b["depth"], switch=b), b["y"])
    )
    assert "Total params: 8" in architecture(objective)
    assert "forward" not in vars(objective.model)


def test_the_architecture_of_a_network_whose_forward_pass_takes_gradients():
    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, x):
            x = x.requires_grad_()
            return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]

    objective = Objective(Slope(), torch.randn(9, 1), torch.randn(9, 1), F.mse_loss)
    assert "Total params: 25" in architecture(objective)


def test_the_architecture_is_a_table():
    model, (x, y) = network(), images()
    table = architecture(Objective(model, x, y, F.cross_entropy))
    assert "Conv2d (conv): 1-1" in table
    assert "Total params: 271" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_network_that_cannot_be_followed_is_told():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            if len(x) == 1:
                raise RuntimeError("more samples, please")
            return self.layer(x)

    x, y = torch.randn(8, 3), torch.randint(3, (8,))
    objective = Objective(Stubborn(), x, y, F.cross_entropy)
    with pytest.raises(UnsupportedError, match="torchinfo cannot follow this network"):
        architecture(objective)
