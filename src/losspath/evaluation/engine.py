"""Many parameter vectors on the same data, for much less than a loop over them costs.

The order of work is turned round: a small batch goes through all points before the next one does,
so that it stays in the processor's cache. What is the same at every point is computed once a batch.
Layers that see the same input at every point are combined from a few results (on a plane) or
computed for several points in one call. Which of this is used is chosen by measurement, and every
choice is held against the plain loop before it is believed.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from losspath.errors import LosspathWarning, UnsupportedError
from losspath.evaluation import choices
from losspath.evaluation.choices import Choice
from losspath.evaluation.group import Group
from losspath.evaluation.objective import Count, Evaluation, Objective, undisturbed
from losspath.evaluation.plan import Plan, make_plan
from losspath.evaluation.points import Affine, Points
from losspath.evaluation.rewrites import rewrite
from losspath.evaluation.tape import Tape, record
from losspath.files import digest_of

# Points × samples × parameters below which a plain loop is done before anything is measured.
_SMALL = 1e9
# Largest relative difference from the plain loop that is rounding.
_ROUNDING = 1e-5
_CHECKED_POINTS = 3
_CHECKED_SAMPLES = 200

_GROUP_BYTES = 128 << 20  # of parameters, of the points that are evaluated together
_OUTPUT_BYTES = 64 << 20  # of outputs that are kept until a point's loss is taken of all of them
# Fewer points share too little, more keep results waiting.
_GROUP_POINTS = (8, 32)
_GROUP_SECONDS = 3.0  # between results, about


class Engine:
    """Evaluates sets of points on an objective's data.

    Args:
        objective: the loss; its model must stay as it is while the engine is used.
        remember: gives the choice made before under a key, or else makes and keeps one.

    Attributes:
        notes: what was found and chosen, one line each.
    """

    def __init__(
        self,
        objective: Objective,
        remember: Callable[[str, Callable[[], Choice]], Choice] | None = None,
    ) -> None:
        self.objective = objective
        self._remember = remember or choices.remembered
        self.notes: list[str] = []
        self._tapes: dict[int, Tape] = {}
        self._plans: dict[tuple[int, frozenset[str], bool], Plan] = {}
        self._ways: dict[tuple[bool, frozenset[str]], Choice | None] = {}

    @property
    def group_size(self) -> int:
        """How many points to evaluate together; always the same for an objective."""
        return int(
            np.clip(_GROUP_BYTES // (16 * self.objective.parameter_count), 1, _GROUP_POINTS[1])
        )

    def evaluate(
        self, points: Points, total: int | None = None, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Evaluation]]]:
        """Evaluates points, at most `group_size` of them.

        Args:
            points: the points.
            total: how many points there will be in all, of this kind; measuring is worth its time
                only where there are many.
            done: numbers of points that need not be evaluated. They may be, where that is what
                makes results the same whatever was done before.

        Yields:
            Numbers of points and their evaluations, as many as are finished together.
        """
        choice = self._way(points, max(total or 0, len(points)))
        if choice is None:
            for number in range(len(points)):
                if number not in done:
                    (vector,) = points.part(number, number + 1).vectors()
                    yield [(number, self.objective(vector))]
            return
        for start in range(0, len(points), choice.points):
            part = points.part(start, start + choice.points)
            numbers = range(start, start + len(part))
            if all(number in done for number in numbers):
                continue
            with undisturbed(self.objective.model):
                evaluations = self._run(part, choice, len(self.objective))
            found = zip(numbers, evaluations, strict=True)
            yield [(number, each) for number, each in found if number not in done]

    def _way(self, points: Points, total: int) -> Choice | None:
        kind = (isinstance(points, Affine), points.changing(self.objective.layout))
        if kind not in self._ways:
            work = total * len(self.objective) * self.objective.parameter_count
            if work < _SMALL:
                return None
            self._ways[kind] = self._choose(points, kind)
        return self._ways[kind]

    def _choose(self, points: Points, kind: tuple[bool, frozenset[str]]) -> Choice | None:
        name = "points on a plane or line" if kind[0] else "separate points"
        if self.objective.device.type != "cpu":
            self.notes.append(f"{name}: the plain loop, on {self.objective.device.type}")
            return None
        dtypes = {entry.dtype for entry in self.objective.layout.parameters}
        if not dtypes <= {"float32", "float64"}:
            # Sums of half precision round by more than could be told from a mistake.
            self.notes.append(f"{name}: the plain loop, for {', '.join(sorted(dtypes))} parameters")
            return None
        try:
            with undisturbed(self.objective.model):
                plan = self._plan(min(64, len(self.objective)), kind[1], True)
                key = self._key(kind, plan)
                choice = self._remember(key, lambda: self._measure(points))
                problem = self._check(points, choice)
        except UnsupportedError as reason:
            self.notes.append(f"{name}: the plain loop, as {reason}")
            return None
        except Exception as error:  # whatever a model does under recording, the plain loop is right
            self.notes.append(f"{name}: the plain loop, as recording failed: {error!r}")
            return None
        if problem:
            warnings.warn(
                f"the fast evaluation differs from the plain loop ({problem}), which is used",
                LosspathWarning,
                stacklevel=4,
            )
            self.notes.append(f"{name}: the plain loop, as the fast one differs: {problem}")
            return None
        self.notes += [f"{name}: {choice.describe()}", *plan.describe()]
        return choice

    def _key(self, kind: tuple[bool, frozenset[str]], plan: Plan) -> str:
        return digest_of(
            kind[0],
            sorted(kind[1]),
            plan.signature,
            [len(self.objective), self.objective.layout.to_json()],
            [str(torch.__version__), torch.get_num_threads(), os.cpu_count()],
        )

    def _measure(self, points: Points) -> Choice:
        """The quickest of some choices on a few points and samples."""
        lanes = torch.get_num_threads()
        trial = points.part(0, min(len(points), 8))
        shares = (1,) if isinstance(points, Affine) else (1, 4)
        best = Choice(batch_size=50, lanes=lanes, share=shares[-1], points=_GROUP_POINTS[1])
        best_time = np.inf
        candidates = [
            replace(best, batch_size=size, share=share)
            for size in (50, 100, 25, 200)
            for share in shares
        ]
        candidates += [replace(best, lanes=1, share=1)] if lanes > 1 else []
        began = time.perf_counter()
        for candidate in candidates:
            samples = min(len(self.objective), 2 * lanes * candidate.batch_size)
            self._run(trial.part(0, 1), candidate, min(samples, candidate.batch_size))  # warm
            took = []
            for _ in range(2):
                start = time.perf_counter()
                self._run(trial, candidate, samples)
                took.append((time.perf_counter() - start) / samples)
            if min(took) < best_time:
                best, best_time = candidate, min(took)
            if time.perf_counter() - began > 2.0:  # a slow network: what there is must do
                break
        seconds = best_time * len(self.objective) / len(trial)  # a point
        return replace(best, points=int(np.clip(_GROUP_SECONDS / seconds, *_GROUP_POINTS)))

    def _check(self, points: Points, choice: Choice) -> str | None:
        """What differs from the plain loop on a few points and samples; None if nothing does."""
        samples = min(len(self.objective), max(_CHECKED_SAMPLES, choice.batch_size + 1))
        fast = self._run(points, choice, samples)
        vectors = points.vectors()
        order = np.argsort([not np.isfinite(evaluation.loss) for evaluation in fast], kind="stable")
        compared = 0
        for number in order[:: max(1, len(order) // _CHECKED_POINTS)].tolist():
            plain, found = self.objective.evaluate_first(vectors[number], samples), fast[number]
            if np.isfinite(plain.loss) != np.isfinite(found.loss):
                return f"{found.loss:.8g} against {plain.loss:.8g}"
            if abs(found.loss - plain.loss) > _ROUNDING * max(abs(plain.loss), 1e-3):
                return f"{found.loss:.8g} against {plain.loss:.8g}"
            compared += bool(np.isfinite(plain.loss))
        if not compared:
            raise UnsupportedError("no point has a finite loss to compare")
        return None

    def _plan(self, samples: int, changing: frozenset[str], sites: bool) -> Plan:
        key = (samples, changing, sites)
        if key not in self._plans:
            if samples not in self._tapes:
                with torch.no_grad():
                    tape = record(self.objective.model, self.objective.inputs_of(0, samples))
                rewrite(tape.graph)
                self._tapes[samples] = tape
            self._plans[key] = make_plan(self._tapes[samples], changing, sites)
        return self._plans[key]

    def _run(self, points: Points, choice: Choice, samples: int) -> list[Evaluation]:
        changing = points.changing(self.objective.layout)
        sites = isinstance(points, Affine) or choice.share > 1
        size = min(choice.batch_size, samples)
        blocks = [(start, min(start + size, samples)) for start in range(0, samples, size)]
        plans = {
            length: self._plan(length, changing, sites)
            for length in {stop - start for start, stop in blocks}
        }
        group = Group(self.objective.layout, points, choice.share)
        tally = _Tally(self.objective, len(points), samples)

        def work(lane: int) -> None:
            with torch.inference_mode():
                for start, stop in blocks[lane::lanes]:
                    inputs = self.objective.inputs_of(start, stop)
                    for number, outputs in group.outputs(plans[stop - start], inputs):
                        tally.add(number, start, stop, outputs)

        lanes = min(choice.lanes, len(blocks))
        _in_lanes(work, lanes)
        with torch.inference_mode():
            return tally.evaluations()


def _in_lanes(work: Callable[[int], None], lanes: int) -> None:
    """Calls work(0) … work(lanes−1), each on a thread of its own with no threads of torch's."""
    if lanes == 1:
        work(0)
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            lanes, "losspath-lane", initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            for future in [pool.submit(work, lane) for lane in range(lanes)]:
                future.result()
    finally:
        torch.set_num_threads(threads)


