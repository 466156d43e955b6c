"""The commands that look at a network during its training, and at how training moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from losspath import figures
from losspath.analysis import diagnostics
from losspath.analysis.activations import last_finite
from losspath.analysis.dynamics import Dynamics, dynamics_key, measure_dynamics
from losspath.analysis.outputs import evaluating
from losspath.analysis.runs import measure_history
from losspath.analysis.saliency import saliency
from losspath.analysis.verdict import judge_dynamics
from losspath.cli.console import busy, progress_bar, say, say_file
from losspath.cli.jobs import computed_once, figure_file
from losspath.cli.runs import Run
from losspath.errors import ArgumentError, PathError, UnsupportedError
from losspath.evaluation.objective import Objective
from losspath.evaluation.recorded import along
from losspath.files import write_atomically
from losspath.recording.trajectory import Trajectory

_SHOWN = 2000  # samples that those shown of each class are taken from
_IMAGES = 6  # that saliency is shown for
_SAMPLES = 1000  # that dynamics are measured with: a state costs some tens of gradients


class _Snapshot:
    """A network at one step of its training, and the pictures of it."""

    def __init__(self, run: Run, step: int | None, sample: int | None) -> None:
        self.run = run
        self.index = _state_at(run.trajectory, step)
        self.step = int(run.trajectory.steps[self.index])
        on = along(run.validation_objective(), run.trajectory)
        self.objective: Objective = on.objective
        self.sides = on.sides_of(self.index)  # buffers as they were at that step
        if sample is not None and not 0 <= sample < len(self.objective):
            raise ArgumentError(
                f"expected --sample from 0 to {len(self.objective) - 1:,}, got {sample}"
            )
        self.sample = sample

    @cached_property
    def parameters(self) -> npt.NDArray[np.floating]:
        return self.run.trajectory[self.index]

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        if self.run.objective_source is not None:
            return None
        names = self.run.made.class_names
        return None if names is None else tuple(names)

    @property
    def title(self) -> str:
        return f"{self.run.title}, step {self.step:,}"

    @property
    def image(self) -> npt.NDArray[np.floating] | None:
        """The chosen input or the first, if it is an image."""
        chosen = self.sample or 0
        first = self.objective.inputs_of(chosen, chosen + 1)
        if not first.is_floating_point() or first.dim() != 4 or first.shape[1] not in (1, 3):
            return None
        array: npt.NDArray[np.floating] = first[0].float().cpu().numpy()
        return array

    def _classes(self) -> npt.NDArray[np.integer] | None:
        """The targets of all samples; None where they are not classes."""
        targets = self.objective.targets_of(0, len(self.objective))
        if not isinstance(targets, torch.Tensor) or targets.dim() != 1:
            return None
        if targets.is_floating_point() or targets.is_complex():
            return None
        array: npt.NDArray[np.integer] = targets.long().cpu().numpy()
        return array

    def history(self) -> Figure:
        history = self.run.history
        if history is not None:
            return figures.plot_history(history, title=self.run.title)
        measured = measure_history(self.run.path, self.objective)
        names = ("the objective", "")
        return figures.plot_history(measured, title=self.run.title, names=names)

    def samples(self) -> Figure:
        if self.image is None:
            raise UnsupportedError("the inputs are not images")
        classes = self._classes()
        if classes is None:
            raise UnsupportedError("the targets are not classes (N,)")
        targets = classes[:_SHOWN]
        images = self.objective.inputs_of(0, len(targets)).float().cpu().numpy()
        title = f"validation data of {self.run.title}"
        return figures.plot_samples(images, targets, self.labels, title=title)

    def confusion(self) -> Figure:
        counted = diagnostics.confusion(
            self.objective, self.parameters, self.labels, sides=self.sides
        )
        return figures.plot_confusion(counted, title=self.title)

    def activations(self) -> Figure:
        counted = diagnostics.activations(self.run.path, self.objective)
        return figures.plot_activations(counted, title=self.run.title)

    def filters(self) -> Figure:
        shape = None
        with suppress(UnsupportedError):  # of several inputs none is the image
            shape = tuple(self.objective.inputs_of(0, 1).shape[1:])
        with evaluating(self.objective, self.parameters, self.sides) as model:
            found = diagnostics.filters_in(model, shape)
        if not found:
            raise UnsupportedError("this network has no convolutions")
        return figures.plot_filters(found, title=self.title)

    def feature_maps(self) -> Figure:
        found = diagnostics.feature_maps(
            self.objective, self.parameters, self.sample or 0, sides=self.sides
        )
        if not found:
            raise UnsupportedError("this network has no convolutions")
        title = f"{self.title}, sample {self.sample or 0}"
        return figures.plot_feature_maps(found, self.image, title=title)

    def saliency(self) -> Figure:
        if self.image is None:
            raise UnsupportedError("the inputs are not images")
        classes = self._classes()
        if self.sample is not None:
            chosen = [self.sample]
        elif classes is None:
            chosen = list(range(min(_IMAGES, len(self.objective))))
        else:  # one of each class
            kinds, firsts = np.unique(classes, return_index=True)
            chosen = firsts[kinds >= 0][:_IMAGES].tolist()  # a negative target is to be ignored
        found = saliency(self.objective, self.parameters, chosen, sides=self.sides)
        title = self.title + (f", sample {self.sample}" if self.sample is not None else "")
        return figures.plot_saliency(found, labels=self.labels, title=title)


VIEWS: dict[str, Callable[[_Snapshot], Figure]] = {
    "history": _Snapshot.history,
    "samples": _Snapshot.samples,
    "confusion": _Snapshot.confusion,
    "activations": _Snapshot.activations,
    "filters": _Snapshot.filters,
    "feature-maps": _Snapshot.feature_maps,
    "saliency": _Snapshot.saliency,
}
OF_A_SAMPLE = ("feature-maps", "saliency")
OF_THE_RUN = ("history", "samples", "activations")  # the same at every step
ARCHITECTURE = "architecture"


def check_views(names: Sequence[str]) -> list[str]:
    """The views that were asked for, or all.

    Raises:
        ArgumentError: there is none of a name.
    """
    known = [ARCHITECTURE, *VIEWS]
    for name in names:
        if name not in known:
            raise ArgumentError(f"expected --view {'|'.join(known)}, got {name!r}")
    return list(dict.fromkeys(names)) or known


def run_diagnose(
    run: Run, step: int | None, sample: int | None, views: Sequence[str], extension: str
) -> None:
    """Draws what a network predicts and computes; says what cannot be drawn, and why."""
    run.check_place(run.figures)
    moment = _Snapshot(run, step, sample)
    if step is not None and moment.step != step:
        say(f"no state was recorded at step {step:,}: step {moment.step:,} is shown")
    for name in views:
        try:
            if name == ARCHITECTURE:
                _tell_architecture(run, moment.objective)
                continue
            with busy(name):
                drawn = VIEWS[name](moment)
        except UnsupportedError as reason:
            say(f"{name}: left out, as {reason}")
            continue
        when = "" if name in OF_THE_RUN else f"-step{moment.step}"
        when += f"-sample{sample}" if sample is not None and name in OF_A_SAMPLE else ""
        target = run.figures / f"{name}{when}.{extension}"
        say_file(f"figure of {name}", figures.save_figure(drawn, target))


def _tell_architecture(run: Run, objective: Objective) -> None:
    table = diagnostics.architecture(objective)
    say(table)
    file = run.results / f"{ARCHITECTURE}.txt"
    write_atomically(file, partial(_write_text, text=f"{table}\n"))
    say_file("table of layers", file)


def _write_text(file: BinaryIO, text: str) -> None:
    file.write(text.encode())


def _state_at(path: Trajectory, step: int | None) -> int:
    """The index of the last finite state, or of the one that is nearest to a step."""
    if step is None:
        index = len(path) - 1
    else:
        last = int(path.steps[-1])
        if not 0 <= step <= last:
            raise ArgumentError(f"expected --step from 0 to {last:,}, got {step}")
        index = int(np.argmin(np.abs(path.steps - step)))
    if np.isfinite(path[index]).all():
        return index
    found = last_finite(path, index)
    broken = f"the state at step {path.steps[index]:,} is not finite: training went wrong"
    if found is None:
        raise PathError(f"{broken} from the first step on")
    if step is not None:
        raise ArgumentError(f"{broken}; the last finite one before is --step {path.steps[found]}")
    say(f"{broken}; the last finite one, at step {path.steps[found]:,}, is shown")
    return found


def compute_dynamics(run: Run, states: int, samples: int | None) -> Dynamics:
    """Loss, gradient and curvature along a run, computed once and kept."""
    if run.objective_source is None and samples is None:
        samples = _SAMPLES
    objective = run.training_objective(samples)
    key = dynamics_key(run.path, objective, states)

    def compute(checkpoint: Path) -> Dynamics:
        with progress_bar("dynamics") as progress:
            return measure_dynamics(
                run.path, objective, states, checkpoint=checkpoint, progress=progress
            )

    return computed_once(run, Dynamics, key, compute, "dynamics")


def draw_dynamics(run: Run, found: Dynamics, figure: Path | None, extension: str) -> None:
    """Draws how training moved, and says what to make of it."""
    name = f"dynamics-{found.provenance['key'][:8]}.{extension}"
    target = figure_file(run, figure, name)
    drawn = figures.plot_dynamics(found, rate=run.made.rate, title=run.title)
    say_file("figure", figures.save_figure(drawn, target))
    say(str(judge_dynamics(found)))
