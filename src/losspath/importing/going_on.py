"""Whether checkpoints go on with a run that was imported before."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch

from losspath.errors import ArgumentError, LosspathWarning, ModelError, wrap_os_errors
from losspath.files import move_aside, new_aside, only_writer
from losspath.importing.logs import Log, are_others, unit_of
from losspath.importing.look import differences
from losspath.importing.rows import digest_of_row, numbers_of
from losspath.importing.shell import FROZEN, own_sides
from losspath.importing.survey import Survey
from losspath.recording import store
from losspath.recording.header import copy_header
from losspath.recording.trajectory import Trajectory

ANEW = (
    'import into another directory (--out), or begin the run anew (existing="overwrite"; on the '
    "command line, remove it first)"
)


def begun_in(run: Path) -> Trajectory | None:
    """The run that checkpoints are added to, or None where there is none yet.

    What an import left that was stopped before its first state is no run, and makes way.

    Raises:
        BusyError: another process is writing there.
        StoreError: what is there cannot be read.
    """
    if not store.exists(run):
        return None
    if "imported" in store.read_header(run).metadata and not _has_states(run):
        with only_writer(run / store.LOCK, f"to {run}"):
            if not _has_states(run):
                _make_way(run)
                return None
    return Trajectory(run)


def _has_states(run: Path) -> bool:
    return len(store.read_contents(run, store.read_header(run)).steps) > 0


def _make_way(run: Path) -> None:
    """Removes a run without any states; where there are bytes that may be of one, aside."""
    there = [file for name in store.DATA_FILES if (file := run / name).exists()]
    with wrap_os_errors(f"begin {run} anew"):
        data = [file for file in there if file.stat().st_size]
        if data:
            aside = new_aside(run)
            copy_header(run, aside)
            for file in data:
                move_aside(file, run, aside)
            warnings.warn(
                f"{run}: what an import had written that was stopped before its first state was "
                f"durable was moved to {aside}",
                LosspathWarning,
                stacklevel=5,
            )
        # The header last, so that this goes on wherever it is stopped.
        for name in (*store.DATA_FILES, store.LINKS, store.META_COPY, store.META):
            (run / name).unlink(missing_ok=True)


def check_goes_on(
    begun: Trajectory, found: Survey, dated: list[tuple[int, Path]], has_model: bool
) -> None:
    """Refuses checkpoints that are not of the training that a run is of.

    Args:
        begun: the run.
        found: what the checkpoints have in common.
        dated: the checkpoints by their steps, those that the run has among them.
        has_model: whether the network was given, which says what is frozen.

    Raises:
        ArgumentError: they were chosen otherwise than those of the run, or have other numbers at
            steps that the run has.
        ModelError: they are of another network.
    """
    _check_choice(begun, found)
    _check_names(begun, found, dated[0][1])
    if not has_model:
        _check_frozen(begun, found, dated[-1][1])
    header = store.read_header(begun.directory)
    digests = store.read_contents(begun.directory, header).digests
    places = {int(step): index for index, step in enumerate(begun.steps)}
    for step, place in dated:
        if step in places:
            tensors, index = found.read(place), places[step]
            digest = digest_of_row(tensors, begun.layout, header.torch_dtype)
            if digest != int(digests[index]):
                _refuse_numbers(begun, tensors, index, place)


def check_log_goes_on(begun: Trajectory, log: Log, newest: Path) -> None:
    """Refuses the log of a trainer that contradicts the losses that a run has.

    Args:
        begun: the run.
        log: what a trainer kept with its newest checkpoint.
        newest: that checkpoint.

    Raises:
        ArgumentError: it has another loss at a step that the run has.
    """
    recorded = zip(begun.loss_steps.tolist(), begun.all_losses.tolist(), strict=True)
    losses: dict[int, float] = {step: loss for step, loss in recorded if not math.isnan(loss)}
    unit = max(unit_of(losses.values()), unit_of(log.losses.values()))
    for step, loss in losses.items():
        if are_others(loss, log.losses.get(step, loss), unit):
            raise ArgumentError(
                f"{begun.directory} has a loss of {loss} at step {step}, and {newest} is of a "
                f"training that logged {log.losses[step]} there; if the run's losses are of "
                "another file or column, give that (losses=, loss_column=; --losses, "
                f"--loss-column), or else {ANEW}"
            )


def _check_choice(begun: Trajectory, found: Survey) -> None:
    then = begun.metadata.get("imported", {})
    if ("base" in then) != ("base" in found.notes):
        had = "with" if "base" in then else "without"
        raise ArgumentError(
            f"{begun.directory} was imported {had} the base of its adapter (base=, --base); do the "
            f"same, or {ANEW}"
        )
    if then.get("base_digest") != found.notes.get("base_digest"):
        raise ArgumentError(
            f"{found.notes['base']} is another base than that of {begun.directory}; {ANEW}"
        )
    for name in ("key", "weights", "prefix", "parameters"):
        if then.get(name) != found.notes.get(name):
            raise ArgumentError(
                f"{begun.directory} was imported with {name}={then.get(name)!r}, and now it is "
                f"{found.notes.get(name)!r}; pass the same, or {ANEW}"
            )


def _check_names(begun: Trajectory, found: Survey, place: Path) -> None:
    rows = {entry.name: entry for entry in begun.layout.parameters}
    shapes: dict[str, tuple[int, ...] | None] = dict.fromkeys(begun.side_kinds)
    shapes |= {
        name: entry.shape[:-1] if entry.dtype.startswith("complex") else entry.shape
        for name, entry in rows.items()
    }
    others = {name: tuple(found.shapes[name]) for name in found.kinds}
    if told := differences(shapes, others):
        raise ModelError(f"{place} is not of the network of {begun.directory}: {told}; {ANEW}")
    for name, entry in rows.items():
        then, now = getattr(torch, entry.dtype), found.dtypes.get(name)
        if now is not None and torch.promote_types(then, now) != then:
            raise ArgumentError(
                f"{name} is {entry.dtype} in {begun.directory} and {now} in the checkpoints, which "
                f"it does not hold exactly; {ANEW}"
            )


def _check_frozen(begun: Trajectory, found: Survey, newest: Path) -> None:
    """What never changed was taken for frozen; it must not have begun to be trained."""
    linked = begun.metadata.get("imported", {}).get("base_tensors", {})
    kinds = {name: kind for name, kind in begun.side_kinds.items() if name not in linked}
    still = [name for name, kind in kinds.items() if kind == FROZEN]
    if not still:
        return
    sides, tensors = own_sides(begun), found.read(newest)
    moved = [name for name in still if not torch.equal(sides[name], tensors[name])]
    if moved:
        raise ArgumentError(
            f"{moved[0]} was the same in all checkpoints of {begun.directory}, and so was kept as "
            f"frozen, but is another in {newest}; {ANEW}"
        )


def _refuse_numbers(
    begun: Trajectory, tensors: dict[str, torch.Tensor], index: int, place: Path
) -> None:
    named = ""
    if not begun.is_linked:  # what it refers to may be gone
        row = torch.from_numpy(begun[index])
        for entry in begun.layout.parameters:
            numbers = numbers_of(tensors, entry)
            if numbers is None or not torch.equal(numbers.to(row.dtype), row[entry.place]):
                named = f" ({entry.name} differs)"
                break
    raise ArgumentError(
        f"{begun.directory} has other numbers at step {begun.steps[index]} than {place}, which is "
        f"of another training{named}; {ANEW}"
    )
