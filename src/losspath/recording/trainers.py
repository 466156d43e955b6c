"""What callbacks of training libraries share: where they record, and a recorder that is told steps.

A callback holds `Settings` for as long as it lives and a `Run` while training goes on, so that it
can be copied and sent to other processes, where it has the settings alone.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from losspath.arguments import checked, file
from losspath.errors import LosspathError, LosspathWarning
from losspath.parameters import Layout, Taken, unwrapped
from losspath.recording import store
from losspath.recording.opening import Existing
from losspath.recording.processes import check_unsharded
from losspath.recording.recorder import OPTIONS, Dtype, Recorder
from losspath.recording.schedules import Condition, Schedule
from losspath.recording.settings import MARK
from losspath.recording.sketch import Sketch
from losspath.recording.trajectory import Trajectory

# The metadata that a callback adds. A run keeps those that it was begun with.
_OWN = ("library", "library_version", "model_class")
# Named values cannot be called like what `Recorder.record` takes beside them.
_TAKEN = {"self", "loss", "step"}


class Options(TypedDict, total=False):
    """The options of a `Recorder` that its callbacks take, by keyword."""

    every: int
    schedule: Schedule | Condition | None
    existing: Existing
    dtype: Dtype
    allow_complex: bool
    metadata: Mapping[str, Any] | None
    parameters: Taken
    sketch: Sketch | int | None


class Settings:
    """Where and how a callback records.

    Args:
        directory: where to record.
        every: as `Recorder` takes it, like all that follow.
        schedule: which states to store, instead of `every`.
        existing: what to do with a run that is in the directory when training begins at step 0.
        dtype: of the rows.
        allow_complex: record complex tensors as pairs.
        metadata: JSON values to keep with the run.
        parameters: which are in the path.
        sketch: keep sketches of states.
    """

    @checked(directory=file, **OPTIONS)
    def __init__(
        self,
        directory: str | PathLike[str],
        *,
        every: int = 1,
        schedule: Schedule | Condition | None = None,
        existing: Existing = "error",
        dtype: Dtype = "float32",
        allow_complex: bool = False,
        metadata: Mapping[str, Any] | None = None,
        parameters: Taken = "trainable",
        sketch: Sketch | int | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()  # the process may go elsewhere
        self.every, self.schedule, self.existing = every, schedule, existing
        self.metadata = None if metadata is None else dict(metadata)
        self._layout = (dtype, allow_complex, parameters)
        self._sketch = sketch

    @property
    def leaves_out_states(self) -> bool:
        """Whether there are states without a row, so that the newest has to be kept in time."""
        return self.schedule is not None or self.every > 1

    def check(self, model: torch.nn.Module) -> None:
        """Raises `ModelError` where a process has only a part of the model; for every process.

        Args:
            model: the model as it is trained, in all its wrappers.
        """
        check_unsharded(model)
        dtype, allow_complex, parameters = self._layout
        Layout.of(model, "float64" if self._sketch else dtype, allow_complex, parameters)

    def begin(
        self, model: torch.nn.Module, step: int, library: str, version: str, is_blank: bool
    ) -> Run:
        """Begins to record, or goes on in the run that is there.

        Args:
            model: the model, in the state before the first step.
            step: how many steps training has done, as by a checkpoint that was loaded.
            library: whose callback it is.
            version: of the library.
            is_blank: whether the callback began the run that is there and recorded no step.

        Raises:
            LosspathError: as `Recorder` does.
        """
        model_class = type(unwrapped(model))
        own: dict[str, Any] = {
            "library": library,
            "library_version": version,
            "model_class": f"{model_class.__module__}.{model_class.__qualname__}",
        }
        existing: Existing = self.existing
        is_there = store.exists(self.directory)
        if is_there and is_blank and not Trajectory(self.directory).all_losses.size:
            existing = "overwrite"  # what a training left that failed before its first step
        if is_there and (step > 0 or existing == "resume"):
            kept = store.read_header(self.directory).metadata
            own = {name: kept[name] for name in _OWN if name in kept}
            existing = "resume"
        metadata = {**own, **(self.metadata or {})}
        if is_there and existing == "resume" and self.metadata is None:
            metadata = {}  # those of the run stay
        dtype, allow_complex, parameters = self._layout
        recorder = Recorder(
            self.directory,
            model,
            every=self.every,
            schedule=self.schedule,
            existing=existing,
            step=step,
            _may_begin=True,
            dtype=dtype,
            allow_complex=allow_complex,
            metadata=metadata,
            parameters=parameters,
            sketch=self._sketch,
        )
        begins = not is_there or existing != "resume"
        return Run(recorder, is_blank=begins or recorder.steps == 0)


class Run:
    """A recorder that counts steps as a trainer does.

    Args:
        recorder: the recorder.
        is_blank: whether no step was recorded before.

    Attributes:
        recorder: the recorder.
        is_blank: whether no step was recorded.
    """

    def __init__(self, recorder: Recorder, is_blank: bool) -> None:
        self.recorder, self.is_blank = recorder, is_blank

    @property
    def step(self) -> int:
        """The trainer's step that was recorded last."""
        return self.recorder.steps

    def record(
        self, step: int, losses: Iterable[float | torch.Tensor], values: Mapping[str, float]
    ) -> None:
        """Records a step of the trainer's.

        Args:
            step: its number; one that was recorded already, as where the trainer does not count,
                is the one after the last.
            losses: what the step's loss is the sum of; it is NaN where there are none.
            values: named numbers, with names of `safe`.
        """
        parts = [value.item() if isinstance(value, torch.Tensor) else value for value in losses]
        loss = float(sum(parts)) if parts else float("nan")
        self.recorder.record(loss, max(step, self.step + 1), **values)
        self.is_blank = False

    def close(self) -> None:
        """Closes the recorder.

        Raises:
            StoreError: something could not be written.
        """
        self.recorder.close()

    def close_after_an_error(self) -> None:
        """Closes the recorder; what goes wrong is a warning, as another error is under way."""
        try:
            self.recorder.close()
        except LosspathError as error:
            with contextlib.suppress(LosspathWarning):  # where warnings are errors
                told = f"the recording was not closed: {error}"
                warnings.warn(told, LosspathWarning, stacklevel=2)


def safe(name: str) -> str:
    """A name that `Recorder.record` takes for a value: "loss" is "logged_loss", say."""
    name = str(name)
    if name in _TAKEN or not name or name.startswith(MARK):
        return f"logged_{name.lstrip(MARK)}"
    return name


def number(value: Any) -> float | None:
    """A value that is one real number; None for any other."""
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex() or value.is_meta:
            return None
        return float(value.detach().item())
    if isinstance(value, (int, float, np.integer, np.floating)):
        with contextlib.suppress(OverflowError):
            return float(value)
    return None


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of some values that are one real number, under safe names."""
    found = ((safe(name), number(value)) for name, value in values.items())
    return {name: value for name, value in found if value is not None}


def rates(groups: Sequence[Mapping[str, Any]], stem: str = "lr") -> dict[str, float]:
    """The learning rates of an optimiser by name: one, and those of groups that have another.

    Args:
        groups: the optimiser's ``param_groups``.
        stem: the name of the first group's rate.
    """
    found: dict[str, float] = {}
    for index, group in enumerate(groups):
        rate = number(group.get("lr"))
        if rate is not None and rate != found.get(stem):
            found[f"{stem}/group{index}" if index else stem] = rate
    return found
