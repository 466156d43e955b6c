"""What modules hold that outputs may depend on and that is no part of a state.

Numbers and flags: a temperature, a share that fades in, alone or in an object or dict of settings;
and tensors that are neither parameters nor buffers, such as a mean that is kept by hand. They are
recorded as named values whose names begin with a dot, which no argument of `Recorder.record` can
be called.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from typing import Any, NamedTuple

import torch

from losspath.objects import own_attributes, walk
from losspath.parameters import (
    class_of,
    is_sharded,
    is_torchs,
    local_part,
    named_modules,
    version_of,
)

MARK = "."

# A whole number that changed at so many records in a row counts something.
_COUNTS = 4
# Longer objects, dicts and lists are data.
_LONG = 100
# New places are looked for at the 2nd, 4th, 8th, … record, and at each of so many.
_LOOK_EVERY = 1024
# Of larger tensors, a sample of so many numbers is compared.
_SAMPLE = 4096
# Whole numbers from here on are no float.
_HUGE = 2**1000
# A tensor that was replaced so often by an equal one is compared when new places are looked for.
_REPLACED = 3

# What layers of torch's have as a float or a whole number; their other whole numbers are sizes.
_STRENGTHS = frozenset(
    {"alpha", "beta", "lambd", "max_val", "min_val", "negative_slope", "p", "threshold", "value"}
)
Settings = tuple[tuple[str, Any], ...]


class _Place(NamedTuple):
    """Where a number is.

    Attributes:
        name: by which it is recorded.
        table: the attributes of its module or object, or a dict or list.
        key: of it in the table.
        is_told: whether it is recorded from the first state on; others when they change.
    """

    name: str
    table: Any
    key: Any
    is_told: bool

    def value(self) -> Any:
        """What is there now; None where nothing is."""
        try:
            return self.table[self.key]
        except LookupError:
            return None


class SettingsReader:
    """Reads what modules are set to.

    Numbers and flags that modules of the user's own have as attributes are told from the first
    state on. Those in objects, dicts and lists that they hold, and floats of torch's own layers,
    are told with their first value once they change; and so is, once, that a tensor changed. Whole
    numbers that change at every record count calls or steps; they are given up, with NaN as their
    last value.

    Args:
        model: the model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._changes: dict[str, int] = {}  # of whole numbers, in a row
        self._counts: set[str] = set()
        self._first: dict[str, Any] = {}  # what places began with
        self._places: list[_Place] = []
        self._tensors: dict[str, _Tensor] = {}  # of which no change was told yet
        self._names_of_tensors: set[str] = set()
        self._getters: list[tuple[Callable[[Any], Any], Any]] = []
        self._values: list[Any] | None = None  # what the getters got
        self._given: Settings | None = None  # what was read last, with these values
        self._reads, self._next_look = 0, 2
        with suppress(Exception):
            self._look()

    def read(self, before: Settings = ()) -> Settings:
        """All that is told; the very tuple that was read before where nothing has changed."""
        self._reads += 1
        try:
            if self._reads >= self._next_look:
                self._next_look += min(self._reads, _LOOK_EVERY)
                self._look()
            elif before is self._given:
                if not self._getters and not self._tensors:  # as in most models
                    return before
                if self._is_as_it_was():
                    self._changes.clear()
                    return before
            return self._read(before)
        except Exception:  # what is held by the user's modules may raise whatever it likes
            return before

    def _is_as_it_was(self) -> bool:
        try:
            is_same = [get(table) for get, table in self._getters] == self._values
        except Exception:  # gone, or an array by now
            return False
        return is_same and not any(map(_Tensor.is_moved, self._tensors.values()))

    def _read(self, before: Settings) -> Settings:
        known = dict(before)
        self._given, self._values = None, None  # until all is read, whatever interrupts it
        with suppress(LookupError):
            self._values = [get(table) for get, table in self._getters]
        found = [pair for place in self._places for pair in self._told(place, known)]
        for name, tensor in list(self._tensors.items()):
            if name in known:
                del self._tensors[name]
            else:
                found += [(name, value) for value in tensor.change(self._model)]
        found += [(name, known[name]) for name in known if name in self._names_of_tensors]
        now = tuple(found)
        now = before if now == before else now
        self._given = now
        return now

    def _told(self, place: _Place, known: dict[str, Any]) -> Settings:
        """What is told of a place: its value, with the first one before it if that was not told."""
        value, name = place.value(), place.name
        if not _is_number(value):
            return ()
        if type(value) is int and name not in self._counts:
            is_new = value != known.get(name, self._first[name])
            self._changes[name] = self._changes.get(name, 0) + 1 if is_new else 0
            if self._changes[name] >= _COUNTS:
                self._counts.add(name)
                self._group()
        if name in self._counts:
            value = math.nan
        if place.is_told or name in known:
            return ((name, value),)
        first = self._first[name]
        return () if _is_same(first, value) else ((name, first), (name, value))

    # -- where they are -------------------------------------------------------------------------

    def _look(self) -> None:
        """Finds all places anew: objects may have been replaced, and attributes have come."""
        places: dict[str, _Place] = {}
        seen: dict[int, Any] = {}
        for name, module in named_modules(self._model):
            prefix = f"{MARK}{name}{MARK if name else ''}"
            own = own_attributes(module)
            if is_torchs(class_of(module)):
                found = _strengths(prefix, vars(module), own)
            else:
                found = self._within(prefix, module, own, seen)
            for place in found:
                places.setdefault(place.name, place)
        for place in places.values():
            self._first.setdefault(place.name, place.value())
        self._places = list(places.values())
        self._group()

    def _group(self) -> None:
        """Makes what reads all numbers of a table at once."""
        tables: dict[int, tuple[Any, list[Any]]] = {}
        for place in self._places:
            if place.name not in self._counts:
                tables.setdefault(id(place.table), (place.table, []))[1].append(place.key)
        self._getters = [(itemgetter(*keys), table) for table, keys in tables.values()]
        self._values = None

    def _within(
        self, prefix: str, module: torch.nn.Module, own: dict[str, Any], seen: dict[int, Any]
    ) -> list[_Place]:
        """Places in a module of the user's own, and in what it holds."""

        def enters(path: tuple[Any, ...], value: Any) -> bool:
            kind, name = type(value), path[-1]
            is_private = isinstance(name, str) and name.startswith("_")
            is_settings = issubclass(kind, (dict, list, tuple)) or not is_private
            return is_settings or _is_kin(kind, class_of(module))

        found: list[_Place] = []
        longest = max(_LONG, len(own))
        for held in walk([own], longest=longest, enters=enters, seen=seen):
            table = held.table if held.path else vars(module)
            for key, value in held.items:
                with suppress(Exception):  # a key that cannot be spelled
                    name = prefix + MARK.join(map(str, (*held.path, key)))
                    if isinstance(value, torch.Tensor):
                        self._watch(name, table, key)
                    elif isinstance(table, (tuple, set, frozenset)):
                        continue  # there is no number to be set
                    elif isinstance(value, float) or (
                        isinstance(value, int) and not str(key).startswith("_")
                    ):
                        found.append(_Place(name, table, key, is_told=not held.path))
        return found

    def _watch(self, name: str, table: Any, key: Any) -> None:
        if name in self._tensors:
            self._tensors[name].begin(table, key)
        elif name not in self._names_of_tensors:
            numbers = _numbers(table[key], self._model)
            if numbers is not None:
                self._tensors[name] = _Tensor(numbers)
                self._tensors[name].begin(table, key)
                self._names_of_tensors.add(name)


