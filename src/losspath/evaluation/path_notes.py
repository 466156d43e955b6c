"""What a reader of results must know of the path that they are of."""

from __future__ import annotations

from typing import Any

from losspath.recording.trajectory import StateSequence


def path_notes(path: StateSequence) -> dict[str, Any]:
    """What provenance says of a path: its notes, and its steps where it does not begin at 0."""
    notes, steps = list(getattr(path, "notes", [])), getattr(path, "steps", None)
    told: dict[str, Any] = {"path_notes": notes} if notes else {}
    if steps is not None and len(steps) and int(steps[0]):
        told["steps"] = [int(steps[0]), int(steps[-1])]
    return told
