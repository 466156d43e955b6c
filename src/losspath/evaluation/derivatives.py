"""Gradients of an objective, and the largest curvature of its loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch.nn.attention import SDPBackend, sdpa_kernel

from losspath.errors import LosspathError, ModelError, ObjectiveError, UnsupportedError
from losspath.evaluation.counter import failed
from losspath.evaluation.data import Batch
from losspath.evaluation.differences import (
    central_difference,
    doubtful_functions,
    in_double,
    layers_behind,
)
from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.parameters import Entry, Layout, named_parameters, positions_in, unwrapped

Floats = npt.NDArray[np.float64]

# ARPACK keeps a few vectors, and needs more parameters than those; below, the Hessian is small.
_DENSE = 12
_PRODUCTS = 300
# Two ways to the same product or gradient differ by no more than this share of it.
_SAME = 0.01


class Derivatives:
    """Derivatives of the mean loss over an objective's data, at one parameter vector.

    In evaluation mode, over all samples, batch by batch: memory is bounded by a batch. With respect
    to the objective's parameters alone: frozen ones have no share in them. The model is afterwards
    as it was.

    Where torch has no second derivative, such as of `EmbeddingBag`, or where a function of the
    model's own hides that it has none, the Hessian is that of differences of exact gradients in
    double precision.

    Args:
        objective: the loss.
        parameters: (P,) where to differentiate.
        sides: side tensors (buffers, frozen parameters) there; None for the objective's.

    Raises:
        ModelError: the vector has another length than the model has parameters.
        UnsupportedError: the model's gradient cannot be told, as of weights tied by a stored view.
    """

    @torch.inference_mode(False)
    def __init__(
        self, objective: Objective, parameters: npt.ArrayLike, sides: Sides | None = None
    ) -> None:
        vector = np.array(parameters, np.float64)
        if vector.shape != (objective.parameter_count,):
            raise ModelError(
                f"expected a vector of {objective.parameter_count:,} parameters, got shape "
                f"{vector.shape}"
            )
        self._objective = objective
        self._evaluator = Evaluator(objective)
        if (name := self._evaluator.replica.stored_view()) is not None:
            raise UnsupportedError(
                f"{name} is a stored view of a parameter, whose share in the gradient cannot be "
                "told; make the view in forward()"
            )
        self._vector = torch.from_numpy(vector)
        self._sides = sides
        self._is_wide = False  # whether all is computed in double precision
        self._wide: Derivatives | None = None
        self._is_exact: bool | None = None  # whether torch's second derivative is right

    @torch.inference_mode(False)
    def gradient(self) -> tuple[float, Floats]:
        """The loss, and its gradient (P,)."""
        loss, weight = 0.0, 0.0
        gradient = torch.zeros(len(self._vector), dtype=torch.float64, device="cpu")
        with self._totals() as totals:
            for total, share in totals:
                loss, weight = loss + float(total.detach()), weight + share
                gradient += self._differentiated(total).detach().cpu()
        return loss / weight, (gradient / weight).numpy()

    def hessian_product(self, direction: npt.ArrayLike) -> Floats:
        """The Hessian times a vector (P,), by differentiating twice (B. Pearlmutter, 1994)."""
        along = np.array(direction, np.float64)
        if self._is_exact is None:
            return self._first_product(along)
        return self._twice(along)[0] if self._is_exact else self._difference(along)

    def _first_product(self, along: Floats) -> Floats:
        """Finds out whether torch's second derivative is right."""
        try:
            product, doubtful = self._twice(along)
        except UnsupportedError as cause:
            try:
                product = self._difference(along)
            except LosspathError:
                raise cause from cause.__cause__
            self._is_exact = False
            return product
        self._is_exact = True
        if not doubtful or not np.isfinite(product).all():
            return product
        try:
            other = self._difference(along)
        except LosspathError as cause:
            raise UnsupportedError(
                f"{', '.join(doubtful)} may lack a second derivative, and gradients of double "
                f"precision do not tell ({cause}); write its backward() in differentiable "
                "operations, or measure without dynamics"
            ) from cause
        if np.linalg.norm(product - other) > _SAME * np.linalg.norm(other):
            self._is_exact, product = False, other
        return product

    def _difference(self, along: Floats) -> Floats:
        """The product from exact gradients in double precision."""
        if self._wide is None:
            self._wide = self._widened()
        wide, at = self._wide, self._vector.numpy()

        def gradient(point: Floats) -> Floats:
            wide._vector = torch.from_numpy(point)
            return wide.gradient()[1]

        return central_difference(gradient, at, along)

    def _widened(self) -> Derivatives:
        wide = Derivatives(self._objective, self._vector.numpy(), self._sides)
        if not wide._evaluator.replica.is_private:
            raise UnsupportedError("the model cannot be copied, so it has no double precision")
        wide._is_wide = True
        wide._evaluator.replica.to_double()
        ours, theirs = self.gradient()[1], wide.gradient()[1]
        if np.linalg.norm(ours - theirs) > _SAME * np.linalg.norm(ours):
            raise UnsupportedError("the loss has another gradient in double precision")
        return wide

    @torch.inference_mode(False)
    def _twice(self, direction: Floats) -> tuple[Floats, list[str]]:
        """The product by differentiating twice, and what in it may be missing in silence."""
        weight = 0.0
        doubtful: list[str] = []
        product = torch.zeros(len(self._vector), dtype=torch.float64, device="cpu")
        along = torch.from_numpy(direction).to(self._objective.device)
        with self._totals() as totals:
            for total, share in totals:
                weight += share
                gradient = self._differentiated(total, create_graph=True)
                if self._is_exact is None and not doubtful:
                    doubtful = doubtful_functions(gradient, total)
                if gradient.requires_grad:  # a loss that is linear has no second derivative
                    slope = torch.dot(gradient, along.to(gradient.dtype))
                    product += self._differentiated(slope).detach().cpu()
        return (product / weight).numpy(), doubtful

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
        except ArpackError:
            return float("nan")
        return float(value)

    def _product(self, vector: Floats) -> Floats:
        return self.hessian_product(vector.reshape(-1))

    @contextmanager
    def _totals(self) -> Iterator[Iterator[tuple[torch.Tensor, float]]]:
        """For each batch: the sum of its losses, with torch's graph, and their weight."""
        # A loss that holds the caller's parameters reads those, with the same numbers: the
        # derivative is by both. While the model is lent, it has the copy's.
        owners = self._leaves_of(self._objective.model)
        if any(leaf.is_inference() for leaf, _ in owners):  # torch follows none of them
            owners = []
        with (
            self._evaluator.lent(),
            _twice_differentiable(),
            torch.enable_grad(),
            self._explained(),
        ):
            self._evaluator.write(self._vector, self._sides)
            replica = self._evaluator.replica
            if replica.merges:
                raise UnsupportedError(
                    "the model merges parameters into others in evaluation mode (a train() of its "
                    "own, as of adapters), so that no derivative goes to them; give a model whose "
                    "adapters stay apart in eval(), such as peft's"
                )
            copies = self._leaves_of(replica.model)
            self._leaves = [*copies, *(owners if not self._is_wide else [])]
            if not replica.is_private:
                self._leaves = owners
            flags = [(leaf, leaf.requires_grad) for leaf, _ in self._leaves]
            sparse = [m for m in replica.model.modules() if getattr(m, "sparse", False) is True]
            try:
                for leaf, _ in flags:
                    leaf.requires_grad_()
                for module in sparse:  # sparse gradients cannot be differentiated again
                    module.sparse = False  # type: ignore[assignment]
                yield self._each_total()
            finally:
                for leaf, flag in flags:
                    leaf.requires_grad_(flag)
                for module in sparse:
                    module.sparse = True  # type: ignore[assignment]

    def _leaves_of(self, model: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """A model's parameters that a vector is of, in order, and others of the same memory.

        With the places in the vector of each number; None for where they come in order.
        """
        named = dict(named_parameters(model))
        entries = self._objective.layout.parameters
        leaves: list[tuple[torch.Tensor, torch.Tensor | None]] = [
            (named.pop(entry.name), None) for entry in entries
        ]
        for entry, (parameter, _) in zip(entries, list(leaves), strict=True):
            for name in list(named):
                positions = positions_in(named[name], parameter)
                if positions is not None:
                    leaves.append((named.pop(name), positions + entry.offset))
        return leaves

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says of torch's own errors what they mean here."""
        try:
            yield
        except (LosspathError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as cause:
            reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
            raise UnsupportedError(
                "expected a loss that torch can differentiate as far as this needs, gradients of "
                f"gradients included, got an error{layers_behind(self._objective.model, reason)}: "
                f"{reason}; leave that layer out, or measure without dynamics"
            ) from cause

    def _each_total(self) -> Iterator[tuple[torch.Tensor, float]]:
        model = self._evaluator.replica.model
        for given in self._objective.batches():
            batch = in_double(given) if self._is_wide else given
            try:
                total, weight = self._loss_of(model, batch)
                if not isinstance(total, torch.Tensor):
                    raise ObjectiveError(
                        f"expected a loss that torch can differentiate, a tensor, got a "
                        f"{type(total).__name__}; return it without .item() or float()"
                    )
                if not total.requires_grad:
                    raise ObjectiveError(
                        "expected a loss that torch can differentiate, got one that has no graph; "
                        "compute it of the outputs without detach(), numpy() or no_grad()"
                    )
                yield total, weight
            finally:
                self._evaluator.restore()

    def _loss_of(self, model: torch.nn.Module, batch: Batch) -> tuple[Any, float]:
        try:
            return self._objective.loss_with_graph(model, batch)
        except (LosspathError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as cause:
            raise failed(batch, cause) from cause

    def _differentiated(self, total: torch.Tensor, create_graph: bool = False) -> torch.Tensor:
        """The derivative (P,), summed over all tensors that hold a number."""
        if not total.requires_grad:
            return torch.zeros(len(self._vector), dtype=torch.float64, device=total.device)
        found = torch.autograd.grad(
            total,
            [leaf for leaf, _ in self._leaves],
            create_graph=create_graph,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        flat = [_flat(each) for each in found]
        count = len(self._objective.layout.parameters)
        derivative = torch.zeros(len(self._vector), dtype=torch.float64, device=flat[0].device)
        at = 0
        while at < len(flat):
            positions = self._leaves[at][1]
            if positions is None:
                derivative = derivative + torch.cat(flat[at : at + count])
                at += count
            else:
                derivative = derivative.index_add(0, positions.to(derivative.device), flat[at])
                at += 1
        return derivative


def trained_parameters(objective: Objective) -> tuple[Entry, ...]:
    """Those of an objective's parameters that require a gradient in its model; all if none does."""
    named = dict(named_parameters(unwrapped(objective.model)))
    entries = objective.layout.parameters
    return tuple(entry for entry in entries if named[entry.name].requires_grad) or entries


def by_trained_parameters(
    objective: Objective, parameters: npt.ArrayLike, sides: Sides | None = None
) -> Derivatives:
    """Derivatives by `trained_parameters` alone; the others have the vector's numbers, held fixed.

    Args:
        objective: the loss.
        parameters: (P,) where to differentiate, of all the objective's parameters.
        sides: side tensors there; None for the objective's.
    """
    trained = trained_parameters(objective)
    if trained == objective.layout.parameters:
        return Derivatives(objective, parameters, sides)
    vector = np.array(parameters, np.float64)
    fixed = {
        entry.name: _shaped(torch.from_numpy(vector[entry.place]), entry)
        for entry in objective.layout.parameters
        if entry not in trained
    }
    base = objective.base_sides if sides is None else sides
    return Derivatives(
        objective.with_layout(_packed(trained)),
        np.concatenate([vector[entry.place] for entry in trained]),
        {**(base or {}), **fixed},
    )


def _packed(entries: tuple[Entry, ...]) -> Layout:
    """A layout of entries one behind the other."""
    ends = np.cumsum([entry.size for entry in entries]).tolist()
    moved = zip(entries, ends, strict=True)
    return Layout(tuple(replace(entry, offset=end - entry.size) for entry, end in moved))


def _shaped(numbers: torch.Tensor, entry: Entry) -> torch.Tensor:
    shaped = numbers.view(entry.shape)
    return torch.view_as_complex(shaped) if entry.dtype.startswith("complex") else shaped


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return (torch.view_as_real(dense) if dense.is_complex() else dense).reshape(-1).double()


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Without fused kernels of attention and recurrent layers: they have no second derivative."""
    with sdpa_kernel([SDPBackend.MATH]), torch.backends.cudnn.flags(enabled=False):
        yield
