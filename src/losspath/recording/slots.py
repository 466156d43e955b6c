"""The stream of fixed slots that says what a run holds, kept twice.

``records.bin`` and ``records.copy.bin`` are the same stream of 64-byte slots, little-endian:

=================  =================================================================================
``serial`` u64     the slot's place in the stream, so that none is taken for another
``kind`` u16       what it tells, below
``flags`` u16      bits, by kind
``generation`` u32 how often the whole stream was written anew; slots of older ones do not count
``step`` i64       and ``a`` i64, ``b`` u64, ``c`` u64, ``d`` u64: by kind
``check`` u64      the XXH3-64 of the 56 bytes before it
=================  =================================================================================

Each slot has its own check, so that damage costs the slot that it hits, and there the other copy
helps. A slot that is right in neither is missing; after a repair a LOST slot stands in its place.

Kinds: RECORD, one for each `record` call and one for the initial state (``a`` row number or −1,
``b`` digest of the row, ``c`` key of the side tensors, ``d`` the loss); NEWEST, the state of the
RECORD of the same step that comes next, where `every` gave that one no row (``a`` place in
``newest.bin``, ``b`` digest, ``c`` key); SIDE, side tensors that changed (``a`` offset of the blob
in ``sides.bin``, ``b`` its digest, ``c`` its payload's length, ``d`` offset of its form); VALUE, a
named number (``a`` number of the name, ``d`` the value); NAME (``a`` number, ``flags`` part,
``step`` length in bytes, 24 bytes of UTF-8 in ``b`` … ``d``); LOST, for one that is lost (``flags``
the kind that it was, 0 where that is not known); CLOSE (``a`` RECORDs so far, ``b`` rows so far,
``flags`` 1). SIDE, VALUE and NAME slots come before the RECORD that they belong to, and count once
that is there. Kinds 8 to 31 are left for what is to come; readers pass over kinds that they do not
know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Slots = npt.NDArray[Any]

SLOT = np.dtype(
    [
        ("serial", "<u8"),
        ("kind", "<u2"),
        ("flags", "<u2"),
        ("generation", "<u4"),
        ("step", "<i8"),
        ("a", "<i8"),
        ("b", "<u8"),
        ("c", "<u8"),
        ("d", "<u8"),
        ("check", "<u8"),
    ]
)
SLOT_BYTES = SLOT.itemsize
_CHECKED = SLOT_BYTES - 8

RECORD, NEWEST, SIDE, VALUE, NAME, LOST, CLOSE = range(1, 8)

# Flags of RECORD.
INITIAL = 1  # the state that recording began with: no loss leads to it
NO_DIGEST = 2  # that of its row is not known, as in some runs of the first format
ROW_LOST = 4  # by repair: its row is lost, its loss is known
NO_LOSS = 8  # named values of a step whose loss is not known
# Flags of SIDE.
OF_NEWEST = 1  # belongs to the newest state of this step alone

_NAME_BYTES = 24


@dataclass(frozen=True)
class Stream:
    """What two copies of a stream hold together.

    Attributes:
        slots: one for each place; those that are missing are of kind 0.
        missing: the places whose slot is right in neither copy.
        generation: of the stream.
        mended: names of copies that lack or miss something that the other has.
        torn: bytes behind the last slot, of both copies together.
        behind: those of `mended` that only end earlier, as between two writes.
        contradictory: whether the copies are right and differ: one is another run's.
    """

    slots: Slots
    missing: npt.NDArray[np.int64]
    generation: int
    mended: tuple[str, ...] = ()
    torn: int = 0
    behind: tuple[str, ...] = ()
    contradictory: bool = False

    def __len__(self) -> int:
        return len(self.slots)


def bits(value: float) -> int:
    """A float64 as the integer of the same bytes."""
    return int(np.float64(value).view(np.uint64))


def floats(column: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """A column of such integers as float64."""
    return np.ascontiguousarray(column).view("<f8").astype(np.float64)


def sealed(rows: Sequence[tuple[int, ...]], first: int, generation: int) -> Slots:
    """Slots of (kind, flags, step, a, b, c, d), numbered from `first` on, with their checks."""
    slots = np.zeros(len(rows), SLOT)
    if len(rows):
        for name, column in zip(
            ("kind", "flags", "step", "a", "b", "c", "d"), zip(*rows, strict=True), strict=True
        ):
            slots[name] = np.array(column, SLOT[name])
    return renumbered(slots, first, generation)


def renumbered(slots: Slots, first: int, generation: int) -> Slots:
    """A copy of slots for places from `first` on of a stream of a generation."""
    slots = slots.copy()
    slots["serial"] = np.arange(first, first + len(slots), dtype=np.uint64)
    slots["generation"] = generation
    slots["check"] = _checks(slots)
    return slots


def _checks(slots: Slots) -> npt.NDArray[np.uint64]:
    raw = memoryview(slots.tobytes())
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(
        (digest(raw[at : at + _CHECKED]) for at in range(0, len(raw), SLOT_BYTES)),
        np.uint64,
        len(slots),
    )


def merge(copies: dict[str, bytes]) -> Stream:
    """The stream that copies hold together, by the files' names."""
    parsed: dict[str, tuple[Slots, npt.NDArray[np.bool_]]] = {}
    known: dict[bytes, tuple[Slots, npt.NDArray[np.bool_]]] = {}
    for name, raw in copies.items():
        if raw not in known:
            known[raw] = _parse(raw)
        parsed[name] = known[raw]
    generation = max(
        (int(slots["generation"][good].max()) for slots, good in parsed.values() if good.any()),
        default=0,
    )
    for name, (slots, good) in parsed.items():
        parsed[name] = slots, good & (slots["generation"] == generation)
    ends = {
        n: int(np.flatnonzero(good)[-1]) + 1 if good.any() else 0 for n, (_, good) in parsed.items()
    }
    length = max(ends.values(), default=0)
    merged, there = np.zeros(length, SLOT), np.zeros(length, bool)
    contradictory = False
    for slots, good in parsed.values():
        places = np.flatnonzero(good[:length])
        told = places[there[places]]
        contradictory |= bool(np.any(merged[told] != slots[told]))
        places = places[~there[places]]
        merged[places] = slots[places]
        there[places] = True
    return Stream(
        slots=merged,
        missing=np.flatnonzero(~there),
        generation=generation,
        mended=tuple(
            name for name, (_, good) in parsed.items() if np.count_nonzero(good) < there.sum()
        ),
        torn=sum(len(copies[name]) - ends[name] * SLOT_BYTES for name in copies),
        behind=tuple(
            name
            for name, (_, good) in parsed.items()
            if 0 < ends[name] < length and np.count_nonzero(good) == ends[name]
        ),
        contradictory=contradictory,
    )


