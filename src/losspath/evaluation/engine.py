"""Many parameter vectors on the same data, for much less than a loop over them costs.

The order of work is turned round: a small batch goes through all points before the next one does,
so that it stays in the processor's cache. What is the same at every point is computed once a batch.
Layers that see the same input at every point are combined from a few results (on a plane) or
computed for several points in one call. Which of this is used is chosen by measurement, and every
choice is held against the plain loop before it is believed.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import LosspathError, LosspathWarning, UnsupportedError
from losspath.evaluation import choices
from losspath.evaluation.choices import Choice
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.group import Group
from losspath.evaluation.kernels import fused
from losspath.evaluation.lanes import Lanes
from losspath.evaluation.objective import Objective
from losspath.evaluation.plan import Plan, make_plan
from losspath.evaluation.points import Affine, Points, Rows
from losspath.evaluation.quantities import Evaluation
from losspath.evaluation.replica import Replica, Sides
from losspath.evaluation.rewrites import rewrite
from losspath.evaluation.tally import Tally
from losspath.evaluation.tape import Tape, record
from losspath.files import digest_of

# Points × samples × parameters below which a plain loop is done before anything is measured.
_SMALL = 1e9
# Largest relative difference from the plain loop that is rounding.
_ROUNDING = 1e-5
_NEAR_ZERO = 1e-3
_CHECKED_POINTS = 4
_FEW_POINTS = 4  # that later batches are looked at with, one of them by the plain loop
_CHECKED_BATCHES = 3
# Of so many points one is evaluated by the plain loop over all data, which takes some points' time.
_WHOLE_POINTS = 200

_GROUP_BYTES = 128 << 20  # of parameters, of the points that are evaluated together
# Fewer points share too little, more keep results waiting.
_GROUP_POINTS = (8, 128)
_GROUP_SECONDS = 4.0  # between results, about

_TRIAL_POINTS = (4, 28)
_TRIAL_BATCHES = 2
_TYPICAL_GROUP = 48
# What measuring may take: so many seconds, and a share of what is to be done.
_MEASURED_SECONDS, _MEASURED_SHARE = 2.0, 0.02
# What is good for most networks is left only for what is quicker by more than the noise.
_CLEARLY = 0.95


@dataclass(frozen=True)
class _Kind:
    """Points that one choice is good for."""

    is_flat: bool
    changing: frozenset[str]
    measured: bool

    def describe(self) -> str:
        words = "points on a plane or line" if self.is_flat else "separate points"
        return words if self.measured else f"few {words}"


class _NothingToCompareError(UnsupportedError):
    """Whether some points are evaluated rightly cannot be told."""


class Engine:
    """Evaluates sets of points on an objective's data.

    Args:
        objective: the loss; its model must stay as it is while the engine is used.
        remember: gives the choice made before under a key, or else makes and keeps one.
        keep: keeps another choice under a key, where the one that was made cannot be gone on with.

    Attributes:
        notes: what was found and chosen, one line each.
    """

    def __init__(
        self,
        objective: Objective,
        remember: Callable[[str, Callable[[], Choice]], Choice] | None = None,
        keep: Callable[[str, Choice], None] | None = None,
    ) -> None:
        self.objective = objective
        self._remember = remember or choices.remembered
        self._keep = keep or (lambda key, choice: None)
        self._keys: dict[_Kind, str] = {}
        self.notes: list[str] = []
        self._evaluator = Evaluator(objective)
        self._lanes = Lanes()
        self._compared = False
        self._tapes: dict[int, Tape] = {}
        self._plans: dict[tuple[int, frozenset[str], bool], Plan] = {}
        self._ways: dict[_Kind, Choice | None] = {}

    @property
    def group_size(self) -> int:
        """How many points to evaluate together; always the same for an objective."""
        return int(
            np.clip(_GROUP_BYTES // (16 * self.objective.parameter_count), 1, _GROUP_POINTS[1])
        )

    def evaluate(
        self,
        points: Points,
        total: int | None = None,
        done: Collection[int] = (),
        measure: bool = True,
        sides: Sequence[Sides | None] | None = None,
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
            sides: side tensors of each point, where points differ in them; such points are
                evaluated one by one.

        Yields:
            Numbers of points and their evaluations, as many as are finished together.
        """
        kind = _Kind(isinstance(points, Affine), points.changing(self.objective.layout), measure)
        choice = None
        if sides is None:
            choice = self._way(points, kind, max(total or 0, len(points)))
        else:
            self._note(["the plain loop, as every point has buffers of its own"])
        if choice is None:
            yield from self._one_by_one(points, range(len(points)), done, sides)
            return
        size = -(-len(points) // -(-len(points) // choice.points))  # even parts
        for start in range(0, len(points), size):
            part = points.part(start, start + size)
            numbers = range(start, start + len(part))
            if all(number in done for number in numbers):
                continue
            found = None if choice is None else self._together(part, kind, choice, total or 0)
            if found is None:
                choice = None
                yield from self._one_by_one(points, numbers, done)
                continue
            choice, evaluations = found
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
        sides: Sequence[Sides | None] | None = None,
    ) -> Iterator[list[tuple[int, Evaluation]]]:
        """The plain loop."""
        for number in numbers:
            if number not in done:
                (vector,) = points.part(number, number + 1).vectors()
                own = None if sides is None else sides[number]
                yield [(number, self.plain(vector, own))]

    def _together(
        self, part: Points, kind: _Kind, choice: Choice, total: int
    ) -> tuple[Choice, list[Evaluation]] | None:
        """Evaluates a group; None where that fails or is wrong, and the plain loop has to do."""
        try:
            with self._evaluator.lent():
                used, evaluations = self._run_in_memory(part, choice)
            problem = self._compare(part, used, evaluations, total)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # the plain loop tells what is wrong, if it is the model
            problem = str(error) if isinstance(error, LosspathError) else repr(error)
        if problem is None:
            if used != choice:  # what memory was too small for is not tried again
                self._ways[kind] = used
                self._keep_choice(kind, used)
            return used, evaluations
        self._ways[kind] = None
        self._keep_choice(kind, replace(choice, plain=True))
        self._note([f"the plain loop from here on, as the fast one failed: {problem}"])
        return None

    def _compare(
        self, part: Points, choice: Choice, evaluations: list[Evaluation], total: int
    ) -> str | None:
        """Holds the first group against the plain loop: a point of it over all data.

        Of few points in all, where that would cost a tenth of the whole, over one batch that was
        not looked at before.
        """
        finite = [n for n, each in enumerate(evaluations) if np.isfinite(each.loss)]
        if self._compared or not finite:
            return None
        if total < _WHOLE_POINTS:
            start = len(self.objective) // 3 // choice.batch_size * choice.batch_size
            samples = range(start, min(start + choice.batch_size, len(self.objective)))
            with self._evaluator.lent():
                problem, _ = self._check_on(part.part(0, _FEW_POINTS), choice, samples, 1)
        else:
            number = finite[len(finite) // 2]
            (vector,) = part.part(number, number + 1).vectors()
            try:
                plain = self._evaluator.evaluate(vector)
            except torch.cuda.OutOfMemoryError:  # batches of the plain loop are larger
                return None
            problem = _difference(plain, evaluations[number], self.objective.moves)
        self._compared = problem is None
        return problem

    def _run_in_memory(self, part: Points, choice: Choice) -> tuple[Choice, list[Evaluation]]:
        """Evaluates a group with less at a time where the device has not the memory."""
        while True:
            try:
                return choice, self._run(part, choice, range(len(self.objective)))
            except torch.cuda.OutOfMemoryError:
                if choice.stack * choice.batch_size == 1:
                    raise
                # Stacked points first: they are the larger part.
                if choice.stack > 1:
                    choice = replace(choice, stack=choice.stack // 2)
                else:
                    choice = replace(choice, batch_size=choice.batch_size // 2)
            torch.cuda.empty_cache()  # out of the handler, which holds on to tensors
            self._note([f"halved, as memory ran out: {choice.describe()}"])

    def _way(self, points: Points, kind: _Kind, total: int) -> Choice | None:
        if kind not in self._ways:
            work = total * len(self.objective) * self.objective.parameter_count
            if work < _SMALL:
                return None
            if (reason := self._only_plain()) is not None:
                self._ways[kind] = None
                return self._refused(kind, reason)
            try:
                self._ways[kind] = self._choose(points, kind, total)
            except _NothingToCompareError as reason:  # the next points may be better
                return self._refused(kind, f"as {reason}")
        return self._ways[kind]

    def _only_plain(self) -> str | None:
        """Why points can be evaluated one by one alone."""
        objective, replica = self.objective, self._evaluator.replica
        if not objective.takes_one_tensor:
            return "for batches and several inputs"
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

    def _keep_choice(self, kind: _Kind, choice: Choice) -> None:
        if kind in self._keys:
            self._keep(self._keys[kind], choice)

    def _choose(self, points: Points, kind: _Kind, total: int) -> Choice | None:
        dtypes = {entry.dtype for entry in self.objective.layout.parameters}
        if not dtypes <= {"float32", "float64"}:
            # Sums of half precision round by more than could be told from a mistake.
            return self._refused(kind, f"for {', '.join(sorted(dtypes))} parameters")
        try:
            with self._evaluator.lent():
                plan = self._plan(min(64, len(self.objective)), kind.changing, True)
                if kind.measured:
                    key = self._keys[kind] = self._key(kind, plan)
                    choice = self._remember(key, lambda: self._measure(points, total))
                else:
                    choice = self._usual(points)
                if choice.plain:
                    return self._refused(kind, "as it was the quickest")
                choice, problem = self._checked(points, choice)
        except _NothingToCompareError:
            raise
        except UnsupportedError as reason:
            return self._refused(kind, f"as {reason}")
        except Exception as error:  # whatever a model does under recording, the plain loop is right
            return self._refused(kind, f"as recording failed: {error!r}")
        if problem:
            warnings.warn(
                f"the fast evaluation differs from the plain loop ({problem}), which is used",
                LosspathWarning,
                stacklevel=4,
            )
            # What goes on from here later must not try again, and round otherwise.
            self._keep_choice(kind, replace(choice, plain=True))
            return self._refused(kind, f"as the fast one differs: {problem}")
        self._note([f"{kind.describe()}: {choice.describe()}", *plan.describe()])
        return choice

    def _refused(self, kind: _Kind, why: str) -> Choice | None:
        self._note([f"{kind.describe()}: the plain loop, {why}"])
        return None

    def _note(self, notes: list[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]

    def _key(self, kind: _Kind, plan: Plan) -> str:
        return digest_of(
            kind.is_flat,
            sorted(kind.changing),
            plan.signature,
            [len(self.objective), self.objective.layout.to_json()],
            list(self.objective.inputs_of(0, 1).shape),
            [str(torch.__version__), torch.get_num_threads(), os.cpu_count()],
            _device_name(self.objective.device),
        )

    def _usual(self, points: Points) -> Choice:
        """What is good for most networks."""
        if self.objective.device.type != "cpu":
            share = 8 if isinstance(points, Rows) else 1
            return Choice(1000, lanes=1, share=share, points=_GROUP_POINTS[1], stack=16)
        return Choice(
            batch_size=min(100, self.objective.batch_size),
            lanes=torch.get_num_threads(),
            share=4 if isinstance(points, Rows) else 1,
            points=_GROUP_POINTS[1],
        )

    def _measure(self, points: Points, total: int) -> Choice:
        """The quickest of some choices on a few points and samples."""
        best, separate = self._usual(points), isinstance(points, Rows)
        fields: dict[str, tuple[int, ...]] = {"batch_size": (50, 200)}
        if self.objective.device.type != "cpu":
            fields = {"stack": (1, 64), "batch_size": (250, 5000)}
        if separate:
            fields["share"] = (8, 1)
        if best.lanes > 1:
            fields["lanes"] = (1,)
        if any(len(entry.shape) == 4 for entry in self.objective.layout.parameters):
            fields["channels_last"] = (True,)
        began, best_time = time.perf_counter(), self._trial(points, best)
        changes: list[dict[str, Any]] = [
            {name: value} for name, values in fields.items() for value in values
        ]
        for change in [*changes, {"plain": True}]:
            other = replace(best, **change)
            times = {best: best_time, other: float("inf")}
            # Twice by turns: a machine that others use as well is slow for seconds at a time.
            for choice in (other, best, other):
                spent = time.perf_counter() - began
                if spent > _MEASURED_SECONDS + _MEASURED_SHARE * best_time * total:
                    break  # a slow network: what there is must do
                times[choice] = min(times[choice], self._trial(points, choice))
            best_time = times[best]
            if times[other] < _CLEARLY * best_time:
                best, best_time = other, times[other]
        return replace(best, points=int(np.clip(_GROUP_SECONDS / best_time, *_GROUP_POINTS)))

    def _trial(self, points: Points, choice: Choice) -> float:
        """Seconds a point, in a group of the usual size; infinite where it cannot be done."""
        try:
            return self._plain_seconds(points) if choice.plain else self._seconds(points, choice)
        except torch.cuda.OutOfMemoryError:
            pass
        except Exception:
            if choice.stack == 1:
                raise
        torch.cuda.empty_cache()
        return float("inf")

    def _seconds(self, points: Points, choice: Choice) -> float:
        counts, took = sorted({min(len(points), count) for count in _TRIAL_POINTS}), []
        samples = range(min(len(self.objective), _TRIAL_BATCHES * choice.lanes * choice.batch_size))
        self._run(points.part(0, 1), choice, samples)  # warm
        for count in counts:
            times: list[float] = []
            self._run(points.part(0, count), choice, samples, times.append)
            took.append(float(np.median(times)))
        # What is done once for all points of a group is told from what each of them costs.
        each, once = took[-1] / counts[-1], 0.0
        if len(counts) > 1:
            each = max(took[1] - took[0], 0.0) / (counts[1] - counts[0])
            once = max(took[0] - each * counts[0], 0.0)
        batches = len(self.objective) / (choice.lanes * choice.batch_size)
        return (each + once / _TYPICAL_GROUP) * batches

    def _plain_seconds(self, points: Points) -> float:
        samples = min(len(self.objective), _TRIAL_BATCHES * self.objective.batch_size)
        (vector,) = points.part(0, 1).vectors()
        began = time.perf_counter()
        self._evaluator.evaluate(vector, samples)
        _finish(self.objective.device)
        return (time.perf_counter() - began) * len(self.objective) / samples

    def _checked(self, points: Points, choice: Choice) -> tuple[Choice, str | None]:
        """A choice that can be computed, and what is wrong with its results."""
        try:
            return choice, self._check(points, choice)
        except Exception:
            if choice.stack == 1:
                raise
        choice = replace(choice, stack=1)  # not every layer can be stacked
        return choice, self._check(points, choice)

    def _check(self, points: Points, choice: Choice) -> str | None:
        """What differs from the plain loop on a few points and samples; None if nothing does."""
        compared = False
        for samples in self._checked_samples(choice):
            # All points of the group once; a few are enough for what depends on the data.
            part, most = (points.part(0, _FEW_POINTS), 1) if compared else (points, _CHECKED_POINTS)
            problem, some = self._check_on(part, choice, samples, most)
            if problem is not None:
                return problem
            compared |= some
        if not compared:
            raise _NothingToCompareError("no point has a finite loss to compare")
        return None

    def _checked_samples(self, choice: Choice) -> list[range]:
        """Batches from all over the data, which may be sorted, the last one among them."""
        count, size = len(self.objective), choice.batch_size
        starts = range(0, count, size)
        some = np.linspace(0, len(starts) - 1, min(_CHECKED_BATCHES, len(starts))).round()
        chosen = dict.fromkeys(int(number) for number in some)
        return [range(starts[n], min(starts[n] + size, count)) for n in chosen]

    def _check_on(
        self, points: Points, choice: Choice, samples: range, most: int
    ) -> tuple[str | None, bool]:
        """What differs on some samples, and whether there was anything to compare.

        At most so many points are evaluated by the plain loop too.
        """
        fast = self._run(points, choice, samples)
        vectors = points.vectors()
        order = np.argsort([not np.isfinite(evaluation.loss) for evaluation in fast], kind="stable")
        compared = False
        for number in order[:: -(-len(order) // most)].tolist():
            plain = self._evaluator.evaluate(vectors[number], parts=[samples])
            problem = _difference(plain, fast[number], self.objective.moves)
            if problem is not None:
                return problem, True
            compared |= bool(np.isfinite(plain.loss))
        return None, compared

    def _plan(self, samples: int, changing: frozenset[str], sites: bool) -> Plan:
        key = (samples, changing, sites)
        if key not in self._plans:
            if samples not in self._tapes:
                # Of a copy of its own, whose buffers nothing else writes to.
                objective = self.objective
                replica = Replica(
                    objective.model,
                    objective.layout,
                    objective.base_sides,
                    objective.widens,
                    objective.deletes,
                    self._evaluator.shared,
                )
                with (
                    torch.no_grad(),
                    fused(self._evaluator.may_fuse),
                    replica.linked(objective.model),  # hooks and functions that close over it
                ):
                    names = {
                        entry.name: parameter
                        for entry, parameter in zip(
                            objective.layout.parameters, replica.parameters, strict=True
                        )
                    }
                    tape = record(replica.model, objective.inputs_of(0, samples), names)
                rewrite(tape.graph)
                self._tapes[samples] = tape
            self._plans[key] = make_plan(self._tapes[samples], changing, sites)
        return self._plans[key]

    def _run(
        self,
        points: Points,
        choice: Choice,
        samples: range,
        watch: Callable[[float], object] | None = None,
    ) -> list[Evaluation]:
        """Evaluates a group on some samples; `watch` is told the seconds of each batch."""
        changing = points.changing(self.objective.layout)
        # Fewer points than the vectors that they are combined of are done sooner one by one.
        flat = isinstance(points, Affine) and len(points) > len(points.directions)
        sites = flat or (isinstance(points, Rows) and choice.share > 1)
        size = min(choice.batch_size, len(samples))
        blocks = [
            range(start, min(start + size, samples.stop))
            for start in range(samples.start, samples.stop, size)
        ]
        plans = {
            length: self._plan(length, changing, sites)
            for length in {len(block) for block in blocks}
        }
        device = self.objective.device
        group = Group(self.objective.layout, points, choice, device)
        tally = Tally(
            lambda number, outputs, part: self._evaluator.count(
                group.vectors[number], outputs, part
            ),
            self.objective.evaluation_of,
            len(points),
            samples,
        )

        def work(lane: int) -> None:
            with torch.inference_mode():
                for block in blocks[lane::lanes]:
                    began = time.perf_counter()
                    inputs = self.objective.inputs_of(block.start, block.stop)
                    for number, outputs in group.outputs(plans[len(block)], inputs):
                        tally.add(number, block.start, block.stop, outputs)
                    if watch is not None:
                        _finish(device)
                        watch(time.perf_counter() - began)

        lanes = min(choice.lanes, len(blocks))
        self._lanes.run(work, lanes)
        with torch.inference_mode():
            return tally.evaluations()


def _difference(plain: Evaluation, found: Evaluation, moves: float) -> str | None:
    """What differs between the plain loop and a fast one; None if nothing does.

    Args:
        plain: by the plain loop.
        found: by the fast one.
        moves: how far the loss moves between parameters; near zero it rounds by a share of that.
    """
    rounds_like = max(abs(plain.loss), _NEAR_ZERO * min(moves, 1.0))
    if np.isfinite(plain.loss) != np.isfinite(found.loss):
        return f"{found.loss:.8g} against {plain.loss:.8g}"
    if abs(found.loss - plain.loss) > _ROUNDING * rounds_like:
        return f"{found.loss:.8g} against {plain.loss:.8g}"
    if (found.accuracy is None) != (plain.accuracy is None):
        return f"an accuracy of {found.accuracy} against {plain.accuracy}"
    return None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _finish(device: torch.device) -> None:
    """Waits until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
