"""The command that shows what a run holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from losspath.cli.console import describe_epoch, out, say
from losspath.cli.runs import RESULTS, check_one_run
from losspath.errors import StoreError
from losspath.files import canonical_json
from losspath.geometry.walk import RandomWalk
from losspath.recording.trajectory import Trajectory


def describe(directory: Path) -> dict[str, Any]:
    """A run in plain values.

    Raises:
        StoreError: there is no run, or it is damaged.
    """
    from losspath.makers import made_by

    check_one_run(directory)
    path = Trajectory(directory)
    losses, known = path.all_losses, _told_losses(path)
    made = made_by(directory, path.metadata)
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {
        "directory": str(directory),
        "states": len(path),
        "parameters": path.parameter_count,
        "sides": path.side_kinds,
        "dtype": str(path.dtype),
        "steps": int(path.steps[-1]),
        "every": path.every,
        "closed": path.closed,
        "linked": _links_of(path) if path.is_linked else None,
        "notes": path.notes,
        "unchanged_steps": path.unchanged_steps,
        "format_version": path.format_version,
        "tail_bytes": path.tail_bytes,
        "digest": path.digest,
        "bytes": sum(file.stat().st_size for file in files),
        "losses": len(losses),
        "first_loss": known[0][1] if known else None,
        "first_loss_step": known[0][0] if known else None,
        "last_loss": known[-1][1] if known else None,
        "last_loss_step": known[-1][0] if known else None,
        "non_finite_losses": int(np.sum(~np.isfinite(losses))),
        "training": made.config,
        "metadata": path.metadata,
        "history": made.history(),
        "layers": [
            {"name": entry.name, "shape": list(entry.shape), "dtype": entry.dtype}
            for entry in path.layout.parameters
        ],
        "plane": _plane_of(path, directory),
        "results": sorted(file.name for file in (directory / RESULTS).glob("*.npz")),
    }


def _plane_of(path: Trajectory, directory: Path) -> dict[str, Any] | None:
    """The shares of variance in the path's principal plane and of a random walk; None of none."""
    from losspath.geometry.plane import PrincipalPlane
    from losspath.results import ResultStore

    with suppress(StoreError):  # which is for `losspath repair` to tell
        plane = ResultStore(directory / RESULTS).find(PrincipalPlane, path.digest)
        if plane is not None and plane.random_walk is not None:
            ratio = plane.path.explained_variance_ratio.tolist()
            return {"explained_variance_ratio": ratio, "random_walk": plane.random_walk.to_json()}
    return None


def _told_losses(path: Trajectory) -> list[tuple[int, float]]:
    """A run's first and last loss, with their steps; nothing where there is none.

    Of steps whose losses an imported run's log does not have, they are not known, and are NaN.
    """
    losses, steps = path.all_losses, path.loss_steps
    if "imported" in path.metadata and not np.isnan(losses).all():
        losses, steps = losses[~np.isnan(losses)], steps[~np.isnan(losses)]
    return [(int(steps[at]), float(losses[at])) for at in (0, -1)] if len(losses) else []


def _links_of(path: Trajectory) -> dict[str, int]:
    """How large the checkpoints are that a run refers to, and how many are missing."""
    from losspath.importing.links import size_of_links

    size, missing = size_of_links(path.directory)
    return {"bytes": size, "missing": missing}


def _beside(sides: Mapping[str, str]) -> str:
    """How many tensors of each kind a run has that are no part of its states."""
    counts = Counter(sides.values())
    kinds = {"frozen": "frozen tensor", "buffer": "buffer"}
    return ", ".join(
        f"{counts[kind]:,} {name}{'s' if counts[kind] > 1 else ''}"
        for kind, name in kinds.items()
        if counts[kind]
    )


def _rounded(loss: float | None) -> str:
    return "not known" if loss is None else f"{loss:.6g}"


def print_description(description: dict[str, Any]) -> None:
    """Prints a run for people."""
    d, linked = description, description["linked"]
    every = "" if d["every"] == 1 else f", one every {d['every']} steps"
    say(f"{d['directory']}: {d['states']:,} states of {d['parameters']:,} parameters{every}")
    say(
        f"  {d['steps']:,} steps; {d['bytes'] / 1e6:,.1f} MB; "
        + ("states are in the checkpoints; " if linked else "")
        + ("closed" if d["closed"] else "not closed")
    )
    if linked:
        say(
            f"  checkpoints that it refers to: {linked['bytes'] / 1e6:,.1f} MB"
            + (f"; {linked['missing']:,} of them are not there" if linked["missing"] else "")
        )
    if beside := _beside(d["sides"]):
        say(f"  beside the states: {beside}")
    for note in d["notes"]:
        say(f"  {note}")
    if d["tail_bytes"]:
        say(f"  {d['tail_bytes']:,} bytes of an unfinished write, which readers ignore")
    count = d["non_finite_losses"]
    if "imported" in d["metadata"] and count == d["losses"]:
        say("  no losses, as none were imported")
    elif count:
        say(f"  {count:,} losses are not finite")
    if d["losses"] and (count < d["losses"] or "imported" not in d["metadata"]):
        first, last = (
            f"{_rounded(d[f'{which}_loss'])} at step {d[f'{which}_loss_step']:,}"
            for which in ("first", "last")
        )
        say(f"  batch loss {first}, {last}")
    if d["training"]:
        shown = {k: v for k, v in d["training"].items() if k != "data_digest"}
        say(f"  {canonical_json(shown)}")
    elif imported := d["metadata"].get("imported"):
        files = imported["from"]
        say(f"  imported from {files[0]} … {files[-1]} ({len(files):,} checkpoints)")
    elif d["metadata"]:
        say(f"  {canonical_json(d['metadata'])}")
    if d["history"]:
        say(f"  {describe_epoch(d['history'][-1])}")
    if plane := d["plane"]:
        walk = RandomWalk.from_json(plane["random_walk"])
        share = sum(plane["explained_variance_ratio"])
        say(f"  the principal plane has {walk.describe(share)}")
    table = Table("parameter", "shape", "dtype", box=None, pad_edge=True)
    for layer in d["layers"]:
        table.add_row(layer["name"], " × ".join(map(str, layer["shape"])), layer["dtype"])
    out.print(table)
    for name in d["results"]:
        say(f"  {RESULTS}/{name}")
