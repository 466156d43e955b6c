"""What torch's kernels do while a forward pass is recorded, and what of it no recording can hold.

A recorded call is seen as a model makes it. What happens inside, and what happens without a call
that could be recorded, is seen one level below, kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from losspath.errors import UnsupportedError


class FusedKernelError(UnsupportedError):
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
            first, last = _extent(part)
            places = self._by_storage.get(part.untyped_storage().data_ptr(), {})
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
    if tensor.layout == torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    elif tensor.layout == torch.strided and not tensor.is_nested:
        parts = [tensor]
    else:
        raise UnsupportedError(f"it holds a tensor of layout {tensor.layout}")
    return [part for part in parts if part.numel()]


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The address of a tensor's first byte, and that after its last."""
    reach = sum(
        (int(n) - 1) * int(stride) for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    first = tensor.data_ptr()
    return first, first + (reach + 1) * tensor.element_size()


# Kernels whose results have sizes that depend on values, and that carry no tag that says so.
_OF_ANY_SIZE = ("aten::_pack_padded_sequence", "aten::_to_sparse", "aten::_coalesce")
_FUSED = (
    "aten::_transformer_encoder_layer_fwd",
    "aten::_native_multi_head_attention",
    "aten::_triton_multi_head_attention",
)
_INDEXING = (
    "aten::index",
    "aten::_unsafe_index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_unsafe_index_put",
    "aten::_index_put_impl_",
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
        self._inside = False
        self._may_read = False
        self._written: torch.Tensor | None = None

    def refuse(self, reason: str, kind: type[UnsupportedError] = UnsupportedError) -> None:
        """Raises, and remembers it.

        Raises:
            UnsupportedError: always.
        """
        self.refusal = self.refusal or kind(reason)
        raise self.refusal

    @contextmanager
    def inside(self, may_read: bool = False, written: torch.Tensor | None = None) -> Iterator[None]:
        """While a call is made that is recorded.

        Args:
            may_read: values may be read inside, as no size depends on them.
            written: the one known tensor that it may write over.
        """
        before = self._inside, self._may_read, self._written
        self._inside, self._may_read, self._written = True, may_read, written
        try:
            yield
        finally:
            self._inside, self._may_read, self._written = before

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            self._check_size(function, args, kwargs)
            self._check_place(function, args, kwargs)
            self._check_writing(function, args, kwargs)
            result = function(*args, **kwargs)
            if any(tensor.is_nested for tensor in tensors_in(result)):
                self.refuse("it makes nested tensors", FusedKernelError)
        return result

    def _check_place(self, function: Any, args: Any, kwargs: Any) -> None:
        name = function._schema.name
        if name in _FUSED and given(function, args, kwargs, "mask") is not None:
            self.refuse("a fused attention kernel is given a mask", FusedKernelError)
        if self._inside:
            return
        if name == "aten::lift_fresh":
            self.refuse("it makes a tensor of numbers where it cannot be watched")
        if any(map(self._computed.meets, tensors_in((args, kwargs)))):
            self.refuse(f"it computes where it cannot be watched ({name}), as scripted modules do")

    def _check_size(self, function: Any, args: Any, kwargs: Any) -> None:
        name, tags = function._schema.name, function.tags
        if torch.Tag.data_dependent_output in tags and not self._may_read:
            self.refuse("it reads values of a tensor, or a size depends on them")
        dynamic = torch.Tag.dynamic_output_shape in tags or name in _OF_ANY_SIZE
        if name in _INDEXING:
            indices = given(function, args, kwargs, "indices")
            dynamic = any(t.dtype in (torch.bool, torch.uint8) for t in tensors_in(indices))
        if dynamic:
            self.refuse(f"the size of a result depends on the data ({name.split('::')[-1]})")

    def _check_writing(self, function: Any, args: Any, kwargs: Any) -> None:
        name = function._schema.name.split("::")[-1]
        if name.endswith("batch_norm") and given(function, args, kwargs, "training"):
            # These write over running statistics without saying so.
            for tensor in tensors_in(given(function, args, kwargs, "running_mean")):
                if self._known.meets(tensor):
                    self.refuse(f"it writes into a tensor ({name})")
        for position, argument in enumerate(function._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            for tensor in tensors_in(value):
                if self._known.meets(tensor, besides=self._written):
                    self.refuse(f"it writes into a tensor ({name})")


def given(function: Any, args: Any, kwargs: Any, name: str) -> Any:
    """The argument of a kernel by its name; None where it is not given."""
    for position, argument in enumerate(function._schema.arguments):
        if argument.name == name:
            return args[position] if position < len(args) else kwargs.get(name)
    return None


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
