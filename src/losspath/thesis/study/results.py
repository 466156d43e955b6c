"""The results of a study's runs: each computed once, kept in a file, and shared by all."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from losspath.analysis.dynamics import Dynamics, measure_dynamics
from losspath.analysis.evidence import Evidence
from losspath.analysis.fidelity import bare_surface, judge
from losspath.analysis.interpolation import Interpolation, interpolate
from losspath.analysis.runs import History
from losspath.analysis.steps import StepSizes, even_states, step_sizes
from losspath.errors import DamagedError
from losspath.evaluation.execution.journal import forget_checkpoint
from losspath.evaluation.objective import Objective
from losspath.files import digest_of, plain_json, read_document, write_document
from losspath.geometry.grid import Grid
from losspath.geometry.plane import PrincipalPlane, fit_plane
from losspath.methods import Method
from losspath.recording.trajectory import StateSequence, Trajectory
from losspath.surface import Landscape, StateLosses, Surface, compute_surface
from losspath.surface.judging import SEED
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import Dataset
from losspath.thesis.forks import LEAST_STEPS, forks_of
from losspath.thesis.objectives import training_objective, validation_objective
from losspath.thesis.records import read_history
from losspath.thesis.schedules import name_sizes

T = TypeVar("T")

# So many parts of a run's steps, and states of its path, are kept: figures and claims need no more,
# and what is kept is small enough to stand beside the page that is made of it.
_PARTS, _STATES = 1000, 500
_FORKS = 10  # that surfaces are held against, of a run that is long enough for them


@dataclass(frozen=True)
class Run:
    """A training of a study.

    Attributes:
        config: what it depends on.
        epochs: how long it takes.
        data: the title of its data set.
        rates_from: the run whose step sizes are its learning rates, for a config with "steps".
    """

    config: TrainingConfig
    epochs: int
    data: str
    rates_from: Run | None = None

    @property
    def name(self) -> str:
        """A directory name that no other run has."""
        own = self.config.directory_name.replace(":", "-")
        return f"{own}-epochs{self.epochs}"

    def with_seed(self, seed: int) -> Run:
        """The same with another seed, also of the run that it takes its rates from."""
        config = dataclasses.replace(self.config, seed=seed)
        source = self.rates_from.with_seed(seed) if self.rates_from else None
        return dataclasses.replace(self, config=config, rates_from=source)


class TrainedRun:
    """A trained run with its data, opened when something is computed of it.

    Attributes:
        path: the recorded path.
        plane: the plane of every so many states of the path; fitted once.
        objective: the loss on so many training samples; made once.
    """

    def __init__(self, run: Run, directory: Path, dataset: Dataset) -> None:
        self.run, self.directory, self.dataset = run, directory, dataset
        self.path = Trajectory(directory)
        self.plane: Callable[[int], PrincipalPlane] = functools.cache(
            lambda stride: fit_plane(self.thinned(stride))
        )
        self.objective: Callable[[int], Objective] = functools.cache(
            lambda samples: training_objective(run.config, dataset, samples)
        )

    def thinned(self, stride: int) -> StateSequence:
        """Every so many states of the path."""
        return self.path if stride == 1 else self.path.window(0, None, stride)


@dataclass(frozen=True)
class Result(Generic[T]):
    """Something that is computed of a run and kept in a file.

    Attributes:
        run: the run.
        file_name: a name that no other result of the run has.
        weight: about how many seconds it takes, for the time that is left.
        compute: computes it and writes the file; goes on where a stopped call was.
        load: reads the file.
    """

    run: Run
    file_name: str
    weight: float = field(compare=False)
    compute: Callable[[TrainedRun, Path], None] = field(compare=False, repr=False)
    load: Callable[[Path], T] = field(compare=False, repr=False)


def steps(run: Run) -> Result[StepSizes]:
    """The size of the steps, as means over parts of the run."""
    return Result(run, "steps.npz", 2.0, _compute_steps, StepSizes.load)


def _compute_steps(trained: TrainedRun, file: Path) -> None:
    step_sizes(trained.path).averaged(_PARTS).save(file)


def every_step(run: Run) -> Result[StepSizes]:
    """The size of every single step, for the runs that take them as learning rates."""
    return Result(run, "every-step.npz", 2.0, _compute_every_step, StepSizes.load)


def _compute_every_step(trained: TrainedRun, file: Path) -> None:
    name_sizes(step_sizes(trained.path), trained.run.config).save(file)


def history(run: Run) -> Result[History]:
    """Losses and accuracies by epoch, without times, which differ from one run to the next."""
    return Result(run, "history.json", 0.1, _compute_history, _load_history)


def _compute_history(trained: TrainedRun, file: Path) -> None:
    rows = read_history(trained.directory)
    kept = [{name: row[name] for name in row if name != "seconds"} for row in rows]
    write_document(file, {"history": kept})


def _load_history(file: Path) -> History:
    rows = read_document(file)["history"]
    return History.of([{k: None if v is None else float(v) for k, v in r.items()} for r in rows])


def explained(run: Run) -> Result[float]:
    """The share of the path's variance in its plane."""
    return Result(run, "explained.json", 3.0, _compute_explained, _load_explained)


