"""How training moved: gradient, curvature and direction along the path."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

import losspath
from losspath.analysis.steps import even_states, step_cosines
from losspath.arguments import OBJECTIVE, WHOLE, checked, count, file, function, optional, range_of
from losspath.errors import ArgumentError
from losspath.evaluation.derivatives import by_trained_parameters, trained_parameters
from losspath.evaluation.execution.journal import Progress, open_checkpoint
from losspath.evaluation.objective import Objective
from losspath.evaluation.path_notes import path_notes
from losspath.evaluation.quantities import Evaluation
from losspath.evaluation.recorded import PathObjective, along
from losspath.files import digest_of, load_archive, save_archive
from losspath.recording.trajectory import StateSequence, as_run
from losspath.surface import path_fingerprint

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 1

_GRADIENT, _SHARPNESS = "gradient_norm", "sharpness"


@dataclass(frozen=True)
class Dynamics:
    """What training was like along its path.

    Attributes:
        index: (k,) which states of the path were measured.
        steps: (k,) optimiser steps taken before each.
        loss: (k,) the objective's loss there.
        gradient_norm: (k,) ‖∇L‖₂ of that loss.
        sharpness: (k,) the largest eigenvalue of its Hessian; NaN where that was not found.
        cosines: (T−2,) between successive steps of the whole path; see `step_cosines`.
        path_steps: (T,) optimiser steps taken before each state of the whole path.
        provenance: where the numbers come from, as JSON values.
    """

    archive: ClassVar[tuple[str, int]] = ("dynamics", FORMAT_VERSION)
    index: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    loss: Floats
    gradient_norm: Floats
    sharpness: Floats
    cosines: Floats = field(repr=False)
    path_steps: npt.NDArray[np.int64] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        return (
            f"Dynamics: {len(self.index):,} states, loss {range_of(self.loss)}, gradient norm "
            f"{range_of(self.gradient_norm)}, sharpness {range_of(self.sharpness)}"
        )

    @checked(bins=count(1))
    def binned_cosines(self, bins: int = 100) -> tuple[Floats, Floats]:
        """Mean cosines over equal parts of the path.

        Args:
            bins: how many; fewer where there are fewer steps.

        Returns:
            The middle of each part in optimiser steps, and the mean of its cosines that are known.
        """
        count = len(self.cosines)
        edges = np.linspace(0, count, min(bins, count) + 1).round().astype(int)
        middles = (self.path_steps[edges[:-1] + 1] + self.path_steps[edges[1:]]) / 2
        parts = [self.cosines[a:b] for a, b in pairwise(edges.tolist())]
        means = [float(np.nanmean(p)) if np.isfinite(p).any() else float("nan") for p in parts]
        return middles, np.array(means)

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves everything as ``.npz``."""
        names = ("index", "steps", "loss", "gradient_norm", "sharpness", "cosines", "path_steps")
        arrays = {name: getattr(self, name) for name in names}
        save_archive(Path(path), *self.archive, arrays, self.provenance)

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> Dynamics:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), *cls.archive)
        return cls(**arrays, provenance=provenance)


@checked(
    objective=OBJECTIVE,
    states=WHOLE,
    checkpoint=optional(file),
    progress=optional(function),
)
def measure_dynamics(
    path: StateSequence | npt.ArrayLike,
    objective: Objective,
    states: int = 25,
    *,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Dynamics:
    """Measures loss, gradient and sharpness at some states, and the turns between all steps.

    Derivatives are by those of the path's parameters that require a gradient in the objective's
    model, or by all where none does: frozen ones have no share in them, also where the path has
    them. They are taken in evaluation mode, with the buffers that were recorded with each state.

    Sharpness is the largest eigenvalue of the Hessian: gradient descent at a constant rate η can
    only go down a valley where it is below 2/η. [1]

    Args:
        path: the recorded path, or an array (T, P) of states; T ≥ 3.
        objective: the loss. A state costs some tens of its gradients, so give it few samples.
        states: how many states, evenly in time, first and last among them.
        checkpoint: a file that keeps every state as it is done, so that a stopped call goes on.
        progress: called with (states done, states in all).

    Returns:
        The measurements.

    Raises:
        ArgumentError: fewer than two states are asked for.
        PathError: the path has fewer than three.
        ModelError: the path is of another network than the objective's model.
        StoreError: the checkpoint belongs to another computation or cannot be written.

    References:
        [1] J. Cohen et al., "Gradient descent on neural networks typically occurs at the edge of
        stability", ICLR 2021.
    """
    if states < 2:
        raise ArgumentError(f"expected at least 2 states, got {states}")
    recorded = as_run(path)
    bound = along(objective, recorded)
    cosines = step_cosines(recorded)
    count = len(recorded)
    steps = np.asarray(getattr(recorded, "steps", np.arange(count)), np.int64)
    index = even_states(count, states)
    key = _key_of(recorded, bound, states)
    found: dict[int, Evaluation] = {}
    with open_checkpoint(checkpoint, key, bound.objective) as journal:
        found.update(journal.done if journal else {})
        for done, position in enumerate(index.tolist()):
            if position not in found:
                found[position] = _measured(bound, recorded, position)
                if journal:
                    journal.add(position, found[position])
            if progress:
                progress(done + 1, len(index))
    measured = [found[position] for position in index.tolist()]
    provenance = {
        "losspath": losspath.__version__,
        "key": key,
        "path_digest": recorded.digest,
        **bound.objective.provenance,
        "parameters": recorded.parameter_count,
        "trained_parameters": sum(e.size for e in trained_parameters(bound.objective)),
        "has_buffers": bound.describes_buffers,
        **path_notes(recorded),
    }
    return Dynamics(
        index=index,
        steps=steps[index],
        loss=np.array([each.loss for each in measured]),
        gradient_norm=np.array([each.metrics[_GRADIENT] for each in measured]),
        sharpness=np.array([each.metrics[_SHARPNESS] for each in measured]),
        cosines=cosines,
        path_steps=steps,
        provenance=provenance,
    )


def dynamics_key(
    path: StateSequence | npt.ArrayLike, objective: Objective, states: int = 25
) -> str:
    """Identifies measured dynamics: a digest of everything that they depend on."""
    recorded = as_run(path)
    return _key_of(recorded, along(objective, recorded), states)


def _key_of(path: StateSequence, bound: PathObjective, states: int) -> str:
    trained = [entry.name for entry in trained_parameters(bound.objective)]
    return digest_of("dynamics", path.digest, path_fingerprint(path, bound), states, trained)


def _measured(bound: PathObjective, path: StateSequence, position: int) -> Evaluation:
    (state,) = path.read(position, position + 1)
    derivatives = by_trained_parameters(bound.objective, state, bound.sides_of(position))
    loss, gradient = derivatives.gradient()
    norm, sharpness = float(np.linalg.norm(gradient)), derivatives.sharpness()
    return Evaluation(loss, None, {_GRADIENT: norm, _SHARPNESS: sharpness})
