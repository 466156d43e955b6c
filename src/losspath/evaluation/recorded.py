"""An objective along a recorded path: its states' parameters by name, and their own buffers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ModelError
from losspath.evaluation.objective import Objective
from losspath.evaluation.replica import Sides
from losspath.files import digest_of
from losspath.parameters import (
    Entry,
    Layout,
    dtype_name,
    layer_of,
    named_parameters,
    side_tensors,
    unwrapped,
)
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]

# Batch normalisation counts its batches, and evaluates the same whatever the count.
_UNUSED = "num_batches_tracked"


class PathObjective:
    """An objective for the states of a path, and for what is blended of them.

    States are evaluated each with the side tensors (buffers, frozen parameters) that were recorded
    with it. A blend of states has the same blend of their floating-point buffers, with what is left
    of the weights on the path's mean; what is nowhere negative along the path, as variances are,
    is not in a blend; other buffers are those of the nearest state. Arrays have no buffers: the
    model's own are used, as with ``buffers="model"``.

    Args:
        objective: the loss.
        path: the states.

    Attributes:
        objective: the loss over the path's parameters; where side tensors are the same at all
            states, with those.
        varies: whether states differ in their side tensors.

    Raises:
        ModelError: the path is of another network than the objective's model.
    """

    def __init__(self, objective: Objective, path: StateSequence) -> None:
        self.objective = _over_parameters_of(path, objective)
        self._path = cast(Any, path)
        self.varies = False
        self._keys: list[str] = []
        if not hasattr(self._path, "side_key") or objective.buffers == "model":
            return
        self._keys = [self._path.side_key(index) for index in range(len(path))]
        if len(set(self._keys)) > 1:
            self.varies = True
        sides: Sides = self._path.sides(0)
        if not self.varies and not _has(objective.model, sides):
            self.objective = self.objective.with_sides(sides, self._keys[0])
        if sides and objective.buffers is None:
            self.objective = self.objective.with_buffers("recorded")

    @property
    def describes_buffers(self) -> bool:
        """Whether the model has buffers whose origin a reader of the losses should know."""
        return any(True for _ in self.objective.model.buffers())

    def sides_of(self, index: int) -> Sides | None:
        """The side tensors of a state; None where the objective has them already."""
        return self._path.sides(index) if self.varies else None

    def for_points(self, is_flat: bool) -> Objective:
        """The objective of points: on a flat surface all have the path's mean buffers.

        Args:
            is_flat: whether points get no weights of states.
        """
        if not self.varies or not is_flat or self.has_choices:
            return self.objective
        return self.objective.with_sides(self._mean, digest_of("mean", self._keys))

    def sides_of_points(
        self, points: Floats, weights: Floats | None, path: Floats
    ) -> list[Sides] | None:
        """Side tensors of points; None where `for_points` has them.

        Args:
            points: (G, 2) where they are in the plane.
            weights: (G, T) weights of states; None for a flat surface.
            path: (T, 2) where the states are.
        """
        if not self.varies or (weights is None and not self.has_choices):
            return None
        blends = self._blended(np.zeros((len(points), 0)) if weights is None else weights)
        nearest = [int(np.square(path - point).sum(axis=1).argmin()) for point in points]
        return [
            {**self._choices_of(index), **self._unflattened(blend)}
            for index, blend in zip(nearest, blends, strict=True)
        ]

    def between(
        self, first: int, second: int, alpha: float, layer: str | None = None
    ) -> Sides | None:
        """Side tensors on the line from one state to another, and those of the nearer end beyond.

        What is no parameter is not drawn on past the states that it was recorded at: a variance
        would fall below zero.

        Args:
            first: the state at α = 0, and before.
            second: the state at α = 1, and after.
            alpha: where.
            layer: of this layer alone, with all others as at the second; None for the whole model.
        """
        if not self.varies:
            return None
        one, other = self._path.sides(first), dict(self._path.sides(second))
        for name, value in other.items():
            if layer is not None and layer_of(name) != layer:
                continue
            before = one.get(name)
            if before is None or before.shape != value.shape:
                continue
            if _is_blended(value) and 0.0 < alpha < 1.0:
                other[name] = before + (value - before) * alpha
            else:
                other[name] = value if alpha >= 0.5 else before
        return other

    def fingerprint(self, indices: list[int], vectors: npt.NDArray[Any]) -> list[object]:
        """What tells this objective from another, by its values at some states.

        Args:
            indices: which states.
            vectors: (k, P) their parameters.
        """
        sides = [self.sides_of(index) for index in indices]
        return [
            *self.objective.fingerprint(vectors, sides),
            "each state's own" if self.varies else "",
        ]

    # -- blends ---------------------------------------------------------------------------------

    @cached_property
    def _blended_names(self) -> dict[str, torch.Tensor]:
        """The floating-point side tensors that all states have in one form, of the last state."""
        last = dict(self._path.sides(len(self._path) - 1))
        first = self._path.sides(0)
        return {
            name: value
            for name, value in last.items()
            if _is_blended(value) and name in first and first[name].shape == value.shape
        }

    def _flat(self, index: int) -> Floats:
        sides = self._path.sides(index)
        parts = [sides[name].double().reshape(-1) for name in self._blended_names if name in sides]
        flat: Floats = torch.cat(parts).numpy() if parts else np.zeros(0)
        return flat

    def _unflattened(self, values: Floats) -> dict[str, torch.Tensor]:
        tensors, done = {}, 0
        for name, like in self._blended_names.items():
            part = torch.from_numpy(values[done : done + like.numel()])
            tensors[name] = part.to(like.dtype).view(like.shape)
            done += like.numel()
        return tensors

    @cached_property
    def _range(self) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The mean over the path, and which numbers are nowhere negative."""
        total, lowest = self._flat(0).copy(), self._flat(0).copy()
        for index in range(1, len(self._path)):
            values = self._flat(index)
            total += values
            np.minimum(lowest, values, out=lowest)
        return total / len(self._path), lowest >= 0

    def _blended(self, weights: Floats) -> Iterator[Floats]:
        """(B,) the blended side tensors of each point."""
        mean, positive = self._range
        blends = (1 - weights.sum(axis=1))[:, None] * mean
        for index in range(weights.shape[1]):
            if weights[:, index].any():
                blends += weights[:, index, None] * self._flat(index)
        blends[:, positive] = np.maximum(blends[:, positive], 0.0)
        yield from blends

    @cached_property
    def _mean(self) -> dict[str, torch.Tensor]:
        last = len(self._path) - 1
        return {**self._path.sides(last), **self._unflattened(self._range[0])}

    @cached_property
    def has_choices(self) -> bool:
        """Whether states differ in side tensors that cannot be blended."""
        if not self.varies:
            return False
        first: dict[str, torch.Tensor] | None = None
        for index in self._distinct:
            others = {
                name: value
                for name, value in self._path.sides(index).items()
                if name not in self._blended_names and not name.endswith(_UNUSED)
            }
            if first is None:
                first = others
            elif first.keys() != others.keys() or any(
                not _equal(first[name], value) for name, value in others.items()
            ):
                return True
        return False

    @cached_property
    def _distinct(self) -> list[int]:
        """The first state of each set of side tensors."""
        return list(
            dict(zip(reversed(self._keys), reversed(range(len(self._keys))), strict=True)).values()
        )[::-1]

    def _choices_of(self, index: int) -> dict[str, torch.Tensor]:
        return {
            name: value
            for name, value in self._path.sides(index).items()
            if name not in self._blended_names
        }


