"""Which runs the study makes, in full and on a small scale."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from losspath.analysis.rates import Form
from losspath.methods import PCA, Averaged, AveragedND, Method, Sampled, SampledPCA
from losspath.thesis.as_drawn import PCAAsDrawn, SampledPCAAsDrawn
from losspath.thesis.config import TrainingConfig
from losspath.thesis.networks import TITLES, build_network
from losspath.thesis.study.runs import Run

OptimizerName = Literal["sgd", "adam"]

OPTIMIZERS: dict[OptimizerName, str] = {"sgd": "SGD", "adam": "Adam"}

REPAIRED: tuple[Method, ...] = (PCA(), Sampled(), SampledPCA(), Averaged(), AveragedND())
"""The five methods as they are by default."""

AS_DRAWN: tuple[Method, ...] = (
    PCAAsDrawn(),
    Sampled(),
    SampledPCAAsDrawn(side="above"),
    Averaged(),
    AveragedND(),
)
"""The five methods as the thesis's program drew them. The side of the path is told there by the
second coordinate; which of the two it is hangs on the arbitrary sign of a principal direction."""


def rule_of(method: Method) -> str:
    """Which of the thesis's five rules a method is, repaired or as drawn."""
    return method.name.removesuffix("-as-drawn")


ARMS: dict[str, Form | None] = {
    "plain rate": None,
    "lr = step sizes": "raw",
    "mean step size": "mean",
    "shuffled step sizes": "shuffled",
    "scaled step sizes": "scaled",
}
"""The learning-rate experiment and its controls, by the form that rates have."""


@dataclass(frozen=True)
class Scale:
    """How large a study is.

    Attributes:
        name: "full" or "quick".
        data: data sets by their titles; the first stands for MNIST, the second for CIFAR-10.
        channels: of their images.
        epochs: of every run.
        seeds: of every run that is not slow.
        slow: networks that are trained with one seed only.
        rates: learning rate of each optimiser; 0.01 for both in the thesis.
        resolution: grid lines of a surface.
        samples: that its loss is over.
        stride: states between those of the sampled path; 100 in the thesis.
        states: at which gradients and sharpness are measured.
        trials: learning rates of the prediction experiment, and seeds of each.
        rates_alone: learning rates of the same that have one run each.
        trial_epochs: of each of them.
    """

    name: str
    data: dict[str, str] = field(hash=False)
    channels: dict[str, int] = field(hash=False)
    epochs: int = 13
    seeds: tuple[int, ...] = (0, 1, 2)
    slow: tuple[str, ...] = ("vgg",)
    rates: dict[str, float] = field(default_factory=lambda: {"sgd": 0.01, "adam": 0.01}, hash=False)
    resolution: int = 19
    samples: int = 10_000
    stride: int = 100
    states: int = 25
    trials: tuple[int, int] = (9, 4)
    rates_alone: int = 36
    trial_epochs: int = 3
    networks: tuple[str, ...] = ("tiny-nn", "tiny-cnn", "vgg")

    @property
    def first(self) -> str:
        """The title of the data that the thesis looks at most."""
        return next(iter(self.data))


def full_scale(mnist: str = "mnist", cifar10: str = "cifar10") -> Scale:
    """The study as the thesis has it.

    Args:
        mnist: the data that stand for MNIST, as `load_dataset` names them.
        cifar10: those for CIFAR-10.
    """
    name = "CIFAR-10 (JPEG)" if "jpeg" in cifar10 else "CIFAR-10"
    return Scale("full", {"MNIST": mnist, name: cifar10}, {"MNIST": 1, name: 3})


def quick_scale() -> Scale:
    """The same structure in minutes, on scikit-learn's digits."""
    return Scale(
        name="quick",
        data={"digits": "digits"},
        channels={"digits": 1},
        epochs=6,
        seeds=(0, 1),
        rates={"sgd": 0.05, "adam": 0.005},
        resolution=7,
        samples=300,
        stride=10,
        states=5,
        trials=(3, 2),
        rates_alone=8,
        trial_epochs=9,
        networks=("tiny-nn", "tiny-cnn"),
    )