class _Tally:
    """Losses and accuracies of points, from outputs that come batch by batch, in any order."""

    def __init__(self, objective: Objective, points: int, samples: int) -> None:
        self._objective = objective
        self._points, self._samples = points, samples
        self._lock = threading.Lock()
        self._kept: dict[int, torch.Tensor] = {}
        self._parts: list[dict[int, Count]] = [{} for _ in range(points)]

    def add(self, number: int, start: int, stop: int, outputs: Any) -> None:
        """Takes a point's outputs for the samples start … stop−1."""
        if self._can_keep(outputs, stop - start):
            with self._lock:
                if number not in self._kept:
                    shape = (self._samples, *outputs.shape[1:])
                    self._kept[number] = outputs.new_empty(shape)
            self._kept[number][start:stop] = outputs
        else:
            self._parts[number][start] = self._objective.count(outputs, start, stop)

    def _can_keep(self, outputs: Any, samples: int) -> bool:
        # The loss of all samples at once costs less than that of many batches.
        if not isinstance(outputs, torch.Tensor) or outputs.shape[:1] != (samples,):
            return False
        size = outputs.element_size() * outputs.numel() // samples
        return size * self._samples * self._points <= _OUTPUT_BYTES

    def evaluations(self) -> list[Evaluation]:
        """The evaluation of each point."""
        return [self._evaluation(number) for number in range(self._points)]

    def _evaluation(self, number: int) -> Evaluation:
        if number in self._kept:
            parts = [self._objective.count(self._kept[number], 0, self._samples)]
        else:
            parts = [part for _, part in sorted(self._parts[number].items())]
        return Evaluation.of(parts)