def _compute_explained(trained: TrainedRun, file: Path) -> None:
    ratios = trained.plane(1).path.explained_variance_ratio.tolist()
    write_document(file, {"explained_variance_ratio": ratios})


def _load_explained(file: Path) -> float:
    return float(sum(read_document(file)["explained_variance_ratio"]))


def plane(run: Run) -> Result[PrincipalPlane]:
    """The plane, with all of the path's coordinates."""
    return Result(run, "plane.npz", 3.0, _compute_plane, PrincipalPlane.load)


def _compute_plane(trained: TrainedRun, file: Path) -> None:
    trained.plane(1).save(file)


@dataclass(frozen=True)
class SurfaceSettings:
    """How a surface is computed.

    Attributes:
        method: by which method.
        resolution: grid lines an axis.
        samples: that the loss is over.
        stride: of every so many states of the path.
    """

    method: Method
    resolution: int = 19
    samples: int = 10_000
    stride: int = 1

    def compute(self, trained: TrainedRun, file: Path) -> None:
        """Computes the surface, keeping points as they are done.

        Args:
            trained: the run.
            file: where it goes.
        """
        checkpoint = file.with_suffix(".points")
        surface = compute_surface(
            trained.thinned(self.stride),
            trained.objective(self.samples),
            self.method,
            self.resolution,
            plane=trained.plane(self.stride),
            checkpoint=checkpoint,
            fidelity=False,
        )
        provenance = {**surface.provenance, "run": trained.run.config.title}
        with_fewer_states(dataclasses.replace(surface, provenance=provenance)).save(file)
        forget_checkpoint(checkpoint)


def surface(run: Run, settings: SurfaceSettings) -> Result[Surface]:
    """A surface of a run."""
    resolution, samples = settings.resolution, settings.samples
    name = surface_file(settings.method.to_json(), resolution, samples, settings.stride)
    weight = 2 + resolution**2 * samples * 7e-6
    return Result(run, name, weight, settings.compute, Surface.load)


Label = tuple[str, str]
"""The name of a method, and what is not as usual about its surface."""


def fidelities(
    run: Run, settings: Mapping[Label, SurfaceSettings]
) -> Result[dict[Label, dict[str, float]]]:
    """How far surfaces of a run hold for vectors near its path, forks of the run among them.

    Args:
        run: of which run.
        settings: of the surfaces. The losses that they are held against are over the most samples
            that one of them has.
    """
    own = [
        [*label, each.method.to_json(), each.resolution, each.samples, each.stride]
        for label, each in settings.items()
    ]
    name = f"fidelities-{digest_of(own)[:10]}.json"
    compute = functools.partial(_compute_fidelities, settings)
    return Result(run, name, 12.0 * len(settings), compute, _load_fidelities)


