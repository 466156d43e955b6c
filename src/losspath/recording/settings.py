"""Numbers that modules hold as plain Python attributes: a temperature, a share that fades in.

Outputs may depend on them, and they are no part of a state. They are recorded as named values
whose names begin with a dot, which no argument of `Recorder.record` can be called.
"""

from __future__ import annotations

from typing import Any

import torch

from losspath.parameters import named_modules

MARK = "."

Settings = tuple[tuple[str, Any], ...]


class SettingsReader:
    """Reads the floats and flags that modules of the user's own have.

    Those of torch's own modules are fixed when these are made. Whole numbers count calls as often
    as they set anything, and are left out.

    Args:
        model: the model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._places = [
            (f"{MARK}{name}{MARK}{attribute}" if name else f"{MARK}{attribute}", table, attribute)
            for name, module in named_modules(model)
            if type(module).__module__.partition(".")[0] != "torch"
            for table in [vars(module)]
            for attribute, value in table.items()
            if isinstance(value, float) or (isinstance(value, bool) and _is_users(attribute))
        ]

    def read(self, before: Settings = ()) -> Settings:
        """All of them; the very tuple that was read before where none has changed."""
        if not self._places:
            return ()
        if before and all(
            table.get(attribute) is value
            for (_, table, attribute), (_, value) in zip(self._places, before, strict=True)
        ):
            return before
        found = tuple((name, table.get(attribute)) for name, table, attribute in self._places)
        return found if found != before else before


def changed(before: Settings, now: Settings) -> Settings:
    """Those that are numbers and not what they were."""
    if now is before:
        return ()
    known = dict(before)
    return tuple(
        (name, float(value))
        for name, value in now
        if isinstance(value, (float, bool)) and not (name in known and _is_same(known[name], value))
    )


def _is_users(flag: str) -> bool:
    """Whether a flag is not one that torch, or a library around it, keeps for itself."""
    return flag != "training" and not flag.startswith("_")


def _is_same(one: float, other: float) -> bool:
    return one == other or (one != one and other != other)
