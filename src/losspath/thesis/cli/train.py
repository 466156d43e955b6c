"""What the command that trains does."""

from __future__ import annotations

from pathlib import Path

from losspath.cli.console import describe_epoch, progress_bar, say, say_file
from losspath.errors import RunError
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import load_dataset
from losspath.thesis.records import recorded_device
from losspath.thesis.training import Trained, train


def run_training(
    config: TrainingConfig, directory: Path, epochs: int, data_dir: Path | None, device: str
) -> Trained:
    """Trains, printing one line for each epoch."""
    import torch

    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory} is a file; choose another directory (--out)")
    dataset = load_dataset(config.data, data_dir)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        device = recorded_device(directory) or device  # a run goes on where it was begun
    with progress_bar("training") as progress:
        trained = train(
            config,
            dataset,
            directory,
            epochs,
            data_dir=str(data_dir.resolve()) if data_dir else None,
            device=device,
            on_step=progress,
            on_epoch=lambda row: say(describe_epoch(row)),
        )
    if trained.was_done:
        say(f"already trained for {epochs} epochs: {describe_epoch(trained.history[-1])}")
    elif trained.resumed_at:
        say(f"(went on from step {trained.resumed_at:,})")
    say_file("run", directory)
    return trained
