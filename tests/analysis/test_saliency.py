import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective, saliency
from losspath.analysis.saliency import GRADIENT, INTEGRATED, OCCLUSION
from losspath.errors import ArgumentError, UnsupportedError
from losspath.parameters import flatten_parameters


def flat(model):
    return flatten_parameters(model).astype(float)


class Corner(nn.Module):
    """Looks at the upper left quarter of an image, and at nothing else."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x):
        seen = x[..., :6, :6].sum(dim=(1, 2, 3))
        return seen[:, None] * self.weight


@pytest.fixture
def objective():
    torch.manual_seed(0)
    inputs = torch.rand(8, 2, 12, 12) + 0.5
    return Objective(Corner(), inputs, torch.randint(2, (8,)), F.cross_entropy)


def test_every_method_sees_where_a_network_looks(objective):
    found = saliency(objective, [1.0, 2.0], [0, 5])
    assert list(found.maps) == [GRADIENT, INTEGRATED, OCCLUSION]
    assert found.predictions.tolist() == [1, 1]
    for maps in found.maps.values():
        assert maps.shape == (2, 12, 12)
        assert maps[:, :5, :5].min() > 0
        np.testing.assert_allclose(maps[:, 8:, 8:], 0.0, atol=1e-6)
    inputs = objective.inputs_of(0, 8)[[0, 5], :, :6, :6].numpy()
    np.testing.assert_allclose(found.maps[GRADIENT][:, :6, :6], 4.0)
    # Integrated gradients add up to the score (from an input of zeros).
    np.testing.assert_allclose(
        found.maps[INTEGRATED].sum(axis=(1, 2)), 2 * inputs.sum(axis=(1, 2, 3)), rtol=1e-4
    )
    assert found.inputs.shape == (2, 2, 12, 12)


def test_it_is_of_the_state_that_is_given(objective):
    assert saliency(objective, [3.0, 2.0], [1]).predictions.tolist() == [0]
    np.testing.assert_allclose(saliency(objective, [3.0, 2.0], [1]).maps[GRADIENT][0, :6, :6], 6.0)


def test_the_model_is_left_as_it_was(objective):
    objective.model.train()
    before = flat(objective.model)
    saliency(objective, [3.0, 2.0], [1])
    assert objective.model.training
    np.testing.assert_array_equal(flat(objective.model), before)
    assert objective.model.weight.grad is None


def test_features_without_an_image():
    model = nn.Linear(4, 3)
    objective = Objective(model, torch.randn(6, 4), torch.randint(3, (6,)), F.cross_entropy)
    found = saliency(objective, flat(model), [0, 1, 2])
    assert {maps.shape for maps in found.maps.values()} == {(3, 4)}


def test_what_cannot_be_explained_is_refused(objective):
    with pytest.raises(ArgumentError, match="from 0 to 7"):
        saliency(objective, [1.0, 2.0], [8])
    with pytest.raises(ArgumentError, match="from 0 to 7"):
        saliency(objective, [1.0, 2.0], [])
    words = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    data = torch.randint(5, (4, 2))
    reading = Objective(words, data, torch.randint(2, (4,)), F.cross_entropy)
    with pytest.raises(UnsupportedError, match="of floats"):
        saliency(reading, flat(words), [0])


class Steered(nn.Module):
    """One number of a few features, and nothing more."""

    def __init__(self, squeeze):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 0.0]))
        self.squeeze = squeeze

    def forward(self, x):
        out = x @ self.weight
        return out if self.squeeze else out[:, None]


def bce(outputs, targets):
    return F.binary_cross_entropy_with_logits(outputs.reshape(-1), targets.reshape(-1).float())


@pytest.mark.parametrize("squeeze", [True, False])
@pytest.mark.parametrize("targets", [torch.tensor([1, 0, 1]), torch.tensor([1.0, 0.0, 1.0])])
def test_a_single_output_explains_itself_and_is_no_class(squeeze, targets):
    model, x = Steered(squeeze), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    objective = Objective(model, x, targets, bce)
    found = saliency(objective, [1.0, -2.0, 3.0, 0.0], [0, 2])
    assert found.predictions is None
    assert found.targets.tolist() == [1, 1]
    weight = np.array([1.0, -2.0, 3.0, 0.0])
    inputs = x[[0, 2]].numpy()
    np.testing.assert_allclose(found.scores, inputs @ weight, rtol=1e-5)
    np.testing.assert_allclose(found.maps[GRADIENT], [np.abs(weight)] * 2, atol=1e-6)
    np.testing.assert_allclose(found.maps[OCCLUSION], inputs * weight, atol=1e-5)
    np.testing.assert_allclose(found.maps[INTEGRATED], np.abs(inputs * weight), atol=1e-5)


def test_several_outputs_that_are_no_classes_need_a_column():
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.randn(6, 4)
    objective = Objective(model, x, torch.randn(6, 3), F.mse_loss)
    with pytest.raises(UnsupportedError, match=r"the 3 outputs.*\(1, 3\).*column="):
        saliency(objective, flat(model), [0])
    found = saliency(objective, flat(model), [0, 4], column=2)
    assert (found.predictions, found.targets) == (None, None)
    with torch.no_grad():
        np.testing.assert_allclose(found.scores, model(x)[[0, 4], 2], rtol=1e-5)
    expected = np.abs(model.weight[2].detach().numpy())
    np.testing.assert_allclose(found.maps[GRADIENT], [expected] * 2, rtol=1e-5)
    with pytest.raises(ArgumentError, match="column from 0 to 2, got 3"):
        saliency(objective, flat(model), [0], column=3)


def test_a_column_of_classes_can_be_chosen(objective):
    found = saliency(objective, [1.0, 2.0], [0], column=0)
    assert found.predictions.tolist() == [1]
    np.testing.assert_allclose(found.maps[GRADIENT][0, :6, :6], 2.0)


def test_a_network_that_rewrites_its_input_is_explained_by_what_it_was_given():
    class Rewriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            return self.layer(x.mul_(2.0))

    torch.manual_seed(0)
    model, x = Rewriting(), torch.randn(5, 4)
    objective = Objective(model, x.clone(), torch.randint(2, (5,)), F.cross_entropy)
    found = saliency(objective, flat(model), [0, 3])
    np.testing.assert_array_equal(found.inputs, x[[0, 3]])
    weight = model.layer.weight.detach().numpy()[found.predictions]
    np.testing.assert_allclose(found.maps[GRADIENT], np.abs(2 * weight), rtol=1e-5)
    occluded = 2 * weight * x[[0, 3]].numpy()
    np.testing.assert_allclose(found.maps[OCCLUSION], occluded, atol=1e-5)


def test_inputs_that_are_not_one_tensor_are_refused():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, one, two):
            return self.layer(one + two)

    model = Sum()
    data = (torch.randn(5, 4), torch.randn(5, 4))
    objective = Objective(model, data, torch.randint(2, (5,)), F.cross_entropy)
    with pytest.raises(UnsupportedError, match="inputs are one tensor"):
        saliency(objective, flat(model), [0])
