"""Intervals of the losses at points of a plane or a line, by where uncertainty comes from."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial import KDTree

from losspath.analysis.evidence import held_out
from losspath.analysis.intervals import (
    conformal,
    draws_interval,
    least_draws,
    mean_interval,
    spread,
)
from losspath.analysis.places import OnLine, OnPlane, Places, Round, rounds_evaluated
from losspath.analysis.posterior import Laplace, Posterior, Swag
from losspath.errors import ArgumentError, ObjectiveError
from losspath.evaluation.execution.journal import Progress
from losspath.evaluation.execution.sampled import (
    DEVIATION,
    PARTS,
    SKEWNESS,
    SampleEngine,
    with_moments,
)
from losspath.evaluation.isolation.dropout import dropping_modules
from losspath.evaluation.quantities import LOSS, Evaluation, columns_of
from losspath.evaluation.recorded import PathObjective
from losspath.geometry.plane import PrincipalPlane
from losspath.recording.selection import Selection
from losspath.surface.running import Combine
from losspath.surface.states import losses_of

Floats = npt.NDArray[np.float64]

_LOGARITHM, _LEAST, _VECTORS = "log-deviation", "least", "vectors"
# Intervals off the plane are widened by so many held-out states, chosen so often, and by no fewer
# than the third. The last, as a part of the median spread, is added to every spread, so
# that vectors which are alike by chance do not make an interval of no width.
_STATES, _SPLITS, _FEW = 60, 2, 10
_FLOOR = 0.5


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        places: the points.
        level: the share of intervals that hold what they are for.
        draws: of masks or parameters.
        seed: of draws.
        key: of the whole.
        checkpoint: a file that keeps every point as it is done.
        progress: called with (points done, points in all).
    """

    places: Places
    level: float
    draws: int
    seed: int
    key: str = ""
    checkpoint: str | PathLike[str] | None = None
    progress: Progress | None = None

    def evaluated(self, rounds: Sequence[Callable[[], Round]]) -> list[dict[str, Floats]]:
        """What is found in each round, by its name."""
        found = rounds_evaluated(self.places, rounds, self.key, self.checkpoint, self.progress)
        return [columns_of(each) for each in found]


@dataclass(frozen=True)
class Measurement:
    """Intervals of points.

    Attributes:
        loss: (G,) their losses.
        lower: (G,) lower ends.
        upper: (G,) upper ends.
        deviation: (G,) standard deviations.
        notes: what a reader should know of them, as JSON values.
    """

    loss: Floats
    lower: Floats
    upper: Floats
    deviation: Floats
    notes: dict[str, Any] = field(default_factory=dict)


def measure(source: str, asked: Asked) -> Measurement:
    """The intervals by a source; see `losspath.surface_uncertainty`."""
    if source == "samples":
        return by_samples(asked)
    if source == "off-plane":
        return off_plane(asked)
    if asked.draws < (least := least_draws(asked.level)):
        raise ArgumentError(
            f"expected {least} draws or more for intervals of {asked.level:.0%}, so that some lie "
            f"beyond either end, got {asked.draws}"
        )
    return by_masks(asked) if source == "dropout" else by_posterior(asked, source)


def by_samples(asked: Asked) -> Measurement:
    """Intervals for the losses over all data that samples were drawn from."""
    combine = partial(with_moments, logarithmic=asked.places.is_logarithmic)
    how = Round(asked.places.bound, engine_type=SampleEngine, combine=combine)
    (found,) = asked.evaluated([lambda: how])
    loss, deviation, parts = found[LOSS], found[DEVIATION], found[PARTS]
    lower, upper = mean_interval(loss, deviation, found[SKEWNESS], parts, asked.level)
    known = np.isfinite(deviation)
    notes = {"parts": int(parts.max())}
    return Measurement(
        loss, np.where(known, lower, np.nan), np.where(known, upper, np.nan), deviation, notes
    )


def by_masks(asked: Asked) -> Measurement:
    """Intervals of the losses with dropout, by masks that are the same at all points."""
    bound = asked.places.bound
    path, last = asked.places.path, len(asked.places.path) - 1

    def masked(draw: int) -> PathObjective:
        other = copy.copy(bound)
        other.objective = bound.objective.with_masks((asked.seed, draw))
        return other

    own, other = (losses_of(path, each, np.array([last])).loss for each in (bound, masked(0)))
    if not dropping_modules(bound.objective.model) or np.array_equal(own, other):
        raise ObjectiveError(
            "expected a network with dropout, got one whose modules drop nothing: none has a class "
            "with drop in its name or a share named dropout, or it changes no loss; choose "
            "another source"
        )
    return _by_draws(asked, [partial(lambda n: Round(masked(n)), n) for n in range(asked.draws)])


def by_posterior(asked: Asked, source: str) -> Measurement:
    """Intervals of losses around each point, by draws of parameters."""
    bound, path = asked.places.bound, asked.places.path
    drawn: Posterior = (
        Swag(path, asked.seed) if source == "swag" else Laplace(bound, path, asked.seed)
    )
    numbers = range(asked.draws)
    return _by_draws(asked, [partial(lambda n: Round(bound, drawn.shift(n)), n) for n in numbers])


def _by_draws(asked: Asked, rounds: Sequence[Callable[[], Round]]) -> Measurement:
    own, *others = asked.evaluated([lambda: Round(asked.places.bound), *rounds])
    draws = np.stack([each[LOSS] for each in others])
    lower, upper = draws_interval(draws, asked.level)
    with np.errstate(invalid="ignore"):
        deviation = draws.std(axis=0, ddof=1)
    return Measurement(own[LOSS], lower, upper, deviation, {"draws": len(draws)})


# -- off the plane ---------------------------------------------------------------------------------


