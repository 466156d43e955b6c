"""One batch through a group of points: what is shared is computed once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.evaluation.plan import Plan, Site
from losspath.evaluation.points import Affine, Points
from losspath.parameters import Layout, unflatten

Tensors = dict[str, torch.Tensor]


class Group:
    """Points that are evaluated together, ready for any number of batches.

    Args:
        layout: what lies where in a parameter vector.
        points: the points.
        share: points whose first layers are computed in one wide call, if nothing else is known.
    """

    def __init__(self, layout: Layout, points: Points, share: int) -> None:
        self._layout = layout
        self._named = [self._tensors(vector) for vector in points.vectors()]
        self._coefficients: list[list[float]] | None = None
        if isinstance(points, Affine):
            self._coefficients = points.coefficients.tolist()
            self._origin = self._tensors(points.origin)
            self._directions = [self._tensors(direction) for direction in points.directions]
            self._changing = points.changing(layout)
        self._share = share
        self._lock = threading.Lock()
        self._arguments: dict[int, list[tuple[torch.Tensor, ...]]] = {}
        self._wide: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor | None]] = {}

    def _tensors(self, vector: npt.NDArray[Any]) -> Tensors:
        wide = any(entry.dtype in ("float64", "complex128") for entry in self._layout.entries)
        staged = np.array(vector, np.float64 if wide else np.float32)
        return unflatten(torch.from_numpy(staged), self._layout)

    def outputs(self, plan: Plan, inputs: torch.Tensor) -> Iterator[tuple[int, Any]]:
        """The outputs for a batch at every point; each is valid until the next is asked for."""
        fixed = [self._named[0][name] for name in plan.shared_parameters]
        values = plan.shared(inputs, *fixed, *plan.shared_constants)
        seen, carried = values[: len(plan.sites)], values[len(plan.sites) :]
        arguments = self._arguments_of(plan)
        for number, results in self._results(plan.sites, seen):
            yield number, plan.point(*carried, *results, *arguments[number])

    def _arguments_of(self, plan: Plan) -> list[tuple[torch.Tensor, ...]]:
        with self._lock:
            if id(plan) not in self._arguments:
                self._arguments[id(plan)] = [
                    (*(named[name] for name in plan.point_parameters), *plan.point_constants)
                    for named in self._named
                ]
            return self._arguments[id(plan)]

    def _results(
        self, sites: tuple[Site, ...], seen: tuple[torch.Tensor, ...]
    ) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """For each point the results of the layers that see the same input at all of them."""
        if not sites:
            yield from ((number, []) for number in range(len(self._named)))
        elif self._coefficients is not None:
            yield from self._combined(sites, seen, self._coefficients)
        else:
            for start in range(0, len(self._named), self._share):
                count = min(self._share, len(self._named) - start)
                together = [
                    self._of_several(site, value, start, count)
                    for site, value in zip(sites, seen, strict=True)
                ]
                for offset in range(count):
                    yield start + offset, [results[offset] for results in together]

    def _combined(
        self,
        sites: tuple[Site, ...],
        seen: tuple[torch.Tensor, ...],
        coefficients: list[list[float]],
    ) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """A layer linear in its parameters: its results on a plane are combinations of three."""
        parts = [self._parts(site, value) for site, value in zip(sites, seen, strict=True)]
        buffers = [torch.empty_like(origin) for origin, _ in parts]
        for number, factors in enumerate(coefficients):
            for (origin, directions), buffer in zip(parts, buffers, strict=True):
                torch.add(origin, directions[0], alpha=factors[0], out=buffer)
                for direction, factor in zip(directions[1:], factors[1:], strict=True):
                    buffer.add_(direction, alpha=factor)
            yield number, buffers

    def _parts(self, site: Site, inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        bias = None if site.bias is None else self._origin[site.bias]
        origin = site(inputs, self._origin[site.weight], bias)
        directions = [
            # A bias that does not change is in the origin's part alone.
            site(
                inputs,
                named[site.weight],
                named[site.bias] if site.bias in self._changing else None,
            )
            for named in self._directions
        ]
        return origin, directions

    def _of_several(
        self, site: Site, inputs: torch.Tensor, start: int, count: int
    ) -> tuple[torch.Tensor, ...]:
        if not site.can_share:
            return tuple(
                site(inputs, named[site.weight], None if site.bias is None else named[site.bias])
                for named in self._named[start : start + count]
            )
        weight, bias = self._wide_weights(site, start, count)
        return site(inputs, weight, bias).chunk(count, dim=site.axis)

    def _wide_weights(
        self, site: Site, start: int, count: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        key = (site.weight, start)
        with self._lock:
            if key not in self._wide:
                several = self._named[start : start + count]
                weight = torch.cat([named[site.weight] for named in several])
                bias = None
                if site.bias is not None:
                    bias = torch.cat([named[site.bias] for named in several])
                self._wide[key] = (weight, bias)
            return self._wide[key]
