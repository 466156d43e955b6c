"""The plane of a path: its mean and first principal components, streamed over the states."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from losspath.arguments import as_floats, checked, count, described, file, number, texts
from losspath.errors import ArgumentError, LosspathWarning, PathError
from losspath.files import load_archive, save_archive
from losspath.geometry import gram, pca
from losspath.geometry.projection import Projection, project_path
from losspath.geometry.walk import RandomWalk, walk_of
from losspath.parameters import Layout
from losspath.recording.joint import Runs
from losspath.recording.sketch import Sketch, sketch_of
from losspath.recording.trajectory import StateSequence, as_path, starts_of

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 2

# λ₂ and λ₃ closer than this (relative to λ₂): the second axis could be either.
_GAP = 0.02
# Products of directions may differ from those of orthonormal ones by rounding to single precision.
_ORTHONORMAL = 1e-6


@dataclass(frozen=True)
class Plane:
    """A plane in parameter space: the points o + U g.

    Attributes:
        origin: (P,) the point o at g = 0.
        basis: (P, k) orthonormal directions, the columns of U.
        labels: what the k axes are called in figures.
    """

    origin: Floats = field(repr=False)
    basis: Floats = field(repr=False)
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        origin = as_floats("origin", "numbers (P,)", self.origin)
        basis = as_floats("basis", "numbers (P, k)", self.basis)
        if origin.ndim != 1 or basis.ndim != 2 or len(basis) != len(origin) or not basis.size:
            raise ArgumentError(
                f"expected origin (P,) and basis (P, k), got {described(self.origin)} and "
                f"{described(self.basis)}; a column of the basis is a direction"
            )
        off = np.abs(basis.T @ basis - np.eye(basis.shape[1])).max()
        if not off < _ORTHONORMAL:
            raise ArgumentError(
                f"expected an orthonormal basis, got one whose products are off by {off:.1e}; use "
                "numpy.linalg.qr(directions)[0], which may turn directions around"
            )
        labels = texts("labels", self.labels)
        if len(labels) != basis.shape[1]:
            raise ArgumentError(
                f"expected a label for each of {basis.shape[1]} axes, got {len(labels)} labels"
            )
        for name, value in (("origin", origin), ("basis", basis), ("labels", tuple(labels))):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Plane: {' × '.join(self.labels)}, in {len(self.origin):,} parameters"

    def notes_on(self, path_digest: str) -> dict[str, Any]:
        """What is to be known of a path's picture in this plane, as JSON values."""
        return {}

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

    def projection(self, path: StateSequence | npt.ArrayLike | Runs) -> Projection:
        """A path as the plane shows it; one pass over its states.

        Args:
            path: states of P numbers; or sketches of such states, whose coordinates are then right
                to about the distance from the plane times 1/√k: see `losspath.Sketch`.

        Raises:
            ArgumentError: its states have another number of parameters.
        """
        states = as_path(path)
        if (sketch := sketch_of(states)) and sketch.size != len(self.origin):
            return self._projection_of_sketches(states, sketch)
        if states.parameter_count != len(self.origin):
            raise ArgumentError(
                f"expected a path of {len(self.origin):,} parameters, as the plane has, got one of "
                f"{states.parameter_count:,}; make the plane of this network's states"
            )
        return project_path(states, self.origin, self.basis)

    def _projection_of_sketches(self, path: StateSequence, sketch: Sketch) -> Projection:
        """Where the states are whose sketches a path has, by sketches of the plane itself."""
        layout: Layout = path.layout  # type: ignore[attr-defined]
        if layout.parameter_count != len(self.origin):
            raise ArgumentError(
                f"expected sketches of states of {len(self.origin):,} parameters, as the plane "
                f"has, got of {layout.parameter_count:,}; make the plane of this network's states"
            )
        directions = sketch.project(self.basis.T).T
        # The sketched directions are only nearly orthonormal: coordinates are by least squares.
        basis, turn = np.linalg.qr(directions)
        found = project_path(path, sketch.project(self.origin), basis)
        return replace(found, coordinates=np.linalg.solve(turn, found.coordinates.T).T)


