"""The flat row that a model's state becomes, and back.

A row is the parameters in ``named_parameters()`` order (tied ones once, frozen ones included)
followed by the floating-point buffers. The `Layout` is the table of what lies where.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from losspath.errors import DamagedError, ModelError

Kind = Literal["parameter", "buffer"]

# What float32 holds exactly: itself and the two half precisions.
_WIDENED = {torch.float32, torch.float16, torch.bfloat16}


@dataclass(frozen=True)
class Entry:
    """One tensor's place in a row.

    Attributes:
        name: its dotted name in the model.
        shape: its shape; a complex tensor has a last dimension of 2 (real, imaginary).
        dtype: its dtype in the model, such as "float32".
        kind: "parameter" or "buffer".
        offset: where it begins in a row, in numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind
    offset: int

    @cached_property
    def size(self) -> int:
        """How many numbers it takes."""
        return math.prod(self.shape)

    @property
    def place(self) -> slice:
        """Its slice of a row."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """What lies where in a row: every parameter, then every floating-point buffer."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(
        cls, model: torch.nn.Module, dtype: str = "float32", allow_complex: bool = False
    ) -> Layout:
        """The layout of a model's state.

        Args:
            model: any module.
            dtype: "float32" or "float64", the dtype of the rows.
            allow_complex: take complex tensors as pairs of real numbers.

        Raises:
            ModelError: a lazy module that has not seen data, no parameters at all, or a tensor
                that rows of this dtype do not hold exactly.
        """
        entries: list[Entry] = []
        offset = 0
        for name, tensor, kind in _tensors(model):
            _check_tensor(name, tensor, dtype, allow_complex)
            shape = tuple(tensor.shape) + ((2,) if tensor.is_complex() else ())
            entry = Entry(name, shape, str(tensor.dtype).removeprefix("torch."), kind, offset)
            entries.append(entry)
            offset += entry.size
        layout = cls(tuple(entries))
        if layout.parameter_count == 0:
            raise ModelError(f"expected a model with parameters, got {type(model).__name__} with 0")
        return layout

    @cached_property
    def parameters(self) -> tuple[Entry, ...]:
        """The entries of parameters."""
        return tuple(entry for entry in self.entries if entry.kind == "parameter")

    @cached_property
    def parameter_count(self) -> int:
        """P: how many numbers the parameters take, which come first in a row."""
        return sum(entry.size for entry in self.parameters)

    @cached_property
    def row_size(self) -> int:
        """How many numbers a row has, buffers included."""
        return sum(entry.size for entry in self.entries)

    @property
    def layers(self) -> dict[str, list[Entry]]:
        """Parameters by the module that owns them, in order; the root module's name is ""."""
        layers: dict[str, list[Entry]] = {}
        for entry in self.parameters:
            layers.setdefault(entry.name.rpartition(".")[0], []).append(entry)
        return layers

    def to_json(self) -> list[dict[str, Any]]:
        """The layout as JSON values."""
        return [
            {"name": e.name, "shape": list(e.shape), "dtype": e.dtype, "kind": e.kind}
            for e in self.entries
        ]

    @classmethod
    def from_json(cls, table: list[dict[str, Any]]) -> Layout:
        """The layout that `to_json` gave."""
        entries: list[Entry] = []
        offset = 0
        try:
            for row in table:
                shape = tuple(int(length) for length in row["shape"])
                if row["kind"] not in ("parameter", "buffer") or min(shape, default=0) < 0:
                    raise ValueError("unknown kind or negative length")
                entries.append(Entry(row["name"], shape, row["dtype"], row["kind"], offset))
                offset += entries[-1].size
        except (KeyError, TypeError, ValueError) as cause:
            raise DamagedError(f"the layout table cannot be read: {cause}") from cause
        return cls(tuple(entries))

    def check_same(self, other: Layout, mine: str, others: str) -> None:
        """Raises `ModelError`, naming the first difference, unless the parameters agree."""
        ours = [(e.name, e.shape) for e in self.parameters]
        theirs = [(e.name, e.shape) for e in other.parameters]
        if ours == theirs:
            return
        for index in range(max(len(ours), len(theirs))):
            left = ours[index] if index < len(ours) else None
            right = theirs[index] if index < len(theirs) else None
            if left != right:
                break
        raise ModelError(
            f"{mine} and {others} are not of the same network: parameter {index} is "
            f"{_describe(left)} in {mine} ({self.parameter_count:,} numbers in all) and "
            f"{_describe(right)} in {others} ({other.parameter_count:,})"
        )


def _describe(parameter: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if parameter is None else f"{parameter[0]} {list(parameter[1])}"


def _check_tensor(name: str, tensor: torch.Tensor, dtype: str, allow_complex: bool) -> None:
    if torch.nn.parameter.is_lazy(tensor):
        raise ModelError(
            f"parameter {name} has no shape yet; run one batch through the lazy model first"
        )
    if tensor.is_complex() and not allow_complex:
        raise ModelError(
            f"{name} is {tensor.dtype}; pass allow_complex=True to record complex numbers as "
            "pairs (real, imaginary)"
        )
    real = torch.view_as_real(tensor.detach()).dtype if tensor.is_complex() else tensor.dtype
    if real not in _WIDENED and not (dtype == "float64" and real == torch.float64):
        raise ModelError(
            f"{name} is {tensor.dtype}, which {dtype} rows do not hold exactly; "
            + (
                'pass dtype="float64" to record it in double size'
                if real == torch.float64
                else "only floating-point parameters can be recorded"
            )
        )


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, Kind]]:
    for name, parameter in model.named_parameters():
        yield name, parameter, "parameter"
    for name, buffer in model.named_buffers():
        if torch.nn.parameter.is_lazy(buffer) or buffer.is_floating_point() or buffer.is_complex():
            yield name, buffer, "buffer"


