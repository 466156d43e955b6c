"""Values of options, from the text that they are given as."""

from __future__ import annotations

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
