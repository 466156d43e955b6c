"""Which runs and surfaces a study has, in full and on a small scale."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from losspath.analysis.dynamics import Dynamics
from losspath.analysis.interpolation import Interpolation
from losspath.analysis.rates import Form
from losspath.methods import (
    PCA,
    Averaged,
    AveragedND,
    LocalDraws,
    LocalPlanes,
    Method,
    Sampled,
    SampledPCA,
)
from losspath.surface import Surface
from losspath.thesis.as_drawn import PCAAsDrawn, SampledPCAAsDrawn
from losspath.thesis.config import TrainingConfig
from losspath.thesis.networks import build_network
from losspath.thesis.study import results
from losspath.thesis.study.results import Result, Run, SurfaceSettings

OptimizerName = Literal["sgd", "adam"]

OPTIMIZERS: dict[OptimizerName, str] = {"sgd": "SGD", "adam": "Adam"}

TECHNIQUES: dict[str, dict[str, Any]] = {
    f"{title}, dropout" if dropout else title: {"optimizer": optimizer, "dropout": dropout}
    for optimizer, title in OPTIMIZERS.items()
    for dropout in (False, True)
}
"""The four techniques of chapter 6.5 by their names, as `Plan.run` takes them."""

ARMS: dict[str, dict[str, Any]] = {
    "plain rate": {"rates": None},
    "lr = step sizes": {"rates": "raw"},
    "mean step size": {"rates": "mean"},
    "shuffled step sizes": {"rates": "shuffled"},
    "scaled step sizes": {"rates": "scaled"},
}
"""The learning-rate experiment and its controls, by the form that rates have."""

AVERAGED, AVERAGED_ND = Averaged(temperature=1.0), AveragedND(temperature=1.0)
"""The blends at the temperature that the thesis has, which is not the default."""

REPAIRED_METHODS: tuple[Method, ...] = (PCA(), Sampled(), SampledPCA(), AVERAGED, AVERAGED_ND)
"""The thesis's five methods, without the errors that its program made."""

NEWER: tuple[Method, ...] = (LocalPlanes(), LocalDraws())
"""Methods that the thesis has not."""

AS_DRAWN: tuple[Method, ...] = (
    PCAAsDrawn(),
    Sampled(),
    SampledPCAAsDrawn(side="above"),
    AVERAGED,
    AVERAGED_ND,
)
"""The five methods as the thesis's program drew them. The side of the path is told there by the
second coordinate; which of the two it is hangs on the arbitrary sign of a principal direction."""

READINGS: tuple[Method, ...] = (SampledPCAAsDrawn(side="below"), SampledPCAAsDrawn(side="sign"))
"""What else the program's rule for the side of the path may be: the other sign, and the centre's
side at every point."""

TEMPERATURES: tuple[float | Literal["auto"], ...] = (0.01, 0.1, 1.0, 10.0, "auto")
"""Of the averages; 1 is usual."""

_LINE_POINTS = 41


def rule_of(method: Method) -> str:
    """Which of the thesis's five rules a method is, repaired or as drawn."""
    return method.name.removesuffix("-as-drawn")


