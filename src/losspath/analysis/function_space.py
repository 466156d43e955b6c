"""How far apart the functions are that a network computes at states of its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from losspath.analysis.distances import state_distances
from losspath.analysis.embedding import Embedding, embed
from losspath.analysis.predictions import MEASURES, Predictions
from losspath.analysis.steps import even_states
from losspath.arguments import OBJECTIVE, checked, count, file, function, one_of, optional
from losspath.errors import PathError
from losspath.evaluation.execution.journal import Progress
from losspath.evaluation.objective import Objective
from losspath.evaluation.recorded import along
from losspath.files import digest_of, load_archive, save_archive
from losspath.geometry.walk import RandomWalk, walk_of
from losspath.recording.joint import Runs
from losspath.recording.selection import Selection
from losspath.recording.sketch import check_whole
from losspath.recording.trajectory import StateSequence, as_path, starts_of

Floats = npt.NDArray[np.float64]

Distance = Literal["l2", "disagreement", "jensen-shannon"]
FORMAT_VERSION = 1


@dataclass(frozen=True)
class FunctionDistances:
    """Distances between states of one run or several: of their functions, and of their weights.

    Attributes:
        steps: (n,) optimiser steps taken before each state, in its run.
        starts: by the name of each run, its first state among the n.
        distance: what `functions` are by: see `function_distances`.
        functions: (n, n) distances by the network's predictions; NaN where these are not finite.
        weights: (n, n) ‖θ_i − θ_j‖₂.
        provenance: where the numbers come from, as JSON values; "predictions" is how many
            predictions each distance is a mean over.
    """

    archive: ClassVar[tuple[str, int]] = ("function distances", FORMAT_VERSION)
    steps: npt.NDArray[np.int64]
    starts: Mapping[str, int]
    distance: str
    functions: Floats = field(repr=False)
    weights: Floats = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @cached_property
    def function_embedding(self) -> Embedding:
        """The states in a plane by their functions.

        By the square root of a disagreement, which is a Euclidean distance: that between
        predictions of which the class has √½ and all others have 0.
        """
        is_share = self.distance == "disagreement"
        return embed(np.sqrt(self.functions) if is_share else self.functions)

    @cached_property
    def weight_embedding(self) -> Embedding:
        """The states in a plane by their weights: their first two principal components."""
        return embed(self.weights)

    @property
    def random_walk(self) -> RandomWalk | None:
        """The share of variance that a random walk has in the plane of `weight_embedding`."""
        told = self.provenance.get("random_walk")
        return None if told is None else RandomWalk.from_json(told)

    @property
    def runs(self) -> dict[str, slice]:
        """By the name of each run, where its states are among the n."""
        starts = list(self.starts.values())
        stops = [*starts[1:], len(self.steps)]
        return {name: slice(*pair) for name, *pair in zip(self.starts, starts, stops, strict=True)}

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves them as ``.npz``."""
        arrays = {
            "steps": self.steps,
            "run_names": np.array(list(self.starts)),
            "run_starts": np.array(list(self.starts.values())),
            "functions": self.functions,
            "weights": self.weights,
        }
        told = {"provenance": self.provenance, "distance": self.distance}
        save_archive(Path(path), *self.archive, arrays, told)

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> FunctionDistances:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, told = load_archive(Path(path), *cls.archive)
        names = map(str, arrays["run_names"])
        return cls(
            arrays["steps"],
            dict(zip(names, arrays["run_starts"].tolist(), strict=True)),
            told["distance"],
            arrays["functions"],
            arrays["weights"],
            told["provenance"],
        )


