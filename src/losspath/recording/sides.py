"""Side tensors of a run: blobs in ``sides.bin``, and which of them belong to a state.

A blob is a head of 64 bytes (magic, what it is, the step, the payload's length and XXH3-64, the
offset of its form, and the XXH3-64 of the head itself) and a payload, padded to 8 bytes. So blobs
can be found without any slot. A *form* is a JSON value: a table of tensors (name, dtype, shape,
kind), and names that are gone. A blob of *data* has a form, and as its payload the digest (u64) of
each tensor of it and then the bytes of each, one after the other. What is written are the tensors
that changed since the state before, so a tensor of a state is the last one written up to it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from losspath.errors import DamagedError, wrap_os_errors
from losspath.recording import slots

MAGIC = b"LPSIDES2"
FORM, DATA = 1, 2
HEAD = struct.Struct("<8sIIqQQQ8xQ")  # magic, what, 0, step, length, digest, form, check
HEAD_BYTES = HEAD.size
_KEY_MASK = (1 << 64) - 1


class Described(NamedTuple):
    """What a side tensor is, without its numbers.

    Attributes:
        name: its canonical name.
        dtype: such as "bfloat16".
        shape: its shape.
        kind: "buffer" or "frozen".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str

    @property
    def nbytes(self) -> int:
        """The bytes of its numbers."""
        return math.prod(self.shape) * torch_dtype(self.dtype).itemsize

    def digest(self, content: bytes | memoryview) -> int:
        """The XXH3-64 of what it is and of its bytes."""
        hasher = xxhash.xxh3_64(json.dumps(self).encode())
        hasher.update(content)
        return hasher.intdigest()


