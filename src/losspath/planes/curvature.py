"""The plane of a loss's largest curvatures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from losspath.arguments import OBJECTIVE, checked, count, number
from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.derivatives import Derivatives
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.evaluation.recorded import along
from losspath.geometry.plane import Plane
from losspath.planes.named import named, refuse_rest
from losspath.recording.trajectory import StateSequence

# Below this the Hessian is made whole.
_DENSE = 20
_PRODUCTS = 300


@checked(objective=OBJECTIVE, tolerance=number(above=0), seed=count(0))
def hessian_plane(
    objective: Objective,
    parameters: npt.ArrayLike,
    *,
    sides: Sides | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
) -> Plane:
    """The plane through a state along the Hessian's two eigenvectors of the largest eigenvalues.

    By Lanczos iteration (ARPACK) with products with the Hessian, as `measure_dynamics` finds the
    largest eigenvalue. Signs: the number of the largest size in each direction is positive.

    Args:
        objective: the loss; some thousand samples are enough for directions.
        parameters: (P,) the state.
        sides: side tensors of the state, by name; None for the model's own.
        tolerance: relative accuracy of the eigenvalues.
        seed: of the vector to begin with.

    Returns:
        The plane; its labels have the eigenvalues.

    Raises:
        ArgumentError: fewer than two parameters.
        UnsupportedError: the loss has no finite second derivative there, or the iteration does not
            converge.
    """
    derivatives = Derivatives(objective, parameters, sides)
    size = objective.parameter_count
    if size < 2:
        raise ArgumentError(f"expected a model of at least two parameters, got {size}")
    if size <= _DENSE:
        hessian = np.stack([derivatives.hessian_product(row) for row in np.eye(size)])
        values, vectors = (
            np.linalg.eigh((hessian + hessian.T) / 2)
            if np.isfinite(hessian).all()
            else (np.full(size, np.nan), np.eye(size))
        )
    else:
        operator = LinearOperator(
            (size, size),
            matvec=lambda vector: derivatives.hessian_product(vector.reshape(-1)),
            dtype=np.float64,
        )
        begin = np.random.default_rng(seed).standard_normal(size)
        try:
            values, vectors = eigsh(
                operator, k=2, which="LA", v0=begin, tol=tolerance, maxiter=_PRODUCTS
            )
        except ArpackError as cause:
            raise UnsupportedError(
                f"the eigenvectors of the Hessian do not converge ({cause}); give a larger "
                "tolerance, or another state"
            ) from cause
    if not np.isfinite(values).all():
        raise UnsupportedError(
            "expected a finite Hessian, got one that is not; take a state at which the loss is "
            "finite"
        )
    order = np.argsort(values)[::-1][:2]
    basis = np.linalg.qr(vectors[:, order])[0]
    basis *= np.sign(np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0))
    labels = tuple(f"eigenvector {n + 1} (λ = {values[k]:.3g})" for n, k in enumerate(order))
    return Plane(np.asarray(parameters, np.float64), basis, labels)


@named("hessian", is_kept=True)
def _of_last_state(rest: str, path: StateSequence, objective: Objective) -> Plane:
    """Through the last state, with the buffers that were recorded with it."""
    refuse_rest("hessian", rest)
    bound, last = along(objective, path), len(path) - 1
    return hessian_plane(bound.objective, path.read(last, last + 1)[0], sides=bound.sides_of(last))
