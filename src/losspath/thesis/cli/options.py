"""Options of the annex's commands. Nothing heavy is imported: help must be quick."""

from __future__ import annotations

from enum import StrEnum


class Optimizer(StrEnum):
    """Optimisers of the reference training."""

    SGD = "sgd"
    ADAM = "adam"


class StudyScale(StrEnum):
    """How large a study is."""

    FULL = "full"
    QUICK = "quick"


class RateForm(StrEnum):
    """How learning rates are made of step sizes."""

    RAW = "raw"
    SCALED = "scaled"
    SHUFFLED = "shuffled"
    MEAN = "mean"


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
