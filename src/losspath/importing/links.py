"""Runs that refer to checkpoints instead of holding their numbers."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from losspath.errors import DamagedError, LosspathError, StoreError
from losspath.files import read_document, write_document
from losspath.importing.linked_base import with_base
from losspath.importing.look import Reading
from losspath.importing.places import Signature, is_settled, noted, places_of, signature_of
from losspath.importing.rows import digest_of_row, numbers_of, parts_of
from losspath.importing.state_dicts import Choice, Tensors
from losspath.recording import store
from losspath.recording.contents import Contents
from losspath.recording.header import LINKS
from losspath.recording.paths import States
from losspath.recording.rows import RowReader

# Checkpoints that are kept open, by the bytes of their tensors; most are mapped, not in memory.
_OPEN_BYTES = 2 << 30


def write_links(run: Path, places: Mapping[int, Path], reading: Reading, base: Path | None) -> None:
    """Notes which checkpoint each state of a run is in; what was noted of other steps stays.

    Args:
        run: its directory.
        places: the checkpoints by their steps.
        reading: how a checkpoint is read.
        base: the network that they are adapters of, if it is given.
    """
    known: dict[str, Any] = {}
    # Where it was damaged, checkpoints that are not given now are not known any more.
    with suppress(DamagedError):
        if (run / LINKS).exists():
            known = read_document(run / LINKS)["checkpoints"]
    known |= {str(step): noted(place, run) for step, place in places.items()}
    choice, patterns = reading.choice, reading.patterns
    content = {
        "checkpoints": known,
        "key": choice.key,
        "weights": choice.weights,
        "prefix": choice.prefix,
        "parameters": None if patterns is None else list(patterns),
        "put_on": reading.put_on,
        "base": None if base is None else noted(base, run),
    }
    write_document(run / LINKS, content)


def size_of_links(run: Path) -> tuple[int, int]:
    """The bytes of all checkpoints that a run refers to, and how many of them are not there.

    Args:
        run: its directory.

    Raises:
        StoreError: what it notes of them cannot be read.
    """
    size = missing = 0
    content = read_document(run / LINKS)
    base = [content["base"]] if content["base"] else []
    for note in (*content["checkpoints"].values(), *base):
        try:
            size += sum(bytes_of for _, _, bytes_of, *_ in signature_of(places_of(note, run)[0]))
        except StoreError:
            missing += 1
    return size, missing


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
        notes = header.metadata.get("imported", {})
        if "base_digest" in notes:
            contents = with_base(directory, header, contents, lambda: self._noted["base"])
        super().__init__(directory, header, contents, newest)
        self._sound: dict[int, tuple[Path, Signature]] = {}
        self._open: OrderedDict[int, tuple[Path, Signature, Tensors]] = OrderedDict()

    @cached_property
    def _noted(self) -> dict[str, Any]:
        return read_document(self._directory / LINKS)

    @cached_property
    def _reading(self) -> Reading:
        content = self._noted
        choice = Choice(content["key"], content["weights"], content["prefix"])
        return Reading(choice, content["parameters"], content["put_on"])

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
        """Reads from the first place of a state's checkpoint that has what was linked."""
        places = places_of(self._noted_of(index), self._directory)
        problem: LosspathError | None = None
        for place in places:
            try:
                if read(index, place):
                    return
            except LosspathError as error:
                problem = problem or error
        raise problem or self._changed(index, places[0])

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
        return bool(store.row_digest(row) == self.contents.digests[index])

    def _read_part(self, row: States, start: int, stop: int, index: int, place: Path) -> bool:
        """Reads the numbers start … stop−1; whether the checkpoint is that which was linked."""
        tensors, signature = self._tensors(index, place)
        layout, is_old = self._header.layout, is_settled(signature)
        if self._sound.get(index) != (place, signature):
            digest = digest_of_row(tensors, layout, self._header.torch_dtype)
            if digest != int(self.contents.digests[index]):
                return False
            if is_old:
                self._sound[index] = place, signature
        part = torch.from_numpy(row)
        for entry in layout.parameters:
            begin, end = max(start, entry.offset), min(stop, entry.offset + entry.size)
            numbers = numbers_of(tensors, entry) if begin < end else None
            if numbers is not None:
                own = numbers[begin - entry.offset : end - entry.offset]
                part[begin - start : end - start].copy_(own)
        return signature == signature_of(place)

    def _tensors(self, index: int, place: Path) -> tuple[Tensors, Signature]:
        """The tensors of a state's checkpoint, opened anew where its files are others."""
        signature = signature_of(place)
        if index not in self._open or self._open[index][:2] != (place, signature):
            self._open[index] = place, signature, self._reading.read(place)
            while len(self._open) > 1 and sum(map(_bytes, self._open.values())) > _OPEN_BYTES:
                self._open.popitem(last=False)
        self._open.move_to_end(index)
        return self._open[index][2], signature

    def _noted_of(self, index: int) -> dict[str, str]:
        step = str(int(self.contents.steps[index]))
        notes: dict[str, dict[str, str]] = self._noted["checkpoints"]
        if step not in notes:
            raise DamagedError(
                f"{self._directory / LINKS} says nothing of the checkpoint of step {step}; import "
                "the checkpoints again with --link"
            )
        return notes[step]

    def _changed(self, index: int, place: Path) -> DamagedError:
        return DamagedError(
            f"{place} has other numbers than when {self._directory} was linked to it as its state "
            f"at step {int(self.contents.steps[index]):,}; put the old one back, or import the "
            "checkpoints anew"
        )


def _bytes(opened: tuple[Path, Signature, Tensors]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in opened[2].values())
