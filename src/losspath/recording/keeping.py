"""Copying a state into the chain that is written."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
import xxhash

from losspath.errors import LosspathWarning, ModelError
from losspath.recording.chain import CLOSING, RECORD, Chain, Entry, Piece, Segment
from losspath.recording.sides import key_of
from losspath.recording.snapshots import Snapshot
from losspath.recording.state import StateReader
from losspath.recording.watch import Comparison, SideWatch


def keep_state(
    chain: Chain,
    row: int,
    is_kept: bool,
    source: StateReader | Snapshot,
    tensors: Iterable[torch.Tensor],
) -> tuple[Segment, int, int, int | None]:
    """Copies a state; its segment, where it begins and ends there, and its digest.

    One that is not kept and would be gathered for it has no digest.

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
        found = xxhash.xxh3_64_intdigest(segment.buffer.row_bytes[place])
        return segment, begin, begin + size, found
    # Of a state that is not kept the digest says whether the model is still in it at the end.
    digest: int | None = None
    if is_kept:
        digest = _copy_in_pieces(chain, tensors, row)
    elif isinstance(tensors, list):
        digest = source.digest(tensors)
    segment, end = chain.with_room(0)
    return segment, -1, end, digest


def _copy_in_pieces(chain: Chain, tensors: Iterable[torch.Tensor], row: int) -> int:
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


def look_at_last(
    state: StateReader, watch: SideWatch, last: Entry
) -> tuple[bool, tuple[Iterable[torch.Tensor], Comparison] | None]:
    """Whether the last state is kept, and what is to be told again of it, if anything.

    All bytes of side tensors are looked at, once. Of changes of large ones that nothing told of
    before, as torch did not count them, the newest state is told again with them; one that has
    a row stays as it was recorded, and a warning tells of it.

    Args:
        state: reads the model, which may have been changed since.
        watch: compares its side tensors.
        last: the last step.
    """
    if last.kind == CLOSING or (last.has_state and not watch.by_turns):
        return True, None
    if last.kind == RECORD and last.digest is None and last.mark is None:
        return True, None  # a step whose state is not known
    if state.is_alone:
        return last.has_state, None
    try:
        tensors = state.tensors()
    except ModelError:
        return last.has_state, None
    if not last.has_state and not _is_in(state, last):
        return False, None
    looked = watch.compare(state.sides, last.known, entirely=True)
    late = {name: last.known.digests[name] for name in watch.late}
    if key_of({**looked[0].digests, **late}.values()) != last.key:
        return last.has_state, None  # they were changed since, and this was counted
    if last.has_state and (not late or last.row_step == last.step):
        return True, None
    is_told = not last.has_state or _is_in(state, last)
    return True, (tensors, looked) if is_told else None


def _is_in(state: StateReader, last: Entry) -> bool:
    """Whether the model is in the state of an entry."""
    if last.digest is None:
        return state.mark() == last.mark
    return state.digest() == last.digest


def warn_of_last(directory: Path, step: int, is_alone: bool) -> None:
    """Warns that the last state of a run is not kept.

    Args:
        directory: the run.
        step: of the state.
        is_alone: whether that is as other processes have parts of it.
    """
    why = "the model was changed after it was recorded"
    if is_alone:
        why = "the processes that have parts of it do not close the run together, as after an error"
    warnings.warn(
        f"{directory}: the state at the last step, {step}, was not stored, as {why}",
        LosspathWarning,
        stacklevel=5,
    )