@checked(
    objective=OBJECTIVE,
    states=count(1, 4096),
    distance=optional(one_of(list(MEASURES))),
    samples=count(1),
    predict=optional(function),
    progress=optional(function),
)
def function_distances(
    path: StateSequence | npt.ArrayLike | Runs,
    objective: Objective,
    *,
    states: int = 30,
    distance: Distance | None = None,
    samples: int = 1000,
    predict: Callable[[Any], torch.Tensor] | None = None,
    progress: Progress | None = None,
) -> FunctionDistances:
    """Measures how far apart states are by what the network predicts on fixed samples [1].

    Two vectors of weights can be far apart and compute the same, as those that differ by a
    permutation of hidden units do, and near each other and compute something else. Several seeds
    that seem to go to different places may or may not learn different functions: that is what this
    tells [1]. Outputs are taken in evaluation mode, with the buffers that were recorded with each
    state.

    Args:
        path: the recorded path, or an array (T, P) of states, or several runs of one network.
        objective: its model, and the samples that predictions are compared on. Give samples that
            training did not see.
        states: how many states of each run, evenly, first and last among them.
        distance: "l2": √(mean over samples of ‖f_i(x) − f_j(x)‖²) of the raw outputs.
            "disagreement": the share of predictions whose class differs [1].
            "jensen-shannon": √ of the mean Jensen-Shannon divergence between predicted
            probabilities, in bits: a distance [2] from 0 to 1. Outputs count as logits unless they
            are shares that sum to one. By default "jensen-shannon" where targets say that outputs
            are scores of classes, otherwise "l2".
        samples: of the first so many samples of the objective.
        predict: what makes a tensor of the model's outputs: (N, …), of classes (N, …, K). By
            default their logits or their first tensor. Of one column of logits, for example,
            ``lambda outputs: torch.cat([torch.zeros_like(outputs), outputs], -1)``.
        progress: called with (states done, states in all).

    Returns:
        The distances. Predictions are thinned out evenly where those of all states would take more
        than 256 MiB: ``provenance["predictions"]`` says how many are left.

    Raises:
        PathError: fewer than two states, or a run that keeps sketches.
        ModelError: the path is of another network than the objective's model.
        UnsupportedError: the loss does not call the model, outputs hold no tensor of numbers, or
            classes are asked for and outputs are no scores of two or more.
        ArgumentError: too many states, or `predict` fails.

    References:
        [1] S. Fort, H. Hu and B. Lakshminarayanan, "Deep ensembles: a loss landscape perspective",
        arXiv:1912.02757, 2019.
        [2] D. Endres and J. Schindelin, "A new metric for probability distributions", IEEE
        Transactions on Information Theory 49, 2003.
    """
    chosen = _chosen(as_path(path), states)
    if len(chosen) < 2:
        raise PathError(f"expected two states or more, got {len(chosen)}; give a longer path")
    outputs = Predictions(chosen, objective, distance, samples, predict)
    kept = outputs.all(progress)
    functions = MEASURES[outputs.distance](kept)
    weights = state_distances(chosen)
    notes = outputs.provenance | {"predictions": kept.shape[1], "states": len(chosen)}
    if predict is None:  # whose code no key tells
        notes["key"] = function_distances_key(
            path, objective, states=states, distance=distance, samples=samples
        )
    lengths = np.concatenate([[0.0], np.diag(weights, 1)])
    if np.isfinite(lengths).all() and weights.any():
        notes["random_walk"] = walk_of(lengths, chosen, 2).to_json()
    steps = _steps(as_path(path))[chosen.indices]
    return FunctionDistances(steps, starts_of(chosen), outputs.distance, functions, weights, notes)


def function_distances_key(
    path: StateSequence | npt.ArrayLike | Runs,
    objective: Objective,
    *,
    states: int = 30,
    distance: Distance | None = None,
    samples: int = 1000,
) -> str:
    """Identifies function distances: a digest of everything that their values depend on.

    Args:
        path: as of `function_distances`, like all others.
        objective: its model and samples.
        states: of each run.
        distance: which.
        samples: how many.
    """
    chosen = _chosen(as_path(path), states)
    ends = sorted({0, len(chosen) - 1})
    vectors = np.concatenate([chosen.read(index, index + 1) for index in ends])
    told = along(objective, chosen).fingerprint(ends, vectors)
    return digest_of(FORMAT_VERSION, "function distances", chosen.digest, distance, samples, told)


def _chosen(path: StateSequence, states: int) -> Selection:
    """So many states of each run, evenly."""
    check_whole(path)
    starts = list(starts_of(path).values())
    stops = [*starts[1:], len(path)]
    return Selection(
        path,
        np.concatenate(
            [a + even_states(b - a, states) for a, b in zip(starts, stops, strict=True)]
        ),
    )


def _steps(path: StateSequence) -> npt.NDArray[np.int64]:
    runs = getattr(path, "runs", {"": path}).values()
    return np.concatenate(
        [np.asarray(getattr(run, "steps", np.arange(len(run))), np.int64) for run in runs]
    )
