"""Layers computed for several points at once, against one call for each."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from losspath.errors import UnsupportedError
from losspath.evaluation.compiler import first_layers
from losspath.evaluation.compiler.first_layers import FirstLayer
from losspath.evaluation.compiler.rewrites import max_of_slices

COUNT = 3


def layer_of(function, rest=(), options=None, bias="bias"):
    return FirstLayer(function, "weight", bias, tuple(rest), dict(options or {}))


def weights_of(*shape, count=COUNT, bias=True):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(*shape, generator=generator) for _ in range(count)]
    biases = [torch.randn(shape[0], generator=generator) for _ in range(count)] if bias else None
    return weights, biases


def results_of(layer, inputs, weights, biases):
    prepared = layer.prepare(inputs, weights[0])
    bias = None if biases is None else torch.cat(biases)
    return prepared.results(torch.cat(weights), bias, len(weights))


pairs = st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw):
    stride, dilation = draw(pairs), draw(pairs)
    padding = draw(st.integers(0, 2) | st.tuples(st.integers(0, 2), st.integers(0, 2)))
    rest = draw(st.sampled_from([(), (stride,), (stride, padding), (stride, padding, dilation)]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return rest, kernel, channels, outputs


@given(convolutions(), st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)), st.booleans())
@pytest.mark.parametrize("as_patches", [True, False])
@settings(deadline=None, max_examples=80)
def test_convolutions_of_every_geometry(as_patches, convolution, window, bias):
    rest, kernel, channels, outputs = convolution
    inputs = torch.randn(4, channels, 17, 14)
    weights, biases = weights_of(outputs, channels, *kernel, bias=bias)
    layer = layer_of(torch.conv2d, rest, bias="bias" if bias else None)
    if window is not None:
        layer = layer.with_window(window)
    limit, first_layers._PATCH_BYTES = first_layers._PATCH_BYTES, (1 << 30) if as_patches else 0
    try:
        prepared = layer.prepare(inputs, weights[0])
        assert (prepared.patches is not None) == as_patches
        found = results_of(layer, inputs, weights, biases)
    finally:
        first_layers._PATCH_BYTES = limit
    for number, result in enumerate(found):
        expected = torch.conv2d(inputs, weights[number], biases and biases[number], *rest)
        if window is not None:
            assert result.shape[0] == window[0] * window[1]
            result, expected = result.amax(0), max_of_slices(expected, window)
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_padding_by_name(padding):
    inputs = torch.randn(2, 1, 9, 9)
    weights, biases = weights_of(2, 1, 3, 3)
    layer = layer_of(torch.conv2d, (1, padding)).with_window((2, 2))
    for number, result in enumerate(results_of(layer, inputs, weights, biases)):
        expected = torch.conv2d(inputs, weights[number], biases[number], 1, padding)
        torch.testing.assert_close(result.amax(0), max_of_slices(expected, (2, 2)))


def test_other_layers():
    weights, biases = weights_of(4, 6)
    inputs = torch.randn(5, 2, 6)
    for number, result in enumerate(results_of(layer_of(F.linear), inputs, weights, biases)):
        torch.testing.assert_close(result, F.linear(inputs, weights[number], biases[number]))
    weights, biases = weights_of(4, 2, 3)
    inputs = torch.randn(5, 2, 8)
    for number, result in enumerate(results_of(layer_of(torch.conv1d), inputs, weights, biases)):
        torch.testing.assert_close(result, torch.conv1d(inputs, weights[number], biases[number]))


def test_layers_that_cannot_share_a_call():
    assert not layer_of(F.embedding, bias=None).can_share
    assert not layer_of(torch.conv2d, (1, 0, 1, 2)).can_share
    assert layer_of(torch.conv2d, (1, 0, 1, 1)).can_share


def test_layers_without_windows():
    assert layer_of(F.linear).with_window((2, 2)) is None
    assert layer_of(torch.conv1d).with_window((2, 2)) is None
    assert layer_of(torch.conv2d, (1, 0, 1, 2)).with_window((2, 2)) is None


def test_a_single_image_is_refused():
    with pytest.raises(UnsupportedError, match=r"\(1, 9, 9\)"):
        layer_of(torch.conv2d).prepare(torch.randn(1, 9, 9), torch.randn(2, 1, 3, 3))
