"""A training loop without the training: every state follows from the one before and the step.

So a run that was stopped can go on from a recorded state, and any state can be told beforehand.
"""

import math

import numpy as np
import torch

from losspath import Recorder, Trajectory

DATA_FILES = ("states.bin", "records.bin", "losses.bin")
ALL_FILES = ("trajectory.json", *DATA_FILES, "index.jsonl")


def network(seed=0):
    """Parameters (23) and floating-point buffers (6), and an integer buffer between them."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2, bias=True)
    )


def tensors(model):
    """The tensors of a row, found in another way than the source finds them."""
    buffers = [b for _, b in model.named_buffers() if b.is_floating_point()]
    return [*dict(model.named_parameters()).values(), *buffers]


def row(model):
    """The row that should be stored of the state that a model is in."""
    return np.concatenate([t.detach().reshape(-1).numpy() for t in tensors(model)])


def advance(model, step):
    with torch.no_grad():
        for tensor in tensors(model):
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


def contents(directory, names=DATA_FILES):
    return {name: (directory / name).read_bytes() for name in names}


def assert_prefix(directory, rows, count=None, every=1):
    """Whatever is read of a run is the beginning of the truth, and ends where it says."""
    path = Trajectory(directory)
    steps = path.steps
    np.testing.assert_array_equal(path[:], rows[steps, :PARAMETERS])
    np.testing.assert_array_equal(
        path.all_losses, [loss_at(t) for t in range(len(path.all_losses))]
    )
    np.testing.assert_array_equal(steps[:-1], np.arange(len(path) - 1) * every)
    if count is not None:
        assert len(path) == count
    return path
