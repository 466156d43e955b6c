"""A picture held against the losses of vectors that it was not made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator

from losspath.evaluation.recorded import PathObjective
from losspath.geometry.plane import Plane
from losspath.geometry.projection import Projection
from losspath.recording.selection import recorded_losses
from losspath.recording.trajectory import StateSequence
from losspath.surface.fidelity import SHARE, STRATA, UNKNOWN, Fidelity, Interval, Stratum
from losspath.surface.strata import Blends, Known, balls, chords, losses_of_blends, together
from losspath.surface.surface import CLIP, StateLosses, Surface

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_SMOOTHING, _NEIGHBOURS = 0.01, 150  # of the interpolation of losses alone
_RESAMPLES, _LEVEL = 1000, 0.95
# Strata of vectors that training could have been at; others count in the skill alone.
_NEAR = ("balls", "held-out", "forks")
CHEAP = 30
"""Vectors of each stratum that a caption is of."""

SEED = 0
"""Of the choice of vectors, so that a picture says the same each time."""


@dataclass(frozen=True)
class Judged:
    """Vectors of one kind, and what a picture and the path say of their losses.

    All are heights as they are drawn: see `Heights`.

    Attributes:
        name: "chords", "balls", "held-out" or "forks".
        true: (n,) the heights of their own losses.
        drawn: (n,) those of the picture where they are.
        told: (n,) those that the losses of states alone tell there.
        recorded: (n,) those that the recorded losses alone tell there.
        block: (n,) which of them are of one origin.
    """

    name: str
    true: Floats
    drawn: Floats
    told: Floats
    recorded: Floats
    block: Indices


@dataclass(frozen=True)
class Heights:
    """From losses to heights, as they are drawn.

    Attributes:
        is_logarithmic: whether heights are logarithms; else they are shares of the drawn range.
        top: losses above it are drawn as it.
        low: the least loss that is drawn.
    """

    is_logarithmic: bool
    top: float
    low: float

    @classmethod
    def of(cls, surface: Surface, losses: Floats) -> Heights:
        """Those of a surface, and of other losses that are held against it."""
        known = np.concatenate([surface.loss.reshape(-1), surface.states.loss, losses])
        known = known[np.isfinite(known)]
        if not len(known):
            return cls(False, math.inf, 0.0)
        limit = CLIP * surface.initial_loss
        top = limit if limit > known.min() else float(known.max())
        return cls(bool(known.min() > 0), top, float(known.min()))

    def __call__(self, losses: Floats) -> Floats:
        """Heights; infinite losses are at the top, NaN stays NaN."""
        clipped = np.minimum(losses, self.top)
        if self.is_logarithmic:
            heights: Floats = np.log(np.maximum(clipped, self.low))
            return heights
        return (clipped - self.low) / max(self.top - self.low, np.finfo(float).tiny)

    def error(self, height: float) -> float:
        """A difference of heights as a factor, or as a share of the range."""
        return math.exp(height) if self.is_logarithmic else height

    def bias(self, height: float) -> float:
        """A mean difference of heights as a share of the loss, or of the range."""
        return math.expm1(height) if self.is_logarithmic else height


Judging = Callable[[str, Floats, Floats, Indices], Judged]
"""Takes the name of a stratum, and its places, losses and blocks."""


def told_by_losses(coordinates: Floats, heights: Floats) -> Callable[[Floats], Floats]:
    """What the losses of states alone tell of a place: kriging with a linear kernel.

    Args:
        coordinates: (k, 2) of states.
        heights: (k,) of their losses; those that are not finite do not count.

    Returns:
        From places (n, 2) to heights (n,); NaN where nothing is known.
    """
    known = np.isfinite(heights)
    coordinates, heights = coordinates[known], heights[known]
    if not len(heights):
        return lambda places: np.full(len(places), np.nan)
    middle = coordinates.mean(axis=0)
    # In units of the path's extent, so that the smoothing does not depend on its scale.
    scale = math.sqrt(float(np.square(coordinates - middle).sum(axis=1).mean())) or 1.0
    try:
        read = RBFInterpolator(
            (coordinates - middle) / scale,
            heights,
            kernel="linear",
            smoothing=_SMOOTHING,
            neighbors=min(_NEIGHBOURS, len(heights)),
        )
    except np.linalg.LinAlgError:
        return lambda places: np.full(len(places), heights.mean())
    return lambda places: np.asarray(read((places - middle) / scale), np.float64)


@dataclass(frozen=True)
class Ground:
    """A picture, the path that it was made of, and what the losses of its states alone tell.

    Attributes:
        surface: the picture.
        path: the states that it was made of.
        plane: its plane.
        projection: the path as the plane shows it.
        bound: the loss along the path.
        states: states whose own losses are what the path tells; None for those of the surface.
    """

    surface: Surface
    path: StateSequence
    plane: Plane
    projection: Projection
    bound: PathObjective
    states: StateLosses | None = None

    def told(self, heights: Heights) -> Callable[[Floats], Floats]:
        """What the losses of states tell, without any picture."""
        known = self.surface.states if self.states is None else self.states
        return told_by_losses(self.projection.coordinates[known.index], heights(known.loss))

    def recorded(self, heights: Heights) -> Callable[[Floats], Floats]:
        """What the recorded losses tell, without any picture."""
        return told_by_losses(self.projection.coordinates, heights(recorded_losses(self.path)))

    def losses(self, blends: Blends, known: Known | None = None) -> Floats:
        """(n,) the losses of blends of the path's states; see `losses_of_blends`."""
        known = {} if known is None else known
        return losses_of_blends(self.path, self.plane, self.projection, self.bound, blends, known)

    def judging(self, heights: Heights) -> Judging:
        """What holds vectors against the picture, and against what losses alone say of them."""
        told, recorded = self.told(heights), self.recorded(heights)

        def judged(name: str, places: Floats, losses: Floats, block: Indices) -> Judged:
            drawn = heights(self.surface.at(places))
            return Judged(name, heights(losses), drawn, told(places), recorded(places), block)

        return judged


