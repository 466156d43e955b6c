"""What a network answers and computes at one moment of its training, or over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from losspath.analysis.steps import even_states
from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.objective import Objective
from losspath.evaluation.undisturbed import undisturbed
from losspath.parameters import Layout
from losspath.recording.trajectory import StateSequence
from losspath.surface import check_same_network

Floats = npt.NDArray[np.float64]

# What lies beyond these shares of a layer's values goes into the first and last bin.
_TAILS = (0.001, 0.999)
_KEPT_VALUES = 20_000  # of a layer and state, to find its range


_COLUMN = 20  # letters, so that a table of layers has 80 across


def architecture(objective: Objective) -> str:
    """A table of the network's layers: names, forms of their outputs, numbers of parameters.

    Args:
        objective: its model, and data whose first sample goes through it.

    Raises:
        UnsupportedError: torchinfo cannot follow the network.
    """
    import torchinfo

    sample = objective.inputs_of(0, 1).clone()
    with undisturbed(objective.model):
        try:
            found = torchinfo.summary(
                objective.model,
                input_data=sample,
                col_names=("output_size", "num_params"),
                row_settings=("var_names", "depth"),
                col_width=_COLUMN,
                verbose=0,
            )
        except Exception as cause:
            reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
            raise UnsupportedError(f"torchinfo cannot follow this network: {reason}") from cause
    # torchinfo prints the name of its enumeration for "millions" from Python 3.11 on.
    return str(found).replace("Units.MEGABYTES", "M").replace("Units.GIGABYTES", "G")


@dataclass(frozen=True)
class Confusion:
    """Which classes are taken for which.

    Attributes:
        counts: (K, K): samples of class i that were taken for class j in ``counts[i, j]``.
        labels: K names.
    """

    counts: npt.NDArray[np.int64]
    labels: tuple[str, ...]

    @property
    def shares(self) -> Floats:
        """(K, K): shares of each class, summing to one along a row; NaN for a class without any."""
        totals = self.counts.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            shares: Floats = self.counts / totals
        return shares

    @property
    def accuracy(self) -> float:
        """The share of all samples on the diagonal."""
        return float(np.trace(self.counts) / self.counts.sum())


def confusion(
    objective: Objective, parameters: npt.ArrayLike, labels: Sequence[str] | None = None
) -> Confusion:
    """Counts which classes a network takes for which.

    Args:
        objective: its model and data; targets are classes 0 … K−1, outputs (N, K).
        parameters: (P,) the state of the network.
        labels: names of the classes; their numbers by default.

    Raises:
        UnsupportedError: the outputs are not a score for each class.
        ArgumentError: as many labels as there are classes were expected.
    """
    from sklearn.metrics import confusion_matrix

    answers, right, classes = [], [], 0
    for outputs, targets in _passes(objective, parameters):
        fits = isinstance(outputs, torch.Tensor) and outputs.dim() == 2 and targets.dim() == 1
        if not fits or targets.is_floating_point() or not outputs.shape[1] > 1:
            raise UnsupportedError(
                "a confusion matrix needs a score for each class (N, K) and classes (N,) as targets"
            )
        classes = outputs.shape[1]
        asked = targets >= 0  # negative targets are how losses are told to ignore a sample
        answers.append(outputs.argmax(dim=1)[asked].cpu().numpy())
        right.append(targets[asked].cpu().numpy())
    names = tuple(labels) if labels is not None else tuple(map(str, range(classes)))
    if len(names) != classes:
        raise ArgumentError(f"expected {classes} labels, one for each class, got {len(names)}")
    counts = confusion_matrix(
        np.concatenate(right), np.concatenate(answers), labels=np.arange(classes)
    )
    return Confusion(np.asarray(counts, np.int64), names)


@dataclass(frozen=True)
class Activations:
    """Histograms of what layers put out, over training.

    Attributes:
        names: of L modules.
        steps: (k,) optimiser steps taken before each state.
        edges: (L, B+1) borders of each module's bins; the first and the last bin also hold what
            lies beyond.
        counts: (L, k, B) values in each bin.
        zeros: (L, k) the share of values that are exactly zero, as behind a ReLU.
        silent: (L, k) the share of units (channels, features) that are zero for all samples.
        left_out: steps of the states that are not finite, which put out nothing to count.
    """

    names: tuple[str, ...]
    steps: npt.NDArray[np.int64]
    edges: Floats
    counts: npt.NDArray[np.int64] = field(repr=False)
    zeros: Floats = field(repr=False)
    silent: Floats = field(repr=False)
    left_out: tuple[int, ...] = ()


def activations(
    path: StateSequence,
    objective: Objective,
    states: int = 25,
    *,
    modules: Sequence[str] | None = None,
    samples: int = 500,
    bins: int = 60,
) -> Activations:
    """Counts what layers put out, at some states of a path.

    Args:
        path: the recorded path.
        objective: its model and data.
        states: how many states, evenly in time, first and last among them; those that are not
            finite are left out.
        modules: names of modules; by default the activation functions and the last layer, or all
            layers with parameters where no activation function is a module, without those that put
            out something else than numbers or do not run exactly once.
        samples: of the first so many samples.
        bins: bins of each histogram.

    Raises:
        ArgumentError: the model has no such module.
        UnsupportedError: a module puts out something else than numbers, or runs several times; or
            no state is finite.
    """
    check_same_network(path, objective)
    if states < 1 or samples < 1 or bins < 1:
        raise ArgumentError("expected at least one state, one sample and one bin")
    count = len(path)
    chosen = even_states(count, states)
    finite = np.array([bool(np.isfinite(path_state(path, i)).all()) for i in chosen.tolist()])
    index = chosen[finite]
    if not len(index):
        raise UnsupportedError("no state is finite")
    if modules is None:
        names = _with_one_output(objective, path_state(path, int(index[0])))
    else:
        names = tuple(modules)
    shown = min(samples, len(objective))
    limits = np.array(
        [
            [_limits(values) for values in outputs_of(objective, path_state(path, i), names, shown)]
            for i in index.tolist()
        ]
    )
    low, high = limits[..., 0].min(axis=0), limits[..., 1].max(axis=0)
    high = np.where(high > low, high, low + 1e-6 * np.maximum(1.0, np.abs(low)))
    edges = np.linspace(low, high, bins + 1, axis=1)
    counts = np.zeros((len(names), len(index), bins), np.int64)
    zeros, silent = np.zeros((2, len(names), len(index)))
    for place, i in enumerate(index.tolist()):
        outputs = outputs_of(objective, path_state(path, i), names, shown)
        for layer, values in enumerate(outputs):
            inside = np.clip(values, low[layer], high[layer])
            counts[layer, place] = np.histogram(inside, edges[layer])[0]
            zeros[layer, place] = float((values == 0).mean())
            others = tuple(axis for axis in range(values.ndim) if axis != 1)
            silent[layer, place] = float((values == 0).all(axis=others).mean())
    steps = np.asarray(getattr(path, "steps", np.arange(count)), np.int64)
    left_out = tuple(steps[chosen[~finite]].tolist())
    return Activations(names, steps[index], edges, counts, zeros, silent, left_out)


def last_finite(path: StateSequence, before: int) -> int | None:
    """The index of the last finite state among the first `before`; None if there is none."""
    for index in range(before - 1, -1, -1):
        if np.isfinite(path_state(path, index)).all():
            return index
    return None


def path_state(path: StateSequence, index: int) -> npt.NDArray[Any]:
    """(P,): one state of a path."""
    state: npt.NDArray[Any] = path.read(index, index + 1)[0]
    return state


def _limits(values: npt.NDArray[Any]) -> tuple[float, float]:
    flat = values.reshape(-1)
    some = flat[:: max(1, len(flat) // _KEPT_VALUES)]
    finite = some[np.isfinite(some)]
    if not len(finite):
        raise UnsupportedError("a layer puts out nothing that is finite")
    low, high = np.quantile(finite, _TAILS)
    return float(low), float(high)


def default_modules(model: nn.Module) -> tuple[str, ...]:
    """Activation functions and the last layer; all layers where no function is a module."""
    leaves = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    layers = [name for name, module in leaves if list(module.parameters(recurse=False))]
    functions = [name for name, module in leaves if type(module).__module__ == _FUNCTIONS]
    chosen = {*functions, *layers[-1:]} if functions else set(layers)
    return tuple(name for name, _ in leaves if name in chosen)


_FUNCTIONS = "torch.nn.modules.activation"


def outputs_of(
    objective: Objective, parameters: npt.ArrayLike, names: Sequence[str], samples: int
) -> list[npt.NDArray[Any]]:
    """What modules put out for the first samples.

    Args:
        objective: its model and data.
        parameters: (P,) the state of the network.
        names: of the modules.
        samples: how many.

    Returns:
        For each module an array (N, …); of a tuple, as of recurrent layers and attention, the first
        member.

    Raises:
        ArgumentError: the model has no such module.
        UnsupportedError: a module puts out something else than numbers, or runs several times.
    """
    kept, passes = _outputs(objective, parameters, names, samples)
    for name, parts in kept.items():
        for part in parts:
            if not isinstance(part, torch.Tensor):
                raise UnsupportedError(f"{name} puts out a {type(part).__name__}, not a tensor")
        if len(parts) != passes:
            raise UnsupportedError(f"{name} runs {len(parts) / passes:g} times in a forward pass")
    return [torch.cat(kept[name]).numpy() for name in names]


def _with_one_output(objective: Objective, parameters: npt.ArrayLike) -> tuple[str, ...]:
    """Those of the default modules that put out one tensor in a pass."""
    names = default_modules(objective.model)
    kept, passes = _outputs(objective, parameters, names, 1)
    fit = tuple(
        name
        for name, parts in kept.items()
        if len(parts) == passes and all(isinstance(part, torch.Tensor) for part in parts)
    )
    if not fit:
        raise UnsupportedError("no layer puts out one tensor in a forward pass")
    return fit


def _outputs(
    objective: Objective, parameters: npt.ArrayLike, names: Sequence[str], samples: int
) -> tuple[dict[str, list[Any]], int]:
    """What modules put out each time that they ran, and the number of forward passes."""
    modules = dict(objective.model.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ArgumentError(
            f"expected modules among {', '.join(filter(None, modules))}, got {unknown[0]!r}"
        )
    kept: dict[str, list[Any]] = {name: [] for name in names}

    def keep(name: str, output: Any) -> None:
        # Recurrent layers and attention put out their states or weights beside their output.
        if isinstance(output, tuple) and output and isinstance(output[0], torch.Tensor):
            output = output[0]
        if isinstance(output, torch.Tensor):
            output = output.detach().float().cpu()
        kept[name].append(output)

    handles = [
        modules[name].register_forward_hook(lambda _, __, output, n=name: keep(n, output))
        for name in names
    ]
    try:
        passes = sum(1 for _ in _passes(objective, parameters, samples))
    finally:
        for handle in handles:
            handle.remove()
    return kept, passes


def _passes(
    objective: Objective, parameters: npt.ArrayLike, samples: int | None = None
) -> Iterator[tuple[Any, torch.Tensor]]:
    """Outputs and targets, batch by batch, the model undisturbed."""
    with evaluating(objective, parameters) as tensors:
        yield from objective.passes(tensors, samples)


@contextmanager
def evaluating(
    objective: Objective, parameters: npt.ArrayLike
) -> Iterator[dict[str, torch.Tensor]]:
    """A state's tensors by name, with the model in evaluation mode and no gradients."""
    vector = torch.from_numpy(np.array(parameters))
    with undisturbed(objective.model), torch.no_grad():
        yield objective.tensors(vector)


