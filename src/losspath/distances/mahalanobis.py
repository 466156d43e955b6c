"""The length in units of the path's own spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from losspath.distances.distance import Bound, Distance, Floats, OfStates
from losspath.geometry import pca
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.recording.trajectory import StateSequence

# A spread of less than this share of the path's size is what rounding leaves of none.
_NO_SPREAD = 1e-9
# An eigenvalue of correlations, or share of the largest one, that is none.
_SINGULAR = 1e-12


@dataclass(frozen=True)
class Mahalanobis(Distance):
    """The Mahalanobis distance in the plane [1], d_i² = (g − p_i)ᵀ C⁻¹ (g − p_i).

    C is the covariance of the T states' coordinates, divided by T−1. In the principal plane it is
    diagonal, so this is the Euclidean distance after each axis is divided by the path's standard
    deviation along it. It has no unit: 1 is a standard deviation of the path. Rescaling an axis,
    or the whole path, changes nothing.

    So a temperature is a number of standard deviations as well: 1 averages over much of the path,
    and "auto", which is Scott's rule with σ ≈ 1, is n^(−1/6) for n states along the path.

    A path on a line has a singular covariance. Its pseudo-inverse then measures along the line
    alone, and a point is as far from a state as its foot on the line is. All states are equally
    far across the line, so this difference tells nothing about which is near; by its limit, a
    covariance that tends to a singular one, `sampled` is the same, and `averaged` would come to
    weigh all states alike a hair's breadth off the line. Of a path that is a point in the plane,
    all distances are 0.

    References:
        [1] P. C. Mahalanobis, "On the generalised distance in statistics", Proceedings of the
        National Institute of Sciences of India 2 (1936) 49-55.
    """

    name: ClassVar[str] = "mahalanobis"

    def distances(self, points: Floats, path: Projection) -> Floats:
        """(G, T): √((g − p_i)ᵀ C⁻¹ (g − p_i))."""
        return _lengths(points, path.coordinates, _whitening(path))


@dataclass(frozen=True)
class MahalanobisND(OfStates):
    """The Mahalanobis distance in all dimensions, d_i² = Σ_k (o + U g − θ_i)²_k / s_k.

    s_k is the variance of parameter k along the path: the covariance's diagonal alone. The whole
    one is no choice. T ≤ P states span at most T−1 dimensions, so it is singular; and where they
    span T−1, all of them are equally far from each other by its pseudo-inverse. With fewer
    samples than dimensions the diagonal alone does well by comparison [2]. Shrinking toward a
    target [3] takes an intensity that is derived for independent samples, which states of a path
    are not.

    It has no unit, like `Mahalanobis`: d² grows with the number of parameters that move, and
    "auto" takes a temperature that grows with it. A parameter that hardly moves counts as much as
    one that moves far; one that does not move at all is left out. Rescaling single parameters
    changes nothing.

    All states count, and nothing is approximated: the sum is quadratic in g, so two passes over the
    path give three numbers for each state, and a point costs no more than in the plane.

    References:
        [2] P. J. Bickel and E. Levina, "Some theory for Fisher's linear discriminant function,
        'naive Bayes', and some alternatives when there are many more variables than
        observations", Bernoulli 10 (2004) 989-1010.
        [3] O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance
        matrices", Journal of Multivariate Analysis 88 (2004) 365-411.
    """

    name: ClassVar[str] = "mahalanobis-nd"

    def bind(self, path: StateSequence, plane: Plane, projection: Projection) -> Bound:
        """The same with three numbers for each state; two passes over the path, in float64."""
        variances = _variances(path)
        scale = np.divide(1.0, variances, out=np.zeros_like(variances), where=variances > 0)
        weighted = plane.basis * scale[:, None]
        across, squares = np.empty((len(path), weighted.shape[1])), np.empty(len(path))
        directions, shares = torch.from_numpy(weighted), torch.from_numpy(scale)
        origin = torch.from_numpy(plane.origin)
        for first, rows in pca.doubled(path):
            rows -= origin
            stop = first + len(rows)
            across[first:stop] = (rows @ directions).numpy()
            squares[first:stop] = (rows.square_() @ shares).numpy()
        # Complete the square: where in the plane each state is nearest, and how far it is there.
        metric = plane.basis.T @ weighted
        places = across @ np.linalg.pinv(metric, rcond=_SINGULAR, hermitian=True)
        rest = np.sqrt(np.maximum(squares - np.sum(places * across, axis=1), 0.0))
        values, axes = np.linalg.eigh(metric)
        return _QuadraticTo(self, places, axes * np.sqrt(np.maximum(values, 0.0)), rest)


class _QuadraticTo(Bound):
    """A distance whose square is a quadratic form of the place in the plane.

    d_i² = ‖(g − places_i) root‖² + rest_i².
    """

    name = MahalanobisND.name

    def __init__(self, option: MahalanobisND, places: Floats, root: Floats, rest: Floats) -> None:
        super().__init__(option)
        self.places, self.root, self.rest = places, root, rest

    def distances(self, points: Floats, path: Projection) -> Floats:
        lengths = _lengths(points, self.places, self.root)
        np.hypot(lengths, self.rest, out=lengths)
        return lengths


def _lengths(points: Floats, places: Floats, root: Floats) -> Floats:
    """(G, T): ‖(g − p_i) root‖, for differences taken first, so that equal places are at 0."""
    x = points[:, 0, None] - places[None, :, 0]
    y = points[:, 1, None] - places[None, :, 1]
    first: Floats = x * root[0, 0] + y * root[1, 0]
    x *= root[0, 1]
    y *= root[1, 1]
    x += y
    np.hypot(first, x, out=first)
    return first


def _whitening(path: Projection) -> Floats:
    """(2, 2): W with W Wᵀ = C⁻¹, or the pseudo-inverse of a singular C."""
    centred = path.coordinates - path.coordinates.mean(axis=0)
    freedom = max(len(path) - 1, 1)
    deviations = np.sqrt(np.sum(centred**2, axis=0) / freedom)
    sizes = np.hypot(np.linalg.norm(path.coordinates, axis=1), path.residual_norms)
    is_spread = deviations > _NO_SPREAD * sizes.max()
    # By correlations, so that beside a long axis a short one does not look like none.
    scale = np.divide(1.0, deviations, out=np.zeros(2), where=is_spread)
    standard = centred * scale
    values, axes = np.linalg.eigh(standard.T @ standard / freedom)
    if values[0] > _SINGULAR:
        whitening: Floats = scale[:, None] * axes / np.sqrt(values)
        return whitening
    along = np.where(is_spread, centred, 0.0)
    values, axes = np.linalg.eigh(along.T @ along / freedom)
    whitening = np.zeros((2, 2))
    if is_spread.any():
        whitening[:, 0] = axes[:, 1] / np.sqrt(values[1])
    return whitening


def _variances(path: StateSequence) -> Floats:
    """(P,): the variance of each parameter, divided by T−1; exactly 0 of one that never moves."""
    start = torch.from_numpy(path.read(0, 1)[0].astype(np.float64))
    sums, squares = torch.zeros_like(start), torch.zeros_like(start)
    for _, rows in pca.doubled(path):
        rows -= start
        sums += rows.sum(dim=0)
        squares += rows.square_().sum(dim=0)
    variances = (squares - sums.square() / len(path)) / max(len(path) - 1, 1)
    floored: Floats = variances.clamp_(min=0.0).numpy()
    return floored
