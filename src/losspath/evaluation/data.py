"""The data that losses are over: staged once, and handed out in copies, batch by batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import PackedSequence

from losspath.arguments import described, operation
from losspath.errors import ArgumentError, LosspathWarning, ObjectiveError
from losspath.evaluation.arrays import as_tensors, is_lossy, narrowed
from losspath.evaluation.containers import (
    copied_array,
    described_by_value,
    leaves_in,
    map_tensors,
    tensors_in,
)
from losspath.files import digest_of

__all__ = [
    "Batch",
    "Batches",
    "Data",
    "Part",
    "Samples",
    "as_tensors",
    "bytes_of",
    "digest_of_tensors",
    "has_size",
    "is_lossy",
    "length_of",
    "map_tensors",
    "narrowed",
    "rows_of",
    "size_of",
    "tensors_in",
]

# Data are copied up to this size; what is larger is the caller's, and its digest is compared.
COPIED_BYTES = 1 << 30

# What rounding may take of the spread of data before it is told.
_SEEN = 1e-3

# Integers without a sign, and those of the same size that every version of torch can index.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}

Part = range | int


@dataclass(frozen=True)
class Batch:
    """What one forward pass is over.

    Attributes:
        args: positional arguments of the model; of a loss over batches, the batch alone.
        kwargs: its keyword arguments.
        targets: what the loss function gets beside the outputs.
        size: how many samples.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any
    size: int


def rows_of(tensor: torch.Tensor, chosen: slice | torch.Tensor) -> torch.Tensor:
    """A copy of some entries of a tensor; of the whole where it has no dimension."""
    if not tensor.dim():
        return tensor.clone()
    if tensor.is_nested:
        parts = tensor.unbind()
        order = torch.arange(len(parts), device="cpu")[chosen].tolist()
        some = [parts[number].clone() for number in order]
        return torch.nested.as_nested_tensor(some, layout=tensor.layout)
    if tensor.layout == torch.strided:
        if isinstance(chosen, slice):
            return tensor[chosen].clone()
        # An index makes a copy already. Older versions of torch take none of unsigned integers.
        signed = _SIGNED.get(tensor.dtype)
        return tensor.view(signed)[chosen].view(tensor.dtype) if signed else tensor[chosen]
    numbers = torch.arange(len(tensor), device=tensor.device)[chosen]
    rows: torch.Tensor = tensor.to_sparse_coo().index_select(0, numbers)  # type: ignore[no-untyped-call]
    return rows.to_sparse(layout=tensor.layout)


def bytes_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor's content as an array, for digests."""
    value = tensor.detach().cpu()
    if value.is_quantized or value.layout != torch.strided:
        value = value.dequantize() if value.is_quantized else value.to_dense()
    value = value.contiguous()
    if value.dtype == torch.bfloat16 or "float8" in str(value.dtype):  # NumPy lacks them
        value = value.view(torch.int16 if value.dtype == torch.bfloat16 else torch.uint8)
    array: npt.NDArray[Any] = value.resolve_conj().resolve_neg().numpy()
    return array


def digest_of_tensors(value: Any) -> str:
    """Identifies a nested value: its tensors' dtypes, shapes and bytes, and its plain values.

    Raises:
        ObjectiveError: it has something in it that cannot be told from another of its class.
    """
    leaves, rest = described_by_value(value)
    parts: list[object] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            for tensor in leaf.unbind() if leaf.is_nested else [leaf]:
                parts += [str(tensor.dtype), bytes_of(tensor)]
        else:
            parts.append(leaf)
    return digest_of(*parts, rest)


def size_of(value: Any) -> int:
    """How many samples a batch has: the length of its first tensor or array.

    Without any, that of its first list of values of one type; 1 where it has none. Batches of
    graphs say it themselves, and of packed sequences it is their number.
    """
    with suppress(Exception):  # whatever a class of the caller's does for a name that it lacks
        if isinstance(graphs := value.num_graphs, int):
            return graphs
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(first, PackedSequence) or isinstance(value, PackedSequence):
        packed = value if isinstance(value, PackedSequence) else first
        return int(packed.batch_sizes[0])
    for leaf in leaves_in(value):
        if leaf.ndim:
            return length_of(leaf)
    return _column(value) or 1


def length_of(leaf: Any) -> int:
    """The length of a tensor or an array."""
    # Nested tensors may have no shape.
    return int(leaf.size(0) if isinstance(leaf, torch.Tensor) else leaf.shape[0])


