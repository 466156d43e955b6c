import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from losspath.evaluation.compiler.rewrites import max_of_slices, rewrite
from losspath.evaluation.compiler.tape import record

values = st.floats(-10, 10, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0])
images = hnp.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=7).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=values)
)


@given(images, st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=150)
def test_max_of_slices_is_max_pooling(image, height, width):
    image = torch.from_numpy(image)
    if image.shape[-2] < height or image.shape[-1] < width:
        return
    expected = F.max_pool2d(image, (height, width))
    found = max_of_slices(image, (height, width))
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


POOLS = [
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d((3, 2))),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2, ceil_mode=True)),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2)),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(-0.1), nn.MaxPool2d(2)),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU6(), nn.MaxPool2d(2), nn.Dropout()),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2, padding=1)),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(3, stride=1)),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2, dilation=2)),
    nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU()),
]


@pytest.mark.parametrize("model", POOLS, ids=str)
def test_a_rewritten_pass_gives_what_the_model_gives(model):
    inputs = torch.randn(3, 1, 12, 13)
    model = model.eval()
    with torch.no_grad():
        tape = record(model, inputs)
        rewrite(tape.graph)
        tape.graph.lint()
        module = torch.fx.GraphModule(nn.Module(), tape.graph)
        parameters = dict(model.named_parameters())
        arguments = [
            inputs if node is tape.input else parameters[tape.parameters[node]]
            for node in tape.graph.nodes
            if node.op == "placeholder"
        ]
        torch.testing.assert_close(module(*arguments), model(inputs))


def targets(model):
    with torch.no_grad():
        tape = record(model.eval(), torch.randn(2, 1, 12, 12))
    rewrite(tape.graph)
    return [node.target for node in tape.graph.nodes if node.op == "call_function"]


def test_pooling_comes_before_what_is_monotone():
    assert targets(POOLS[0]) == [torch.conv2d, max_of_slices, torch.relu_]
    assert targets(POOLS[4])[1] is F.leaky_relu  # its negative slope turns the order round
    assert F.max_pool2d in targets(POOLS[7])  # windows that overlap


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        hidden = F.relu(self.conv(x))
        return F.max_pool2d(hidden, 2), hidden


def test_a_result_that_is_used_twice_stays_as_it_is():
    assert targets(Twice())[1] in (F.relu, torch.relu_)
    assert targets(Twice())[2] is max_of_slices
