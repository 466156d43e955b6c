"""The five networks of the thesis, for images of 32×32 pixels.

All of them work with any number of input channels C and classes K; the parameter counts below are
for C = 1 and K = 10. Dropout, where asked for, comes before the first fully connected layer.
Initialisation is torch's own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from losspath.errors import ArgumentError

Layers = list[tuple[str, nn.Module]]


def lenet5(channels: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """LeNet-5 with ReLU and max-pooling: 61,706 parameters.

    Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998.
    """
    return _network(
        [
            ("conv1", nn.Conv2d(channels, 6, 5)),
            ("relu1", nn.ReLU()),
            ("pool1", nn.MaxPool2d(2)),
            ("conv2", nn.Conv2d(6, 16, 5)),
            ("relu2", nn.ReLU()),
            ("pool2", nn.MaxPool2d(2)),
        ],
        [
            ("fc1", nn.Linear(400, 120)),
            ("relu3", nn.ReLU()),
            ("fc2", nn.Linear(120, 84)),
            ("relu4", nn.ReLU()),
            ("fc3", nn.Linear(84, classes)),
        ],
        dropout,
    )


def modified_lenet(channels: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Modified LeNet, three 3×3 convolutions and one fully connected layer: 1,830 parameters."""
    features: Layers = []
    for number, (into, out) in enumerate(((channels, 5), (5, 10), (10, 10)), 1):
        features += [
            (f"conv{number}", nn.Conv2d(into, out, 3)),
            (f"relu{number}", nn.ReLU()),
            (f"pool{number}", nn.MaxPool2d(2)),
        ]
    return _network(features, [("fc", nn.Linear(40, classes))], dropout)


def tiny_cnn(channels: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Three 3×3 convolutions of three channels, leaky ReLU after pooling: 328 parameters."""
    features: Layers = []
    for number, into in enumerate((channels, 3, 3), 1):
        features += [
            (f"conv{number}", nn.Conv2d(into, 3, 3)),
            (f"pool{number}", nn.MaxPool2d(2)),
            (f"relu{number}", nn.LeakyReLU(0.1)),
        ]
    return _network(features, [("fc", nn.Linear(12, classes))], dropout)


def tiny_nn(channels: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """One fully connected layer: 10,250 parameters."""
    return _network([], [("fc", nn.Linear(32 * 32 * channels, classes))], dropout)


def vgg(channels: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """A small VGG, three pairs of 3×3 convolutions that keep the size: 82,042 parameters.

    K. Simonyan and A. Zisserman, "Very deep convolutional networks for large-scale image
    recognition", ICLR 2015.
    """
    features: Layers = []
    for block, (into, out) in enumerate(((channels, 16), (16, 32), (32, 64)), 1):
        for number, width in ((1, into), (2, out)):
            features += [
                (f"conv{block}_{number}", nn.Conv2d(width, out, 3, padding="same")),
                (f"relu{block}_{number}", nn.ReLU()),
            ]
        features.append((f"pool{block}", nn.MaxPool2d(2)))
    return _network(features, [("fc", nn.Linear(1024, classes))], dropout)


def _network(features: Layers, head: Layers, dropout: float) -> nn.Sequential:
    between: Layers = [("flatten", nn.Flatten())]
    if dropout:
        between.append(("dropout", nn.Dropout(dropout)))
    return nn.Sequential(OrderedDict([*features, *between, *head]))


NETWORKS: dict[str, Callable[[int, int, float], nn.Sequential]] = {
    "lenet5": lenet5,
    "modified-lenet": modified_lenet,
    "tiny-cnn": tiny_cnn,
    "tiny-nn": tiny_nn,
    "vgg": vgg,
}

TITLES = {
    "lenet5": "LeNet-5",
    "modified-lenet": "Modified-LeNet",
    "tiny-cnn": "TinyCNN",
    "tiny-nn": "TinyNN",
    "vgg": "VGG",
}


def build_network(
    name: str, channels: int, classes: int, dropout: float = 0.0, seed: int = 0
) -> nn.Sequential:
    """A network by name, initialised from a seed; torch's global generator is left as it was.

    Args:
        name: "lenet5", "modified-lenet", "tiny-cnn", "tiny-nn" or "vgg".
        channels: C, input channels of the 32×32 images.
        classes: K, outputs.
        dropout: probability of dropping a feature before the first fully connected layer.
        seed: of the initial parameters.

    Raises:
        ArgumentError: no network has this name, or a number is out of range.
    """
    if name not in NETWORKS:
        raise ArgumentError(f"expected a network among {', '.join(NETWORKS)}, got {name!r}")
    if not 0 <= dropout < 1:
        raise ArgumentError(f"expected a dropout probability in [0, 1), got {dropout}")
    if channels < 1 or classes < 2:
        raise ArgumentError(f"expected channels ≥ 1 and classes ≥ 2, got {channels} and {classes}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](channels, classes, dropout)
