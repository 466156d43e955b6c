"""The loss along straight lines between two states, for the whole model and layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import losspath
from losspath.errors import ArgumentError
from losspath.evaluation.journal import Journal, Progress
from losspath.evaluation.objective import Objective
from losspath.files import digest_of, load_archive, save_archive
from losspath.recording.trajectory import StateSequence, as_path
from losspath.surface import check_same_network

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 1
WHOLE_MODEL = "whole model"


@dataclass(frozen=True)
class Interpolation:
    """Losses (and accuracies) along straight lines between two states.

    Attributes:
        alpha: (A,) positions: 0 is the first state, 1 the second.
        names: L+1 names: "whole model", then each layer.
        loss: (L+1, A) the loss with θ_a + α (θ_b − θ_a) for the named part and θ_b elsewhere.
        accuracy: (L+1, A), or None where the objective has none.
        provenance: where the numbers come from, as JSON values.
    """

    alpha: Floats
    names: tuple[str, ...]
    loss: Floats
    accuracy: Floats | None
    provenance: dict[str, Any]

    def save(self, path: str | PathLike[str]) -> None:
        """Saves the interpolation as ``.npz``."""
        arrays = {"alpha": self.alpha, "names": np.array(self.names), "loss": self.loss}
        if self.accuracy is not None:
            arrays["accuracy"] = self.accuracy
        save_archive(Path(path), "interpolation", FORMAT_VERSION, arrays, self.provenance)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Interpolation:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), "interpolation", FORMAT_VERSION)
        return cls(
            alpha=arrays["alpha"],
            names=tuple(str(name) for name in arrays["names"]),
            loss=arrays["loss"],
            accuracy=arrays.get("accuracy"),
            provenance=provenance,
        )


def default_alphas(count: int = 13) -> Floats:
    """`count` even positions in [−0.1, 1.1], and 0 and 1 exactly; 13 in the thesis.

    Raises:
        ArgumentError: fewer than two.
    """
    if count < 2:
        raise ArgumentError(f"expected at least 2 positions along the line, got {count}")
    return np.unique([*np.linspace(-0.1, 1.1, count).round(9).tolist(), 0.0, 1.0])


def interpolate(
    path: StateSequence | npt.ArrayLike,
    objective: Objective,
    start: int = 0,
    end: int = -1,
    *,
    alphas: Sequence[float] | Floats | None = None,
    layers: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Interpolation:
    """Evaluates the loss on the straight line between two states of a path.

    θ(α) = (1−α)·θ_a + α·θ_b for the whole model; and for each layer (a module with parameters of
    its own) the same with every other layer at θ_b. [1]

    Args:
        path: the recorded path, or an array (T, P) of states.
        objective: the loss, usually on validation data.
        start: index a of the first state; negative counts from the end.
        end: index b of the second state.
        alphas: positions along the line; by default 13 in [−0.1, 1.1], as in the thesis.
        layers: also evaluate each layer alone; needs a recorded path or the objective's names.
        checkpoint: a file that keeps every point as it is done, so that a stopped call goes on.
        progress: called with (points done, points in all).

    Returns:
        The curves. At α = 0 and 1 the whole model is exactly the two states.

    Raises:
        ArgumentError: there is no such state, or no two positions.
        ModelError: the path is of another network than the objective's model.

    References:
        [1] I. Goodfellow, O. Vinyals and A. Saxe, "Qualitatively characterizing neural network
        optimization problems", ICLR 2015.
    """
    recorded = as_path(path)
    check_same_network(recorded, objective)
    first, second = (_state(recorded, index) for index in (start, end))
    positions = default_alphas() if alphas is None else np.asarray(alphas, np.float64)
    if positions.ndim != 1 or len(positions) < 2 or not np.isfinite(positions).all():
        raise ArgumentError("expected alphas as a list of at least two finite numbers")
    parts = {WHOLE_MODEL: np.ones(len(first), bool)}
    if layers:
        for name, entries in objective.layout.layers.items():
            parts[name or "(root)"] = chosen = np.zeros(len(first), bool)
            for entry in entries:
                chosen[entry.place] = True
    loss = np.full((len(parts), len(positions)), np.nan)
    accuracy = loss.copy()
    key = interpolation_key(recorded, objective, (start, end), positions, layers)
    with Journal(Path(checkpoint), key) if checkpoint else nullcontext() as journal:
        for number in range(loss.size):
            row, column = divmod(number, len(positions))
            evaluation = journal.done.get(number) if journal else None
            if evaluation is None:
                chosen = list(parts.values())[row]
                evaluation = objective(_between(first, second, positions[column], chosen))
                if journal:
                    journal.add(number, evaluation)
            loss[row, column] = evaluation.loss
            if evaluation.accuracy is not None:
                accuracy[row, column] = evaluation.accuracy
            if progress:
                progress(number + 1, loss.size)
    return Interpolation(
        alpha=positions,
        names=tuple(parts),
        loss=loss,
        accuracy=None if np.isnan(accuracy).all() else accuracy,
        provenance={
            "losspath": losspath.__version__,
            "key": key,
            "path_digest": recorded.digest,
            "from": start % len(recorded),
            "to": end % len(recorded),
            **objective.provenance,
        },
    )


def _state(path: StateSequence, index: int) -> Floats:
    count = len(path)
    if not -count <= index < count:
        raise ArgumentError(f"there is no state {index} in a path of {count} states")
    position = index % count
    state: Floats = path.read(position, position + 1)[0].astype(np.float64)
    return state


def _between(first: Floats, second: Floats, alpha: float, chosen: npt.NDArray[np.bool_]) -> Floats:
    # The ends as they are: 0·∞ must not spoil one where the other is not finite.
    if alpha in (0.0, 1.0):
        blend = second if alpha else first
    else:
        blend = (1 - alpha) * first + alpha * second
    blended: Floats = np.where(chosen, blend, second)
    return blended


def interpolation_key(
    path: StateSequence,
    objective: Objective,
    ends: tuple[int, int],
    positions: Floats,
    layers: bool = True,
) -> str:
    """A digest of everything that an interpolation's losses depend on.

    Args:
        path: the states.
        objective: the loss; it is evaluated at both ends, to tell objectives apart.
        ends: indices of the two states.
        positions: (A,) positions along the line.
        layers: whether each layer is evaluated alone too.
    """
    states = np.stack([_state(path, index) for index in ends])
    return digest_of(
        FORMAT_VERSION,
        path.digest,
        [index % len(path) for index in ends],
        positions,
        layers,
        objective.fingerprint(states),
    )
