"""The command that trains."""

from __future__ import annotations

from pathlib import Path

from losspath.cli.console import progress_bar, say, say_file
from losspath.errors import RunError
from losspath.reference.config import TrainingConfig
from losspath.reference.datasets import load_dataset
from losspath.reference.training import Row, Trained, recorded_device, train


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


def describe_epoch(row: Row) -> str:
    """One row of the history as a line."""
    parts = [f"epoch {row['epoch']:>3}"]
    for name in ("training", "validation"):
        loss, accuracy = row[f"{name}_loss"], row[f"{name}_accuracy"]
        shown = "" if accuracy is None else f", accuracy {accuracy:.2%}"
        parts.append(f"{name} loss {loss:.4f}{shown}")
    return "; ".join(parts)
