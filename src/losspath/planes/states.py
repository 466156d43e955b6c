"""Planes through states, and through means of states."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from losspath.arguments import checked, count
from losspath.errors import ArgumentError, PathError
from losspath.evaluation.objective import Objective
from losspath.geometry.pca import doubled
from losspath.geometry.plane import Plane, fit_plane
from losspath.planes.named import named, whole_number
from losspath.recording.joint import Runs
from losspath.recording.paths import state_written
from losspath.recording.trajectory import StateSequence, Trajectory, as_path, starts_of

Floats = npt.NDArray[np.float64]

# Of three states that are nearer to a line than this, relative to their distances.
_LINE = 1e-6


def states_plane(
    states: StateSequence | npt.ArrayLike, labels: tuple[str, str] | None = None
) -> Plane:
    """The plane through three states, of one run or of several.

    The first is its origin, and the second lies on the first axis (as for three minima in Garipov
    et al. 2018).

    Args:
        states: (3, P): such as ``np.stack([run[0], run[-1], other[-1]])``.
        labels: what the axes are called.

    Raises:
        PathError: other than three states, or three on a line.

    References:
        T. Garipov, P. Izmailov, D. Podoprikhin, D. Vetrov and A. Wilson, "Loss surfaces, mode
        connectivity, and fast ensembling of DNNs", NeurIPS 2018.
    """
    given = as_path(states)
    if len(given) != 3:
        raise PathError(
            f"expected three states to put a plane through, got {len(given)}; give an array (3, P)"
        )
    first, second, third = given.read(0, 3).astype(np.float64)
    if not np.isfinite([first, second, third]).all():
        raise PathError("expected three states of finite numbers, got one that is not")
    along, other = second - first, third - first
    length = float(np.linalg.norm(along))
    axis = along / length if length else along
    for _ in range(2):
        other = other - axis * (axis @ other)
    height = float(np.linalg.norm(other))
    if not length or height <= _LINE * max(length, float(np.linalg.norm(third - first))):
        raise PathError("expected three states that are not on a line; take another third one")
    basis = np.stack([axis, other / height], axis=1)
    return Plane(first, basis, labels or ("to the second state", "to the third state"))


@checked(windows=count(3))
def windows_plane(path: StateSequence | npt.ArrayLike | Runs, windows: int = 10) -> Plane:
    """The principal plane of the means of a path's windows, which follow each other.

    Noise of single steps is averaged out of it, as by stochastic weight averaging.

    Args:
        path: T states.
        windows: into how many, of T / windows states each; of several runs, each into so many.

    Raises:
        PathError: fewer states than windows.
    """
    states = as_path(path)
    lengths = np.diff([*starts_of(states).values(), len(states)])
    if min(lengths) < windows:
        raise PathError(f"expected at least {windows} states, one a window, got {min(lengths)}")
    number = np.concatenate(
        [np.arange(length) * windows // length + windows * n for n, length in enumerate(lengths)]
    )
    sums = np.zeros((windows * len(lengths), states.parameter_count))
    for start, rows in doubled(states):
        for row, window in zip(rows.numpy(), number[start : start + len(rows)], strict=True):
            sums[window] += row
    fitted = fit_plane(sums / np.bincount(number)[:, None])
    labels = tuple(f"PC {axis + 1} of {windows} window means" for axis in range(2))
    return Plane(fitted.origin, fitted.basis, labels)


@named("states:A,B,C")
def _of_numbered_states(rest: str, path: StateSequence, objective: Objective) -> Plane:
    """A state is a number, "first" or "last"; after RUN@ of another run."""
    parts = rest.split(",")
    if len(parts) != 3:
        raise ArgumentError(
            f"expected three states, as in states:first,100,last or states:0,last,runs/other@last, "
            f"got states:{rest}"
        )
    states = [_state(part.strip(), path) for part in parts]
    if len({len(state) for state in states}) > 1:
        counts = ", ".join(f"{len(state):,}" for state in states)
        raise ArgumentError(f"expected states of one network, got {counts} parameters")
    labels = (f"from {parts[0]} to {parts[1]}", f"to {parts[2]}")
    return states_plane(np.stack(states), labels)


def _state(text: str, path: StateSequence) -> Floats:
    run, _, number = text.rpartition("@")
    source: StateSequence = Trajectory(run) if run else path
    index = state_written(number, len(source))
    state: Floats = source.read(index, index + 1)[0].astype(np.float64)
    return state


@named("windows[:COUNT]")
def _of_windows(rest: str, path: StateSequence, objective: Objective) -> Plane:
    return windows_plane(path, *([whole_number("a number of windows", rest)] if rest else []))
