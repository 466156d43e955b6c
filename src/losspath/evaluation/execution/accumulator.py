"""Outputs that come batch by batch, gathered into the losses and accuracies of points."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from losspath.evaluation.quantities import Count, Evaluation

# Counts a point's outputs for some samples: (number of the point, outputs, samples).
Counter = Callable[[int, Any, range], Count]

# Of outputs that are kept until a point's loss is taken of all of them.
_OUTPUT_BYTES = 64 << 20


class OutputAccumulator:
    """Losses and accuracies of points, from outputs that come batch by batch, in any order.

    Args:
        count: takes the losses; it is called by one thread at a time.
        total: makes an evaluation of them.
        points: how many points there are.
        samples: which samples.
        together: whether the losses of several batches may be taken at once.
    """

    def __init__(
        self,
        count: Counter,
        total: Callable[[list[Count]], Evaluation],
        points: int,
        samples: range,
        together: bool = True,
    ) -> None:
        self._count, self._total = count, total
        self._points, self._samples, self._may_keep = points, samples, together
        self._lock = threading.Lock()
        self._kept: dict[int, torch.Tensor] = {}
        self._blocks: list[list[tuple[int, int]]] = [[] for _ in range(points)]
        self._parts: list[dict[int, Count]] = [{} for _ in range(points)]

    def add(self, number: int, start: int, stop: int, outputs: Any) -> None:
        """Takes a point's outputs for the samples start … stop−1."""
        with self._lock:
            kept = self._room_for(number, outputs, stop - start)
        if kept is not None:
            begin = self._samples.start
            kept[start - begin : stop - begin] = outputs
            self._blocks[number].append((start, stop))
            return
        with self._lock:  # a loss function of one's own need not bear several threads
            self._parts[number][start] = self._count(number, outputs, range(start, stop))

    def _room_for(self, number: int, outputs: Any, samples: int) -> torch.Tensor | None:
        """Where a point's outputs are kept; None where they have to be counted at once."""
        # The loss of all samples at once costs less than that of many batches.
        if not self._may_keep:
            return None
        if not isinstance(outputs, torch.Tensor) or outputs.shape[:1] != (samples,):
            return None
        shape = (len(self._samples), *outputs.shape[1:])
        if number in self._kept:
            kept = self._kept[number]
            return kept if (kept.shape, kept.dtype) == (shape, outputs.dtype) else None
        size = outputs.element_size() * outputs.numel() // samples
        if size * len(self._samples) * self._points > _OUTPUT_BYTES:
            return None
        self._kept[number] = outputs.new_empty(shape)
        return self._kept[number]

    def evaluations(self) -> list[Evaluation]:
        """The evaluation of each point."""
        return [self._evaluation(number) for number in range(self._points)]

    def _evaluation(self, number: int) -> Evaluation:
        parts, blocks = dict(self._parts[number]), self._blocks[number]
        if not parts:
            parts[0] = self._count(number, self._kept[number], self._samples)
        else:
            # The form of outputs may depend on the batch, as of a model that squeezes.
            for start, stop in blocks:
                begin = self._samples.start
                outputs = self._kept[number][start - begin : stop - begin]
                parts[start] = self._count(number, outputs, range(start, stop))
        return self._total([part for _, part in sorted(parts.items())])
