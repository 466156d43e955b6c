"""Runs that refer to checkpoints instead of holding their numbers."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from losspath.errors import DamagedError, StoreError
from losspath.files import read_document, write_document
from losspath.importing.formats import read_checkpoint
from losspath.importing.state_dicts import Choice, Tensors
from losspath.importing.survey import taken_of
from losspath.parameters import flat
from losspath.recording import store
from losspath.recording.contents import Contents
from losspath.recording.paths import States
from losspath.recording.rows import RowReader

LINKS = "checkpoints.json"
# Checkpoints that are kept open, by the bytes of their tensors; most are mapped, not in memory.
_OPEN_BYTES = 2 << 30
_PART = 1 << 20  # numbers that are taken for a digest at a time

Signature = tuple[tuple[str, int, int, int], ...]


def write_links(
    run: Path,
    places: dict[int, Path],
    choice: Choice,
    patterns: Sequence[str] | None,
    adds: bool,
) -> None:
    """Writes which checkpoint each state of a run is in.

    Args:
        run: its directory.
        places: the checkpoints by their steps.
        choice: which state dict is meant.
        patterns: of names; None for all.
        adds: whether those that are noted already stay.
    """
    known = {}
    if adds and (run / LINKS).exists():
        known = read_document(run / LINKS)["checkpoints"]
    own = run.resolve()
    for step, place in places.items():
        relative = os.path.relpath(place.resolve(), own)
        known[str(step)] = {"path": str(place), "relative": relative}
    content = {
        "checkpoints": known,
        "key": choice.key,
        "weights": choice.weights,
        "prefix": choice.prefix,
        "parameters": None if patterns is None else list(patterns),
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
        self._dtype = header.torch_dtype
        self._sound: dict[int, Signature] = {}
        self._open: OrderedDict[int, tuple[Signature, Tensors]] = OrderedDict()

    @cached_property
    def _noted(self) -> dict[str, Any]:
        return read_document(self._directory / LINKS)

    @cached_property
    def _choice(self) -> Choice:
        return Choice(self._noted["key"], self._noted["weights"], self._noted["prefix"])

    def read(self, rows: States, start: int) -> None:
        """Fills whole rows from state `start` on, each checked: see `RowReader.read`.

        Raises:
            StoreError: a checkpoint is not there any more.
            DamagedError: it has other numbers than when it was linked.
        """
        for row, index in zip(rows, range(start, start + len(rows)), strict=True):
            tensors, _ = self._tensors(index)
            place = torch.from_numpy(row)
            done = 0
            for part in self._parts(index, tensors):
                place[done : done + len(part)].copy_(part)
                done += len(part)
            if store.row_digest(row) != self._contents.digests[index]:
                raise self._changed(index)

    def columns(self, start: int, stop: int, states: Sequence[int]) -> States:
        """The numbers start … stop−1 of some states: see `RowReader.columns`."""
        found = np.empty((len(states), stop - start), self._header.row_dtype)
        for row, index in zip(found, states, strict=True):
            tensors, signature = self._tensors(index)
            if self._sound.get(index) != signature:
                self._check(index, tensors)
                self._sound[index] = signature
            place = torch.from_numpy(row)
            for entry in self._header.layout.parameters:
                begin, end = max(start, entry.offset), min(stop, entry.offset + entry.size)
                if begin < end:
                    own = self._numbers(index, tensors, entry.name, entry.size)
                    part = own[begin - entry.offset : end - entry.offset]
                    place[begin - start : end - start].copy_(part)
        return found

    def _check(self, index: int, tensors: Tensors) -> None:
        hasher = xxhash.xxh3_64()
        for part in self._parts(index, tensors):
            numbers = part.to(self._dtype).contiguous()
            hasher.update(numbers.view(torch.uint8).numpy().data)
        if hasher.intdigest() != int(self._contents.digests[index]):
            raise self._changed(index)

    def _parts(self, index: int, tensors: Tensors) -> Iterator[torch.Tensor]:
        for entry in self._header.layout.parameters:
            numbers = self._numbers(index, tensors, entry.name, entry.size)
            yield from numbers.split(_PART)  # type: ignore[no-untyped-call]

    def _numbers(self, index: int, tensors: Tensors, name: str, size: int) -> torch.Tensor:
        if name not in tensors or (numbers := flat(tensors[name])).numel() != size:
            raise self._changed(index)
        return numbers

    def _tensors(self, index: int) -> tuple[Tensors, Signature]:
        """The tensors of a state's checkpoint, opened anew where its files are others."""
        place = self._place(index)
        signature = _signature(place)
        if index not in self._open or self._open[index][0] != signature:
            checkpoint = read_checkpoint(place, self._choice)
            taken = taken_of(checkpoint, self._noted["parameters"], place)[0]
            self._open[index] = signature, taken
            while len(self._open) > 1 and sum(map(_bytes, self._open.values())) > _OPEN_BYTES:
                self._open.popitem(last=False)
        self._open.move_to_end(index)
        return self._open[index][1], signature

    def _place(self, index: int) -> Path:
        step = str(int(self._contents.steps[index]))
        places = self._noted["checkpoints"]
        if step not in places:
            raise DamagedError(
                f"{self._directory / LINKS} says nothing of the checkpoint of step {step}; import "
                "the checkpoints anew"
            )
        noted = places[step]
        # Where run and checkpoints were moved together they lie to each other as before.
        for place in (Path(noted["path"]), self._directory / noted["relative"]):
            if place.exists():
                return place
        raise StoreError(
            f"{self._directory} refers to the checkpoint {noted['path']}, which is not there any "
            "more; put it back, or import without --link, which copies"
        )

    def _changed(self, index: int) -> DamagedError:
        return DamagedError(
            f"{self._place(index)} has other numbers than when {self._directory} was linked to it "
            f"as its state at step {int(self._contents.steps[index]):,}; put the old one back, or "
            "import the checkpoints anew"
        )


def _signature(place: Path) -> Signature:
    """What changes when the files of a checkpoint do."""
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    found = [(file, file.stat()) for file in files if file.is_file()]
    return tuple((file.name, s.st_ino, s.st_size, s.st_mtime_ns) for file, s in found)


def _bytes(opened: tuple[Signature, Tensors]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in opened[1].values())
