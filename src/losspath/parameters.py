"""Names, and the flat vector that a model's parameters become, and back.

Names are canonical: what wraps a module (`torch.compile`, DDP, DataParallel, FSDP, `AveragedModel`)
adds nothing to them, and a tensor that a module tree holds twice has its first name. A row is the
trainable parameters in ``named_parameters()`` order; the `Layout` is the table of what lies where.
What else a model's outputs depend on, its buffers and frozen parameters, are `side_tensors`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import DamagedError, ModelError

Kind = Literal["parameter", "buffer"]
Taken = Literal["trainable", "all"]

# What float32 holds exactly: itself and the two half precisions.
_WIDENED = {torch.float32, torch.float16, torch.bfloat16}

# Modules that hold another and compute what it computes, with the attribute that they hold it in.
_WRAPPERS = {
    "AveragedModel": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
    "OptimizedModule": "_orig_mod",
}
# Where `torch.nn.utils.parametrize` puts what a layer's tensors are computed from.
_PARAMETRIZATIONS = "parametrizations"


def wrapped_in(module: torch.nn.Module) -> str | None:
    """The attribute that a wrapper holds its module in; None for any other module."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torch.") and kind.__name__ in _WRAPPERS:
            return _WRAPPERS[kind.__name__]
    return None


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside all wrappers."""
    while (attribute := wrapped_in(model)) is not None:
        model = getattr(model, attribute)
    return model


def is_torchs(definition: Any) -> bool:
    """Whether a class or a function is torch's own."""
    return (definition.__module__ or "").partition(".")[0] == "torch"


def version_of(tensor: torch.Tensor) -> int | None:
    """How often torch saw a tensor changed in place; None for those that do not count it."""
    return None if tensor.is_inference() else tensor._version


def named_modules(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every module once, wrappers too, under its first canonical name; parents come first."""
    yield from _walk(model, "", set())


def _walk(
    module: torch.nn.Module, name: str, seen: set[torch.nn.Module]
) -> Iterator[tuple[str, torch.nn.Module]]:
    if module in seen:
        return
    seen.add(module)
    yield name, module
    wrapped = wrapped_in(module)
    for child_name, child in module.named_children():
        yield from _walk(child, name if child_name == wrapped else _join(name, child_name), seen)


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def named_parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter once, under its first canonical name, in ``named_parameters()`` order."""
    yield from _named(model, "named_parameters")


def named_buffers(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every buffer once, under its first canonical name, in ``named_buffers()`` order."""
    yield from _named(model, "named_buffers")


def _named(model: torch.nn.Module, what: str) -> Iterator[tuple[str, torch.Tensor]]:
    seen: dict[int, torch.Tensor] = {}  # held, so that nothing else can come to have the same id
    for module_name, module in named_modules(model):
        # The base class's, as one of the user's own may take no `recurse`, or leave some out.
        for name, tensor in getattr(torch.nn.Module, what)(module, recurse=False):
            if id(tensor) not in seen:
                seen[id(tensor)] = tensor
                yield _join(module_name, name), tensor


class SideTensor(NamedTuple):
    """A tensor that outputs depend on and that is no part of a row.

    Attributes:
        name: its canonical name.
        tensor: the model's own.
        kind: "buffer", or "frozen" for a parameter that is not in the rows.
    """

    name: str
    tensor: torch.Tensor
    kind: Literal["buffer", "frozen"]


def side_tensors(model: torch.nn.Module, layout: Layout) -> list[SideTensor]:
    """Buffers of every dtype, and parameters that are not in the rows.

    Left out are those without a shape yet (lazy ones), and views of memory that is in the rows.

    Args:
        model: the model.
        layout: the layout of its rows.
    """
    rows = {entry.name for entry in layout.parameters}
    taken = _Memory()
    found: list[SideTensor] = []
    for name, parameter in named_parameters(model):
        if name in rows:
            taken.add(name, parameter)
        else:
            found.append(SideTensor(name, parameter, "frozen"))
    found += [SideTensor(name, buffer, "buffer") for name, buffer in named_buffers(model)]
    return [
        each
        for each in found
        if not torch.nn.parameter.is_lazy(each.tensor) and not taken.overlapping(each.tensor)
    ]


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
    ) -> Layout:
        """The layout of a model's rows.

        Args:
            model: any module.
            dtype: "float32" or "float64", the dtype of the rows.
            allow_complex: take complex tensors as pairs of real numbers.
            parameters: "trainable" takes those that require a gradient, or all where none does;
                "all" takes frozen ones too.

        Raises:
            ModelError: a lazy module that has not seen data, no parameters at all, a tensor that
                rows of this dtype do not hold exactly, or parameters that share a part of their
                memory.
        """
        named = list(named_parameters(model))
        if parameters == "trainable" and any(tensor.requires_grad for _, tensor in named):
            named = [(name, tensor) for name, tensor in named if tensor.requires_grad]
        entries: list[Entry] = []
        offset = 0
        memory = _Memory()
        for name, tensor in named:
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


def _describe(parameter: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if parameter is None else f"{parameter[0]} {list(parameter[1])}"


def dtype_name(tensor: torch.Tensor) -> str:
    """A tensor's dtype as layouts have it, such as "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


class _Memory:
    """Tensors by the memory that they have."""

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[str, torch.Tensor]]] = {}

    def add(self, name: str, tensor: torch.Tensor) -> bool:
        """Keeps a tensor; True where one that is kept has the very same numbers.

        Raises:
            ModelError: it shares some of its numbers with another.
        """
        if (place := _storage(tensor)) is None:
            return False
        for other_name, other in self._held.get(place, ()):
            if not _meet(tensor, other):
                continue
            if torch.equal(_numbers(tensor).sort()[0], _numbers(other).sort()[0]):
                return True
            raise ModelError(
                f"parameters {other_name} and {name} share a part of their memory, so a vector "
                "cannot set them apart; make one of them a part of the other in forward() instead"
            )
        self._held.setdefault(place, []).append((name, tensor))
        return False

    def overlapping(self, tensor: torch.Tensor) -> bool:
        """Whether any tensor that is kept shares memory with this one."""
        place = _storage(tensor)
        return place is not None and any(
            _meet(tensor, other) for _, other in self._held.get(place, ())
        )


