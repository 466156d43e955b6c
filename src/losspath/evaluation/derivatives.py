"""Gradients of an objective, and the largest curvature of its loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch.nn.attention import SDPBackend, sdpa_kernel

from losspath.errors import ModelError
from losspath.evaluation.objective import Objective
from losspath.evaluation.undisturbed import undisturbed
from losspath.parameters import unflatten

Floats = npt.NDArray[np.float64]

# ARPACK keeps a few vectors, and needs more parameters than those; below, the Hessian is small.
_DENSE = 12
_PRODUCTS = 300


class Derivatives:
    """Derivatives of the mean loss over an objective's data, at one parameter vector.

    In evaluation mode, over all samples, batch by batch: memory is bounded by a batch. The model is
    afterwards as it was.

    Args:
        objective: the loss.
        parameters: (P,) where to differentiate.

    Raises:
        ModelError: the vector has another length than the model has parameters.
    """

    def __init__(self, objective: Objective, parameters: npt.ArrayLike) -> None:
        vector = np.array(parameters, np.float64)
        if vector.shape != (objective.parameter_count,):
            raise ModelError(
                f"expected a vector of {objective.parameter_count:,} parameters, got shape "
                f"{vector.shape}"
            )
        self._objective = objective
        kinds = {entry.dtype for entry in objective.layout.parameters}
        wide = bool(kinds & {"float64", "complex128"})
        self._vector = torch.from_numpy(vector).to(
            objective.device, torch.float64 if wide else torch.float32
        )

    def gradient(self) -> tuple[float, Floats]:
        """The loss, and its gradient (P,)."""
        loss, weight = 0.0, 0.0
        gradient = torch.zeros_like(self._vector, dtype=torch.float64)
        with self._passes() as passes:
            for total, share, point in passes:
                loss, weight = loss + float(total.detach()), weight + share
                gradient += torch.autograd.grad(total, point, retain_graph=True)[0]
        return loss / weight, (gradient / weight).cpu().numpy()

    def hessian_product(self, direction: npt.ArrayLike) -> Floats:
        """The Hessian times a vector (P,), by differentiating twice (B. Pearlmutter, 1994)."""
        weight = 0.0
        product = torch.zeros_like(self._vector, dtype=torch.float64)
        along = torch.from_numpy(np.array(direction, np.float64)).to(self._vector)
        with self._passes() as passes:
            for total, share, point in passes:
                weight += share
                (gradient,) = torch.autograd.grad(total, point, create_graph=True)
                if gradient.requires_grad:  # a loss that is linear has no second derivative
                    product += torch.autograd.grad(
                        gradient, point, along, retain_graph=True, materialize_grads=True
                    )[0]
        return (product / weight).cpu().numpy()

    def sharpness(self, *, tolerance: float = 0.01, seed: int = 0) -> float:
        """The largest eigenvalue of the Hessian, by Lanczos iteration (ARPACK).

        Args:
            tolerance: relative accuracy.
            seed: of the vector to begin with.

        Returns:
            The eigenvalue; NaN where the iteration does not converge, or where some derivative is
            not finite.
        """
        count = len(self._vector)
        if count <= _DENSE:
            hessian = np.stack([self.hessian_product(row) for row in np.eye(count)])
            if not np.isfinite(hessian).all():
                return float("nan")
            return float(np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])
        begin = np.random.default_rng(seed).standard_normal(count)
        first = self.hessian_product(begin)
        if not np.isfinite(first).all():
            return float("nan")
        if not first.any():  # no curvature along a random direction: none at all
            return 0.0
        operator = LinearOperator((count, count), matvec=self._product, dtype=np.float64)
        try:
            (value,) = eigsh(
                operator,
                k=1,
                which="LA",
                v0=begin,
                tol=tolerance,
                maxiter=_PRODUCTS,
                return_eigenvectors=False,
            )
        except ArpackNoConvergence:
            return float("nan")
        return float(value)

    def _product(self, vector: Floats) -> Floats:
        return self.hessian_product(vector.reshape(-1))

    @contextmanager
    def _passes(self) -> Iterator[Iterator[tuple[torch.Tensor, float, torch.Tensor]]]:
        with undisturbed(self._objective.model), _twice_differentiable(), torch.enable_grad():
            yield self._totals()

    def _totals(self) -> Iterator[tuple[torch.Tensor, float, torch.Tensor]]:
        """For each batch: the sum of its losses, their weight, and the leaf they depend on.

        Parameters of another dtype than the leaf are made of it once, so that batches share a part
        of their graphs, which has to be retained.
        """
        point = self._vector.clone().requires_grad_()
        parameters = unflatten(point, self._objective.layout)
        for outputs, targets in self._objective.passes(parameters):
            result: Any = self._objective.result(outputs, targets)
            if isinstance(result, (tuple, list)):
                total, weight = result
            else:
                total, weight = result * len(targets), len(targets)
            yield total, float(weight), point


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Without fused kernels of attention and recurrent layers: they have no second derivative."""
    with sdpa_kernel([SDPBackend.MATH]), torch.backends.cudnn.flags(enabled=False):
        yield
