"""What a pickle would import, told without loading it."""

from __future__ import annotations

import pickletools
from pathlib import Path

from losspath.errors import UnsupportedError

# What the pickle of dataclasses, containers, numbers and strings is made of. Codes that move or
# take away what is on the stack are none of it: behind them a name would not be where it is sought.
_STACK = {"PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
_CONTAINERS = {
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_SET", "TUPLE", "TUPLE1", "TUPLE2"),
    *("TUPLE3", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS"),
}
_OBJECTS = {"BUILD", "NEWOBJ", "REDUCE", "GLOBAL", "STACK_GLOBAL"}
_PLAIN = _STACK | _NUMBERS | _STRINGS | _BYTES | _CONTAINERS | _OBJECTS


def globals_in(file: Path) -> set[str]:
    """The names of all that a pickle would import, without loading it.

    Args:
        file: the pickle.

    Raises:
        UnsupportedError: it does something that a plain dump of values does not.
    """
    found = set[str]()
    pushed: list[object] = []  # what was put on the stack, in order; None for what is no string
    memo: list[object] = []
    try:
        with file.open("rb") as raw:
            for code, argument, _ in pickletools.genops(raw):
                name = code.name
                if name == "GLOBAL":
                    found.add(str(argument).replace(" ", "."))
                elif name == "STACK_GLOBAL":
                    found.add(_named(file, pushed))
                if name == "MEMOIZE" or (
                    name in ("BINPUT", "LONG_BINPUT") and argument == len(memo)
                ):
                    memo.append(pushed[-1] if pushed else None)
                elif name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
                    pushed.append(memo[argument] if argument < len(memo) else None)
                elif name in _PLAIN:
                    pushed.append(argument if name in _STRINGS else None)
                else:
                    raise UnsupportedError(f"{file} is no plain pickle ({name}): it is not loaded")
    except ValueError as cause:
        raise UnsupportedError(f"{file} is no pickle: {cause}") from cause
    return found


def _named(file: Path, pushed: list[object]) -> str:
    module, name = pushed[-2:] if len(pushed) > 1 else (None, None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise UnsupportedError(f"{file} is no plain pickle, so it is not loaded")
    return f"{module}.{name}"
