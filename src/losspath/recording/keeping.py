"""Copying a state into the chain that is written."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import xxhash

from losspath.errors import LosspathWarning
from losspath.recording.chain import Chain, Piece, Segment
from losspath.recording.snapshots import Snapshot
from losspath.recording.state import StateReader


def keep_state(
    chain: Chain,
    row: int,
    is_kept: bool,
    source: StateReader | Snapshot,
    tensors: list[torch.Tensor],
) -> tuple[Segment, int, int, int]:
    """Copies a state; its segment, where it begins and ends there, and its digest.

    Args:
        chain: where to.
        row: the number of its row; −1 for the newest state.
        is_kept: whether it is copied, or only its digest is taken.
        source: what reads it.
        tensors: its numbers, as the source has them.
    """
    if is_kept and not chain.in_pieces:
        size = chain.row_size
        segment, begin = chain.with_room(size)
        place = begin // size
        source.read_into(segment.buffer.rows[place], tensors)
        # Hashed here, where the row is still in the processor's cache.
        digest = xxhash.xxh3_64_intdigest(segment.buffer.row_bytes[place])
        return segment, begin, begin + size, digest
    # Of a state that is not kept the digest says whether the model is still in it at the end.
    digest = _copy_in_pieces(chain, tensors, row) if is_kept else source.digest(tensors)
    segment, end = chain.with_room(0)
    return segment, -1, end, digest


def _copy_in_pieces(chain: Chain, tensors: list[torch.Tensor], row: int) -> int:
    hasher, offset = xxhash.xxh3_64(), 0
    for tensor in tensors:
        done = 0
        while done < len(tensor):
            segment, begin = chain.with_room(1)
            count = min(len(tensor) - done, len(segment.buffer.numbers) - begin)
            place = segment.buffer.numbers[begin : begin + count]
            place.copy_(tensor[done : done + count])
            hasher.update(segment.buffer.bytes(begin, count))
            chain.append(segment, Piece(row, offset, begin, begin + count))
            done += count
            offset += count
    return hasher.intdigest()


def warn_of_last(directory: Path, step: int) -> None:
    """Warns that the last state of a run is not kept."""
    warnings.warn(
        f"{directory}: the state at the last step, {step}, was not stored, as the model was "
        "changed after it was recorded",
        LosspathWarning,
        stacklevel=5,
    )
