"""Opening a run to record in: a new one, or one that recording goes on in.

Nothing that is true is removed but by the order "overwrite". What must make way is put into
``aside-<n>`` in the run before anything is changed; where that cannot be done, nothing is.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from losspath.errors import (
    DamagedError,
    ExistsError,
    LosspathWarning,
    ModelError,
    StoreError,
    wrap_os_errors,
)
from losspath.files import canonical_json, is_unfinished, move_aside, new_aside, write_atomically
from losspath.recording import chain, format1, slots, store
from losspath.recording.aside import copy_dropped
from losspath.recording.header import copy_header
from losspath.recording.locking import check_not_open
from losspath.recording.sides import SideLog
from losspath.recording.state import StateReader
from losspath.recording.state_check import check_state
from losspath.recording.watch import Known

Existing = Literal["error", "resume", "overwrite"]

_OLD_FILES = (format1.LOSSES, format1.INDEX)
# What a writer that was stopped may have written and not vouched for: all of its buffers.
_UNFINISHED_BYTES = chain.BUFFERS * chain.Sizes().buffer


@dataclass(frozen=True)
class Opened:
    """Where recording goes on.

    Attributes:
        base: what is there, as a chain begins with it.
        serial: the next slot.
        generation: of the stream.
        names: numbers of named values.
        records: how many records there are.
        place: of the newest state.
    """

    base: chain.Entry
    serial: int = 0
    generation: int = 0
    names: dict[str, int] | None = None
    records: int = 0
    place: int = 1


def prepare_directory(directory: Path, existing: Existing) -> None:
    """Makes the directory, before its lock can be taken.

    Raises:
        ExistsError: it is not empty and `existing` is "error".
        BusyError: so it is, and this process is recording there.
        StoreError: it cannot be made, or its disk is full.
    """
    with wrap_os_errors(f"write {directory}"):
        present = directory.iterdir() if directory.exists() else ()
        others = (each for each in present if each.name != store.LOCK and not is_unfinished(each))
        if existing == "error" and any(others):
            check_not_open(directory)
            _refuse_existing(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(directory).free == 0:
            raise StoreError(f"cannot write {directory}: the disk is full")


def open_run(
    directory: Path,
    header: store.Header,
    state: StateReader,
    existing: Existing,
    step: int | None,
    *,
    across_holes: bool = False,
    made_again: bool = False,
) -> Opened:
    """Where recording goes on in a run, which is cut back to there. The caller holds the lock.

    Whatever is refused leaves the run as it was.

    Args:
        directory: the run; begun if there is none.
        header: what is to be recorded.
        state: the model, which must be in the state that recording goes on from.
        existing: what to do with a run that is there.
        step: the step to go on from; None for that of the last state.
        across_holes: whether to go on from a step after states that were lost.
        made_again: the caller makes states after `step` again, the same ones, so they are cut off.

    Raises:
        ExistsError, ModelError, StoreError: as `Recorder` says.
    """
    if existing == "overwrite":
        with wrap_os_errors(f"overwrite {directory}"):
            for name in (*store.ALL_FILES, *_OLD_FILES):
                (directory / name).unlink(missing_ok=True)
    elif existing == "error" and store.exists(directory):
        _refuse_existing(directory)  # another recorder was here before the lock was ours
    if not store.exists(directory):
        if step:
            raise StoreError(f"expected {step} recorded steps in {directory}, found none")
        _check_no_states(directory)
        store.write_header(directory, header)
    written = store.read_header(directory)
    if written.version != store.VERSION:
        raise StoreError(
            f"{directory} is in version {written.version} of the trajectory format, which is only "
            f"read; `losspath migrate {directory}` turns it into version {store.VERSION}, and then "
            "recording can go on"
        )
    own = {entry.name for entry in header.layout.parameters}
    written = replace(written, layout=written.layout_in(own))
    _check_header(directory, header, written)
    contents = store.read_contents(directory, written)
    resumed_at = _resumed_at(contents, step, directory, across_holes)
    kept = _kept(contents.stream.slots, resumed_at)
    check_state(directory, header, contents, state, resumed_at)
    _tell_of_metadata(directory, header, written)
    stream = _cut_back(directory, written, contents, kept, made_again)
    return _opened(directory, written, stream)


def _refuse_existing(directory: Path) -> NoReturn:
    raise ExistsError(
        f"{directory} exists and is not empty; choose another directory, or pass "
        'existing="resume" to go on recording in it or existing="overwrite" to replace the '
        "trajectory in it"
    )


def _check_no_states(directory: Path) -> None:
    for name in (*store.DATA_FILES, *_OLD_FILES):
        path = directory / name
        if path.exists() and path.stat().st_size:
            raise DamagedError(
                f"{directory} is damaged: {store.META} and {store.META_COPY} are missing, but "
                f"there are recorded states ({name}); put one of the two back (it is that of any "
                "run of this model, recorded in the same way), or record in another directory"
            )


def _check_header(directory: Path, mine: store.Header, written: store.Header) -> None:
    if written.is_linked and not mine.is_linked:
        raise StoreError(
            f"cannot go on recording in {directory}: its states are in the checkpoints that it "
            "refers to, and it holds none itself; record in another directory, or import the "
            "checkpoints without --link, which copies them, and go on recording there"
        )
    _check_trained(directory, mine, written)
    mine.layout.check_same(written.layout, "the model", str(directory))
    dtypes = [[entry.dtype for entry in layout.entries] for layout in (written.layout, mine.layout)]
    for name, old, new in [
        ("dtype", written.dtype, mine.dtype),
        ("every", written.every, mine.every),
        ("schedule", written.schedule, mine.schedule),
        ("sketch", written.sketch, mine.sketch),
        ("the list of the parameters' dtypes", *dtypes),
    ]:
        if old != new:
            raise StoreError(
                f"cannot go on recording in {directory}: {name} was {old!r} and is now {new!r}"
            )


def _tell_of_metadata(directory: Path, mine: store.Header, written: store.Header) -> None:
    """Warns where metadata was given that the run does not get."""
    if not mine.metadata:
        return
    now, then = (json.loads(canonical_json(header.metadata)) for header in (mine, written))
    missing = object()
    keys = sorted({*now, *then})
    if differ := [key for key in keys if now.get(key, missing) != then.get(key, missing)]:
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        warnings.warn(
            f"{directory} keeps the metadata that it was begun with, which differ from those given "
            f"in {', '.join(map(repr, differ[:5]))}{more}",
            LosspathWarning,
            stacklevel=7,
        )


def _check_trained(directory: Path, mine: store.Header, written: store.Header) -> None:
    """Layers that were frozen or thawed since do not make another network."""
    now, then = (
        {(entry.name, entry.shape) for entry in header.layout.parameters}
        for header in (mine, written)
    )
    if now == then or not (now < then or then < now):
        return
    name = min(now ^ then)[0]
    raise ModelError(
        f"the run in {directory} was begun with {name} "
        + ("trainable, and now it is frozen" if now < then else "frozen, and now it is trainable")
        + "; a run keeps the parameters that it was begun with: set requires_grad as it was, or "
        'record in another directory (with parameters="all" frozen ones are in the path too)'
    )


def _resumed_at(
    contents: store.Contents, step: int | None, directory: Path, across_holes: bool
) -> int:
    """The step to go on from: the one given, or that of the last state that was recorded."""
    last = contents.step
    if step is None:
        step = int(contents.steps[-1]) if len(contents.steps) else 0
    elif not 0 <= step <= last:
        raise StoreError(
            f"expected at least {step} recorded steps in {directory}, found {last}"
            if step > last
            else f"expected a step ≥ 0 to go on from, got {step}"
        )
    recorded = np.union1d(contents.loss_steps, contents.steps)
    if len(recorded) and step not in recorded:
        near = recorded[max(0, int(np.searchsorted(recorded, step)) - 1) :][:2]
        raise StoreError(
            f"expected a step that was recorded in {directory} to go on from, got {step}; those "
            f"next to it are {' and '.join(map(str, near))}"
        )
    for hole in () if across_holes else contents.holes:
        if step > contents.steps[hole]:
            raise StoreError(
                f"states of {directory} were lost between steps {contents.steps[hole]} and "
                f"{contents.steps[hole + 1]}, and recording does not go on across that; pass "
                f"step={contents.steps[hole]} with the model in that state, or record in another "
                "directory"
            )
    return step


def _kept(table: slots.Slots, step: int) -> int:
    """How many slots stay when recording goes on from a step."""
    records = np.flatnonzero((table["kind"] == slots.RECORD) & (table["step"] <= step))
    if not len(records):
        return 0
    kept = int(records[-1]) + 1
    # The newest state told again comes after its record.
    while (
        kept < len(table)
        and table["kind"][kept] in (slots.SIDE, slots.NEWEST)
        and table["step"][kept] == step
    ):
        kept += 1
    return kept


def _cut_back(
    directory: Path,
    header: store.Header,
    contents: store.Contents,
    kept: int,
    made_again: bool,
) -> slots.Stream:
    """Leaves the first `kept` slots, and what they vouch for; the rest is put aside.

    Returns:
        The slots that are left.
    """
    stream, lines = contents.stream, []
    dropped = stream.slots[kept:]
    if not len(stream):
        lines += _move_unvouched(directory)
    if np.any(dropped["kind"] == slots.RECORD) and not made_again:
        lines.append(copy_dropped(directory, header, stream.slots, kept))
    is_whole = not (contents.mended or stream.mended or stream.torn)
    table, generation = stream.slots[:kept], stream.generation
    if not is_whole or len(dropped) > int(contents.closed):
        generation += 1
        table = _without_old_newest(directory, header, table)
        table = slots.renumbered(table, 0, generation)
        raw = table.tobytes()
        for name in (store.RECORDS, store.RECORDS_COPY):
            write_atomically(directory / name, lambda file: file.write(raw))
    if set(contents.mended) & {store.META, store.META_COPY}:
        copy_header(directory, directory)
    lines += _cut_rows(directory, header, contents, table)
    if lines:
        warnings.warn(f"{directory}: {'; '.join(lines)}", LosspathWarning, stacklevel=7)
    return slots.Stream(table, stream.missing[:0], generation)


def _without_old_newest(directory: Path, header: store.Header, table: slots.Slots) -> slots.Slots:
    """Without newest states whose places were written again since."""
    of_newest = table["kind"] == slots.NEWEST
    of_newest |= (table["kind"] == slots.SIDE) & ((table["flags"] & slots.OF_NEWEST) != 0)
    places = np.flatnonzero(table["kind"] == slots.NEWEST)
    if len(places) and (directory / store.NEWEST).exists():
        last = table[places[-1]]
        row = np.zeros(header.row_size, header.row_dtype)
        path = directory / store.NEWEST
        with wrap_os_errors(f"read {path}"), path.open("rb", buffering=0) as file:
            file.seek(int(last["a"]) * header.row_bytes)
            file.readinto(row.view(np.uint8).data)
        if store.row_digest(row) == int(last["b"]):
            of_newest &= table["step"] != last["step"]
    kept: slots.Slots = table[~of_newest]
    return kept


def _move_unvouched(directory: Path) -> list[str]:
    """Where no slot is there at all, rows may be true all the same."""
    present = [
        directory / name
        for name in (store.STATES, store.NEWEST, store.SIDES)
        if (directory / name).exists() and (directory / name).stat().st_size
    ]
    if not present:
        return []
    aside = new_aside(directory)
    for path in present:
        move_aside(path, directory, aside)
    return [f"states that no record vouches for were moved to {aside}"]


def _cut_rows(
    directory: Path, header: store.Header, contents: store.Contents, table: slots.Slots
) -> list[str]:
    path = directory / store.STATES
    if not path.exists() or header.is_linked:
        return []
    lines = []
    size = _row_count(table) * header.row_bytes
    unfinished = contents.tail.get(store.STATES, 0)
    with wrap_os_errors(f"cut {path} back"):
        if unfinished > _UNFINISHED_BYTES + header.row_bytes:
            aside = new_aside(directory)
            with path.open("rb") as source, (aside / store.STATES).open("wb") as target:
                source.seek(path.stat().st_size - unfinished)
                shutil.copyfileobj(source, target, 1 << 20)
            lines.append(f"{unfinished:,} bytes that no record vouches for were copied to {aside}")
        elif unfinished or contents.stream.torn:
            lines.append(
                f"cut off {unfinished + contents.stream.torn:,} bytes of an unfinished write"
            )
        if path.stat().st_size > size:
            with path.open("r+b") as file:
                file.truncate(size)
    return lines


def _row_count(table: slots.Slots) -> int:
    rows = table["a"][table["kind"] == slots.RECORD]
    return int(rows.max(initial=-1)) + 1


def _opened(directory: Path, header: store.Header, stream: slots.Stream) -> Opened:
    table = stream.slots
    found = store.contents_of(directory, header, stream)
    records = table[table["kind"] == slots.RECORD]
    with_row = records[(records["a"] >= 0) & ((records["flags"] & slots.ROW_LOST) == 0)]
    known = Known()
    if len(with_row):
        log = SideLog(directory / store.SIDES, table[table["kind"] == slots.SIDE])
        known = Known.of(log.digests(int(with_row["step"][-1]), newest=False))
    places = table["a"][table["kind"] == slots.NEWEST]
    last = int(records["step"][-1]) if len(records) else -1
    is_known = len(records) and not records["flags"][-1] & slots.NO_DIGEST
    digest = int(records["b"][-1]) if is_known else None
    return Opened(
        base=chain.Entry(
            kind=chain.BASE,
            ordinal=0,
            step=last,
            rows=_row_count(table),
            row_step=int(with_row["step"][-1]) if len(with_row) else -1,
            has_state=bool(len(found.steps)) and int(found.steps[-1]) == last,
            digest=digest,
            unchanged=found.unchanged,
            key=known.key,
            known=known,
        ),
        serial=len(table),
        generation=stream.generation,
        names={name: number for number, name in slots.names(table).items()},
        records=len(records),
        place=int(places[-1]) if len(places) else 1,
    )
