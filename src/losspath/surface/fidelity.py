"""How far the numbers of a picture hold: for vectors that it was not made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from losspath.arguments import checked, file
from losspath.files import load_archive, save_archive

SHARE = 0.68
"""Of the vectors that a typical error holds for."""

STRATA = ("held-out", "chords", "balls", "forks")
"""Kinds of vectors, in the order in which they are shown."""


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval, by a bootstrap over blocks of vectors.

    Attributes:
        value: the number; NaN where it is not known.
        low: the end of the interval below.
        high: the end above.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> list[float | None]:
        """[value, low, high]; None for NaN."""
        return [each if math.isfinite(each) else None for each in (self.value, self.low, self.high)]

    @classmethod
    def from_json(cls, values: Sequence[float | None]) -> Interval:
        """What `to_json` gave."""
        return cls(*(math.nan if each is None else each for each in values))


UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Stratum:
    """What was found for vectors of one kind.

    Attributes:
        count: how many vectors; those outside of the picture are not among them.
        typical_error: what 68 % of them are off by at most, as `Fidelity.typical_error`.
        bias: the mean of picture minus truth, as `Fidelity.bias`.
        skill: 1 − mean |picture − truth| / mean |what states' losses tell − truth|.
    """

    count: int
    typical_error: Interval
    bias: Interval
    skill: Interval


@dataclass(frozen=True)
class Fidelity:
    """How far the losses that a picture shows hold for vectors near the path.

    Losses count as they are drawn: up to 1.5 times the initial loss, by their logarithm where all
    are positive. Strata have equal weight, however many vectors they have.

    Attributes:
        typical_error: for 68 % of vectors near the path that the picture was not made of, the drawn
            loss is off by at most this factor (1.3: by up to 30 %); where losses are not positive,
            by this share of the drawn range. Of all strata but chords.
        bias: by how much the picture is too high (above zero) or too low, as a share of the loss,
            or of the range. Of all strata but chords, which training does not visit.
        skill: 1 − the picture's mean error over that of the states' losses alone, interpolated in
            the plane by kriging [1] with a linear kernel: 1 is exact, 0 tells no more than the
            states did, and below that they alone tell more. The mean over all strata. Of the
            losses of the objective, as those that were recorded may be of another, with dropout and
            of single batches: of the states that are drawn, in `measure_fidelity` of 150.
        strata: by name; "chords" between states of a run, "balls" of the path's own covariance,
            "held-out" stretches that plane and method had not, "forks" of the run.
        floor: what the typical error of balls cannot be below, as vectors at one place have
            different losses: from pairs of balls about the same states. States of training may
            differ by less.
        is_logarithmic: whether errors are factors.
        control: the skill on the states of another run, where one was given. It should be about
            none: above it, a picture is near their losses without knowing of them, as where it is
            low everywhere.
        skill_over_recorded: the same over the losses that were recorded, which are mostly those of
            single batches; NaN where none were.
        provenance: what it was measured of and how, as JSON values.

    References:
        [1] N. Cressie, Statistics for Spatial Data, 1993.
    """

    typical_error: Interval
    bias: Interval
    skill: Interval
    strata: Mapping[str, Stratum]
    floor: float
    is_logarithmic: bool
    control: Interval | None = None
    skill_over_recorded: Interval = UNKNOWN
    provenance: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    archive: ClassVar[tuple[str, int]] = ("fidelity", 1)

    def describe(self) -> str:
        """The numbers in a few words, as captions have them.

        Of `Surface.fidelity`, whose skill is over the losses of the states that are drawn.
        """
        if math.isnan(self.typical_error.value):
            return ""
        off = "a factor of " if self.is_logarithmic else ""
        words = f"against parameter vectors near the path, {SHARE:.0%} off by {off}{self._off()}"
        words += f" or less, {self._side()} on average"
        if not math.isnan(self.skill.value):
            told = f"{_factor(1 - self.skill.value)} times the error of"
            if self.skill.low <= 0 <= self.skill.high:
                told = "not clearly better or worse than"
            words += f"; {told} the drawn states' losses, interpolated"
        return words

    def describe_shortly(self) -> str:
        """Typical error and bias, as captions of several surfaces have them."""
        if math.isnan(self.typical_error.value):
            return ""
        return f"{'×' if self.is_logarithmic else ''}{self._off()} ({self._side()})"

    def _off(self) -> str:
        # As "or less", as a factor of 1.00 and 0.0% would say that it is exact.
        error = self.typical_error.value
        if self.is_logarithmic:
            return _factor(max(error, 1.01))
        return f"{max(error, 0.001):.1%} of the range"

    def _side(self) -> str:
        bias, of_range = self.bias.value, "" if self.is_logarithmic else " of the range"
        if abs(bias) < 0.005:
            return "right"
        return f"{abs(bias):.0%}{of_range} too {'high' if bias > 0 else 'low'}"

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values: intervals are [value, low, high]."""
        return {
            "typical_error": self.typical_error.to_json(),
            "bias": self.bias.to_json(),
            "skill": self.skill.to_json(),
            "skill_over_recorded": self.skill_over_recorded.to_json(),
            "floor": self.floor if math.isfinite(self.floor) else None,
            "is_logarithmic": self.is_logarithmic,
            "control": None if self.control is None else self.control.to_json(),
            "strata": {
                name: {
                    "count": each.count,
                    "typical_error": each.typical_error.to_json(),
                    "bias": each.bias.to_json(),
                    "skill": each.skill.to_json(),
                }
                for name, each in self.strata.items()
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Fidelity:
        """What `to_json` gave."""
        read = Interval.from_json
        kinds = ("typical_error", "bias", "skill")
        strata = {
            name: Stratum(each["count"], *(read(each[kind]) for kind in kinds))
            for name, each in ((name, values["strata"].get(name)) for name in STRATA)
            if each
        }
        control = values.get("control")
        floor = values["floor"]
        return cls(
            read(values["typical_error"]),
            read(values["bias"]),
            read(values["skill"]),
            strata,
            math.nan if floor is None else floor,
            values["is_logarithmic"],
            None if control is None else read(control),
            read(values.get("skill_over_recorded", [None] * 3)),
        )

    @checked(path=file)
    def save(self, path: str | PathLike[str]) -> None:
        """Saves it as ``.npz``.

        Raises:
            StoreError: the file cannot be written.
        """
        told = self.provenance | {"fidelity": self.to_json()}
        save_archive(Path(path), *self.archive, {}, told)

    @classmethod
    @checked(path=file)
    def load(cls, path: str | PathLike[str]) -> Fidelity:
        """Loads what `save` wrote.

        Raises:
            StoreError: there is no such file, or it is something else.
            DamagedError: its bytes are not what was written.
        """
        _, provenance = load_archive(Path(path), *cls.archive)
        return replace(cls.from_json(provenance.pop("fidelity")), provenance=provenance)


def _factor(value: float) -> str:
    """A factor; of 1000 and more, as where the other error is none, that it is large."""
    if value < 0.005:  # 0.00 would say that there is none
        return "under 0.01"
    if value >= 1000:
        return "over 1000"
    return f"{value:.2f}" if value < 9.995 else f"{value:.0f}"
