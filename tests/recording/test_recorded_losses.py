"""What counts as a loss, and what becomes of one."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from walks import assert_prefix, network, truth, walk

from losspath import Recorder, Trajectory
from losspath.errors import ArgumentError


@pytest.mark.parametrize(
    "loss",
    [
        0.5,
        1,
        np.float32(0.5),
        torch.tensor(0.25),
        torch.tensor([[0.25]]),
        torch.tensor(0.1).half(),
        np.array([0.25]),
        np.array([[1]]),
        np.array(0.5),
    ],
)
def test_a_loss_is_one_number_in_any_of_these_forms(tmp_path, loss):
    with Recorder(tmp_path / "run", network()) as recorder:
        recorder.record(loss)
    assert Trajectory(tmp_path / "run").losses.tolist() == [
        float(loss.item() if hasattr(loss, "item") else loss)
    ]


def test_losses_that_are_not_finite_are_kept(tmp_path):
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324]
    with Recorder(tmp_path / "run", network()) as recorder:
        for value in values:
            recorder.record(value)
    found = Trajectory(tmp_path / "run").losses
    np.testing.assert_array_equal(found, values)
    assert math.copysign(1, found[3]) == -1


def test_a_recorded_loss_keeps_no_graph_alive(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    model = torch.nn.Module()
    model.weight = parameter
    with Recorder(tmp_path / "run", model) as recorder:
        loss = parameter.square().sum()
        alive = weakref.ref(loss)
        recorder.record(loss)
        assert loss.requires_grad  # the caller's tensor is left as it is
        del loss
        gc.collect()
        assert alive() is None
    assert Trajectory(tmp_path / "run").losses.tolist() == [3.0]


@pytest.mark.parametrize(
    "loss",
    [
        "0.5",
        "loss",
        None,
        [0.5],
        0.5 + 1j,
        np.complex128(0.5 + 1j),
        np.array([0.5, 0.5]),
        torch.tensor([0.5, 0.5]),
        torch.tensor([]),
        torch.tensor(0.5 + 1j),
        10**400,
        np.array(["0.5"]),
        np.array([0.5 + 1j]),
        np.array([]),
        torch.tensor(0.5, device="meta"),
    ],
    ids=lambda loss: repr(loss)[:20],
)
@pytest.mark.filterwarnings("ignore:Casting complex")
def test_a_wrong_loss_is_refused_and_leaves_no_trace(tmp_path, loss):
    model = network()
    with Recorder(tmp_path / "run", model) as recorder:
        walk(recorder, model, 2)
        with pytest.raises(ArgumentError, match="expected the loss"):
            recorder.record(loss)
        assert recorder.steps == 2
        walk(recorder, model, 4)
    assert_prefix(tmp_path / "run", truth(4), count=5)
