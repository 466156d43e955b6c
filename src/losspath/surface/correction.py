"""What a part of the samples leaves out, told by some states over more of them.

The loss over n samples is off by much the same at points near each other, and the more the lower it
is there. So a few states of the path, over many times as many samples, tell by how much a surface
over few is off: two-level Monte Carlo [1], whose fine level is interpolated between states.

References:
    [1] M. B. Giles, "Multilevel Monte Carlo methods", Acta Numerica 24 (2015) 259-328.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator

from losspath.evaluation.quantities import ACCURACY, LOSS, SPREAD
from losspath.geometry.grid import Grid
from losspath.surface.shares import Shares
from losspath.surface.surface import StateLosses, Surface

Floats = npt.NDArray[np.float64]

STATES = 9
"""States that it is told by."""

TIMES = 32
"""Samples that they are over, for one that points are over: they then cost no more than a coarse
picture's points, of four vectors each."""

LEAST_TIMES = 4
"""Below this, more samples for all points are as cheap."""

LEAST_STATES = 5
"""Of fewer nothing can be told."""

# Of the interpolation between states: by their place, where the longer side of the path's box is 1,
# and by their height, where the drawn range is this. Points far from the path are mostly high, and
# have the high states' correction.
_HEIGHT, _SMOOTHING = 2.0, 0.01


