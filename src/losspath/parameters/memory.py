"""Which numbers of memory tensors have in common."""

from __future__ import annotations

import torch

from losspath.errors import ModelError


class Memory:
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
