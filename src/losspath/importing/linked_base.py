"""The base of a run's adapters, where the run refers to it instead of holding it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xxhash

from losspath.errors import DamagedError, LosspathError
from losspath.importing.base import in_adapted
from losspath.importing.formats import read_checkpoint
from losspath.importing.look import taken_of
from losspath.importing.places import Signature, is_settled, places_of, signature_of
from losspath.importing.state_dicts import Choice, Tensors
from losspath.parameters import digest_of_numbers
from losspath.recording import store
from losspath.recording.contents import Contents, Sides


def digest_of_base(tensors: Mapping[str, torch.Tensor]) -> int:
    """The XXH3-64 of tensors with their names, dtypes and shapes."""
    hasher = xxhash.xxh3_64()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest = digest_of_numbers([tensor.detach().reshape(-1)])
        told = f"{name} {tensor.dtype} {tuple(tensor.shape)} {digest:016x}\n"
        hasher.update(told.encode())
    return hasher.intdigest()


def with_base(
    directory: Path, header: store.Header, contents: Contents, note: Callable[[], Mapping[str, str]]
) -> Contents:
    """A run's contents, with the base that it refers to among the side tensors.

    Args:
        directory: the run.
        header: its header, whose metadata have the base's digest and its tensors' kinds.
        contents: what is in it.
        note: where the base is.
    """
    notes = header.metadata["imported"]
    digest, kinds = int(notes["base_digest"], 16), dict(notes["base_tensors"])
    names = [entry.name for entry in header.layout.parameters]
    sides = _WithBase(directory, contents.sides, digest, kinds, names, note)
    # Keys that tell one base from another.
    return replace(contents, sides=sides, keys=contents.keys ^ np.uint64(digest))


class _WithBase:
    """Side tensors of a run, and those of its base: see `Sides`.

    Args:
        directory: the run.
        own: the run's own side tensors.
        digest: of the base.
        kinds: of its tensors, by name.
        names: of the adapter's tensors.
        note: where the base is.
    """

    def __init__(
        self,
        directory: Path,
        own: Sides,
        digest: int,
        kinds: dict[str, str],
        names: list[str],
        note: Callable[[], Mapping[str, str]],
    ) -> None:
        self._directory, self._own, self._digest = directory, own, digest
        self._kinds, self._names, self._note = kinds, names, note
        self._sound: tuple[Path, Signature, Tensors] | None = None

    def kinds(self) -> dict[str, str]:
        """The kind of every side tensor that there was, by name."""
        return {**self._own.kinds(), **self._kinds}

    def digests(self, step: int, newest: bool) -> dict[str, int]:
        """The digest of each side tensor that the run holds itself."""
        return self._own.digests(step, newest)

    def tensors(self, step: int, newest: bool, key: int) -> dict[str, torch.Tensor]:
        """The side tensors of the state at a step.

        Raises:
            StoreError: the base is not there any more.
            DamagedError: it has other numbers than when it was linked.
        """
        own = self._own.tensors(step, newest, key ^ self._digest)
        base = {name: tensor.clone() for name, tensor in self._base().items()}
        return dict(sorted({**own, **base}.items()))

    def _base(self) -> Tensors:
        places = places_of(self._note(), self._directory)
        problem: LosspathError | None = None
        for place in places:
            try:
                if (found := self._read(place)) is not None:
                    return found
            except LosspathError as error:
                problem = problem or error
        raise problem or DamagedError(
            f"{places[0]} has other numbers than when {self._directory} was linked to it as the "
            "base of its adapters; put the old one back, or import the checkpoints anew"
        )

    def _read(self, place: Path) -> Tensors | None:
        """The base's tensors; None where they are not those that were linked."""
        signature = signature_of(place)
        if self._sound is not None and self._sound[:2] == (place, signature):
            return self._sound[2]
        is_old = is_settled(signature)
        tensors, _ = taken_of(read_checkpoint(place, Choice()), None, place)
        found = in_adapted(tensors, self._names)
        found = {name: tensor for name, tensor in found.items() if name in self._kinds}
        if digest_of_base(found) != self._digest:
            return None
        self._sound = (place, signature, found) if is_old else None
        return found
