"""The runs of a study, and what is computed of each: declared here, done once, shared by all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from losspath.analysis.dynamics import Dynamics, measure_dynamics
from losspath.analysis.interpolation import Interpolation, interpolate
from losspath.analysis.runs import History
from losspath.analysis.steps import StepSizes, even_states, step_sizes
from losspath.evaluation.execution.journal import forget_checkpoint
from losspath.evaluation.objective import Objective
from losspath.files import digest_of, read_document, write_document
from losspath.geometry.plane import PrincipalPlane, fit_plane
from losspath.methods import Method
from losspath.recording.trajectory import StateSequence, Trajectory
from losspath.surface import StateLosses, Surface, compute_surface
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import Dataset
from losspath.thesis.objectives import training_objective, validation_objective
from losspath.thesis.schedules import name_sizes

# So many parts of a run's steps, and states of its path, are kept: figures and claims need no more,
# and what is kept is small enough to stand beside the page that is made of it.
_PARTS, _STATES = 1000, 500


@dataclass(frozen=True)
class Run:
    """A training of a study.

    Attributes:
        config: what it depends on.
        epochs: how long it takes.
        rates_from: the run whose step sizes are its learning rates, for a config with "steps".
    """

    config: TrainingConfig
    epochs: int
    rates_from: Run | None = None

    @property
    def name(self) -> str:
        """A directory name that no other run has."""
        own = self.config.directory_name.replace(":", "-")
        return f"{own}-epochs{self.epochs}"

    def with_seed(self, seed: int) -> Run:
        """The same with another seed, also of the run that it takes its rates from."""
        source = self.rates_from.with_seed(seed) if self.rates_from else None
        return Run(dataclasses.replace(self.config, seed=seed), self.epochs, source)


class Ground:
    """A trained run with its data, opened when something is computed of it."""

    def __init__(self, run: Run, directory: Path, dataset: Dataset) -> None:
        self.run = run
        self.directory = directory
        self.dataset = dataset
        self._planes: dict[int, PrincipalPlane] = {}
        self._objectives: dict[int, Objective] = {}

    @cached_property
    def path(self) -> Trajectory:
        """The recorded path."""
        return Trajectory(self.directory)

    def thinned(self, stride: int) -> StateSequence:
        """Every so many states of the path."""
        return self.path if stride == 1 else self.path.window(0, None, stride)

    def plane(self, stride: int = 1) -> PrincipalPlane:
        """The plane of the path, or of some of its states; fitted once."""
        if stride not in self._planes:
            self._planes[stride] = fit_plane(self.thinned(stride))
        return self._planes[stride]

    def training_objective(self, samples: int) -> Objective:
        """The loss on some training samples; made once."""
        if samples not in self._objectives:
            config = self.run.config
            self._objectives[samples] = training_objective(config, self.dataset, samples)
        return self._objectives[samples]

    @cached_property
    def validation_objective(self) -> Objective:
        """The loss on the validation set."""
        return validation_objective(self.run.config, self.dataset)


class Result(Protocol):
    """Something that is computed of a run and kept in a file.

    Attributes:
        run: the run.
        weight: how long it takes, in seconds of a usual machine, for the time that is left.
    """

    @property
    def run(self) -> Run:
        """The run."""

    @property
    def file_name(self) -> str:
        """A name that no other result of the run has."""

    @property
    def weight(self) -> float:
        """About how many seconds it takes."""

    def compute(self, ground: Ground, file: Path) -> None:
        """Computes it and writes the file; goes on where a stopped call was."""

    def load(self, file: Path) -> Any:
        """Reads the file."""


@dataclass(frozen=True)
class Steps:
    """The size of the steps, as means over parts of the run."""

    run: Run
    file_name = "steps.npz"
    weight = 2.0

    def compute(self, ground: Ground, file: Path) -> None:
        """Measures them."""
        step_sizes(ground.path).averaged(_PARTS).save(file)

    def load(self, file: Path) -> StepSizes:
        """Reads them."""
        return StepSizes.load(file)


@dataclass(frozen=True)
class EveryStep:
    """The size of every single step, for the runs that take them as learning rates."""

    run: Run
    file_name = "every-step.npz"
    weight = 2.0

    def compute(self, ground: Ground, file: Path) -> None:
        """Measures them."""
        name_sizes(step_sizes(ground.path), self.run.config).save(file)

    def load(self, file: Path) -> StepSizes:
        """Reads them."""
        return StepSizes.load(file)


@dataclass(frozen=True)
class Accuracies:
    """Losses and accuracies by epoch."""

    run: Run
    file_name = "history.json"
    weight = 0.1

    def compute(self, ground: Ground, file: Path) -> None:
        """Takes them from the run, without its times, which differ from one to the next."""
        from losspath.thesis.records import read_history

        rows = read_history(ground.directory)
        kept = [{name: row[name] for name in row if name != "seconds"} for row in rows]
        write_document(file, {"history": kept})

    def load(self, file: Path) -> History:
        """Reads them."""
        rows = read_document(file)["history"]
        return History.of(
            [{k: None if v is None else float(v) for k, v in r.items()} for r in rows]
        )


@dataclass(frozen=True)
class Explained:
    """The share of the path's variance along each axis of its plane."""

    run: Run
    file_name = "explained.json"
    weight = 3.0

    def compute(self, ground: Ground, file: Path) -> None:
        """Fits the plane."""
        ratios = ground.plane().path.explained_variance_ratio.tolist()
        write_document(file, {"explained_variance_ratio": ratios})

    def load(self, file: Path) -> float:
        """Reads it: of both axes together."""
        return float(sum(read_document(file)["explained_variance_ratio"]))


