"""What a reference training depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from losspath.analysis.rates import FORMS, Form
from losspath.errors import ArgumentError
from losspath.thesis.networks import TITLES

_FORM_NAMES = {
    "raw": "step sizes",
    "scaled": "scaled step sizes",
    "shuffled": "shuffled step sizes",
    "mean": "mean step size",
}


@dataclass(frozen=True)
class TrainingConfig:
    """What a training depends on. Two runs with equal configurations are the same run.

    Attributes:
        network: one of `losspath.thesis.networks.NETWORKS`.
        data: name of the data set, as `losspath.thesis.datasets.load_dataset` takes it.
        optimizer: "sgd" or "adam".
        lr: learning rate; 0.01 in the thesis for both.
        lr_schedule: "constant", "step-decay:EPOCHS:FACTOR" (multiplied by the factor every so many
            epochs), or "steps:RUN" (the recorded step sizes of a run, or of a saved
            `StepSizes`, as in the thesis's last experiment).
        lr_form: of "steps:RUN": "raw", "scaled" (so that their mean is `lr`), "shuffled" or
            "mean", as for `losspath.learning_rates`; all of them of the whole run, however few of
            its steps are trained for.
        lr_smooth: of "steps:RUN": a moving average over so many steps first.
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
    lr_schedule: str = "constant"
    lr_form: Form = "raw"
    lr_smooth: int = 1
    momentum: float = 0.0
    weight_decay: float = 0.0
    dropout: float = 0.0
    batch_size: int = 64
    seed: int = 0
    record_every: int = 1

    def __post_init__(self) -> None:
        if self.network not in TITLES:
            raise ArgumentError(f"expected network {'|'.join(TITLES)}, got {self.network!r}")
        if self.optimizer not in ("sgd", "adam"):
            raise ArgumentError(f'expected optimizer "sgd" or "adam", got {self.optimizer!r}')
        if self.momentum and self.optimizer != "sgd":
            raise ArgumentError("momentum is an option of sgd; adam has its own")
        for name, low in (("lr", 0.0), ("momentum", 0.0), ("weight_decay", 0.0)):
            if not low <= getattr(self, name) < float("inf"):
                raise ArgumentError(f"expected {name} ≥ 0, got {getattr(self, name)}")
        for name in ("batch_size", "record_every", "lr_smooth"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"expected {name} ≥ 1, got {getattr(self, name)}")
        self._check_schedule()
        if not 0 <= self.dropout < 1:
            raise ArgumentError(f"expected dropout in [0, 1), got {self.dropout}")
        if not 0 <= self.seed < 2**63:
            raise ArgumentError(f"expected a seed from 0 to 2^63 − 1, got {self.seed}")

    def _check_schedule(self) -> None:
        kind, _, rest = self.lr_schedule.partition(":")
        if self.lr_form not in FORMS:
            raise ArgumentError(f"expected lr_form {'|'.join(FORMS)}, got {self.lr_form!r}")
        if kind != "steps" and (self.lr_form != "raw" or self.lr_smooth != 1):
            raise ArgumentError("lr_form and lr_smooth are options of the schedule steps:RUN")
        if kind == "step-decay":
            try:
                epochs, factor = rest.split(":")
                fits = int(epochs) >= 1 and 0 < float(factor) < float("inf")
            except ValueError:
                fits = False
        else:
            fits = self.lr_schedule == "constant" or (kind == "steps" and bool(rest))
        if not fits:
            raise ArgumentError(
                "expected lr_schedule as constant, step-decay:EPOCHS:FACTOR (at least 1 epoch, a "
                f"factor above 0) or steps:RUN, got {self.lr_schedule!r}"
            )

    @property
    def _schedule_name(self) -> str:
        """The schedule in a few words; nothing for a constant rate."""
        kind, _, rest = self.lr_schedule.partition(":")
        if kind == "step-decay":
            epochs, factor = rest.split(":")
            return f"×{float(factor):g} every {epochs} epochs"
        if kind == "steps":
            smooth = f", smoothed over {self.lr_smooth}" if self.lr_smooth > 1 else ""
            return f"{_FORM_NAMES[self.lr_form]} of {Path(rest).name.removesuffix('.npz')}{smooth}"
        return ""

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
        if self.lr_schedule != "constant":
            words = self._schedule_name.replace("×", "x")
            parts.append("".join(c if c.isalnum() or c in ".x" else "-" for c in words))
        parts += [f"batch{self.batch_size}", f"seed{self.seed}"]
        parts += [f"every{self.record_every}"] if self.record_every > 1 else []
        return "-".join(parts)

    @property
    def parts(self) -> tuple[str, ...]:
        """What the run is made of, in words: network, data, optimiser with its rate, the rest."""
        network = TITLES.get(self.network, self.network)
        data = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}.get(
            self.data, Path(self.data).name
        )
        optimizer = {"sgd": "SGD", "adam": "Adam"}[self.optimizer]
        rate = f"lr {self.lr:g}"
        if self.lr_schedule.startswith("steps:"):
            rate = f"lr {self._schedule_name}"
            rate += f" to a mean of {self.lr:g}" if self.lr_form == "scaled" else ""
        elif self._schedule_name:
            rate += f" {self._schedule_name}"
        extras = [
            f"{name} {value:g}"
            for name, value in (
                ("momentum", self.momentum),
                ("weight decay", self.weight_decay),
                ("dropout", self.dropout),
            )
            if value
        ]
        return (network, data, f"{optimizer} {rate}", *extras)

    @property
    def title(self) -> str:
        """The run as figures name it."""
        network, data, *rest = self.parts
        return ", ".join([f"{network} on {data}", *rest])
