"""Planes of random directions, scaled as the network's weights are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from losspath.arguments import checked, count, flag, floats, of_type, one_of
from losspath.errors import ArgumentError
from losspath.evaluation.objective import Objective
from losspath.evaluation.recorded import along
from losspath.geometry.plane import Plane
from losspath.parameters import Entry, Layout
from losspath.planes.named import named, whole_number
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]
Normalisation = Literal["filter", "layer", "model"]

_LAYOUT = of_type("losspath.parameters:Layout", "take the path's, as path.layout")


@checked(
    center=floats("(P,)", ndim=1),
    layout=_LAYOUT,
    normalisation=one_of(get_args(Normalisation)),
    vectors=flag,
    seed=count(0),
)
def random_plane(
    center: npt.ArrayLike,
    layout: Layout,
    *,
    normalisation: Normalisation = "filter",
    vectors: bool = False,
    seed: int = 0,
) -> Plane:
    """The plane through a state along two random directions (Li et al. 2018).

    Gaussian directions, in which each filter (or layer, or the whole) has the norm that it has in
    the state. The second is made orthogonal to the first within each of these, which leaves the
    norms as they are, so the directions are orthogonal after it. The basis has them at length one:
    what Li et al. call α = 1 is a distance of ‖θ‖ over the parameters that take part.

    Args:
        center: (P,) the state.
        layout: of its parameters.
        normalisation: "filter": the rows of weights (a filter of a convolution, a unit of a linear
            layer); "layer": whole parameters; "model": all together.
        vectors: also move parameters of one axis or none (biases, scales of normalisations), which
            stay where they are by default, as in the paper.
        seed: of the directions.

    Raises:
        ArgumentError: the state has another length than the layout, is zero wherever it could
            move, or has nothing but vectors.

    References:
        H. Li, Z. Xu, G. Taylor, C. Studer and T. Goldstein, "Visualizing the loss landscape of
        neural nets", NeurIPS 2018.
    """
    state = np.asarray(center, np.float64)
    if state.shape != (layout.parameter_count,):
        raise ArgumentError(
            f"expected a state of {layout.parameter_count:,} numbers, as the layout has, got shape "
            f"{state.shape}"
        )
    moving = [entry for entry in layout.parameters if vectors or len(entry.shape) > 1]
    first, second = (np.zeros(len(state)) for _ in range(2))
    generator = np.random.default_rng(seed)
    for rows in _blocks(moving, normalisation):
        norms = np.linalg.norm(state[rows], axis=1, keepdims=True)
        one, other = generator.standard_normal((2, *rows.shape))
        one *= norms / np.linalg.norm(one, axis=1, keepdims=True)
        first[rows] = one
        if rows.shape[1] == 1:
            continue  # a single number has no second direction
        square = np.sum(one**2, axis=1, keepdims=True)
        along = np.divide(
            np.sum(one * other, axis=1, keepdims=True), square, where=square > 0, out=square * 0
        )
        other -= along * one
        second[rows] = other * norms / np.linalg.norm(other, axis=1, keepdims=True)
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    if not all(lengths):
        raise ArgumentError(
            "expected a state with weights that are not zero to scale directions by, got none; "
            "take a trained state, or vectors=True for a model of vectors alone"
        )
    basis = np.stack([first / lengths[0], second / lengths[1]], axis=1)
    basis[:, 1] -= basis[:, 0] * (basis[:, 0] @ basis[:, 1])  # what rounding leaves
    basis[:, 1] /= np.linalg.norm(basis[:, 1])
    return Plane(state, basis, (f"random direction 1 ({normalisation})", "random direction 2"))


def _blocks(entries: list[Entry], normalisation: Normalisation) -> Iterator[npt.NDArray[np.intp]]:
    """(blocks, size) places in a vector of what keeps its norm together."""
    if normalisation == "model" and entries:
        yield np.concatenate([np.arange(e.place.start, e.place.stop) for e in entries])[None]
        return
    for entry in entries:
        places = np.arange(entry.place.start, entry.place.stop)
        is_matrix = normalisation == "filter" and len(entry.shape) > 1
        yield places.reshape(entry.shape[0], -1) if is_matrix else places[None]


@named("random[:filter|layer|model][:SEED]")
def _around_last_state(rest: str, path: StateSequence, objective: Objective) -> Plane:
    parts = [part for part in rest.split(":") if part]
    normalisation: Normalisation = "filter"
    if parts and parts[0] in get_args(Normalisation):
        normalisation = parts.pop(0)  # type: ignore[assignment]
    if len(parts) > 1:
        raise ArgumentError(f"expected random[:filter|layer|model][:SEED], got random:{rest}")
    seed = whole_number("the seed of random directions", parts[0]) if parts else 0
    last = path.read(len(path) - 1, len(path))[0]
    layout = along(objective, path).objective.layout
    return random_plane(last, layout, normalisation=normalisation, seed=seed)
