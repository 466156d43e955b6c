"""Several runs of one network as one path."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.arguments import described
from losspath.errors import PathError
from losspath.files import digest_of
from losspath.parameters import Layout
from losspath.recording.paths import (
    ArrayPath,
    States,
    StateSequence,
    check_range,
    columns,
    state_index,
)
from losspath.recording.sketch import Sketch, sketch_of

Runs = Mapping[str, "StateSequence | npt.ArrayLike"] | Sequence["StateSequence | npt.ArrayLike"]


class JointPath:
    """Several runs of one network as one path: the states of the first, then those of the second.

    Seeds, optimisers or branches then share one plane and one surface. Each state counts equally:
    in means and principal axes a run of 10,000 states outweighs one of 100, so thin it out by
    ``run.window(stride=100)`` where runs are to count equally. Nothing goes from the last state of
    a run to the first of the next: no step, no length of path, no line in a figure. States have the
    buffers of their own run. The loss is one objective's for all of them, whatever data each run
    was trained on.

    Args:
        runs: at least one: recorded runs, windows of them, or arrays (T, P). By name, or in a list:
            what was recorded is then named by its directory, and what was not by its number.

    Attributes:
        runs: by name.
        starts: by name, the place of the run's first state among all states.

    Raises:
        ModelError: the runs are of different networks.
        PathError: no run, states of different lengths, or some runs with buffers and some without.

    Example:
        >>> joint = JointPath({"one": [[0.0, 1.0], [1.0, 1.0]], "other": [[2.0, 0.0]]})
        >>> joint
        JointPath: 2 runs (one, other), 3 × 2
        >>> joint.starts
        {'one': 0, 'other': 2}
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = _flat(runs)
        lengths = np.cumsum([0, *map(len, self.runs.values())])[:-1]
        self.starts: dict[str, int] = dict(zip(self.runs, lengths.tolist(), strict=True))
        self._layout = _common_layout(self.runs)
        known = [hasattr(run, "side_key") for run in self.runs.values()]
        self.records_sides = all(known)
        if any(known) and not all(known):
            _check_no_sides(self.runs)

    def __len__(self) -> int:
        return sum(map(len, self.runs.values()))

    def __repr__(self) -> str:
        names = ", ".join(self.runs)
        size = f"{len(self):,} × {self.parameter_count:,}"
        return f"JointPath: {len(self.runs)} runs ({names}), {size}"

    def __reduce__(self) -> tuple[type[JointPath], tuple[dict[str, StateSequence]]]:
        # Other processes take the digest of what they open themselves.
        return type(self), (self.runs,)

    @property
    def layout(self) -> Layout | None:
        """Names, shapes and places of the parameters in a state; None of arrays."""
        return None if self._layout is None else self._layout.layout

    def layout_in(self, names: Container[str]) -> Layout | None:
        """The layout with a network's own names: see `Trajectory.layout_in`."""
        in_names = getattr(self._layout, "layout_in", None)
        found: Layout | None = in_names(names) if in_names else self.layout
        return found

    @property
    def sketch(self) -> Sketch | None:
        """What the states of all runs were projected by: see `Trajectory.sketch`."""
        return sketch_of(next(iter(self.runs.values())))

    @property
    def parameter_count(self) -> int:
        """P."""
        return next(iter(self.runs.values())).parameter_count

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the states; where runs differ, the widest."""
        return np.result_type(*(run.dtype for run in self.runs.values()))

    @cached_property
    def digest(self) -> str:
        """Identifies the content: that of each run, in their order."""
        return digest_of("joint path", [run.digest for run in self.runs.values()])

    @property
    def notes(self) -> list[str]:
        """What must be known of each run, with its name: see `Trajectory.notes`."""
        return [
            f"{name}: {note}"
            for name, run in self.runs.items()
            for note in getattr(run, "notes", [])
        ]

    def place_of(self, index: int) -> tuple[str, int]:
        """The run that a state is of, by name, and its place there."""
        index = state_index(index, len(self))
        starts = list(self.starts.values())
        number = bisect_right(starts, index) - 1
        return list(self.runs)[number], index - starts[number]

    def read_columns(self, start: int, stop: int, states: Sequence[int]) -> States:
        """(n, stop−start): the numbers start … stop−1 of some states of all runs."""
        found = np.empty((len(states), stop - start), self.dtype)
        chosen = np.asarray(states, np.intp)
        for name, run in self.runs.items():
            first = self.starts[name]
            own = np.flatnonzero((chosen >= first) & (chosen < first + len(run)))
            if len(own):
                found[own] = columns(run, start, stop, (chosen[own] - first).tolist())
        return found

    def read(self, start: int, stop: int, out: States | None = None) -> States:
        """A copy of the states start … stop−1: see `Trajectory.read`."""
        start, stop, out = check_range(self, start, stop, out)
        if out is None:
            out = np.empty((stop - start, self.parameter_count), self.dtype)
        for name, run in self.runs.items():
            first = self.starts[name]
            begin, end = max(start, first), min(stop, first + len(run))
            if begin >= end:
                continue
            part = out[begin - start : end - start]
            if run.dtype == out.dtype:
                run.read(begin - first, end - first, part)
            else:
                part[:] = run.read(begin - first, end - first)
        return out

    @property
    def side_kinds(self) -> dict[str, str]:
        """The kind of every side tensor that a run had: see `Trajectory.side_kinds`."""
        kinds: dict[str, str] = {}
        for run in self.runs.values():
            kinds |= getattr(run, "side_kinds", {})
        return kinds

    def sides(self, index: int) -> dict[str, torch.Tensor]:
        """The side tensors of a state, as its run has them: see `Trajectory.sides`."""
        name, place = self.place_of(index)
        run: Any = self.runs[name]
        found: dict[str, torch.Tensor] = run.sides(place) if self.records_sides else {}
        return found

    def side_key(self, index: int) -> str:
        """Equal for states of the same side tensors: see `Trajectory.side_key`."""
        name, place = self.place_of(index)
        run: Any = self.runs[name]
        return str(run.side_key(place)) if self.records_sides else ""


def as_path(path: StateSequence | npt.ArrayLike | Runs) -> StateSequence:
    """A path as given; an array (T, P), a tensor, or a list of states; or several runs as one.

    Several are a list of paths or of arrays (T, P), or a mapping to them: see `JointPath`.

    Raises:
        PathError: an array of another shape, or something else.
        ModelError: runs of different networks.
    """
    if isinstance(path, type):
        raise PathError(
            "expected a path as a Trajectory, or an array (T, P) of states, got the class "
            f"{path.__name__}; open a run by Trajectory(…)"
        )
    if isinstance(path, StateSequence):
        return path
    if isinstance(path, Mapping) or _is_several(path):
        return JointPath(path)  # type: ignore[arg-type]
    return ArrayPath(path)  # type: ignore[arg-type]


def as_run(path: StateSequence | npt.ArrayLike | Runs) -> StateSequence:
    """A path of a single run, for what goes along a run in its order.

    Raises:
        PathError: several runs.
    """
    found = as_path(path)
    if not isinstance(found, JointPath):
        return found
    if len(found.runs) > 1:
        raise PathError(
            f"expected one run, as this goes from step to step, got {len(found.runs)} "
            f"({', '.join(found.runs)}); call it for each of them"
        )
    return next(iter(found.runs.values()))


def names_of(runs: Sequence[Any]) -> list[str]:
    """Names for runs in a list.

    Of what was recorded the end of its directory's path that tells it from the others; of what was
    not its number, from 1.
    """
    places = [getattr(run, "directory", None) for run in runs]
    parts = [place.parts[1:] if place else (str(n + 1),) for n, place in enumerate(places)]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    names = []
    for number, part in enumerate(parts):
        names.append(part[-1] if part[-1] not in names else f"{part[-1]} ({number + 1})")
    return names


def _is_several(path: object) -> bool:
    """Whether a list is one of runs, and not of states."""
    if not isinstance(path, (list, tuple)) or not path:
        return False
    if any(isinstance(run, StateSequence) for run in path):
        return True
    return all(getattr(run, "ndim", 0) == 2 for run in path)


def _flat(runs: Runs) -> dict[str, StateSequence]:
    """Runs by name, those of joint paths among them."""
    if isinstance(runs, Mapping):
        named = {str(name): run for name, run in runs.items()}
    elif isinstance(runs, (list, tuple)):
        named = dict(zip(names_of(runs), runs, strict=True))
    else:
        raise PathError(
            f"expected runs in a list, or in a dict by names, got {described(runs)}; give "
            "[run, run] with run = losspath.Trajectory(directory)"
        )
    if not named:
        raise PathError("expected at least one run, got none")
    flat: dict[str, StateSequence] = {}
    for name, run in named.items():
        path = as_path(run)
        parts = path.runs if isinstance(path, JointPath) else {"": path}
        for part, found in parts.items():
            whole = f"{name}/{part}" if part else name
            if whole in flat:
                raise PathError(f"expected runs of different names, got two called {whole!r}")
            flat[whole] = found
    return flat


def _common_layout(runs: Mapping[str, StateSequence]) -> Any:
    """The first run that names its parameters, where all are of one network."""
    (first, path), *others = runs.items()
    known: Any = None
    known_name = ""
    for name, run in runs.items():
        layout: Layout | None = getattr(run, "layout", None)
        if layout is None:
            continue
        if known is None:
            known, known_name = run, name
        else:
            known.layout.check_same(layout, f"run {known_name!r}", f"run {name!r}")
    for name, run in others:
        if run.parameter_count != path.parameter_count:
            raise PathError(
                f"expected runs of one network, got states of {path.parameter_count:,} numbers in "
                f"run {first!r} and of {run.parameter_count:,} in run {name!r}"
            )
        if sketch_of(run) != sketch_of(path):
            raise PathError(
                f"expected whole states or sketches of one size and seed in all runs, got "
                f"{sketch_of(path) or 'whole states'} in run {first!r} and "
                f"{sketch_of(run) or 'whole states'} in run {name!r}"
            )
    return known


def _check_no_sides(runs: Mapping[str, StateSequence]) -> None:
    """Raises `PathError` where states of some runs have side tensors, and of others cannot."""
    (without, *_) = [name for name, run in runs.items() if not hasattr(run, "side_key")]
    for name, run in runs.items():
        if hasattr(run, "side_key") and getattr(run, "side_kinds", None) != {}:
            raise PathError(
                f"run {name!r} was recorded with buffers or frozen parameters, and run {without!r} "
                "is an array that has none; give recorded runs alone, or arrays alone (run[:])"
            )
