"""A model's state where each process has a part of it, put together as it is read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
import xxhash

from losspath.parameters import (
    Layout,
    SideTensor,
    dtype_name,
    flat,
    is_sharded,
    local_part,
    local_parts,
    version_of,
    whole,
)
from losspath.recording.together import ShardGroup

# Small tensors are gathered one after the other at one word of the leader's, up to so many bytes.
_GATHERED_BYTES = 16 << 20
# Whether a state is still the one that was seen is told by torch's counts of changes, and by so
# many numbers of each of the largest tensors that this process has.
_SAMPLED_TENSORS = 16
_SAMPLE = 64


class Parts:
    """The tensors of a row, of which each process has a part; iterated over, whole ones.

    The process that leads iterates, one-dimensional tensors in their order, and holds at most one
    large one at a time. Others take part by `gather`.

    Args:
        layout: of its rows.
        tensors: of a row.
        sides: the side tensors.
        group: the processes.

    Attributes:
        sides: the side tensors, with what gives all of those that are sharded.
        key: identifies names, shapes and dtypes, alike in all processes.
        seconds: how long it took to gather the last state.
    """

    def __init__(
        self,
        layout: Layout,
        tensors: Sequence[torch.Tensor],
        sides: Sequence[SideTensor],
        group: ShardGroup,
    ) -> None:
        self._group = group
        self._all = [*tensors, *(side.tensor for side in sides)]
        self._sharded = [tensor for tensor in self._all if is_sharded(tensor)]
        self._own = local_parts(self._sharded)  # held, as their places are
        self._places = _places(self._own)
        self._of_row = list(tensors)
        by_size = sorted(map(local_part, tensors), key=torch.Tensor.numel, reverse=True)
        self._samples = [_sample(part) for part in by_size[:_SAMPLED_TENSORS]]
        self.sides = [
            side._replace(whole=partial(self._side, number)) if is_sharded(side.tensor) else side
            for number, side in enumerate(sides, len(tensors))
        ]
        told = [(entry.name, entry.shape, entry.dtype) for entry in layout.parameters]
        told += [(s.name, tuple(s.tensor.shape), dtype_name(s.tensor)) for s in sides]
        self.key = xxhash.xxh3_64_intdigest(repr(told).encode()) >> 2
        self.seconds = 0.0

    def is_as_found(self) -> bool:
        """Whether the parts are in the memory that they were in."""
        return self._places == _places(local_parts(self._sharded))

    def mark(self) -> int:
        """Tells whether the state is still the same, without gathering it."""
        hasher = xxhash.xxh3_64(repr([version_of(tensor) for tensor in self._of_row]).encode())
        for sample in self._samples:
            hasher.update(sample.cpu().contiguous().view(torch.uint8).numpy().data)
        return hasher.intdigest()

    def gather(self, first: int, last: int) -> list[torch.Tensor]:
        """Whole tensors first … last−1 of the row's and then the sides'; for all processes."""
        with self._group.reaching():
            return [whole(tensor) for tensor in self._all[first:last]]

    def __iter__(self) -> Iterator[torch.Tensor]:
        seconds = 0.0
        for first, last in _stretches(self._of_row):
            begin = time.perf_counter()
            self._group.gather(first, last)
            found = self.gather(first, last)
            seconds += time.perf_counter() - begin
            found.reverse()
            while found:
                yield flat(found.pop())
        self.seconds = seconds

    def _side(self, number: int) -> torch.Tensor:
        self._group.gather(number, number + 1)
        return self.gather(number, number + 1)[0]


def _places(parts: Iterable[torch.Tensor]) -> list[tuple[int, torch.Size]]:
    return [(part.data_ptr(), part.shape) for part in parts]


def _sample(part: torch.Tensor) -> torch.Tensor:
    numbers = flat(part)
    return numbers[:: max(1, len(numbers) // _SAMPLE)][:_SAMPLE]


def _stretches(tensors: Sequence[torch.Tensor]) -> Iterator[tuple[int, int]]:
    """Tensors in a row that are small together, or one that is large."""
    first, size = 0, 0
    for number, tensor in enumerate(tensors):
        own = tensor.numel() * tensor.element_size()
        if number > first and size + own > _GATHERED_BYTES:
            yield first, number
            first, size = number, 0
        size += own
    if first < len(tensors):
        yield first, len(tensors)