def _compute_fidelities(
    settings: Mapping[Label, SurfaceSettings], trained: TrainedRun, file: Path
) -> None:
    part = file.with_suffix(".part")  # of those that are done
    found = _rows_of(part)
    plane = trained.plane(1)
    samples = max(each.samples for each in settings.values())
    first = Landscape(trained.path, trained.objective(samples), "pca", plane=plane)
    where = (trained.directory, trained.run.config, trained.dataset)
    forks = forks_of(*where, _FORKS, SEED) if trained.path.steps[-1] >= LEAST_STEPS else []
    evidence = Evidence.of(first, forks=forks, stretches=False)
    around = np.concatenate([each.places for each in evidence.vectors])
    # All in the plane of all states, as vectors are that they are held against.
    for label, each in list(settings.items())[len(found) :]:
        states, objective = trained.thinned(each.stride), trained.objective(each.samples)
        landscape = Landscape(states, objective, each.method, plane=plane)
        grid = Grid.around(first.projection.coordinates, each.resolution)
        surface = bare_surface(landscape, grid, around)
        held = judge(first, surface, evidence, each.resolution, bare_surface)
        found.append(
            {
                "label": label,
                "typical error": held.typical_error.value,
                "least typical error": held.floor,
                "bias": held.bias.value,
                "skill": held.skill.value,
                "skill over recorded losses": held.skill_over_recorded.value,
            }
        )
        write_document(part, {"fidelities": plain_json(found)})
    write_document(file, {"fidelities": plain_json(found)})
    part.unlink()


def _rows_of(part: Path) -> list[dict[str, Any]]:
    """What is done already; nothing where that is damaged, as it is only to save time."""
    try:
        return list(read_document(part)["fidelities"]) if part.exists() else []
    except DamagedError:
        return []


def _load_fidelities(file: Path) -> dict[Label, dict[str, float]]:
    found = {}
    for row in read_document(file)["fidelities"]:
        method, setting = row.pop("label")
        found[method, setting] = {k: float("nan") if v is None else v for k, v in row.items()}
    return found


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


def layers(run: Run) -> Result[Interpolation]:
    """Validation losses between the first state and the last, layer by layer as in the thesis."""
    return Result(run, "line-layers-13.npz", 5.0, _compute_layers, Interpolation.load)


def _compute_layers(trained: TrainedRun, file: Path) -> None:
    objective = validation_objective(trained.run.config, trained.dataset)
    _save_line(interpolate(trained.path, objective), trained, file)


def line(run: Run, samples: int, count: int) -> Result[Interpolation]:
    """Losses of the straight line between the first state and the last, to hold surfaces against.

    Args:
        run: of which run.
        samples: of the surfaces.
        count: positions.
    """
    compute = functools.partial(_compute_line, samples, count)
    return Result(run, f"line-chord-{samples}-{count}.npz", 5.0, compute, Interpolation.load)


def _compute_line(samples: int, count: int, trained: TrainedRun, file: Path) -> None:
    alphas, objective = np.linspace(0.0, 1.0, count), trained.objective(samples)
    _save_line(interpolate(trained.path, objective, alphas=alphas, layers=False), trained, file)


def _save_line(found: Interpolation, trained: TrainedRun, file: Path) -> None:
    ends = {"from_step": 0, "to_step": int(trained.path.steps[-1])}
    dataclasses.replace(found, provenance={**found.provenance, **ends}).save(file)


def dynamics(run: Run, states: int, samples: int) -> Result[Dynamics]:
    """Gradient, sharpness and turns along the path.

    Args:
        run: of which run.
        states: measured.
        samples: that the loss is over.
    """
    compute = functools.partial(_compute_dynamics, states, samples)
    name = f"dynamics-{states}-{samples}.npz"
    return Result(run, name, 2.0 * states, compute, Dynamics.load)


def _compute_dynamics(states: int, samples: int, trained: TrainedRun, file: Path) -> None:
    checkpoint = file.with_suffix(".states")
    objective = trained.objective(samples)
    measure_dynamics(trained.path, objective, states, checkpoint=checkpoint).save(file)
    checkpoint.unlink(missing_ok=True)


def lengths(run: Run, strides: tuple[int, ...]) -> Result[dict[int, float]]:
    """Lengths of the path by stride, where only every so many states were kept; 1 is all of it.

    Args:
        run: of which run.
        strides: states between those that are kept.
    """
    name = f"thinned-{'-'.join(map(str, strides))}.json"
    return Result(run, name, 3.0, functools.partial(_compute_lengths, strides), _load_lengths)


def _compute_lengths(strides: tuple[int, ...], trained: TrainedRun, file: Path) -> None:
    found = {
        str(stride): float(step_sizes(trained.thinned(stride)).sizes.sum())
        for stride in (1, *strides)
    }
    write_document(file, {"lengths": found})


def _load_lengths(file: Path) -> dict[int, float]:
    return {int(k): float(v) for k, v in read_document(file)["lengths"].items()}
