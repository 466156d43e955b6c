"""What layers put out, over training: histograms, zeros and dead units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.analysis.outputs import default_modules, outputs_in_parts
from losspath.analysis.steps import even_states
from losspath.analysis.units import survey
from losspath.arguments import OBJECTIVE, WHOLE, checked, count, optional, range_of, texts
from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.objective import Objective
from losspath.evaluation.path_notes import path_notes
from losspath.evaluation.recorded import along
from losspath.recording.trajectory import StateSequence, as_run

Floats = npt.NDArray[np.float64]

# What lies beyond these shares of a layer's values goes into the first and last bin.
_TAILS = (0.001, 0.999)
_KEPT_VALUES = 20_000  # of a layer and state, to find its range


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
        dead: (L, k) the share of dead units: those whose output is exactly zero for all samples, at
            every position. Units are channels of convolutions, batch norms and images, and
            features (the last axis) of linear layers, layer norms, recurrent layers, attention and
            sequences; those of an activation function are the units of the layer that feeds it.
        left_out: steps of the states that are not finite, or where a layer puts out nothing that
            is.
        provenance: where the numbers come from, as JSON values.
    """

    names: tuple[str, ...]
    steps: npt.NDArray[np.int64]
    edges: Floats
    counts: npt.NDArray[np.int64] = field(repr=False)
    zeros: Floats = field(repr=False)
    dead: Floats = field(repr=False)
    left_out: tuple[int, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        size = f"{len(self.names)} layers at {len(self.steps)} states"
        return f"Activations: {size}, share of dead units {range_of(self.dead)}"


@checked(
    objective=OBJECTIVE,
    states=WHOLE,
    modules=optional(texts),
    samples=WHOLE,
    bins=count(None, 100_000),
)
def activations(
    path: StateSequence | npt.ArrayLike,
    objective: Objective,
    states: int = 25,
    *,
    modules: Sequence[str] | None = None,
    samples: int = 500,
    bins: int = 60,
) -> Activations:
    """Counts what layers put out, at some states of a path.

    Outputs are taken at the moment that a layer returns them, so what works in place on them
    afterwards, such as ``ReLU(inplace=True)``, does not change what is counted. A recorded state
    has the buffers that were recorded with it.

    Args:
        path: the recorded path.
        objective: its model and data.
        states: how many states, evenly in time, first and last among them; those that are not
            finite are left out.
        modules: names of modules; by default the activation functions and the last layer, or all
            layers with parameters where no activation function is a module, in the order in which
            they run, without those that have no tensor in their output or do not run exactly once.
        samples: of the first so many samples.
        bins: bins of each histogram.

    Raises:
        ArgumentError: the model has no such module.
        ModelError: the path is of another network than the objective's model.
        UnsupportedError: a module that was asked for puts out no tensor, or does not run exactly
            once in a forward pass; or no state is finite.
    """
    if states < 1 or samples < 1 or bins < 1:
        raise ArgumentError(
            "expected at least one state, one sample and one bin, got "
            f"states={states}, samples={samples}, bins={bins}"
        )
    path = as_run(path)
    look = _Look(path, objective, modules, min(samples, len(objective)))
    chosen = even_states(len(path), states).tolist()
    finite = [i for i in chosen if np.isfinite(path_state(path, i)).all()]
    limits = {i: look.limits(i) for i in finite}
    look.keep(*limits.values())
    whole = [i for i in finite if not any(np.isnan(limits[i][name][0]) for name in look.names)]
    if not whole:
        raise UnsupportedError("no state is finite, or some layer puts out nothing that is")
    ranges = np.array([[limits[i][name] for name in look.names] for i in whole])
    low, high = ranges[..., 0].min(axis=0), ranges[..., 1].max(axis=0)
    high = np.where(high > low, high, low + 1e-6 * np.maximum(1.0, np.abs(low)))
    edges = np.linspace(low, high, bins + 1, axis=1)
    counted = [look.count(i, edges) for i in whole]
    steps = np.asarray(getattr(path, "steps", np.arange(len(path))), np.int64)
    return Activations(
        look.names,
        steps[whole],
        edges,
        np.stack([each[0] for each in counted], axis=1),
        np.stack([each[1] for each in counted], axis=1),
        np.stack([each[2] for each in counted], axis=1),
        tuple(steps[[i for i in chosen if i not in whole]].tolist()),
        look.provenance,
    )


class _Look:
    """What layers put out at states of a path.

    Args:
        path: the path.
        objective: the model and data.
        modules: names of modules; None to choose.
        samples: how many.
    """

    def __init__(
        self,
        path: StateSequence,
        objective: Objective,
        modules: Sequence[str] | None,
        samples: int,
    ) -> None:
        self._path, self._samples = path, samples
        self._along = along(objective, path)
        self._chosen = modules is not None
        first = last_finite(path, len(path))
        if first is None:
            raise UnsupportedError("no state is finite")
        asked = () if modules is None else tuple(dict.fromkeys(modules))
        at = path_state(path, first), asked, self._along.sides_of(first)
        seen = survey(self._along.objective, *at)
        self._axes = seen.axes
        self.names = asked if self._chosen else default_modules(objective.model, seen.ran)
        if not self.names:
            raise UnsupportedError("no layer runs exactly once and puts out a tensor")

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from."""
        return {
            "path_digest": self._path.digest,
            **self._along.objective.provenance,
            "has_buffers": self._along.describes_buffers,
            **path_notes(self._path),
        }

    def _outputs(self, index: int) -> dict[str, list[npt.NDArray[Any]]]:
        return outputs_in_parts(
            self._along.objective,
            path_state(self._path, index),
            self.names,
            self._along.objective.batches(self._samples),
            self._along.sides_of(index),
            leave_out=not self._chosen,
        )

    def limits(self, index: int) -> dict[str, tuple[float, float]]:
        """The range of each module's values, but for the tails; NaN where none is finite."""
        return {name: _limits(parts) for name, parts in self._outputs(index).items()}

    def keep(self, *found: Mapping[str, object]) -> None:
        """Keeps the modules that are in all of these."""
        self.names = tuple(name for name in self.names if all(name in each for each in found))
        if not self.names:
            raise UnsupportedError("no layer runs exactly once and puts out a tensor")

    def count(self, index: int, edges: Floats) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
        """Values in each bin (L, B), shares of zeros (L,) and of dead units (L,)."""
        counts = np.zeros((len(self.names), edges.shape[1] - 1), np.int64)
        zeros, dead = np.zeros((2, len(self.names)))
        outputs = self._outputs(index)
        for layer, name in enumerate(self.names):
            parts = outputs[name]
            for values in parts:
                inside = np.clip(values, edges[layer, 0], edges[layer, -1])
                counts[layer] += np.histogram(inside, edges[layer])[0]
            silent = [values == 0 for values in parts]
            zeros[layer] = sum(int(each.sum()) for each in silent) / sum(e.size for e in silent)
            dead[layer] = _dead_share(silent, self._axes.get(name, -1))
        return counts, zeros, dead


def _dead_share(zero: Sequence[npt.NDArray[np.bool_]], axis: int) -> float:
    """The share of units along an axis (below 0) that are zero everywhere in every part."""
    units = [np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1).all(1) for each in zero]
    if len({each.shape for each in units}) > 1:
        return float("nan")  # as many units as a batch is long: they are no units
    return float(np.logical_and.reduce(units).mean())


def _limits(parts: Sequence[npt.NDArray[Any]]) -> tuple[float, float]:
    flat = np.concatenate([values.reshape(-1) for values in parts])
    some = flat[:: max(1, len(flat) // _KEPT_VALUES)]
    finite = some[np.isfinite(some)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, _TAILS)
    return float(low), float(high)


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
