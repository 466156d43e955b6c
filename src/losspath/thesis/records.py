"""What `train` keeps in a run beside the path: its configuration and its history."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from losspath.errors import RunError, StoreError
from losspath.files import read_document
from losspath.recording import store
from losspath.thesis.config import TrainingConfig

HISTORY = "history.json"

Row = dict[str, float | int | None]


def identity_in(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `train` noted in a run's metadata; None where they are of somebody else's loop."""
    found = metadata.get("training")
    known = ("network", "data", "optimizer", "data_digest")
    is_own = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in known)
    return found if is_own else None


def training_identity(directory: Path) -> dict[str, Any]:
    """Configuration and data digest of a run that `train` made.

    Raises:
        RunError: the directory holds a trajectory that was recorded otherwise.
        StoreError: it holds none, or is damaged.
    """
    identity = identity_in(store.read_header(directory).metadata)
    if identity is None:
        raise RunError(f"{directory} was recorded by a training loop of your own")
    return identity


def recorded_device(directory: Path) -> str | None:
    """The kind of device that a run was begun on, "cpu" or "cuda"; None if there is no run."""
    if not store.exists(directory):
        return None
    return str(store.read_header(directory).metadata.get("device", "cpu"))


def training_config(directory: Path) -> TrainingConfig:
    """The configuration of a run that `train` made."""
    return config_in(training_identity(directory))


def config_in(identity: Mapping[str, Any]) -> TrainingConfig:
    """The configuration in what `train` noted in a run's metadata."""
    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    return TrainingConfig(**{name: identity[name] for name in fields if name in identity})


def read_history(directory: Path) -> list[Row]:
    """The history of a run: one row before the first step and one after each epoch.

    Raises:
        StoreError: there is none yet, or it is damaged.
    """
    if not (directory / HISTORY).exists():
        raise StoreError(f"{directory} has no training history yet")
    rows = read_document(directory / HISTORY)["history"]
    # JSON has no NaN and no infinities, so they are written by their names.
    return [{k: float(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]
