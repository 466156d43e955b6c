"""The runs of `fidelity.py`: five kinds of network, each with three optimisers, and their forks."""

from __future__ import annotations

import copy
import pydoc_data.topics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from real_runs_images import flipped, load_images, resnet
from sklearn.datasets import make_friedman1
from torch import nn

import losspath
from losspath.thesis.datasets import load_dataset
from losspath.thesis.networks import build_network

FORKS = 10  # of a run, each of 1 to 3 % of its length
STATES = 6  # of a fork
CONTEXT, WIDTH = 32, 64  # of the transformer

Data = tuple[torch.Tensor, torch.Tensor]
Batch = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
        title: as tables name it.
        build: a new network, by torch's global generator.
        data: inputs and targets.
        loss: of outputs and targets.
        steps: how many.
        batch: samples of a step.
        samples: of a surface.
        rates: learning rate by optimiser, as is usual for such networks.
        anneal: whether rates fall to zero as a cosine, after 5 % of warm-up.
        decay: of weights, for AdamW, and for SGD.
        augment: what is done to a batch of inputs.
    """

    title: str
    build: Callable[[], nn.Module]
    data: Data
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    steps: int
    batch: int
    samples: int
    rates: dict[str, float]
    anneal: bool = False
    decay: dict[str, float] = field(default_factory=lambda: {"adamw": 0.01})
    augment: Batch = lambda inputs: inputs

    def objective(self) -> losspath.Objective:
        """The mean loss of the first samples."""
        inputs, targets = (each[: self.samples] for each in self.data)
        return losspath.Objective(self.build(), inputs, targets, self.loss)


class Transformer(nn.Module):
    """A causal transformer of two layers over characters."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(letters, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, letters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.letters(x) + self.places
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h)).transpose(1, 2)


class Layer(nn.Module):
    """Attention of four heads and two fully connected layers, each after a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(2, (3, 4, WIDTH // 4)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*parts.unbind(), is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def characters() -> tuple[int, Data]:
    """How many letters the text that ships with Python has, and pieces of it with what follows."""
    text = Path(pydoc_data.topics.__file__).read_text(encoding="utf-8").encode()[:300_000]
    letters, coded = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)
    count = (len(coded) - 1) // CONTEXT * CONTEXT
    rows = torch.from_numpy(coded[: count + 1])
    inputs, targets = rows[:-1].reshape(-1, CONTEXT), rows[1:].reshape(-1, CONTEXT)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    return len(letters), (inputs[order], targets[order])


def regression() -> Data:
    """Friedman's first problem: ten inputs, of which five count, and noise."""
    inputs, targets = make_friedman1(4000, noise=1.0, random_state=0)
    return torch.from_numpy(inputs).float() * 2 - 1, torch.from_numpy(targets).float()[:, None]


def perceptron() -> nn.Module:
    """Two hidden layers of 64."""
    parts = [nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)]
    return nn.Sequential(*parts)


def kinds(data_dir: Path) -> dict[str, Kind]:
    """The five kinds, by name.

    Args:
        data_dir: has MNIST and CIFAR-10.
    """
    digits = load_dataset("mnist", data_dir / "mnist", download=False)
    mnist = (digits.train_inputs, digits.train_targets)
    usual = {"sgd": 0.01, "adam": 1e-3, "adamw": 1e-3}
    entropy = F.cross_entropy

    def lenet(name: str) -> Callable[[], nn.Module]:
        return lambda: build_network(name, 1, 10, seed=int(torch.randint(2**31, ())))

    thesis = {**usual, "adam-0.01": 0.01}
    title, images = load_images(data_dir)
    letters, pieces = characters()
    return {
        "lenet5": Kind("LeNet-5, MNIST", lenet("lenet5"), mnist, entropy, 3752, 64, 1000, thesis),
        "modified-lenet": Kind(
            "Modified-LeNet, MNIST", lenet("modified-lenet"), mnist, entropy, 3752, 64, 1000, thesis
        ),
        "resnet8": Kind(
            f"ResNet-8 with BatchNorm, {title}",
            lambda: resnet(3, 8),
            images,
            entropy,
            1500,
            64,
            300,
            {"sgd": 0.1, "adam": 3e-3, "adamw": 3e-3},
            anneal=True,
            decay={"sgd": 5e-4, "adamw": 0.05},
            augment=flipped,
        ),
        "transformer": Kind(
            "transformer, characters",
            lambda: Transformer(letters),
            pieces,
            entropy,
            2000,
            32,
            128,
            {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3},
            anneal=True,
            decay={"adamw": 0.1},
        ),
        "regression": Kind(
            "MLP, regression", perceptron, regression(), F.mse_loss, 3000, 32, 1000, usual
        ),
    }


class Training:
    """A network in training, which can go on in two ways from any step.

    Args:
        kind: what is trained.
        optimizer: its name among the kind's rates.
        seed: of the network and the batches.
    """

    def __init__(self, kind: Kind, optimizer: str, seed: int) -> None:
        self.kind, self.name, self.step = kind, optimizer, 0
        torch.manual_seed(seed)
        self.model = kind.build()
        self.batches = torch.Generator().manual_seed(seed)
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        rate, called = self.kind.rates[self.name], self.name.partition("-")[0]
        decay = self.kind.decay.get(called, 0.0)
        if called == "sgd":
            return torch.optim.SGD(self.model.parameters(), rate, 0.9, weight_decay=decay)
        made = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[called]
        return made(self.model.parameters(), rate, weight_decay=decay)

    def rate(self) -> float:
        """The learning rate of this step."""
        rate, part = self.kind.rates[self.name], (self.step + 1) / self.kind.steps
        if not self.kind.anneal:
            return rate
        return rate * min(1.0, part / 0.05) * 0.5 * (1 + np.cos(np.pi * part))

    def take(self) -> float:
        """One step; returns its loss."""
        inputs, targets = self.kind.data
        chosen = torch.randint(len(inputs), (self.kind.batch,), generator=self.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.model.train()
        loss = self.kind.loss(self.model(self.kind.augment(inputs[chosen])), targets[chosen])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def fork(self, seed: int) -> Training:
        """The same, with other batches to come."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.optimizer = other._optimizer()
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        other.batches = torch.Generator().manual_seed(seed)
        return other

    def record(self, folder: Path, steps: int, every: int = 1) -> Iterator[int]:
        """Takes steps and records them, before and after each; yields how many are taken."""
        with losspath.Recorder(folder, self.model, every=every) as recorder:
            for taken in range(steps):
                yield taken
                recorder.record(self.take())


def run_of(kind: Kind, optimizer: str, seed: int, folder: Path) -> None:
    """Trains, records in ``folder/run`` and forks in ``folder/fork-0`` and so on.

    Args:
        kind: what is trained.
        optimizer: its name.
        seed: of the run.
        folder: a new one.
    """
    training, generator = Training(kind, optimizer, seed), np.random.default_rng([seed, 1])
    low, high = int(0.02 * kind.steps), int(0.97 * kind.steps)
    begins = np.sort(generator.choice(np.arange(low, high), FORKS, replace=False)).tolist()
    lengths = (generator.uniform(0.01, 0.03, FORKS) * kind.steps).round().astype(int).tolist()
    for taken in training.record(folder / "run", kind.steps):
        if taken not in begins:
            continue
        number = begins.index(taken)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * seed + number)
            other = training.fork(1000 * seed + number)
            every = max(1, lengths[number] // (STATES - 1))
            for _ in other.record(folder / f"fork-{number}", every * (STATES - 1), every):
                pass
