"""A training loop without the training: every state follows from the one before and the step.

So a run that was stopped can go on from a recorded state, and any state can be told beforehand.
"""

import math

import numpy as np
import torch

from losspath import Recorder, Trajectory

RECORDS = ("records.bin", "records.copy.bin")
DATA_FILES = ("states.bin", "sides.bin", *RECORDS)
ALL_FILES = ("trajectory.json", "trajectory.copy.json", *DATA_FILES)


def network(seed=0):
    """Parameters (23), floating-point buffers (6), and an integer buffer between them."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2, bias=True)
    )


def row(model):
    """The row that should be stored of the state that a model is in."""
    return np.concatenate([p.detach().reshape(-1).numpy() for p in model.parameters()])


def buffers(model):
    """The side tensors that should be stored of it."""
    return {
        name: b.detach().clone()
        for name, b in model.state_dict(keep_vars=True).items()
        if not isinstance(b, torch.nn.Parameter)
    }


def advance(model, step):
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if not tensor.is_floating_point():
                tensor.fill_(step + 1)
                continue
            change = torch.cos(torch.arange(tensor.numel(), dtype=tensor.dtype) + step)
            tensor.mul_(0.75).add_(change.view_as(tensor))


def loss_at(step):
    return math.sin(step) + 0.1 * step


def walk(recorder, model, until):
    """Takes steps, from wherever the recorder is, until it has so many."""
    for step in range(recorder.steps, until):
        advance(model, step)
        recorder.record(loss_at(step))


def record(directory, until, model=None, **options):
    """Records a walk up to a step and returns the model in the state that it ended in."""
    model = network() if model is None else model
    with Recorder(directory, model, **options) as recorder:
        walk(recorder, model, until)
    return model


def model_at(step):
    """A model in the state that it has after so many steps."""
    model = network()
    for number in range(step):
        advance(model, number)
    return model


def truth(steps):
    """The rows of the states at steps 0 … steps."""
    model = network()
    rows = [row(model)]
    for number in range(steps):
        advance(model, number)
        rows.append(row(model))
    return np.stack(rows)


PARAMETERS = sum(p.numel() for p in network().parameters())


def stored_rows(directory):
    """What anything but this package would read of the rows."""
    return np.fromfile(directory / "states.bin", "<f4").reshape(-1, row(network()).size)


def contents(directory, names=ALL_FILES):
    return {name: (directory / name).read_bytes() for name in names}


def assert_same_run(one, other):
    """Two runs have the same rows, side tensors, losses and values, however each came about."""
    assert (one / "states.bin").read_bytes() == (other / "states.bin").read_bytes()
    left, right = Trajectory(one), Trajectory(other)
    assert left.digest == right.digest
    assert left.closed == right.closed
    np.testing.assert_array_equal(left[:], right[:])
    np.testing.assert_array_equal(left.all_losses, right.all_losses)
    assert left.loss_steps.tolist() == right.loss_steps.tolist()
    for index in range(len(left)):
        expected = right.sides(index)
        found = left.sides(index)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        assert left.side_key(index) == right.side_key(index)


def assert_prefix(directory, rows, count=None, every=1):
    """Whatever is read of a run is the beginning of the truth, and ends where it says."""
    path = Trajectory(directory)
    steps = path.steps
    np.testing.assert_array_equal(path[:], rows[steps])
    for index in {0, len(path) // 2, len(path) - 1}:
        expected, found = buffers(model_at(int(steps[index]))), path.sides(index)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    np.testing.assert_array_equal(
        path.all_losses, [loss_at(t) for t in range(len(path.all_losses))]
    )
    np.testing.assert_array_equal(steps[:-1], np.arange(len(path) - 1) * every)
    if count is not None:
        assert len(path) == count
    return path