class _Tensor:
    """A tensor that is neither parameter nor buffer, until it has changed.

    Args:
        first: its numbers.
    """

    def __init__(self, first: torch.Tensor) -> None:
        self._first = first

    def begin(self, table: Any, key: Any) -> None:
        """Looks at a place from now on."""
        self._table, self._key = table, key
        self._replaced = 0
        self._seen: Callable[[], Any] = lambda: None
        self._version: int | None = None

    def is_moved(self) -> bool:
        """Whether another tensor is there, or torch counted a change of it."""
        if self._replaced > _REPLACED:
            return False
        try:
            tensor = self._table[self._key]
            return tensor is not self._seen() or tensor._version != self._version
        except Exception:  # gone, or no tensor any more, or one that does not count
            return True

    def change(self, model: torch.nn.Module) -> tuple[float, ...]:
        """A number of what it was and one of what it is; none where it is the same."""
        if not self.is_moved():
            return ()
        self._replaced += 1
        tensor = self._table[self._key]
        numbers = _numbers(tensor, model)
        if numbers is not None and not _are_same(self._first, numbers):
            return _difference(self._first, numbers)
        self._seen, self._version = weakref.ref(tensor), version_of(tensor)
        return ()


def changed(before: Settings, now: Settings) -> Settings:
    """Those that are not what they were, as numbers."""
    if now is before:
        return ()
    known = dict(before)
    return tuple(
        (name, float(value))
        for name, value in now
        if not (name in known and _is_same(known[name], value))
    )


def _strengths(prefix: str, table: dict[str, Any], own: dict[str, Any]) -> list[_Place]:
    """Places of a layer of torch's."""
    return [
        _Place(f"{prefix}{key}", table, key, False)
        for key, value in own.items()
        if isinstance(value, float)
        or (isinstance(value, int) and not isinstance(value, bool) and key in _STRENGTHS)
    ]


def _is_kin(one: type, other: type) -> bool:
    """Whether two classes are of one package."""
    return one.__module__.partition(".")[0] == other.__module__.partition(".")[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < _HUGE)


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))


@torch.no_grad()
def _numbers(tensor: Any, model: torch.nn.Module) -> torch.Tensor | None:
    """A copy of a tensor's numbers, or of some; None for what is trained, or shares its memory."""
    if not isinstance(tensor, torch.Tensor) or tensor.requires_grad or tensor.is_meta:
        return None
    if is_sharded(tensor):  # the others would have to look too
        return None
    if tensor.layout != torch.strided or not tensor.numel() or tensor.is_quantized:
        return None
    memory = tensor.untyped_storage().data_ptr()
    for own in map(local_part, (*model.parameters(), *model.buffers())):
        if own.layout == torch.strided and own.untyped_storage().data_ptr() == memory:
            return None
    flat = tensor.detach().reshape(-1)
    flat = flat[:: -(-len(flat) // _SAMPLE)]
    real = torch.view_as_real(flat.resolve_conj()).reshape(-1) if flat.is_complex() else flat
    return real.to("cpu", torch.float64, copy=True)


def _are_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _difference(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """The means of two tensors, or what else tells them apart."""
    for measure in (torch.mean, torch.linalg.vector_norm):
        values = float(measure(one)), float(measure(other))
        if all(map(math.isfinite, values)) and values[0] != values[1]:
            return values
    return 0.0, 1.0