@dataclass(frozen=True)
class PrincipalPlane(Plane):
    """The plane through a path's mean along its principal components.

    Attributes:
        path: the path that it was fitted to, as it shows it.
        residual: max_k ‖C u_k − λ_k u_k‖ / λ_1 with the covariance C: how far the axes are from
            being eigenvectors.
        gap: (λ_k − λ_{k+1}) / λ_k; near zero, the plane is not determined by the path.
        random_walk: the share of variance that a random walk with the path's step lengths has in
            its own principal plane; None where it is not known.
    """

    archive: ClassVar[tuple[str, int]] = ("plane", FORMAT_VERSION)
    path: Projection
    residual: float
    gap: float
    random_walk: RandomWalk | None = None

    def __repr__(self) -> str:
        share = float(np.sum(self.path.explained_variance_ratio))
        axes = f"{len(self.labels)} axes with {share:.1%} of the variance"
        if self.random_walk is not None:
            axes += f" (a random walk: {self.random_walk.shares.sum():.1%})"
        return f"PrincipalPlane: {len(self.path):,} states, {len(self.origin):,} parameters, {axes}"

    @property
    def provenance(self) -> dict[str, Any]:
        """What the plane was computed from, as JSON values."""
        return {"path_digest": self.path.path_digest}

    def notes_on(self, path_digest: str) -> dict[str, Any]:
        """How well the plane was fitted; of the path that it was fitted to, the random walk too."""
        notes: dict[str, Any] = {"plane_residual": self.residual, "plane_gap": self.gap}
        if path_digest == self.path.path_digest and self.random_walk is not None:
            notes["random_walk"] = self.random_walk.to_json()
        return notes

    def projection(self, path: StateSequence | npt.ArrayLike | Runs) -> Projection:
        """A path as the plane shows it; that which it was fitted to is known already."""
        states = as_path(path)
        return self.path if states.digest == self.path.path_digest else super().projection(states)

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves the plane as ``.npz``."""
        arrays = {
            "origin": self.origin,
            "basis": self.basis,
            "labels": np.array(self.labels),
            "coordinates": self.path.coordinates,
            "residual_norms": self.path.residual_norms,
            "numbers": np.array([self.path.total_variance, self.residual, self.gap]),
        }
        if len(self.path.starts) > 1:
            arrays["starts"] = np.array(self.path.starts)
        if (walk := self.random_walk) is not None:
            arrays["random_walk"] = np.array([*walk.shares, walk.deviation])
        save_archive(Path(path), *self.archive, arrays, {"path": self.path.path_digest})

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> PrincipalPlane:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), *cls.archive)
        total, residual, gap = arrays["numbers"].tolist()
        shown = Projection(
            arrays["coordinates"],
            arrays["residual_norms"],
            total,
            provenance["path"],
            tuple(arrays.get("starts", np.zeros(1, int)).tolist()),
        )
        labels = tuple(map(str, arrays["labels"]))
        walk = None  # of planes of before
        if "random_walk" in arrays:
            walk = RandomWalk(arrays["random_walk"][:-1], float(arrays["random_walk"][-1]))
        return cls(arrays["origin"], arrays["basis"], labels, shown, residual, gap, walk)


@checked(components=count(1), tolerance=number(above=0), seed=count(0))
def fit_plane(
    path: StateSequence | npt.ArrayLike | Runs,
    components: int = 2,
    *,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> PrincipalPlane:
    """Fits the principal plane of a path, or one plane of several runs.

    Small paths are decomposed exactly. Others go through a block Krylov iteration over blocks of
    states [1], until every axis is an eigenvector of the path's covariance to `tolerance`
    relative to λ₁; the coordinates, the variances and the residual that is reported come from one
    last pass in float64. Few large states have their components by their Gram matrix [2]. Nothing
    of the path's size is ever held in memory.

    Signs: the path starts on the negative side of every axis (where its start has no coordinate
    to speak of, the largest coordinate is negative), so that a figure never mirrors from one
    machine to another.

    A path on a line has no second component; the axis is then completed by the unit vector least
    along the first (the lowest index if several are), with a variance of exactly zero.

    Several runs, ``fit_plane([run, run])``, have the components of all their states together, in
    which each state counts equally: see `losspath.JointPath`.

    Args:
        path: T states of P numbers; T ≥ 2, P ≥ components. Or several runs, in a list or by name.
        components: k, the number of axes.
        tolerance: the `PrincipalPlane.residual` to iterate to, 1e-6 by default: float32 arithmetic
            cannot be relied on for much less. What is reached is measured again in float64; more
            than ten times the tolerance is warned of.
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
        [2] L. Sirovich, "Turbulence and the dynamics of coherent structures", Quarterly of Applied
        Mathematics 45 (1987) 561-571.
    """
    states = as_path(path)
    if states.parameter_count < components:
        raise PathError(
            f"expected at least {components} parameters, got {states.parameter_count}: a plane "
            "needs as many directions to lie in"
        )
    if len(states) < 2:
        raise PathError("a path of one state has no plane; record at least one step")
    if gram.is_for(states):
        mean, axes, final = gram.fit(states, components)
    else:
        moments = pca.first_pass(states, components, seed)
        mean, axes = moments.mean, pca.principal_axes(states, moments, components, tolerance)
        final = pca.project_all(states, mean, axes.basis)
    if axes.determined == 0:
        raise PathError(
            "the states differ by less than rounding makes: nothing moved, so there is no plane to "
            "draw; check the learning rate"
        )
    # Along an axis that was completed the path has no extent, whatever rounding says.
    coordinates = final.coordinates
    coordinates[:, axes.determined :] = 0.0
    basis, coordinates = _fix_signs(axes.basis, coordinates)
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
    norms = np.sqrt(np.maximum(final.squares - np.sum(coordinates**2, axis=1), 0.0))
    return PrincipalPlane(
        origin=mean,
        basis=basis,
        labels=tuple(f"PC {number}" for number in range(1, components + 1)),
        path=Projection(
            coordinates=coordinates,
            residual_norms=norms,
            total_variance=float(final.squares.sum()) / (len(states) - 1),
            path_digest=states.digest,
            starts=tuple(starts_of(states).values()),
        ),
        residual=residual,
        gap=gap,
        random_walk=walk_of(final.lengths, states, components, seed),
    )


def _fix_signs(basis: Floats, coordinates: Floats) -> tuple[Floats, Floats]:
    largest = np.abs(coordinates).argmax(axis=0)
    extent: npt.NDArray[Any] = np.take_along_axis(coordinates, largest[None], axis=0)[0]
    start = coordinates[0]
    # The start decides unless its coordinate is too small for its sign to be reliable.
    deciding = np.where(np.abs(start) > 1e-3 * np.abs(extent), start, extent)
    signs = np.where(deciding > 0, -1.0, 1.0)
    basis *= signs  # in place, as it may be large
    return basis, coordinates * signs
