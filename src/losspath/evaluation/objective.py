"""The loss of a model on fixed data, as a function of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from losspath.errors import ArgumentError, ModelError, ObjectiveError
from losspath.evaluation.undisturbed import undisturbed
from losspath.files import digest_of
from losspath.parameters import Layout, flatten_parameters, unflatten

LossFunction = Callable[[Any, torch.Tensor], Any]

# A mean over parts may differ from the whole by the rounding of float32 sums.
_ROUNDING = 1e-4
# Enough to tell one function from another: the samples have a digest of their own.
_FINGERPRINT_SAMPLES = 1000


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

    @classmethod
    def of(cls, counts: Iterable[Count]) -> Evaluation:
        """The evaluation of samples that were counted in parts."""
        total, weight, correct, answers = 0.0, 0.0, 0, 0
        for count in counts:
            total += count.total
            weight += count.weight
            correct += count.correct
            answers += count.answers
        return cls(
            loss=total / weight if weight else float("nan"),
            accuracy=correct / answers if answers else None,
        )


@dataclass(frozen=True)
class Count:
    """What some samples give.

    Attributes:
        total: the sum of their losses.
        weight: what to divide it by, with that of the others.
        correct: how many targets are the class with the largest output.
        answers: how many targets there are; 0 where there is no accuracy.
    """

    total: float
    weight: float
    correct: int
    answers: int


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
        self._fingerprints: dict[str, list[Evaluation]] = {}
        self._check()

    @property
    def rounding(self) -> list[object]:
        """What decides how sums round, as JSON values."""
        return [str(torch.__version__), self._device.type, torch.get_num_threads()]

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
        parts = [(str(data.dtype), _bytes_of(data)) for data in (self._inputs, self._targets)]
        return digest_of(*(item for part in parts for item in part))

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
        vectors = np.atleast_2d(parameters)
        # Buffers have their share in the losses, and may have changed since the last call.
        key = digest_of(vectors, *(_bytes_of(buffer) for buffer in self.model.buffers()))
        if key not in self._fingerprints:
            few = min(len(self), _FINGERPRINT_SAMPLES)
            self._fingerprints[key] = [self.evaluate_first(vector, few) for vector in vectors]
        values = self._fingerprints[key]
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
        if isinstance(parameters, np.ndarray):
            parameters = np.require(parameters, requirements=["C", "W"])
        vector = torch.as_tensor(parameters)
        if vector.shape != (self.parameter_count,):
            raise ModelError(
                f"expected a vector of {self.parameter_count:,} parameters, got shape "
                f"{tuple(vector.shape)}"
            )
        return self._evaluate(vector, len(self))

    def evaluate_first(self, parameters: npt.NDArray[Any], samples: int) -> Evaluation:
        """Evaluates one parameter vector on the first samples only."""
        return self._evaluate(torch.from_numpy(np.array(parameters)), samples)

    def _evaluate(self, vector: torch.Tensor, samples: int) -> Evaluation:
        with undisturbed(self.model), torch.no_grad():
            passes = self.passes(self.tensors(vector), samples)
            counts = [
                Count(*self._loss(outputs, targets), *count_correct(outputs, targets))
                for outputs, targets in passes
            ]
        return Evaluation.of(counts)

    def passes(
        self, parameters: Mapping[str, torch.Tensor], samples: int | None = None
    ) -> Iterator[tuple[Any, torch.Tensor]]:
        """Forward passes over the data, batch by batch, in whatever mode the model is in.

        Args:
            parameters: tensors by name; gradients flow back to them where torch records any.
            samples: of the first so many only; None for all.

        Yields:
            Outputs and targets of a batch.
        """
        count = len(self) if samples is None else min(samples, len(self))
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            yield self._forward(parameters, slice(start, stop))

    @property
    def device(self) -> torch.device:
        """Where the model and the data are."""
        return self._device

    def inputs_of(self, start: int, stop: int) -> torch.Tensor:
        """The inputs of samples start … stop−1, as they are staged: not to be written to."""
        return self._inputs[start:stop]

    def targets_of(self, start: int, stop: int) -> torch.Tensor:
        """The targets of samples start … stop−1: not to be written to."""
        return self._targets[start:stop]

    def count(self, outputs: Any, start: int, stop: int) -> Count:
        """Loss and right answers of the model's outputs for samples start … stop−1."""
        targets = self._targets[start:stop].clone()
        return Count(*self._loss(outputs, targets), *count_correct(outputs, targets))

    def tensors(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """A parameter vector (P,) as tensors by name, on the model's device: a copy."""
        wide = any(entry.dtype in ("float64", "complex128") for entry in self.layout.entries)
        dtype = torch.float64 if wide else torch.float32
        # A copy, as a layer may change its weights in place (an embedding with max_norm).
        return unflatten(vector.to(self._device, dtype, copy=True), self.layout)

    def _forward(
        self, parameters: Mapping[str, torch.Tensor], samples: slice | torch.Tensor
    ) -> tuple[Any, torch.Tensor]:
        # Clones for each batch, so that a model that changes its buffers even in evaluation mode,
        # or its input, changes copies, and no batch sees what another did.
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        inputs, targets = self._inputs[samples].clone(), self._targets[samples].clone()
        state = {**parameters, **buffers}
        return torch.func.functional_call(self.model, state, (inputs,)), targets

    def result(self, outputs: Any, targets: torch.Tensor) -> Any:
        """What the loss function returns: a mean, or a pair (sum, weight), with torch's graph.

        Raises:
            ObjectiveError: it is a tensor of several numbers.
        """
        if isinstance(outputs, torch.Tensor) and outputs.dtype in (torch.float16, torch.bfloat16):
            outputs = outputs.float()
        result = self.loss_fn(outputs, targets)
        if isinstance(result, torch.Tensor) and result.numel() != 1:
            raise ObjectiveError(
                f"expected loss_fn to return one mean or a pair (sum, weight), got a tensor of "
                f"shape {tuple(result.shape)}; take its mean"
            )
        return result

    def _loss(self, outputs: Any, targets: torch.Tensor) -> tuple[float, float]:
        """The sum of the losses and the weight to divide it by."""
        result = self.result(outputs, targets)
        try:
            if isinstance(result, (tuple, list)):
                total, weight = result
                return float(total), float(weight)
            return float(result) * len(targets), float(len(targets))
        except (TypeError, ValueError, RuntimeError):
            raise ObjectiveError(
                "expected loss_fn to return one mean or a pair (sum, weight), got "
                f"{type(result).__name__}"
            ) from None

    def _check(self) -> None:
        count = min(len(self), self.batch_size)
        # Samples from all over the data, which may be sorted.
        spread = torch.linspace(0, len(self) - 1, count, dtype=torch.float64).long()
        third = max(1, count // 3)
        with undisturbed(self.model), torch.no_grad():
            state = self.tensors(torch.from_numpy(flatten_parameters(self.model)))
            first, targets = self._forward(state, spread)
            second, _ = self._forward(state, spread)
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
            parts = spread[:third], spread[third:]
            sums = [self._loss(*self._forward(state, part)) for part in parts]
            if isinstance(first, torch.Tensor) and first.shape[:1] == targets.shape[:1]:
                # One by one: a mean with weights of its own hides in large parts.
                few = torch.linspace(0, count - 1, min(count, 64), dtype=torch.float64).long()
                singles = [self._loss(first[i : i + 1], targets[i : i + 1]) for i in few.tolist()]
                self._check_mean(self._loss(first[few], targets[few]), singles, "loss")
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
        # torch takes neither read-only arrays nor negative strides.
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
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


def count_correct(outputs: Any, targets: torch.Tensor) -> tuple[int, int]:
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
