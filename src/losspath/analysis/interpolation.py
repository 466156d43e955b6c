"""The loss along straight lines between two states, for the whole model and layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

import losspath
from losspath.arguments import (
    OBJECTIVE,
    WHOLE,
    checked,
    file,
    flag,
    floats,
    function,
    optional,
    range_of,
)
from losspath.errors import ArgumentError
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.journal import Progress, open_checkpoint
from losspath.evaluation.execution.points import Affine
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.evaluation.path_notes import path_notes
from losspath.evaluation.quantities import ACCURACY, LOSS, Evaluation, named_values
from losspath.evaluation.recorded import PathObjective, along
from losspath.files import digest_of, load_archive, save_archive
from losspath.parameters.names import notes_on_sharing
from losspath.recording.trajectory import StateSequence, as_path

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
        metrics: by name, (L+1, A) each of the objective's other quantities.
    """

    archive: ClassVar[tuple[str, int]] = ("interpolation", FORMAT_VERSION)
    alpha: Floats
    names: tuple[str, ...]
    loss: Floats = field(repr=False)
    accuracy: Floats | None = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)
    metrics: Mapping[str, Floats] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        layers = sum(name != WHOLE_MODEL for name in self.names)
        size = f"{len(self.alpha)} positions, {layers} layers"
        return f"Interpolation: {size}, loss {range_of(self.loss)}"

    @property
    def values(self) -> dict[str, Floats]:
        """By name, (L+1, A) everything that was measured: "loss", "accuracy" if known, metrics."""
        return named_values(self.loss, self.accuracy, self.metrics)

    @property
    def shares(self) -> dict[str, float]:
        """By layer, the share of the whole drop in loss that is lost if it alone goes back.

        (L_l(0) − L(1)) / (L(0) − L(1)), with L_l(0) the loss with layer l at the first state and
        all others at the second. Layers act together, so shares need not sum to one: a share above
        one says that the others are worse than useless without the layer. NaN where the loss did
        not drop, or where 0 and 1 are not among `alpha`.
        """
        layers = [name for name in self.names if name != WHOLE_MODEL]
        at = {end: np.flatnonzero(self.alpha == end) for end in (0.0, 1.0)}
        if WHOLE_MODEL not in self.names or not all(len(found) for found in at.values()):
            return dict.fromkeys(layers, float("nan"))
        begin, end = int(at[0.0][0]), int(at[1.0][0])
        whole = self.loss[self.names.index(WHOLE_MODEL)]
        drop = whole[begin] - whole[end]
        if not drop > 0:
            return dict.fromkeys(layers, float("nan"))
        return {
            name: float((self.loss[row, begin] - whole[end]) / drop)
            for row, name in enumerate(self.names)
            if name != WHOLE_MODEL
        }

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves the interpolation as ``.npz``."""
        arrays = {"alpha": self.alpha, "names": np.array(self.names), "loss": self.loss}
        if self.accuracy is not None:
            arrays["accuracy"] = self.accuracy
        if self.metrics:
            arrays["metric_names"] = np.array(list(self.metrics))
            arrays["metrics"] = np.stack(list(self.metrics.values()))
        save_archive(Path(path), *self.archive, arrays, self.provenance)

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> Interpolation:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, provenance = load_archive(Path(path), *cls.archive)
        return cls(
            alpha=arrays["alpha"],
            names=tuple(str(name) for name in arrays["names"]),
            loss=arrays["loss"],
            accuracy=arrays.get("accuracy"),
            provenance=provenance,
            metrics=dict(
                zip(
                    map(str, arrays.get("metric_names", ())),
                    arrays.get("metrics", ()),
                    strict=True,
                )
            ),
        )


def default_alphas(count: int = 13) -> Floats:
    """`count` even positions in [−0.1, 1.1], and 0 and 1 exactly; 13 in the thesis.

    Raises:
        ArgumentError: fewer than two.
    """
    if count < 2:
        raise ArgumentError(f"expected at least 2 positions along the line, got {count}")
    return np.unique([*np.linspace(-0.1, 1.1, count).round(9).tolist(), 0.0, 1.0])


@checked(
    objective=OBJECTIVE,
    start=WHOLE,
    end=WHOLE,
    alphas=optional(floats("(A,)")),
    layers=flag,
    checkpoint=optional(file),
    progress=optional(function),
)
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
    its own) the same with every other layer at θ_b. [1] Floating-point buffers that were recorded
    with the states are blended in the same way for α in [0, 1]; outside they are those of the
    nearer end. Other buffers are those of the nearer end everywhere.

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
        ArgumentError: there is no such state, the two are the same, or no two positions.
        ModelError: the path is of another network than the objective's model.

    References:
        [1] I. Goodfellow, O. Vinyals and A. Saxe, "Qualitatively characterizing neural network
        optimization problems", ICLR 2015.
    """
    recorded = as_path(path)
    bound = along(objective, recorded)
    objective = bound.objective
    first, second = (state_of(recorded, index) for index in (start, end))
    ends = start % len(recorded), end % len(recorded)
    positions = default_alphas() if alphas is None else np.asarray(alphas, np.float64)
    check_positions(positions)
    parts = _parts_of(objective, len(first), layers)
    counted = {entry.name for entry in objective.layout.entries}
    shared = notes_on_sharing(objective.model, counted) if layers else []
    unknown = np.full((len(parts), len(positions)), np.nan)
    values: dict[str, Floats] = {LOSS: unknown.copy()}
    key = _key_of(recorded, bound, ends, positions, layers)
    count = 0
    with open_checkpoint(checkpoint, key, objective) as journal:
        engine = Engine(objective)
        done = dict(journal.done) if journal else {}
        # One evaluation for all parts, which end there.
        at_second = functools.cache(lambda: engine.plain(second, bound.sides_of(ends[1])))
        for row, part in enumerate(parts):
            offset = row * len(positions)
            known = {number - offset: done[number] for number in done}
            sides = [bound.between(*ends, alpha, part.layer) for alpha in positions.tolist()]
            line = _Line(first, second, positions, part, sides, at_second)
            for finished in line.evaluations(engine, known):
                for column, evaluation in finished:
                    if journal and offset + column not in done:
                        journal.add(offset + column, evaluation)
                    for name, value in evaluation.values.items():
                        if name not in values:
                            values[name] = unknown.copy()
                        values[name][row, column] = value
                    count += 1
                    if progress:
                        progress(count, unknown.size)
    return Interpolation(
        alpha=positions,
        names=tuple(part.name for part in parts),
        loss=values.pop(LOSS),
        accuracy=values.pop(ACCURACY, None),
        metrics=values,
        provenance={
            "losspath": losspath.__version__,
            "key": key,
            "path_digest": recorded.digest,
            "from": ends[0],
            "to": ends[1],
            **objective.provenance,
            "has_buffers": bound.describes_buffers,
            **path_notes(recorded),
            "notes": [*objective.provenance.get("notes", []), *shared],
        },
    )


