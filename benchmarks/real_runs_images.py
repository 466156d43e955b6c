"""Photographs: a residual network in a loop of one's own, and a Lightning module."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import lightning.pytorch as lightning
import numpy as np
import torch
import torch.nn.functional as F
from real_runs_kit import Run, train_and_time, trainings_in_turns
from torch import nn

import losspath
from losspath.errors import DataError
from losspath.lightning import RecorderCallback
from losspath.thesis.datasets import Dataset, load_dataset, sample_indices
from losspath.thesis.image_folders import read_images

COUNT, BATCH = 5_000, 64
SAMPLES = 500  # of a surface
Data = tuple[torch.Tensor, torch.Tensor]


def load_images(data_dir: Path | None) -> tuple[str, Data]:
    """What the images are called, and some thousands of them with their classes.

    CIFAR-10 in its own archive, or a zip of one folder a class beside it; where there is neither,
    the digits of scikit-learn.
    """
    zips = []
    if data_dir is not None:
        zips = sorted(data_dir.glob("*cifar10*.zip")) + sorted(data_dir.glob("cifar10/*.zip"))
    if not zips:
        try:
            return _some(load_dataset("cifar10", data_dir or Path("nowhere"), download=False))
        except DataError:
            return _some(load_dataset("digits"))
    images = read_images(zips[0])
    chosen = sample_indices(COUNT, len(images.train))
    pixels = torch.from_numpy(images.train[chosen.numpy()]).float() / 255
    pixels -= pixels.mean((0, 2, 3), keepdim=True)
    pixels /= pixels.std((0, 2, 3), keepdim=True)
    targets = torch.tensor(images.layout.train_targets)[chosen]
    return "CIFAR-10 (JPEG)" if "jpeg" in zips[0].name else "CIFAR-10", (pixels, targets)


def _some(data: Dataset) -> tuple[str, Data]:
    chosen = sample_indices(COUNT, len(data.train_targets))
    return data.title, (data.train_inputs[chosen], data.train_targets[chosen])


class Block(nn.Module):
    """Two convolutions, and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet(channels: int = 3, width: int = 16) -> nn.Module:
    """ResNet-8: three stages of one block, with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Block(width, width, 1),
        Block(width, 2 * width, 2),
        Block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def flipped(x: torch.Tensor) -> torch.Tensor:
    """Half of the images, mirrored."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)


def residual_network(folder: Path, data: Data, epochs: int) -> Run:
    """SGD with momentum and a cosine schedule; state dicts by `torch.save`."""
    inputs, targets = data
    torch.manual_seed(0)
    model = resnet(inputs.shape[1])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    steps = epochs * (len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def step() -> list[torch.Tensor]:
        chosen = torch.randint(len(inputs), (BATCH,))
        loss = F.cross_entropy(model(flipped(inputs[chosen])), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return [loss]

    def save(number: int) -> None:
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**content, "step": number}, folder / f"checkpoint-{number}.pt")

    timing = train_and_time(folder, {"run": model}, step, steps, save, 50)
    objective = losspath.Objective(
        resnet(inputs.shape[1]), inputs[:SAMPLES], targets[:SAMPLES], F.cross_entropy
    )
    saved = {"torch.save": (folder / "checkpoint-*.pt", {"key": "model"})}
    return Run(losspath.Trajectory(folder / "run"), objective, timing, saved)


class Classifier(lightning.LightningModule):
    """A convolutional network with dropout and batch normalisation, by Adam in one cycle."""

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.network = nn.Sequential(
            nn.Conv2d(channels, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(32 * 64, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)

    def training_step(self, batch: Data, index: int) -> torch.Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> object:
        optimizer = torch.optim.AdamW(self.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, self.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Clock(lightning.Callback):
    """Processor seconds of each step, from the end of one batch to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *arguments: object) -> None:
        self.ends.append(time.process_time())

    def steps(self) -> list[float]:
        return np.diff(self.ends).tolist()


def lightning_module(folder: Path, data: Data, epochs: int) -> Run:
    """`losspath.lightning.RecorderCallback` beside Lightning's own ModelCheckpoint."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    inputs, targets = data
    steps = epochs * -(-len(inputs) // BATCH)
    samples = torch.utils.data.TensorDataset(inputs, targets)

    def train(run: Path | None) -> list[float]:
        lightning.seed_everything(0, verbose=False)
        clock, saves = Clock(), run == folder / "run"
        callbacks: list[lightning.Callback] = [] if run is None else [RecorderCallback(run)]
        if saves:
            place = folder / "saved"
            callbacks.append(
                lightning.callbacks.ModelCheckpoint(
                    place, save_top_k=-1, every_n_train_steps=max(1, steps // 6)
                )
            )
        trainer = lightning.Trainer(
            max_epochs=epochs,
            max_steps=steps if saves else 60,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=saves,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks, clock],
            default_root_dir=folder,
        )
        loader = torch.utils.data.DataLoader(samples, BATCH, shuffle=True)
        trainer.fit(Classifier(inputs.shape[1], steps), loader)
        return clock.steps()

    timing = trainings_in_turns(train, folder)
    objective = losspath.Objective(
        Classifier(inputs.shape[1], steps), inputs[:SAMPLES], targets[:SAMPLES], F.cross_entropy
    )
    saved = {"ModelCheckpoint": (folder / "saved" / "*.ckpt", {})}
    return Run(losspath.Trajectory(folder / "run"), objective, timing, saved)
