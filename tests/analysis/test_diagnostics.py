from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective, activations, architecture, confusion, feature_maps, filters
from losspath.analysis.diagnostics import default_modules, last_finite, outputs_of
from losspath.errors import ArgumentError, UnsupportedError
from losspath.parameters import flatten_parameters
from losspath.recording.trajectory import as_path


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
    with pytest.raises(UnsupportedError, match="a score for each class"):
        confusion(objective, flat(objective.model))
    objective = Objective(passing_through(), torch.eye(3), torch.arange(3), F.cross_entropy)
    with pytest.raises(ArgumentError, match="expected 3 labels"):
        confusion(objective, flat(objective.model), ["a"])


def test_default_modules_are_activation_functions_and_the_last_layer():
    assert default_modules(network()) == ("relu", "fc")
    assert default_modules(nn.Sequential(nn.Linear(2, 2), nn.Flatten())) == ("0",)
    assert default_modules(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == ("0", "1")


def test_outputs_are_those_of_the_modules():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy, batch_size=4)
    vector = flat(model)
    conv, fc = outputs_of(objective, vector, ["conv", "fc"], 9)
    with torch.no_grad():
        np.testing.assert_allclose(conv, model.conv(x[:9]), atol=1e-6)
        np.testing.assert_allclose(fc, model(x[:9]), atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


def test_activations_are_histograms_over_training():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy)
    vector = flat(model)
    path = as_path(np.array([vector, vector * 2, vector * 3, vector * 4]))
    found = activations(path, objective, 3, samples=10, bins=5)
    assert found.names == ("relu", "fc")
    assert found.counts.shape == (2, 3, 5)
    assert found.counts[0].sum(axis=1).tolist() == [10 * 64] * 3
    assert found.counts[1].sum(axis=1).tolist() == [10 * 3] * 3
    with torch.no_grad():
        values = F.relu(model.conv(x[:10])).numpy()
    assert found.zeros[0, 0] == pytest.approx((values == 0).mean())
    expected = np.histogram(np.clip(values, *found.edges[0, [0, -1]]), found.edges[0])[0]
    np.testing.assert_array_equal(found.counts[0, 0], expected)


def test_silent_units_are_seen():
    model, (x, y) = network(), images()
    with torch.no_grad():
        model.conv.bias[1] = -1000.0
    objective = Objective(model, x, y, F.cross_entropy)
    found = activations(as_path(flat(model)[None]), objective)
    assert found.silent[0].tolist() == [0.25]
    assert found.steps.tolist() == [0]


def test_chosen_modules_and_unknown_ones():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy)
    path = as_path(flat(model)[None])
    assert activations(path, objective, modules=["conv"]).names == ("conv",)
    with pytest.raises(ArgumentError, match="conv, relu, flatten, fc, got 'convolution'"):
        activations(path, objective, modules=["convolution"])
    with pytest.raises(ArgumentError, match="at least one state"):
        activations(path, objective, 0)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.cell = nn.GRU(3, 3, batch_first=True)
        self.named = Named()

    def forward(self, x):
        return self.named(self.cell(self.layer(self.layer(x))[:, None])[0][:, 0])["scores"]


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return {"scores": x * self.scale}

    @staticmethod
    def of_scores(outputs, targets):
        return F.cross_entropy(outputs["scores"], targets)


@pytest.mark.parametrize(
    ("name", "message"), [("layer", "runs 2 times"), ("named", "puts out a dict")]
)
def test_modules_that_have_no_one_output_are_refused(name, message):
    model = Twice()
    objective = Objective(model, torch.randn(4, 3), torch.randint(3, (4,)), F.cross_entropy)
    with pytest.raises(UnsupportedError, match=message):
        outputs_of(objective, flat(model), [name], 4)
    assert not any(module._forward_hooks for module in model.modules())


def test_modules_without_one_output_do_not_hide_the_others():
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(4, 3)
    objective = Objective(model, x, torch.randint(3, (4,)), F.cross_entropy)
    path = as_path(flat(model)[None])
    assert activations(path, objective).names == ("cell",)
    (output,) = outputs_of(objective, flat(model), ["cell"], 4)
    with torch.no_grad():
        expected = model.cell(model.layer(model.layer(x))[:, None])[0]
    np.testing.assert_allclose(output, expected, atol=1e-6)
    alone = Objective(Named(), x, torch.randint(3, (4,)), Named.of_scores)
    with pytest.raises(UnsupportedError, match="no layer puts out one tensor"):
        activations(as_path(np.ones((1, 3))), alone)


def test_states_that_are_not_finite_are_left_out():
    model, (x, y) = network(), images()
    objective = Objective(model, x, y, F.cross_entropy)
    vector = flat(model)
    path = np.array([vector, vector * 2, vector * np.nan, vector * np.inf])
    found = activations(as_path(path), objective)
    assert (found.steps.tolist(), found.left_out) == ([0, 1], (2, 3))
    whole = activations(as_path(path[:2]), objective)
    np.testing.assert_array_equal(found.counts, whole.counts)
    assert (last_finite(as_path(path), 4), last_finite(as_path(path), 1)) == (1, 0)
    assert last_finite(as_path(path[2:]), 2) is None
    with pytest.raises(UnsupportedError, match="no state is finite"):
        activations(as_path(path[2:]), objective)


def test_filters_are_the_weights_of_convolutions():
    model = network()
    found = filters(model, flat(model))
    assert list(found) == ["conv"]
    np.testing.assert_allclose(found["conv"], model.conv.weight.detach(), atol=1e-7)


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
