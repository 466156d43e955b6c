"""What does not change over a run's life, kept in two copies."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from losspath.errors import ArgumentError, DamagedError, StoreError, wrap_os_errors
from losspath.files import read_document, write_atomically, write_document
from losspath.parameters import Entry, Layout, prefix_in, without_wrappers
from losspath.recording.sketch import Sketch

FORMAT = "losspath trajectory"
VERSION = 2

META = "trajectory.json"
META_COPY = "trajectory.copy.json"
# A directory in an imported run: what says which network its checkpoints are of.
MODEL_FILES = "imported-model"
# Where the checkpoints are that a run refers to.
LINKS = "checkpoints.json"
# How the numbers of a row lie on disk, by the header's dtype; NumPy has no bfloat16.
_STORED = {"float32": "<f4", "float64": "<f8", "bfloat16": "<u2", "sketch": "<f8"}
_LINKED = "linked"
# A directory in a run that is being brought over to this format: its new files.
MIGRATED = "migrated"


@dataclass(frozen=True)
class Header:
    """What does not change over a run's life.

    Attributes:
        layout: what lies where in a row: the parameters.
        dtype: "float32", "float64", or "bfloat16", to which states were rounded; "sketch" where
            rows are sketches of states.
        every: a state is stored at every so many steps.
        metadata: JSON values of the caller's.
        schedule: at which steps states are kept, where that is not `every` so many.
        sketch: what states were projected by, where they are not kept themselves.
        is_linked: whether states are not here, but in checkpoints that the run refers to.
        version: of the format.
        buffers: in the first format, the buffers that follow the parameters in a row.
        prefix: what was taken off all names of the first format or of checkpoints, as DDP begins
            them with it; it may as well be a child of the network's own that is called so, which
            only a model tells.
    """

    layout: Layout
    dtype: str
    every: int
    metadata: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION
    buffers: tuple[Entry, ...] = ()
    prefix: str = ""
    schedule: dict[str, Any] | None = None
    sketch: Sketch | None = None
    is_linked: bool = False

    def prefix_in(self, names: Container[str]) -> str:
        """What the names of the layout begin with besides in a network whose parameters these are.

        Args:
            names: of the network's parameters.
        """
        return prefix_in(self.prefix, [entry.name for entry in self.layout.parameters], names)

    def layout_in(self, names: Container[str]) -> Layout:
        """The layout, with its parameters called as in a network whose parameters these are."""
        prefix = self.prefix_in(names)
        return Layout(_renamed(self.layout.parameters, prefix)) if prefix else self.layout

    def contradicts(self, other: Header) -> bool:
        """Whether rows are laid out otherwise than another header says."""
        mine, theirs = (
            (header.version, header.dtype, header.layout, header.sketch, header.is_linked)
            for header in (self, other)
        )
        return mine != theirs

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """The dtype of a stored number; bfloat16 is handled as its two bytes."""
        return np.dtype(_STORED[self.dtype])

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype that a row is made in."""
        found: torch.dtype = torch.float64 if self.sketch else getattr(torch, self.dtype)
        return found

    @property
    def state_dtype(self) -> np.dtype[Any]:
        """The dtype that states are handed out in."""
        return np.dtype("f4" if self.dtype == "bfloat16" else _STORED[self.dtype][1:])

    @property
    def is_rounded(self) -> bool:
        """Whether states have fewer digits than the parameters had."""
        return self.dtype == "bfloat16" and any(
            entry.dtype != "bfloat16" for entry in self.layout.parameters
        )

    @property
    def row_size(self) -> int:
        """How many numbers a stored row has."""
        if self.sketch:
            return self.sketch.size
        return self.layout.row_size + sum(entry.size for entry in self.buffers)

    @property
    def row_bytes(self) -> int:
        """The bytes of a stored row."""
        return self.row_size * self.row_dtype.itemsize


def exists(directory: Path) -> bool:
    """Whether a run was begun here: a copy of its header is there, or both are to come.

    Raises:
        StoreError: the system does not tell, as of a name that is too long.
    """
    with wrap_os_errors(f"read {directory}"):
        return any((directory / name).exists() for name in (META, META_COPY, MIGRATED))


