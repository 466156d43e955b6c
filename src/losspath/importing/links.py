"""Runs that refer to checkpoints instead of holding their numbers."""

from __future__ import annotations

import functools
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from losspath.errors import DamagedError, LosspathError, StoreError, wrap_os_errors
from losspath.files import read_document, write_document
from losspath.importing.formats import INDEX
from losspath.importing.look import Reading
from losspath.importing.rows import digest_of_row, numbers_of, parts_of
from losspath.importing.state_dicts import Choice, Tensors
from losspath.recording import store
from losspath.recording.contents import Contents
from losspath.recording.header import LINKS
from losspath.recording.paths import States
from losspath.recording.rows import RowReader

# Checkpoints that are kept open, by the bytes of their tensors; most are mapped, not in memory.
_OPEN_BYTES = 2 << 30

# What changed longer ago than this (nanoseconds) has another time once it changes again.
_SETTLED = 2_000_000_000

Signature = tuple[tuple[str, int, int, int, int], ...]


def write_links(run: Path, places: Mapping[int, Path], reading: Reading) -> None:
    """Notes which checkpoint each state of a run is in; what was noted of other steps stays.

    Args:
        run: its directory.
        places: the checkpoints by their steps.
        reading: how a checkpoint is read.
    """
    known: dict[str, Any] = {}
    # Where it was damaged, checkpoints that are not given now are not known any more.
    with suppress(DamagedError):
        if (run / LINKS).exists():
            known = read_document(run / LINKS)["checkpoints"]
    own = run.resolve()
    for step, place in places.items():
        relative = os.path.relpath(place.resolve(), own)
        known[str(step)] = {"path": str(place), "relative": relative}
    choice, patterns = reading.choice, reading.patterns
    content = {
        "checkpoints": known,
        "key": choice.key,
        "weights": choice.weights,
        "prefix": choice.prefix,
        "parameters": None if patterns is None else list(patterns),
        "put_on": reading.put_on,
    }
    write_document(run / LINKS, content)