def _parse(raw: bytes) -> tuple[Slots, npt.NDArray[np.bool_]]:
    slots: Slots = np.frombuffer(raw[: len(raw) // SLOT_BYTES * SLOT_BYTES], SLOT)
    good = slots["check"] == _checks(slots)
    good &= slots["serial"] == np.arange(len(slots), dtype=np.uint64)
    good &= slots["kind"] > 0
    return slots, good


def lost_records(table: Slots) -> npt.NDArray[np.bool_]:
    """Which slots are in the place of one that is lost and may have been a RECORD."""
    unknown = (table["flags"] == 0) | (table["flags"] == RECORD)
    lost: npt.NDArray[np.bool_] = (table["kind"] == 0) | ((table["kind"] == LOST) & unknown)
    return lost


def name_rows(number: int, name: str) -> list[tuple[int, ...]]:
    """The slots that give a name its number, as `sealed` takes them."""
    raw = name.encode("utf-8", "surrogatepass")
    rows = []
    for part, at in enumerate(range(0, max(1, len(raw)), _NAME_BYTES)):
        piece = raw[at : at + _NAME_BYTES].ljust(_NAME_BYTES, b"\0")
        words = (int.from_bytes(piece[i : i + 8], "little") for i in (0, 8, 16))
        rows.append((NAME, part, len(raw), number, *words))
    return rows


def names(slots: Slots) -> dict[int, str]:
    """Names by their numbers; those with a missing part are left out."""
    parts: dict[int, dict[int, bytes]] = {}
    lengths: dict[int, int] = {}
    for slot in slots[slots["kind"] == NAME]:
        number = int(slot["a"])
        words = (int(slot[word]).to_bytes(8, "little") for word in ("b", "c", "d"))
        parts.setdefault(number, {})[int(slot["flags"])] = b"".join(words)
        lengths[number] = int(slot["step"])
    found = {}
    for number, pieces in parts.items():
        length = lengths[number]
        wanted = range(-(-max(1, length) // _NAME_BYTES))
        if all(part in pieces for part in wanted):
            raw = b"".join(pieces[part] for part in wanted)[:length]
            found[number] = raw.decode("utf-8", "surrogatepass")
    return found
