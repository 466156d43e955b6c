"""What every program is given, and where it leaves its numbers; counted on neither side.

Needs no more than torch and NumPy, as it is imported in peers' environments.
"""

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scene import Scene

_scene = Scene(Path(os.environ["HEADLINES_SCENE"]))
model = _scene.model()
inputs, targets = _scene.samples()
path = _scene.path()  # (T, P) states of its training
with np.load(_scene.directory / "grid.npz") as _grid:
    steps = len(_grid["x"])  # points of an axis
_trace = _scene.directory / "trace.npy" if os.environ.get("HEADLINES_TRACE") else None
_seen: list[np.ndarray] = []


def at(vector: np.ndarray) -> torch.nn.Module:
    """The network at a state (P,)."""
    network = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(vector.copy()), network.parameters())
    return network


untrained = at(path[0])
other_state = np.load(_scene.directory / "other.npy")  # of a training from another beginning
other = at(other_state)


def directions() -> list[dict[str, torch.Tensor]]:
    """Two directions, normalised by filters and orthogonal, by the parameters' names."""
    both = torch.from_numpy(np.load(_scene.directory / "directions.npy"))
    names, parameters = zip(*model.named_parameters(), strict=True)
    sizes = [parameter.numel() for parameter in parameters]
    return [
        {
            name: part.view_as(parameter)
            for name, parameter, part in zip(names, parameters, one.split(sizes), strict=True)
        }
        for one in both
    ]


def training(network: torch.nn.Module, count: int = 40) -> Iterator[float]:
    """Trains, and gives the loss of each step once it is taken."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        batch = torch.randint(len(inputs), (64,), generator=generator)
        loss = F.cross_entropy(network(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def keep(**numbers: object) -> None:
    """Leaves a program's numbers for the comparison; tensors by name as one vector."""
    flat = {
        name: np.concatenate([each.numpy().ravel() for each in value.values()])
        if isinstance(value, dict)
        else value
        for name, value in numbers.items()
    }
    np.savez(_scene.directory / f"{os.environ['HEADLINES_PROGRAM']}.npz", **flat)
    if _trace is not None:
        np.save(_trace, np.stack(_seen))


def _traced(forward):
    """A forward pass that notes at which parameters it is called, each time they have changed."""

    def noted(*arguments: object):
        vector = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
        if not _seen or not np.array_equal(vector, _seen[-1]):
            _seen.append(vector)
        return forward(*arguments)

    return noted


if _trace is not None:
    model.forward = _traced(model.forward)
