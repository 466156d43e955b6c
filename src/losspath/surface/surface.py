"""What a loss surface is: one value with everything that a picture or a number needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.interpolate import LinearNDInterpolator, RegularGridInterpolator
from scipy.spatial import KDTree, QhullError

from losspath.arguments import (
    as_floats,
    checked,
    count,
    described,
    file,
    mapping,
    range_of,
    text,
)
from losspath.errors import ArgumentError
from losspath.evaluation.quantities import LOSS, SPREAD, named_values, value_named
from losspath.files import load_archive, save_archive
from losspath.geometry.spacing import extent_of
from losspath.geometry.walk import RandomWalk
from losspath.surface.fidelity import Fidelity

Floats = npt.NDArray[np.float64]

CLIP = 1.5
"""Losses count up to this multiple of the initial loss, as they are drawn (and in the thesis)."""

REACH, DISAGREEMENT = 1.0, 0.3
"""From where on a point is doubtful: see `Surface.doubt`."""

LOGARITHMIC = 12.0
"""Losses that span more than this factor are drawn on a logarithmic scale."""

FORMAT_VERSION = 1
STATES_VERSION = 1


@dataclass(frozen=True)
class StateLosses:
    """Losses of some states themselves, by the surface's own objective.

    Attributes:
        index: (k,) which states of the path.
        loss: (k,) their losses.
        accuracy: (k,), or None where it is not known.
        metrics: by name, (k,) each of the objective's other quantities.
        provenance: what they depend on, as JSON values, where they are kept by themselves.
    """

    archive: ClassVar[tuple[str, int]] = ("state losses", STATES_VERSION)
    index: npt.NDArray[np.int64]
    loss: Floats
    accuracy: Floats | None = None
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def values(self) -> dict[str, Floats]:
        """Everything that is known, by name: the loss, the accuracy, other quantities."""
        return named_values(self.loss, self.accuracy, self.metrics)

    def __repr__(self) -> str:
        return f"StateLosses: {len(self.index):,} states, loss {range_of(self.loss)}"

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves them as ``.npz``."""
        arrays = {"index": self.index, "loss": self.loss, **_packed(self, "")}
        save_archive(Path(path), *self.archive, arrays, self.provenance)

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> StateLosses:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), *cls.archive)
        return cls(arrays["index"], arrays["loss"], *_popped(arrays, ""), provenance)


