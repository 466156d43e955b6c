"""What an objective is of: a model, data, a loss, and how vectors are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch

from losspath.arguments import described
from losspath.errors import ArgumentError, ModelError, UnsupportedError
from losspath.evaluation.counter import BatchCounter
from losspath.evaluation.data import Batch, Data, Samples
from losspath.evaluation.isolation.evaluation_mode import LENT
from losspath.evaluation.isolation.replica import Sides, merged_modules
from losspath.evaluation.quantities import metrics_of
from losspath.parameters import Layout, in_order, named_parameters

Buffers = Literal["model", "recorded", "recalibrated"]


class BaseObjective(BatchCounter):
    """What evaluators and checks know of an objective; `Objective` is asked for losses.

    Attributes:
        model: the caller's network.
        data: what the loss is over.
        buffers: what buffers vectors are evaluated with; None until that is known.
        name: what the loss is called.
        checked: whether it was held against the model as its owner uses it.
        layout: what vectors are of.
        base_sides: side tensors (buffers, frozen parameters) in place of the model's own.
        base_key: identifies them.
        needs_gradients: whether the model or the loss takes gradients.
        widens: whether half precisions are evaluated in float32.
        deletes: whether a buffer that a state does not have is no attribute, rather than None.
        reads_pass: whether the loss takes more from a forward pass than its outputs.
        moves: how far the loss moves between very different parameters.
        masks: seeds of the masks of dropout; None for no dropout.
        notes: what a reader of the losses should know.
        device: of the model.
    """

    data: Data

    def _begin(
        self,
        model: torch.nn.Module,
        loss_fn: Callable[..., Any],
        buffers: Buffers | None,
        metrics: Mapping[str, Any] | None,
        name: str | None,
        check: bool,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise ArgumentError(
                f"expected model as a torch.nn.Module, got {described(model)}; give the network "
                "itself"
            )
        super().__init__(loss_fn, metrics_of(metrics))
        self.model = model
        self.buffers = buffers
        self.name = name or _name_of(loss_fn)
        self.checked = check
        self.layout = Layout.of(model, dtype="float64", allow_complex=True)
        self.base_sides: Sides | None = None
        self.base_key = ""
        self.needs_gradients = False
        self.widens = True
        self.deletes = False
        self.reads_pass = False
        self.moves = 1.0
        self.masks: Sequence[int] | None = None
        self.notes: list[str] = []
        self.device = next(model.parameters()).device
        if self.device.type == "meta":
            raise ModelError(
                "expected a model with numbers, got one on the meta device, which has none; make "
                'it on a real device, as by model.to_empty(device="cpu"), and load its weights'
            )
        self._names = tuple(name for name, _ in named_parameters(model))
        self._merged = merged_modules(model)

    @property
    def batch_size(self) -> int:
        """How many samples the plain loop evaluates at a time."""
        return self.data.batch_size

    @property
    def rounding(self) -> list[object]:
        """What decides how sums round, as JSON values."""
        return [str(torch.__version__), self.device.type, torch.get_num_threads()]

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.data)

    @property
    def parameter_count(self) -> int:
        """P, the length of a parameter vector."""
        return self.layout.parameter_count

    @cached_property
    def whole_layout(self) -> Layout:
        """The layout of all parameters, frozen ones too; without those where they cannot be."""
        try:
            with LENT:
                return Layout.of(self.model, dtype="float64", allow_complex=True, parameters="all")
        except ModelError:  # integers, as of quantised layers
            return self.layout

    @property
    def takes_one_tensor(self) -> bool:
        """Whether the model takes one tensor of samples, and the loss its outputs."""
        return isinstance(self.data, Samples) and self.data.is_one_tensor

    @property
    def _is_half(self) -> bool:
        return any(e.dtype in ("float16", "bfloat16") for e in self.layout.parameters)

    @cached_property
    def samples_digest(self) -> str:
        """Identifies the data."""
        return self.data.digest

    @property
    def provenance(self) -> dict[str, Any]:
        """What the losses depend on, as JSON values."""
        return {
            "samples": len(self),
            "samples_digest": self.samples_digest,
            "loss": self.name,
            "batch_size": self.batch_size,
            "buffers": self.buffers or "model",
            "checked": self.checked,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def check_unchanged(self) -> None:
        """Raises where the model has other parameters by now, or large data have changed.

        Raises:
            ModelError: a parameter has come, gone or changed its form, or an adapter was merged.
            ObjectiveError: the data.
        """
        in_order(self.model, self.layout)
        names = tuple(name for name, _ in named_parameters(self.model))
        if names != self._names:
            changed = sorted({*names} ^ {*self._names}) or ["their order"]
            raise ModelError(
                f"the model has other parameters than when the objective was made ({changed[0]}); "
                "make another objective for the changed model"
            )
        if (merged := merged_modules(self.model)) != self._merged:
            raise ModelError(
                f"{min(merged ^ self._merged) or 'the model'} was "
                f"{'not ' if merged - self._merged else ''}merged when the objective was made, and "
                "now it is otherwise; put it back as it was, or make another objective"
            )
        self.data.check_unchanged()

    def batches(self, samples: int | None = None) -> Iterator[Batch]:
        """Copies of the data, batch by batch, of the first samples only if a number is given."""
        for part in self.data.parts(samples):
            yield self.data.load(part)

    def inputs_of(self, start: int, stop: int) -> torch.Tensor:
        """The inputs of samples start … stop−1, as they are staged: not to be written to."""
        inputs: torch.Tensor = self._single().inputs[start:stop]
        return inputs

    def targets_of(self, start: int, stop: int) -> Any:
        """The targets of samples start … stop−1: not to be written to."""
        return self._single().targets[start:stop]

    def _single(self) -> Samples:
        if not isinstance(self.data, Samples) or not self.data.is_one_tensor:
            raise UnsupportedError(
                "this needs an objective whose inputs are one tensor, Objective(model, inputs, "
                "targets, loss_fn); the given one has batches or several inputs"
            )
        return self.data


def _name_of(function: Any) -> str:
    """What a function is called; "" for a lambda, which has no name."""
    name = str(getattr(function, "__name__", type(function).__name__))
    return "" if name == "<lambda>" else name
