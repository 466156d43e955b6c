"""Reading a model's state again and again, for little more than the copy itself."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import is_, methodcaller
from typing import Any

import torch

from losspath.errors import ModelError
from losspath.parameters import (
    Layout,
    copy_into,
    digest_of_numbers,
    flat,
    in_order,
    reshard,
    side_tensors,
)
from losspath.recording import snapshots
from losspath.recording.parts import Parts
from losspath.recording.sketch import Sketch, Sketcher
from losspath.recording.snapshots import Snapshot, snapshot_for
from losspath.recording.together import ShardGroup

_MOST_FINDS = 8
# Called at every step through `map`, which spares the interpreter's own steps.
_values = methodcaller("values")


class StateReader:
    """Copies a model's state into rows, again and again, for little more than the copy itself.

    Walking a module tree costs as much as copying a small network, so the tensors are found once;
    every read checks that each is still the one that the model uses.

    Args:
        model: the model to read.
        layout: the layout of its states.
        dtype: of the rows.
        sketch: what rows are made of states by; None where they are the states. Side tensors are
            of no use without states, so that there are none.
        group: the processes that have the model's parts; None where this one has it whole. Tensors
            are then gathered as they are iterated over, at most one large one at a time.

    Attributes:
        group: these processes.
        is_alone: whether the others may not take part in gathering any more.
        sides: the side tensors as `tensors` found them; another list when they were found anew.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        sketch: Sketch | None = None,
        group: ShardGroup | None = None,
    ) -> None:
        self.group, self.is_alone = group, False
        self._model = model
        self._row_dtype = dtype
        self._layout = layout
        self._sketcher = sketch and Sketcher(sketch, layout.parameter_count)
        self._begun_with: frozenset[str] | None = None
        self._finds = 0
        self._find()

    def _find(self) -> None:
        self._is_found = False  # until all is done that can fail
        if self.group is not None:  # after an evaluation some modules hold whole parameters
            reshard(self._model.modules())
        tensors = in_order(self._model, self._layout)
        sides = side_tensors(self._model, self._layout)
        if self._begun_with is None:  # those that are trained and were not asked for
            self._left_out = frozenset(
                side.name for side in sides if side.kind == "frozen" and side.tensor.requires_grad
            )
        sides = [side for side in sides if side.name not in self._left_out]
        frozen = {side.name: side.tensor for side in sides if side.kind == "frozen"}
        if self._begun_with is None:
            self._begun_with = frozenset(frozen)
        for name in sorted(frozen.keys() - self._begun_with):
            if frozen[name].requires_grad:
                raise ModelError(
                    f"the model has changed: parameter {name} was not there and requires a "
                    "gradient now; begin anew with the changed model"
                )
        # Every place of the module tree where a tensor or module could be exchanged for another.
        tables = [
            table
            for module in self._model.modules()
            for table in (module._parameters, module._buffers, module._modules)
        ]
        # TorchScript keeps its own tables, and hands out new objects every time.
        own = [table for table in tables if isinstance(table, dict)]
        self._is_scripted = len(own) < len(tables)
        self._filled = [table for table in own if table]
        self._empty = [table for table in own if not table]
        self._lengths = [len(table) for table in self._filled]
        self._names = [name for table in self._filled for name in table]
        self._held = [value for table in self._filled for value in table.values()]
        self._tensors, self.sides = tensors, [] if self._sketcher else sides
        self._side_tensors = [side.tensor for side in self.sides]
        self._parts: Parts | None = None
        if self.group is not None:
            self._parts = Parts(self._layout, tensors, self.sides, self.group)
            self.sides = self._parts.sides
        self._forms = _forms(tensors)
        self._side_forms = _forms(self._side_tensors)
        # Memory that is held cannot be given to another tensor, that would then look the same.
        self._memory = [tensor.detach() for tensor in (*tensors, *self._side_tensors)]
        # Contiguous tensors are read through the same views every time.
        views = tensors if self._parts is None else []
        self._views = [flat(tensor) for tensor in views]
        self._are_views = bool(views) and all(tensor.is_contiguous() for tensor in views)
        devices = {view.device for view in self._views}
        self._is_on_a_gpu = len(devices) == 1 and next(iter(devices)).type != "cpu"
        # The dtype of all, where they can be copied into a row of it as they are.
        dtypes = {view.dtype if view.device.type == "cpu" else None for view in self._views}
        self._dtype = dtypes.pop() if len(dtypes) == 1 else None
        self._snapshot: Snapshot | None = None
        # A model whose tensors are others at every step would need other memory for each.
        self._finds += 1
        self._may_snap = self._are_views and self._finds <= _MOST_FINDS
        self._is_found = not self._is_scripted

    def _is_as_found(self) -> bool:
        # `tensor.data = other` and `model.double()` keep the parameter and change its form.
        return (
            self._is_found
            and not any(self._empty)  # most tables of most modules
            and self._lengths == list(map(len, self._filled))
            and self._names == list(chain.from_iterable(self._filled))
            and all(map(is_, self._held, chain.from_iterable(map(_values, self._filled))))
            and self._forms == _forms(self._tensors)
            and (not self._side_tensors or self._side_forms == _forms(self._side_tensors))
            and (self._parts is None or self._parts.is_as_found())
        )

    def tensors(self) -> Iterable[torch.Tensor]:
        """The tensors of a row in order, detached and one-dimensional, on their device.

        Those of a sharded model are gathered each time that they are iterated over.

        Raises:
            ModelError: the model is no longer the network that the layout describes.
        """
        if not self._is_as_found():
            self._find()
        if self._parts is not None:
            return self._parts
        return self._views if self._are_views else [flat(tensor) for tensor in self._tensors]

    def row_on_device(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """What a row is put together of, where the model is.

        Args:
            tensors: as `tensors` has given them.
        """
        return self._sketcher.by_device(tensors) if self._sketcher else list(tensors)

    def snapshot(self, tensors: Iterable[torch.Tensor]) -> Snapshot | None:
        """What copies states of this form while training goes on; None where that cannot be done.

        Args:
            tensors: as `tensors` has just given them.
        """
        if self._may_snap and isinstance(tensors, list):
            self._may_snap = False  # once, until tensors are found anew
            places = {tensor.device for tensor in tensors}
            if len(places) == 1 and next(iter(places)).type in snapshots.DEVICES:
                row = self.row_on_device(tensors)
                self._snapshot = snapshot_for(row, self.sides, self._row_dtype)
        return self._snapshot

    def read_into(self, row: torch.Tensor, tensors: Iterable[torch.Tensor] | None = None) -> None:
        """Copies the state into a row, a one-dimensional CPU tensor of the rows' dtype."""
        tensors = self.tensors() if tensors is None else tensors
        if self._sketcher:
            self._sketcher.into(row, tensors)
        elif not isinstance(tensors, list):
            copy_into(row, tensors)
        elif row.dtype is self._dtype:
            torch.cat(tensors, out=row)
        elif self._is_on_a_gpu:  # put together there: each copy from a GPU waits for it
            row.copy_(torch.cat([tensor.to(row.dtype) for tensor in tensors]))
        else:
            torch.cat([tensor.to(device="cpu", dtype=row.dtype) for tensor in tensors], out=row)

    def digest(self, tensors: Iterable[torch.Tensor] | None = None) -> int:
        """The XXH3-64 of the bytes that a row of this state has, without making the row."""
        tensors = self.tensors() if tensors is None else tensors
        if self._sketcher:
            tensors = [self._sketcher.of(tensors)]
        return digest_of_numbers(tensors, self._row_dtype)

    # -- where each process has a part ----------------------------------------------------------

    @property
    def seconds(self) -> float:
        """How long it took to gather the last state; 0 where nothing is gathered."""
        return 0.0 if self._parts is None else self._parts.seconds

    def mark(self) -> int | None:
        """Tells whether a state that was not gathered is still the same; None for a whole model."""
        return None if self._parts is None else self._parts.mark()

    def key(self) -> int:
        """Identifies the model's parameters, alike in all processes.

        Raises:
            ModelError: as `tensors` does.
        """
        self.tensors()
        return 0 if self._parts is None else self._parts.key

    def take_part(self, first: int, last: int) -> None:
        """Gathers tensors first … last−1 for the process that leads."""
        if self._parts is not None:
            self._parts.gather(first, last)


def _forms(tensors: list[torch.Tensor]) -> list[tuple[Any, ...]]:
    """Where tensors have their numbers, how these lie there, and of which dtype they are."""
    try:
        return [(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors]
    except (NotImplementedError, RuntimeError):
        return [_form(tensor) for tensor in tensors]


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    try:
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
    except (NotImplementedError, RuntimeError):  # sparse and nested tensors
        return id(tensor), tensor.dtype
