"""The parameters at points of a plane: θ(g) = θ̄ + U g + Σ_i w_i(g) r_i."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from losspath.geometry.plane import Plane
from losspath.recording.paths import columns
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]

_GROUP_BYTES = 192 << 20  # of parameters, in float64, blended in one pass over the path
# Of states read at a time: sums are kept in float64, and adding a block to them costs as much as a
# good part of the product that made it.
_BLOCK_BYTES = 192 << 20
# Of states with more numbers than this, a stretch is read of all at a time.
_LARGE = 8 << 20
_STRETCH_BYTES = 64 << 20
_PIECE = 8 << 20  # numbers of a long vector that are worked on at a time


def group_size(plane: Plane) -> int:
    """How many points are blended in one pass over the path."""
    return max(1, _GROUP_BYTES // (8 * len(plane.origin)))


def blend(
    path: StateSequence, plane: Plane, places: npt.ArrayLike, weights: npt.ArrayLike
) -> Iterator[npt.NDArray[np.float64]]:
    """Streams the parameters of points in one pass over the states that have a weight.

    Blends the states, takes the part outside the plane (which for weights w is Σ_i w_i r_i, and
    in float64 is orthogonal to the plane to rounding), and adds the point in the plane. So every
    result projects exactly onto its place, whatever the weights.

    Args:
        path: T states of P numbers.
        plane: the path's plane.
        places: (G, k) coordinates in the plane. G is bounded by the memory for G·P numbers; see
            `group_size`.
        weights: (G, T), one row for each point.

    Yields:
        For each point in order, its parameters (P,) in float64.
    """
    places = np.asarray(places, np.float64)
    sums = torch.from_numpy(np.require(weights, np.float64, "W"))  # a row for all is copied
    basis = torch.from_numpy(plane.basis)
    origin = torch.from_numpy(plane.origin)
    deviations = _weighted_sums(path, sums, origin)
    for number, place in enumerate(torch.from_numpy(places)):
        point = deviations[number]
        # Twice, as one subtraction leaves the rounding of a large in-plane part behind.
        for _ in range(2):
            _add_in_plane(point, basis, -(basis.T @ point))
        _add_in_plane(point, basis, place)
        yield point.add_(origin).numpy()


def _add_in_plane(point: torch.Tensor, basis: torch.Tensor, place: torch.Tensor) -> None:
    """Adds U·place to a point, a stretch at a time: no other vector is made of its length."""
    for start in range(0, len(point), _PIECE):
        point[start : start + _PIECE] += basis[start : start + _PIECE] @ place


def _weighted_sums(
    path: StateSequence, weights: torch.Tensor, origin: torch.Tensor
) -> torch.Tensor:
    """Σ_i w_i (θ_i − θ̄) for each row of weights, reading only states that some row weighs."""
    if path.parameter_count > _LARGE:
        return _sums_by_stretches(path, weights, origin)
    sums = torch.zeros(len(weights), path.parameter_count, dtype=torch.float64, device="cpu")
    most = max(1, _BLOCK_BYTES // (4 * path.parameter_count))
    product = torch.empty(
        sums.shape, dtype=torch.from_numpy(np.empty(0, path.dtype)).dtype, device="cpu"
    )
    # Differences first: sums in the states' precision must not round by an offset they share.
    near = origin.to(product.dtype)
    shares = torch.zeros(len(weights), 1, dtype=torch.float64, device="cpu")
    used = torch.nonzero((weights != 0).any(dim=0)).reshape(-1).numpy()
    buffer = np.empty((min(most, len(path)), path.parameter_count), path.dtype)
    for start, stop in _runs(used, most):
        rows = torch.from_numpy(path.read(start, stop, buffer[: stop - start]))
        part = weights[:, start:stop]
        if int(torch.count_nonzero(part)) > len(weights):
            torch.mm(part.to(rows.dtype), rows.sub_(near), out=product)
            sums += product
            shares += part.sum(dim=1, keepdim=True)
        else:  # about one state each: exactly that state
            touched = torch.nonzero((part != 0).any(dim=1)).reshape(-1)
            sums[touched] += part[touched] @ (rows.double() - origin)
    return sums.addcmul_(shares, near.double() - origin)


def _sums_by_stretches(
    path: StateSequence, weights: torch.Tensor, origin: torch.Tensor
) -> torch.Tensor:
    """The same of large states, a stretch of parameters at a time: nothing else has their size."""
    used = torch.nonzero((weights != 0).any(dim=0)).reshape(-1)
    sums = torch.zeros(len(weights), path.parameter_count, dtype=torch.float64, device="cpu")
    part = weights[:, used]
    is_one = bool(((part != 0).sum(dim=1) <= 1).all())  # a state each: exactly that state
    length = max(1, _STRETCH_BYTES // (8 * max(1, len(used))))
    for start in range(0, path.parameter_count, length):
        stop = min(start + length, path.parameter_count)
        rows = torch.from_numpy(columns(path, start, stop, used.tolist()))
        middle = origin[start:stop]
        if is_one:
            sums[:, start:stop] = part @ (rows.double() - middle)
            continue
        near = middle.to(rows.dtype)
        product = part.to(rows.dtype) @ rows.sub_(near)
        sums[:, start:stop] = product
        sums[:, start:stop].addcmul_(part.sum(dim=1, keepdim=True), near.double() - middle)
    return sums


def _runs(indices: npt.NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges that cover increasing indices, without gaps inside, of at most `most`."""
    if len(indices) == 0:
        return
    for run in np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1):
        for start in range(int(run[0]), int(run[-1]) + 1, most):
            yield start, min(start + most, int(run[-1]) + 1)
