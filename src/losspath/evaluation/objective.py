"""The loss of a model on fixed data, as a function of its parameters."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ArgumentError, ModelError, ObjectiveError
from losspath.files import digest_of
from losspath.parameters import Layout, flatten_parameters, unflatten

LossFunction = Callable[[Any, torch.Tensor], Any]

# A mean over parts may differ from the whole by the rounding of float32 sums.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Evaluation:
    """What one parameter vector gives.

    Attributes:
        loss: the mean loss; it may be NaN or infinite.
        accuracy: the share of targets that are the class with the largest output; None where
            there is none.
    """

    loss: float
    accuracy: float | None


class Objective:
    """The mean loss of a model over fixed data, as a function of the parameters.

    Always evaluates in evaluation mode (dropout off, running statistics of normalisation layers)
    and without gradients. The model's parameters, mode and buffers, and the global random state,
    are after every call what they were before.

    Args:
        model: the network; its own buffers are used at every point.
        inputs: tensor or array (N, …), moved to the model's device once.
        targets: tensor or array (N, …).
        loss_fn: ``loss_fn(outputs, targets)`` returns the mean over the samples it is given, or a
            pair (sum, weight), such as the sum of losses and the number of tokens. Anything else
            is refused.
        batch_size: samples evaluated at a time; 250 is near the best on CPUs.
        buffers: "model" uses the model's current buffers.
        name: what to call the loss in figures and provenance; by default the function's name.

    Raises:
        ObjectiveError: no data, lengths that differ, two evaluations of one state that differ, a
            loss that is neither a mean nor a pair, or outputs that depend on what else is in the
            batch.

    Example:
        >>> objective = Objective(model, x, y, torch.nn.functional.cross_entropy)  # doctest: +SKIP
        >>> objective(path[-1]).loss  # doctest: +SKIP
    """

    def __init__(
        self,
        model: torch.nn.Module,
        inputs: torch.Tensor | npt.NDArray[Any],
        targets: torch.Tensor | npt.NDArray[Any],
        loss_fn: LossFunction,
        *,
        batch_size: int = 250,
        buffers: Literal["model"] = "model",
        name: str | None = None,
    ) -> None:
        if buffers != "model":
            raise ArgumentError(f'expected buffers="model", got {buffers!r}')
        if batch_size < 1:
            raise ArgumentError(f"expected batch_size ≥ 1, got {batch_size}")
        self.model = model
        self.loss_fn = loss_fn
        self.batch_size = batch_size
        self.name = name or str(getattr(loss_fn, "__name__", type(loss_fn).__name__))
        self.layout = Layout.of(model, dtype="float64", allow_complex=True)
        self._device = next(model.parameters()).device
        self._inputs = _stage(inputs, "inputs", self._device)
        self._targets = _stage(targets, "targets", self._device)
        if len(self._inputs) != len(self._targets):
            raise ObjectiveError(
                f"expected as many targets as inputs, got {len(self._targets)} targets for "
                f"{len(self._inputs)} inputs"
            )
        if len(self._inputs) == 0:
            raise ObjectiveError("expected at least one sample, got none")
        self._check()

    def __len__(self) -> int:
        """The number of samples."""
        return len(self._inputs)

    @property
    def parameter_count(self) -> int:
        """P, the length of a parameter vector."""
        return self.layout.parameter_count

    @cached_property
    def samples_digest(self) -> str:
        """Identifies the data."""
        return digest_of(_bytes_of(self._inputs), _bytes_of(self._targets))

    @property
    def provenance(self) -> dict[str, Any]:
        """What the losses depend on, as JSON values."""
        return {
            "samples": len(self),
            "samples_digest": self.samples_digest,
            "loss": self.name,
            "batch_size": self.batch_size,
            "device": self._device.type,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        }

    def fingerprint(self, parameters: npt.NDArray[Any]) -> list[object]:
        """What tells this objective from another at these parameters, as JSON values.

        Samples, layout and name do not say what the model computes between them, nor what a loss
        function of one's own does; its values do.

        Args:
            parameters: (P,) or (k, P) parameter vectors to evaluate.
        """
        values = [self(vector) for vector in np.atleast_2d(parameters)]
        return [
            self.samples_digest,
            self.name,
            self.batch_size,
            self.layout.to_json(),
            [[value.loss, value.accuracy] for value in values],
        ]

    def __call__(self, parameters: npt.NDArray[Any] | torch.Tensor) -> Evaluation:
        """Evaluates one parameter vector.

        Args:
            parameters: (P,) in the order of a recorded state.

        Raises:
            ModelError: the vector has another length than the model has parameters.
        """
        vector = torch.as_tensor(parameters)
        if vector.shape != (self.parameter_count,):
            raise ModelError(
                f"expected a vector of {self.parameter_count:,} parameters, got shape "
                f"{tuple(vector.shape)}"
            )
        with _undisturbed(self.model), torch.no_grad():
            state = self._state(vector)
            total, weight, correct, answers = 0.0, 0.0, 0, 0
            for start in range(0, len(self), self.batch_size):
                outputs, targets = self._forward(state, slice(start, start + self.batch_size))
                batch_total, batch_weight = self._loss(outputs, targets)
                total += batch_total
                weight += batch_weight
                right, asked = _count_correct(outputs, targets)
                correct += right
                answers += asked
        return Evaluation(
            loss=total / weight if weight else float("nan"),
            accuracy=correct / answers if answers else None,
        )

    def _state(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        wide = any(entry.dtype in ("float64", "complex128") for entry in self.layout.entries)
        staged = vector.to(self._device, torch.float64 if wide else torch.float32)
        # Clones, so that a model that changes its buffers even in evaluation mode changes copies.
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        return {**unflatten(staged, self.layout), **buffers}

    def _forward(self, state: dict[str, torch.Tensor], samples: slice) -> tuple[Any, torch.Tensor]:
        outputs = torch.func.functional_call(self.model, state, (self._inputs[samples],))
        return outputs, self._targets[samples]

    def _loss(self, outputs: Any, targets: torch.Tensor) -> tuple[float, float]:
        """The sum of the losses and the weight to divide it by."""
        result = self.loss_fn(outputs, targets)
        if isinstance(result, (tuple, list)) and len(result) == 2:
            return float(result[0]), float(result[1])
        if isinstance(result, torch.Tensor) and result.numel() != 1:
            raise ObjectiveError(
                f"expected loss_fn to return one mean or a pair (sum, weight), got a tensor of "
                f"shape {tuple(result.shape)}; take its mean"
            )
        try:
            return float(result) * len(targets), float(len(targets))
        except (TypeError, ValueError):
            raise ObjectiveError(
                "expected loss_fn to return one mean or a pair (sum, weight), got "
                f"{type(result).__name__}"
            ) from None

    def _check(self) -> None:
        count = min(len(self), self.batch_size)
        whole, third = slice(0, count), slice(0, max(1, count // 3))
        rest = slice(third.stop, count)
        with _undisturbed(self.model), torch.no_grad():
            vector = torch.from_numpy(flatten_parameters(self.model))
            first, targets = self._forward(self._state(vector), whole)
            second, _ = self._forward(self._state(vector), whole)
            one, two = self._loss(first, targets), self._loss(second, targets)
            if not _same(one[0], two[0], self._tolerance) or _outputs_differ(
                first, second, self._tolerance
            ):
                raise ObjectiveError(
                    "two evaluations of the same state differ: the model is random even in "
                    "evaluation mode, so there is no surface to draw; look for dropout or noise "
                    "that ignores model.eval()"
                )
            if count < 2:
                return
            parts = [self._forward(self._state(vector), part) for part in (third, rest)]
            sums = [self._loss(*part) for part in parts]
            if isinstance(first, torch.Tensor):
                divided = [self._loss(first[part], targets[part]) for part in (third, rest)]
                self._check_mean(one, divided, "loss")
        self._check_mean(one, sums, "batch")

    def _check_mean(
        self, whole: tuple[float, float], parts: list[tuple[float, float]], what: str
    ) -> None:
        mean = whole[0] / whole[1] if whole[1] else float("nan")
        weight = sum(part[1] for part in parts)
        again = sum(part[0] for part in parts) / weight if weight else float("nan")
        if _same(mean, again, _ROUNDING):
            return
        if what == "loss":
            raise ObjectiveError(
                f"expected loss_fn to return a mean over samples, but it gives {mean:.6g} for a "
                f"batch and {again:.6g} as the mean over its two parts; use a mean, or return "
                "(sum, weight)"
            )
        raise ObjectiveError(
            f"the outputs for a sample depend on what else is in its batch ({mean:.6g} against "
            f"{again:.6g} in two parts), so the loss depends on the batch size; look for batch "
            "statistics that are used in evaluation mode"
        )

    @property
    def _tolerance(self) -> float:
        # CPU kernels repeat exactly; some CUDA kernels sum in no fixed order.
        return 0.0 if self._device.type == "cpu" else 1e-5


def _stage(
    values: torch.Tensor | npt.NDArray[Any], what: str, device: torch.device
) -> torch.Tensor:
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(values)
    if not isinstance(values, torch.Tensor):
        raise ArgumentError(f"expected {what} as a tensor or array, got {type(values).__name__}")
    if values.dim() == 0:
        raise ArgumentError(f"expected {what} with one entry for each sample, got one number")
    return values.detach().to(device)


def _bytes_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    if tensor.dtype == torch.bfloat16:  # NumPy lacks it
        tensor = tensor.view(torch.int16)
    array: npt.NDArray[Any] = tensor.cpu().numpy()
    return array


def _same(one: float, other: float, tolerance: float) -> bool:
    if one == other or (one != one and other != other):
        return True
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-6)


def _outputs_differ(one: Any, other: Any, tolerance: float) -> bool:
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return False  # the losses were compared
    return not torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


def _count_correct(outputs: Any, targets: torch.Tensor) -> tuple[int, int]:
    """How many targets are the class with the largest output, and how many there are.

    For integer targets, and outputs with one more dimension: the second (N, K, …), as in torch's
    losses, or else the last (N, …, K).
    """
    if not isinstance(outputs, torch.Tensor) or outputs.dim() != targets.dim() + 1:
        return 0, 0
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        return 0, 0
    if outputs.shape[:1] + outputs.shape[2:] == targets.shape:
        answers = outputs.argmax(dim=1)
    elif outputs.shape[:-1] == targets.shape:
        answers = outputs.argmax(dim=-1)
    else:
        return 0, 0
    asked = targets >= 0  # negative targets are how losses are told to ignore a position
    return int(((answers == targets) & asked).sum()), int(asked.sum())


@contextmanager
def _undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module's mode and all random states as before."""
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=devices):
            for module, _ in modes:
                module.training = False
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