@dataclass(frozen=True)
class Plan:
    """The runs of a study, by what they are."""

    scale: Scale

    def run(
        self,
        network: str = "modified-lenet",
        data: str | None = None,
        optimizer: OptimizerName = "sgd",
        dropout: bool = False,
        seed: int = 0,
        **changes: Any,
    ) -> Run:
        """One run.

        Args:
            network: by its name.
            data: title of the data; the first by default.
            optimizer: "sgd" or "adam".
            dropout: whether half of the features are dropped before the first linear layer.
            seed: the seed.
            changes: of the configuration.
        """
        config = TrainingConfig(
            network=network,
            data=self.scale.data[data or self.scale.first],
            optimizer=optimizer,
            lr=self.scale.rates[optimizer],
            dropout=0.5 if dropout else 0.0,
            seed=seed,
        )
        return Run(dataclasses.replace(config, **changes), self.scale.epochs)

    def seeds(self, run: Run) -> list[Run]:
        """A run with every seed of the study; slow ones with one."""
        if run.config.network in self.scale.slow:
            return [run]
        return [run.with_seed(seed) for seed in self.scale.seeds]

    def by_optimizer(self) -> dict[str, list[Run]]:
        """Modified-LeNet on the first data by the title of each optimiser, with every seed."""
        return {title: self.seeds(self.run(optimizer=name)) for name, title in OPTIMIZERS.items()}

    def main_runs(self) -> list[Run]:
        """Modified-LeNet by SGD on the first data: what the methods are compared on."""
        return self.seeds(self.run())

    def techniques(self, network: str, data: str) -> dict[str, list[Run]]:
        """The four techniques of chapter 6.5 by their names, each with every seed."""
        return {
            f"{title}, dropout" if dropout else title: self.seeds(
                self.run(network, data, optimizer, dropout)
            )
            for optimizer, title in OPTIMIZERS.items()
            for dropout in (False, True)
        }

    def arms(self) -> dict[str, list[Run]]:
        """The learning-rate experiment: the plain rate, and four ways to take step sizes."""
        plain = self.run()
        arms = {}
        for name, form in ARMS.items():
            arm = plain
            if form is not None:
                config = dataclasses.replace(plain.config, lr_schedule="steps:plain", lr_form=form)
                arm = Run(config, plain.epochs, plain)
            arms[name] = self.seeds(arm)
        return arms

    def trials(self) -> dict[float, list[Run]]:
        """Runs for the prediction of how a run ends, by their learning rate.

        Rates are even on a logarithmic scale, from a hundredth of the usual one to a hundred times
        it, each with the same seeds.
        """
        rates, seeds = self.scale.trials
        return {
            rate: [self._trial(rate, seed) for seed in range(seeds)] for rate in self._rates(rates)
        }

    def trials_alone(self) -> list[Run]:
        """More such runs, each with a rate and a seed of its own, so that none is like another."""
        rates = self._rates(self.scale.rates_alone)
        return [self._trial(rate, seed) for seed, rate in enumerate(rates)]

    def _rates(self, count: int) -> list[float]:
        usual = self.scale.rates["sgd"]
        rates = [usual * 10 ** (-2 + 4 * number / max(count - 1, 1)) for number in range(count)]
        return [float(f"{rate:.3g}") for rate in rates]

    def _trial(self, rate: float, seed: int) -> Run:
        config = dataclasses.replace(self.run().config, lr=rate, seed=seed)
        return Run(config, self.scale.trial_epochs)

    def network(self, name: str, data: str) -> nn.Module:
        """A network for the data of a title."""
        return build_network(name, self.scale.channels[data], 10)

    def parameter_count(self, name: str, data: str) -> int:
        """The number of its parameters."""
        return sum(parameter.numel() for parameter in self.network(name, data).parameters())

    def title(self, run: Run) -> str:
        """Network and data, as figures name them."""
        data = {source: title for title, source in self.scale.data.items()}[run.config.data]
        return f"{TITLES[run.config.network]}, {data}"