@dataclass(frozen=True)
class PlaneOf:
    """The plane, with all of the path's coordinates."""

    run: Run
    file_name = "plane.npz"
    weight = 3.0

    def compute(self, ground: Ground, file: Path) -> None:
        """Fits the plane."""
        ground.plane().save(file)

    def load(self, file: Path) -> PrincipalPlane:
        """Reads it."""
        return PrincipalPlane.load(file)


@dataclass(frozen=True)
class SurfaceOf:
    """A surface.

    Attributes:
        run: of which run.
        method: by which method.
        resolution: grid lines an axis.
        samples: that the loss is over.
        stride: of every so many states of the path.
    """

    run: Run
    method: Method
    resolution: int = 19
    samples: int = 10_000
    stride: int = 1

    @property
    def file_name(self) -> str:
        """Named after method and options."""
        return surface_file(self.method.to_json(), self.resolution, self.samples, self.stride)

    @property
    def weight(self) -> float:
        """About how many seconds it takes."""
        return 2 + self.resolution**2 * self.samples * 7e-6

    def compute(self, ground: Ground, file: Path) -> None:
        """Computes it, keeping points as they are done."""
        checkpoint = file.with_suffix(".points")
        surface = compute_surface(
            ground.thinned(self.stride),
            ground.training_objective(self.samples),
            self.method,
            self.resolution,
            plane=ground.plane(self.stride),
            checkpoint=checkpoint,
        )
        title = {"run": ground.run.config.title}
        surface = dataclasses.replace(surface, provenance={**surface.provenance, **title})
        with_fewer_states(surface).save(file)
        forget_checkpoint(checkpoint)

    def load(self, file: Path) -> Surface:
        """Reads it."""
        return Surface.load(file)


def surface_file(method: Mapping[str, Any], resolution: int, samples: int, stride: int) -> str:
    """The name of a surface's file.

    Args:
        method: its name and options.
        resolution: grid lines an axis.
        samples: that the loss is over.
        stride: of every so many states of the path.
    """
    name, options = method["name"], {key: method[key] for key in method if key != "name"}
    key = digest_of(name, options, resolution, samples, stride)
    return f"surface-{name}-{key[:10]}.npz"


def with_fewer_states(surface: Surface) -> Surface:
    """A surface with no more of its path than is drawn, and all states whose losses it has."""
    kept = np.union1d(even_states(len(surface.path), _STATES), surface.states.index)
    index = np.searchsorted(kept, surface.states.index)
    return dataclasses.replace(
        surface, path=surface.path[kept], states=StateLosses(index, surface.states.loss)
    )


@dataclass(frozen=True)
class LineOf:
    """Losses on the straight line between the first state and the last.

    Attributes:
        run: of which run.
        layers: layer by layer on validation data, as in the thesis; or else the whole model on the
            samples of a surface, to hold the surface against.
        samples: of the surface.
        count: positions.
    """

    run: Run
    layers: bool = True
    samples: int = 10_000
    count: int = 13

    @property
    def file_name(self) -> str:
        """Named after its kind."""
        kind = "layers" if self.layers else f"chord-{self.samples}"
        return f"line-{kind}-{self.count}.npz"

    @property
    def weight(self) -> float:
        """About how many seconds it takes."""
        return 5.0

    def compute(self, ground: Ground, file: Path) -> None:
        """Computes it."""
        if self.layers:
            found = interpolate(ground.path, ground.validation_objective)
        else:
            alphas = np.linspace(0.0, 1.0, self.count)
            objective = ground.training_objective(self.samples)
            found = interpolate(ground.path, objective, alphas=alphas, layers=False)
        steps = {"from_step": 0, "to_step": int(ground.path.steps[-1])}
        dataclasses.replace(found, provenance={**found.provenance, **steps}).save(file)

    def load(self, file: Path) -> Interpolation:
        """Reads it."""
        return Interpolation.load(file)


@dataclass(frozen=True)
class DynamicsOf:
    """Gradient, sharpness and turns along the path.

    Attributes:
        run: of which run.
        states: measured.
        samples: that the loss is over.
    """

    run: Run
    states: int = 25
    samples: int = 1000

    @property
    def file_name(self) -> str:
        """Named after the states and samples."""
        return f"dynamics-{self.states}-{self.samples}.npz"

    @property
    def weight(self) -> float:
        """About how many seconds it takes."""
        return 2.0 * self.states

    def compute(self, ground: Ground, file: Path) -> None:
        """Measures them, keeping states as they are done."""
        checkpoint = file.with_suffix(".states")
        objective = ground.training_objective(self.samples)
        measure_dynamics(ground.path, objective, self.states, checkpoint=checkpoint).save(file)
        checkpoint.unlink(missing_ok=True)

    def load(self, file: Path) -> Dynamics:
        """Reads them."""
        return Dynamics.load(file)


@dataclass(frozen=True)
class Thinned:
    """How much shorter a path seems where only every so many states were kept.

    Attributes:
        run: of which run.
        strides: states between those that are kept.
    """

    run: Run
    strides: tuple[int, ...] = (10, 100)
    weight = 3.0

    @property
    def file_name(self) -> str:
        """Named after the strides."""
        return f"thinned-{'-'.join(map(str, self.strides))}.json"

    def compute(self, ground: Ground, file: Path) -> None:
        """Measures the length of the path, and of the paths that are left of it."""
        lengths: dict[str, object] = {"1": float(step_sizes(ground.path).sizes.sum())}
        for stride in self.strides:
            sizes = step_sizes(ground.thinned(stride)).sizes
            lengths[str(stride)] = float(sizes.sum())
        write_document(file, {"lengths": lengths})

    def load(self, file: Path) -> dict[int, float]:
        """Lengths by stride; 1 is the whole path."""
        return {int(k): float(v) for k, v in read_document(file)["lengths"].items()}
