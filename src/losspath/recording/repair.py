"""Making a damaged run readable again, without losing or deleting anything that is true.

Every row whose digest is right stays, and every loss whose record is. What is lost is marked as
such among the records, so that the run says where it has holes. Files that are written anew are
renamed aside first.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.errors import DamagedError, StoreError, wrap_os_errors
from losspath.files import (
    document_bytes,
    move_aside,
    new_aside,
    only_writer,
    read_document,
    sync_directory,
    sync_file,
    write_all,
)
from losspath.recording import migrate, slots, store
from losspath.recording.header import META, META_COPY, Header, exists, header_in, read_header
from losspath.recording.salvage import mended_document, salvage
from losspath.recording.sides import SideLog


@dataclass
class _Plan:
    """What is to be written anew, and what is told about it."""

    files: dict[str, bytes] = field(default_factory=dict)
    completed: set[str] = field(default_factory=set)  # of them, what holds all that is there
    lines: list[str] = field(default_factory=list)


def repair_trajectory(directory: Path) -> list[str]:
    """Makes a damaged run readable again: keeps all that is true, and says what is lost.

    Args:
        directory: where a recorder wrote; it must not be writing now.

    Returns:
        One line for each thing that was found and done; empty when nothing was wrong.

    Raises:
        StoreError: there is no run, its header (what lies where) is lost in every copy, or what
            must make way cannot be renamed; then nothing is done.
        BusyError: a recorder is writing there.
    """
    if not exists(directory):
        read_header(directory)
    with only_writer(directory / store.LOCK, f"to {directory}"):
        lines = migrate.finish(directory) if (directory / migrate.READY).is_dir() else []
        plan = _Plan()
        header = _header(directory, plan)
        if header.version != 1:
            _plan_slots(directory, header, plan)
        lines += _carry_out(directory, plan)
        if header.version == 1:
            lines += _repair_first_format(directory, header)
        return lines


# --------------------------------------------------------------------------------------------------
# The header


def _header(directory: Path, plan: _Plan) -> Header:
    """The header, from whichever copy is right; plans to write the other anew."""
    wrong: dict[str, str] = {}
    for name in (META, META_COPY):
        try:
            if (directory / name).exists():
                read_document(directory / name)
            else:
                wrong[name] = "missing"
        except DamagedError:
            wrong[name] = "damaged"
    good = next((name for name in (META, META_COPY) if name not in wrong), None)
    if good is None:
        return _mended_header(directory, wrong, plan)
    if not wrong and (foreign := _foreign_header(directory)) is not None:
        good = META_COPY if foreign == META else META
        wrong[foreign] = "of another run"
    header = header_in(directory / good)
    if header.version != 1:
        for name, how in wrong.items():
            plan.lines.append(f"{name} was {how}; written anew from {good}")
            plan.files[name] = _read(directory / good)
    return header


def _foreign_header(directory: Path) -> str | None:
    """Which of two headers that lay rows out differently is not this run's; None if they agree."""
    headers = {name: header_in(directory / name) for name in (META, META_COPY)}
    if not headers[META].contradicts(headers[META_COPY]):
        return None
    streams = [slots.merge({name: raw}) for name, raw in store.read_copies(directory).items()]
    right = {
        name: max(_whole_rows(directory, header, stream) for stream in streams)
        for name, header in headers.items()
    }
    if right[META] == right[META_COPY]:
        raise StoreError(
            f"cannot repair {directory}: {META} and {META_COPY} lay rows out differently, and the "
            "rows do not say which is this run's; put the right one's bytes into both"
        )
    return min(right, key=lambda name: right[name])


def _mended_header(directory: Path, wrong: Mapping[str, str], plan: _Plan) -> Header:
    for name, how in wrong.items():
        content = mended_document(directory / name) if how == "damaged" else None
        if content is not None:
            plan.lines.append(f"one bit of {name} was wrong; its digest says which")
            copies = [META] if content.get("version") == 1 else [META, META_COPY]
            plan.files |= dict.fromkeys(copies, document_bytes(content))
            plan.lines = _carry_out(directory, plan)
            plan.files = {}
            return read_header(directory)
    raise StoreError(
        f"cannot repair {directory}: its header, which says what lies where, is damaged in every "
        f"copy; put {META} back, of a backup or of a run of the same model and settings"
    )


# --------------------------------------------------------------------------------------------------
# Rows, side tensors and the slots that vouch for them


