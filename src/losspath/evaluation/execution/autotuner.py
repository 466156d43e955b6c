"""Which way of evaluating many points is the quickest, by trial."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from losspath.evaluation.base import BaseObjective
from losspath.evaluation.data import Batches
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.execution.fast import FastEvaluator, wait_for
from losspath.evaluation.execution.points import Points, Rows, sides_at
from losspath.evaluation.execution.tuning import EngineConfig

# Of points in a group: fewer share too little, more keep results waiting.
GROUP_POINTS = (8, 128)
_GROUP_SECONDS = 4.0  # between results, about

_TRIAL_POINTS = (4, 28)
_TRIAL_BATCHES = 2
_TYPICAL_GROUP = 48
# What measuring may take: so many seconds, and a share of what is to be done.
_MEASURED_SECONDS, _MEASURED_SHARE = 2.0, 0.02
# What is good for most networks is left only for what is quicker by more than the noise.
_CLEARLY = 0.95


def usual_config(objective: BaseObjective, points: Points) -> EngineConfig:
    """What is good for most networks."""
    own_batches = isinstance(objective.data, Batches)
    if objective.device.type != "cpu":
        share = 8 if isinstance(points, Rows) else 1
        return EngineConfig(
            batch_size=0 if own_batches else 1000,
            threads=1,
            first_layer_group=share,
            group_size=GROUP_POINTS[1],
            vmap_size=16,
        )
    return EngineConfig(
        batch_size=0 if own_batches else min(100, objective.batch_size),
        threads=torch.get_num_threads(),
        first_layer_group=4 if isinstance(points, Rows) else 1,
        group_size=GROUP_POINTS[1],
    )


class Autotuner:
    """Measures how long points take by each config.

    Args:
        evaluator: the plain loop.
        fast: what is measured.
    """

    def __init__(self, evaluator: Evaluator, fast: FastEvaluator) -> None:
        self._objective = evaluator.objective
        self._evaluator, self._fast = evaluator, fast

    def quickest(self, points: Points, total: int) -> EngineConfig:
        """The quickest of some configs on a few points and samples."""
        best, separate = usual_config(self._objective, points), isinstance(points, Rows)
        fields: dict[str, tuple[int, ...]] = {"batch_size": (50, 200)}
        if self._objective.device.type != "cpu":
            fields = {"vmap_size": (1, 64), "batch_size": (250, 5000)}
        if not self._fast.units.together:
            del fields["batch_size"]
        if separate:
            fields["first_layer_group"] = (8, 1)
        if best.threads > 1:
            fields["threads"] = (1,)
        if any(len(entry.shape) == 4 for entry in self._objective.layout.parameters):
            fields["channels_last"] = (True,)
        began, best_time = time.perf_counter(), self._trial(points, best)
        changes: list[dict[str, Any]] = [
            {name: value} for name, values in fields.items() for value in values
        ]
        for change in [*changes, {"plain": True}]:
            other = replace(best, **change)
            times = {best: best_time, other: float("inf")}
            # Twice by turns: a machine that others use as well is slow for seconds at a time.
            for config in (other, best, other):
                spent = time.perf_counter() - began
                if spent > _MEASURED_SECONDS + _MEASURED_SHARE * best_time * total:
                    break  # a slow network: what there is must do
                times[config] = min(times[config], self._trial(points, config))
            best_time = times[best]
            if times[other] < _CLEARLY * best_time:
                best, best_time = other, times[other]
        group_size = int(np.clip(_GROUP_SECONDS / best_time, *GROUP_POINTS))
        return replace(best, group_size=group_size, point_seconds=best_time)

    def with_fewer_threads(self, points: Points, config: EngineConfig) -> EngineConfig:
        """A config without threads of its own where that is quicker by now, or else the same.

        Where other processes keep the cores busy, threads wait for each other.
        """
        alone = replace(config, threads=1)
        times = {each: self._trial(points, each) for each in (config, alone)}
        for each in (alone, config):  # twice by turns, as above
            times[each] = min(times[each], self._trial(points, each))
        return alone if times[alone] < _CLEARLY * times[config] else config

    def _trial(self, points: Points, config: EngineConfig) -> float:
        """Seconds a point, in a group of the usual size; infinite where it cannot be done."""
        try:
            return self._plain_seconds(points) if config.plain else self._seconds(points, config)
        except torch.cuda.OutOfMemoryError:
            pass
        except Exception:
            if config.vmap_size == 1:
                raise
        torch.cuda.empty_cache()
        return float("inf")

    def _seconds(self, points: Points, config: EngineConfig) -> float:
        counts, took = sorted({min(len(points), count) for count in _TRIAL_POINTS}), []
        units, size = self._fast.units.count, config.threads * (config.batch_size or 1)
        samples = range(min(units, _TRIAL_BATCHES * size))
        self._fast.evaluate(points.part(0, 1), config, samples)  # warm
        for count in counts:
            times: list[float] = []
            self._fast.evaluate(points.part(0, count), config, samples, times.append)
            took.append(float(np.median(times)))
        # What is done once for all points of a group is told from what each of them costs.
        each, once = took[-1] / counts[-1], 0.0
        if len(counts) > 1:
            each = max(took[1] - took[0], 0.0) / (counts[1] - counts[0])
            once = max(took[0] - each * counts[0], 0.0)
        return (each + once / _TYPICAL_GROUP) * units / size

    def _plain_seconds(self, points: Points) -> float:
        samples = min(len(self._objective), _TRIAL_BATCHES * self._objective.batch_size)
        (vector,) = points.part(0, 1).vectors()
        began = time.perf_counter()
        self._evaluator.evaluate(vector, samples, sides_at(points, 0))
        wait_for(self._objective.device)
        return (time.perf_counter() - began) * len(self._objective) / samples
