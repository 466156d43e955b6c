"""What torch's kernels do while a forward pass is recorded, and what of it no recording can hold.

A recorded call is seen as a model makes it. What happens inside, and what happens without a call
that could be recorded, is seen one level below, kernel by kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from losspath.errors import UnsupportedError


class _FusedKernelError(UnsupportedError):
    """A fused evaluation kernel was taken that gives other numbers than training's kernels."""


class Memory:
    """Tensors, and where in memory they lie; it holds on to them, so that the places stay taken."""

    def __init__(self) -> None:
        self._by_storage: dict[int, dict[int, tuple[int, int]]] = {}
        self._held: list[torch.Tensor] = []

    def add(self, tensor: torch.Tensor) -> None:
        """Keeps a tensor."""
        self._held.append(tensor)
        for part in _parts(tensor):
            places = self._by_storage.setdefault(part.untyped_storage().data_ptr(), {})
            places[id(tensor)] = _extent(part)

    def meets(self, tensor: torch.Tensor, besides: torch.Tensor | None = None) -> bool:
        """Whether a tensor has memory of any that is kept, but for one of them."""
        for part in _parts(tensor):
            places = self._by_storage.get(part.untyped_storage().data_ptr())
            if places is None:
                continue
            first, last = _extent(part)
            for other, (start, stop) in places.items():
                if other != id(besides) and first < stop and start < last:
                    return True
        return False

    def encloses(self, tensor: torch.Tensor) -> bool:
        """`meets`, and finds memory that two storages have in common, as arrays of NumPy's do."""
        extents = [_extent(part) for part in _parts(tensor)]
        return any(
            first < stop and start < last
            for places in self._by_storage.values()
            for start, stop in places.values()
            for first, last in extents
        )


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The dense tensors that a tensor's numbers lie in; those without numbers left out."""
    if tensor.layout == torch.strided and not tensor.is_nested:
        return [tensor] if tensor.numel() else []
    if tensor.layout == torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    else:
        raise UnsupportedError(f"it holds a tensor of layout {tensor.layout}")
    return [part for part in parts if part.numel()]


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The address of a tensor's first byte, and that after its last."""
    first, reach = tensor.data_ptr(), 0
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        reach += (length - 1) * stride
    return first, first + (reach + 1) * tensor.element_size()


