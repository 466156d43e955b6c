"""How uncertain the heights of a surface or a line are: by samples, by the network, off the plane.

"samples" says how far heights are from those over all data that the samples were drawn from;
"dropout", "swag" and "laplace" what the loss is of networks that are as probable; "off-plane" what
it is of vectors of training at the same place of the plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

import losspath
from losspath.analysis.interpolation import default_alphas
from losspath.analysis.measured import Asked, Measurement, measure
from losspath.analysis.places import OnLine, OnPlane, Places
from losspath.arguments import (
    GRID,
    OBJECTIVE,
    PLANE,
    RESOLUTION,
    WHOLE,
    as_floats,
    checked,
    count,
    described,
    file,
    floats,
    function,
    number,
    one_of,
    optional,
    range_of,
)
from losspath.errors import ArgumentError
from losspath.evaluation.execution.journal import Progress
from losspath.evaluation.objective import Objective
from losspath.files import digest_of, load_archive, save_archive
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane
from losspath.methods import DEFAULT, Method
from losspath.recording.joint import Runs
from losspath.recording.trajectory import StateSequence, as_path
from losspath.surface import Landscape

Floats = npt.NDArray[np.float64]
Source = Literal["samples", "off-plane", "dropout", "swag", "laplace"]
SOURCES: tuple[str, ...] = get_args(Source)

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Uncertainty:
    """Losses of a surface or a line, each with an interval.

    Attributes:
        x: (n,) coordinates of a grid's columns; of a line, its positions α.
        y: (m,) coordinates of the rows; none of a line.
        loss: (m, n) or (n,) the losses.
        lower: the same shape, the lower ends of the intervals; NaN where nothing is known.
        upper: the upper ends.
        deviation: standard deviations: of the loss by its samples, or of the losses of draws or of
            vectors; in the loss's unit.
        source: "samples", "off-plane", "dropout", "swag" or "laplace".
        level: the share of intervals that hold what they are for.
        path: (T, 2) the states' coordinates in the plane; (0, 2) of a line.
        provenance: where the numbers come from, as JSON values.
    """

    archive: ClassVar[tuple[str, int]] = ("uncertainty", FORMAT_VERSION)
    x: Floats = field(repr=False)
    y: Floats = field(repr=False)
    loss: Floats = field(repr=False)
    lower: Floats = field(repr=False)
    upper: Floats = field(repr=False)
    deviation: Floats = field(repr=False)
    source: str
    level: float
    path: Floats = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        shape = (len(self.y), len(self.x)) if len(self.y) else (len(self.x),)
        for name in ("loss", "lower", "upper", "deviation"):
            if as_floats(name, f"numbers {shape}", getattr(self, name)).shape != shape:
                raise ArgumentError(
                    f"expected {name} of shape {shape}, as there are {len(self.x)} coordinates x "
                    f"and {len(self.y)} y, got {described(getattr(self, name))}"
                )

    def __repr__(self) -> str:
        kind = "line" if self.is_line else "surface"
        told = "factor" if self.is_relative else "half width"
        return f"Uncertainty of a {kind} by {self.source}: {told} {range_of(self.widths)}"

    @property
    def is_line(self) -> bool:
        """Whether it is of a line."""
        return len(self.y) == 0

    @property
    def is_relative(self) -> bool:
        """Whether intervals are factors: where no loss and no end of an interval is below zero."""
        ends = np.concatenate([self.lower.ravel(), self.loss.ravel()])
        known = ends[np.isfinite(ends)]
        return bool(len(known)) and bool((known >= 0).all())

    @property
    def offset(self) -> float:
        """How far the intervals' middles are from the losses, as the median: a factor, or a loss.

        Draws of a network are not spread about its own loss: around a minimum all are above it.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.is_relative:
                offsets = np.sqrt(self.upper * self.lower) / self.loss
            else:
                offsets = (self.upper + self.lower) / 2 - self.loss
        known = offsets[np.isfinite(offsets)]
        return float(np.median(known)) if len(known) else float("nan")

    @property
    def widths(self) -> Floats:
        """Half of each interval: √(upper/lower) where `is_relative`, else (upper − lower)/2."""
        if not self.is_relative:
            return (self.upper - self.lower) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            factors: Floats = np.sqrt(self.upper / self.lower)
        return np.where(self.upper == self.lower, 1.0, factors)

    def to_json(self) -> dict[str, Any]:
        """The middle and the largest width and what they are of, as JSON values."""
        known = self.widths[np.isfinite(self.widths)]
        return {
            "source": self.source,
            "level": self.level,
            "points": int(self.loss.size),
            "known": len(known),
            "unit": "factor" if self.is_relative else "loss",
            "median_width": float(np.median(known)) if len(known) else None,
            "largest_width": float(known.max()) if len(known) else None,
            "offset": self.offset if len(known) else None,
            **{k: self.provenance[k] for k in _TOLD if k in self.provenance},
        }

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves it as ``.npz``."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        told = {"source": self.source, "level": self.level}
        save_archive(Path(path), *self.archive, arrays, {**self.provenance, "of": told})

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> Uncertainty:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), *cls.archive)
        told: dict[str, Any] = {**arrays, **provenance.pop("of"), "provenance": provenance}
        return cls(**told)


