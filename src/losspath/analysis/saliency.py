"""Which parts of an input a network's answer hangs on (with Captum)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.analysis.diagnostics import evaluating
from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.objective import Objective

Floats = npt.NDArray[np.float64]

GRADIENT, INTEGRATED, OCCLUSION = "gradient", "integrated gradients", "occlusion"

# Occluded windows are about a sixth of an image wide, and overlap by half.
_WINDOW_SHARE = 6
_BATCH = 50


@dataclass(frozen=True)
class Saliency:
    """How much each place of some inputs counts for the network's answers.

    Attributes:
        inputs: (n, …) the inputs, as the network sees them.
        maps: by method, (n, …) of the inputs' form without channels: what is large counts. Of
            gradients the absolute value, summed over channels; of occlusion the fall of the score.
        targets: (n,) the right classes.
        answers: (n,) the network's.
    """

    inputs: Floats = field(repr=False)
    maps: dict[str, Floats] = field(repr=False)
    targets: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]


def saliency(objective: Objective, parameters: npt.ArrayLike, samples: Sequence[int]) -> Saliency:
    """Shows what a network's answers hang on, by three methods.

    The score that is explained is that of the network's own answer. The methods are the gradient
    [1], integrated gradients from an input of zeros [2], and occlusion by a window of zeros [3].

    Args:
        objective: its model and data: inputs (N, C, H, W), (N, C, L) or (N, F) of floats, outputs
            (N, K).
        parameters: (P,) the state of the network.
        samples: which samples.

    Raises:
        ArgumentError: no sample, or one that is not there.
        UnsupportedError: inputs or outputs of another form.

    References:
        [1] K. Simonyan, A. Vedaldi and A. Zisserman, "Deep inside convolutional networks", 2013.
        [2] M. Sundararajan, A. Taly and Q. Yan, "Axiomatic attribution for deep networks", 2017.
        [3] M. Zeiler and R. Fergus, "Visualizing and understanding convolutional networks", 2014.
    """
    from captum.attr import IntegratedGradients, Occlusion
    from captum.attr import Saliency as Gradient

    count = len(objective)
    if not samples or not all(0 <= sample < count for sample in samples):
        raise ArgumentError(f"expected samples from 0 to {count - 1}, got {list(samples)}")
    inputs = torch.cat([objective.inputs_of(i, i + 1) for i in samples]).clone()
    targets = torch.cat([objective.targets_of(i, i + 1) for i in samples])
    if not inputs.is_floating_point() or inputs.dim() not in (2, 3, 4):
        raise UnsupportedError(
            f"saliency needs inputs (N, C, H, W), (N, C, L) or (N, F) of floats, got "
            f"{tuple(inputs.shape)} of {inputs.dtype}"
        )
    with evaluating(objective, parameters) as tensors, torch.enable_grad():

        def scores(batch: torch.Tensor) -> Any:
            return torch.func.functional_call(objective.model, dict(tensors), (batch,))

        with torch.no_grad():
            outputs = scores(inputs)
        if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2:
            raise UnsupportedError("saliency needs a score for each class (N, K) as outputs")
        answers = outputs.argmax(dim=1)
        window = _window(tuple(inputs.shape[1:]))
        found = {
            GRADIENT: Gradient(scores).attribute(inputs.clone().requires_grad_(), target=answers),
            INTEGRATED: IntegratedGradients(scores)
            .attribute(inputs, target=answers, internal_batch_size=max(_BATCH, len(samples)))
            .abs(),
            OCCLUSION: Occlusion(scores).attribute(
                inputs,
                sliding_window_shapes=window,
                strides=(window[0], *(max(1, w // 2) for w in window[1:])),
                target=answers,
                perturbations_per_eval=_BATCH,
            ),
        }
    return Saliency(
        inputs.cpu().numpy().astype(np.float64),
        {name: _without_channels(values) for name, values in found.items()},
        targets.cpu().numpy().astype(np.int64),
        answers.cpu().numpy().astype(np.int64),
    )


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
