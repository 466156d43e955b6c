"""Models whose buffers are part of what they compute."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losspath


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    model = make_model()
    inputs, targets = 3 * torch.randn(60, 4) + 2, torch.randint(3, (60,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    buffers = []
    with losspath.Recorder(tmp_path / "run", model) as recorder:
        for start in range(0, 60, 10):
            buffers.append({name: b.clone() for name, b in model.named_buffers()})
            loss = F.cross_entropy(model(inputs[start : start + 10]), targets[start : start + 10])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
    return losspath.Trajectory(tmp_path / "run"), model, inputs, targets, buffers


def make_model():
    return torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Linear(5, 3)
    )


def test_recorded_buffers_are_those_of_the_moment(trained):
    path, _, _, _, buffers = trained
    for index, expected in enumerate(buffers):
        found = path.buffers(index)
        assert list(found) == ["1.running_mean", "1.running_var"]
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name])


def test_loading_a_state_loads_its_buffers(trained):
    path, model, inputs, _, _ = trained
    fresh = make_model()
    path.load_into(fresh, -1, buffers=True)
    assert torch.equal(fresh.eval()(inputs), model.eval()(inputs))


def test_buffers_that_training_did_not_end_with_are_warned_of(trained):
    path, model, inputs, targets, _ = trained
    fresh = losspath.Objective(make_model(), inputs, targets, F.cross_entropy)
    with pytest.warns(losspath.LosspathWarning, match=r"another 1\.running_mean.*load_into"):
        losspath.compute_surface(path, fresh, "pca", 3)
    with pytest.warns(losspath.LosspathWarning, match="running_mean"):
        losspath.interpolate(path, fresh, alphas=[0, 1])
    # Warnings are errors here: the trained model's own buffers give none.
    own = losspath.Objective(model, inputs, targets, F.cross_entropy)
    losspath.compute_surface(path, own, "pca", 3)
