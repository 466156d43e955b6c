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
        assert list(found) == ["1.num_batches_tracked", "1.running_mean", "1.running_var"]
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name])


def test_loading_a_state_loads_its_buffers(trained):
    path, model, inputs, _, _ = trained
    fresh = make_model()
    path.load_into(fresh, -1, buffers=True)
    assert torch.equal(fresh.eval()(inputs), model.eval()(inputs))


def test_a_model_made_anew_gives_what_the_trained_one_gives(trained):
    path, model, inputs, targets, _ = trained
    found = [
        (losspath.compute_surface(path, objective, "pca", 3), losspath.interpolate(path, objective))
        for made in (model, make_model())
        for objective in [losspath.Objective(made, inputs, targets, F.cross_entropy)]
    ]
    np.testing.assert_array_equal(found[0][0].loss, found[1][0].loss)
    np.testing.assert_array_equal(found[0][1].loss, found[1][1].loss)
    own = F.cross_entropy(model.eval()(inputs), targets)
    assert found[0][0].states.loss[-1] == pytest.approx(float(own), rel=1e-5)