class LinkedRows(RowReader):
    """Reads the states of a run out of the checkpoints that it refers to.

    Every state that is read whole is checked against the digest that was taken at the import; of a
    part that is read, the checkpoint is checked whole the first time, and whenever its files have
    another time, size or place than at that time.

    Args:
        directory: the run.
        header: its header.
        contents: what is in it.
        newest: None, as each state is in a checkpoint.
    """

    def __init__(
        self, directory: Path, header: store.Header, contents: Contents, newest: States | None
    ) -> None:
        super().__init__(directory, header, contents, newest)
        self._sound: dict[int, tuple[Path, Signature]] = {}
        self._open: OrderedDict[int, tuple[Path, Signature, Tensors]] = OrderedDict()

    @cached_property
    def _noted(self) -> dict[str, Any]:
        return read_document(self._directory / LINKS)

    @cached_property
    def _reading(self) -> Reading:
        noted = self._noted
        choice = Choice(noted["key"], noted["weights"], noted["prefix"])
        return Reading(choice, noted["parameters"], noted["put_on"])

    def read(self, rows: States, start: int) -> None:
        """Fills whole rows from state `start` on, each checked: see `RowReader.read`.

        Raises:
            StoreError: a checkpoint is not there any more.
            DamagedError: it has other numbers than when it was linked.
        """
        for row, index in zip(rows, range(start, start + len(rows)), strict=True):
            self._first_right(index, functools.partial(self._read_row, row))

    def columns(self, start: int, stop: int, states: Sequence[int]) -> States:
        """The numbers start … stop−1 of some states: see `RowReader.columns`."""
        found = np.empty((len(states), stop - start), self._header.row_dtype)
        for row, index in zip(found, states, strict=True):
            self._first_right(index, functools.partial(self._read_part, row, start, stop))
        return found

    def _first_right(self, index: int, read: Callable[[int, Path], bool]) -> None:
        """Reads from the first place of a state's checkpoint that has what was linked.

        Where run and checkpoints were moved together, they lie to each other as before.
        """
        noted = self._noted_of(index)
        relative = Path(os.path.normpath(self._directory / noted["relative"]))
        there = [place for place in (Path(noted["path"]), relative) if place.exists()]
        if not there:
            raise StoreError(
                f"{self._directory} refers to the checkpoint {noted['path']}, which is not there "
                "any more; put it back, or import the checkpoints again with --link from where "
                "they are now"
            )
        problem: LosspathError | None = None
        for place in dict.fromkeys(there):
            try:
                if read(index, place):
                    return
            except LosspathError as error:
                problem = problem or error
        raise problem or self._changed(index, there[0])

    def _read_row(self, row: States, index: int, place: Path) -> bool:
        """Reads a whole row; whether it is that which was linked."""
        tensors, _ = self._tensors(index, place)
        numbers, done = torch.from_numpy(row), 0
        try:
            for part in parts_of(tensors, self._header.layout):
                numbers[done : done + len(part)].copy_(part)
                done += len(part)
        except KeyError:
            return False
        return bool(store.row_digest(row) == self._contents.digests[index])

    def _read_part(self, row: States, start: int, stop: int, index: int, place: Path) -> bool:
        """Reads the numbers start … stop−1; whether the checkpoint is that which was linked."""
        tensors, signature = self._tensors(index, place)
        layout, begun = self._header.layout, time.time_ns()
        if self._sound.get(index) != (place, signature):
            digest = digest_of_row(tensors, layout, self._header.torch_dtype)
            if digest != int(self._contents.digests[index]):
                return False
            # What was written a moment ago may be written again without its time being another.
            if all(begun - time_of_file > _SETTLED for *_, time_of_file in signature):
                self._sound[index] = place, signature
        part = torch.from_numpy(row)
        for entry in layout.parameters:
            begin, end = max(start, entry.offset), min(stop, entry.offset + entry.size)
            numbers = numbers_of(tensors, entry) if begin < end else None
            if numbers is not None:
                own = numbers[begin - entry.offset : end - entry.offset]
                part[begin - start : end - start].copy_(own)
        return signature == _signature(place)

    def _tensors(self, index: int, place: Path) -> tuple[Tensors, Signature]:
        """The tensors of a state's checkpoint, opened anew where its files are others."""
        signature = _signature(place)
        if index not in self._open or self._open[index][:2] != (place, signature):
            self._open[index] = place, signature, self._reading.read(place)
            while len(self._open) > 1 and sum(map(_bytes, self._open.values())) > _OPEN_BYTES:
                self._open.popitem(last=False)
        self._open.move_to_end(index)
        return self._open[index][2], signature

    def _noted_of(self, index: int) -> dict[str, str]:
        step = str(int(self._contents.steps[index]))
        noted: dict[str, dict[str, str]] = self._noted["checkpoints"]
        if step not in noted:
            raise DamagedError(
                f"{self._directory / LINKS} says nothing of the checkpoint of step {step}; import "
                "the checkpoints again with --link"
            )
        return noted[step]

    def _changed(self, index: int, place: Path) -> DamagedError:
        return DamagedError(
            f"{place} has other numbers than when {self._directory} was linked to it as its state "
            f"at step {int(self._contents.steps[index]):,}; put the old one back, or import the "
            "checkpoints anew"
        )


def _signature(place: Path) -> Signature:
    """What changes when the files of a checkpoint do: the newest time of each comes last."""
    folder = place if place.is_dir() else place.parent
    is_alone = not place.is_dir() and not place.name.endswith(INDEX)
    with wrap_os_errors(f"read {place}"):
        files = [place] if is_alone else sorted(folder.iterdir())
        found = [(file, file.stat()) for file in files if file.is_file()]
    return tuple(
        (file.name, s.st_ino, s.st_size, s.st_mtime_ns, max(s.st_mtime_ns, s.st_ctime_ns))
        for file, s in found
    )


def _bytes(opened: tuple[Path, Signature, Tensors]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in opened[2].values())
