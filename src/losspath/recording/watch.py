"""Which side tensors changed since they were stored, for little where none did."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import xxhash

from losspath.errors import LosspathWarning
from losspath.parameters import SideTensor, local_part, version_of
from losspath.recording.sides import Described, key_of

# Tensors are compared by their bytes up to this size, all together. Of larger ones torch's count of
# changes is looked at, and so many numbers. As `tensor.data` and NumPy change numbers that torch
# does not count, the digest of a buffer is looked at too: of all its bytes where it is no larger
# than a part (0.3 ms), as long as there is room for it, and of larger ones a part by turns. Frozen
# parameters are seldom changed and often large: of all together one part is looked at by turns.
# Where such a change is found, the tensor is looked at like a buffer from then on.
_WHOLE_BYTES = 1 << 20
_SAMPLE = 1024
_PART_BYTES = 16 << 20
_HASHED_BYTES = 64 << 20
_TURN_BYTES = 4 << 20
_FROZEN_TURN_BYTES = 1 << 20  # 0.04 ms; on a GPU a part


class Change(NamedTuple):
    """A side tensor that is to be stored: what it is, the digest of both, and its bytes."""

    described: Described
    digest: int
    content: bytes


class _Print(NamedTuple):
    """What tells whether a tensor changed: `parts` are the digests of its bytes, part by part."""

    described: Described
    seen: bytes
    version: int | None
    place: int
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Known:
    """The side tensors as they were last stored; never changed, only replaced.

    Attributes:
        digests: of each, by name.
        key: of all together.
    """

    digests: Mapping[str, int] = field(default_factory=dict)
    key: int = 0
    plan: Plan | None = None
    prints: tuple[bytes, ...] = ()
    versions: tuple[int | None, ...] = ()
    items: Mapping[str, _Print] = field(default_factory=dict)

    @classmethod
    def of(cls, digests: Mapping[str, int]) -> Known:
        """Side tensors of which the digests are known and no more."""
        return cls(digests, key_of(digests.values()))


Comparison = tuple[Known, list[Change], list[str]]
"""What is known now, what changed since, and the names that are gone."""


class _Item(NamedTuple):
    described: Described
    side: SideTensor
    tensor: torch.Tensor  # what this process has of it
    whole: bool
    part: torch.Tensor | None  # what is looked at, where the same view serves every time
    group: int
    hashed: int  # the bytes of a part that is hashed; 0 for none


class Plan:
    """How to look at a list of side tensors.

    Args:
        sides: the tensors; those whose bytes cannot be had are left out.
        found: of tensors that were seen to change uncounted, the digests that they differ from;
            it is added to.

    Attributes:
        left_out: the names of those.
        late: those whose change was seen at the last look and may have been there before it.
        by_turns: whether there are tensors that are not looked at whole each time.
    """

    def __init__(
        self, sides: Sequence[SideTensor], found: dict[str, tuple[int, ...]] | None = None
    ) -> None:
        self.source = sides
        self.late: list[str] = []
        self._found = {} if found is None else found
        self.left_out: list[str] = []
        self.frozen = [side for side in sides if side.kind == "frozen"]
        self._items: list[_Item] = []
        groups: dict[tuple[torch.device, int], int] = {}
        room, hashed_room = _WHOLE_BYTES, _HASHED_BYTES
        for side in sorted(sides, key=lambda side: _nbytes(side.tensor)):
            tensor = local_part(side.tensor)
            size = _nbytes(tensor)
            # Of what is sharded, parts of other processes count: torch's count is looked at.
            whole = size <= room and side.whole is None
            try:
                part = _looked_at(tensor, whole)
            except (NotImplementedError, RuntimeError, TypeError):
                self.left_out.append(side.name)
                continue
            room -= size if whole else 0
            stays = tensor.numel() > 0 and part.untyped_storage().data_ptr() == (
                tensor.untyped_storage().data_ptr()
            )
            group = groups.setdefault((part.device, part.shape[1]), len(groups))
            hashed = 0
            if side.kind == "buffer" and not whole:
                at_once = size <= min(_PART_BYTES, hashed_room)
                hashed = size if at_once else _TURN_BYTES
                hashed_room -= size if at_once else 0
            elif not whole:
                hashed = _PART_BYTES if tensor.is_cuda else _FROZEN_TURN_BYTES
            self._items.append(
                _Item(
                    *(_described(side), side, tensor, whole),
                    *(part if stays else None, group, hashed),
                )
            )
        self._count = len(groups)
        self._items.sort(key=lambda item: item.group)
        self._large = [item.side.tensor for item in self._items if not item.whole]
        self._hashed = {item.described.name: item for item in self._items if item.hashed}
        self._each = [n for n, item in self._hashed.items() if item.described.kind == "buffer"]
        self._frozen_parts = [
            (name, number)
            for name, item in self._hashed.items()
            if item.described.kind == "frozen"
            for number in range(-(-_nbytes(item.tensor) // item.hashed))
        ]
        self.by_turns = any(_nbytes(item.tensor) > item.hashed for item in self._hashed.values())
        self.by_turns |= bool(self._frozen_parts)
        self._turn = 0

    def __len__(self) -> int:
        return len(self._items)

    def compare(self, known: Known, entirely: bool = False) -> Comparison:
        """What is known now, what changed since, and the names that are gone.

        Args:
            known: what to compare with.
            entirely: whether to look at all bytes of all tensors.
        """
        self.late = []
        if not self._items and not known.digests:
            return known, [], []
        parts: list[list[torch.Tensor]] = [[] for _ in range(self._count)]
        for item in self._items:
            part = _looked_at(item.tensor, item.whole) if item.part is None else item.part
            parts[item.group].append(part)
        prints = tuple(torch.cat(group).cpu().numpy().tobytes() for group in parts)
        versions = tuple(version_of(tensor) for tensor in self._large)
        stale = self._stale(known, entirely)
        is_same = known.plan is self and known.prints == prints and known.versions == versions
        if is_same and not stale:
            return known, [], []
        return self._differences(known, parts, prints, versions, stale)

    def _stale(self, known: Known, entirely: bool) -> set[str]:
        """The names of tensors of which a part has another digest than is known."""
        self._turn += 1
        stale = set()
        for name, numbers in self._looks(entirely):
            before = known.items.get(name)
            if before is None or not before.parts:
                continue
            if self._found.get(name) is before.parts:  # it is known to differ from these
                stale.add(name)
                continue
            item, count = self._hashed[name], len(before.parts)
            if numbers is None:
                at_once = entirely or (name in self._found and count * item.hashed <= _PART_BYTES)
                numbers = range(count) if at_once else (self._turn % count,)
            raw = _bytes_in_memory(item.tensor)
            for number in numbers:
                part = raw[number * item.hashed :][: item.hashed]
                if number < count and _digest(part) != before.parts[number]:
                    stale.add(name)
                    break
        return stale

    def _looks(self, entirely: bool) -> list[tuple[str, Sequence[int] | None]]:
        """What to look at: names, and numbers of parts; None for what is due of a tensor."""
        if entirely:
            return [(name, None) for name in self._hashed]
        looks: list[tuple[str, Sequence[int] | None]] = [(name, None) for name in self._each]
        if self._found:
            others = self._hashed.keys() - self._each
            looks += [(name, None) for name in self._found if name in others]
        if self._frozen_parts:
            name, number = self._frozen_parts[self._turn % len(self._frozen_parts)]
            looks.append((name, (number,)))
        return looks

    def _differences(
        self,
        known: Known,
        parts: list[list[torch.Tensor]],
        prints: tuple[bytes, ...],
        versions: tuple[int | None, ...],
        stale: set[str],
    ) -> Comparison:
        changes: list[Change] = []
        digests: dict[str, int] = {}
        items: dict[str, _Print] = {}
        at, lengths = [0] * self._count, [[part.numel() for part in group] for group in parts]
        numbers = [iter(group) for group in lengths]
        for item in self._items:
            begin = at[item.group]
            at[item.group] = begin + next(numbers[item.group])
            seen = prints[item.group][begin : at[item.group]]
            name = item.described.name
            mark: tuple[int | None, int] = (None, 0)
            if not item.whole:
                mark = version_of(item.side.tensor), item.tensor.data_ptr()
            before = known.items.get(name)
            now = _Print(item.described, seen, *mark, before.parts if before else ())
            items[name] = now
            if now == before and name not in stale:
                digests[name] = known.digests[name]
                continue
            is_by_turns = len(now.parts) > 1 or item.described.kind == "frozen"
            if now == before and is_by_turns and self._found.get(name) is not now.parts:
                self._found[name] = now.parts  # nothing else told of it
                self.late.append(name)
            if item.hashed:
                raw = _bytes_in_memory(item.tensor)
                begins = range(0, len(raw), item.hashed)
                parts_now = tuple(_digest(raw[at : at + item.hashed]) for at in begins)
                items[name] = now._replace(parts=parts_now)
                if before and now.version == before.version and seen != before.seen:
                    self._found.setdefault(name, ())  # by what the sample shows
            content = seen
            if not item.whole:
                content = _content(item.side.whole() if item.side.whole else item.tensor)
            digests[name] = item.described.digest(content)
            if digests[name] != known.digests.get(name):
                changes.append(Change(item.described, digests[name], content))
        gone = [name for name in known.digests if name not in digests]
        last = Known(digests, key_of(digests.values()), self, prints, versions, items)
        return last, changes, gone


class SideWatch:
    """Compares a model's side tensors with those that are stored, and warns once of each oddity.

    Args:
        place: where they are recorded, for warnings.
    """

    def __init__(self, place: object) -> None:
        self._place = place
        self._plan = Plan([])
        self._found: dict[str, tuple[int, ...]] = {}
        self._told: set[tuple[str, str]] = set()

    @property
    def by_turns(self) -> bool:
        """Whether there are tensors that are not looked at whole each time."""
        return self._plan.by_turns

    @property
    def late(self) -> list[str]:
        """The names of those whose change was seen at the last look and may be older."""
        return self._plan.late

    def compare(
        self, sides: Sequence[SideTensor], known: Known, entirely: bool = False
    ) -> Comparison:
        """What is known now, what changed since, and the names that are gone.

        Args:
            sides: the side tensors.
            known: what to compare with.
            entirely: whether to look at all bytes of all tensors.
        """
        if self._plan.source is not sides:
            self._plan = Plan(sides, self._found)
        plan = self._plan
        if plan.left_out:
            self._tell(
                plan.left_out,
                "cannot be recorded, as their bytes cannot be had (sparse, nested or quantised "
                "tensors); outputs that depend on them are those of the model as it is then",
            )
        if plan.frozen and (
            thawed := [side.name for side in plan.frozen if side.tensor.requires_grad]
        ):
            self._tell(
                thawed,
                "required no gradient when recording began and require one now: their numbers are "
                'recorded, but the path does not move along them; Recorder(..., parameters="all") '
                "takes them into it",
            )
        result = plan.compare(known, entirely)
        if plan.late:
            self._tell(
                plan.late,
                "changed without torch counting it (as by tensor.data or NumPy); earlier states "
                "may have older numbers of it",
            )
        return result

    def _tell(self, names: list[str], what: str) -> None:
        if new := [name for name in names if (name, what) not in self._told]:
            self._told.update((name, what) for name in new)
            more = f" and {len(new) - 5} others" if len(new) > 5 else ""
            warnings.warn(
                f"{self._place}: {', '.join(new[:5])}{more} {what}", LosspathWarning, stacklevel=4
            )


def _described(side: SideTensor) -> Described:
    dtype = str(side.tensor.dtype).removeprefix("torch.")
    return Described(side.name, dtype, tuple(map(int, side.tensor.shape)), side.kind)


def _nbytes(tensor: torch.Tensor) -> int:
    return int(tensor.numel()) * tensor.element_size()


def _looked_at(tensor: torch.Tensor, whole: bool) -> torch.Tensor:
    """Bytes of a tensor, or of some of its numbers, as (numbers, bytes of each)."""
    value = _plain(tensor)
    size = value.element_size()
    if whole:
        return value.contiguous().reshape(-1).view(torch.uint8).reshape(-1, size)
    rows = _bytes_in_memory(tensor).reshape(-1, size)
    return rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]


def _bytes_in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor in the order of memory, so that a dense one is not copied."""
    value = _plain(tensor)
    order = sorted(range(value.dim()), key=value.stride, reverse=True)
    return value.permute(order).reshape(-1).view(torch.uint8)


def _digest(raw: torch.Tensor) -> int:
    """A number that tells bytes apart; those of a GPU's memory stay there."""
    if raw.is_cuda:
        return _sum_of_mixed(raw)
    return xxhash.xxh3_64_intdigest(raw.cpu().numpy().data)


def _sum_of_mixed(raw: torch.Tensor) -> int:
    """The sum of words that are mixed with their place first, as splitmix64 does it."""
    words = torch.nn.functional.pad(raw, (0, -len(raw) % 8)).clone().view(torch.int64)
    mixed = words + torch.arange(len(words), device=raw.device) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return int((mixed ^ (mixed >> 31)).sum())


def _content(tensor: torch.Tensor) -> bytes:
    raw = _plain(tensor).contiguous().reshape(-1).cpu().view(torch.uint8)
    content: bytes = raw.numpy().tobytes()
    return content


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    value: Any = tensor.detach()
    if value.layout != torch.strided or value.is_nested or value.is_quantized or value.is_meta:
        raise TypeError(f"{value.layout} tensors have no plain bytes")
    return value.resolve_conj().resolve_neg()  # type: ignore[no-any-return]
