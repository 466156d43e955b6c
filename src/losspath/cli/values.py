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


def state(text: str, count: int) -> int:
    """The place of a state that is given as a number, "first" or "last".

    Args:
        text: as given; a negative number counts from the end.
        count: how many states there are.

    Raises:
        ArgumentError: there is no such state.
    """
    names = {"first": 0, "last": count - 1}
    try:
        index = names[text] if text in names else int(text)
    except ValueError:
        index = count
    if not -count <= index < count:
        raise ArgumentError(
            f"expected a state as a number from 0 to {count - 1} (negative: from the end), "
            f'"first" or "last", got {text!r}'
        )
    return index % count
