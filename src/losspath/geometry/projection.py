"""A path as a plane shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from losspath.arguments import as_floats, described, range_of
from losspath.errors import ArgumentError
from losspath.geometry import pca
from losspath.recording.trajectory import StateSequence, starts_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Projection:
    """A path projected onto a plane: where its states are in it, and how far off it.

    State i is θ_i = o + U p_i + r_i, with the plane's origin o and basis U, its coordinates p_i,
    and a residual r_i that is orthogonal to the plane.

    Attributes:
        coordinates: (T, k) the p_i, in the unit of the parameters.
        residual_norms: (T,) ‖r_i‖, computed in float64 and never below zero.
        total_variance: the path's variance over all of parameter space, divided by T−1.
        path_digest: identifies the states.
        starts: the first state of each run that the path is of.
    """

    coordinates: Floats
    residual_norms: Floats = field(repr=False)
    total_variance: float
    path_digest: str = field(repr=False)
    starts: tuple[int, ...] = field(default=(0,), repr=False)

    def __post_init__(self) -> None:
        coordinates = as_floats("coordinates", "numbers (T, k)", self.coordinates)
        norms = as_floats("residual_norms", "numbers (T,)", self.residual_norms)
        if coordinates.ndim != 2 or norms.shape != coordinates.shape[:1] or not coordinates.size:
            raise ArgumentError(
                f"expected coordinates (T, k) and residual norms (T,), got "
                f"{described(coordinates)} and {described(norms)}; plane.projection(path) makes "
                "them"
            )

    def __repr__(self) -> str:
        share = float(np.sum(self.explained_variance_ratio))
        sides = ", ".join(range_of(column) for column in self.coordinates.T)
        return f"Projection: {len(self):,} states, {sides}, {share:.1%} of the variance"

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def explained_variance(self) -> Floats:
        """(k,) the path's variance along each axis, divided by T−1."""
        centred = self.coordinates - self.coordinates.mean(axis=0)
        variance: Floats = np.sum(centred**2, axis=0) / max(len(self) - 1, 1)
        return variance

    @property
    def explained_variance_ratio(self) -> Floats:
        """(k,) the share of the path's variance along each axis; NaN where it does not move."""
        if not self.total_variance:
            return np.full(self.coordinates.shape[1], np.nan)
        return np.minimum(self.explained_variance / self.total_variance, 1.0)

    @property
    def center(self) -> Floats:
        """(k,) the middle of the path's bounding box."""
        center: Floats = (self.coordinates.min(axis=0) + self.coordinates.max(axis=0)) / 2
        return center

    @property
    def step_lengths(self) -> Floats:
        """(T−1,): how far it is in the plane from each state to the next of its run; else 0."""
        return step_lengths(self.coordinates, self.starts)


def step_lengths(coordinates: Floats, starts: Sequence[int] = (0,)) -> Floats:
    """(T−1,): the distances from each state to the next, and 0 from one run to another.

    Args:
        coordinates: (T, k) of the states.
        starts: the first state of each run.
    """
    lengths: Floats = np.linalg.norm(np.diff(coordinates, axis=0), axis=1)
    lengths[[start - 1 for start in starts if start]] = 0.0
    return lengths


def project_path(path: StateSequence, origin: Floats, basis: Floats) -> Projection:
    """Projects every state, in one pass over the path and in float64.

    Args:
        path: T states of P numbers.
        origin: (P,) of the plane.
        basis: (P, k) orthonormal.
    """
    count = len(path)
    coordinates, squares = np.empty((count, basis.shape[1])), np.empty(count)
    directions, start = torch.from_numpy(basis), torch.from_numpy(origin)
    total = torch.zeros(path.parameter_count, dtype=torch.float64, device="cpu")
    for first, rows in pca.doubled(path):
        rows -= start
        stop = first + len(rows)
        coordinates[first:stop] = (rows @ directions).numpy()
        squares[first:stop] = torch.linalg.vector_norm(rows, dim=1).square().numpy()
        total += rows.sum(dim=0)
    about_mean = float(squares.sum() - total.square().sum() / count)
    return Projection(
        coordinates=coordinates,
        residual_norms=np.sqrt(np.maximum(squares - np.sum(coordinates**2, axis=1), 0.0)),
        total_variance=max(about_mean, 0.0) / max(count - 1, 1),
        path_digest=path.digest,
        starts=tuple(starts_of(path).values()),
    )