def near_path(path: Projection, count: int, seed: int) -> dict[str, Blends]:
    """Vectors on chords and in balls, by name; none of a path of too few states.

    Args:
        path: as a plane shows it.
        count: how many of each.
        seed: of the choice.
    """
    generator = np.random.default_rng(seed)
    found = {
        "chords": chords(path, count, generator),
        "balls": balls(path, count, generator),
    }
    return {name: blends for name, blends in found.items() if len(blends)}


def cheap_fidelity(ground: Ground, seed: int = 0, known: Known | None = None) -> Fidelity | None:
    """The fidelity by chords and balls alone, some 60 evaluations; None where there are none.

    Args:
        ground: the picture.
        seed: of the choice of vectors.
        known: what was found of them already; see `losses_of_blends`.
    """
    found = near_path(ground.projection, CHEAP, seed)
    if not found or min(ground.surface.loss.shape) < 2:
        return None
    blends = together(list(found.values()))
    losses = np.split(ground.losses(blends, known), np.cumsum([len(b) for b in found.values()]))
    heights = Heights.of(ground.surface, np.concatenate(losses))
    judged_of = ground.judging(heights)
    judged = [
        judged_of(name, blends.places(ground.projection), own, blends.block)
        for (name, blends), own in zip(found.items(), losses, strict=False)
    ]
    return fidelity_of(judged, heights, floor_of(judged))


def floor_of(judged: Sequence[Judged]) -> float:
    """The height that errors of balls cannot be below: how far two balls at one place differ.

    Of two draws about one value, the difference is √2 times as wide as each is.
    """
    for each in judged:
        if each.name == "balls":
            pairs = each.true.reshape(-1, 2)
            apart = np.abs(pairs[:, 0] - pairs[:, 1]) / math.sqrt(2)
            known = apart[np.isfinite(apart)]
            return float(np.quantile(known, SHARE)) if len(known) else math.nan
    return math.nan


def fidelity_of(
    judged: Sequence[Judged], heights: Heights, floor: float, control: Judged | None = None
) -> Fidelity:
    """The numbers of strata, each and together.

    Args:
        judged: the strata.
        heights: what their heights are of.
        floor: the height that errors of balls cannot be below.
        control: vectors of another run.
    """
    judged = sorted(judged, key=lambda each: STRATA.index(each.name))
    drawn = [_Resampled.of(each, seed) for seed, each in enumerate(judged)]
    near = [each for each in drawn if each.name in _NEAR] or drawn
    strata = {each.name: _stratum([each], heights) for each in drawn}
    together = _stratum(near, heights)
    found = [each for each in drawn if each.count]
    return Fidelity(
        together.typical_error,
        together.bias,
        _interval(found, _skill),
        strata,
        heights.error(floor),
        heights.is_logarithmic,
        None if control is None else _interval([_Resampled.of(control, len(judged))], _skill),
        _interval(found, _skill_over_recorded),
    )


