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

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator

from losspath.evaluation.quantities import ACCURACY, LOSS
from losspath.surface.shares import Shares
from losspath.surface.surface import StateLosses, Surface

Floats = npt.NDArray[np.float64]

STATES = 9
"""States that it is told by."""

TIMES = 32
"""Samples that they are over, for one that points are over: they then cost no more than a coarse
picture's points, of four vectors each."""

_LEAST_TIMES = 4  # below this, more samples for all points are as cheap
_LEAST_STATES = 5
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
        None where more samples for all points are as cheap.
    """
    times = (TIMES, TIMES // 2, TIMES // 4)
    wanted = dict.fromkeys(min(each * samples, count) for each in times)
    return [each for each in wanted if each >= _LEAST_TIMES * samples]


@dataclass(frozen=True)
class Correction:
    """By how much what is measured over a part of the samples is off, anywhere in the plane.

    Attributes:
        shares: from losses to shares of the drawn range, in which losses are corrected.
        side: the longer side of the path's box.
        states: how many states tell it.
        samples: how many samples they are over.
        standard_error: of a corrected loss, in shares.
        differences: by name, from places and heights (n, 3) to what is to be added.
    """

    shares: Shares
    side: float
    states: int
    samples: int
    standard_error: float
    differences: dict[str, Callable[[Floats], Floats]]

    @classmethod
    def of(
        cls, surface: Surface, few: StateLosses, many: StateLosses, numbers: tuple[int, int, int]
    ) -> Correction | None:
        """What states tell; None where each is told no better by the others than by nothing.

        Args:
            surface: over few samples.
            few: states over the same.
            many: the same states over more.
            numbers: of few samples, of more, and of all.
        """
        shares = Shares.of(surface)
        side = float(np.ptp(surface.path, axis=0).max()) or 1.0
        with np.errstate(invalid="ignore"):
            known = np.isfinite(shares(few.loss) - shares(many.loss))
        if known.sum() < _LEAST_STATES:
            return None
        places = _features(surface.path[few.index], few.loss, shares, side)[known]
        differences, standard_error = {}, math.inf
        for name, own in _columns(few, shares).items():
            apart = (_columns(many, shares)[name] - own)[known]
            if not np.isfinite(apart).all():
                continue
            left_out = _left_out(places, apart)
            if left_out >= _size(apart):
                continue
            differences[name] = _between(places, apart)
            if name == LOSS:
                some, more, count = numbers
                # What the larger number of samples is off by itself.
                rest = (1 / more - 1 / count) / (1 / some - 1 / more)
                standard_error = math.hypot(left_out, math.sqrt(rest) * _size(apart))
        if LOSS not in differences:
            return None
        found = int(known.sum()), numbers[1], standard_error
        return cls(shares, side, *found, differences)

    def to_json(self) -> dict[str, int]:
        """By how many states, and over how many samples, as JSON values."""
        return {"states": self.states, "samples": self.samples}

    def applied(self, surface: Surface, *, to_states: bool) -> Surface:
        """A surface over the few samples, corrected.

        Args:
            surface: the surface.
            to_states: whether the losses of its states are over the few samples too.
        """
        x, y = np.meshgrid(surface.x, surface.y)
        points = np.stack([x.reshape(-1), y.reshape(-1)], axis=1)
        grid, states = self._corrected(points, surface.values), surface.states
        if to_states:
            known = self._corrected(surface.path[states.index], states.values)
            states = StateLosses(states.index, known.pop(LOSS), known.pop(ACCURACY, None), known)
        loss, accuracy = grid.pop(LOSS), grid.pop(ACCURACY, None)
        return replace(surface, loss=loss, accuracy=accuracy, metrics=grid, states=states)

    def _corrected(self, places: Floats, values: dict[str, Floats]) -> dict[str, Floats]:
        """Values at places, each by what is known of its kind."""
        corrected, features = dict(values), self._features(places, values[LOSS])
        for name, difference in self.differences.items():
            if name not in values:
                continue
            more = difference(features).reshape(values[name].shape)
            if name == LOSS:
                corrected[name] = self.shares.losses(self.shares(values[name]) + more)
            else:
                corrected[name] = values[name] + more
            if name == ACCURACY:
                corrected[name] = np.clip(corrected[name], 0.0, 1.0)
        return corrected

    def _features(self, places: Floats, losses: Floats) -> Floats:
        return _features(places, losses.reshape(-1), self.shares, self.side)


def _columns(states: StateLosses, shares: Shares) -> dict[str, Floats]:
    """What was measured at states, losses as shares."""
    return states.values | {LOSS: shares(states.loss)}


def _features(places: Floats, losses: Floats, shares: Shares, side: float) -> Floats:
    """(n, 3): what corrections are told by."""
    with np.errstate(invalid="ignore"):
        heights = np.minimum(np.nan_to_num(shares(losses), nan=1.0, posinf=1.0, neginf=0.0), 1.0)
    return np.column_stack([places / side, _HEIGHT * heights])


def _between(places: Floats, values: Floats) -> Callable[[Floats], Floats]:
    """Kriging with a linear kernel, about a constant."""
    read = RBFInterpolator(places, values, kernel="linear", degree=0, smoothing=_SMOOTHING)
    return lambda wanted: np.asarray(read(wanted), np.float64)


def _left_out(places: Floats, values: Floats) -> float:
    """By how much each value is off as the others tell it."""
    others = ~np.eye(len(values), dtype=bool)
    told = [
        float(_between(places[own], values[own])(place[None])[0])
        for own, place in zip(others, places, strict=True)
    ]
    return _size(np.array(told) - values)


def _size(values: Floats) -> float:
    """Their root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))
