"""Runs of a part of what is trained."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losspath import Objective, Recorder, Trajectory, compute_surface, fit_plane, step_sizes
from losspath.errors import ArgumentError, ModelError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh())
        self.head = nn.Linear(5, 3)
        self.fixed = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x):
        return self.fixed(self.head(self.body(x)))


X, Y = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3


def train(directory, model, parameters, count=6, **options):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rows = []

    def row():
        return torch.cat([p.detach().reshape(-1) for p in model.head.parameters()]).numpy()

    with Recorder(directory, model, parameters=parameters, **options) as recorder:
        rows.append(row())
        for _ in range(count):
            loss = F.cross_entropy(model(X), Y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
            rows.append(row())
    return Trajectory(directory), np.stack(rows)


@pytest.mark.parametrize("how", ["patterns", "module", "a tuple"])
def test_a_part_is_recorded_and_the_rest_is_left_out(tmp_path, how):
    model = Net()
    parameters = {"patterns": ["head.*"], "module": model.head, "a tuple": ("head.w*", "head.b*")}
    path, rows = train(tmp_path / "run", model, parameters[how])
    np.testing.assert_array_equal(path[:], rows)
    assert [entry.name for entry in path.layout.parameters] == ["head.weight", "head.bias"]
    kinds = path.side_kinds
    assert {name for name, kind in kinds.items() if kind == "frozen"} == {
        "fixed.weight",
        "fixed.bias",
    }
    assert all(name.startswith("body.1.") for name, kind in kinds.items() if kind == "buffer")
    assert path.notes == []
    np.testing.assert_allclose(
        step_sizes(path).sizes, np.linalg.norm(np.diff(rows.astype(float), axis=0), axis=1)
    )
    assert len(fit_plane(path).path) == 7


def test_it_goes_on_with_the_same_part(tmp_path):
    model = Net()
    train(tmp_path / "run", model, ["head.*"])
    path, _ = train(tmp_path / "run", model, model.head, existing="resume")
    assert path.steps.tolist() == [*range(13)]
    with pytest.raises(ModelError):
        Recorder(tmp_path / "run", model, existing="resume")


def test_a_part_has_no_loss_and_says_so(tmp_path):
    path, _ = train(tmp_path / "run", Net(), ["head.*"])
    objective = Objective(Net(), X, Y, F.cross_entropy)
    with pytest.raises(ModelError, match=r"a part of the model's .* lacks body.0.weight and 3 oth"):
        compute_surface(path, objective)


def test_patterns_of_everything_are_all_that_is_trained(tmp_path):
    path, _ = train(tmp_path / "run", Net(), ["*"])
    assert path.parameter_count == sum(p.numel() for p in Net().parameters() if p.requires_grad)
    surface = compute_surface(path, Objective(Net(), X, Y, F.cross_entropy), "pca", 3, states=2)
    assert np.isfinite(surface.loss).all()


@pytest.mark.parametrize(
    ("parameters", "error", "says"),
    [
        (["none.*"], ModelError, "got none.*, which match none of the trainable"),
        (["fixed.*"], ModelError, "which match none of the trainable parameters, such as body.0"),
        (nn.Linear(2, 2), ModelError, "a module of the model, got Linear, which has none"),
        ("head.*", ArgumentError, "parameters among trainable, all, or as patterns"),
        ([], ArgumentError, "parameters among trainable, all, or as patterns"),
        ([3], ArgumentError, "parameters among trainable, all, or as patterns"),
    ],
)
def test_what_is_no_part(tmp_path, parameters, error, says):
    with pytest.raises(error) as caught:
        Recorder(tmp_path / "run", Net(), parameters=parameters)
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()