_ARRAYS = ("x", "y", "loss", "lower", "upper", "deviation", "path")
_TOLD = ("parts", "draws", "held_out", "widening")


def _level(name: str, value: Any) -> float:
    level = number(above=0)(name, value)
    if not level < 1:
        raise ArgumentError(f"expected {name} as a number between 0 and 1, got {value!r}")
    return float(level)


_CHECKED = checked(
    objective=OBJECTIVE,
    resolution=RESOLUTION,
    plane=optional(PLANE),
    grid=optional(GRID),
    start=WHOLE,
    end=WHOLE,
    alphas=optional(floats("(A,)", ndim=1)),
    source=one_of(SOURCES),
    level=_level,
    draws=count(1, 100_000),
    seed=count(),
    checkpoint=optional(file),
    progress=optional(function),
)


@_CHECKED
def surface_uncertainty(
    path: StateSequence | npt.ArrayLike | Runs,
    objective: Objective,
    method: str | Method = DEFAULT,
    resolution: int = 19,
    *,
    plane: Plane | None = None,
    grid: Grid | None = None,
    source: str = "samples",
    level: float = 0.9,
    draws: int = 20,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Uncertainty:
    """How uncertain the heights of a surface are.

    Args:
        path: the recorded path, or an array (T, P) of states, or several runs.
        objective: the loss.
        method: the rule, as of `compute_surface`.
        resolution: grid lines an axis.
        plane: any plane; by default the path's principal one.
        grid: where to evaluate, instead of `resolution`.
        source: where uncertainty comes from.

            - "samples": intervals for the loss over all data that the objective's samples were
              drawn from, by the losses of single samples, or of batches where the loss has no
              others: one evaluation of each of a point's vectors by the plain loop. Another draw
              of as many samples is off by √2 of that.
            - "off-plane": of a method that averages losses of several vectors at a point, such as
              "local-planes": intervals for the loss of a vector of training at that place, by how
              much these differ. They are widened so that they hold states of stretches of the path
              that were held out.
            - "dropout": of networks with dropout: intervals of losses with it, by draws of masks.
            - "swag": intervals of losses around each point, by draws of the path's last states.
            - "laplace": the same by draws of Laplace's approximation at the path's last state.
        level: the share of intervals that hold what they are for.
        draws: of masks or of parameters, the same at all points; each costs a surface. Of no
            meaning for "samples" and "off-plane".
        seed: of draws, and of what is held out.
        checkpoint: a file that keeps every point as it is done, so that a stopped call goes on.
        progress: called with (points done, points in all).

    Returns:
        The intervals.

    Raises:
        PathError: the path has no plane, or is too short for the source.
        ModelError: the path is of another network than the objective's model.
        ObjectiveError: the objective tells nothing of the source: too few batches whose samples
            have no losses of their own, no dropout, no gradients.
        ArgumentError: a method of one vector a point for "off-plane", too few draws for the level.
        StoreError: the checkpoint belongs to another computation or cannot be written.
    """
    landscape = Landscape(path, objective, method, plane=plane)
    grid = grid or Grid.around(landscape.projection.coordinates, resolution)
    places = OnPlane(landscape, grid.points)
    key = uncertainty_key(landscape.key(grid), source, level, draws, seed)
    found = measure(source, Asked(places, level, draws, seed, key, checkpoint, progress))
    provenance = {
        "axes": list(landscape.plane.labels),
        "starts": list(landscape.projection.starts),
        "description": landscape.method.describe(),
        "path_digest": landscape.projection.path_digest,
        "explained_variance_ratio": landscape.projection.explained_variance_ratio.tolist(),
        **landscape.plane.notes_on(landscape.path.digest),
    }
    coordinates = landscape.projection.coordinates
    return _made(places, found, source, level, key, grid.x, grid.y, coordinates, provenance)


@_CHECKED
def line_uncertainty(
    path: StateSequence | npt.ArrayLike,
    objective: Objective,
    start: int = 0,
    end: int = -1,
    *,
    alphas: Sequence[float] | Floats | None = None,
    source: str = "samples",
    level: float = 0.9,
    draws: int = 20,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Uncertainty:
    """How uncertain the losses on the straight line between two states are.

    Args:
        path: the recorded path, or an array (T, P) of states.
        objective: the loss.
        start: index of the first state; negative counts from the end.
        end: index of the second state.
        alphas: positions along the line, as of `interpolate`.
        source: any of `surface_uncertainty`'s but "off-plane", and others as there.
        level: the share of intervals that hold what they are for.
        draws: of masks or of parameters.
        seed: of draws.
        checkpoint: a file that keeps every point as it is done.
        progress: called with (points done, points in all).

    Returns:
        The intervals, for the whole model.

    Raises:
        ArgumentError: no such state, twice the same, or a source that a line has not.
        And as `surface_uncertainty`.
    """
    recorded = as_path(path)
    positions = default_alphas() if alphas is None else np.asarray(alphas, np.float64)
    places = OnLine(recorded, objective, start, end, positions)
    key = uncertainty_key(places.key, source, level, draws, seed)
    found = measure(source, Asked(places, level, draws, seed, key, checkpoint, progress))
    provenance = {"from": places.ends[0], "to": places.ends[1], "path_digest": recorded.digest}
    return _made(
        places, found, source, level, key, positions, np.zeros(0), np.zeros((0, 2)), provenance
    )


def uncertainty_key(key: str, source: str, level: float, draws: int, seed: int) -> str:
    """A digest of everything that intervals depend on.

    Args:
        key: of the surface, `Landscape.key`, or of the line, `interpolation_key`.
        source: where uncertainty comes from, and others as of `surface_uncertainty`.
        level: the share of intervals.
        draws: how many, where there are any.
        seed: of all that is drawn.
    """
    drawn = draws if source in ("dropout", "swag", "laplace") else 0
    return digest_of("uncertainty", FORMAT_VERSION, key, source, level, drawn, seed)


def _made(
    places: Places,
    found: Measurement,
    source: str,
    level: float,
    key: str,
    x: Floats,
    y: Floats,
    path: Floats,
    provenance: dict[str, Any],
) -> Uncertainty:
    shape = (len(y), len(x)) if len(y) else (len(x),)
    return Uncertainty(
        x=x,
        y=y,
        loss=found.loss.reshape(shape),
        lower=found.lower.reshape(shape),
        upper=found.upper.reshape(shape),
        deviation=found.deviation.reshape(shape),
        source=source,
        level=level,
        path=path,
        provenance={
            "losspath": losspath.__version__,
            "key": key,
            **provenance,
            **places.bound.objective.provenance,
            **found.notes,
        },
    )
