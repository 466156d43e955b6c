"""An objective along a recorded path: its states' parameters by name, and their own buffers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import LosspathError, LosspathWarning, ModelError
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.files import digest_of
from losspath.parameters import (
    Entry,
    Layout,
    dtype_name,
    layer_of,
    named_modules,
    named_parameters,
    side_tensors,
    unwrapped,
)
from losspath.recording.paths import ends_of
from losspath.recording.trajectory import StateSequence, starts_of

Floats = npt.NDArray[np.float64]

# Batch normalisation counts its batches, and evaluates the same whatever the count.
_UNUSED = "num_batches_tracked"


class PathObjective:
    """An objective for the states of a path, and for what is blended of them.

    States are evaluated each with the side tensors (buffers, frozen parameters) that were recorded
    with it. A blend of states has the same blend of their floating-point buffers, with what is left
    of the weights on the path's mean; what is nowhere negative along the path, as variances are,
    is not in a blend; other buffers, and those that not all states have in one form, are those of
    the nearest state. Arrays have no buffers: the
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
        self._prefix = _prefix_of(path, objective)
        self._keys: list[str] = []
        records = getattr(self._path, "records_sides", hasattr(self._path, "side_key"))
        if not records or objective.buffers == "model":
            if objective.buffers == "recorded":  # an array has none
                self.objective = self.objective.with_buffers("model")
            return
        self._keys = [self._path.side_key(index) for index in range(len(path))]
        if len(set(self._keys)) > 1:
            self.varies = True
        sides: Sides = self._recorded(0)
        if not self.varies and not _has(objective.model, sides):
            self.objective = self.objective.with_sides(sides, self._keys[0])
        if self._side_kinds and objective.buffers is None:
            self.objective = self.objective.with_buffers("recorded")
        self._check_places()

    def _check_places(self) -> None:
        """Finds out how the model goes without a buffer, and warns of what it has no module for."""
        modules = dict(named_modules(unwrapped(self.objective.model)))
        strange = [name for name in self._buffers if _has_no_place(name, modules)]
        if strange:
            note = f"the model has no place for what was recorded of buffers: {strange[0]}"
            self.objective.notes = [*self.objective.notes, note]
            warnings.warn(note, LosspathWarning, stacklevel=5)
        ends = ends_of(list(starts_of(self._path).values()), len(self._path))
        absent = [i for i in ends if None in (self.sides_of(i) or {}).values()]
        if not absent:
            return
        state, sides = self._path.read(absent[0], absent[0] + 1)[0], self.sides_of(absent[0])
        parts = self.objective.data.parts()[:1]
        try:
            Evaluator(self.objective).evaluate(state, sides=sides, parts=parts)
        except LosspathError:  # None where there was no attribute
            self.objective = copy.copy(self.objective)
            self.objective.deletes = True

    @property
    def describes_buffers(self) -> bool:
        """Whether the model has buffers whose origin a reader of the losses should know.

        Those that were recorded and never changed, as tables of positions, are no such ones: they
        are the same at every point.
        """
        if self.objective.buffers == "recorded" and not self.varies:
            return False
        return any(True for _ in self.objective.model.buffers())

    def sides_of(self, index: int) -> Sides | None:
        """The side tensors of a state; None where the objective has them already."""
        return self._sides(index) if self.varies else None

    @cached_property
    def _side_kinds(self) -> dict[str, str]:
        # A path of the caller's own may not know.
        kinds: dict[str, str] = getattr(self._path, "side_kinds", {})
        kinds = kinds or dict.fromkeys(self._path.sides(0), "buffer")
        return {self._prefix + name: kind for name, kind in kinds.items()}

    def _recorded(self, index: int) -> dict[str, torch.Tensor]:
        """The side tensors of a state, as the model calls them."""
        sides = self._path.sides(index)
        return {self._prefix + name: tensor for name, tensor in sides.items()}

    @property
    def _buffers(self) -> list[str]:
        """The names of all buffers that there were at any time."""
        return [name for name, kind in self._side_kinds.items() if kind == "buffer"]

    def _sides(self, index: int) -> dict[str, torch.Tensor | None]:
        return {**dict.fromkeys(self._buffers), **self._recorded(index)}

    def for_points(self, is_flat: bool) -> Objective:
        """The objective of points: on a flat surface all have the path's mean buffers.

        Args:
            is_flat: whether points get no weights of states.
        """
        if not self.varies or not is_flat or self.has_choices:
            return self.objective
        last = self._sides(len(self._path) - 1)
        mean = {**last, **self._unflattened(self._range[0])}
        return self.objective.with_sides(mean, digest_of("mean", self._keys))

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
        chosen = {index: self._choices_of(index) for index in {*nearest}}
        return [
            {**self._kinds.constant, **chosen[index], **self._unflattened(blend)}
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
        one, other = self._sides(first), self._sides(second)
        for name, value in other.items():
            if layer is not None and layer_of(name) != layer:
                continue
            before = one.get(name)
            is_between = _is_blended(value) and _is_like(before, value) and 0.0 < alpha < 1.0
            if is_between and before is not None and value is not None:
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
    def _kinds(self) -> _Kinds:
        """What side tensors do along the path; one pass over those that differ."""
        first = self._sides(self._distinct[0])
        alike, constant = set(first), set(first)
        for index in self._distinct[1:]:
            others = self._sides(index)
            alike = {name for name in alike if _is_like(first[name], others.get(name))}
            constant = {name for name in constant & alike if _equal(first[name], others[name])}
        blended = {n: v for n, v in first.items() if n in alike - constant and _is_blended(v)}
        return _Kinds(
            constant={name: value for name, value in first.items() if name in constant},
            blended={name: value for name, value in blended.items() if value is not None},
        )

    def _flat(self, index: int) -> Floats:
        sides = self._recorded(index)
        parts = [sides[name].double().reshape(-1) for name in self._kinds.blended]
        flat: Floats = torch.cat(parts).numpy() if parts else np.zeros(0)
        return flat

    def _unflattened(self, values: Floats) -> dict[str, torch.Tensor]:
        tensors, done = {}, 0
        for name, like in self._kinds.blended.items():
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
    def has_choices(self) -> bool:
        """Whether states differ in side tensors that cannot be blended."""
        if not self.varies:
            return False
        return any(not name.endswith(_UNUSED) for name in self._choices_of(0))

    @cached_property
    def _distinct(self) -> list[int]:
        """The first state of each set of side tensors."""
        return list(
            dict(zip(reversed(self._keys), reversed(range(len(self._keys))), strict=True)).values()
        )[::-1]

    def _choices_of(self, index: int) -> dict[str, torch.Tensor | None]:
        kinds = self._kinds
        return {
            name: value
            for name, value in self._sides(index).items()
            if name not in kinds.constant and name not in kinds.blended
        }


def _has_no_place(name: str, modules: Mapping[str, torch.nn.Module]) -> bool:
    """Whether a model has no module for a buffer, or one without running statistics."""
    place, _, leaf = name.rpartition(".")
    if place not in modules:
        return True
    return leaf in ("running_mean", "running_var") and not hasattr(modules[place], leaf)


@dataclass(frozen=True)
class _Kinds:
    """What side tensors do along a path.

    Attributes:
        constant: those that are the same at all states.
        blended: floating-point ones that all states have in one form, of the first state. Others
            are those of the nearest state.
    """

    constant: Sides
    blended: Mapping[str, torch.Tensor]


def along(objective: Objective, path: StateSequence) -> PathObjective:
    """The objective for a path's states; see `PathObjective`.

    Raises:
        ModelError: the path is of another network than the objective's model.
    """
    return PathObjective(objective, path)


def _over_parameters_of(path: StateSequence, objective: Objective) -> Objective:
    """The objective over the parameters that the path has, found by their names."""
    layout: Layout | None = getattr(path, "layout", None)
    if hasattr(path, "layout_in"):  # as the model calls its parameters
        layout = path.layout_in({entry.name for entry in objective.whole_layout.parameters})
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
    prefix = _prefix_of(path, objective)
    recorded = {entry.name for entry in layout.parameters}
    recorded |= {prefix + name for name in getattr(path, "side_kinds", {})}
    fits = all(
        entry.name in whole and whole[entry.name].shape == entry.shape
        for entry in layout.parameters
    )
    trained = {entry.name for entry in objective.layout.parameters}
    if trained == {entry.name for entry in layout.parameters}:
        recorded |= set(whole)  # in another order; frozen ones that it has not are the model's own
    missing = [name for name in whole if name not in recorded]
    if fits and missing:
        raise ModelError(
            f"the recorded path has a part of the model's parameters, and lacks {missing[0]}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
            + ", without which it has no loss; record all that are trained, or take its step sizes "
            "and planes alone"
        )
    if not fits:
        layout.check_same(objective.whole_layout, "the recorded path", "the objective's model")
    entries = tuple(
        Entry(e.name, e.shape, dtype_name(model[e.name]), "parameter", e.offset)
        for e in layout.parameters
    )
    return objective.with_layout(Layout(entries))


def _prefix_of(path: StateSequence, objective: Objective) -> str:
    """What the path's names begin with besides in the objective's model."""
    layout: Layout | None = getattr(path, "layout", None)
    if layout is None or not hasattr(path, "layout_in"):
        return ""
    named: Layout = path.layout_in({entry.name for entry in objective.whole_layout.parameters})
    return named.parameters[0].name.removesuffix(layout.parameters[0].name)


def _is_blended(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.is_floating_point()


def _is_like(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None or not _is_like(one, other):
        return one is other
    return bool(torch.equal(one, other)) or bool(
        one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )


def _has(model: torch.nn.Module, sides: Sides) -> bool:
    """Whether a model's own side tensors are these."""
    layout = Layout.of(model, dtype="float64", allow_complex=True)
    own = {each.name: each.tensor for each in side_tensors(unwrapped(model), layout)}
    own |= dict(named_parameters(unwrapped(model)))
    return all(
        value is None or (name in own and _equal(own[name].detach().cpu(), value))
        for name, value in sides.items()
    )
