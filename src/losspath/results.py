"""Results on disk, each under a key of everything that it depends on.

>>> import numpy as np, tempfile
>>> from losspath import StepSizes, step_sizes
>>> from losspath.results import ResultStore
>>> path = np.array([[0.0, 0.0], [3.0, 4.0]])
>>> store = ResultStore(tempfile.mkdtemp())
>>> key = step_sizes(path).provenance["path_digest"]
>>> store.get(StepSizes, key, lambda checkpoint: step_sizes(path)).sizes.tolist()
[5.0]
>>> store.find(StepSizes, key).sizes.tolist()  # and now it is there
[5.0]
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from losspath.arguments import checked, file, function, text
from losspath.errors import ArgumentError, DamagedError, StoreError
from losspath.evaluation.execution import journal
from losspath.files import load_archive

CHECKPOINT = ".points"


class Result(Protocol):
    """What can be kept: a value that says what it depends on, and saves and loads itself.

    A class that has an attribute ``archive``, the kind and version that `files.save_archive` was
    given, is checked by these without being made.
    """

    @property
    def provenance(self) -> dict[str, Any]:
        """JSON values; one of them is the key."""

    def save(self, path: str | PathLike[str], /) -> object:
        """Writes a file that is whole or absent, with a digest of its content."""

    @classmethod
    def load(cls, path: str | PathLike[str], /) -> Self:
        """Reads it, or raises `DamagedError`, or another `StoreError`."""


R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Kind:
    """A kind of results.

    Attributes:
        name: how the names of its files begin.
        type: the class, as "module:Class", imported when a file is read.
        key: the entry of its provenance that says what it depends on.
    """

    name: str
    type: str
    key: str = "key"

    def check(self, path: Path) -> None:
        """Raises a `StoreError` where a file is not what was saved, or of another version."""
        found: Any = pkgutil.resolve_name(self.type)
        archive = getattr(found, "archive", None)
        if archive is None:
            found.load(path)
        else:
            load_archive(path, *archive)


KINDS: dict[str, Kind] = {}


@checked(name=text, type=text, key=text)
def register(name: str, type: str, key: str = "key") -> None:
    """Makes a kind of results known to stores and to ``losspath repair``.

    Args:
        name: how the names of its files begin: letters, digits and underscores.
        type: the class, as "module:Class"; a `Result`.
        key: the entry of its provenance that says what it depends on.

    Raises:
        ArgumentError: a name that cannot begin a file's, or that another class has.
    """
    if not name.isidentifier():
        raise ArgumentError(f"expected a name of letters, digits and underscores, got {name!r}")
    if KINDS.get(name, kind := Kind(name, type, key)) != kind:
        raise ArgumentError(f"expected a name that is free, got {name!r}, of {KINDS[name].type}")
    KINDS[name] = kind


register("barriers", "losspath.analysis.barriers:Barriers")
register("dynamics", "losspath.analysis.dynamics:Dynamics")
register("fidelity", "losspath.surface.fidelity:Fidelity")
register("functions", "losspath.analysis.function_space:FunctionDistances")
register("interpolation", "losspath.analysis.interpolation:Interpolation")
register("named_plane", "losspath.planes.kept:KeptPlane")
register("plane", "losspath.geometry.plane:PrincipalPlane", "path_digest")
register("states", "losspath.surface.surface:StateLosses")
register("steps", "losspath.analysis.steps:StepSizes", "path_digest")
register("surface", "losspath.surface.surface:Surface")
register("uncertainty", "losspath.analysis.uncertainty:Uncertainty")


class ResultStore:
    """A directory of results.

    It is asked when a result is needed, and a file counts only if the whole key is the one that was
    asked for, so that a changed model, loss or data never meets an old result.

    Args:
        directory: made when something is saved.
    """

    @checked(directory=file)
    def __init__(self, directory: str | PathLike[str]) -> None:
        self.directory = Path(directory).absolute()

    def __repr__(self) -> str:
        return f"ResultStore({str(self.directory)!r})"

    def file(self, type: type[Result], key: str, label: str = "") -> Path:
        """Where a result goes.

        Args:
            type: its class, which is registered.
            key: what it depends on.
            label: a word for whoever looks through the directory, such as a method's name.
        """
        name = "-".join(part for part in (_kind_of(type).name, label, key[:12]) if part)
        return self.directory / f"{name}.npz"

    def find(self, type: type[R], key: str, label: str = "") -> R | None:
        """The result under a key; None where there is none.

        Raises:
            DamagedError: its file is not what was written.
            StoreError: it cannot be read now.
        """
        place = self.file(type, key, label)
        if not place.exists():
            return None
        found = type.load(place)
        return found if found.provenance.get(_kind_of(type).key) == key else None

    @checked(compute=function)
    def get(
        self,
        type: type[R],
        key: str,
        compute: Callable[[Path], R],
        label: str = "",
        where: str = "",
    ) -> R:
        """The result under a key, computed and saved if it is not there.

        Args:
            type: its class, which is registered.
            key: a digest of everything that it depends on.
            compute: called with a file that keeps what is done of it, so that a stopped computation
                goes on; such as ``lambda checkpoint: compute_surface(…, checkpoint=checkpoint)``.
            label: as of `file`.
            where: as of `checkpoint`.

        Raises:
            ArgumentError: what was computed has another key.
            StoreError: it cannot be read or saved.
        """
        checkpoint = self.checkpoint(type, key, label, where)
        found = self.find(type, key, label)
        if found is None:
            found = compute(checkpoint)
            self.save(found, key, label)
        journal.forget_checkpoint(checkpoint)
        return found

    def save(self, result: Result, key: str, label: str = "") -> Path:
        """Saves a result under its key.

        Returns:
            Its file.

        Raises:
            ArgumentError: it has another key.
            StoreError: it cannot be saved.
        """
        kind = _kind_of(type(result))
        if (own := result.provenance.get(kind.key)) != key:
            raise ArgumentError(
                f"expected a {kind.name} whose {kind.key} is {key!r}, got {own!r}; its key says "
                "what it was computed from"
            )
        place = self.file(type(result), key, label)
        result.save(place)
        return place

    def checkpoint(self, type: type[Result], key: str, label: str = "", where: str = "") -> Path:
        """Where a computation keeps what is done of a result.

        Args:
            type: its class.
            key: what it depends on.
            label: as of `file`.
            where: who computes it, if not this process, as others round otherwise.
        """
        suffix = f".{where}{CHECKPOINT}" if where else CHECKPOINT
        return self.file(type, key, label).with_suffix(suffix)


def _kind_of(type: type[Result]) -> Kind:
    for kind in KINDS.values():
        is_called_so = kind.type.rpartition(":")[2] == type.__qualname__
        if is_called_so and pkgutil.resolve_name(kind.type) is type:
            return kind
    raise ArgumentError(
        f"expected a class of results that is registered, got {type.__name__}; "
        "losspath.results.register makes it known"
    )


def damage_of(file: Path) -> StoreError | None:
    """What is wrong with a result or a checkpoint of one.

    Args:
        file: any file; one of no kind that is known here has nothing wrong.

    Returns:
        A `DamagedError` where bytes are surely not what was written; another `StoreError` where the
        file cannot be read now, or by this version; None where it is sound.
    """
    kind = KINDS.get(file.name.partition("-")[0])
    try:
        if file.suffix == CHECKPOINT and not journal.is_readable(file):
            return DamagedError(f"{file} is damaged")
        if file.suffix == ".npz" and kind is not None:
            kind.check(file)
    except StoreError as error:
        return error
    return None