# Kernels whose results have sizes that depend on values, and that carry no tag that says so.
_OF_ANY_SIZE = ("_pack_padded_sequence", "_to_sparse", "_coalesce")
_FUSED = (
    "_transformer_encoder_layer_fwd",
    "_native_multi_head_attention",
    "_triton_multi_head_attention",
)
_INDEXING = (
    "index",
    "_unsafe_index",
    "index_put",
    "index_put_",
    "_unsafe_index_put",
    "_index_put_impl_",
)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses kernels that no recording can stand for.

    Args:
        known: every tensor that the recording knows; none of them may be written over unseen.
        computed: those of them that are results, parameters or the input.

    Attributes:
        refusal: the first refusal, which the model may have caught.
    """

    def __init__(self, known: Memory, computed: Memory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refusal: UnsupportedError | None = None
        self._known, self._computed = known, computed
        self._given: list[torch.Tensor] | None = None
        self._may_read = False
        self._written: torch.Tensor | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled, and to be told so torch would load its compiler, for 1.3 s."""
        return False

    def refuse(self, reason: str, kind: type[UnsupportedError] = UnsupportedError) -> None:
        """Raises, and remembers it.

        Raises:
            UnsupportedError: always.
        """
        self.refusal = self.refusal or kind(reason)
        raise self.refusal

    @contextmanager
    def inside(
        self,
        given: Sequence[torch.Tensor] = (),
        may_read: bool = False,
        written: torch.Tensor | None = None,
    ) -> Iterator[None]:
        """While a call is made that is recorded.

        Args:
            given: the tensors that it is given, and may compute with.
            may_read: values may be read inside, as no size depends on them.
            written: the one known tensor that it may write over.
        """
        before = self._given, self._may_read, self._written
        self._given, self._may_read, self._written = list(given), may_read, written
        try:
            yield
        finally:
            self._given, self._may_read, self._written = before

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            call = _Call(_kernel(function), args, kwargs or {})
            self._check_size(call)
            self._check_place(call)
            self._check_writing(call)
            result = self._run(function, call)
            if any(tensor.is_nested for tensor in tensors_in(result)):
                self.refuse("it makes nested tensors", _FusedKernelError)
        return result

    def _check_size(self, call: _Call) -> None:
        kernel = call.kernel
        if kernel.reads and not self._may_read:
            self.refuse("it reads values of a tensor, or a size depends on them")
        dynamic = kernel.of_any_size
        if kernel.indexes:
            indices = tensors_in(call.argument("indices"))
            dynamic = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if dynamic:
            self.refuse(f"the size of a result depends on the data ({kernel.name})")

    def _check_place(self, call: _Call) -> None:
        name = call.kernel.name
        if name in _FUSED and call.argument("mask") is not None:
            self.refuse("a fused attention kernel is given a mask", _FusedKernelError)
        if name == "lift_fresh" and self._given is None:
            self.refuse("it makes a tensor of numbers where it cannot be watched")
        given = self._given or ()
        for tensor in tensors_in((call.args, call.kwargs)):
            if any(tensor is each for each in given) or not self._computed.meets(tensor):
                continue
            if not any(_share(tensor, each) for each in given):
                self.refuse(f"it computes where it cannot be watched ({name})")

    def _check_writing(self, call: _Call) -> None:
        for name in call.kernel.written:
            for tensor in tensors_in(call.argument(name)):
                if self._known.meets(tensor, besides=self._written):
                    self.refuse(f"it writes into a tensor ({call.kernel.name})")
        if call.kernel.normalises and call.argument("training"):
            # These write over running statistics without saying so.
            for tensor in tensors_in(call.argument("running_mean")):
                if self._known.meets(tensor):
                    self.refuse(f"it writes into a tensor ({call.kernel.name})")

    def _run(self, function: Any, call: _Call) -> Any:
        if not call.kernel.draws:
            return function(*call.args, **call.kwargs)
        tensors = tensors_in((call.args, call.kwargs))
        device = next((tensor.device for tensor in tensors), None)
        device = device or call.argument("device") or torch.device("cpu")
        before = random_state(device)
        result = function(*call.args, **call.kwargs)
        if random_state(device) != before or call.argument("generator") is not None:
            self.refuse("it draws random numbers")
        return result


@dataclass(frozen=True)
class _Kernel:
    """What a kernel's declaration says of it."""

    name: str
    positions: dict[str, int]
    written: tuple[str, ...]
    reads: bool
    of_any_size: bool
    draws: bool

    @property
    def indexes(self) -> bool:
        return self.name in _INDEXING

    @property
    def normalises(self) -> bool:
        return self.name.endswith("batch_norm")


@dataclass(frozen=True)
class _Call:
    kernel: _Kernel
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, name: str) -> Any:
        """The argument of that name; None where it is not given."""
        position = self.kernel.positions.get(name, len(self.args))
        return self.args[position] if position < len(self.args) else self.kwargs.get(name)


@functools.cache
def _kernel(function: Any) -> _Kernel:
    arguments = function._schema.arguments
    name = function._schema.name.split("::")[-1]
    positions = {argument.name: position for position, argument in enumerate(arguments)}
    draws = torch.Tag.nondeterministic_seeded in function.tags or "generator" in positions
    return _Kernel(
        name=name,
        positions=positions,
        written=tuple(a.name for a in arguments if a.alias_info and a.alias_info.is_write),
        reads=torch.Tag.data_dependent_output in function.tags,
        of_any_size=torch.Tag.dynamic_output_shape in function.tags or name in _OF_ANY_SIZE,
        draws=draws,
    )


def _share(one: torch.Tensor, other: torch.Tensor) -> bool:
    memory = Memory()
    memory.add(one)
    return memory.meets(other)


def random_state(device: torch.device) -> bytes:
    """The state of torch's random numbers on the CPU, and on a GPU."""
    state = torch.get_rng_state().numpy().tobytes()
    if device.type == "cuda":
        state += torch.cuda.get_rng_state(device).numpy().tobytes()
    return state


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value, and in lists, tuples, dictionaries and slices inside it."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, slice):
        yield from tensors_in((value.start, value.stop, value.step))


def is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are of one form and have the same bytes."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if one.layout != torch.strided or one.is_quantized:
        return True  # torch has no function that writes into those
    return torch.equal(_bytes_of(one), _bytes_of(other))


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
