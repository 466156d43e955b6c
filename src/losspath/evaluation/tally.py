"""Outputs that come batch by batch, gathered into the losses and accuracies of points."""

from __future__ import annotations

import threading
from typing import Any

import torch

from losspath.evaluation.objective import Count, Evaluation, Objective

# Of outputs that are kept until a point's loss is taken of all of them.
_OUTPUT_BYTES = 64 << 20


class Tally:
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