def write_header(directory: Path, header: Header) -> None:
    """Writes both copies of a header of the second format."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        # What an older version does not read, it refuses by the dtype.
        "dtype": _LINKED if header.is_linked else header.dtype,
        **({"numbers": header.dtype} if header.is_linked else {}),
        "every": header.every,
        "layout": header.layout.to_json(),
        "metadata": header.metadata,
        **({"prefix": header.prefix} if header.prefix else {}),
        **({"schedule": header.schedule} if header.schedule else {}),
        **({"sketch": header.sketch.to_json()} if header.sketch else {}),
    }
    for name in (META, META_COPY):
        write_document(directory / name, content)


def copy_header(directory: Path, target: Path) -> None:
    """Writes a run's header as both copies, byte for byte, with keys that are not known here.

    Args:
        directory: the run; one of its copies is right.
        target: where to write them; may be the same, and a copy that is right there stays.
    """
    wrong = damaged_copies(directory)
    good = next(name for name in (META, META_COPY) if name not in wrong)
    with wrap_os_errors(f"read {directory / good}"):
        raw = (directory / good).read_bytes()
    for name in (META, META_COPY):
        if target != directory or name in wrong:
            write_atomically(target / name, lambda file: file.write(raw))


def read_header(directory: Path) -> Header:
    """Reads the header of a run of either format, from whichever copy is right.

    Raises:
        StoreError: there is no run, or it is of another format or version.
        DamagedError: neither copy is what was written.
    """
    if not exists(directory):
        why = "" if directory.is_dir() else ": there is no such directory"
        if directory.is_file():
            why = ": it is a file, and a run is a directory"
        elif exists(directory.parent):
            why += f"; {directory.parent} is a run"
        raise StoreError(f"{directory} holds no recorded trajectory{why}")
    errors = [
        StoreError(
            f"{directory} was being brought over to format {VERSION} when that was stopped; "
            f"`losspath migrate {directory}` goes on with it"
        )
    ]
    found: list[Header] = []
    for name in (META, META_COPY):
        if (directory / name).exists():
            try:
                found.append(header_in(directory / name))
            except StoreError as error:
                errors.append(error)
    if not found:
        raise errors[min(1, len(errors) - 1)]
    if found[0].version != 1 and found[0].contradicts(found[-1]):
        raise DamagedError(
            f"{directory} is damaged: {META} and {META_COPY} lay rows out differently, as where "
            f"one was copied from another run; `losspath repair {directory}` finds out which"
        )
    return found[0]


def header_in(path: Path) -> Header:
    """The header in a file.

    Raises:
        StoreError: it is missing, or of another format or version.
        DamagedError: it is not what was written.
    """
    return _header(path, read_document(path))


def damaged_copies(directory: Path) -> list[str]:
    """Names of copies of a second format's header that are missing or not what was written."""
    found = []
    for name in (META, META_COPY):
        try:
            read_document(directory / name)
        except StoreError:
            found.append(name)
    return found


def _header(path: Path, content: dict[str, Any]) -> Header:
    if content.get("format") != FORMAT:
        raise StoreError(f"{path} is not a {FORMAT}")
    version = content.get("version")
    if version not in (1, VERSION):
        raise StoreError(
            f"{path.parent} is in version {version} of the trajectory format; this version of "
            f"losspath reads 1 and {VERSION}"
        )
    try:
        is_linked = content["dtype"] == _LINKED
        entries, prefix = Layout.from_json(content["layout"]).entries, content.get("prefix", "")
        if version == 1:
            entries, prefix = _canonical(entries)
        header = Header(
            layout=Layout(tuple(entry for entry in entries if entry.kind == "parameter")),
            dtype=str(content["numbers" if is_linked else "dtype"]),
            every=int(content["every"]),
            metadata=dict(content["metadata"]),
            version=int(version),
            buffers=tuple(entry for entry in entries if entry.kind == "buffer"),
            prefix=str(prefix),
            schedule=content.get("schedule"),
            sketch=Sketch(**content["sketch"]) if content["dtype"] == "sketch" else None,
            is_linked=is_linked,
        )
        if header.dtype not in _STORED:
            raise StoreError(
                f"{path} has rows of {header.dtype}, which this version of losspath does not read; "
                "use the version that wrote it"
            )
    except (KeyError, TypeError, ValueError, ArgumentError) as cause:
        raise DamagedError(f"{path} lacks what a header has: {cause}") from cause
    return header


def _canonical(entries: tuple[Entry, ...]) -> tuple[tuple[Entry, ...], str]:
    """The first format's entries without what wrappers added, and with what of it all began."""
    names, prefix = without_wrappers(entry.name for entry in entries)
    named = zip(entries, names, strict=True)
    return tuple(replace(entry, name=name) for entry, name in named), prefix


def _renamed(entries: tuple[Entry, ...], prefix: str) -> tuple[Entry, ...]:
    return tuple(replace(entry, name=prefix + entry.name) for entry in entries)