def check_positions(positions: Floats) -> None:
    """Raises `ArgumentError` unless these are two finite positions or more."""
    if positions.ndim != 1 or len(positions) < 2 or not np.isfinite(positions).all():
        raise ArgumentError(
            "expected alphas as a list of at least two finite numbers, got "
            f"{np.array2string(positions.reshape(-1), 1000, threshold=5)} of shape "
            f"{positions.shape}"
        )


def _parts_of(objective: Objective, size: int, layers: bool) -> list[_Part]:
    """What goes from one state to the other: the whole model, and each layer alone."""
    parts = [_Part(WHOLE_MODEL, None, np.ones(size, bool))]
    for name, entries in objective.layout.layers.items() if layers else ():
        chosen = np.zeros(size, bool)
        for entry in entries:
            chosen[entry.place] = True
        parts.append(_Part(name or "(root)", name, chosen))
    return parts


def state_of(path: StateSequence, index: int) -> Floats:
    """(P,) a state by its index, which may count from the end."""
    count = len(path)
    if not -count <= index < count:
        raise ArgumentError(
            f"there is no state {index} in a path of {count} states; they go from 0 to "
            f"{count - 1}, or from the end from -1 on"
        )
    position = index % count
    state: Floats = path.read(position, position + 1)[0].astype(np.float64)
    return state


@dataclass(frozen=True)
class _Part:
    """What moves along a line.

    Attributes:
        name: as results have it.
        layer: the layer; None for the whole model.
        chosen: (P,) which parameters.
    """

    name: str
    layer: str | None
    chosen: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Line:
    """Points with θ_a + α (θ_b − θ_a) in a part, and θ_b elsewhere."""

    first: Floats
    second: Floats
    positions: Floats
    part: _Part
    sides: Sequence[Sides | None]
    at_second: Callable[[], Evaluation]

    def evaluations(
        self, engine: Engine, done: Mapping[int, Evaluation]
    ) -> Iterator[list[tuple[int, Evaluation]]]:
        """Each position's evaluation, as many as are finished together, those in `done` first."""
        known = [(column, done[column]) for column in range(len(self.positions)) if column in done]
        if known:
            yield known
        difference = np.where(self.part.chosen, self.first - self.second, 0.0)
        finite = bool(np.isfinite(difference).all() and np.isfinite(self.second).all())
        own = [each for each in self.sides if each is not None]
        # The states themselves by the plain loop, so that they are what others have of them.
        ends = (0.0, 1.0) if self.part.layer is None else (1.0,)
        between = []
        for column, alpha in enumerate(self.positions.tolist()):
            if finite and alpha not in ends:
                between.append(column)
            elif column not in done and alpha == 1.0:
                yield [(column, self.at_second())]
            elif column not in done:
                yield [(column, engine.plain(self._at(alpha), self.sides[column]))]
        size = engine.group_size
        for start in range(0, len(between), size):
            columns = between[start : start + size]
            if all(column in done for column in columns):
                continue
            # From θ_b on, so that parameters that are not chosen are the same all along.
            along_line = 1.0 - self.positions[columns]
            sides = [own[column] for column in columns] if own else None
            line = Affine(self.second, difference[None], along_line[:, None], sides)
            left = {i for i, column in enumerate(columns) if column in done}
            for finished in engine.evaluate(line, len(self.positions), left, measure=False):
                yield [(columns[number], evaluation) for number, evaluation in finished]

    def _at(self, alpha: float) -> Floats:
        # The ends as they are: 0·∞ must not spoil one where the other is not finite.
        if alpha in (0.0, 1.0):
            blend = self.second if alpha else self.first
        else:
            blend = (1 - alpha) * self.first + alpha * self.second
        blended: Floats = np.where(self.part.chosen, blend, self.second)
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

    Raises:
        ArgumentError: both ends are one state.
    """
    bound = along(objective, path)
    first, second = ends
    return _key_of(path, bound, (first % len(path), second % len(path)), positions, layers)


def _key_of(
    path: StateSequence,
    bound: PathObjective,
    ends: tuple[int, int],
    positions: Floats,
    layers: bool,
) -> str:
    if ends[0] == ends[1]:
        raise ArgumentError(
            f"expected two states, got state {ends[0]} for both: the line between would be flat; "
            "give another start or end"
        )
    states = np.stack([state_of(path, index) for index in ends])
    return digest_of(
        FORMAT_VERSION,
        path.digest,
        list(ends),
        positions,
        layers,
        bound.fingerprint(list(ends), states),
        *(["beyond the ends those of the nearer"] if bound.varies else []),
    )
