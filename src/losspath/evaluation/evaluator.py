"""Evaluating parameter vectors one by one, on a private copy of the model: the plain loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from losspath.arguments import as_numbers
from losspath.errors import LosspathError, ModelError
from losspath.evaluation.base import BaseObjective
from losspath.evaluation.counter import failed
from losspath.evaluation.data import Batch, Part, Samples
from losspath.evaluation.isolation.attributes import AttributeSnapshot
from losspath.evaluation.isolation.dropout import dropping
from losspath.evaluation.isolation.evaluation_mode import LENT, evaluation_mode, random_fork
from losspath.evaluation.isolation.kernels import unfused
from losspath.evaluation.isolation.reached import modules_among, objects_reached, shared_objects
from losspath.evaluation.isolation.replica import Replica, Sides
from losspath.evaluation.quantities import Count, Evaluation
from losspath.evaluation.recalibration import recalibrate
from losspath.files import digest_of
from losspath.parameters import unwrapped

T = TypeVar("T")


class Evaluator:
    """An objective's model and data, ready for any number of parameter vectors.

    Made anew for each public operation, so that whatever the caller has changed of the model since
    the last one is seen.

    Args:
        objective: the loss.
        is_first: whether it is not known yet if the loss takes gradients.

    Attributes:
        replica: the copy.
        shared: objects that the copy shares with the model, as the loss reads them too.
        loss_modules: modules that the loss and the metrics use; those of the model are no part.
        may_fuse: whether the caller lets torch take fused kernels of attention.

    Raises:
        ModelError: the model has other parameters than when the objective was made.
        ObjectiveError: the data have changed.
    """

    def __init__(self, objective: BaseObjective, is_first: bool = False) -> None:
        self.objective = objective
        self._is_first = is_first
        # Tensors made in inference mode could not be written to outside of it.
        with (
            LENT,
            torch.inference_mode(False),
            random_fork(objective.model),
            torch.no_grad(),
        ):
            objective.check_unchanged()
            # Once for each evaluator, as the caller may change what the loss reaches between two.
            reached = objects_reached(functions_of(objective))
            self.shared = shared_objects(unwrapped(objective.model), reached)
            own = {*objective.model.modules(), *unwrapped(objective.model).modules()}
            self.loss_modules = [each for each in modules_among(reached) if each not in own]
            self.replica = self.make_replica()
        self.may_fuse = torch.backends.mha.get_fastpath_enabled()
        self._loss = AttributeSnapshot([])
        self._depth = 0

    def make_replica(self) -> Replica:
        """Another copy of the model, as vectors are evaluated on."""
        objective = self.objective
        return Replica(
            objective.model,
            objective.layout,
            objective.base_sides,
            objective.widens,
            objective.deletes,
            self.shared,
        )

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the model evaluates what was written; afterwards nothing of it has changed."""
        if self._depth:
            yield
            return
        model, grads = self.objective.model, self.objective.needs_gradients
        with (
            LENT,
            torch.inference_mode(False),
            evaluation_mode(unwrapped(model), grads or self._is_first),
            unfused(),
            self.replica.linked(model),
            torch.set_grad_enabled(grads),
        ):
            self._depth += 1
            self._loss = AttributeSnapshot(self.loss_modules, self.shared)
            try:
                yield
            finally:
                self._depth -= 1
                self._loss.put_back()

    def write(self, vector: torch.Tensor, sides: Sides | None = None) -> None:
        """Writes a vector (P,) into the copy; inside `lent` alone."""
        self.replica.write(vector, sides)
        if self.objective.buffers == "recalibrated":
            with torch.set_grad_enabled(self.objective.needs_gradients):
                recalibrate(self.objective, self.replica)

    def evaluate(
        self,
        parameters: npt.NDArray[Any] | torch.Tensor,
        samples: int | None = None,
        sides: Sides | None = None,
        parts: Sequence[Part] | None = None,
    ) -> Evaluation:
        """Evaluates one parameter vector.

        Args:
            parameters: (P,).
            samples: of the first so many samples only.
            sides: side tensors by name; None for those of the objective.
            parts: of these parts of the data only.

        Raises:
            ModelError: the vector has another length.
        """
        vector = self._vector(parameters)
        chosen = self.objective.data.parts(samples) if parts is None else parts
        with self.lent():
            self.write(vector, sides)
            counts = [self.count_part(part) for part in chosen]
        return self.objective.evaluation_of(counts)

    def count_part(self, part: Part | torch.Tensor) -> Count:
        """Sums over a part of the data, at the vector that was written."""
        return self.with_batch(part, self.objective.count_batch)

    def with_batch(
        self, part: Part | torch.Tensor, use: Callable[[torch.nn.Module, Batch], T]
    ) -> T:
        """What a function makes of the model and of a part of the data.

        Args:
            part: of the data.
            use: called with the model, at the vector that was written, and a batch.
        """
        batch = self.objective.data.load(part)
        try:
            with dropping(self.replica.model, self._mask_seed(part)):
                return use(self.replica.model, batch)
        except (LosspathError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as cause:
            raise failed(batch, cause) from cause
        finally:
            self.restore()

    def _mask_seed(self, part: Part | torch.Tensor) -> int | None:
        """What decides the masks of a part of the data; the same at every vector."""
        if self.objective.masks is None or isinstance(part, torch.Tensor):
            return None
        where = part.start if isinstance(part, range) else part
        return int(digest_of(self.objective.masks, where)[:15], 16)

    def restore(self) -> None:
        """Puts back what a pass or the loss has changed, of the copy and of the loss."""
        self.replica.restore()
        self.restore_loss()

    def loss_learns(self) -> bool:
        """Whether modules of the loss have parameters that are trained and not the model's."""
        own = {id(parameter) for parameter in self.objective.model.parameters()}
        return any(
            parameter.requires_grad and id(parameter) not in own
            for module in self.loss_modules
            for parameter in module.parameters(recurse=False)
        )

    def restore_loss(self) -> None:
        """Puts back what the loss has changed of its own modules."""
        self._loss.put_back()

    def count(
        self, vector: torch.Tensor, outputs: Any, part: range, sides: Sides | None = None
    ) -> Count:
        """Sums over some samples whose outputs at a vector are there already."""
        data = self.objective.data
        assert isinstance(data, Samples)
        self.replica.write(vector, sides)  # for a loss that reads the model
        try:
            return self.objective.count_outputs(outputs, data.load_targets(part))
        finally:
            self._loss.put_back()

    def outputs(self, batch: Batch) -> Any:
        """A forward pass at the vector that was written, which leaves the copy as it was."""
        try:
            return self.replica.model(*batch.args, **batch.kwargs)
        finally:
            self.restore()

    def _vector(self, parameters: npt.NDArray[Any] | torch.Tensor) -> torch.Tensor:
        if isinstance(parameters, torch.Tensor) and not parameters.is_complex():
            vector = parameters
        else:
            array = as_numbers("parameters", "one state (P,), such as path[-1]", parameters)
            vector = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        count = self.objective.parameter_count
        if vector.shape != (count,):
            raise ModelError(
                f"expected a vector of {count:,} parameters, got shape {tuple(vector.shape)}"
            )
        return vector


def functions_of(objective: BaseObjective) -> list[Callable[..., Any]]:
    """The loss and the metrics."""
    return [objective.loss_fn, *(metric.function for metric in objective.metrics.values())]
