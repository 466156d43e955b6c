"""Record a training loop of one's own and draw its loss surface.

    python examples/own_model.py

Trains a small network on two interleaving half-moons and writes runs/moons and moons.png.
"""

import torch
from torch import nn

import losspath

torch.manual_seed(0)
angle, targets = torch.rand(1000) * torch.pi, torch.arange(1000) % 2
upper = torch.stack([angle.cos(), angle.sin()], dim=1)
inputs = torch.where(targets[:, None] == 0, upper, torch.tensor([1.0, 0.5]) - upper)
inputs += 0.15 * torch.randn_like(inputs)
loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(inputs, targets), batch_size=50, shuffle=True
)
model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loss_fn = nn.CrossEntropyLoss()

with losspath.Recorder("runs/moons", model, existing="overwrite") as recorder:
    for _ in range(20):
        for x, y in loader:
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.record(loss)

path = losspath.Trajectory("runs/moons")
objective = losspath.Objective(model, inputs, targets, loss_fn)
surface = losspath.compute_surface(path, objective)
surface.save("runs/moons/surface.npz")
losspath.plot_surface(surface).savefig("moons.png", dpi=200)
print("moons.png")  # noqa: T201
