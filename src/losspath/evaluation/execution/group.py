"""One batch through a group of points: what is shared is computed once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import UnsupportedError
from losspath.evaluation.compiler.first_layers import FirstLayer, Prepared
from losspath.evaluation.compiler.plan import Plan
from losspath.evaluation.execution.points import Affine, Points
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.parameters import Layout, unflatten

Tensors = dict[str, torch.Tensor]


class Group:
    """Points that are evaluated together, ready for any number of batches.

    Args:
        layout: what lies where in a parameter vector.
        points: the points.
        config: how they are evaluated.
        device: where they are.
    """

    def __init__(
        self, layout: Layout, points: Points, config: EngineConfig, device: torch.device
    ) -> None:
        self._layout = layout
        self._device = device
        self._vmap_size = config.vmap_size
        # (P,) each, in the precision that they are evaluated in.
        self.vectors = [self._staged(vector) for vector in points.vectors()]
        self._named = [unflatten(vector, layout) for vector in self.vectors]
        if points.sides is not None:
            for tensors, sides in zip(self._named, points.sides, strict=True):
                present = {n: t for n, t in sides.items() if t is not None}
                tensors.update({name: tensor.to(device) for name, tensor in present.items()})
        if config.channels_last:
            # What a convolution puts out has the layout of its weights, and so on from layer to
            # layer.
            for tensors in self._named:
                for name, tensor in tensors.items():
                    if tensor.dim() == 4:
                        tensors[name] = tensor.contiguous(memory_format=torch.channels_last)
        # Whose weights the first layers are computed with: the points', or on a plane those of
        # the origin and the directions. What is zero in a direction gives nothing there.
        self._several = self._named
        self._coefficients: list[list[float]] | None = None
        if isinstance(points, Affine):
            self._coefficients = points.coefficients.tolist()
            self._several = [
                unflatten(self._staged(vector), layout)
                for vector in (points.origin, *points.directions)
            ]
        self._first_layer_group = config.first_layer_group
        self._lock = threading.Lock()
        self._arguments: dict[int, list[tuple[torch.Tensor, ...]]] = {}
        self._together: dict[tuple[int, int], list[torch.Tensor]] = {}
        self._wide: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor | None]] = {}

    def _staged(self, vector: npt.NDArray[Any]) -> torch.Tensor:
        staged = np.array(vector, np.float64 if self._layout.is_wide else np.float32)
        return torch.from_numpy(staged).to(self._device)

    def outputs(self, plan: Plan, inputs: torch.Tensor) -> Iterator[tuple[int, Any]]:
        """The outputs for a batch at every point; each is valid until the next is asked for."""
        fixed = [self._named[0][name] for name in plan.shared_parameters]
        values = plan.shared(inputs, *fixed, *plan.shared_constants)
        seen, carried = values[: len(plan.first_layers)], values[len(plan.first_layers) :]
        if self._vmap_size > 1:
            yield from self._stacked(plan, carried, self._results(plan.first_layers, seen))
            return
        arguments = self._arguments_of(plan)
        for number, results in self._results(plan.first_layers, seen):
            yield number, plan.point(*carried, *results, *arguments[number])

    def _stacked(
        self,
        plan: Plan,
        carried: tuple[Any, ...],
        results: Iterator[tuple[int, Sequence[torch.Tensor]]],
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """The outputs of several points by one call."""
        given = len(plan.first_layers), len(plan.point_parameters), len(plan.point_constants)
        along = (*[None] * len(carried), *[0] * (given[0] + given[1]), *[None] * given[2])
        call = torch.vmap(plan.point, in_dims=along)
        for start in range(0, len(self._named), self._vmap_size):
            chunk = [
                # Copies, as a result may be written over for the next point.
                [result.clone() for result in each]
                for _, each in islice(results, self._vmap_size)
            ]
            firsts = [torch.stack(several) for several in zip(*chunk, strict=True)]
            parameters = self._parameters_of(plan, start)
            outputs = call(*carried, *firsts, *parameters, *plan.point_constants)
            if not isinstance(outputs, torch.Tensor):
                raise UnsupportedError("outputs that are no tensor cannot be stacked")
            yield from enumerate(outputs, start)

    def _parameters_of(self, plan: Plan, start: int) -> list[torch.Tensor]:
        key = (id(plan), start)
        with self._lock:
            if key not in self._together:
                several = self._named[start : start + self._vmap_size]
                self._together[key] = [
                    torch.stack([named[name] for named in several])
                    for name in plan.point_parameters
                ]
            return self._together[key]

    def _arguments_of(self, plan: Plan) -> list[tuple[torch.Tensor, ...]]:
        with self._lock:
            if id(plan) not in self._arguments:
                self._arguments[id(plan)] = [
                    (*(named[name] for name in plan.point_parameters), *plan.point_constants)
                    for named in self._named
                ]
            return self._arguments[id(plan)]

    def _results(
        self, first_layers: tuple[FirstLayer, ...], seen: tuple[torch.Tensor, ...]
    ) -> Iterator[tuple[int, Sequence[torch.Tensor]]]:
        """For each point the results of the layers that see the same input at all of them."""
        prepared = [
            layer.prepare(value, self._several[0][layer.weight])
            for layer, value in zip(first_layers, seen, strict=True)
        ]
        if self._coefficients is not None and first_layers:
            parts = [
                [part.contiguous() for part in self._of_several(each, 0, len(self._several))]
                for each in prepared
            ]
            yield from enumerate(_combined(parts, self._coefficients))
            return
        for start in range(0, len(self._named), self._first_layer_group):
            count = min(self._first_layer_group, len(self._named) - start)
            together = [self._of_several(each, start, count) for each in prepared]
            for offset in range(count):
                yield start + offset, [results[offset] for results in together]

    def _of_several(self, prepared: Prepared, start: int, count: int) -> Sequence[torch.Tensor]:
        layer = prepared.layer
        if layer.can_share:
            return prepared.results(*self._wide_weights(layer, start, count), count)
        return [
            prepared.results(named[layer.weight], named[layer.bias] if layer.bias else None, 1)[0]
            for named in self._several[start : start + count]
        ]

    def _wide_weights(
        self, layer: FirstLayer, start: int, count: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        key = (layer.weight, start)
        with self._lock:
            if key not in self._wide:
                several = self._several[start : start + count]
                weight = torch.cat([named[layer.weight] for named in several])
                bias = None
                if layer.bias is not None:
                    bias = torch.cat([named[layer.bias] for named in several])
                self._wide[key] = (weight, bias)
            return self._wide[key]


def _combined(
    parts: list[list[torch.Tensor]], coefficients: list[list[float]]
) -> Iterator[list[torch.Tensor]]:
    """A layer linear in its parameters: its results on a plane are combinations of three."""
    buffers = [torch.empty_like(origin) for origin, *_ in parts]
    for factors in coefficients:
        for (origin, *directions), buffer in zip(parts, buffers, strict=True):
            torch.add(origin, directions[0], alpha=factors[0], out=buffer)
            for direction, factor in zip(directions[1:], factors[1:], strict=True):
                buffer.add_(direction, alpha=factor)
        yield buffers
