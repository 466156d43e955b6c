"""Principal components of states that do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import PathError
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]

_BLOCK_BYTES = 48 << 20  # of states read at a time
_BASIS_BYTES = 192 << 20  # of the Krylov basis, in float64, before it restarts
_EXACT_NUMBERS = 1 << 22  # T·P up to which the path is decomposed as a whole
_EXACT_RANK = 600  # min(T, P) up to which that is quick
_MAX_PASSES = 60


@dataclass(frozen=True)
class Moments:
    """What the first pass gives.

    Attributes:
        mean: (P,) the mean state.
        start: (P, b) combinations of centred states that the iteration starts from.
        noise: variance that rounding to the states' dtype can account for, summed over axes.
    """

    mean: Floats
    start: Floats
    noise: float


@dataclass(frozen=True)
class Axes:
    """Principal axes: basis (P, k), how many of them the path determines, relative gap after k."""

    basis: Floats
    determined: int
    gap: float


@dataclass(frozen=True)
class Pass:
    """The last pass: coordinates (T, k), ‖θ_i − θ̄‖² (T,), eigen-residual, ‖θ_i − θ_{i−1}‖ (T,)."""

    coordinates: Floats
    squares: Floats
    residual: float
    lengths: Floats


def blocks(path: StateSequence, number_bytes: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The path in blocks of rows, each with the index of its first row.

    Every block is in the same memory, which the caller may change: fresh memory for each would
    cost more than the work on it.

    Args:
        path: the path.
        number_bytes: bytes that the caller needs for each number of a block.
    """
    count = max(1, min(len(path), _BLOCK_BYTES // (number_bytes * path.parameter_count)))
    buffer = np.empty((count, path.parameter_count), path.dtype)
    for start in range(0, len(path), count):
        rows = path.read(start, min(start + count, len(path)), buffer[: len(path) - start])
        yield start, torch.from_numpy(rows)


def doubled(path: StateSequence) -> Iterator[tuple[int, torch.Tensor]]:
    """The same in float64."""
    wide = None
    for start, rows in blocks(path, path.dtype.itemsize + 8):
        if wide is None:
            wide = torch.empty(rows.shape, dtype=torch.float64, device="cpu")
        yield start, wide[: len(rows)].copy_(rows)


def first_pass(path: StateSequence, components: int, seed: int) -> Moments:
    """The mean state, and a block of directions that the path is likely to follow.

    The block is the path combined with slow cosines of time, which are what the principal
    components of a random walk are, and with random numbers, so that nothing is missed. All of
    these sum to zero over time, hence need no mean.

    Raises:
        PathError: a state is not finite, or all are the same.
    """
    count = len(path)
    time = (np.arange(count) + 0.5) / count
    waves = [np.cos(np.pi * k * time) for k in range(1, components + 4)]
    noise = np.random.default_rng(seed).standard_normal((2, count))
    mix = np.stack([*waves, *noise], axis=1)
    mix -= mix.mean(axis=0)
    lengths = np.linalg.norm(mix, axis=0)
    # On a path of few states, some waves are constant or zero.
    mix = mix[:, lengths > 1e-6] / lengths[lengths > 1e-6]
    reference = torch.from_numpy(path.read(0, 1)[0]).double()
    total = torch.zeros(path.parameter_count, dtype=torch.float64, device="cpu")
    start = torch.zeros(path.parameter_count, mix.shape[1], dtype=torch.float64, device="cpu")
    magnitude, moved = 0.0, False
    for first, rows in doubled(path):
        size = float(torch.linalg.vector_norm(rows))
        if not np.isfinite(size):
            _refuse_non_finite(path, rows, first)
        magnitude += size**2
        # Differences from the first state keep the digits that a common offset would take.
        rows -= reference
        moved = moved or float(torch.linalg.vector_norm(rows)) > 0.0
        total += torch.ones(len(rows), dtype=torch.float64, device="cpu") @ rows
        start += rows.T @ torch.from_numpy(mix[first : first + len(rows)])
    if not moved:
        refuse_same(path)
    epsilon = float(np.finfo(path.dtype).eps)
    return Moments(
        mean=(reference + total / count).numpy(),
        start=start.numpy(),
        noise=epsilon**2 * magnitude / count / 12,
    )


def refuse_same(path: StateSequence) -> NoReturn:
    """Raises `PathError`, as all states are the same."""
    raise PathError(
        f"all {len(path)} states are the same: nothing moved, so there is no plane to draw; "
        "check the learning rate and that the optimiser has the model's parameters"
    )


def refuse_non_finite(path: StateSequence) -> NoReturn:
    """Raises `PathError` with the first state that is not finite."""
    for first, rows in doubled(path):
        if not np.isfinite(float(torch.linalg.vector_norm(rows))):
            _refuse_non_finite(path, rows, first)
    raise PathError("the path's states are too large to square; scale them")


def _refuse_non_finite(path: StateSequence, rows: torch.Tensor, first: int) -> NoReturn:
    sizes = torch.linalg.vector_norm(rows, dim=1)
    bad = torch.nonzero(~torch.isfinite(sizes)).reshape(-1)
    number = first + int(bad[0] if len(bad) else sizes.argmax())
    if hasattr(path, "place_of"):  # several runs
        name, place = path.place_of(number)
        raise PathError(
            f"state {place} of run {name!r} has parameters that are not finite or too large to "
            f"square; give the states before it: run.window(stop={place})"
        )
    raise PathError(
        f"state {number} of the path has parameters that are not finite or too large to square; "
        f"draw the states before it: path.window(stop={number}), or on the command line "
        f"--states :{number}"
    )


def principal_axes(
    path: StateSequence, moments: Moments, components: int, tolerance: float
) -> Axes:
    """The principal axes, exactly for small paths and by block Krylov iteration for others."""
    small = len(path) * path.parameter_count <= _EXACT_NUMBERS
    if small and min(len(path), path.parameter_count) <= _EXACT_RANK:
        basis, values = _decompose(path, moments.mean)
    else:
        basis, values = _iterate(path, moments, components, tolerance)
    determined, gap = determined_by(values / len(path), components, moments.noise)
    return Axes(complete(basis[:, :determined], components), determined, gap)


def determined_by(values: Floats, components: int, noise: float) -> tuple[int, float]:
    """How many axes a path determines, and the relative gap behind the last that is asked for.

    Args:
        values: variances along the axes, descending.
        components: how many are asked for.
        noise: variance that rounding accounts for.
    """
    # Along an axis with less variance than rounding makes, the path says nothing.
    floor = max(noise, 1e-14 * values[0])
    determined = int(np.sum(values[:components] > floor))
    if determined < components or len(values) <= components:
        return determined, 1.0
    last, following = values[components - 1], values[components]
    return determined, float((last - following) / last)


def _decompose(path: StateSequence, mean: Floats) -> tuple[Floats, Floats]:
    centred = path.read(0, len(path)).astype(np.float64) - mean
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    return np.ascontiguousarray(rows.T), singular**2


def complete(basis: Floats, components: int) -> Floats:
    """Adds, for each axis that is missing, the unit vector that is least along the others."""
    while basis.shape[1] < components:
        along = np.sum(basis**2, axis=1)
        axis = np.zeros(len(basis))
        # Least to rounding, which must not choose between equals.
        axis[int(np.argmax(along <= along.min() + 1e-12))] = 1.0
        for _ in range(2):
            axis -= basis @ (basis.T @ axis)
        basis = np.column_stack([basis, axis / np.linalg.norm(axis)])
    return basis


def _iterate(
    path: StateSequence, moments: Moments, components: int, tolerance: float
) -> tuple[Floats, Floats]:
    """Block Lanczos iteration with full reorthogonalisation; restarts when the basis is full."""
    block = _orthonormal(torch.from_numpy(moments.start), scale=None)
    limit = max(3 * block.shape[1], _BASIS_BYTES // (8 * path.parameter_count))
    basis = block
    images: list[torch.Tensor] = []  # of the basis, in the space of states: X V
    for _ in range(_MAX_PASSES):
        coordinates, image = _apply(path, moments.mean, block)
        images.append(coordinates)
        projected = torch.cat(images, dim=1)
        values, vectors = torch.linalg.eigh(projected.T @ projected)
        values, vectors = values.flip(0), vectors.flip(1)
        for _ in range(2):
            image -= basis @ (basis.T @ image)
        # C u − λ u of a Ritz vector lies in the part of the last image outside the basis.
        outside = image @ vectors[-block.shape[1] :, :components]
        worst = float(torch.linalg.vector_norm(outside, dim=0).max() / values[0])
        ritz = basis @ vectors[:, : components + 1]
        if worst <= tolerance / 2:
            break
        following = _orthonormal(image, scale=float(values[0]))
        if following.shape[1] == 0:
            break
        if basis.shape[1] + following.shape[1] > limit:
            basis = block = _orthonormal(basis @ vectors[:, : block.shape[1]], scale=None)
            images = []
        else:
            block = following
            basis = torch.cat([basis, block], dim=1)
    return ritz.numpy(), np.maximum(values[: components + 1].numpy(), 0.0)


def _orthonormal(block: torch.Tensor, scale: float | None) -> torch.Tensor:
    """An orthonormal basis of a block's columns, without those that are rounding."""
    left, singular, _ = torch.linalg.svd(block, full_matrices=False)
    threshold = 1e-7 * (float(singular[0]) if scale is None else scale)
    kept: torch.Tensor = left[:, singular > threshold]
    return kept


def _apply(
    path: StateSequence, mean: Floats, block: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """X V and Xᵀ X V for the centred path X, in the states' own precision."""
    parts = []
    image = torch.zeros_like(block)
    origin = torch.from_numpy(mean).to(torch.from_numpy(np.empty(0, path.dtype)).dtype)
    directions = block.to(origin.dtype)
    for _, rows in blocks(path, path.dtype.itemsize):
        rows -= origin
        part = rows @ directions
        image += rows.T @ part
        parts.append(part.double())
    return torch.cat(parts), image


def project_all(path: StateSequence, mean: Floats, basis: Floats) -> Pass:
    """Coordinates and squared norms of the centred states, in float64, and the eigen-residual."""
    coordinates = np.empty((len(path), basis.shape[1]))
    squares, lengths, last = np.empty(len(path)), np.empty(len(path)), None
    directions, origin = torch.from_numpy(basis), torch.from_numpy(mean)
    image = torch.zeros_like(directions)
    for first, rows in doubled(path):
        rows -= origin
        lengths[first : first + len(rows)] = step_norms(rows, last)
        last = rows[-1].clone()
        part = rows @ directions
        image += rows.T @ part
        coordinates[first : first + len(rows)] = part.numpy()
        squares[first : first + len(rows)] = torch.linalg.vector_norm(rows, dim=1).square().numpy()
    values = np.sum(coordinates**2, axis=0)
    off = image.numpy() - basis * values
    residual = float(np.linalg.norm(off, axis=0).max() / max(values.max(), np.finfo(float).tiny))
    return Pass(coordinates, squares, residual, lengths)


def step_norms(rows: torch.Tensor, last: torch.Tensor | None) -> Floats:
    """(n,): how far each row is from the one before it.

    Args:
        rows: (n, P) of a path.
        last: (P,) the row before them; None where there is none, for which it is 0.
    """
    norms = np.zeros(len(rows))
    norms[1:] = torch.linalg.vector_norm(rows.diff(dim=0), dim=1).numpy()
    if last is not None:
        norms[0] = float(torch.linalg.vector_norm(rows[0] - last))
    return norms
