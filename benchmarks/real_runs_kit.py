"""What `real_runs.py` does with every run: train, time, compare with what was saved, draw."""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import losspath
from losspath.recording.cost import Cost

ROUNDS, BLOCK = 12, 10  # blocks of steps without and with a recorder take turns


@dataclass(frozen=True)
class Timing:
    """What a step takes, and what recording adds to it.

    Attributes:
        plain: milliseconds of processor time a step without a recorder, the median of the rounds.
        added: what recording adds to it, its own thread included, the median of the differences
            within rounds.
        inside: milliseconds by the clock a step inside `Recorder.record` while the run was made.
    """

    plain: float
    added: float
    inside: float

    @classmethod
    def of(cls, rounds: Sequence[tuple[float, float]], costs: Sequence[Cost]) -> Timing:
        """Of pairs (without, with) in milliseconds a step, and what recorders say of themselves."""
        plain = statistics.median(without for without, _ in rounds)
        added = statistics.median(recorded - without for without, recorded in rounds)
        inside = sum(1e3 * cost.seconds / cost.steps for cost in costs)
        return cls(plain, added, inside)


@dataclass(frozen=True)
class Run:
    """A run that was recorded, and what its library saved of it.

    Attributes:
        path: what was recorded.
        objective: of its surface.
        timing: of its steps.
        saved: by what was saved, the checkpoints with the options that import them.
        checks: by what else must be the same bit for bit, whether it is.
        named: what a picture has to say beside the run's name.
    """

    path: losspath.Trajectory
    objective: losspath.Objective
    timing: Timing
    saved: dict[str, tuple[Any, dict[str, Any]]]
    checks: dict[str, bool] = field(default_factory=dict)
    named: str = ""


Step = Callable[[], Sequence[torch.Tensor]]
Save = Callable[[int], None]


def train_and_time(
    folder: Path,
    models: dict[str, torch.nn.Module],
    step: Step,
    steps: int,
    save: Save,
    every: int,
    kept: int = 1,
) -> Timing:
    """Trains with a recorder for each model, and then goes on in turns without and with one.

    Args:
        folder: runs are recorded in folders of the models' names in it.
        models: by name, in the order of the step's losses.
        step: takes a step of all models and returns a loss of each.
        steps: how many are recorded.
        save: saves what the library saves, at a step.
        every: it saves at every so many steps, and at the first and last state.
        kept: recorders keep the state of every so many steps.
    """

    def recorders_of(suffix: str) -> list[losspath.Recorder]:
        return [
            losspath.Recorder(folder / f"{name}{suffix}", model, every=kept)
            for name, model in models.items()
        ]

    recorders = recorders_of("")
    save(0)
    for number in range(1, steps + 1):
        for recorder, loss in zip(recorders, step(), strict=True):
            recorder.record(loss)
        if number % every == 0 or number == steps:
            save(number)
    costs = [recorder.cost for recorder in recorders]
    for recorder in recorders:
        recorder.close()
    scratch = recorders_of("-turns")
    rounds = []
    for number in range(ROUNDS + 1):
        order = (None, scratch) if number % 2 else (scratch, None)
        times = {used is None: _block(step, used) for used in order}
        rounds.append((times[True], times[False]))
    for recorder in scratch:
        recorder.close()
    return Timing.of(rounds[1:], costs)


def _block(step: Step, recorders: Sequence[losspath.Recorder] | None) -> float:
    """Milliseconds a step; without recorders the loop asks for its losses all the same.

    Of the processor in all threads, as these are not longer where other programs are busy.
    """
    began = time.process_time()
    for _ in range(BLOCK):
        losses = step()
        if recorders is None:
            _ = [loss.item() for loss in losses]
        else:
            for recorder, loss in zip(recorders, losses, strict=True):
                recorder.record(loss)
    return 1e3 * (time.process_time() - began) / BLOCK


class Costs(logging.Handler):
    """What recorders tell of their cost as they are closed, by directory."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: dict[str, Cost] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and isinstance(record.args[-1], Cost):
            self.found[str(record.args[0])] = record.args[-1]


@contextmanager
def told_costs() -> Iterator[Costs]:
    """Listens to the logger "losspath"."""
    logger, handler = logging.getLogger("losspath"), Costs()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def trainings_in_turns(train: Callable[[Path | None], list[float]], folder: Path) -> Timing:
    """The same of a library's own trainer, whose trainings without and with a callback take turns.

    Args:
        train: trains, recording into a folder if one is given; returns processor seconds of each
            step.
        folder: the run is recorded in "run" in it.
    """
    with told_costs() as told:
        train(folder / "run")  # the run itself; the first steps of a process are slow
    rounds = []
    for number in range(4):
        order = (
            (None, folder / f"turn-{number}") if number % 2 else (folder / f"turn-{number}", None)
        )
        times = {run is None: 1e3 * statistics.median(train(run)[2:]) for run in order}
        rounds.append((times[True], times[False]))
    return Timing.of(rounds, [told.found[str(folder / "run")]])


def everything(path: losspath.Trajectory, index: int) -> dict[str, np.ndarray[Any, Any]]:
    """All that a run has of a state, by name: what is trained, frozen, and buffers."""
    row = path[index]
    values = {entry.name: row[entry.place].reshape(entry.shape) for entry in path.layout.parameters}
    sides = path.sides(index)
    return values | {name: tensor.numpy() for name, tensor in sides.items()}


def differences(recorded: losspath.Trajectory, imported: losspath.Trajectory) -> list[str]:
    """Where an imported run is not what was recorded at its steps, bit for bit."""
    place = {step: index for index, step in enumerate(recorded.steps.tolist())}
    found = []
    for index, step in enumerate(imported.steps.tolist()):
        if step not in place:
            found.append(f"step {step} was not recorded")
            continue
        ours, theirs = everything(recorded, place[step]), everything(imported, index)
        trained = {entry.name for entry in recorded.layout.parameters}
        found += [f"{name} is missing" for name in trained - theirs.keys()]
        for name in ours.keys() & theirs.keys():
            if ours[name].tobytes() != theirs[name].tobytes():
                found.append(f"{name} differs at step {step}")
    return found


def surface_of(run: Run, figure: Path, name: str, resolution: int) -> dict[str, Any]:
    """Computes and draws a run's surface; seconds, how far it is off, and what was warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        began = time.perf_counter()
        surface = losspath.compute_surface(run.path, run.objective, "averaged", resolution)
        seconds = time.perf_counter() - began
        figure.parent.mkdir(parents=True, exist_ok=True)
        title = f"{name}, {run.named}" if run.named else name
        drawn = losspath.plot_surface(surface, title=f"{title}: {surface.description}")
        drawn.savefig(figure)
    surface.save(figure.with_suffix(".npz"))
    errors = surface.state_errors
    return {
        "seconds": seconds,
        "off": (float(np.nanmedian(errors)), float(np.nanmax(errors))),
        "fidelity": surface.fidelity,
        "variance": float(np.sum(surface.explained_variance_ratio)),
        "warnings": sorted({str(each.message) for each in told}),
    }


def imports(run: Run, folder: Path) -> dict[str, tuple[int, int, list[str]]]:
    """By what was saved, imported: states, tensors, and where they are not what was recorded."""
    found = {}
    for number, (what, (places, options)) in enumerate(run.saved.items()):
        imported = losspath.import_checkpoints(places, folder / f"imported-{number}", **options)
        count = len(everything(imported, 0))
        found[what] = (len(imported), count, differences(run.path, imported))
    return found
