"""Runs of what a loop of one's own saves, beside what a recorder kept of the same steps."""

import math

import pytest
import torch
import torch.nn.functional as F
from library_runs import assert_imported_is_recorded
from test_residual_network import BATCHES, ResNet
from test_residual_network import loss as residual_loss
from torch import nn

from losspath import Recorder, Trajectory, import_checkpoints


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def trained(folder, models, losses, save, steps=4):
    """Trains networks in turn, each recorded under its name; saves at each step."""
    optimizers = {name: torch.optim.Adam(model.parameters()) for name, model in models.items()}
    recorders = {name: Recorder(folder / name, model) for name, model in models.items()}
    save(0)
    for number in range(1, steps + 1):
        for name, loss in losses.items():
            value = loss(number)
            optimizers[name].zero_grad()
            value.backward()
            optimizers[name].step()
            recorders[name].record(value)
        save(number)
    for recorder in recorders.values():
        recorder.close()
    return {name: Trajectory(folder / name) for name in models}


@pytest.mark.parametrize("stem", ["trained", "frozen"])
def test_a_residual_network(tmp_path, stem):
    model = ResNet()
    model.conv1.requires_grad_(stem == "trained")

    def save(step):
        torch.save({"net": model.state_dict(), "step": step}, tmp_path / f"{step}.pt")

    losses = {"run": lambda step: residual_loss(model, BATCHES[step % 3])}
    recorded = trained(tmp_path, {"run": model}, losses, save)["run"]
    names = {name for name, _ in model.named_buffers()}
    assert names <= recorded.side_kinds.keys()
    imported = import_checkpoints(tmp_path / "*.pt", tmp_path / "imported")
    assert_imported_is_recorded(imported, recorded)
    whole = import_checkpoints(tmp_path / "*.pt", tmp_path / "with", model=model)
    assert_imported_is_recorded(whole, recorded)
    assert whole.layout == recorded.layout


def test_an_equation(tmp_path):
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    points = torch.linspace(-1, 1, 16)[:, None]

    def loss(step):
        x = points.detach().requires_grad_(True)
        u = model(x)
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        return (second + math.pi**2 * torch.sin(math.pi * x)).square().mean() + u[0].square().sum()

    def save(step):
        torch.save(model.state_dict(), tmp_path / f"poisson-{step}.pth")

    recorded = trained(tmp_path, {"run": model}, {"run": loss}, save)["run"]
    imported = import_checkpoints(tmp_path / "poisson-*.pth", tmp_path / "imported")
    assert_imported_is_recorded(imported, recorded)


def test_two_networks_of_a_game_in_one_file(tmp_path):
    generator = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    judge = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1))
    noise, real = torch.randn(16, 2), torch.randn(16, 2) + 2

    def judged(step):
        return F.softplus(-judge(real)).mean() + F.softplus(judge(generator(noise).detach())).mean()

    def fooled(step):
        return F.softplus(-judge(generator(noise))).mean()

    def save(step):
        content = {"generator": generator.state_dict(), "judge": judge.state_dict()}
        torch.save({**content, "iteration": step}, tmp_path / f"game-{step}.pt")

    models = {"judge": judge, "generator": generator}
    recorded = trained(tmp_path, models, {"judge": judged, "generator": fooled}, save)
    for name in models:
        imported = import_checkpoints(tmp_path / "game-*.pt", tmp_path / f"of-{name}", key=name)
        assert imported.steps.tolist() == [0, 1, 2, 3, 4]
        assert_imported_is_recorded(imported, recorded[name])
