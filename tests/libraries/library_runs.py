"""Training as a library's user does it, and what a plain loop finds at each of its states."""

import copy
import itertools

import numpy as np
import torch

from losspath import (
    Recorder,
    Trajectory,
    compute_surface,
    fit_plane,
    interpolate,
    measure_dynamics,
    step_sizes,
)

REL = 1e-5


def trained(directory, model, batches, loss, steps=5, rate=0.1):
    """A recorded run, and a deep copy of the model as it was at each state."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], rate)
    with Recorder(directory, model) as recorder:
        models = [copy.deepcopy(model)]
        for step in range(steps):
            model.train()
            value = loss(model, batches[step % len(batches)])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            recorder.record(value)
            models.append(copy.deepcopy(model))
    return Trajectory(directory), models


def rows(model):
    """The trained parameters, each once."""
    return [p for p in model.parameters() if p.requires_grad]


def vector_of(model):
    return torch.cat([p.detach().double().reshape(-1) for p in rows(model)]).numpy()


def written(model, vector):
    """A copy of the model with a vector in its trained parameters."""
    model = copy.deepcopy(model)
    done = 0
    with torch.no_grad():
        for parameter in rows(model):
            values = torch.from_numpy(np.array(vector[done : done + parameter.numel()]))
            parameter.copy_(values.view(parameter.shape))
            done += parameter.numel()
    assert done == len(vector)
    return model


def plain(model, batches, loss):
    """The mean over samples, by a loop over batches."""
    model = copy.deepcopy(model).eval()
    total = count = 0.0
    with torch.no_grad():
        for batch in batches:
            size = len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])
            total += float(loss(model, batch)) * size
            count += size
    return total / count


def gradient(model, batches, loss):
    model = copy.deepcopy(model).eval()
    count = 0
    for batch in batches:
        size = len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])
        (loss(model, batch) * size).backward()
        count += size
    return np.concatenate([p.grad.double().reshape(-1).numpy() for p in rows(model)]) / count


def content(model):
    """Everything of a model that must stay as it is, in values that can be compared."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return [
        [
            (n, id(t), t.data_ptr(), t.requires_grad, t.detach().numpy().tobytes())
            for n, t in tensors
        ],
        [(n, m.training) for n, m in model.named_modules()],
        [
            (n, k, id(v))
            for n, m in model.named_modules()
            for k, v in vars(m).items()
            if isinstance(v, torch.Tensor)
        ],
    ]


def assert_run_is_right(
    path, models, objective, batches, loss, varying_buffers=False, layers=False
):
    """Every reading of a run against the plain loop at the models themselves.

    Args:
        path: the run.
        models: the model at each state.
        objective: the same loss over the same data.
        batches: the data.
        loss: of a model and a batch.
        varying_buffers: whether states differ in their buffers, so that a point between them is
            looked at elsewhere.
        layers: whether lines are along single layers too.
    """
    for index in (0, len(path) - 1):
        np.testing.assert_allclose(path[index], vector_of(models[index]), rtol=1e-7)
    expected = [plain(model, batches, loss) for model in models]
    surface = compute_surface(path, objective, "averaged", 3, states=4)
    found = surface.states
    np.testing.assert_allclose(found.loss, [expected[i] for i in found.index], rtol=REL)
    flat = compute_surface(path, objective, "pca", 3, states=2)
    line = interpolate(path, objective, alphas=[0.0, 0.5, 1.0], layers=layers)
    np.testing.assert_allclose(line.loss[0, [0, 2]], [expected[0], expected[-1]], rtol=REL)
    if not varying_buffers:
        plane = fit_plane(path)
        for i, j in ((0, 0), (1, 2)):
            vector = plane.origin + plane.basis @ [flat.x[j], flat.y[i]]
            there = plain(written(models[-1], vector), batches, loss)
            assert abs(flat.loss[i, j] - there) < REL * abs(there)
        middle = written(models[-1], (vector_of(models[0]) + vector_of(models[-1])) / 2)
        np.testing.assert_allclose(line.loss[0, 1], plain(middle, batches, loss), rtol=REL)
    dynamics = measure_dynamics(path, objective, 2)
    for number, index in enumerate(dynamics.index.tolist()):
        norm = np.linalg.norm(gradient(models[index], batches, loss))
        np.testing.assert_allclose(dynamics.gradient_norm[number], norm, rtol=1e-4)
        np.testing.assert_allclose(dynamics.loss[number], expected[index], rtol=REL)
    steps = [np.linalg.norm(vector_of(b) - vector_of(a)) for a, b in itertools.pairwise(models)]
    np.testing.assert_allclose(step_sizes(path).sizes, steps, rtol=1e-4)
    return line


def everything(path, index):
    """All that a run has of a state, by name: what is trained, frozen, and buffers."""
    row = path[index]
    values = {entry.name: row[entry.place].reshape(entry.shape) for entry in path.layout.parameters}
    return values | {name: tensor.numpy() for name, tensor in path.sides(index).items()}


def assert_imported_is_recorded(imported, recorded, without=()):
    """What a library saved, imported, is at its steps what was recorded, bit for bit.

    Args:
        imported: the run of checkpoints.
        recorded: the run of every step.
        without: names that were recorded and are in no checkpoint.
    """
    place = {step: index for index, step in enumerate(recorded.steps.tolist())}
    assert len(imported) > 1
    assert imported[0].tobytes() != imported[-1].tobytes()
    for index, step in enumerate(imported.steps.tolist()):
        ours, theirs = everything(recorded, place[step]), everything(imported, index)
        assert theirs.keys() == ours.keys() - set(without)
        for name, value in theirs.items():
            assert (value.dtype, value.shape) == (ours[name].dtype, ours[name].shape)
            assert value.tobytes() == ours[name].tobytes(), (name, step)