def _plan_slots(directory: Path, header: Header, plan: _Plan) -> None:
    stream = _stream(directory, header, plan)
    table = stream.slots.copy()
    _mark(table, stream.missing, 0)
    if len(stream.missing):
        plan.lines.append(
            f"{len(stream.missing):,} records are right in neither copy of {store.RECORDS}"
        )
    told = np.flatnonzero(store.told_slots(table))
    counted = table[: int(told[-1]) + 1 if len(told) else 0]  # a view: marks go to `table`
    lost = again = np.zeros(0, np.int64)
    if not header.is_linked:  # else rows are elsewhere, and may come back
        lost = _lost_rows(directory, header, counted)
        counted["flags"][lost] |= slots.ROW_LOST
        again = _found_rows(directory, header, counted)
    counted["flags"][again] &= ~np.uint16(slots.ROW_LOST)
    if len(again):
        steps = _listed(counted["step"][again])
        plan.lines.append(f"{len(again):,} states that were lost are whole again: {steps}")
    if len(lost):
        steps = _listed(counted["step"][lost])
        plan.lines.append(
            f"{len(lost):,} states are lost, as their rows have other bytes than were recorded: "
            f"{steps}"
        )
    _drop_lost_newest(directory, header, stream, table, counted, plan)
    _drop_lost_sides(directory, header, stream, table, counted, plan)
    changed = not np.array_equal(table, stream.slots)
    generation = stream.generation + changed
    _plan_copies(directory, slots.renumbered(table, 0, generation).tobytes(), plan)
    if changed:
        found = _contents(directory, header, stream, table)
        plan.lines.append(_kept(found))


def _stream(directory: Path, header: Header, plan: _Plan) -> slots.Stream:
    """What the copies of the slots hold; of two runs' copies, the one whose rows are here."""
    copies = store.read_copies(directory)
    stream = slots.merge(copies)
    if not stream.contradictory:
        return stream
    alone = {name: slots.merge({name: raw}) for name, raw in copies.items()}
    right = {name: _whole_rows(directory, header, each) for name, each in alone.items()}
    own, other = sorted(copies, key=lambda name: -right[name])
    if right[own] == right[other]:
        raise StoreError(
            f"cannot repair {directory}: {own} and {other} say different things, and the rows do "
            "not say which is this run's; put the right one's bytes into both"
        )
    plan.lines.append(
        f"{other} is of another run: {right[other]:,} of its rows are here, of {own} {right[own]:,}"
    )
    return alone[own]


def _whole_rows(directory: Path, header: Header, stream: slots.Stream) -> int:
    table = stream.slots
    rows = table[(table["kind"] == slots.RECORD) & (table["a"] >= 0)]
    return int(_right(directory / store.STATES, header, rows["a"], rows["b"]).sum())


def _mark(table: slots.Slots, places: npt.NDArray[Any] | list[int], kind: int) -> None:
    """Makes slots LOST ones; of those that were right it is known what they were."""
    for place in places:
        step = int(table["step"][place]) if kind else -1
        table[place] = np.zeros((), slots.SLOT)
        table["kind"][place], table["flags"][place] = slots.LOST, kind
        table["step"][place], table["a"][place] = step, -1


def _lost_rows(directory: Path, header: Header, table: slots.Slots) -> npt.NDArray[np.int64]:
    """Places of the records whose row has not the bytes that were recorded."""
    is_row = (table["kind"] == slots.RECORD) & (table["a"] >= 0)
    places = np.flatnonzero(is_row & ((table["flags"] & slots.ROW_LOST) == 0))
    good = _right(directory / store.STATES, header, table["a"][places], table["b"][places])
    return places[~good]


def _found_rows(directory: Path, header: Header, table: slots.Slots) -> npt.NDArray[np.int64]:
    """Places of the records whose row was lost and has its bytes again, as a file came back."""
    is_row = (table["kind"] == slots.RECORD) & (table["a"] >= 0)
    told = slots.ROW_LOST | slots.NO_DIGEST
    places = np.flatnonzero(is_row & ((table["flags"] & told) == slots.ROW_LOST))
    good = _right(directory / store.STATES, header, table["a"][places], table["b"][places])
    return places[good]


