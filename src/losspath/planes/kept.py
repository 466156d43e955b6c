"""Planes that take long to make, as results that are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from losspath.arguments import checked, file
from losspath.evaluation.objective import Objective
from losspath.evaluation.recorded import along
from losspath.files import digest_of, load_archive, save_archive
from losspath.geometry.plane import Plane
from losspath.recording.trajectory import StateSequence


@dataclass(frozen=True)
class KeptPlane:
    """A plane, and what it was made from.

    Attributes:
        plane: the plane.
        provenance: JSON values: its key, and the name that it was made by.
    """

    archive: ClassVar[tuple[str, int]] = ("named plane", 1)
    plane: Plane
    provenance: dict[str, Any] = field(repr=False)

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves it as ``.npz``."""
        plane = self.plane
        arrays = {"origin": plane.origin, "basis": plane.basis, "labels": np.array(plane.labels)}
        save_archive(Path(path), *self.archive, arrays, self.provenance)

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> KeptPlane:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), *cls.archive)
        labels = tuple(map(str, arrays["labels"]))
        return cls(Plane(arrays["origin"], arrays["basis"], labels), provenance)


def plane_key(name: str, path: StateSequence, objective: Objective) -> str:
    """Identifies a plane of the loss around a path: a digest of all that it depends on.

    Args:
        name: as `plane_named` takes it.
        path: the path.
        objective: the loss; it is evaluated at the path's ends, to tell objectives apart.
    """
    bound, ends = along(objective, path), sorted({0, len(path) - 1})
    states = np.concatenate([path.read(index, index + 1) for index in ends])
    return digest_of("named plane", name, path.digest, bound.fingerprint(ends, states))
