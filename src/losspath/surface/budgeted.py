"""A surface within a budget: coarse first, then finer where it is not known, then more samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.evaluation.execution.journal import Kept
from losspath.evaluation.quantities import LOSS
from losspath.evaluation.subsets import reason_to_keep_all
from losspath.geometry.grid import Grid
from losspath.surface.budget import Budget
from losspath.surface.correcting import Correcting
from losspath.surface.correction import samples_for
from losspath.surface.costs import Costs
from losspath.surface.refinement import Refinement
from losspath.surface.refining import Options, Surveyed
from losspath.surface.shares import Shares
from losspath.surface.stage import Stage
from losspath.surface.standard_errors import of_all_heights
from losspath.surface.surface import StateLosses, Surface

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

# Errors of interpolation and of samples, as shares of the drawn range, that are none to the eye.
_TOLERANCE, _STANDARD_ERROR = 0.01, 0.02
_SAMPLES = 512  # that are begun with, or half; all where there are no more than twice as many
_GROWTH = 1.5, 16.0  # at least and at most, as all points are evaluated again
_JUDGED, _ENOUGH = 9, 25  # points whose standard errors are measured, once so many are known
_PLAIN = 2  # times a point's seconds, where its parts are evaluated one by one
_SLACK = 1.1  # times the seconds that are expected
_MARGIN = 1.5  # times what is left for states, as little is known of what a point takes
_HALVINGS = 3  # of the tolerances within a limit, before all is evaluated
_MOST = 95  # percentile of predicted errors that is told
_VECTORS = 60  # that a fidelity is of
_STATES = 9  # that are evaluated themselves in any case


class BudgetedSurface:
    """Computes a surface within a budget.

    What is off by more, against what is none to the eye, is done next: points where the surface is
    not known yet, or more samples at all points. Within a limit that leaves room, both tolerances
    are then halved, and at last all points are evaluated over all samples.

    Args:
        landscape: what it is a surface of.
        grid: the finest grid.
        budget: what it may cost.
        options: what else was asked.
        key: identifies the surface.
    """

    def __init__(
        self, landscape: Surveyed, grid: Grid, budget: Budget, options: Options, key: str
    ) -> None:
        self.landscape, self.grid, self.options = landscape, grid, options
        self.count = len(landscape.objective)
        self.costs = Costs()
        self._budget, self._key = budget, key
        self._refinement = Refinement(grid.x, grid.y)
        self.coarsest = self._refinement.first
        self._halved = 0
        self._next: tuple[int, Indices] | None = None  # samples and points to go on with
        self._correcting = Correcting(landscape)
        self._notes: list[str] = []
        self._evaluation: list[str] = []

    def surfaces(self) -> Iterator[Surface]:
        """Surfaces as they become known, each of them whole; the last one is the best."""
        keep = reason_to_keep_all(self.landscape.objective)
        if keep:
            self._notes.append(f"all samples were taken, as {keep}")
        first = _SAMPLES
        if self._is_short and samples_for(first // 2, self.count):
            first //= 2
        few = self.count <= 2 * first
        best = stage = Stage(self, self.count if keep or few else first, self.coarsest)
        while True:
            for known in self._evaluated(stage, is_first=best is stage):
                yield self._surface(known)
            if not stage.is_begun:  # time was over; what was known before stands
                break
            best = self._better(stage, best)
            if self._next is None:
                break
            stage, self._next = Stage(self, *self._next), None
        yield self._last(best)

    def _evaluated(self, stage: Stage, is_first: bool) -> Iterator[Stage]:
        """Evaluates what a stage asks for, and yields it now and then."""
        options, shown = self.options, stage.forecast
        finding = stage.landscape.found(
            stage,
            options.journal,
            self._evaluation,
            options.executor,
            f"{self._key}{stage.samples}",
        )
        for found in finding:
            for number, evaluation in found:
                if options.journal:
                    options.journal.add(number, evaluation)
                stage.tell(number, evaluation)
            if options.progress:
                options.progress(len(stage.found), stage.total)
            if stage.forecast is not shown:
                shown = stage.forecast
                yield stage
            if self._budget.seconds_left < 0 and not (is_first and not stage.is_begun):
                finding.close()
                break
        if stage.is_begun:
            self._look(stage)

    def early(self, stage: Stage) -> Indices:
        """Points that the first picture is asked for with, as no choice is left to it."""
        more = self._refinement.whole
        is_going_on = len(stage.first) > len(self.coarsest)
        # What the coarsest ones take says how many leave time for the states that correct them.
        count = len(self.coarsest) + len(more)
        if is_going_on or self._is_short or not self._can_afford(count, stage.samples):
            return more[:0]
        return more

    # -- deciding -------------------------------------------------------------------------------

    def decide(self, stage: Stage) -> Indices:
        """The points to evaluate next; none where the stage is over."""
        while True:
            wanted, sampled = self._look(stage), self._is_sampled(stage)
            assert stage.forecast is not None
            if not len(wanted) and sampled:
                # Without tolerance, points that others foretell exactly are still not wanted.
                if not (self._budget.is_limited and self._left) or self._is_all(stage):
                    return wanted
                self._halved += 1
                continue
            unsure, blurred = self._predicted_error(stage) / _TOLERANCE, self._blurred(stage)
            if sampled or len(stage.found) < min(_ENOUGH, stage.total):
                blurred = 0.0
            if blurred > unsure or not len(wanted):
                self._next = self._with_more_samples(stage, is_fine=not len(wanted))
                if self._next:
                    return wanted[:0]
            count = self._affordable_points(len(wanted), stage)
            if count or sampled:
                return wanted[:count]
            self._next = self._with_more_samples(stage, is_fine=True)
            return wanted[:0]

    def _predicted_error(self, stage: Stage) -> float:
        """What most points that were not evaluated are off by at most, as far as is foreseen."""
        assert stage.forecast is not None
        return float(np.percentile(stage.forecast.errors, _MOST))

    def _blurred(self, stage: Stage) -> float:
        """The error of the samples, in tolerances; large where there was no time to measure it."""
        return float(np.nan_to_num(stage.standard_error / _STANDARD_ERROR, nan=np.inf))

    def _better(self, stage: Stage, best: Stage) -> Stage:
        """Of two, the one over more samples; but few that are corrected can be better."""
        told = best.correction
        if told is None or told.loss is None or stage.samples == self.count:
            return stage
        if stage.correction and stage.correction.samples >= told.samples:
            return stage

        def worst(of: Stage) -> float:
            return max(self._predicted_error(of) / _TOLERANCE, self._blurred(of))

        return stage if worst(stage) <= worst(best) else best

    def _look(self, stage: Stage) -> Indices:
        """What is known by now, and which points are wanted."""
        surface = self._raw(stage)
        known = surface.evaluated
        stage.shares = Shares.of(surface)
        tolerance = _TOLERANCE * self._left
        heights = stage.shares(surface.loss)
        stage.forecast = self._refinement.forecast(heights, known, tolerance, top=1.0)
        wanted = stage.forecast.wanted
        if stage.correction and not stage.correction.is_of(stage.shares):
            stage.correction, stage.standard_error = None, np.nan
        is_enough = known.sum() >= min(_ENOUGH, known.size) or not len(wanted)
        if np.isnan(stage.standard_error) and (is_enough or self._is_short):
            self._judge_samples(stage, surface, is_enough)
        return wanted

    @property
    def _left(self) -> float:
        """What is left of tolerances."""
        return 0.5**self._halved if self._halved <= _HALVINGS else 0.0

    def _is_sampled(self, stage: Stage) -> bool:
        """Whether there are samples enough; not where nobody knows."""
        wanted = _STANDARD_ERROR * self._left
        return stage.samples == self.count or 0 < wanted >= stage.standard_error

    def _is_all(self, stage: Stage) -> bool:
        return len(stage.found) == stage.total and stage.samples == self.count

    @property
    def _is_short(self) -> bool:
        """Whether states that correct others are evaluated as soon as can be."""
        return self._correcting.is_worth_it and self._budget.seconds is not None

    def _judge_samples(self, stage: Stage, surface: Surface, is_enough: bool) -> None:
        """Tells by how much the samples are off, and corrects it where it can be afforded."""
        numbers = [] if stage.is_told else self._correcting.numbers(stage.samples)
        more = next((more for more in numbers if self._affords(stage, more)), None)
        if more is not None:
            stage.is_told = True
            stage.correction = self._correcting.of(stage, surface, more)
        if stage.correction:
            stage.standard_error = stage.correction.standard_error
        elif is_enough and self._can_afford(_PLAIN * _JUDGED, stage.samples):
            heights = stage.shares(surface.loss).reshape(-1)
            chosen = of_all_heights(heights, stage.known, _JUDGED)
            points = self.grid.points[chosen]
            errors = stage.landscape.standard_errors(points, stage.shares, self.count)
            stage.standard_error = float(np.max(errors, where=~np.isnan(errors), initial=0.0))

    def _affords(self, stage: Stage, more: int) -> bool:
        """Whether states over so many samples take half of what is left at most.

        They do not count where points are counted.
        """
        left, correcting = self._budget.seconds_left, self._correcting
        if self._budget.seconds is None or (left > 0 and correcting.is_known(more)):
            return True
        # States are evaluated here, wherever points are.
        ends = len(stage.ends.index) * stage.samples
        work = correcting.states_of(stage) * (stage.samples + more) / max(ends, 1)
        is_unlike = self.options.executor is not None or not self.costs.each
        if is_unlike and 2 * self.costs.states * work > left:
            return False
        points = correcting.in_points(stage, stage.samples, more)
        return self._can_afford(2 * points, stage.samples)

    def _kept_for_states(self, stage: Stage, samples: int) -> float:
        """Points over some samples that are left out, so that there is time to correct others."""
        if self._budget.seconds is None or samples == self.count:
            return 0.0
        return _MARGIN * self._correcting.least(stage, samples)

    def _with_more_samples(self, stage: Stage, is_fine: bool) -> tuple[int, Indices] | None:
        """Samples and points of the next stage; None where more cannot be afforded."""
        known = np.flatnonzero(stage.known)
        if self._halved:  # there is room beyond what the eye sees: all samples at once
            for points in (known, self._coarse_enough(stage)):
                if len(points) and self._can_afford(len(points), self.count):
                    return self.count, points
        wanted = _STANDARD_ERROR * self._left
        needed = float(self.count)
        if wanted and np.isfinite(stage.standard_error):
            needed = 1.1 * stage.samples * (stage.standard_error / wanted) ** 2
        least, most = (factor * stage.samples for factor in _GROWTH)
        needed = max(needed, least) if is_fine else min(max(needed, least), most)
        while needed > least - 1:
            # What is nearly all may as well be all.
            samples = self.count if 1.5 * needed > self.count else int(needed)
            if self._can_afford(len(known) + self._kept_for_states(stage, samples), samples):
                return samples, known
            needed /= 1.2
        return None

    def _coarse_enough(self, stage: Stage) -> Indices:
        """The points that are always evaluated, if they foretell the others; else none."""
        coarse = np.union1d(self.coarsest, self._refinement.whole)
        if not stage.known[coarse].all():
            return coarse[:0]
        assert stage.forecast is not None
        heights, alone = stage.forecast.heights, np.zeros(stage.total, bool)
        alone[coarse] = True
        told = self._refinement.filled(heights, alone.reshape(heights.shape))
        off = np.abs(np.minimum(told, 1.0) - np.minimum(heights, 1.0)).reshape(-1)
        others = off[stage.known & ~alone]
        is_foretold = not len(others) or np.percentile(others, _MOST) <= _TOLERANCE
        return coarse if is_foretold else coarse[:0]

    def _affordable_points(self, count: int, stage: Stage) -> int:
        is_open = np.isnan(stage.standard_error) and not stage.is_told
        kept = self._kept_for_states(stage, stage.samples) if is_open else 0.0
        while count and not self._can_afford(count + kept, stage.samples):
            count = int(0.8 * count)
        return count

    def _can_afford(self, points: float, samples: int) -> bool:
        budget = self._budget
        if budget.points is not None:
            share = samples / self.count
            return bool(self.costs.points + points * share <= budget.points + 1e-9)
        if budget.seconds is None:
            return True
        states = self._states(int(points))
        last = float(states if isinstance(states, int) else 0)
        last += _VECTORS if self.options.fidelity else 0
        last = last / self.landscape.method.vectors_at_a_point
        expected = self.costs.expected((points + last) * samples)
        return bool(_SLACK * expected <= budget.seconds_left)

    # -- what comes of it -----------------------------------------------------------------------

    def _states(self, points: int) -> int | StateLosses:
        """States that are evaluated themselves: fewer where time is short and points are few."""
        states = self.options.states
        if self._budget.seconds is None or not isinstance(states, int):
            return states
        return min(states, max(_STATES, points // 8))

    def _raw(self, stage: Stage, states: StateLosses | None = None) -> Surface:
        """The surface at the points that are known alone."""
        values = {LOSS: np.full(stage.total, np.nan)}
        for number, evaluation in stage.found.items():
            for name, value in evaluation.values.items():
                values.setdefault(name, np.full(stage.total, np.nan))[number] = value
        provenance = stage.landscape.provenance(self._key) | {"evaluation": list(self._evaluation)}
        return stage.landscape.surface_of(
            self.grid, values, stage.known, states or stage.ends, provenance
        )

    def _surface(self, stage: Stage, states: StateLosses | None = None) -> Surface:
        """The surface as it is known: what was not evaluated is filled, and all is corrected."""
        return self._corrected(stage, self._filled(stage, states))

    def _corrected(self, stage: Stage, surface: Surface) -> Surface:
        if stage.correction is None:
            return surface
        are_given = isinstance(self.options.states, StateLosses)
        return stage.correction.applied(surface, to_states=not are_given)

    def _filled(self, stage: Stage, states: StateLosses | None = None) -> Surface:
        """The surface over the stage's samples, with what was not evaluated filled."""
        raw, forecast = self._raw(stage, states), stage.forecast
        assert forecast is not None

        def filled(values: Floats) -> Floats:
            found = self._refinement.filled(values, raw.evaluated)
            return np.where(raw.evaluated, values, found)

        accuracy = None if raw.accuracy is None else np.clip(filled(raw.accuracy), 0.0, 1.0)
        return replace(
            raw,
            loss=np.where(raw.evaluated, raw.loss, stage.shares.losses(forecast.heights)),
            accuracy=accuracy,
            metrics={name: filled(values) for name, values in raw.metrics.items()},
            provenance=raw.provenance | {"is_filled": True, "budget": self._reached(stage)},
        )

    def _last(self, stage: Stage) -> Surface:
        """The best surface, with all that belongs to it."""
        points = self._budget.points
        overdrawn = self._budget.seconds_left < 0 or (
            points is not None and self.costs.points > points
        )
        if len(stage.found) <= len(self.coarsest) < stage.total:
            words = "it was too small for more than the coarsest picture"
            self._notes.append(words if not overdrawn else f"{words}, which took more")
        surface = self._filled(stage, stage.landscape.states(self._states(len(stage.found))))
        if self.options.fidelity:
            journal = self.options.journal
            # Behind the points of all stages, by the stage's samples.
            first = (self.count + 1 + stage.samples) * max(stage.total, _VECTORS)
            kept = {} if journal is None else Kept(journal, first)
            fidelity = stage.landscape.fidelity(surface, known=kept)
            surface = replace(surface, fidelity=fidelity)
        surface = self._corrected(stage, surface)
        reached = {**surface.provenance["budget"], "seconds": self._budget.elapsed}
        return replace(surface, provenance=surface.provenance | {"budget": reached})

    def _reached(self, stage: Stage) -> dict[str, Any]:
        """What the budget came to, as JSON values."""
        return {
            "asked": self._budget.asked,
            "seconds": self._budget.elapsed,
            "evaluated": len(stage.found),
            "cost": self.costs.points,
            "of_samples": self.count,
            "predicted_error": self._predicted_error(stage),
            "standard_error": None if np.isnan(stage.standard_error) else stage.standard_error,
            "corrected": None if stage.correction is None else stage.correction.to_json(),
            "notes": list(self._notes),
        }
