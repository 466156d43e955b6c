import pytest
import torch

from losspath.errors import ArgumentError
from losspath.thesis.networks import NETWORKS, build_network

COUNTS = {
    "lenet5": 61_706,
    "modified-lenet": 1_830,
    "tiny-cnn": 328,
    "tiny-nn": 10_250,
    "vgg": 82_042,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameter_counts(name, count):
    model = build_network(name, channels=1, classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_every_network_has_a_known_count():
    assert COUNTS.keys() == NETWORKS.keys()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 100)])
def test_outputs_for_32_by_32_images(name, channels, classes):
    model = build_network(name, channels, classes)
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, classes)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_stands_before_the_first_fully_connected_layer(name):
    names = [key for key, _ in build_network(name, 1, 10, dropout=0.5).named_children()]
    linear = [key for key in names if key.startswith("fc")]
    assert names.index("dropout") == names.index(linear[0]) - 1
    assert "dropout" not in dict(build_network(name, 1, 10).named_children())


def test_dropout_does_not_change_the_parameters():
    plain, dropping = (build_network("lenet5", 1, 10, p, seed=3) for p in (0.0, 0.5))
    for one, other in zip(plain.parameters(), dropping.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, again, other = (build_network("tiny-cnn", 1, 10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize(
    "arguments",
    [("lenet6", 1, 10, 0.0), ("vgg", 1, 10, 1.0), ("vgg", 0, 10, 0.0), ("vgg", 1, 1, 0.0)],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ArgumentError, match="expected"):
        build_network(*arguments)