def label_of(method: Method) -> tuple[str, str]:
    """The name of a method, and its side where it has several, as measurements have them."""
    return method.name, f"side {method.side}" if isinstance(method, SampledPCAAsDrawn) else ""


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
    """The runs and results of a study, by what they are."""

    scale: Scale

    def run(
        self,
        network: str = "modified-lenet",
        data: str | None = None,
        optimizer: OptimizerName = "sgd",
        dropout: bool = False,
        seed: int = 0,
        rates: Form | None = None,
        **changes: Any,
    ) -> Run:
        """One run.

        Args:
            network: by its name.
            data: title of the data; the first by default.
            optimizer: "sgd" or "adam".
            dropout: whether half of the features are dropped before the first linear layer.
            seed: the seed.
            rates: the form in which the step sizes of the same run are its learning rates.
            changes: of the configuration.
        """
        title = data or self.scale.first
        config = TrainingConfig(
            network=network,
            data=self.scale.data[title],
            optimizer=optimizer,
            lr=self.scale.rates[optimizer],
            dropout=0.5 if dropout else 0.0,
            seed=seed,
        )
        plain = Run(dataclasses.replace(config, **changes), self.scale.epochs, title)
        if rates is None:
            return plain
        config = dataclasses.replace(plain.config, lr_schedule="steps:plain", lr_form=rates)
        return dataclasses.replace(plain, config=config, rates_from=plain)

    def runs(self, **options: Any) -> list[Run]:
        """A run with every seed of the study; slow ones with one.

        Args:
            options: of `run`.
        """
        run = self.run(**options)
        if run.config.network in self.scale.slow:
            return [run]
        return [run.with_seed(seed) for seed in self.scale.seeds]

    def by_technique(
        self,
        networks: Iterable[str] = ("modified-lenet",),
        techniques: Mapping[str, dict[str, Any]] = TECHNIQUES,
    ) -> list[Run]:
        """Runs on all data with every seed.

        Args:
            networks: of these networks.
            techniques: by these techniques.
        """
        return [
            run
            for network in networks
            for data in self.scale.data
            for technique in techniques.values()
            for run in self.runs(network=network, data=data, **technique)
        ]

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

    def all_trials(self) -> list[Run]:
        """All of these runs."""
        several = [run for runs in self.trials().values() for run in runs]
        return list(dict.fromkeys([*several, *self.trials_alone()]))

    def _rates(self, count: int) -> list[float]:
        usual = self.scale.rates["sgd"]
        rates = [usual * 10 ** (-2 + 4 * number / max(count - 1, 1)) for number in range(count)]
        return [float(f"{rate:.3g}") for rate in rates]

    def _trial(self, rate: float, seed: int) -> Run:
        return dataclasses.replace(self.run(lr=rate, seed=seed), epochs=self.scale.trial_epochs)

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks whose steps are compared."""
        return ("modified-lenet", *self.scale.networks)

    def network(self, name: str, data: str) -> nn.Module:
        """A network for the data of a title."""
        return build_network(name, self.scale.channels[data], 10)

    @functools.cached_property
    def sweeps(self) -> dict[str, tuple[int, ...]]:
        """Values of what a surface depends on. The finest are the last, but the first stride."""
        grid, samples, stride = self.scale.resolution, self.scale.samples, self.scale.stride
        grids = sorted({max(5, grid // 2), round(grid * 0.7), grid, 2 * grid - 1})
        return {
            "resolution": tuple(grids),
            "samples": (samples // 10, samples // 3, samples, 6 * samples),
            "stride": (1, max(2, stride // 10), max(3, stride // 3), stride, 3 * stride),
        }

    def setting(self, name: str, value: float | str) -> str:
        """What is not as usual about a surface, in words; nothing if it is.

        Args:
            name: "resolution", "samples", "stride" or "temperature".
            value: its value.
        """
        usual = {"resolution": self.scale.resolution, "samples": self.scale.samples}
        return "" if value == usual.get(name, 1) else f"{name} {value}"

    @functools.cached_property
    def surfaces(self) -> dict[tuple[str, str], SurfaceSettings]:
        """Settings of all surfaces, by the name of the method and by what is not as usual."""
        usual = SurfaceSettings(AVERAGED, self.scale.resolution, self.scale.samples)
        methods = {label_of(each): each for each in (*REPAIRED_METHODS, *AS_DRAWN, *READINGS)}
        for temperature in TEMPERATURES:
            label = ("averaged", self.setting("temperature", temperature))
            methods[label] = Averaged(temperature=temperature)
        found = {
            label: dataclasses.replace(usual, method=method) for label, method in methods.items()
        }
        for name, values in self.sweeps.items():
            for value in values:
                changed: dict[str, Any] = {name: value}
                label = ("averaged", self.setting(name, value))
                found[label] = dataclasses.replace(usual, **changed)
        return found

    def surface(self, run: Run, method: str = "averaged", setting: str = "") -> Result[Surface]:
        """A surface of a run.

        Args:
            run: the run.
            method: the method's name.
            setting: what is not as usual.
        """
        return results.surface(run, self.surfaces[method, setting])

    def fidelities(self, run: Run) -> Result[dict[tuple[str, str], dict[str, float]]]:
        """How far surfaces of a run hold; of other grids, samples and states, by SGD alone."""
        swept = tuple(self.sweeps) if run.config.optimizer != "sgd" else ()
        found = {
            label: each for label, each in self.surfaces.items() if not label[1].startswith(swept)
        }
        usual = found["averaged", ""]
        for method in NEWER:
            found[label_of(method)] = dataclasses.replace(usual, method=method)
        return results.fidelities(run, found)

    def line(self, run: Run) -> Result[Interpolation]:
        """The line that surfaces are held against."""
        return results.line(run, self.scale.samples, _LINE_POINTS)

    def dynamics(self, run: Run) -> Result[Dynamics]:
        """Gradient and curvature of a run."""
        return results.dynamics(run, self.scale.states, min(1000, self.scale.samples))

    def lengths(self, run: Run) -> Result[dict[int, float]]:
        """A path's lengths when it is sampled."""
        return results.lengths(run, self.sweeps["stride"][1:])


def curves(runs: Iterable[Run]) -> list[Result[Any]]:
    """Step sizes and histories of runs."""
    return [kind(run) for run in runs for kind in (results.steps, results.history)]
