"""Values of options, from the text that they are given as."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from losspath.errors import ArgumentError


def temperature(text: str | None) -> float | str | None:
    """A temperature as a number, "auto", or None where none is given.

    Raises:
        ArgumentError: something else.
    """
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ArgumentError(f'expected --temperature as a number or "auto", got {text!r}') from None


def options(given: Iterable[str], named: Mapping[str, object]) -> dict[str, object]:
    """Options of a method: those with an option of their own, and texts NAME=VALUE.

    Args:
        given: the texts; values are as in JSON where they are that, or else text.
        named: the others by name, None where they are not given.

    Raises:
        ArgumentError: a text without a name or without "=", or an option that is given twice.
    """
    found = {name: value for name, value in named.items() if value is not None}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not (equals and name.isidentifier()):
            raise ArgumentError(f"expected --option NAME=VALUE, got {text!r}")
        if name in found:
            raise ArgumentError(f"expected the option {name} once, got it twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
