"""The command that makes a run of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from losspath.cli.console import progress_bar, say
from losspath.cli.sources import value_of
from losspath.errors import ArgumentError
from losspath.importing import import_checkpoints
from losspath.recording import store


def import_run(
    checkpoints: Sequence[str], out: Path, steps: str | None, model: str | None, **options: Any
) -> None:
    """Makes a run of checkpoints, or adds new ones to it, and says what it holds.

    Args:
        checkpoints: files, folders or patterns.
        out: the run.
        steps: of the checkpoints, with commas between.
        model: FILE.py:FUNCTION that returns the network.
        options: of `import_checkpoints`.

    Raises:
        ArgumentError: the directory holds another run, or an option is not what it should be.
    """
    before = _states_of_import(out)
    network = None if model is None else value_of(model, "--model")
    with progress_bar("importing") as progress:
        path = import_checkpoints(
            list(checkpoints),
            out,
            model=network,
            steps=_numbers(steps),
            existing="error" if before is None else "resume",
            progress=progress,
            **options,
        )
    there = f"{out}: {len(path):,} states of {path.parameter_count:,} parameters, "
    there += f"steps {path.steps[0]:,} to {path.steps[-1]:,}"
    if not before:
        say(there)
    elif len(path) == before:
        say(f"{there}; nothing new")
    else:
        say(f"{there}; {len(path) - before:,} of them new")
    for kind, name in (("frozen", "the same in all checkpoints"), ("buffer", "buffers")):
        if count := list(path.side_kinds.values()).count(kind):
            say(f"  kept beside the path: {count:,} tensors, {name}")
    if not len(path.all_losses) or all(loss != loss for loss in path.all_losses.tolist()):
        say("  no losses were found; --losses FILE takes them from a CSV file")


def _states_of_import(out: Path) -> int | None:
    if not store.exists(out):
        return None
    header = store.read_header(out)
    if "imported" not in header.metadata:
        raise ArgumentError(
            f"{out} holds a run that was recorded, not imported; choose another directory (--out)"
        )
    return len(store.read_contents(out, header).steps)


def _numbers(steps: str | None) -> list[int] | None:
    if steps is None:
        return None
    try:
        return [int(each) for each in steps.split(",")]
    except ValueError:
        raise ArgumentError(f"expected --steps as N,N,…, got {steps!r}") from None
