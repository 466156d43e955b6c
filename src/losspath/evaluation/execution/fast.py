"""Many points on the same data in one of several ways, each of which rounds in its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from losspath.errors import UnsupportedError
from losspath.evaluation.compiler.plan import Plan, make_plan
from losspath.evaluation.compiler.rewrites import rewrite
from losspath.evaluation.compiler.tape import Tape, record
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.execution.accumulator import OutputAccumulator
from losspath.evaluation.execution.group import Group
from losspath.evaluation.execution.points import Affine, Points, Rows, sides_at
from losspath.evaluation.execution.single_threads import SingleThreads
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.evaluation.execution.units import Units, units_of
from losspath.evaluation.isolation.kernels import fused
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.quantities import Evaluation

Form = tuple[Any, ...]


class FastEvaluator:
    """Evaluates points together by a recorded forward pass.

    Args:
        evaluator: the plain loop, which takes the losses.
        note: is told what had to be done otherwise.
    """

    def __init__(self, evaluator: Evaluator, note: Callable[[str], object]) -> None:
        self.objective = evaluator.objective
        self._evaluator, self._note = evaluator, note
        self._units: Units | None = None
        self._threads = SingleThreads()
        # By the form of a batch and the names of side tensors that are points' own.
        self._tapes: dict[tuple[Form, frozenset[str]], Tape] = {}
        self._plans: dict[tuple[Form, frozenset[str], frozenset[str], bool], Plan] = {}

    @property
    def units(self) -> Units:
        """What batches are made of; first asked for inside `lent`."""
        if self._units is None:
            self._units = units_of(self._evaluator)
        return self._units

    def evaluate_in_memory(
        self, points: Points, config: EngineConfig
    ) -> tuple[EngineConfig, list[Evaluation]]:
        """Evaluates points on all data, with less at a time where the device has not the memory.

        Returns:
            The config that it could be done by, and the evaluations.
        """
        while True:
            try:
                return config, self.evaluate(points, config, range(self.units.count))
            except torch.cuda.OutOfMemoryError:
                if config.vmap_size == 1 and config.batch_size == 1:
                    raise
                if config.vmap_size == 1 and not config.batch_size:  # the plain loop may bear it
                    raise UnsupportedError("memory runs out on a given batch") from None
                # Stacked points first: they are the larger part.
                if config.vmap_size > 1:
                    config = replace(config, vmap_size=config.vmap_size // 2)
                else:
                    config = replace(config, batch_size=config.batch_size // 2)
            torch.cuda.empty_cache()  # out of the handler, which holds on to tensors
            self._note(f"halved, as memory ran out: {config.describe()}")

    def evaluate(
        self,
        points: Points,
        config: EngineConfig,
        samples: range,
        watch: Callable[[float], object] | None = None,
    ) -> list[Evaluation]:
        """Evaluates points on some samples; inside `lent` alone.

        Args:
            points: the points.
            config: how.
            samples: which samples, or which batches of the caller's.
            watch: is told the seconds that each batch took.
        """
        blocks, plans = self._blocks_and_plans(points, config, samples)
        device = self.objective.device
        group = Group(self.objective.layout, points, config, device)
        accumulator = OutputAccumulator(
            lambda number, outputs, part: self.units.sums(
                group.vectors[number], outputs, part, sides_at(points, number)
            ),
            self.objective.evaluation_of,
            len(points),
            samples,
            self.units.together,
        )

        def work(thread: int) -> None:
            with torch.inference_mode():
                for block in blocks[thread::threads]:
                    began = time.perf_counter()
                    inputs = self.units.inputs(block)
                    for number, outputs in group.outputs(plans[self.units.form(block)], inputs):
                        accumulator.add(number, block.start, block.stop, outputs)
                    if watch is not None:
                        wait_for(device)
                        watch(time.perf_counter() - began)

        threads = min(config.threads, len(blocks))
        self._threads.run(work, threads)
        with torch.inference_mode():
            return accumulator.evaluations()

    def _blocks_and_plans(
        self, points: Points, config: EngineConfig, samples: range
    ) -> tuple[list[range], dict[Form, Plan]]:
        """Batches of the samples, and how batches of each form are computed."""
        changing = points.changing(self.objective.layout)
        # Fewer points than the vectors that they are combined of are done sooner one by one.
        flat = isinstance(points, Affine) and len(points) > len(points.directions)
        first_layers = flat or (isinstance(points, Rows) and config.first_layer_group > 1)
        size = min(config.batch_size or 1, len(samples))
        blocks = [
            range(start, min(start + size, samples.stop))
            for start in range(samples.start, samples.stop, size)
        ]
        forms = {self.units.form(block): block for block in blocks}
        return blocks, {
            form: self.plan(block, changing, first_layers, points.sides)
            for form, block in forms.items()
        }

    def plan(
        self,
        block: range,
        changing: frozenset[str],
        first_layers: bool = True,
        sides: Sequence[Sides] | None = None,
    ) -> Plan:
        """How a batch of the form of a block is computed.

        Args:
            block: samples, or one batch of the caller's.
            changing: names of the parameters and side tensors that differ between points.
            first_layers: whether layers that see the same input at every point are treated apart.
            sides: side tensors of each point, where they have their own.

        Raises:
            UnsupportedError: the forward pass cannot be recorded, or points have side tensors of
                different forms.
        """
        first = _of_one_form(sides) if sides else None
        form, names = self.units.form(block), frozenset(first or ())
        key = (form, changing, names, first_layers)
        if key not in self._plans:
            if (form, names) not in self._tapes:
                self._tapes[form, names] = self._recorded(block, first)
            tape = self._tapes[form, names]
            self._plans[key] = make_plan(tape, changing, first_layers, names)
        return self._plans[key]

    def _recorded(self, block: range, sides: Sides | None) -> Tape:
        """A forward pass, on a copy of the model of its own, whose buffers nothing else writes."""
        objective, inputs = self.objective, self.units.inputs(block)
        replica = self._evaluator.make_replica()
        with (
            torch.no_grad(),
            fused(self._evaluator.may_fuse),
            replica.linked(objective.model),  # hooks and functions that close over it
        ):
            if sides is not None:
                replica.write_sides(sides)
            entries = objective.layout.parameters
            names = {e.name: p for e, p in zip(entries, replica.parameters, strict=True)}
            names |= replica.side_tensors(sides or ())
            tape = record(replica.model, inputs, names)
        rewrite(tape.graph)
        return tape


def _of_one_form(sides: Sequence[Sides]) -> Sides:
    """The first point's side tensors.

    Raises:
        UnsupportedError: those of another point have other names, shapes or dtypes.
    """
    forms = [{n: t if t is None else (t.shape, t.dtype) for n, t in each.items()} for each in sides]
    if any(form != forms[0] for form in forms):
        raise UnsupportedError("points have buffers of different shapes")
    return sides[0]


def wait_for(device: torch.device) -> None:
    """Waits until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