def filters(
    model: nn.Module, parameters: npt.ArrayLike, input_shape: Sequence[int] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """What can be seen of weights: filters of convolutions, and templates of a first linear layer.

    Args:
        model: the network.
        parameters: (P,) its state.
        input_shape: (C, H, W) of an image; a first linear layer over all of it is shown as images.

    Returns:
        By the layer's name, (out, in, h, w); empty where nothing has such a form.
    """
    vector = np.asarray(parameters)
    layout = Layout.of(model, dtype="float64", allow_complex=True)
    places = {entry.name: entry for entry in layout.parameters}
    found: dict[str, npt.NDArray[Any]] = {}
    layers = [(n, m) for n, m in model.named_modules() if list(m.parameters(recurse=False))]
    for number, (name, module) in enumerate(layers):
        entry = places.get(f"{name}.weight" if name else "weight")
        if entry is None:
            continue
        weight = vector[entry.place].reshape(entry.shape)
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            found[name] = weight if weight.ndim == 4 else weight[:, :, None]
        elif isinstance(module, nn.Linear) and number == 0 and input_shape is not None:
            shape = tuple(input_shape)
            if len(shape) == 3 and weight.shape[1] == int(np.prod(shape)):
                found[name] = weight.reshape(len(weight), *shape)
    return found


def feature_maps(
    objective: Objective, parameters: npt.ArrayLike, sample: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """What convolutions make of one input.

    Args:
        objective: its model and data.
        parameters: (P,) the state of the network.
        sample: which sample.

    Returns:
        By the layer's name, (channels, H, W); empty for a network without convolutions.
    """
    if not 0 <= sample < len(objective):
        raise ArgumentError(f"expected a sample from 0 to {len(objective) - 1}, got {sample}")
    names = [n for n, m in objective.model.named_modules() if isinstance(m, nn.Conv2d)]
    one = Objective(
        objective.model,
        objective.inputs_of(sample, sample + 1),
        objective.targets_of(sample, sample + 1),
        objective.loss_fn,
    )
    outputs = outputs_of(one, parameters, names, 1)
    return {name: output[0] for name, output in zip(names, outputs, strict=True)}
