"""Many parameter vectors on the same data, for much less than a loop over them costs.

The order of work is turned round: a small batch goes through all points before the next one does,
so that it stays in the processor's cache. What is the same at every point is computed once a batch.
Layers that see the same input at every point are combined from a few results (on a plane) or
computed for several points in one call. Which of this is used is chosen by measurement, and every
config is held against the plain loop before it is believed.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import LosspathError, LosspathWarning, UnsupportedError
from losspath.evaluation.compiler.plan import Plan
from losspath.evaluation.data import Samples
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.execution import tuning
from losspath.evaluation.execution.autotuner import GROUP_POINTS, Autotuner, usual_config
from losspath.evaluation.execution.fast import FastEvaluator
from losspath.evaluation.execution.points import Affine, Points, sides_at
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.evaluation.execution.verifying import Verifier
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.evaluation.quantities import Evaluation
from losspath.files import digest_of

# Points × samples × parameters below which a plain loop is done before anything is measured.
_SMALL = 1e9
# A group of so many points that takes so many times as long as was measured is measured again.
_ENOUGH, _SLOWER = 4, 2.0
_GROUP_BYTES = 128 << 20  # of parameters, of the points that are evaluated together


@dataclass(frozen=True)
class _Kind:
    """Points that one config is good for."""

    is_flat: bool
    changing: frozenset[str]
    measured: bool

    def describe(self) -> str:
        words = "points on a plane or line" if self.is_flat else "separate points"
        return words if self.measured else f"few {words}"


class Engine:
    """Evaluates sets of points on an objective's data.

    Args:
        objective: the loss; its model must stay as it is while the engine is used.
        remember: gives the config made before under a key, or else makes and keeps one.
        keep: keeps another config under a key, where the one that was made cannot be gone on with.

    Attributes:
        notes: what was found and chosen, one line each.
    """

    def __init__(
        self,
        objective: Objective,
        remember: Callable[[str, Callable[[], EngineConfig]], EngineConfig] | None = None,
        keep: Callable[[str, EngineConfig], None] | None = None,
    ) -> None:
        self.objective = objective
        self._remember = remember or tuning.remembered
        self._keep = keep or (lambda key, config: None)
        self._keys: dict[_Kind, str] = {}
        self.notes: list[str] = []
        self._evaluator = Evaluator(objective)
        self._fast = FastEvaluator(self._evaluator, lambda note: self._note([note]))
        self._verifier = Verifier(self._evaluator, self._fast)
        self._ways: dict[_Kind, EngineConfig | None] = {}

    @property
    def group_size(self) -> int:
        """How many points to evaluate together; always the same for an objective."""
        return int(
            np.clip(_GROUP_BYTES // (16 * self.objective.parameter_count), 1, GROUP_POINTS[1])
        )

    def evaluate(
        self,
        points: Points,
        total: int | None = None,
        done: Collection[int] = (),
        measure: bool = True,
    ) -> Iterator[list[tuple[int, Evaluation]]]:
        """Evaluates points, at most `group_size` of them.

        Args:
            points: the points.
            total: how many points there will be in all, of this kind; measuring is worth its time
                only where there are many.
            done: numbers of points that need not be evaluated. They may be, where that is what
                makes results the same whatever was done before.
            measure: whether to measure what is quickest, or take what is good for most networks,
                as for few points or points that someone waits for.

        Yields:
            Numbers of points and their evaluations, as many as are finished together.
        """
        kind = _Kind(isinstance(points, Affine), points.changing(self.objective.layout), measure)
        config = self._way(points, kind, max(total or 0, len(points)))
        if config is None:
            yield from self._one_by_one(points, range(len(points)), done)
            return
        size = -(-len(points) // -(-len(points) // config.group_size))  # even parts
        for start in range(0, len(points), size):
            part = points.part(start, start + size)
            numbers = range(start, start + len(part))
            if all(number in done for number in numbers):
                continue
            found = None if config is None else self._together(part, kind, config, total or 0)
            if found is None:
                config = None
                yield from self._one_by_one(points, numbers, done)
                continue
            config, evaluations = found
            pairs = zip(numbers, evaluations, strict=True)
            yield [(number, each) for number, each in pairs if number not in done]

    def plain(self, vector: npt.NDArray[Any], sides: Sides | None = None) -> Evaluation:
        """One point by the plain loop."""
        return self._evaluator.evaluate(vector, sides=sides)

    def _one_by_one(
        self,
        points: Points,
        numbers: range,
        done: Collection[int],
    ) -> Iterator[list[tuple[int, Evaluation]]]:
        """The plain loop."""
        for number in numbers:
            if number not in done:
                (vector,) = points.part(number, number + 1).vectors()
                yield [(number, self.plain(vector, sides_at(points, number)))]

    def _together(
        self, part: Points, kind: _Kind, config: EngineConfig, total: int
    ) -> tuple[EngineConfig, list[Evaluation]] | None:
        """Evaluates a group; None where that fails or is wrong, and the plain loop has to do."""
        began = time.monotonic()
        try:
            with self._evaluator.lent():
                used, evaluations = self._fast.evaluate_in_memory(part, config)
                if used == config:
                    used = self._measured_again(part, config, time.monotonic() - began)
            problem = self._verifier.check_group(part, used, evaluations, total)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # the plain loop tells what is wrong, if it is the model
            problem = str(error) if isinstance(error, LosspathError) else repr(error)
        if problem is None:
            if used != config:  # what memory was too small for is not tried again
                self._ways[kind] = used
                self._keep_config(kind, used)
            return used, evaluations
        self._ways[kind] = None
        self._keep_config(kind, replace(config, plain=True))
        self._note([f"the plain loop from here on, as the fast one failed: {problem}"])
        return None

    def _measured_again(self, part: Points, config: EngineConfig, seconds: float) -> EngineConfig:
        """The config to go on with; another where points took twice as long as was measured."""
        slower = seconds / len(part) / config.point_seconds if config.point_seconds else 0.0
        if config.threads == 1 or slower < _SLOWER or len(part) < _ENOUGH:
            return config
        again = config
        with suppress(Exception):  # what was computed stands
            again = Autotuner(self._evaluator, self._fast).with_fewer_threads(part, config)
        if again != config:
            words = f"as points took {slower:.1f} times as long as was measured"
            self._note([f"{again.describe()} from here on, {words}"])
        return replace(again, point_seconds=seconds / len(part))

    def _way(self, points: Points, kind: _Kind, total: int) -> EngineConfig | None:
        if kind not in self._ways:
            work = total * len(self.objective) * self.objective.parameter_count
            if work < _SMALL:
                return None
            reason = self._only_plain()
            return self._refused(kind, reason) if reason else self._choose(points, kind, total)
        return self._ways[kind]

    def _only_plain(self) -> str | None:
        """Why points can be evaluated one by one alone."""
        objective, replica = self.objective, self._evaluator.replica
        if isinstance(objective.data, Samples) and not objective.takes_one_tensor:
            return "for several inputs"
        if objective.masks is not None:
            return "as dropout is active"
        if objective.needs_gradients:
            return "as the model or the loss takes gradients"
        if objective.reads_pass:
            return "as the loss reads what a forward pass leaves behind"
        if objective.buffers == "recalibrated":
            return "as running statistics are estimated anew at every point"
        if replica.merges:
            return "as the model merges or caches parameters in evaluation mode"
        if not replica.is_private:
            return "as the model cannot be copied"
        if torch.is_autocast_enabled(objective.device.type):
            return "as autocast is on"  # for the calling thread alone, and it rounds by batch
        return None

    def _keep_config(self, kind: _Kind, config: EngineConfig) -> None:
        if kind in self._keys:
            self._keep(self._keys[kind], config)

    def _choose(self, points: Points, kind: _Kind, total: int) -> EngineConfig | None:
        dtypes = {entry.dtype for entry in self.objective.layout.parameters}
        if not dtypes <= {"float32", "float64"}:
            # Sums of half precision round by more than could be told from a mistake.
            return self._refused(kind, f"for {', '.join(sorted(dtypes))} parameters")
        try:
            with self._evaluator.lent():
                few = min(64, self._fast.units.count) if self._fast.units.together else 1
                plan = self._fast.plan(range(few), kind.changing, sides=points.sides)
                if kind.measured:
                    trials = Autotuner(self._evaluator, self._fast)
                    key = self._keys[kind] = self._key(kind, plan)
                    config = self._remember(key, lambda: trials.quickest(points, total))
                else:
                    config = usual_config(self.objective, points)
                if config.plain:
                    return self._refused(kind, "as it was the quickest")
                config, problem, is_told = self._verifier.checked(points, config)
        except UnsupportedError as reason:
            return self._refused(kind, f"as {reason}")
        except Exception as error:  # whatever a model does under recording, the plain loop is right
            return self._refused(kind, f"as recording failed: {error!r}")
        if problem:
            if self._fast.units.together:  # a loss of batches may do with the model what it likes
                warnings.warn(
                    f"the fast evaluation differs from the plain loop ({problem}), which is used",
                    LosspathWarning,
                    stacklevel=4,
                )
            # What goes on from here later must not try again, and round otherwise.
            self._keep_config(kind, replace(config, plain=True))
            return self._refused(kind, f"as the fast one differs: {problem}")
        if not is_told:
            self._refused(kind, "as no point has a finite loss to compare")
            del self._ways[kind]  # the next points may be better
            return None
        self._note([f"{kind.describe()}: {config.describe()}", *plan.describe()])
        self._ways[kind] = config
        return config

    def _refused(self, kind: _Kind, why: str) -> EngineConfig | None:
        self._note([f"{kind.describe()}: the plain loop, {why}"])
        self._ways[kind] = None
        return None

    def _note(self, notes: list[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]

    def _key(self, kind: _Kind, plan: Plan) -> str:
        return digest_of(
            kind.is_flat,
            sorted(kind.changing),
            plan.signature,
            [len(self.objective), self.objective.layout.to_json()],
            list(self._fast.units.inputs(range(1)).shape),
            [str(torch.__version__), torch.get_num_threads(), os.cpu_count()],
            _device_name(self.objective.device),
        )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