class StateReader:
    """Copies a model's state into rows, again and again, for little more than the copy itself.

    Walking a module tree costs as much as copying a small network, so the tensors are found once;
    every read checks that each is still the one that the model uses.

    Args:
        model: the model to read.
        layout: the layout of its rows.
    """

    def __init__(self, model: torch.nn.Module, layout: Layout) -> None:
        self._model = model
        self._layout = layout
        self._find()

    def _find(self) -> None:
        self._tensors = [tensor for _, tensor, _ in _tensors(self._model)]
        # Every place of the module tree where a tensor or module could be exchanged for another.
        tables = [
            table
            for module in self._model.modules()
            for table in (module._parameters, module._buffers, module._modules)
        ]
        self._tables = [table for table in tables if isinstance(table, dict)]
        # TorchScript keeps its own tables, and hands out new objects every time.
        self._is_scripted = len(self._tables) < len(tables)
        self._links = self._links_now()
        # Held, so that nothing else can come to have the same id.
        self._held = [value for table in self._tables for value in table.values()]
        self._forms = _forms(self._tensors)
        # Contiguous tensors are read through the same views every time.
        self._views = [_flat(tensor) for tensor in self._tensors]
        self._are_views = all(tensor.is_contiguous() for tensor in self._tensors)
        self._kinds = {(view.dtype, view.device) for view in self._views}

    def _links_now(self) -> tuple[list[str], list[int]]:
        return (
            [name for table in self._tables for name in table],
            [id(value) for table in self._tables for value in table.values()],
        )

    def _is_as_found(self) -> bool:
        # `tensor.data = other` and `model.double()` keep the parameter and change its form.
        return self._links == self._links_now() and self._forms == _forms(self._now())

    def _now(self) -> list[torch.Tensor]:
        if self._is_scripted:
            return [tensor for _, tensor, _ in _tensors(self._model)]
        return self._tensors

    def tensors(self) -> list[torch.Tensor]:
        """The tensors of a row in order, detached and one-dimensional, on their device.

        Raises:
            ModelError: the model is no longer the network that the layout describes.
        """
        if not self._is_as_found():
            now = Layout.of(self._model, dtype="float64", allow_complex=True)
            if now != self._layout:
                raise ModelError(
                    "the model has changed: its parameters or buffers are no longer those that "
                    "the recording began with; begin another recording for the changed model"
                )
            self._find()
        return self._views if self._are_views else [_flat(tensor) for tensor in self._tensors]

    def read_into(self, row: torch.Tensor, tensors: list[torch.Tensor] | None = None) -> None:
        """Copies the state into a row, a one-dimensional CPU tensor of the rows' dtype."""
        tensors = self.tensors() if tensors is None else tensors
        if self._kinds != {(row.dtype, row.device)}:
            tensors = [t.to(device="cpu", dtype=row.dtype) for t in tensors]
        torch.cat(tensors, out=row)

    def version(self) -> list[tuple[int, int]]:
        """Changes whenever a tensor is changed in place, as torch counts it, or its memory is.

        Costs nothing that grows with the size of the tensors.
        """
        return [(tensor._version, tensor.data_ptr()) for tensor in self._tensors]

    def digest(self, dtype: torch.dtype) -> int:
        """The XXH3-64 of the bytes that a row of this state has, without making the row."""
        hasher = xxhash.xxh3_64()
        for tensor in self.tensors():
            for part in tensor.split(1 << 20):  # type: ignore[no-untyped-call]
                numbers = part.to(device="cpu", dtype=dtype).contiguous()
                hasher.update(numbers.numpy().view(np.uint8).data)
        return hasher.intdigest()


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    value = tensor.detach()
    return (torch.view_as_real(value) if value.is_complex() else value).reshape(-1)


def _forms(tensors: list[torch.Tensor]) -> list[tuple[Any, ...]]:
    return [(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors]


def flatten_parameters(model: torch.nn.Module) -> npt.NDArray[Any]:
    """A copy of the model's parameters as one vector (P,), in the order of a recorded state.

    Float32, or float64 if any parameter is float64; half precisions widen exactly.
    """
    layout = Layout.of(model, dtype="float64", allow_complex=True)
    wide = any(entry.dtype in ("float64", "complex128") for entry in layout.parameters)
    row = torch.empty(layout.parameter_count, dtype=torch.float64 if wide else torch.float32)
    reader = StateReader(model, layout)
    reader.read_into(row, reader.tensors()[: len(layout.parameters)])
    flat: npt.NDArray[Any] = row.numpy()
    return flat


def unflatten(vector: torch.Tensor, layout: Layout) -> dict[str, torch.Tensor]:
    """Views of a parameter vector (P,) by name, each in its shape and dtype in the model."""
    tensors: dict[str, torch.Tensor] = {}
    for entry in layout.parameters:
        value = vector[entry.place].view(entry.shape)
        dtype = getattr(torch, entry.dtype)
        if dtype.is_complex:
            value = torch.complex(value[..., 0], value[..., 1])  # a view needs an even offset
        tensors[entry.name] = value.to(dtype)
    return tensors


def load_parameters(model: torch.nn.Module, vector: npt.NDArray[Any]) -> None:
    """Copies a parameter vector (P,) into a model; the vector is left as it is.

    Raises:
        ModelError: the vector has not as many numbers as the model has parameters.
    """
    layout = Layout.of(model, dtype="float64", allow_complex=True)
    if vector.shape != (layout.parameter_count,):
        raise ModelError(
            f"expected a vector of {layout.parameter_count:,} parameters, got shape {vector.shape}"
        )
    values = unflatten(torch.from_numpy(np.array(vector)), layout)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