def samples_for(samples: int, count: int) -> list[int]:
    """Over how many samples states can correct points over some, the most first.

    Args:
        samples: that points are over.
        count: how many there are.

    Returns:
        Numbers of samples; an empty list where more samples for all points are as cheap.
    """
    times = (TIMES, TIMES // 2, TIMES // 4)
    wanted = dict.fromkeys(min(each * samples, count) for each in times)
    return [each for each in wanted if each >= LEAST_TIMES * samples]


@dataclass(frozen=True)
class _Difference:
    """By how much one quantity is off, anywhere in the plane.

    Attributes:
        read: from places and heights (n, 3) to what is to be added, (n,).
        is_logarithmic: whether it is added to the logarithm.
        is_part: whether states have parts of one alone.
    """

    read: Callable[[Floats], Floats]
    is_logarithmic: bool
    is_part: bool

    def corrected(self, values: Floats, features: Floats) -> Floats:
        """Values (n,), corrected by their features (n, 3); parts of one stay such."""
        more = self.read(features)
        with np.errstate(all="ignore"):
            found = values * np.exp(more) if self.is_logarithmic else values + more
        if self.is_part and np.nanmax(values, initial=0.0) <= 1:
            found = np.clip(found, 0.0, 1.0)
        return np.where(np.isfinite(found), found, values)


@dataclass(frozen=True)
class Correction:
    """By how much what is measured over a part of the samples is off, anywhere in the plane.

    Attributes:
        shares: from losses to shares of the drawn range, in which losses are corrected.
        side: the longer side of the path's box.
        states: how many states tell it.
        samples: how many samples they are over.
        standard_error: of a loss, in shares, corrected or not.
        loss: from places and heights (n, 3) to what is to be added to losses, (n,) in shares; None
            where each state is told no better by the others than by nothing, and losses stay.
        others: by name, what other quantities are off by, likewise.
    """

    shares: Shares
    side: float
    states: int
    samples: int
    standard_error: float
    loss: Callable[[Floats], Floats] | None
    others: dict[str, _Difference]

    @classmethod
    def of(
        cls, surface: Surface, few: StateLosses, many: StateLosses, numbers: tuple[int, int, int]
    ) -> Correction | None:
        """What states tell; None where too few have a loss.

        Args:
            surface: over few samples.
            few: (k,) losses of states over the same.
            many: (k,) losses of the same states over more.
            numbers: of few samples, of more, and of all.
        """
        shares = Shares.of(surface)
        side = float(np.ptp(surface.path, axis=0).max()) or 1.0
        with np.errstate(invalid="ignore"):
            apart = shares(many.loss) - shares(few.loss)
        known = np.isfinite(apart)
        if known.sum() < LEAST_STATES:
            return None
        places = _features(surface.path[few.index], few.loss, shares, side)[known]
        apart = apart[known]
        raw, left_out = _size(apart), _left_out(places, apart)
        loss = _between(places, apart) if left_out < raw else None
        some, more, count = numbers
        # What the larger number of samples is off by itself.
        rest = (1 / more - 1 / count) / (1 / some - 1 / more)
        error = math.hypot(min(left_out, raw), math.sqrt(rest) * float(np.abs(apart).max()))
        others = {}
        for name in few.values.keys() & many.values.keys() - {LOSS}:
            values = np.stack([each.values[name][known] for each in (few, many)])
            if (found := _difference(places, *values, is_share=name == ACCURACY)) is not None:
                others[name] = found
        return cls(shares, side, len(apart), more, error, loss, others)

    def is_of(self, shares: Shares) -> bool:
        """Whether shares are still of logarithms, or not, as they were when this was made."""
        return shares.is_logarithmic == self.shares.is_logarithmic

    def to_json(self) -> dict[str, Any]:
        """By how many states, over how many samples, and what, as JSON values."""
        quantities = [*([LOSS] if self.loss else []), *sorted(self.others)]
        return {"states": self.states, "samples": self.samples, "quantities": quantities}

    def applied(self, surface: Surface, *, to_states: bool) -> Surface:
        """A surface over the few samples, corrected.

        Args:
            surface: the surface.
            to_states: whether the losses of its states are over the few samples too.
        """
        points, states = Grid(surface.x, surface.y).points, surface.states
        grid = self._corrected(points, surface.values)
        if to_states:
            known = self._corrected(surface.path[states.index], states.values)
            loss, accuracy = known.pop(LOSS), known.pop(ACCURACY, None)
            states = replace(states, loss=loss, accuracy=accuracy, metrics=known)
        loss, accuracy = grid.pop(LOSS), grid.pop(ACCURACY, None)
        return replace(surface, loss=loss, accuracy=accuracy, metrics=grid, states=states)

    def _corrected(self, places: Floats, values: dict[str, Floats]) -> dict[str, Floats]:
        """Values at places (n, 2), each by what is known of its kind."""
        loss = values[LOSS]
        features = _features(places, loss.reshape(-1), self.shares, self.side)
        told = loss
        if self.loss is not None:
            told = self.shares.losses(self.shares(loss) + self.loss(features).reshape(loss.shape))
            # Without a logarithm, as shares may be of them, a loss is left as it is.
            told = np.where(np.isnan(told), loss, told)
        corrected = values | {LOSS: told}
        for name, other in self.others.items():
            if name in values:
                own = other.corrected(values[name].reshape(-1), features)
                corrected[name] = own.reshape(loss.shape)
        if SPREAD in values and self.shares.is_logarithmic:  # as it stands beside the loss
            with np.errstate(all="ignore"):
                spread = values[SPREAD] * np.where(loss > 0, told / loss, 1.0)
            corrected[SPREAD] = np.where(np.isfinite(spread), spread, values[SPREAD])
        return corrected


def _difference(places: Floats, few: Floats, many: Floats, *, is_share: bool) -> _Difference | None:
    """How far a quantity is off; None where states do not tell each other.

    Args:
        places: (k, 3) of states, as `_features` has them.
        few: (k,) over few samples.
        many: (k,) over more.
        is_share: whether it is a part of one; other quantities are taken by their logarithm, as
            they may be of any size, and not at all where it is not there.
    """
    if not (np.isfinite(few).all() and np.isfinite(many).all()):
        return None
    if not is_share and min(few.min(), many.min()) <= 0:
        return None
    apart = many - few if is_share else np.log(many / few)
    if _left_out(places, apart) >= _size(apart):
        return None
    is_part = min(few.min(), many.min()) >= 0 and max(few.max(), many.max()) <= 1
    return _Difference(_between(places, apart), not is_share, bool(is_part))


def _features(places: Floats, losses: Floats, shares: Shares, side: float) -> Floats:
    """(n, 3): what corrections are told by, of places (n, 2) and losses (n,)."""
    with np.errstate(invalid="ignore"):
        heights = np.minimum(np.nan_to_num(shares(losses), nan=1.0, posinf=1.0, neginf=0.0), 1.0)
    return np.column_stack([places / side, _HEIGHT * heights])


def _between(places: Floats, values: Floats) -> Callable[[Floats], Floats]:
    """Kriging with a linear kernel about a constant, of values (k,) at places (k, 3)."""
    read = RBFInterpolator(places, values, kernel="linear", degree=0, smoothing=_SMOOTHING)
    return lambda wanted: np.asarray(read(wanted), np.float64)


def _left_out(places: Floats, values: Floats) -> float:
    """By how much each value (k,) is off as the others tell it, as a root mean square."""
    others = ~np.eye(len(values), dtype=bool)
    told = [
        float(_between(places[own], values[own])(place[None])[0])
        for own, place in zip(others, places, strict=True)
    ]
    return _size(np.array(told) - values)


def _size(values: Floats) -> float:
    """Their root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))
