"""Which checkpoints are meant, and of which step each is."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from losspath.errors import ArgumentError, LosspathError
from losspath.importing.formats import TRAINER_STATE, is_checkpoint, is_shard
from losspath.recording.store import ALL_FILES, exists

Pattern = str | PathLike[str]

# A whole number by itself: no part of a decimal, of 1_000, of a date or version, no 10k or 1e3.
_WHOLE = r"(?<![\d.,])(?<!\d[_\-eE])(\d+)(?![\d,]|\.\d|[_-]\d{2,3}(?!\d)|[a-zA-Z])"
_STEP = re.compile(rf"(?:global_?)?(?:steps?|iter(?:ation)?s?)[-_=]?{_WHOLE}", re.IGNORECASE)
_EPOCH = re.compile(r"epochs?[-_=]?\d+", re.IGNORECASE)
# Numbers behind these words say something else.
_OTHER = re.compile(
    r"(?:seed|fold|run|rank|trial|version|lr|loss|acc|bs|batch)[-_=]?\d[\d.]*", re.IGNORECASE
)
_NUMBER = re.compile(_WHOLE)

# A folder that a trainer saves into, and what it writes there beside the weights.
_SAVED_INTO = re.compile(r"checkpoint-\d+")
_BESIDE_WEIGHTS = re.compile(
    r"(optimizer|scheduler|scaler)\w*\.(pt|bin)|rng_state\w*\.pth|training_args\.bin"
)


def find(patterns: Pattern | Sequence[Pattern]) -> list[Path]:
    """The checkpoints that patterns stand for, each once.

    Args:
        patterns: files, folders, or patterns with ``*``, ``?`` and ``**``. A folder that is no
            checkpoint stands for those that it holds. Runs, and files of theirs, are none.

    Raises:
        ArgumentError: there is none, one has no weights, or they are of several trainings.
    """
    several = [patterns] if isinstance(patterns, (str, PathLike)) else list(patterns)
    found: dict[Path, Path] = {}
    others: dict[Path, None] = {}
    for pattern in several:
        for place in _matching(Path(pattern).expanduser()):
            _check_saved(place)
            some = _in_folder(place) if place.is_dir() else [place] * _is_taken(place)
            for each in some:  # a link to the newest is no other checkpoint
                found.setdefault(each.resolve(), each.absolute())
            if not some:
                others[place] = None
    if not found:
        words = " ".join(map(str, several))
        near = f"; what is there is no checkpoint, such as {next(iter(others))}" if others else ""
        if any(map(is_shard, others)):
            near = "; what is there is a part of one: give its folder, or its index"
        raise ArgumentError(f"expected checkpoints at {words}, found none{near}")
    # Files in a folder that is a checkpoint are parts of it.
    kept = [place for real, place in found.items() if real.parent not in found]
    _check_one_training(kept)
    return kept


def hint_at_checkpoints(folder: Path) -> str:
    """What to say of a folder that was taken for a run and holds checkpoints; "" if it does not.

    Args:
        folder: which is no run.
    """
    try:
        found = in_order(find(folder)) if folder.is_dir() else []
    except (LosspathError, OSError):
        return ""
    if not found:
        return ""
    is_one = found == [folder.absolute()]
    all_saved = all(_SAVED_INTO.fullmatch(each.name) for each in found)
    pattern = (folder.parent if is_one else folder) / "checkpoint-*" if all_saved else folder
    count = f"{len(found):,} checkpoints, from {found[0].name}"
    count = "is a checkpoint" if is_one else count if len(found) > 1 else found[0].name
    command = f"losspath import {shlex.quote(str(pattern))} --out RUN"
    return f" but {count}; make a run of checkpoints: {command}"


def _is_taken(place: Path) -> bool:
    """Whether a file or folder is a checkpoint, and no run or a file of one."""
    is_of_a_run = exists(place) or (place.name in ALL_FILES and exists(place.parent))
    return is_checkpoint(place) and not is_of_a_run


def _check_saved(place: Path) -> None:
    """Refuses a trainer's checkpoint without weights: what is beside them is no state dict."""
    if is_checkpoint(place) or not place.is_dir() or exists(place):
        return
    if not (_SAVED_INTO.fullmatch(place.name) or (place / TRAINER_STATE).exists()):
        return
    inside = [each for each in place.iterdir() if is_checkpoint(each)]
    if all(_BESIDE_WEIGHTS.fullmatch(each.name) for each in inside):
        raise ArgumentError(
            f"expected checkpoints, got the folder {place}, which has no weights (is it still "
            "being saved?); leave it out"
        )


def _check_one_training(places: Sequence[Path]) -> None:
    folders: dict[Path, list[Path]] = {}
    for place in places:
        folders.setdefault(place.parent, []).append(place)
    several = [folder for folder, own in folders.items() if len(own) > 1]
    if len(several) > 1:
        raise ArgumentError(
            f"expected checkpoints of one training, got several in {several[0]} and in "
            f"{several[1]}; give the pattern of one folder"
        )


def _in_folder(place: Path) -> list[Path]:
    """The checkpoints that a folder holds; it may be one itself.

    Where a trainer wrote its last model beside folders of checkpoints, those folders are meant.
    """
    inside = [each for each in sorted(place.iterdir()) if _is_taken(each)]
    folders = [each for each in inside if each.is_dir()]
    if _is_taken(place):
        return folders or [place]
    return inside


def _matching(pattern: Path) -> list[Path]:
    if pattern.exists():
        return [pattern]
    found = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 (takes absolute patterns too)
    return [Path(each) for each in sorted(found)]


def steps_in_names(places: Sequence[Path]) -> tuple[list[int], bool]:
    """The step of each checkpoint, from its name, and whether these are epochs by their names.

    It is the number behind the word "step" or "iter", or the one whole number in which names
    differ. The names of folders count where those of files are the same.

    Raises:
        ArgumentError: names do not tell.
    """
    common = places[0].parent.parent
    if len(places) > 1:
        common = Path(os.path.commonpath([place.parent for place in places]))
    for names in ([p.name for p in places], [str(p.relative_to(common)) for p in places]):
        found = [_STEP.findall(name) for name in names]
        if all(found):
            return [int(numbers[-1]) for numbers in found], False
        plain = [_OTHER.sub("", name) for name in names]
        numbers = [[int(each) for each in _NUMBER.findall(name)] for name in plain]
        lengths = {len(each) for each in numbers}
        if len(lengths) > 1 or lengths == {0}:
            continue
        differing = [column for column in zip(*numbers, strict=True) if len({*column}) > 1]
        are_epochs = all(_EPOCH.search(name) for name in names)
        if len(places) == 1 and lengths == {1}:
            return [numbers[0][0]], are_epochs
        if len(differing) == 1:
            return list(differing[0]), are_epochs
    raise ArgumentError(
        f"expected checkpoints that say of which step they are, got {places[0].name}"
        + (f" and {len(places) - 1} others" if len(places) > 1 else "")
        + ', whose names have no whole number behind "step" and do not differ in one alone; pass '
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
