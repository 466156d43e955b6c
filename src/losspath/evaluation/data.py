"""The data that losses are over: staged once, and handed out in copies, batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.arguments import described
from losspath.errors import ArgumentError, ObjectiveError
from losspath.files import digest_of

# Data are copied up to this size; what is larger is the caller's, and its digest is compared.
COPIED_BYTES = 1 << 30

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


def map_tensors(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """A nested value with a function of its tensors in place of them.

    Lists, tuples, named tuples, mappings and dataclasses are followed; all else stays as it is.
    """
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, function) for item in value)
    if isinstance(value, dict):
        items = {key: map_tensors(item, function) for key, item in value.items()}
        return items if type(value) is dict else _rebuilt(value, items)
    if isinstance(value, Mapping) and hasattr(value, "data"):  # as BatchEncoding
        return _rebuilt(value, {key: map_tensors(item, function) for key, item in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: map_tensors(getattr(value, field.name), function)
            for field in dataclasses.fields(value)
            if field.init
        }
        return dataclasses.replace(value, **changed)
    if callable(getattr(value, "to", None)) and callable(getattr(value, "clone", None)):
        return value.clone()  # batches of graphs and the like know how themselves
    return value


def _rebuilt(value: Any, items: dict[Any, Any]) -> Any:
    try:
        return type(value)(items)
    except TypeError:
        return items


def rows_of(tensor: torch.Tensor, chosen: slice | torch.Tensor) -> torch.Tensor:
    """A copy of some entries of a tensor; of the whole where it has no dimension."""
    if not tensor.dim():
        return tensor.clone()
    if tensor.layout == torch.strided:
        # An index makes a copy already.
        return tensor[chosen].clone() if isinstance(chosen, slice) else tensor[chosen]
    numbers = torch.arange(len(tensor), device=tensor.device)[chosen]
    rows: torch.Tensor = tensor.to_sparse_coo().index_select(0, numbers)  # type: ignore[no-untyped-call]
    return rows.to_sparse(layout=tensor.layout)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a nested value, in order."""
    found: list[torch.Tensor] = []
    map_tensors(value, found.append)
    return found


def as_tensors(value: Any) -> Any:
    """A nested value with tensors in place of arrays.

    Float64 is what NumPy makes of everything, and not what most models take: it becomes float32
    where the caller of this finds a model of single precision.
    """
    if isinstance(value, np.ndarray):
        # torch takes neither read-only arrays nor negative strides.
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(as_tensors(item) for item in value)
    if isinstance(value, dict):
        return {key: as_tensors(item) for key, item in value.items()}
    return value


def narrowed(value: Any) -> Any:
    """A nested value with its float64 arrays as float32."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float32) if value.dtype == np.float64 else value
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(narrowed(item) for item in value)
    if isinstance(value, dict):
        return {key: narrowed(item) for key, item in value.items()}
    return value


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
    """Identifies a nested value: its tensors' dtypes, shapes and bytes, and its plain values."""
    parts: list[object] = []
    for tensor in tensors_in(value):
        parts += [str(tensor.dtype), bytes_of(tensor)]
    return digest_of(*parts, _plain_of(value))


def _plain_of(value: Any) -> object:
    if isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, (list, tuple)):
        return [_plain_of(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain_of(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain_of(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value if isinstance(value, (bool, int, float, str, type(None))) else type(value).__name__


def size_of(value: Any) -> int:
    """How many samples a batch has: the length of its first tensor; 1 where it has none."""
    for tensor in tensors_in(value):
        if tensor.dim():
            return len(tensor)
    return 1


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
        size = sum(t.numel() * t.element_size() for t in tensors_in(content))
        self._is_copied = size <= COPIED_BYTES

        def stage(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_meta:
                raise ObjectiveError(
                    f"expected data with numbers, got a tensor {tuple(tensor.shape)} on the meta "
                    "device, which has none; make it on a real device"
                )
            moved = tensor.detach().to(device)
            own = tensor.device != device
            return moved if own or not self._is_copied else moved.clone()

        self._content = map_tensors(content, stage)
        self.digest = digest_of_tensors(self._content)

    def check_unchanged(self) -> None:
        """Raises `ObjectiveError` where data that are too large to copy have changed."""
        if not self._is_copied and digest_of_tensors(self._content) != self.digest:
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
        self.inputs, self.targets = self._content
        with_length = [tensor for tensor in tensors_in(self.inputs) if tensor.dim()]
        if not with_length:
            raise ArgumentError("expected inputs with one entry for each sample, got no tensor")
        self._count = len(with_length[0])
        self._check_lengths()

    def _check_lengths(self) -> None:
        count = self._count
        for what, value in (("inputs", self.inputs), ("targets", self.targets)):
            for tensor in tensors_in(value):
                if tensor.dim() and len(tensor) != count:
                    raise ObjectiveError(
                        f"expected as many targets as inputs, got {len(tensor)} {what} for {count} "
                        "inputs; data that are not one entry for each sample (graphs, shared "
                        "masks) go through Objective.of_batches"
                    )
        if count == 0:
            raise ObjectiveError("expected at least one sample, got none")

    @property
    def is_one_tensor(self) -> bool:
        """Whether the model takes a single tensor."""
        return isinstance(self.inputs, torch.Tensor)

    def in_float32(self) -> Samples:
        """The same with inputs of double precision as single."""
        inputs = map_tensors(self.inputs, _in_single)
        return Samples(inputs, self.targets, self.batch_size, self.device)

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

        inputs = map_tensors(self.inputs, lambda tensor: rows_of(tensor, chosen))
        targets = map_tensors(self.targets, lambda tensor: rows_of(tensor, chosen))
        args, kwargs = _arguments(inputs)
        return Batch(args, kwargs, targets, len(part))

    def load_targets(self, part: range) -> Batch:
        """Copies of some samples' targets, for outputs that are there already."""
        chosen = slice(part.start, part.stop)
        targets = map_tensors(self.targets, lambda tensor: rows_of(tensor, chosen))
        return Batch((), {}, targets, len(part))


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple) else (inputs,)), {}


def _in_single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.float64 else tensor


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
        return Batches(map_tensors(self._content, _in_single), self.device)

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
