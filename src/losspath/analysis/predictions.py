"""What a network predicts at states of its training, and how far predictions are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import entr, softmax

import losspath
from losspath.analysis.outputs import evaluating, passes, taken
from losspath.analysis.steps import even_states
from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.execution.journal import Progress
from losspath.evaluation.objective import Objective
from losspath.evaluation.path_notes import path_notes
from losspath.evaluation.quantities import class_axis
from losspath.evaluation.recorded import along
from losspath.recording.trajectory import StateSequence

Floats = npt.NDArray[np.float64]

_MOST = 1 << 26  # numbers of the outputs of all states that are kept, in float32: 256 MiB
_CHUNK = 1 << 20  # of them, that are taken in float64 at a time


class Predictions:
    """What a network puts out at states, as rows of predictions.

    Args:
        path: the states.
        objective: the model and samples.
        distance: what is asked for; None to choose.
        samples: how many.
        predict: what makes a tensor of outputs.
    """

    def __init__(
        self,
        path: StateSequence,
        objective: Objective,
        distance: str | None,
        samples: int,
        predict: Callable[[Any], torch.Tensor] | None,
    ) -> None:
        self._path, self._predict = path, predict
        self._along = along(objective, path)
        self._samples = min(samples, len(objective))
        self.distance = distance or ""
        self._most: int | None = None  # predictions of a batch

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from."""
        return {
            "losspath": losspath.__version__,
            "path_digest": self._path.digest,
            **self._along.objective.provenance,
            "samples": self._samples,
            "has_buffers": self._along.describes_buffers,
            **path_notes(self._path),
        }

    def all(self, progress: Progress | None) -> npt.NDArray[np.float32]:
        """(n, R, K): R predictions of each state, of K numbers each."""
        first = self._of(0)
        found = np.empty((len(self._path), *first.shape), np.float32)
        for index in range(len(self._path)):
            found[index] = first if index == 0 else self._like(first, self._of(index))
            if progress:
                progress(index + 1, len(self._path))
        return found

    def _of(self, index: int) -> npt.NDArray[np.float32]:
        """(R, K): the predictions of one state."""
        objective = self._along.objective
        state, sides = self._path.read(index, index + 1)[0], self._along.sides_of(index)
        parts = []
        with evaluating(objective, state, sides) as model:
            for outputs, targets in passes(objective, model, objective.batches(self._samples)):
                rows = self._rows(self._tensor(outputs), targets)
                if self._most is None:
                    batches = len(objective.data.parts(self._samples))
                    self._most = self._limit(rows.shape[1], batches)
                parts.append(rows[even_states(len(rows), self._most)].float().numpy())
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            raise UnsupportedError(
                "expected predictions of one length in all batches, got "
                f"{' and '.join(map(str, sorted(widths)))} numbers; give predict=, which makes "
                "such of the outputs"
            )
        return np.concatenate(parts)

    def _like(
        self, first: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        if first.shape != other.shape:
            raise UnsupportedError(
                f"expected as many predictions at all states, got {first.shape} and {other.shape}: "
                "the model's outputs have other sizes for other weights; give predict=, which "
                "makes of them what has one size"
            )
        return other

    def _limit(self, columns: int, batches: int) -> int:
        most = _MOST // (len(self._path) * columns * batches)
        if most < 1:
            raise ArgumentError(
                f"expected predictions of {len(self._path)} states that fit into "
                f"{_MOST >> 18} MiB, got {columns:,} numbers each in {batches:,} batches; ask for "
                "fewer states or samples, or make less of outputs by predict="
            )
        return most

    def _tensor(self, outputs: Any) -> torch.Tensor:
        """The tensor that predictions are in."""
        found: Any
        if self._predict is not None:
            try:
                found = self._predict(outputs)
            except Exception as cause:
                raise ArgumentError(
                    f"predict fails on the model's outputs: {type(cause).__name__}: {cause}; "
                    "expected a function of the outputs that returns a tensor"
                ) from cause
        elif isinstance(outputs, Mapping) and "logits" in outputs:
            found = outputs["logits"]
        else:
            found = outputs
        kept = taken(found)
        if isinstance(kept, str):
            raise UnsupportedError(
                f"expected outputs with a tensor of real numbers (N, …), but the model {kept}; the "
                "loss has to call the model, or give predict=, which makes a tensor of the outputs"
            )
        return kept

    def _rows(self, outputs: torch.Tensor, targets: Any) -> torch.Tensor:
        """(R, K): one row for each prediction; of classes, those that losses ignore left out."""
        axis = class_axis(outputs, targets)
        if not self.distance:
            self.distance = "l2" if axis is None else "jensen-shannon"
        if self.distance == "l2":
            return outputs.reshape(len(outputs), -1)
        if axis is None:
            axis = outputs.dim() - 1  # as `predict` is told to have them
            targets = None
        if axis == 0 or outputs.shape[axis] < 2:
            raise UnsupportedError(
                f"{self.distance} needs scores of two or more classes (N, …, K), got outputs "
                f"{tuple(outputs.shape)}; give predict=, which makes such of the outputs, or "
                'distance="l2"'
            )
        rows = outputs.movedim(axis, -1).reshape(-1, outputs.shape[axis])
        return rows if targets is None else rows[targets.cpu().reshape(-1) >= 0]


def _l2(outputs: npt.NDArray[np.float32]) -> Floats:
    flat = outputs.reshape(len(outputs), -1)
    finite = np.flatnonzero(np.isfinite(flat).all(axis=1))
    gram = np.zeros((len(flat), len(flat)))
    size = max(1, _CHUNK // len(flat))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, flat.shape[1], size):
            part = flat[:, start : start + size].astype(np.float64)
            if len(finite):  # what all have in common would take digits
                part -= part[finite[0]].copy()
            gram += part @ part.T
        squares = np.diag(gram)
        squared = np.maximum(squares[:, None] + squares - 2 * gram, 0.0) / outputs.shape[1]
    return _told(np.sqrt(squared), finite)


def _disagreement(outputs: npt.NDArray[np.float32]) -> Floats:
    finite = np.flatnonzero(~np.isnan(outputs).any(axis=(1, 2)))
    classes = outputs.argmax(axis=2)
    return _told(np.stack([np.mean(classes != each, axis=1) for each in classes]), finite)


def _jensen_shannon(outputs: npt.NDArray[np.float32]) -> Floats:
    finite = np.flatnonzero(np.isfinite(outputs).all(axis=(1, 2)))
    known = outputs[finite]
    are_shares = (known >= 0).all() and np.allclose(known.sum(axis=2), 1.0, atol=1e-3)
    found = np.zeros((len(outputs), len(outputs)))
    if not are_shares:
        for index in finite:
            outputs[index] = softmax(outputs[index].astype(np.float64), axis=1)
    entropies = {i: entr(outputs[i].astype(np.float64)).sum() for i in finite}
    for place, i in enumerate(finite):
        one = outputs[i].astype(np.float64)
        for j in finite[:place]:
            between = entr((one + outputs[j]) / 2).sum() - (entropies[i] + entropies[j]) / 2
            found[i, j] = found[j, i] = np.sqrt(max(between, 0.0) / len(one) / np.log(2))
    return _told(found, finite)


def _told(distances: Floats, finite: npt.NDArray[np.intp]) -> Floats:
    """Distances with NaN for states whose predictions are not finite, and 0 from each to itself."""
    told = np.full(distances.shape, np.nan)
    told[np.ix_(finite, finite)] = distances[np.ix_(finite, finite)]
    told[finite, finite] = 0.0
    return told


MEASURES: dict[str, Callable[[npt.NDArray[np.float32]], Floats]] = {
    "l2": _l2,
    "disagreement": _disagreement,
    "jensen-shannon": _jensen_shannon,
}
