"""Which checkpoints are meant, and of which step each is."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from losspath.errors import ArgumentError
from losspath.importing.formats import is_checkpoint, is_part

Pattern = str | PathLike[str]

_STEP = re.compile(r"(?:global_?)?steps?[-_=]?(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")


def find(patterns: Pattern | Sequence[Pattern]) -> tuple[list[Path], list[Path]]:
    """The checkpoints that patterns stand for, and what else they match.

    Args:
        patterns: files, folders, or patterns with ``*``, ``?`` and ``**``. A folder that is no
            checkpoint stands for those that it holds.

    Returns:
        Checkpoints, each once; and files that are none by their names.

    Raises:
        ArgumentError: there is none.
    """
    several = [patterns] if isinstance(patterns, (str, PathLike)) else list(patterns)
    found: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for pattern in several:
        for place in _matching(Path(pattern).expanduser()):
            some = _in_folder(place) if place.is_dir() else [place] * is_checkpoint(place)
            found |= dict.fromkeys(each.absolute() for each in some)
            if not some:
                others[place] = None
    if not found:
        words = " ".join(map(str, several))
        near = f"; what is there is no checkpoint, such as {next(iter(others))}" if others else ""
        if any(map(is_part, others)):
            near = "; what is there is a part of one: give its folder, or its index"
        raise ArgumentError(f"expected checkpoints at {words}, found none{near}")
    # Files in a folder that is a checkpoint are parts of it.
    return [each for each in found if each.parent not in found], list(others)


def _in_folder(place: Path) -> list[Path]:
    """The checkpoints that a folder holds; it may be one itself.

    Where a trainer wrote its last model beside folders of checkpoints, those folders are meant.
    """
    inside = [each for each in sorted(place.iterdir()) if is_checkpoint(each)]
    folders = [each for each in inside if each.is_dir()]
    if is_checkpoint(place):
        return folders or [place]
    return inside


def _matching(pattern: Path) -> list[Path]:
    if pattern.exists():
        return [pattern]
    found = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 (takes absolute patterns too)
    return [Path(each) for each in sorted(found)]


def steps_in_names(places: Sequence[Path]) -> list[int]:
    """The step of each checkpoint, from its name.

    It is the number behind the word "step", or the one number in which names differ. The names of
    folders count where those of files are the same.

    Raises:
        ArgumentError: names do not tell.
    """
    for names in ([p.name for p in places], [str(p) for p in places]):
        found = [_STEP.findall(name) for name in names]
        if all(found):
            return [int(numbers[-1]) for numbers in found]
        numbers = [[int(each) for each in _NUMBER.findall(name)] for name in names]
        lengths = {len(each) for each in numbers}
        if len(lengths) > 1 or lengths == {0}:
            continue
        differing = [column for column in zip(*numbers, strict=True) if len({*column}) > 1]
        if len(places) == 1 and lengths == {1}:
            return [numbers[0][0]]
        if len(differing) == 1:
            return list(differing[0])
    raise ArgumentError(
        f"expected checkpoints that say of which step they are, got {places[0].name}"
        + (f" and {len(places) - 1} others" if len(places) > 1 else "")
        + ', whose names have no number behind "step" and do not differ in one number alone; pass '
        "steps=[…] (--steps), one for each in the order of their names"
    )


def in_order(places: Sequence[Path]) -> list[Path]:
    """Places by their names, with numbers in them as numbers."""
    return sorted(places, key=lambda place: natural(str(place)))


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