def _storage(tensor: torch.Tensor) -> int | None:
    """Where a tensor's memory begins; None for one that has none of its own."""
    if tensor.layout != torch.strided or tensor.numel() == 0 or tensor.device.type == "meta":
        return None
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (NotImplementedError, RuntimeError):  # subclasses that are tables of other tensors
        return None


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The first and the last byte of the storage that a tensor reaches."""
    reach = sum(
        (int(n) - 1) * int(stride) for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    first = int(tensor.storage_offset())
    return first * tensor.element_size(), (first + reach + 1) * tensor.element_size() - 1


def _meet(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one storage have a number in common."""
    (a, b), (c, d) = _extent(one), _extent(other)
    if b < c or d < a:
        return False
    if one.element_size() != other.element_size():
        return True
    return bool(torch.isin(_numbers(one), _numbers(other)).any())


def _numbers(tensor: torch.Tensor) -> torch.Tensor:
    """Which numbers of its storage a tensor has, one-dimensional."""
    places = torch.tensor(tensor.storage_offset(), device="cpu")
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = places[..., None] + torch.arange(length, device="cpu") * stride
    return places.reshape(-1)


def positions_in(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
    """For each number of a tensor, which number of another one it is, both flattened.

    None where they do not have the same numbers in memory.
    """
    place = _storage(one)
    if place is None or place != _storage(other) or one.dtype != other.dtype:
        return None
    mine, (theirs, order) = _numbers(one), _numbers(other).sort()
    if len(mine) != len(theirs) or not torch.equal(mine.sort()[0], theirs):
        return None
    return order[torch.searchsorted(theirs, mine)]


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
    if hasattr(tensor, "full_tensor") and hasattr(tensor, "to_local"):
        raise ModelError(
            f"parameter {name} is a {type(tensor.data).__name__}, of which a process holds a part; "
            "expected whole tensors: use the model before it is sharded (fully_shard), or a copy "
            "that full_tensor() of each parameter is written to"
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


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's numbers, detached and one-dimensional; complex ones as pairs."""
    value = tensor.detach()
    return (torch.view_as_real(value) if value.is_complex() else value).reshape(-1)


def in_order(model: torch.nn.Module, layout: Layout) -> list[torch.Tensor]:
    """The model's parameters that a layout names, in its order.

    Raises:
        ModelError: the model has none of such a name, or of another shape or dtype.
    """
    named = dict(named_parameters(model))
    found = []
    for entry in layout.parameters:
        tensor = named.get(entry.name)
        shape = None if tensor is None else tuple(tensor.shape) + (2,) * tensor.is_complex()
        if tensor is None or shape != entry.shape or dtype_name(tensor) != entry.dtype:
            now = (
                "is not there" if tensor is None else f"is {dtype_name(tensor)} {list(shape or ())}"
            )
            raise ModelError(
                f"the model has changed: parameter {entry.name} was {entry.dtype} "
                f"{list(entry.shape)} and now {now}; begin anew with the changed model"
            )
        found.append(tensor)
    return found


def flatten_parameters(model: torch.nn.Module, layout: Layout | None = None) -> npt.NDArray[Any]:
    """A copy of the model's parameters as one vector (P,), in the order of a recorded state.

    Float32, or float64 if any parameter is float64; half precisions widen exactly.

    Args:
        model: the model.
        layout: which parameters; by default those that are trainable, or all where none is.
    """
    layout = layout or Layout.of(model, dtype="float64", allow_complex=True)
    dtype = torch.float64 if layout.is_wide else torch.float32
    row = torch.empty(layout.parameter_count, dtype=dtype, device="cpu")
    copy_into(row, in_order(model, layout))
    vector: npt.NDArray[Any] = row.numpy()
    return vector


def copy_into(row: torch.Tensor, tensors: Iterable[torch.Tensor]) -> None:
    """Copies tensors one after the other into a one-dimensional CPU tensor of any float dtype."""
    done = 0
    for tensor in map(flat, tensors):
        row[done : done + len(tensor)].copy_(tensor)
        done += len(tensor)


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


def load_parameters(
    model: torch.nn.Module, vector: npt.NDArray[Any], layout: Layout | None = None
) -> None:
    """Copies a parameter vector (P,) into a model; the vector is left as it is.

    Args:
        model: the model.
        vector: the numbers.
        layout: which parameters; by default those that are trainable, or all where none is.

    Raises:
        ModelError: the vector has not as many numbers as the model has parameters.
    """
    layout = layout or Layout.of(model, dtype="float64", allow_complex=True)
    if vector.shape != (layout.parameter_count,):
        raise ModelError(
            f"expected a vector of {layout.parameter_count:,} parameters, got shape {vector.shape}"
        )
    values = unflatten(torch.from_numpy(np.array(vector)), layout)
    with torch.no_grad():
        for parameter, value in zip(in_order(model, layout), values.values(), strict=True):
            parameter.copy_(value)
