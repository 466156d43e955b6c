"""The plane of a path: its mean and first principal components, streamed over the states."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.arguments import as_floats, checked, count, file, number
from losspath.errors import ArgumentError, LosspathWarning, PathError
from losspath.files import load_archive, save_archive
from losspath.geometry import pca
from losspath.recording.trajectory import StateSequence, as_path

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 1

# λ₂ and λ₃ closer than this (relative to λ₂): the second axis could be either.
_GAP = 0.02


@dataclass(frozen=True)
class Plane:
    """The plane through a path's mean along its principal components.

    Attributes:
        origin: (P,) the mean θ̄ of the states.
        basis: (P, k) orthonormal directions u_1 … u_k.
        path: (T, k) coordinates p_i = Uᵀ(θ_i − θ̄) of the states.
        residual_norms: (T,) ‖r_i‖ with r_i = θ_i − θ̄ − U p_i, in float64 and never below zero.
        explained_variance: (k,) variance of the path along each axis, divided by T−1.
        total_variance: variance of the path over all axes.
        residual: max_k ‖C u_k − λ_k u_k‖ / λ_1 with the covariance C: how far the axes are from
            being eigenvectors.
        gap: (λ_k − λ_{k+1}) / λ_k; near zero, the plane is not determined by the path.
        path_digest: identifies the states.
    """

    origin: Floats
    basis: Floats
    path: Floats
    residual_norms: Floats
    explained_variance: Floats
    total_variance: float
    residual: float
    gap: float
    path_digest: str

    def __repr__(self) -> str:
        size = f"{len(self.path):,} states of {len(self.origin):,} parameters"
        share = float(np.sum(self.explained_variance_ratio))
        return f"Plane: {size}, {self.basis.shape[1]} axes with {share:.1%} of the variance"

    @property
    def explained_variance_ratio(self) -> Floats:
        """(k,) the share of the path's variance along each axis."""
        return np.minimum(self.explained_variance / self.total_variance, 1.0)

    def project(self, states: npt.ArrayLike) -> Floats:
        """Coordinates (…, k) of states (…, P) in the plane."""
        given = as_floats("states", f"numbers (…, {len(self.origin)})", states)
        if given.shape[-1:] != self.origin.shape:
            raise ArgumentError(
                f"expected states of {len(self.origin)} numbers each, as those of the plane's "
                f"path, got shape {given.shape}"
            )
        projected: Floats = (given - self.origin) @ self.basis
        return projected

    @checked(path=file)
    def save(self, path: str | Path) -> None:
        """Saves the plane as ``.npz``."""
        arrays = {
            "origin": self.origin,
            "basis": self.basis,
            "path": self.path,
            "residual_norms": self.residual_norms,
            "explained_variance": self.explained_variance,
            "numbers": np.array([self.total_variance, self.residual, self.gap]),
        }
        save_archive(Path(path), "plane", FORMAT_VERSION, arrays, {"path": self.path_digest})

    @classmethod
    @checked(path=file)
    def load(cls, path: str | Path) -> Plane:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), "plane", FORMAT_VERSION)
        total, residual, gap = arrays.pop("numbers").tolist()
        return cls(
            **arrays,
            total_variance=total,
            residual=residual,
            gap=gap,
            path_digest=provenance["path"],
        )


@checked(components=count(1), tolerance=number(above=0), seed=count(0))
def fit_plane(
    path: StateSequence | npt.ArrayLike,
    components: int = 2,
    *,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> Plane:
    """Fits the principal plane of a path.

    Small paths are decomposed exactly. Others go through a block Krylov iteration over blocks of
    states [1], until every axis is an eigenvector of the path's covariance to `tolerance`
    relative to λ₁; the coordinates, the variances and the residual that is reported come from one
    last pass in float64. Nothing of the path's size is ever held in memory.

    Signs: the path starts on the negative side of every axis (where its start has no coordinate
    to speak of, the largest coordinate is negative), so that a figure never mirrors from one
    machine to another.

    A path on a line has no second component; the axis is then completed by the unit vector least
    along the first (the lowest index if several are), with a variance of exactly zero.

    Args:
        path: T states of P numbers; T ≥ 2, P ≥ components.
        components: k, the number of axes.
        tolerance: the `Plane.residual` to iterate to, 1e-6 by default: float32 arithmetic cannot
            be relied on for much less. What is reached is measured again in float64; more than
            ten times the tolerance is warned of.
        seed: seeds the random part of the iteration's first block.

    Returns:
        The plane, with coordinates and residual norms of every state.

    Raises:
        PathError: fewer than two states, states that are all the same, or states that are not
            finite.

    Warns:
        LosspathWarning: the plane is not determined (λ_k ≈ λ_{k+1}), or the iteration did not
            reach the tolerance.

    References:
        [1] C. Musco and C. Musco, "Randomized block Krylov methods for stronger and faster
        approximate singular value decomposition", NeurIPS 2015.
    """
    states = as_path(path)
    if states.parameter_count < components:
        raise PathError(
            f"expected at least {components} parameters, got {states.parameter_count}: a plane "
            "needs as many directions to lie in"
        )
    if len(states) < 2:
        raise PathError("a path of one state has no plane; record at least one step")
    moments = pca.first_pass(states, components, seed)
    axes = pca.principal_axes(states, moments, components, tolerance)
    if axes.determined == 0:
        raise PathError(
            "the states differ by less than rounding makes: nothing moved, so there is no plane to "
            "draw; check the learning rate"
        )
    final = pca.project_all(states, moments.mean, axes.basis)
    # Along an axis that was completed the path has no extent, whatever rounding says.
    coordinates = final.coordinates
    coordinates[:, axes.determined :] = 0.0
    basis, coordinates = _fix_signs(axes.basis, coordinates)
    variance = np.sum(coordinates**2, axis=0) / (len(states) - 1)
    gap = axes.gap
    residual = final.residual
    if gap < _GAP:
        warnings.warn(
            f"components {components} and {components + 1} explain nearly the same variance "
            f"(relative gap {gap:.1%}): the plane is not determined by the path",
            LosspathWarning,
            stacklevel=3,  # past the check of arguments
        )
    if residual > max(10 * tolerance, 1e-12):
        warnings.warn(
            f"the principal axes are only accurate to {residual:.1e} relative to the first "
            f"eigenvalue ({tolerance:.0e} was asked for)",
            LosspathWarning,
            stacklevel=3,  # past the check of arguments
        )
    return Plane(
        origin=moments.mean,
        basis=basis,
        path=coordinates,
        residual_norms=np.sqrt(np.maximum(final.squares - np.sum(coordinates**2, axis=1), 0.0)),
        explained_variance=variance,
        total_variance=float(final.squares.sum()) / (len(states) - 1),
        residual=residual,
        gap=gap,
        path_digest=states.digest,
    )


def _fix_signs(basis: Floats, coordinates: Floats) -> tuple[Floats, Floats]:
    largest = np.abs(coordinates).argmax(axis=0)
    extent: npt.NDArray[Any] = np.take_along_axis(coordinates, largest[None], axis=0)[0]
    start = coordinates[0]
    # The start decides unless its coordinate is too small for its sign to be reliable.
    deciding = np.where(np.abs(start) > 1e-3 * np.abs(extent), start, extent)
    signs = np.where(deciding > 0, -1.0, 1.0)
    return basis * signs, coordinates * signs
