"""Numbers that modules hold as plain Python attributes: a temperature, a share that fades in.

Outputs may depend on them, and they are no part of a state. They are recorded as named values
whose names begin with a dot, which no argument of `Recorder.record` can be called.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from losspath.parameters import is_torchs, named_modules

MARK = "."

# A whole number that changed at so many records in a row counts something.
_COUNTS = 4

Settings = tuple[tuple[str, Any], ...]


class _Place(NamedTuple):
    """Where a number is.

    Attributes:
        name: by which it is recorded.
        table: the attributes of its module.
        attribute: what it is called there.
    """

    name: str
    table: dict[str, Any]
    attribute: str


class SettingsReader:
    """Reads the numbers and flags that modules of the user's own have.

    Those of torch's own modules are fixed when these are made. Whole numbers that change at every
    record count calls or steps; they are given up, with NaN as their last value.

    Args:
        model: the model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._places = [
            _Place(f"{MARK}{name}{MARK if name else ''}{attribute}", table, attribute)
            for name, module in named_modules(model)
            if not is_torchs(type(module))
            for table in [vars(module)]
            for attribute, value in table.items()
            if isinstance(value, float) or (isinstance(value, int) and _is_users(attribute))
        ]
        self._changes: dict[str, int] = {}  # of whole numbers, in a row
        self._counts: set[str] = set()

    def read(self, before: Settings = ()) -> Settings:
        """All of them; the very tuple that was read before where none has changed."""
        if not self._places:
            return ()
        if before and all(
            place.table.get(place.attribute) is value
            for place, (_, value) in zip(self._places, before, strict=True)
        ):
            self._changes.clear()
            return before
        known = dict(before)
        found = tuple((place.name, self._value(place, known)) for place in self._places)
        return found if found != before else before

    def _value(self, place: _Place, known: dict[str, Any]) -> Any:
        value = place.table.get(place.attribute)
        if type(value) is int and place.name not in self._counts:
            is_new = value != known.get(place.name, value)
            self._changes[place.name] = self._changes.get(place.name, 0) + 1 if is_new else 0
            if self._changes[place.name] >= _COUNTS:
                self._counts.add(place.name)
        return math.nan if place.name in self._counts else value


def changed(before: Settings, now: Settings) -> Settings:
    """Those that are numbers and not what they were."""
    if now is before:
        return ()
    known = dict(before)
    return tuple(
        (name, float(value))
        for name, value in now
        if isinstance(value, (float, int)) and not (name in known and _is_same(known[name], value))
    )


def _is_users(attribute: str) -> bool:
    """Whether a flag or whole number is not one that torch, or a library, keeps for itself."""
    return attribute != "training" and not attribute.startswith("_")


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))
