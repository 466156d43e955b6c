"""What a user writes: a model of one's own, recorded, and a surface of its path."""

import numpy as np
import torch
from torch import nn

import losspath


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 2, generator=generator)
    return inputs, (inputs[:, 0] > 0).long()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))


def objective():
    return losspath.Objective(network(), *data(), nn.CrossEntropyLoss())


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().copy()


def main():
    model, (inputs, targets), loss_fn = network(), data(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    states = [flat(model)]
    with losspath.Recorder("run", model) as recorder:
        for step in range(20):
            loss = loss_fn(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
            states.append(flat(model))
            if step % 10 == 0:
                torch.save(model.state_dict(), f"step-{step}.pt")
    path = losspath.Trajectory("run")
    np.testing.assert_array_equal(path[:], states)
    surface = losspath.compute_surface(path, objective(), method="sampled", resolution=5)
    with torch.no_grad():
        at_the_end = float(loss_fn(model(inputs), targets))
    assert np.abs(surface.loss - at_the_end).min() < 1e-5  # a grid line goes through the end
    losspath.plot_surface(surface).savefig("surface.png")


if __name__ == "__main__":
    main()
