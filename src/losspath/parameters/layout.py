"""What lies where in a row: the table of a model's trainable parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from losspath.arguments import described
from losspath.errors import ArgumentError, DamagedError, ModelError
from losspath.parameters.memory import Memory
from losspath.parameters.names import matches, named_parameters
from losspath.parameters.sharded import is_sharded

Kind = Literal["parameter", "buffer"]
Taken = Literal["trainable", "all"] | Sequence[str] | torch.nn.Module

# What float32 holds exactly: itself and the two half precisions.
_WIDENED = {torch.float32, torch.float16, torch.bfloat16}

# Where `torch.nn.utils.parametrize` puts what a layer's tensors are computed from.
_PARAMETRIZATIONS = "parametrizations"


@dataclass(frozen=True)
class Entry:
    """One tensor's place in a row.

    Attributes:
        name: its canonical name in the model.
        shape: its shape; a complex tensor has a last dimension of 2 (real, imaginary).
        dtype: its dtype in the model, such as "float32".
        kind: "parameter"; "buffer" in runs of the first format alone, whose rows held buffers.
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

    @property
    def layer(self) -> str:
        """The module that it belongs to; what a parametrised layer is computed from is that's."""
        return layer_of(self.name)


def layer_of(name: str) -> str:
    """The module that a tensor of this name belongs to."""
    parts = name.split(".")
    end = parts.index(_PARAMETRIZATIONS) if _PARAMETRIZATIONS in parts else len(parts) - 1
    return ".".join(parts[:end])


@dataclass(frozen=True)
class Layout:
    """What lies where in a row."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        dtype: str = "float32",
        allow_complex: bool = False,
        parameters: Taken = "trainable",
        sharded: bool = False,
    ) -> Layout:
        """The layout of a model's rows.

        Args:
            model: any module.
            dtype: "float32" or "float64", the dtype of the rows.
            allow_complex: take complex tensors as pairs of real numbers.
            parameters: "trainable" takes those that require a gradient, or all where none does;
                "all" takes frozen ones too; patterns of names, or a module of the model, take a
                part of the trainable ones.
            sharded: take tensors of which this process has a part.

        Raises:
            ModelError: a lazy module that has not seen data, no parameters at all, a tensor that
                rows of this dtype do not hold exactly, one of which this process has a part, or
                parameters that share a part of their memory.
        """
        named = list(named_parameters(model))
        if parameters != "all" and any(tensor.requires_grad for _, tensor in named):
            named = [(name, tensor) for name, tensor in named if tensor.requires_grad]
        if parameters not in ("trainable", "all"):
            named = _part(named, parameters)
        entries: list[Entry] = []
        offset = 0
        memory = Memory()
        for name, tensor in named:
            if is_sharded(tensor) and not sharded:
                raise _of_parts(name, tensor)
            _check_tensor(name, tensor, dtype, allow_complex)
            if memory.add(name, tensor):
                continue  # another view of a parameter that is there: one set of numbers
            shape = tuple(tensor.shape) + ((2,) if tensor.is_complex() else ())
            entry = Entry(name, shape, dtype_name(tensor), "parameter", offset)
            entries.append(entry)
            offset += entry.size
        if len({entry.name for entry in entries}) < len(entries):
            raise ModelError("two parameters have one name once wrappers are left out of names")
        layout = cls(tuple(entries))
        if layout.parameter_count == 0:
            raise ModelError(
                f"expected a model with parameters, got {type(model).__name__} with 0; look at "
                "what is passed as the model"
            )
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
        """How many numbers a stored row has: P, and in the first format the buffers'."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def is_wide(self) -> bool:
        """Whether any parameter is of double precision."""
        return any(entry.dtype in ("float64", "complex128") for entry in self.parameters)

    @property
    def layers(self) -> dict[str, list[Entry]]:
        """Parameters by the module that owns them, in order; the root module's name is ""."""
        layers: dict[str, list[Entry]] = {}
        for entry in self.parameters:
            layers.setdefault(entry.layer, []).append(entry)
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


def check_taken(name: str, value: Any) -> Any:
    """Which parameters a run takes: "trainable", "all", patterns of names, or a module."""
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if is_list and value and all(isinstance(each, str) for each in value):
        return list(value)
    if isinstance(value, torch.nn.Module) or (
        isinstance(value, str) and value in ("trainable", "all")
    ):
        return value
    raise ArgumentError(
        f"expected {name} among trainable, all, or as patterns of names in a list, or as a module "
        f"of the model, got {described(value)}"
    )


def _part(
    named: list[tuple[str, torch.Tensor]], parameters: Sequence[str] | torch.nn.Module
) -> list[tuple[str, torch.Tensor]]:
    """Those of a module, or whose names match a pattern."""
    if isinstance(parameters, torch.nn.Module):
        own = {id(tensor) for tensor in parameters.parameters()}
        found = [(name, tensor) for name, tensor in named if id(tensor) in own]
        asked = f"a module of the model, got {type(parameters).__name__}, which has none of its"
    else:
        found = [(name, tensor) for name, tensor in named if matches(name, parameters)]
        asked = f"patterns that match, got {', '.join(parameters)}, which match none of the"
    if not found:
        some = ", ".join(name for name, _ in named[:3])
        raise ModelError(f"expected parameters as {asked} trainable parameters, such as {some}")
    return found


def _describe(parameter: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if parameter is None else f"{parameter[0]} {list(parameter[1])}"


def dtype_name(tensor: torch.Tensor) -> str:
    """A tensor's dtype as layouts have it, such as "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


def _of_parts(name: str, tensor: torch.Tensor) -> ModelError:
    return ModelError(
        f"parameter {name} is a {type(tensor.data).__name__}, of which a process holds a part; "
        "expected whole tensors: record by a losspath.Recorder in a loop of your own, which puts "
        "them together, or save checkpoints by torch.distributed.checkpoint and make a run of "
        "them by `losspath import`; evaluate with the plain model"
    )


def _check_tensor(name: str, tensor: torch.Tensor, dtype: str, allow_complex: bool) -> None:
    if torch.nn.parameter.is_lazy(tensor):
        raise ModelError(
            f"parameter {name} has no shape yet; run one batch through the lazy model first"
        )
    if tensor.is_meta:
        raise ModelError(
            f"parameter {name} is on the meta device, where it has no numbers; give it some first: "
            "model.to_empty(device='cpu'), then load a state dict"
        )
    if tensor.numel() == 0 and (hasattr(tensor, "ds_id") or hasattr(tensor, "ds_tensor")):
        raise ModelError(
            f"parameter {name} is empty, as by DeepSpeed's ZeRO-3 each process holds a part of it; "
            "expected whole tensors: train with ZeRO stage 2 or less, or use a copy of the model "
            "that its parameters are written to inside deepspeed.zero.GatheredParameters"
        )
    if tensor.is_complex() and not allow_complex:
        raise ModelError(
            f"{name} is {tensor.dtype}; pass allow_complex=True to record complex numbers as "
            "pairs (real, imaginary)"
        )
    real = tensor.dtype.to_real()
    if real not in _WIDENED and not (dtype == "float64" and real == torch.float64):
        raise ModelError(
            f"{name} is {tensor.dtype}, which {dtype} rows do not hold exactly; "
            + (
                'pass dtype="float64" to record it in double size'
                if real == torch.float64
                else "only floating-point parameters can be recorded"
            )
        )
