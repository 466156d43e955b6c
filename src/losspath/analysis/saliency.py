"""Which parts of an input a network's prediction depends on (with Captum)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.analysis.diagnostics import are_classes, form_of, scores_of
from losspath.analysis.outputs import evaluating, passes
from losspath.arguments import (
    OBJECTIVE,
    WHOLE,
    checked,
    indices,
    mapping,
    optional,
    state,
)
from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.data import Batch
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.extras import extra

Floats = npt.NDArray[np.float64]

GRADIENT, INTEGRATED, OCCLUSION = "gradient", "integrated gradients", "occlusion"

# Occluded windows are about a sixth of an image wide, and overlap by half.
_WINDOW_SHARE = 6
_BATCH = 50


@dataclass(frozen=True)
class Saliency:
    """How much each place of some inputs counts for what a network puts out.

    Attributes:
        inputs: (n, …) the inputs, as the network sees them.
        maps: by method, (n, …) of the inputs' form without channels: what is large counts. Of
            gradients the absolute value, summed over channels; of occlusion the fall of the score.
        targets: (n,) the right classes, or the right values where the network puts out one number;
            None where a sample has more than one.
        predictions: (n,) the network's classes; None where its outputs are not scores of classes.
        scores: (n,) the numbers that are explained; None where they are not known.
    """

    inputs: Floats = field(repr=False)
    maps: dict[str, Floats] = field(repr=False)
    targets: npt.NDArray[Any] | None
    predictions: npt.NDArray[np.int64] | None
    scores: Floats | None = None

    def __repr__(self) -> str:
        return f"Saliency: inputs {tuple(self.inputs.shape)}, by {', '.join(self.maps)}"


@checked(
    objective=OBJECTIVE,
    parameters=state,
    samples=indices,
    column=optional(WHOLE),
    sides=optional(mapping),
)
def saliency(
    objective: Objective,
    parameters: npt.ArrayLike,
    samples: Sequence[int],
    *,
    column: int | None = None,
    sides: Sides | None = None,
) -> Saliency:
    """Shows what a network's outputs hang on, by three methods.

    The score that is explained is that of the network's own answer where outputs are scores of
    classes, and the output itself where it is a single number. The methods are the gradient [1],
    integrated gradients from an input of zeros [2], and occlusion by a window of zeros [3].

    Args:
        objective: its model and data: inputs (N, C, H, W), (N, C, L) or (N, F) of floats, outputs
            (N, K) or (N,).
        parameters: (P,) the state of the network.
        samples: which samples.
        column: which column of the outputs to explain; by default that of the answer, or the only
            one.
        sides: buffers and frozen parameters of that state, by name; by default the model's own.

    Raises:
        ArgumentError: no sample, or one that is not there, or no such column.
        UnsupportedError: inputs or outputs of another form; or several columns that are not scores
            of classes, and no column given.

    References:
        [1] K. Simonyan, A. Vedaldi and A. Zisserman, "Deep inside convolutional networks", 2013.
        [2] M. Sundararajan, A. Taly and Q. Yan, "Axiomatic attribution for deep networks", 2017.
        [3] M. Zeiler and R. Fergus, "Visualizing and understanding convolutional networks", 2014.
    """
    count = len(objective)
    if not len(samples) or not all(0 <= sample < count for sample in samples):
        raise ArgumentError(f"expected samples from 0 to {count - 1}, got {list(samples)}")
    inputs = torch.cat([objective.inputs_of(i, i + 1) for i in samples])
    targets = torch.cat([objective.targets_of(i, i + 1) for i in samples])
    if not inputs.is_floating_point() or inputs.dim() not in (2, 3, 4):
        raise UnsupportedError(
            f"saliency needs inputs (N, C, H, W), (N, C, L) or (N, F) of floats, got "
            f"{form_of(inputs)}"
        )
    with evaluating(objective, parameters, sides) as model:

        def scores(batch: torch.Tensor) -> Any:
            # A copy, as a network may work in place on its input.
            given = [Batch((batch.clone(),), {}, None, len(batch))]
            ((outputs, _),) = passes(objective, model, given)
            found = scores_of(outputs)
            is_row = isinstance(found, torch.Tensor) and found.shape == batch.shape[:1]
            return found[:, None] if is_row else found

        outputs = scores(inputs)
        explained = _columns(outputs, targets, column)
        with torch.enable_grad():
            maps = _maps(scores, inputs, explained)
    single = targets.reshape(len(targets), -1)
    return Saliency(
        inputs.double().cpu().numpy(),
        {name: _without_channels(values) for name, values in maps.items()},
        single[:, 0].cpu().numpy() if single.shape[1] == 1 else None,
        outputs.argmax(dim=1).cpu().numpy() if are_classes(outputs, targets) else None,
        outputs.gather(1, explained[:, None])[:, 0].double().cpu().numpy(),
    )


def _columns(outputs: Any, targets: torch.Tensor, column: int | None) -> torch.Tensor:
    """(n,) which column of the outputs is explained for each sample."""
    if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2:
        raise UnsupportedError(
            "saliency needs outputs (N, K) or (N,), got "
            + (
                str(tuple(outputs.shape))
                if isinstance(outputs, torch.Tensor)
                else f"{type(outputs).__name__}"
            )
        )
    count = outputs.shape[1]
    if column is not None and not 0 <= column < count:
        raise ArgumentError(f"expected column from 0 to {count - 1}, got {column}")
    if column is None and count > 1 and not are_classes(outputs, targets):
        raise UnsupportedError(
            f"the {count} outputs of a sample are not scores of classes, as targets are "
            f"{form_of(targets)}; give column=…, the one to explain"
        )
    if column is None and count > 1:
        return outputs.argmax(dim=1)
    return torch.full((len(outputs),), column or 0, device=outputs.device)


def _maps(
    scores: Callable[[torch.Tensor], Any], inputs: torch.Tensor, columns: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What each method makes of the scores in these columns."""
    with extra("diagnose"):
        from captum.attr import IntegratedGradients, Occlusion
        from captum.attr import Saliency as Gradient

    window = _window(tuple(inputs.shape[1:]))
    return {
        GRADIENT: Gradient(scores).attribute(inputs.clone().requires_grad_(), target=columns),
        INTEGRATED: IntegratedGradients(scores)
        .attribute(inputs, target=columns, internal_batch_size=max(_BATCH, len(inputs)))
        .abs(),
        OCCLUSION: Occlusion(scores).attribute(
            inputs,
            sliding_window_shapes=window,
            strides=(window[0], *(max(1, w // 2) for w in window[1:])),
            target=columns,
            perturbations_per_eval=_BATCH,
        ),
    }


def _window(shape: tuple[int, ...]) -> tuple[int, ...]:
    """All channels of a small part of an image or series; single features of other inputs."""
    if len(shape) == 1:
        return (1,)
    return (shape[0], *(max(1, round(size / _WINDOW_SHARE)) for size in shape[1:]))


def _without_channels(values: torch.Tensor) -> Floats:
    summed = values.detach().double()
    if summed.dim() > 2:
        # Occlusion gives every channel of a window the same: their mean, and of gradients the sum,
        # differ by a factor that no picture shows.
        summed = summed.sum(dim=1)
    array: Floats = summed.cpu().numpy()
    return array