def torch_dtype(name: str) -> torch.dtype:
    """A dtype of torch by its name; `DamagedError` if this torch has none of that name."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise DamagedError(f"a side tensor is of dtype {name}, which this version of torch lacks")
    return dtype


def key_of(digests: Iterable[int]) -> int:
    """One number for a set of side tensors, whatever their order; 0 for none."""
    return sum(digests) & _KEY_MASK


@dataclass(frozen=True)
class Form:
    """What a blob of data holds."""

    tensors: tuple[Described, ...]
    gone: tuple[str, ...]

    @classmethod
    def parse(cls, payload: bytes) -> Form:
        """The form that `form_payload` gave."""
        try:
            content = json.loads(payload)
            return cls(
                tuple(Described(n, d, tuple(s), k) for n, d, s, k in content["tensors"]),
                tuple(content["gone"]),
            )
        except (KeyError, TypeError, ValueError) as cause:
            raise DamagedError(f"a form of side tensors cannot be read: {cause}") from cause


def form_payload(tensors: Sequence[Described], gone: Sequence[str] = ()) -> bytes:
    """A form as bytes."""
    return json.dumps({"tensors": list(tensors), "gone": list(gone)}).encode()


def head(what: int, step: int, length: int, digest: int, form: int) -> bytes:
    """The head of a blob whose payload has a length and a digest."""
    raw = HEAD.pack(MAGIC, what, 0, step, length, digest, form, 0)[:-8]
    return raw + xxhash.xxh3_64_intdigest(raw).to_bytes(8, "little")


def padding(length: int) -> bytes:
    """What follows a payload, so that every blob begins at a multiple of 8."""
    return bytes(-length % 8)


@dataclass(frozen=True)
class Blob:
    """A blob that is there: where it is, and what its head says."""

    what: int
    offset: int
    step: int
    length: int
    digest: int
    form: int


def parse_head(raw: bytes | memoryview, offset: int) -> Blob | None:
    """What a head says; None for bytes that are none."""
    if len(raw) < HEAD_BYTES or bytes(raw[:8]) != MAGIC:
        return None
    _, what, _, step, length, digest, form, check = HEAD.unpack(raw[:HEAD_BYTES])
    if check != xxhash.xxh3_64_intdigest(bytes(raw[: HEAD_BYTES - 8])):
        return None
    return Blob(what, offset, step, length, digest, form)


class SideWriter:
    """Appends blobs to the file of side tensors.

    Args:
        write: writes bytes at a place of it.
        size: how many bytes it has.
    """

    def __init__(self, write: Callable[[bytes, int], object], size: int) -> None:
        self._write = write
        self._end = size + len(padding(size))
        self._forms: dict[bytes, int] = {}

    def append(
        self, step: int, form: bytes, digests: Sequence[int], contents: Sequence[bytes]
    ) -> tuple[int, int, int, int]:
        """Appends tensors, and their form if it is not there.

        Args:
            step: the first state that has them.
            form: what `form_payload` gives.
            digests: of the tensors.
            contents: their bytes.

        Returns:
            Where the blob begins, the digest and length of its payload, and where its form begins.
        """
        if form not in self._forms:
            digest = xxhash.xxh3_64_intdigest(form)
            self._forms[form] = self._append([head(FORM, step, len(form), digest, 0), form])
        at = self._forms[form]
        parts = [np.array(digests, "<u8").tobytes(), *contents]
        hasher = xxhash.xxh3_64()
        for part in parts:
            hasher.update(part)
        length, digest = sum(map(len, parts)), hasher.intdigest()
        offset = self._append([head(DATA, step, length, digest, at), *parts])
        return offset, digest, length, at

    def _append(self, parts: list[bytes]) -> int:
        offset = at = self._end
        parts.append(padding(sum(map(len, parts))))
        small = sum(map(len, parts)) < 1 << 20
        for part in [b"".join(parts)] if small else parts:
            self._write(part, at)
            at += len(part)
        self._end = at
        return offset


class SideLog:
    """The side tensors of a run, read where they are asked for.

    Args:
        path: the file of blobs.
        entries: SIDE slots, in the order of the stream.
    """

    def __init__(self, path: Path, entries: slots.Slots) -> None:
        self._path = path
        self._own = entries[(entries["flags"] & slots.OF_NEWEST) == 0]
        self._newest = entries[(entries["flags"] & slots.OF_NEWEST) != 0]
        self._forms: dict[int, Form] = {}

    def __len__(self) -> int:
        return len(self._own) + len(self._newest)

    @cached_property
    def _by_form(self) -> dict[int, npt.NDArray[np.int64]]:
        """Places of entries by the offset of their form, ascending."""
        offsets, inverse = np.unique(self._own["d"], return_inverse=True)
        return {
            int(offset): np.flatnonzero(inverse == number) for number, offset in enumerate(offsets)
        }

    def kinds(self) -> dict[str, str]:
        """The kind of every side tensor that there was, by name."""
        offsets = {*self._own["d"].tolist(), *self._newest["d"].tolist()}
        return {
            tensor.name: tensor.kind
            for offset in sorted(offsets)
            for tensor in self._form(offset).tensors
        }

    def tensors(self, step: int, newest: bool, key: int) -> dict[str, torch.Tensor]:
        """The side tensors of a state.

        Args:
            step: the state's step.
            newest: whether it is a state without a row.
            key: what `key_of` gives of their digests.

        Raises:
            DamagedError: bytes are missing or not what was written.
        """
        found: dict[str, torch.Tensor] = {}
        digests = []
        for entry, places in self._places(step, newest):
            described, payload, marks = self.read(entry)
            for place in places:
                tensor, content = described[place], payload[place]
                if tensor.digest(content) != marks[place]:
                    raise self._damaged(int(entry["a"]))
                found[tensor.name] = _tensor(tensor, content)
                digests.append(marks[place])
        if key_of(digests) != key:
            raise DamagedError(
                f"{self._path} is damaged: of the buffers and frozen parameters of step {step} "
                f"some are lost; {self._way_out}"
            )
        return dict(sorted(found.items()))

    def digests(self, step: int, newest: bool) -> dict[str, int]:
        """The digest of each side tensor of a state, by name."""
        found: dict[str, int] = {}
        for entry, places in self._places(step, newest):
            described, _, marks = self.read(entry)
            found |= {described[place].name: marks[place] for place in places}
        return found

    def _places(self, step: int, newest: bool) -> Iterator[tuple[Any, list[int]]]:
        """The entries that hold a state's tensors, with the tensors' places in each."""
        last = int(np.searchsorted(self._own["step"], step, side="right"))
        candidates = []
        for places in self._by_form.values():
            if count := int(np.searchsorted(places, last)):
                candidates.append(places[count - 1])
        ordered = [self._own[place] for place in sorted(candidates, reverse=True)]
        if newest:
            ordered = [*self._newest[self._newest["step"] == step][::-1], *ordered]
        seen: set[str] = set()
        for entry in ordered:
            form = self._form(int(entry["d"]))
            wanted = [n for n, tensor in enumerate(form.tensors) if tensor.name not in seen]
            seen.update(form.gone, (tensor.name for tensor in form.tensors))
            if wanted:
                yield entry, wanted

    def _form(self, offset: int) -> Form:
        if offset not in self._forms:
            self._forms[offset] = Form.parse(self._payload(offset, FORM, None))
        return self._forms[offset]

    def read(self, entry: Any) -> tuple[tuple[Described, ...], list[memoryview], list[int]]:
        """What a SIDE slot's blob holds: what each tensor is, its bytes, and its digest."""
        form = self._form(int(entry["d"]))
        raw = memoryview(self._payload(int(entry["a"]), DATA, int(entry["b"])))
        count = len(form.tensors)
        sizes = [tensor.nbytes for tensor in form.tensors]
        if len(raw) != 8 * count + sum(sizes):
            raise self._damaged(int(entry["a"]))
        parts, at = [], 8 * count
        for size in sizes:
            parts.append(raw[at : at + size])
            at += size
        return form.tensors, parts, list(struct.unpack(f"<{count}Q", raw[: 8 * count]))

    def _payload(self, offset: int, what: int, digest: int | None) -> bytes:
        with wrap_os_errors(f"read {self._path}"), self._path.open("rb", buffering=0) as file:
            file.seek(offset)
            blob = parse_head(file.read(HEAD_BYTES), offset)
            if blob is None or blob.what != what or digest not in (None, blob.digest):
                raise self._damaged(offset)
            payload = bytearray()
            while piece := file.read(blob.length - len(payload)):
                payload += piece
        if len(payload) != blob.length or xxhash.xxh3_64_intdigest(payload) != blob.digest:
            raise self._damaged(offset)
        return bytes(payload)

    def _damaged(self, offset: int) -> DamagedError:
        return DamagedError(
            f"{self._path} is damaged at byte {offset:,}: buffers or frozen parameters have other "
            f"bytes than were recorded; {self._way_out}"
        )

    @property
    def _way_out(self) -> str:
        return (
            f"`losspath repair {self._path.parent}` says what is left; put the file back from a "
            "backup (after a repair, with the records.bin and records.copy.bin that it moved into "
            "aside-<n>), or evaluate with those that the model has, by "
            'Objective(..., buffers="model")'
        )


def _tensor(described: Described, content: memoryview) -> torch.Tensor:
    dtype = torch_dtype(described.dtype)
    if not content:
        return torch.empty(described.shape, dtype=dtype, device="cpu")
    raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return raw.view(dtype).reshape(described.shape)
