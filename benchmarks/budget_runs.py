"""Five short real trainings, recorded, with the objectives that their surfaces are of."""

import io
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import losspath
from losspath.thesis.networks import build_network


@dataclass(frozen=True)
class Training:
    """A recorded training.

    Attributes:
        name: what it is of.
        path: the run.
        objective: the loss over all samples.
        epoch_seconds: how long its last epoch took, recorded.
    """

    name: str
    path: losspath.Trajectory
    objective: losspath.Objective
    epoch_seconds: float


class ResNet(torch.nn.Module):
    """Three residual blocks with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.blocks = torch.nn.ModuleList([Block(8, 8), Block(8, 16), Block(16, 32)])
        self.head = torch.nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


class Block(torch.nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        stride = 1 if given == made else 2
        self.one = torch.nn.Conv2d(given, made, 3, stride, 1, bias=False)
        self.two = torch.nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm2d(made) for _ in range(2)])
        self.short = torch.nn.Conv2d(given, made, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x):
        y = torch.relu(self.norms[0](self.one(x)))
        y = self.norms[1](self.two(y))
        return torch.relu(y + (self.short(x) if self.short else x))


# By name: network, data, optimiser with its rate, training samples, epochs.
TRAININGS = {
    "lenet5 MNIST SGD": ("lenet5", "mnist", torch.optim.SGD, 0.05, 20_000, 1),
    "modified-lenet MNIST SGD": ("modified-lenet", "mnist", torch.optim.SGD, 0.1, 20_000, 1),
    "modified-lenet MNIST Adam": ("modified-lenet", "mnist", torch.optim.Adam, 1e-3, 20_000, 1),
    "MLP digits SGD": ("mlp", "digits", torch.optim.SGD, 0.1, 1_437, 12),
    "ResNet CIFAR-10 (JPEG) Adam": ("resnet", "cifar", torch.optim.Adam, 3e-3, 4_000, 4),
}


def train(name: str, data_dir: Path, directory: Path, samples: int) -> Training:
    """Trains and records one of `TRAININGS`.

    Args:
        name: which.
        data_dir: a directory with mnist/ and cifar10/.
        directory: the run.
        samples: of the training data, that the objective is over.
    """
    network, data, make, rate, count, epochs = TRAININGS[name]
    x, y = _data(data, data_dir, count)
    torch.manual_seed(0)
    model = _network(network)
    path, seconds = recorded(model, make(model.parameters(), lr=rate), (x, y), directory, epochs)
    objective = losspath.Objective(model, x[:samples], y[:samples], F.cross_entropy)
    return Training(name, path, objective, seconds[-1])


def recorded(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[torch.Tensor, torch.Tensor],
    directory: Path,
    epochs: int,
) -> tuple[losspath.Trajectory, list[float]]:
    """The path of a training, and the seconds of its epochs, recording included."""
    x, y = data
    seconds = []
    with losspath.Recorder(directory, model, existing="overwrite") as recorder:
        for _ in range(epochs):
            began = time.perf_counter()
            for chosen in torch.randperm(len(x)).split(64):
                loss = F.cross_entropy(model(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.record(loss)
            seconds.append(time.perf_counter() - began)
    return losspath.Trajectory(directory), seconds


def _network(name: str) -> torch.nn.Module:
    if name == "resnet":
        return ResNet()
    if name == "mlp":
        layers = [torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))
    return build_network(name, 1, 10)


def _data(name: str, data_dir: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    if name == "cifar":
        return _cifar(data_dir / "cifar10" / "cifar10-jpeg.zip", count)
    if name == "digits":
        from sklearn.datasets import load_digits

        images, targets = load_digits(return_X_y=True)
        x = torch.from_numpy(images / 16 - 0.3).float()
        return x[:count], torch.from_numpy(targets)[:count]
    return mnist(data_dir, count)


def mnist(data_dir: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images of the training set, and their classes."""
    from losspath.thesis.datasets import load_dataset

    found = load_dataset("mnist", data_dir / "mnist", download=False)
    return found.train_inputs[:count], found.train_targets[:count]


def _cifar(file: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    from PIL import Image

    with zipfile.ZipFile(file) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("train/") and n[-4:] == ".jpg")
        classes = sorted({name.split("/")[1] for name in names})
        chosen = np.random.default_rng(0).permutation(len(names))[:count]
        images = [np.array(Image.open(io.BytesIO(archive.read(names[i])))) for i in chosen]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    y = torch.tensor([classes.index(names[i].split("/")[1]) for i in chosen])
    return (x - x.mean(dim=(0, 2, 3), keepdim=True)) / x.std(dim=(0, 2, 3), keepdim=True), y
