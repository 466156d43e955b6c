"""Points in a plane whose distances are as near as can be to those that are given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Embedding:
    """Points in a plane for n objects of which the distances are known.

    Attributes:
        coordinates: (n, 2) in the unit of the distances; NaN for objects whose distances are not
            finite. The first that is off
            the middle of an axis is on its negative side.
        shares: (2,) how much of the spread is along each axis: the eigenvalue, over the sum of the
            absolute values of all. Of Euclidean distances it is the share of variance.
        stress: √(Σ (d − d̂)² / Σ d²) over all pairs, with distances d and those of the points d̂
            (Kruskal's stress-1): 0 is exact.
    """

    coordinates: Floats
    shares: Floats
    stress: float


def embed(distances: Floats) -> Embedding:
    """Classical multidimensional scaling [1, 2]: the principal components of Euclidean distances.

    By an eigendecomposition of the doubly centred squares, which has one answer. scikit-learn's
    `MDS` minimises the stress step by step instead, from a start by chance, and would draw the same
    run another way each time.

    Args:
        distances: (n, n), symmetric; rows and columns of objects that cannot be placed are
            NaN, the diagonal too.

    References:
        [1] W. S. Torgerson, "Multidimensional scaling: I. Theory and method", Psychometrika 17,
        1952.
        [2] J. C. Gower, "Some distance properties of latent root and vector methods used in
        multivariate analysis", Biometrika 53, 1966.
    """
    known = np.isfinite(np.diag(distances))
    coordinates, shares = np.full((len(distances), 2), np.nan), np.zeros(2)
    if not known.any():
        return Embedding(coordinates, np.full(2, np.nan), float("nan"))
    given = distances[np.ix_(known, known)]
    squares = given**2
    centred = squares - squares.mean(axis=0) - squares.mean(axis=1)[:, None] + squares.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    top = np.maximum(values[::-1][:2], 0.0)
    found = np.zeros((len(given), 2))
    found[:, : len(top)] = vectors[:, ::-1][:, :2] * np.sqrt(top)
    total = float(np.abs(values).sum())
    shares[: len(top)] = top / total if total > 0 else np.nan
    for axis in found.T:
        off = np.flatnonzero(np.abs(axis) > 1e-9 * np.sqrt(total))
        if len(off) and axis[off[0]] > 0:
            axis *= -1.0
    coordinates[known] = found
    drawn = np.linalg.norm(found[:, None] - found, axis=-1)
    whole = float(np.sum(squares))
    stress = float(np.sqrt(np.sum((given - drawn) ** 2) / whole)) if whole > 0 else 0.0
    return Embedding(coordinates, shares, stress)
