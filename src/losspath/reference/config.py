"""What a reference training depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from losspath.errors import ArgumentError
from losspath.reference.networks import TITLES


@dataclass(frozen=True)
class TrainingConfig:
    """What a training depends on. Two runs with equal configurations are the same run.

    Attributes:
        network: one of `losspath.reference.networks.NETWORKS`.
        data: name of the data set, as `losspath.reference.datasets.load_dataset` takes it.
        optimizer: "sgd" or "adam".
        lr: learning rate; 0.01 in the thesis for both.
        momentum: of SGD.
        weight_decay: the L2 penalty that the optimiser adds.
        dropout: probability of dropping a feature before the first fully connected layer; 0.5 in
            the thesis where it is used.
        batch_size: 64 in the thesis.
        seed: of the initial parameters, the order of samples and dropout.
        record_every: a state is recorded at every so many steps.
    """

    network: str = "lenet5"
    data: str = "digits"
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    dropout: float = 0.0
    batch_size: int = 64
    seed: int = 0
    record_every: int = 1

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam"):
            raise ArgumentError(f'expected optimizer "sgd" or "adam", got {self.optimizer!r}')
        if self.momentum and self.optimizer != "sgd":
            raise ArgumentError("momentum is an option of sgd; adam has its own")
        for name, low in (("lr", 0.0), ("momentum", 0.0), ("weight_decay", 0.0)):
            if not low <= getattr(self, name) < float("inf"):
                raise ArgumentError(f"expected {name} ≥ 0, got {getattr(self, name)}")
        for name in ("batch_size", "record_every"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"expected {name} ≥ 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ArgumentError(f"expected dropout in [0, 1), got {self.dropout}")
        if not 0 <= self.seed < 2**63:
            raise ArgumentError(f"expected a seed from 0 to 2^63 − 1, got {self.seed}")

    @property
    def directory_name(self) -> str:
        """A directory name made of the parameters, without those at "off"."""
        kind, _, folder = self.data.partition(":")
        data = f"{kind}-{Path(folder).name}" if folder else kind
        parts = [self.network, data, self.optimizer, f"lr{self.lr:g}"]
        for name, value in (
            ("momentum", self.momentum),
            ("decay", self.weight_decay),
            ("dropout", self.dropout),
        ):
            parts += [f"{name}{value:g}"] if value else []
        parts += [f"batch{self.batch_size}", f"seed{self.seed}"]
        parts += [f"every{self.record_every}"] if self.record_every > 1 else []
        return "-".join(parts)

    @property
    def title(self) -> str:
        """The run as figures name it."""
        extras = [
            f"{name} {value:g}"
            for name, value in (
                ("momentum", self.momentum),
                ("weight decay", self.weight_decay),
                ("dropout", self.dropout),
            )
            if value
        ]
        network = TITLES.get(self.network, self.network)
        data = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}.get(
            self.data, Path(self.data).name
        )
        optimizer = {"sgd": "SGD", "adam": "Adam"}[self.optimizer]
        return ", ".join([f"{network} on {data}", f"{optimizer} lr {self.lr:g}", *extras])
