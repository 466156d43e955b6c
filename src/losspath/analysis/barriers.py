"""How far a loss rises between states: linear mode connectivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

import losspath
from losspath.arguments import OBJECTIVE, checked, count, file, function, optional, text
from losspath.errors import ArgumentError, ModelError
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.execution.journal import Progress, open_checkpoint
from losspath.evaluation.execution.points import Affine
from losspath.evaluation.isolation.replica import Sides
from losspath.evaluation.objective import Objective
from losspath.evaluation.quantities import ACCURACY, LOSS, Evaluation, value_named
from losspath.evaluation.recorded import PathObjective, along
from losspath.files import digest_of, load_archive, save_archive
from losspath.recording.joint import names_of
from losspath.recording.trajectory import JointPath, StateSequence, as_path

Floats = npt.NDArray[np.float64]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Barriers:
    """Values along the straight lines between states, two by two.

    Attributes:
        names: of the n states.
        alpha: (A,) positions from 0 to 1, even, the ends among them.
        values: (n, n, A) the quantity at (1−α) θ_i + α θ_j.
        quantity: what it is.
        is_better_high: whether more of it is better, as of an accuracy.
        provenance: where the numbers come from, as JSON values.
    """

    archive: ClassVar[tuple[str, int]] = ("barriers", FORMAT_VERSION)
    names: tuple[str, ...]
    alpha: Floats = field(repr=False)
    values: Floats = field(repr=False)
    quantity: str
    is_better_high: bool
    provenance: dict[str, Any] = field(repr=False)

    @property
    def excess(self) -> Floats:
        """(n, n, A): how far each value is worse than the line between its two ends' values.

        It is 0 where it is no more than rounding: see `rounding`.
        """
        first, last = self.values[..., :1], self.values[..., -1:]
        ends = first + self.alpha * (last - first)  # exact where both are the same
        excess: Floats = (ends - self.values) if self.is_better_high else (self.values - ends)
        largest = np.maximum(np.abs(self.values), np.maximum(np.abs(first), np.abs(last)))
        is_rounding = np.isfinite(excess) & (np.abs(excess) <= self.rounding * largest)
        found: Floats = np.where(is_rounding, 0.0, excess)
        return found

    @property
    def rounding(self) -> float:
        """How large an excess rounding alone makes, relative to the largest of the three values.

        A value is rounded by up to half a unit in the last place (ε/2) of the precision that it was
        evaluated in, and so are those of both ends; averages over batches and the line between the
        ends are taken in double precision. That makes up to 3ε/2, and 2ε leaves room for the line.
        Rounding inside the network may make more: that is a matter of the network, and is left.
        """
        precision = self.provenance.get("precision", "float64")  # older ones do not say
        return 2 * float(np.finfo(precision).eps)

    @property
    def barrier(self) -> Floats:
        """(n, n): the largest excess on each line; 0 on the diagonal, NaN where a value is."""
        found = np.max(self.excess, axis=2)
        barrier: Floats = np.maximum(found, found.T)  # which differ by rounding
        return barrier

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves them as ``.npz``."""
        arrays = {"names": np.array(self.names), "alpha": self.alpha, "values": self.values}
        told = {
            "barriers": self.provenance,
            "quantity": self.quantity,
            "is_better_high": self.is_better_high,
        }
        save_archive(Path(path), *self.archive, arrays, told)

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> Barriers:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is damaged.
        """
        arrays, told = load_archive(Path(path), *cls.archive)
        return cls(
            tuple(map(str, arrays["names"])),
            arrays["alpha"],
            arrays["values"],
            told["quantity"],
            told["is_better_high"],
            told["barriers"],
        )


@checked(
    objective=OBJECTIVE,
    points=count(3, 10_000),
    quantity=text,
    names=optional(lambda name, value: value),
    checkpoint=optional(file),
    progress=optional(function),
)
def barriers(
    states: Mapping[str, Any] | Sequence[Any],
    objective: Objective,
    *,
    points: int = 25,
    quantity: str = LOSS,
    is_better_high: bool | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Barriers:
    """Evaluates the straight lines between states, two by two.

    The barrier between two states is the largest excess of the loss over the straight line between
    the two ends' values [1, 2], or the largest shortfall of what is better high; what rounding of
    three values makes is 0 (`Barriers.rounding`). Hidden units are
    not aligned: networks that differ by a permutation of them have a barrier all the same [2].

    Frozen parameters and buffers are those that were recorded with each run, and on a line the
    blend of its two ends', as `interpolate` has it; a vector has the model's own.
    Running statistics are estimated over the data at every point, ends included, unless the
    objective says otherwise: blends of weights have other activations than either end, and with
    blended statistics a barrier is that of the statistics [3].

    Args:
        states: at least two: recorded runs, whose last states are taken, or vectors (P,); by name,
            or in a list.
        objective: the loss.
        points: positions on a line, the ends among them; 25 resolves a barrier to a part in a
            thousand of its height where it is a parabola.
        quantity: "loss", "accuracy" or one of the objective's metrics.
        is_better_high: whether more of the quantity is better; by default of accuracy alone.
        checkpoint: a file that keeps every point as it is done, so that a stopped call goes on.
        progress: called with (points done, points in all).

    Raises:
        ArgumentError: fewer than two states, or no such quantity.
        ModelError: a run of another network than the objective's model.

    References:
        [1] J. Frankle, G. K. Dziugaite, D. Roy and M. Carbin, "Linear mode connectivity and the
        lottery ticket hypothesis", ICML 2020.
        [2] R. Entezari, H. Sedghi, O. Saukh and B. Neyshabur, "The role of permutation invariance
        in linear mode connectivity of neural networks", ICLR 2022.
        [3] K. Jordan, H. Sedghi, O. Saukh, R. Entezari and B. Neyshabur, "REPAIR: renormalizing
        permuted activations for interpolation repair", ICLR 2023.
    """
    ends = _ends_of(states, objective)
    used, vectors = ends.bound.objective, ends.vectors
    alpha = np.linspace(0.0, 1.0, points)
    values = np.full((len(vectors), len(vectors), points), np.nan)
    key = _key_of(ends, alpha)
    pairs = list(combinations(range(len(vectors)), 2))
    total, done = len(vectors) + len(pairs) * (points - 2), 0

    def put(evaluation: Evaluation, *places: tuple[int, int, int]) -> None:
        nonlocal done
        for place in places:
            values[place] = value_named(evaluation.values, quantity)
        done += 1
        if progress:
            progress(done, total)

    with open_checkpoint(checkpoint, key, used) as journal:
        engine = Engine(used)
        known = dict(journal.done) if journal else {}

        def keep(number: int, evaluation: Evaluation) -> Evaluation:
            if journal and number not in known:
                journal.add(number, evaluation)
            return evaluation

        for i, vector in enumerate(vectors):
            found = known[i] if i in known else keep(i, engine.plain(vector, ends.sides(i, i, 1.0)))
            values[i, i] = value_named(found.values, quantity)
            at_first = [(i, j, 0) for j in range(len(vectors)) if j != i]
            put(found, *at_first, *((j, i, points - 1) for _, j, _ in at_first))
        for row, (i, j) in enumerate(pairs):
            offset = len(vectors) + row * (points - 2)
            inner = alpha[1:-1]
            for start in range(0, len(inner), engine.group_size):
                some = inner[start : start + engine.group_size]
                numbers = range(offset + start, offset + start + len(some))
                skipped = {k for k, number in enumerate(numbers) if number in known}
                sides = [ends.sides(i, j, each) or {} for each in some.tolist()]
                own = sides if ends.bound.varies else None
                line = Affine(vectors[i], (vectors[j] - vectors[i])[None], some[:, None], own)
                parts = [[(k, known[numbers[k]]) for k in sorted(skipped)]]
                if len(skipped) < len(some):
                    parts += engine.evaluate(line, total, skipped, measure=False)
                for part in parts:
                    for k, evaluation in part:
                        column = 1 + start + k
                        keep(numbers[k], evaluation)
                        put(evaluation, (i, j, column), (j, i, points - 1 - column))
    better = quantity == ACCURACY if is_better_high is None else is_better_high
    provenance = {"losspath": losspath.__version__, "key": key, **used.provenance}
    provenance["has_buffers"] = ends.bound.describes_buffers
    provenance["precision"] = "float64" if used.layout.is_wide else "float32"
    return Barriers(ends.names, alpha, values, quantity, better, provenance)


@checked(objective=OBJECTIVE, points=count(3, 10_000))
def barriers_key(
    states: Mapping[str, Any] | Sequence[Any], objective: Objective, *, points: int = 25
) -> str:
    """Identifies barriers: a digest of everything that their values depend on.

    Args:
        states: as of `barriers`.
        objective: the loss.
        points: positions on a line.
    """
    return _key_of(_ends_of(states, objective), np.linspace(0.0, 1.0, points))


class _Ends(NamedTuple):
    """The states that lines go between.

    Attributes:
        names: of the n states.
        vectors: (n, P) their parameters.
        bound: the loss along the recorded runs that they are of, where there are some.
        places: (n,) of each, its place among the states of these runs; None of a vector.
        side_keys: of each, what tells its side tensors from others'.
    """

    names: tuple[str, ...]
    vectors: Floats
    bound: PathObjective
    places: list[int | None]
    side_keys: list[str | None]

    def sides(self, i: int, j: int, alpha: float) -> Sides | None:
        """Side tensors on a line: of two recorded states their blend, else those of the nearer."""
        one, other = self.places[i], self.places[j]
        if one is not None and other is not None:
            return self.bound.between(one, other, alpha)
        nearer = other if alpha >= 0.5 else one
        return None if nearer is None else self.bound.sides_of(nearer)


def _ends_of(states: Mapping[str, Any] | Sequence[Any], objective: Objective) -> _Ends:
    named = dict(states) if isinstance(states, Mapping) else dict(enumerate_names(states))
    if len(named) < 2:
        raise ArgumentError(f"expected at least two states, got {len(named)}; give more runs")
    if objective.buffers is None and any(_has_statistics(objective)):
        objective = objective.with_buffers("recalibrated")
    names = tuple(map(str, named))
    paths = [
        as_path(each if np.ndim(each) != 1 else np.asarray(each)[None]) for each in named.values()
    ]
    bounds = [_bound(name, path, objective) for name, path in zip(names, paths, strict=True)]
    vectors = [path.read(len(path) - 1, len(path))[0].astype(np.float64) for path in paths]
    # Each run has frozen parameters and buffers of its own: they are told apart on all runs as one.
    recorded = [path for path in paths if hasattr(path, "side_key")]
    joint = along(objective, JointPath(recorded)) if len(recorded) > 1 else None
    single = bounds[paths.index(recorded[0])] if recorded else bounds[0]
    lengths = [len(path) if hasattr(path, "side_key") else 0 for path in paths]
    lasts = np.cumsum(lengths) - 1
    return _Ends(
        names,
        np.stack(vectors),
        joint or single,
        [int(last) if length else None for last, length in zip(lasts, lengths, strict=True)],
        [path.side_key(len(path) - 1) if hasattr(path, "side_key") else None for path in paths],
    )


def _bound(name: str, path: StateSequence, objective: Objective) -> PathObjective:
    try:
        return along(objective, path)
    except ModelError as cause:
        raise ModelError(f"{name}: {cause}") from cause


def _key_of(ends: _Ends, alpha: Floats) -> str:
    fingerprint = ends.bound.objective.fingerprint(ends.vectors)
    sides = [ends.side_keys] if ends.bound.varies else []
    return digest_of(FORMAT_VERSION, ends.vectors, alpha, fingerprint, *sides)


def enumerate_names(states: Sequence[Any]) -> list[tuple[str, Any]]:
    """Names for states in a list: see `losspath.recording.joint.names_of`.

    Raises:
        ArgumentError: it is no list.
    """
    if isinstance(states, (str, bytes)) or not hasattr(states, "__len__"):
        raise ArgumentError(
            "expected a list or a mapping of runs or vectors, got something else; give "
            "[run, run, ...] with run = losspath.Trajectory(directory)"
        )
    return list(zip(names_of(states), states, strict=True))


def _has_statistics(objective: Objective) -> list[bool]:
    return [
        getattr(module, "running_mean", None) is not None for module in objective.model.modules()
    ]
