"""What who looks at a picture of a run must know of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from losspath.recording import store
from losspath.recording.contents import Contents
from losspath.recording.locking import is_locked

if TYPE_CHECKING:
    from losspath.recording.trajectory import Trajectory


def notes_of(
    path: Trajectory, contents: Contents, is_behind: bool, without_sides: int
) -> list[str]:
    """One line for each thing; none for a run that is whole and closed.

    Args:
        path: the run.
        contents: what is in it.
        is_behind: whether its newest state was left out, as another took its place meanwhile.
        without_sides: of how many states side tensors are lost.
    """
    notes = [*_of_recording(path, is_behind), *_of_lost_states(path, contents)]
    if without_sides:
        notes.append(f"buffers or frozen parameters of {without_sides:,} states are lost")
    notes += [*_of_form(path), *_of_changes(path)]
    if contents.mended:
        damaged = ", ".join(sorted(set(contents.mended)))
        notes.append(f"read from second copies, as {damaged} is damaged or missing")
    return notes


def _of_recording(path: Trajectory, is_behind: bool) -> Iterator[str]:
    if not path.closed:
        if is_locked(path.directory / store.LOCK):
            yield f"recording is going on: {len(path):,} states so far"
        else:
            yield f"recording was cut off: {len(path):,} states until then"
    if is_behind:
        yield "its newest state was being written again when it was opened: left out"


def _of_lost_states(path: Trajectory, contents: Contents) -> Iterator[str]:
    if holes := path.holes:
        steps = [(path.steps[hole], path.steps[hole + 1]) for hole in holes[:5]]
        lost = ", ".join(f"{before:,} and {after:,}" for before, after in steps)
        more = f" and in {len(holes) - 5:,} other places" if len(holes) > 5 else ""
        yield f"states were lost between steps {lost}{more}"
    for count, which in zip(contents.lost_ends, ("first", "last"), strict=True):
        if count:
            lost = f"{count:,} states are" if count > 1 else "state is"
            yield f"the {which} {lost} lost"


def _of_form(path: Trajectory) -> Iterator[str]:
    """Of states that are not what the model had, number by number."""
    if path.sketch:
        yield (
            f"states are sketches of {path.sketch.size:,} numbers: lengths and distances are right "
            f"to about {path.sketch.relative_error:.1%}"
        )
    if path.is_rounded:
        yield "states were rounded to bfloat16, each number by up to 0.4 %"


def _at_rate_zero(path: Trajectory) -> int:
    """At how many steps all recorded learning rates were 0, as where a warm-up begins there."""
    zero: set[int] = set()
    other: set[int] = set()
    for name, (steps, rates) in path.values.items():
        if name.partition("/")[0] == "lr":  # of groups that have rates of their own: lr/group1
            zero |= set(steps[rates == 0].tolist())
            other |= set(steps[rates != 0].tolist())
    return len(zero - other)


def _of_changes(path: Trajectory) -> Iterator[str]:
    """Of what did not change, and of what did and is no part of a state."""
    if path.unchanged_steps > _at_rate_zero(path):
        what = "no parameter, once rounded," if path.is_rounded else "no parameter"
        yield f"{what} changed at {path.unchanged_steps:,} of the steps"
    ranges = {n: (v[0], v[-1]) for n, (_, v) in path.settings.items() if v.min() < v.max()}
    if ranges:
        named = [f"{name} ({a:g} … {b:g})" for name, (a, b) in list(ranges.items())[:3]]
        more = f" and {len(ranges) - 3} more" if len(ranges) > 3 else ""
        yield (
            f"{', '.join(named)}{more} changed while recording and is no part of a state: losses "
            "are of the model's present value"
        )