@dataclass(frozen=True)
class _Resampled:
    """A stratum with the weights that its rows have where blocks are drawn anew, many times.

    Attributes:
        name: of the stratum.
        errors: (n,) picture minus truth.
        others: (n,) what states' losses tell minus truth.
        recorded: (n,) what recorded losses tell minus truth.
        weights: (R+1, n) that sum to one: first all alike, and then by how often a block was drawn.
    """

    name: str
    errors: Floats
    others: Floats
    recorded: Floats
    weights: Floats

    @property
    def count(self) -> int:
        return len(self.errors)

    @classmethod
    def of(cls, judged: Judged, seed: int) -> _Resampled:
        known = np.isfinite(judged.true) & np.isfinite(judged.drawn)
        errors = (judged.drawn - judged.true)[known]
        others = (judged.told - judged.true)[known]
        recorded = (judged.recorded - judged.true)[known]
        names, block = np.unique(judged.block[known], return_inverse=True)
        weights = np.ones((_RESAMPLES + 1, len(errors)))
        if len(names):
            drawn = np.random.default_rng(seed).multinomial(
                len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES
            )
            weights[1:] = drawn[:, block]
            weights /= weights.sum(axis=1, keepdims=True)
        return cls(judged.name, errors, others, recorded, weights)


Statistic = Callable[[Sequence[_Resampled]], Floats]


def _stratum(parts: Sequence[_Resampled], heights: Heights) -> Stratum:
    parts = [part for part in parts if part.count]
    return Stratum(
        sum(part.count for part in parts),
        _interval(parts, _typical, heights.error),
        _interval(parts, _bias, heights.bias),
        _interval(parts, _skill),
    )


def _interval(
    parts: Sequence[_Resampled],
    statistic: Statistic,
    shown: Callable[[float], float] = float,
) -> Interval:
    """A statistic of strata, and its interval."""
    if not parts:
        return UNKNOWN
    values = statistic(parts)
    if not np.isfinite(values[0]):
        return UNKNOWN
    if not np.isfinite(values).all():
        return Interval(shown(float(values[0])), math.nan, math.nan)
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail]).tolist()
    return Interval(shown(float(values[0])), shown(low), shown(high))


def _typical(parts: Sequence[_Resampled]) -> Floats:
    """(R+1,) the quantile of |errors|, of strata of equal weight."""
    errors = np.concatenate([np.abs(part.errors) for part in parts])
    order = np.argsort(errors)
    weights = np.concatenate([part.weights for part in parts], axis=1)[:, order] / len(parts)
    reached = np.cumsum(weights, axis=1) >= SHARE - 1e-12
    found: Floats = errors[order][np.argmax(reached, axis=1)]
    return found


def _bias(parts: Sequence[_Resampled]) -> Floats:
    """(R+1,) the mean of errors."""
    return np.asarray(np.mean([part.weights @ part.errors for part in parts], axis=0))


def _skill(parts: Sequence[_Resampled]) -> Floats:
    """(R+1,) 1 − the mean of the ratios of mean |errors|."""
    return _skill_over([(part, part.others) for part in parts])


def _skill_over_recorded(parts: Sequence[_Resampled]) -> Floats:
    """(R+1,) the same over what recorded losses tell."""
    return _skill_over([(part, part.recorded) for part in parts])


def _skill_over(parts: Sequence[tuple[_Resampled, Floats]]) -> Floats:
    ratios = []
    for part, others in parts:
        known = np.isfinite(others)
        if not known.any():
            return np.full(len(part.weights), math.nan)
        least = np.finfo(float).eps  # where the path tells all exactly
        other = np.maximum(part.weights[:, known] @ np.abs(others[known]), least)
        ratios.append(part.weights[:, known] @ np.abs(part.errors[known]) / other)
    return np.asarray(1 - np.mean(ratios, axis=0))