def along(objective: Objective, path: StateSequence) -> PathObjective:
    """The objective for a path's states; see `PathObjective`.

    Raises:
        ModelError: the path is of another network than the objective's model.
    """
    return PathObjective(objective, path)


def path_notes(path: StateSequence) -> dict[str, list[str]]:
    """What a reader of results must know of the path that they are of, for their provenance."""
    notes = list(getattr(path, "notes", []))
    return {"path_notes": notes} if notes else {}


def _over_parameters_of(path: StateSequence, objective: Objective) -> Objective:
    """The objective over the parameters that the path has, found by their names."""
    layout: Layout | None = getattr(path, "layout", None)
    if layout is None:
        if path.parameter_count == objective.whole_layout.parameter_count:
            if path.parameter_count != objective.parameter_count:
                return objective.with_layout(objective.whole_layout)
        elif path.parameter_count != objective.parameter_count:
            raise ModelError(
                f"the path has states of {path.parameter_count:,} numbers, the objective's model "
                f"{objective.parameter_count:,} parameters"
            )
        return objective
    if [(e.name, e.shape) for e in layout.parameters] == [
        (e.name, e.shape) for e in objective.layout.parameters
    ]:
        return objective
    model = dict(named_parameters(unwrapped(objective.model)))
    whole = {entry.name: entry for entry in objective.whole_layout.parameters}
    recorded = {entry.name for entry in layout.parameters} | set(getattr(path, "side_kinds", {}))
    fits = all(
        entry.name in whole and whole[entry.name].shape == entry.shape
        for entry in layout.parameters
    )
    if not fits or any(name not in recorded for name in whole):
        layout.check_same(objective.whole_layout, "the recorded path", "the objective's model")
    entries = tuple(
        Entry(e.name, e.shape, dtype_name(model[e.name]), "parameter", e.offset)
        for e in layout.parameters
    )
    return objective.with_layout(Layout(entries))


def _is_blended(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point()


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.equal(one, other)) or bool(
        one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )


def _has(model: torch.nn.Module, sides: Sides) -> bool:
    """Whether a model's own side tensors are these."""
    layout = Layout.of(model, dtype="float64", allow_complex=True)
    own = {each.name: each.tensor for each in side_tensors(unwrapped(model), layout)}
    own |= dict(named_parameters(unwrapped(model)))
    return all(
        name in own and _equal(own[name].detach().cpu(), value) for name, value in sides.items()
    )
