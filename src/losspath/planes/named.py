"""Planes by their names, as the command line gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy.typing as npt

from losspath.arguments import OBJECTIVE, checked, text
from losspath.errors import ArgumentError
from losspath.evaluation.objective import Objective
from losspath.geometry.plane import Plane, fit_plane
from losspath.recording.trajectory import StateSequence, as_path

Make = Callable[[str, StateSequence, Objective], Plane]


@dataclass(frozen=True)
class NamedPlane:
    """A kind of plane that has a name.

    Attributes:
        form: how it is written, with what may follow its name, such as "random[:filter|layer]".
        make: called with what follows the colon (empty for nothing), the path and the objective.
        is_kept: whether the command line keeps it, as it takes long; it depends on nothing but the
            path and the objective.
    """

    form: str
    make: Make
    is_kept: bool = False


PLANES: dict[str, NamedPlane] = {}


def named(form: str, *, is_kept: bool = False) -> Callable[[Make], Make]:
    """Gives a function that makes a plane a name: that before the first colon or bracket.

    Args:
        form: how it is written on the command line.
        is_kept: as of `NamedPlane`.
    """

    def register(make: Make) -> Make:
        name = form.partition(":")[0].partition("[")[0]
        if name in PLANES:
            raise ArgumentError(f"expected a name of its own for a plane, got {name!r} once more")
        PLANES[name] = NamedPlane(form, make, is_kept)
        return make

    return register


@named("pca")
def _pca(rest: str, path: StateSequence, objective: Objective) -> Plane:
    refuse_rest("pca", rest)
    return fit_plane(path)


@checked(name=text, objective=OBJECTIVE)
def plane_named(name: str, path: StateSequence | npt.ArrayLike, objective: Objective) -> Plane:
    """Makes a plane by its name.

    Args:
        name: "pca", "random", "random:layer", "hessian", "states:0,100,last", "windows:10" and the
            like; `PLANES` has them all.
        path: the recorded path, or an array (T, P) of states.
        objective: the loss.

    Raises:
        ArgumentError: no plane has this name, or what follows it is wrong.
    """
    kind, _, rest = name.partition(":")
    if kind not in PLANES:
        forms = ", ".join(plane.form for plane in PLANES.values())
        raise ArgumentError(f"expected a plane as one of {forms}, got {name!r}")
    return PLANES[kind].make(rest, as_path(path), objective)


def refuse_rest(name: str, rest: str) -> None:
    """Raises `ArgumentError` where something follows a name that takes nothing."""
    if rest:
        raise ArgumentError(f"expected the plane {name!r} alone, got {name}:{rest}")


def whole_number(what: str, text: str) -> int:
    """A number that is written out.

    Raises:
        ArgumentError: it is no whole number.
    """
    try:
        return int(text)
    except ValueError:
        raise ArgumentError(f"expected {what} as a whole number, got {text!r}") from None