def _right(
    path: Path, header: Header, numbers: npt.NDArray[Any], digests: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Which rows of a file have these digests."""
    good = np.zeros(len(numbers), bool)
    if not path.exists():
        return good
    row = np.empty(header.row_bytes, np.uint8)
    with wrap_os_errors(f"read {path}"), path.open("rb") as file:
        for index, (number, digest) in enumerate(
            zip(numbers.tolist(), digests.tolist(), strict=True)
        ):
            file.seek(number * header.row_bytes)
            whole = file.readinto(row.data) == header.row_bytes
            good[index] = whole and store.row_digest(row) == digest
    return good


def _contents(
    directory: Path, header: Header, stream: slots.Stream, table: slots.Slots
) -> store.Contents:
    nothing = np.zeros(0, np.int64)
    return store.contents_of(directory, header, slots.Stream(table, nothing, stream.generation))


def _drop_lost_newest(
    directory: Path,
    header: Header,
    stream: slots.Stream,
    table: slots.Slots,
    counted: slots.Slots,
    plan: _Plan,
) -> None:
    """Marks slots of the newest state until one is right, or none is left."""
    while True:
        found = _contents(directory, header, stream, table)
        if not len(found.rows) or found.rows[-1] >= 0:
            return
        place = np.array([-1 - found.rows[-1]])
        if _right(directory / store.NEWEST, header, place, found.digests[-1:])[0]:
            return
        _mark(counted, np.flatnonzero(counted["kind"] == slots.NEWEST)[-1:], slots.NEWEST)
        plan.lines.append(f"the newest state, at step {int(found.steps[-1]):,}, is lost")


def _drop_lost_sides(
    directory: Path,
    header: Header,
    stream: slots.Stream,
    table: slots.Slots,
    counted: slots.Slots,
    plan: _Plan,
) -> None:
    """Marks slots of side tensors whose blob is not what was written."""
    found = _contents(directory, header, stream, table)
    log = SideLog(directory / store.SIDES, counted[counted["kind"] == slots.SIDE])
    newest = int(found.steps[-1]) if len(found.rows) and found.rows[-1] < 0 else None
    lost = []
    for place in np.flatnonzero(counted["kind"] == slots.SIDE).tolist():
        entry = counted[place]
        if int(entry["flags"]) & slots.OF_NEWEST and int(entry["step"]) != newest:
            continue  # of a state that another took the place of
        try:
            if not (directory / store.SIDES).exists():
                raise DamagedError("missing")
            log.read(entry)
        except DamagedError:
            lost.append(place)
    if lost:
        _mark(counted, lost, slots.SIDE)
        log = SideLog(directory / store.SIDES, counted[counted["kind"] == slots.SIDE])
        steps = store.without_sides(_contents(directory, header, stream, table), log)
        plan.lines.append(
            f"buffers or frozen parameters of {len(steps):,} states are lost: {_listed(steps)}"
        )


def _kept(found: store.Contents) -> str:
    if not len(found.steps):
        return "no state is left"
    line = f"{len(found.steps):,} states are kept, the last at step {int(found.steps[-1]):,}"
    if found.holes:
        line += f"; the run has holes after {_listed(found.steps[list(found.holes)])}"
    for count, which in zip(found.lost_ends, ("first", "last"), strict=True):
        if count:
            line += f"; the {which} {f'{count:,} are' if count > 1 else 'is'} lost"
    return line


def _listed(steps: npt.NDArray[Any]) -> str:
    shown = ", ".join(f"{int(step):,}" for step in steps[:5])
    return f"step{'s' * (len(steps) > 1)} {shown}" + (", …" if len(steps) > 5 else "")


def _plan_copies(directory: Path, right: bytes, plan: _Plan) -> None:
    """Writes a copy of the slots anew where it is not what the copies say together."""
    for name in (store.RECORDS, store.RECORDS_COPY):
        raw = _read(directory / name) if (directory / name).exists() else None
        # What follows is an unfinished write, that readers ignore and the next writer cuts off.
        if raw is not None and raw.startswith(right):
            continue
        plan.files[name] = right
        plan.lines.append(f"{name} was {'missing' if raw is None else 'not whole'}; written anew")
        if raw is not None and right.startswith(
            raw[: len(raw) // slots.SLOT_BYTES * slots.SLOT_BYTES]
        ):
            plan.completed.add(name)


# --------------------------------------------------------------------------------------------------
# Doing it


def _carry_out(directory: Path, plan: _Plan) -> list[str]:
    """Writes files beside, renames those that make way, and puts the new ones in their places."""
    if not plan.files:
        return plan.lines
    new: dict[str, Path] = {}
    with wrap_os_errors(f"repair {directory}"):
        try:
            for name, raw in plan.files.items():
                new[name] = directory / f".{name}.{secrets.token_hex(4)}.tmp"
                _write(new[name], raw)
            moved = list(_swap(directory, new, plan.completed))
        finally:
            for beside in new.values():
                beside.unlink(missing_ok=True)
        sync_directory(directory)
    return [*plan.lines, *(f"moved the old {file.name} to {file.parent.name}" for file in moved)]


def _swap(directory: Path, new: Mapping[str, Path], completed: set[str]) -> Iterator[Path]:
    there = [name for name in new if (directory / name).exists() and name not in completed]
    aside = new_aside(directory) if there else None
    for name, beside in new.items():
        if name in there:
            try:
                yield move_aside(directory / name, directory, aside)
            except BaseException:
                if aside is not None and not any(aside.iterdir()):
                    aside.rmdir()
                raise
        beside.replace(directory / name)


def _write(path: Path, raw: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        write_all(file.fileno(), raw)
        sync_file(file.fileno())


def _read(path: Path) -> bytes:
    with wrap_os_errors(f"read {path}"):
        return path.read_bytes()


# --------------------------------------------------------------------------------------------------
# The first format


def _repair_first_format(directory: Path, header: Header) -> list[str]:
    """What is left of a damaged run of the first format becomes one of the second."""
    found = salvage(directory, header)
    if not found.lines:
        return []
    migrate.stage(directory, header, found)
    done = migrate.finish(directory)
    contents = store.read_contents(directory, read_header(directory))
    return [*found.lines, _kept(contents), *done]
