"""Many points on the same data in one of several ways, each of which rounds in its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from losspath.evaluation.accumulator import OutputAccumulator
from losspath.evaluation.choices import Choice
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.group import Group
from losspath.evaluation.kernels import fused
from losspath.evaluation.lanes import Lanes
from losspath.evaluation.plan import Plan, make_plan
from losspath.evaluation.points import Affine, Points, Rows
from losspath.evaluation.quantities import Evaluation
from losspath.evaluation.rewrites import rewrite
from losspath.evaluation.tape import Tape, record


class FastEvaluator:
    """Evaluates points together by a recorded forward pass.

    Args:
        evaluator: the plain loop, which takes the losses.
        note: is told what had to be done otherwise.
    """

    def __init__(self, evaluator: Evaluator, note: Callable[[str], object]) -> None:
        self.objective = evaluator.objective
        self._evaluator, self._note = evaluator, note
        self._lanes = Lanes()
        self._tapes: dict[int, Tape] = {}
        self._plans: dict[tuple[int, frozenset[str], bool], Plan] = {}

    def evaluate_in_memory(self, points: Points, choice: Choice) -> tuple[Choice, list[Evaluation]]:
        """Evaluates points on all data, with less at a time where the device has not the memory.

        Returns:
            The choice that it could be done by, and the evaluations.
        """
        while True:
            try:
                return choice, self.evaluate(points, choice, range(len(self.objective)))
            except torch.cuda.OutOfMemoryError:
                if choice.stack * choice.batch_size == 1:
                    raise
                # Stacked points first: they are the larger part.
                if choice.stack > 1:
                    choice = replace(choice, stack=choice.stack // 2)
                else:
                    choice = replace(choice, batch_size=choice.batch_size // 2)
            torch.cuda.empty_cache()  # out of the handler, which holds on to tensors
            self._note(f"halved, as memory ran out: {choice.describe()}")

    def evaluate(
        self,
        points: Points,
        choice: Choice,
        samples: range,
        watch: Callable[[float], object] | None = None,
    ) -> list[Evaluation]:
        """Evaluates points on some samples; inside `lent` alone.

        Args:
            points: the points.
            choice: how.
            samples: which samples.
            watch: is told the seconds that each batch took.
        """
        blocks, plans = self._blocks_and_plans(points, choice, samples)
        device = self.objective.device
        group = Group(self.objective.layout, points, choice, device)
        accumulator = OutputAccumulator(
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
                        accumulator.add(number, block.start, block.stop, outputs)
                    if watch is not None:
                        wait_for(device)
                        watch(time.perf_counter() - began)

        lanes = min(choice.lanes, len(blocks))
        self._lanes.run(work, lanes)
        with torch.inference_mode():
            return accumulator.evaluations()

    def _blocks_and_plans(
        self, points: Points, choice: Choice, samples: range
    ) -> tuple[list[range], dict[int, Plan]]:
        """Batches of the samples, and how batches of each length are computed."""
        changing = points.changing(self.objective.layout)
        # Fewer points than the vectors that they are combined of are done sooner one by one.
        flat = isinstance(points, Affine) and len(points) > len(points.directions)
        first_layers = flat or (isinstance(points, Rows) and choice.share > 1)
        size = min(choice.batch_size, len(samples))
        blocks = [
            range(start, min(start + size, samples.stop))
            for start in range(samples.start, samples.stop, size)
        ]
        lengths = {len(block) for block in blocks}
        return blocks, {length: self.plan(length, changing, first_layers) for length in lengths}

    def plan(self, samples: int, changing: frozenset[str], first_layers: bool = True) -> Plan:
        """How a batch of so many samples is computed.

        Args:
            samples: the length of the batch.
            changing: names of the parameters that differ between points.
            first_layers: whether layers that see the same input at every point are treated apart.

        Raises:
            UnsupportedError: the forward pass cannot be recorded.
        """
        key = (samples, changing, first_layers)
        if key not in self._plans:
            if samples not in self._tapes:
                self._tapes[samples] = self._recorded(samples)
            self._plans[key] = make_plan(self._tapes[samples], changing, first_layers)
        return self._plans[key]

    def _recorded(self, samples: int) -> Tape:
        """A forward pass, on a copy of the model of its own, whose buffers nothing else writes."""
        objective = self.objective
        replica = self._evaluator.make_replica()
        with (
            torch.no_grad(),
            fused(self._evaluator.may_fuse),
            replica.linked(objective.model),  # hooks and functions that close over it
        ):
            entries = objective.layout.parameters
            names = {e.name: p for e, p in zip(entries, replica.parameters, strict=True)}
            tape = record(replica.model, objective.inputs_of(0, samples), names)
        rewrite(tape.graph)
        return tape


def wait_for(device: torch.device) -> None:
    """Waits until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
