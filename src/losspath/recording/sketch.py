"""Sketches: seeded random projections of states that are too large to keep."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.arguments import as_floats, checked, count, described
from losspath.errors import ArgumentError, PathError

Floats = npt.NDArray[np.float64]

# Numbers that are given signs at a time: they stay in the cache.
_BLOCK = 1 << 18
# A state must be so many times as large as its sketch, in bytes.
LEAST_SAVING = 10
# A sketch is handed over whole, in a buffer of 16 MiB.
_LARGEST = 1 << 21


@dataclass(frozen=True)
class Sketch:
    """A linear map S from P numbers to a few that keeps lengths, and so distances, nearly.

    Each of the P numbers gets a random sign and is added to one of the `size` numbers of the
    sketch, by rows of that length that are rotated at random: a count sketch [1]. Then
    E‖S x‖² = ‖x‖² with a variance of at most 2/size ‖x‖⁴ for every x, so that lengths and
    distances are right to about 1/√(2·size) relative, and cosines to about 1/√size.

    Args:
        size: k, how many numbers a sketch has. Sketches are kept in float64, so that differences
            of states that are near each other do not drown in rounding.
        seed: of the signs and rotations. Sketches of the same size and seed can be compared.

    References:
        [1] M. Charikar, K. Chen and M. Farach-Colton, "Finding frequent items in data streams",
        ICALP 2002; as a projection: K. Weinberger et al., "Feature hashing for large scale
        multitask learning", ICML 2009.

    Example:
        >>> sketch = Sketch(20_000)
        >>> f"{sketch.relative_error:.1%}"
        '0.5%'
        >>> sketch.project([3.0] * 400_000).shape
        (20000,)
    """

    size: int
    seed: int = 0

    @checked(size=count(1), seed=count(0))
    def __init__(self, size: int, seed: int = 0) -> None:
        if size > _LARGEST:
            raise ArgumentError(
                f"expected a sketch of at most {_LARGEST:,} numbers, which is right to "
                f"{1 / math.sqrt(2 * _LARGEST):.2%}, got {size:,}"
            )
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "seed", seed)

    @property
    def relative_error(self) -> float:
        """1/√(2k): the standard deviation of a length that is taken of sketches, relative."""
        return 1 / math.sqrt(2 * self.size)

    def project(self, vectors: npt.ArrayLike) -> Floats:
        """The sketches (…, k) of vectors (…, P)."""
        given = as_floats("vectors", "numbers (…, P)", vectors)
        if given.ndim == 0 or not given.shape[-1]:
            raise ArgumentError(f"expected vectors (…, P), got {described(vectors)}")
        rows = given.reshape(-1, given.shape[-1])
        sketcher = Sketcher(self, rows.shape[1])
        found = np.empty((len(rows), self.size))
        for place, row in enumerate(rows):
            found[place] = sketcher.of([torch.from_numpy(np.ascontiguousarray(row))]).numpy()
        return found.reshape(*given.shape[:-1], self.size)

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return {"size": self.size, "seed": self.seed}

    def check(self, parameters: int, width: int = 4) -> None:
        """Refuses to sketch states that are hardly larger than their sketches.

        Args:
            parameters: P.
            width: the bytes of a parameter.

        Raises:
            ArgumentError: less than nine tenths would be saved.
        """
        if 8 * self.size * LEAST_SAVING > width * parameters:
            most = width * parameters // (8 * LEAST_SAVING)
            raise ArgumentError(
                f"expected a sketch of at most {most:,} numbers for {parameters:,} parameters, so "
                f"that it takes a tenth of what states take, got {self.size:,}; record whole states"
            )


def sketch_of(path: object) -> Sketch | None:
    """What the states of a path are sketches by; None where they are whole."""
    found: Sketch | None = getattr(path, "sketch", None)
    return found


def check_whole(path: object) -> None:
    """Refuses what needs states themselves.

    Raises:
        PathError: the states of a path are sketches.
    """
    if sketch := sketch_of(path):
        raise PathError(
            f"{getattr(path, 'directory', 'the path')} keeps sketches of {sketch.size:,} numbers, "
            "of which no parameters can be made: they serve step sizes, turns, distances and "
            "coordinates in a plane; for surfaces and losses record whole states too, by a second "
            "Recorder with a schedule"
        )


class Sketcher:
    """Makes sketches of states of one length, on any device.

    A state is cut into rows of the sketch's length; each is given signs, rotated, and added. The
    sums are made in the same order everywhere, so that a sketch has the same bytes on a GPU.

    Args:
        sketch: which.
        parameters: P.
    """

    def __init__(self, sketch: Sketch, parameters: int) -> None:
        self._size = sketch.size
        rows = -(-parameters // sketch.size)
        # The raw words of a bit generator are the same in all versions of NumPy.
        words = np.random.Philox(key=sketch.seed)
        self._shifts = (words.random_raw(rows) % np.uint64(sketch.size)).tolist()
        # One bit a number: signs of a billion take 125 MB.
        bits = words.random_raw(-(-parameters // 64)).astype("<u8").view(np.uint8)
        self._bits = {torch.device("cpu"): torch.from_numpy(bits)}

    def of(self, tensors: Iterable[torch.Tensor]) -> torch.Tensor:
        """The sketch (k,) of a state: see `into`."""
        found = torch.empty(self._size, dtype=torch.float64, device="cpu")
        self.into(found, tensors)
        return found

    def into(self, out: torch.Tensor, tensors: Iterable[torch.Tensor]) -> None:
        """Puts the sketch of a state into `out`.

        Args:
            out: (k,) float64, on the CPU.
            tensors: of the state, in order and one-dimensional, on one device or several.
        """
        out.zero_()
        for each in self.by_device(tensors):
            out += each.cpu()

    def by_device(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """What the tensors of each device give to the sketch (k,) of a state, there."""
        sums: dict[torch.device, torch.Tensor] = {}
        at = 0
        for tensor in tensors:
            device = tensor.device
            if device.type == "mps":  # has no float64
                tensor, device = tensor.cpu(), torch.device("cpu")
            if device not in sums:
                sums[device] = torch.zeros(2 * self._size, dtype=torch.float64, device=device)
            for part in tensor.split(_BLOCK):  # type: ignore[no-untyped-call]
                self._add(sums[device], part, at)
                at += len(part)
        return [each[: self._size] + each[self._size :] for each in sums.values()]

    def _add(self, sums: torch.Tensor, part: torch.Tensor, at: int) -> None:
        """Adds numbers from place `at` of a state on, with their signs, where they belong."""
        values = (part if part.dtype == torch.float64 else part.float()) * self._signs(part, at)
        done = 0
        while done < len(values):
            row, column = divmod(at + done, self._size)
            count = min(self._size - column, len(values) - done)
            begin = self._shifts[row] + column
            sums[begin : begin + count] += values[done : done + count]
            done += count

    def _signs(self, part: torch.Tensor, at: int) -> torch.Tensor:
        """(n,) int8: 1 or −1 for the numbers from place `at` on."""
        if part.device not in self._bits:
            self._bits[part.device] = self._bits[torch.device("cpu")].to(part.device)
        begin, end = at // 8, -(-(at + len(part)) // 8)
        places = torch.arange(8, dtype=torch.uint8, device=part.device)
        bits = (self._bits[part.device][begin:end, None] >> places) & 1
        first = at - 8 * begin
        return 1 - 2 * bits.reshape(-1)[first : first + len(part)].to(torch.int8)