def has_size(value: Any) -> bool:
    """Whether a batch says how many samples it has."""
    return any(leaf.ndim for leaf in leaves_in(value)) or bool(_column(value))


def _column(value: Any) -> int:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple)) or not value:
        return 0
    if all(isinstance(item, (str, bytes, int, float)) for item in value):
        return len(value) if len({type(item) for item in value}) == 1 else 0
    return next((found for found in map(_column, value) if found), 0)


def _bytes_in(leaf: Any) -> int:
    if isinstance(leaf, np.ndarray):
        return int(leaf.nbytes)
    return int(leaf.numel() * leaf.element_size())


class Data:
    """Staged data; see `Samples` and `Batches`.

    Attributes:
        device: where the data are.
        batch_size: samples in a part; of the largest batch, where batches are given.
    """

    def __init__(self, content: Any, device: torch.device, batch_size: int) -> None:
        self.device = device
        self.batch_size = batch_size
        # Memory of the caller's: tensors that are moved, and those of DataLoaders, are ours.
        sizes = {id(leaf): _bytes_in(leaf) for leaf in leaves_in(content)}
        self._is_copied = sum(sizes.values()) <= COPIED_BYTES

        def stage(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_meta:
                raise ObjectiveError(
                    f"expected data with numbers, got a tensor {tuple(tensor.shape)} on the meta "
                    "device, which has none; make it on a real device"
                )
            moved = tensor.detach().to(device)
            own = tensor.device != device
            return moved if own or not self._is_copied else moved.clone()

        def keep(array: Any) -> Any:
            return copied_array(array) if self._is_copied else array

        self._content = map_tensors(content, stage, keep)
        self.digest = digest_of_tensors(self._content)
        self._checked_in = operation()

    def check_unchanged(self) -> None:
        """Raises `ObjectiveError` where data that are too large to copy have changed.

        Looked at once within a call of a public function, as all of them are read for it.
        """
        now = operation()
        if self._is_copied or (now is not None and now is self._checked_in):
            return
        self._checked_in = now
        if digest_of_tensors(self._content) != self.digest:
            raise ObjectiveError(
                "the data have changed since the objective was made; they are too large to be "
                "copied, so leave them as they are, or make another objective"
            )

    def __len__(self) -> int:
        """The number of samples."""
        raise NotImplementedError

    def in_float32(self) -> Data:
        """The same with inputs of double precision as single."""
        raise NotImplementedError

    def parts(self, samples: int | None = None) -> list[Part]:
        """What `load` takes, in order: all data, or the first so many samples of them."""
        raise NotImplementedError

    def load(self, part: Part | torch.Tensor) -> Batch:
        """Copies of some data, that a model may write to."""
        raise NotImplementedError


class Samples(Data):
    """Inputs and targets that any batch can be made of.

    Args:
        inputs: a tensor, a tuple of positional or a mapping of keyword arguments.
        targets: anything, or None.
        batch_size: samples in a part.
        device: where the data go.
    """

    def __init__(self, inputs: Any, targets: Any, batch_size: int, device: torch.device) -> None:
        _check_form(inputs, "inputs", (torch.Tensor, tuple, Mapping))
        _check_form(targets, "targets", (torch.Tensor, tuple, Mapping, type(None)))
        super().__init__((inputs, targets), device, batch_size)
        # Those of one tensor are for who takes parts of them, without a graph.
        self.inputs, self.targets = (
            part.detach() if isinstance(part, torch.Tensor) else part for part in self._content
        )
        leaves = leaves_in(self._content)
        arrays = [leaf for leaf in leaves if isinstance(leaf, np.ndarray) and leaf.ndim]
        if arrays:
            raise ArgumentError(
                "expected tensors, or arrays of numbers in tuples and mappings, got an array of "
                f"{arrays[0].dtype} that no rows are taken of; make it a tensor by "
                "torch.as_tensor, or leave it out; Objective.of_batches takes it as it is"
            )
        with_length = [tensor for tensor in tensors_in(self.inputs, True) if tensor.dim()]
        if not with_length:
            raise ArgumentError("expected inputs with one entry for each sample, got no tensor")
        self._count = with_length[0].size(0)
        self._check_lengths()

    def _check_lengths(self) -> None:
        count = self._count
        for what, value in (("inputs", self.inputs), ("targets", self.targets)):
            for tensor in tensors_in(value, True):
                if tensor.dim() and tensor.size(0) != count:
                    raise ObjectiveError(
                        f"expected as many targets as inputs, got {tensor.size(0)} {what} for "
                        f"{count} inputs; data that are not one entry for each sample (graphs, "
                        "shared masks) go through Objective.of_batches"
                    )
        if count == 0:
            raise ObjectiveError("expected at least one sample, got none")

    @property
    def is_one_tensor(self) -> bool:
        """Whether the model takes a single tensor."""
        return isinstance(self.inputs, torch.Tensor)

    def in_float32(self) -> Samples:
        """The same with inputs of double precision as single."""
        inputs = _in_single(self._content[0])
        return Samples(inputs, self._content[1], self.batch_size, self.device)

    def __len__(self) -> int:
        return self._count

    def parts(self, samples: int | None = None) -> list[Part]:
        """Ranges of samples."""
        count = self._count if samples is None else min(samples, self._count)
        starts = list(range(0, count, self.batch_size))
        if len(starts) > 1 and count - starts[-1] == 1:
            starts.pop()  # a single one is more than many models bear: squeeze() leaves nothing
        return [range(*ends) for ends in pairwise([*starts, count])]

    def load(self, part: Part | torch.Tensor) -> Batch:
        """Copies of some samples: a range, or a tensor of numbers of samples."""
        assert not isinstance(part, int)
        chosen = slice(part.start, part.stop) if isinstance(part, range) else part

        def take(value: Any) -> Any:
            return map_tensors(value, lambda tensor: rows_of(tensor, chosen))

        inputs, targets = map(take, self._content)
        args, kwargs = _arguments(inputs)
        return Batch(args, kwargs, targets, len(part))

    def load_targets(self, part: range) -> Batch:
        """Copies of some samples' targets, for outputs that are there already."""
        chosen = slice(part.start, part.stop)
        targets = map_tensors(self._content[1], lambda tensor: rows_of(tensor, chosen))
        return Batch((), {}, targets, len(part))


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple) else (inputs,)), {}