@dataclass(frozen=True)
class Surface:
    """Losses on a grid in the plane of a path.

    Attributes:
        x: (n,) coordinates of the grid's columns, in the parameters' unit.
        y: (m,) coordinates of its rows.
        loss: (m, n) the loss at (x[j], y[i]) in ``loss[i, j]``; NaN where the loss is NaN or was
            not evaluated.
        accuracy: (m, n), or None where the objective has none.
        evaluated: (m, n) bool: which points were evaluated.
        path: (T, 2) the states' coordinates.
        explained_variance_ratio: (2,) the share of the path's variance along x and y.
        states: losses of some states of the path, the first and the last among them.
        provenance: what the surface was computed from and how, as JSON values.
        starts: by the name of each run that the path is of, its first state; ``{"": 0}`` of one.
        metrics: by name, (m, n) each of the objective's other quantities; "loss spread" of methods
            that give a point several vectors: the standard deviation of their losses.
        fidelity: how far the losses hold for vectors near the path; None where it is not known.
    """

    archive: ClassVar[tuple[str, int]] = ("surface", FORMAT_VERSION)
    x: Floats
    y: Floats
    loss: Floats
    accuracy: Floats | None
    evaluated: npt.NDArray[np.bool_]
    path: Floats
    explained_variance_ratio: Floats
    states: StateLosses
    provenance: dict[str, Any]
    starts: Mapping[str, int] = field(default_factory=lambda: {"": 0})
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    fidelity: Fidelity | None = None

    def __post_init__(self) -> None:
        form = (
            as_floats("y", "numbers (m,)", self.y).size,
            as_floats("x", "numbers (n,)", self.x).size,
        )
        mapping("metrics", self.metrics)
        for name, values in {"evaluated": self.evaluated, **self.values}.items():
            if as_floats(name, "numbers (m, n)", values).shape != form:
                raise ArgumentError(
                    f"expected {name} of shape {form}, as there are {form[1]} coordinates x and "
                    f"{form[0]} y, got {described(values)}"
                )
        path = as_floats("path", "coordinates (T, 2)", self.path)
        if path.ndim != 2 or path.shape[1] != 2:
            raise ArgumentError(f"expected path as coordinates (T, 2), got {described(self.path)}")
        if not isinstance(self.states, StateLosses):
            raise ArgumentError(f"expected states as StateLosses, got {described(self.states)}")
        starts = [
            count()(f"starts[{name!r}]", at) for name, at in mapping("starts", self.starts).items()
        ]
        if starts[:1] != [0] or np.any(np.diff([*starts, len(path)]) <= 0):
            raise ArgumentError(
                f"expected starts of runs that begin at 0 and increase up to {len(path)}, the "
                f"number of states, got {starts}"
            )

    def __repr__(self) -> str:
        done, total = int(np.sum(self.evaluated)), np.size(self.evaluated)
        points = f"{len(self.x)} × {len(self.y)} points"
        points += "" if done == total else f" ({done:,} evaluated)"
        return f"Surface({self.description!r}): {points}, loss {range_of(self.loss)}"

    @property
    def values(self) -> dict[str, Floats]:
        """By name, (m, n) everything that was measured: "loss", "accuracy" if known, metrics."""
        return named_values(self.loss, self.accuracy, self.metrics)

    @property
    def initial_loss(self) -> float:
        """The loss of the first state; of several runs, the largest of their first states'."""
        first = np.isin(self.states.index, list(self.starts.values()))
        losses = self.states.loss[first & np.isfinite(self.states.loss)]
        if len(self.starts) == 1 or not len(losses):
            return float(self.states.loss[0])
        return float(losses.max())

    @property
    def runs(self) -> dict[str, slice]:
        """By the name of each run, where its states are in `path`."""
        starts = list(self.starts.values())
        stops = [*starts[1:], len(self.path)]
        return {name: slice(*pair) for name, *pair in zip(self.starts, starts, stops, strict=True)}

    @property
    def labels(self) -> tuple[str, ...]:
        """What the axes are called."""
        return tuple(map(str, self.provenance.get("axes", ("PC 1", "PC 2"))))

    @property
    def is_filled(self) -> bool:
        """Whether points that were not evaluated are interpolated."""
        return bool(self.provenance.get("is_filled", False))

    @property
    def is_whole(self) -> bool:
        """Whether there is something at every point, evaluated or interpolated."""
        return self.is_filled or bool(self.evaluated.all())

    @property
    def description(self) -> str:
        """The method and its options, as figures name them."""
        return str(self.provenance.get("description", "surface"))

    @property
    def random_walk(self) -> RandomWalk | None:
        """What share of variance a random walk with the path's step lengths has in its plane.

        None where the plane is not the principal one of the path, and where it is not known.
        """
        told = self.provenance.get("random_walk")
        return None if told is None else RandomWalk.from_json(told)

    @checked(quantity=text)
    def at(self, points: npt.ArrayLike, quantity: str = LOSS) -> Floats:
        """Reads what was measured between the surface's points.

        Bilinearly in cells whose corners were all evaluated, or filled; elsewhere on triangles
        between the points there are (Delaunay).

        Args:
            points: (k, 2) coordinates in the plane.
            quantity: what to read, one of `values`.

        Returns:
            (k,) values; NaN outside the grid and beside a point that has no finite one.

        Raises:
            ArgumentError: points of another shape, no such quantity, or a grid of a single line.
        """
        heights = value_named(self.values, quantity)
        places = as_floats("points", "numbers (k, 2)", points)
        if places.ndim != 2 or places.shape[1] != 2:
            raise ArgumentError(
                f"expected points of shape (k, 2), got {places.shape}; coordinates in the plane "
                "are what Plane.project makes of states"
            )
        if min(self.loss.shape) < 2:
            raise ArgumentError(f"expected a grid of 2 × 2 points or more, got {self.loss.shape}")
        known = np.where(np.isfinite(heights), heights, np.nan)
        read = RegularGridInterpolator((self.y, self.x), known, bounds_error=False)
        losses: Floats = read(places[:, ::-1])
        if self.is_whole:
            return losses
        missing = np.where(self.evaluated, 0.0, np.nan)
        read = RegularGridInterpolator((self.y, self.x), missing, bounds_error=False)
        rest = np.isnan(read(places[:, ::-1]))
        losses[rest] = self._on_triangles(known, places[rest])
        return losses

    def _on_triangles(self, known: Floats, places: Floats) -> Floats:
        """(k,) what was measured, read between the points that were evaluated."""
        # In units of the grid's extent, so that triangles do not depend on the axes' scales.
        corner, extent = (
            np.array([self.x[0], self.y[0]]),
            np.array([np.ptp(self.x), np.ptp(self.y)]),
        )
        x, y = np.meshgrid(self.x, self.y)
        there = (np.stack([x, y], axis=-1)[self.evaluated] - corner) / extent
        if len(there) < 3 or np.linalg.matrix_rank(there - there[0]) < 2:
            return np.full(len(places), np.nan)
        try:
            read = LinearNDInterpolator(there, known[self.evaluated])
            losses: Floats = read((places - corner) / extent)
        except QhullError:  # on a line, but for rounding
            losses = np.full(len(places), np.nan)
        return losses

    @property
    def doubt(self) -> Floats:
        """(m, n): how doubtful each point is: 0 or more, and pictures fade what is above 1.

        It is the larger of two numbers:

        - the distance to the nearest state in the plane, over `REACH` = 1 extent of the path: the
          root-mean-square deviation of its places along an axis. Nearly all chords between states
          are nearer to one than that, so that hardly anything can be held against what is farther:
          it is not known to be wrong;
        - "loss spread" / loss over `DISAGREEMENT` = 0.3, of a method that gives a point several
          vectors: these disagree, and pictures are off by more there. Where losses are not all
          positive, the spread counts as a share of their range.

        Both are of ``benchmarks/results/support.txt``. A path without any extent says nothing of
        distances, and a method of one vector at a point nothing of spreads: then these do not
        count.
        """
        doubt = np.zeros(self.loss.shape)
        extent = extent_of(self.path, list(self.starts.values()))
        if extent > 0:
            x, y = np.meshgrid(self.x, self.y)
            distances, _ = KDTree(self.path).query(np.stack([x, y], axis=-1))
            doubt = distances / (REACH * extent)
        spread = self.metrics.get(SPREAD)
        known = self.loss[np.isfinite(self.loss)]
        if spread is None or not len(known):
            return doubt
        unit = self.loss if known.min() > 0 else np.full(self.loss.shape, np.ptp(known))
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.divide(spread, unit, out=np.zeros(unit.shape), where=spread > 0)
        # NaN, as of what was not evaluated, does not count.
        return np.fmax(doubt, relative / DISAGREEMENT)

    @property
    def state_errors(self) -> Floats:
        """(k,): |surface − own loss| / |own loss| at each of `states`; NaN where either is unknown.

        How far the picture can be trusted on the path: the surface is read bilinearly, so the
        spacing of the grid has its share in it.
        """
        smallest = np.finfo(float).tiny
        return self.state_differences(LOSS) / np.maximum(np.abs(self.states.loss), smallest)

    def state_differences(self, quantity: str) -> Floats:
        """(k,): |surface − own value| at each of `states`; NaN where either is unknown."""
        own = self.states.values.get(quantity, np.full(len(self.states.index), np.nan))
        drawn = self.at(self.path[self.states.index], quantity)
        differences: Floats = np.abs(drawn - np.where(np.isfinite(own), own, np.nan))
        return differences

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves the surface as ``.npz``, which ``numpy.load(path, allow_pickle=False)`` opens.

        Raises:
            StoreError: the file cannot be written.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "x": self.x,
            "y": self.y,
            "loss": self.loss,
            "evaluated": self.evaluated,
            "path": self.path,
            "explained_variance_ratio": self.explained_variance_ratio,
            "state_index": self.states.index,
            "state_loss": self.states.loss,
        }
        arrays |= _packed(self, "") | _packed(self.states, "state_")
        if len(self.starts) > 1:
            arrays["run_names"] = np.array(list(self.starts))
            arrays["run_starts"] = np.array(list(self.starts.values()))
        told = {} if self.fidelity is None else {"fidelity": self.fidelity.to_json()}
        save_archive(Path(path), *self.archive, arrays, self.provenance | told)

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> Surface:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, it is something else, or of another version.
            DamagedError: its bytes are not what was written.
        """
        arrays, provenance = load_archive(Path(path), *cls.archive)
        index, loss = arrays.pop("state_index"), arrays.pop("state_loss")
        accuracy, metrics = _popped(arrays, "")
        states = StateLosses(index, loss, *_popped(arrays, "state_"))
        names = arrays.pop("run_names", np.array([""]))
        first = arrays.pop("run_starts", np.zeros(1, np.int64))
        starts = dict(zip(map(str, names), first.tolist(), strict=True))
        told = provenance.pop("fidelity", None)
        return cls(
            **arrays,
            accuracy=accuracy,
            states=states,
            provenance=provenance,
            starts=starts,
            metrics=metrics,
            fidelity=None if told is None else Fidelity.from_json(told),
        )


def _packed(of: Surface | StateLosses, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Accuracy and metrics, as arrays of a file."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    if of.accuracy is not None:
        arrays[f"{prefix}accuracy"] = of.accuracy
    if of.metrics:  # under no names of their own, as these may be any text
        arrays[f"{prefix}metric_names"] = np.array(list(of.metrics))
        arrays[f"{prefix}metrics"] = np.stack(list(of.metrics.values()))
    return arrays


def _popped(arrays: dict[str, Any], prefix: str) -> tuple[Floats | None, dict[str, Floats]]:
    """Accuracy and metrics, as files have them; those of before have no metrics."""
    names = map(str, arrays.pop(f"{prefix}metric_names", ()))
    metrics = dict(zip(names, arrays.pop(f"{prefix}metrics", ()), strict=True))
    return arrays.pop(f"{prefix}accuracy", None), metrics