def with_spread(
    evaluations: Sequence[Evaluation], shares: Sequence[float], logarithmic: bool = False
) -> Evaluation:
    """The mean of several vectors' evaluations, and how far their losses are apart.

    Args:
        evaluations: at least one.
        shares: that sum to one.
        logarithmic: as of `Evaluation.mean`.

    Returns:
        The mean, with `spread` of the losses and of their logarithms, the least loss, and how many
        there are.
    """
    mean = Evaluation.mean(evaluations, shares, logarithmic)
    losses = np.array([each.loss for each in evaluations])
    with np.errstate(invalid="ignore", divide="ignore"):
        told = {
            DEVIATION: spread(losses, shares),
            _LOGARITHM: spread(np.log(losses), shares),
            _LEAST: float(losses.min()),
            _VECTORS: float(len(losses)),
        }
    return Evaluation(mean.loss, mean.accuracy, {**mean.metrics, **told})


def off_plane(asked: Asked) -> Measurement:
    """Intervals for the loss of a vector of training at the same place of the plane.

    exp(m ± q (s + c)), with the mean m and the spread s of the log-losses of a point's vectors and
    half the median spread c, where the method averages logarithms and all losses are positive; else
    the same of losses. The factor q makes as many states of held-out stretches of the path be
    inside as the level says: split conformal prediction with normalised scores [1]. Of a path that
    is too short for that, c = 0, and q is the quantile of Student's t.

    Raises:
        ArgumentError: a line, or a method of one vector a point.

    References:
        [1] H. Papadopoulos, A. Gammerman and V. Vovk, "Normalized nonconformity measures for
        regression conformal prediction", AIA 2008.
    """
    places = asked.places
    if isinstance(places, OnLine) or places.landscape.method.vectors_at_a_point < 2:
        raise ArgumentError(
            "expected a surface by a method that averages losses of several vectors at a point, "
            "such as local-planes, for the source 'off-plane'; others have one vector a point"
        )
    combine = partial(with_spread, logarithmic=places.is_logarithmic)
    (found,) = asked.evaluated([lambda: Round(places.bound, combine=combine)])
    held = [_held_out(places, (asked.seed, split), combine) for split in range(_SPLITS)]
    told = [each for each in held if each is not None]
    least = [found[_LEAST], *(each[_LEAST] for each, _, _ in told), *(own for _, own, _ in told)]
    # A loss that is not a number says nothing of the scale.
    is_log = places.is_logarithmic and not (np.concatenate(least) <= 0).any()
    mean, deviation = _center_and_spread(found, is_log, places.points)
    errors, spreads = [np.zeros(0)], [np.zeros(0)]
    for there, own, points in told:
        middle, wide = _center_and_spread(there, is_log, points)
        with np.errstate(invalid="ignore"):
            errors.append(np.abs((np.log(own) if is_log else own) - middle))
        spreads.append(wide)
    factor, floor, count = _widening(np.concatenate(errors), np.concatenate(spreads), asked.level)
    if not count:
        vectors = places.landscape.method.vectors_at_a_point
        factor = float(stats.t.ppf((1 + asked.level) / 2, vectors - 1) * math.sqrt(1 + 1 / vectors))
    wide = factor * (deviation + floor)
    lower, upper = map(np.exp, (mean - wide, mean + wide)) if is_log else (mean - wide, mean + wide)
    shown = found[LOSS] * deviation if is_log else deviation
    return Measurement(found[LOSS], lower, upper, shown, {"held_out": count, "widening": factor})


def _widening(errors: Floats, spreads: Floats, level: float) -> tuple[float, float, int]:
    """By what factor spreads are widened, after what is added to them, and by how many errors."""
    known = np.isfinite(errors) & np.isfinite(spreads)
    if known.sum() < _FEW:
        return math.nan, 0.0, 0
    floor = max(_FLOOR * float(np.median(spreads[known])), np.finfo(float).tiny)
    return conformal(errors[known] / (spreads[known] + floor), level), floor, int(known.sum())


def _center_and_spread(
    found: dict[str, Floats], is_log: bool, points: Floats
) -> tuple[Floats, Floats]:
    """The means and spreads; where a point has one vector alone, the spread of the next point."""
    mean = np.log(found[LOSS]) if is_log else found[LOSS]
    deviation = found[_LOGARITHM if is_log else DEVIATION].copy()
    single = found[_VECTORS] < 2
    if single.any() and not single.all():
        _, nearest = KDTree(points[~single]).query(points[single])
        deviation[single] = deviation[~single][nearest]
    return mean, deviation


def _held_out(
    places: OnPlane, seed: tuple[int, int], combine: Combine
) -> tuple[dict[str, Floats], Floats, Floats] | None:
    """At states of stretches, what a landscape without these says; their own losses; places."""
    landscape, path = places.landscape, places.path
    generator = np.random.default_rng(seed)
    stretches = held_out(landscape.projection.starts, len(path), generator)
    if not stretches:
        return None
    kept = np.ones(len(path), bool)
    for first, stop in stretches:
        kept[first:stop] = False
    each = max(1, _STATES // len(stretches))
    chosen = np.unique(
        np.concatenate([np.linspace(a, b - 1, each).round() for a, b in stretches]).astype(int)
    )
    plane = None if isinstance(landscape.plane, PrincipalPlane) else landscape.plane
    without = landscape.of(Selection(path, np.flatnonzero(kept)), plane)
    points = without.plane.projection(Selection(path, chosen)).coordinates
    there = OnPlane(without, points)
    (found,) = rounds_evaluated(there, [lambda: Round(there.bound, combine=combine)], "")
    return columns_of(found), losses_of(path, places.bound, chosen).loss, points