def _in_single(value: Any) -> Any:
    """A nested value with its tensors of double precision as single; tells where that shows."""
    lost: list[str] = []

    def single(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype != torch.float64:
            return tensor
        made = tensor.float()
        is_plain = tensor.layout == torch.strided and not tensor.is_nested
        if is_plain and is_lossy(tensor.cpu().numpy(), made.cpu().numpy(), _SEEN):
            lost.append(str(tuple(tensor.shape)))
        return made

    found = map_tensors(value, single)
    if lost:
        warnings.warn(
            f"data of double precision {lost[0]} are taken in single, as the model or the loss has "
            "no other, and samples that differ become the same: subtract what they have in common "
            "(a time, an offset) before, or make the model double()",
            LosspathWarning,
            stacklevel=7,
        )
    return found


def _check_form(value: Any, what: str, forms: tuple[type, ...]) -> None:
    if not isinstance(value, forms):
        raise ArgumentError(
            f"expected {what} as a tensor, an array, a tuple or a mapping of these"
            f"{' or None' if type(None) in forms else ''}, got {described(value)}; stack a list by "
            "torch.stack, and give data sets and loaders to Objective.of_batches"
        )
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        raise ArgumentError(f"expected {what} with one entry for each sample, got one number")


class Batches(Data):
    """Batches as a training loop has them.

    Args:
        batches: what `stage_batches` gave.
        device: where they go.
    """

    def __init__(self, batches: Sequence[Any], device: torch.device) -> None:
        super().__init__(list(batches), device, max(map(size_of, batches), default=1))
        if not self._content:
            raise ObjectiveError("expected at least one batch, got none")
        self._sizes = [size_of(batch) for batch in self._content]

    def in_float32(self) -> Batches:
        """The same with all of double precision as single."""
        return Batches(_in_single(self._content), self.device)

    def __len__(self) -> int:
        return sum(self._sizes)

    def parts(self, samples: int | None = None) -> list[Part]:
        """Numbers of batches; as many whole ones as hold the first samples."""
        if samples is None:
            return list(range(len(self._sizes)))
        before = np.cumsum([0, *self._sizes])[:-1]
        return [number for number, start in enumerate(before.tolist()) if start < samples]

    def load(self, part: Part | torch.Tensor) -> Batch:
        """A copy of a batch, by its number."""
        assert isinstance(part, int)
        batch = map_tensors(self._content[part], torch.Tensor.clone)
        return Batch((batch,), {}, None, self._sizes[part])
