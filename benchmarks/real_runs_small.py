"""An equation, and two networks that play against each other."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from real_runs_kit import Run, train_and_time
from torch import nn

import losspath

VISCOSITY = 0.05 / math.pi


def layers(*widths: int, kind: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Dense layers with a function between them."""
    parts: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        parts += [nn.Linear(inside, outside), kind()]
    return nn.Sequential(*parts[:-1])


def burgers_loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Of u_t + u u_x = ν u_xx on [−1, 1] with u(0, x) = −sin πx and u(t, ±1) = 0."""
    inside, start, ends = batch
    points = inside.detach().requires_grad_(True)  # (N, 2): t, x
    u = model(points)
    (first,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 1].sum(), points, create_graph=True)
    residual = first[:, :1] + u * first[:, 1:] - VISCOSITY * second[:, 1:]
    begun = model(start) + torch.sin(math.pi * start[:, 1:])
    return residual.square().mean() + begun.square().mean() + model(ends).square().mean()


def equation(folder: Path, steps: int) -> Run:
    """Burgers' equation by a physics-informed network, with Adam; `torch.save` of state dicts."""
    torch.manual_seed(0)
    model = layers(2, 32, 32, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    inside = torch.rand(1000, 2) * torch.tensor([1.0, 2.0]) - torch.tensor([0.0, 1.0])
    start = torch.stack([torch.zeros(100), torch.linspace(-1, 1, 100)], 1)
    ends = torch.stack([torch.rand(100), torch.ones(100).copysign(torch.randn(100))], 1)
    batch = [inside, start, ends]

    def step() -> list[torch.Tensor]:
        loss = burgers_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [loss]

    def save(number: int) -> None:
        torch.save(model.state_dict(), folder / f"burgers-{number}.pth")

    timing = train_and_time(folder, {"run": model}, step, steps, save, 100)
    objective = losspath.Objective.of_batches(layers(2, 32, 32, 32, 1), [batch], burgers_loss)
    saved = {"torch.save": (folder / "burgers-*.pth", {})}
    return Run(losspath.Trajectory(folder / "run"), objective, timing, saved)


def game(folder: Path, steps: int) -> dict[str, Run]:
    """Eight heaps of points by a generator, and their judge; one file of both networks."""
    torch.manual_seed(0)
    generator, judge = layers(8, 64, 64, 2, kind=nn.ReLU), layers(2, 64, 64, 1, kind=nn.ReLU)
    moves = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.999))
    judgements = torch.optim.Adam(judge.parameters(), 1e-3, betas=(0.5, 0.999))
    score = F.binary_cross_entropy_with_logits
    true, false = torch.ones(256, 1), torch.zeros(256, 1)

    def real() -> torch.Tensor:
        angle = torch.randint(8, (256,)) * (math.pi / 4)
        return torch.stack([angle.cos(), angle.sin()], 1) * 2 + 0.1 * torch.randn(256, 2)

    def step() -> list[torch.Tensor]:
        made = generator(torch.randn(256, 8))
        of_judge = score(judge(real()), true) + score(judge(made.detach()), false)
        judgements.zero_grad()
        of_judge.backward()
        judgements.step()
        of_generator = score(judge(made), true)
        moves.zero_grad()
        of_generator.backward()
        moves.step()
        return [of_generator, of_judge]

    def save(number: int) -> None:
        content = {"generator": generator.state_dict(), "judge": judge.state_dict()}
        torch.save({**content, "iteration": number}, folder / f"game-{number}.pt")

    models = {"generator": generator, "judge": judge}
    timing = train_and_time(folder, models, step, steps, save, 100)
    noise, samples = torch.randn(512, 8), torch.cat([real(), real()])
    path = {name: losspath.Trajectory(folder / name) for name in models}
    path["judge"].load_into(judge, -1)
    path["generator"].load_into(generator, -1)
    with torch.no_grad():
        forged = generator(noise)
    labels = torch.cat([torch.ones(512, 1), torch.zeros(512, 1)])

    def fooled(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return score(judge(model(batch)), torch.ones(len(batch), 1))

    objectives = {
        "generator": losspath.Objective.of_batches(
            layers(8, 64, 64, 2, kind=nn.ReLU), [noise], fooled
        ),
        "judge": losspath.Objective(
            layers(2, 64, 64, 1, kind=nn.ReLU), torch.cat([samples, forged]), labels, score
        ),
    }
    other = {"generator": "against the last judge", "judge": "against the last generator"}
    return {
        name: Run(
            path[name],
            objectives[name],
            timing,
            {"torch.save": (folder / "game-*.pt", {"key": name})},
            named=other[name],
        )
        for name in models
    }
