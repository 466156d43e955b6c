"""A surface within a budget: coarse first, then finer where it is not known, then more samples."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from losspath.evaluation.execution.journal import Kept
from losspath.evaluation.quantities import LOSS, Evaluation
from losspath.evaluation.subsets import reason_to_keep_all
from losspath.geometry.grid import Grid
from losspath.surface.budget import Budget
from losspath.surface.costs import Costs
from losspath.surface.refinement import Forecast, Refinement
from losspath.surface.refining import Options, Surveyed
from losspath.surface.sampling import Ask, Sampler
from losspath.surface.shares import Shares
from losspath.surface.surface import StateLosses, Surface

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

# Errors of interpolation and of samples, as shares of the drawn range, that are none to the eye.
_TOLERANCE, _STANDARD_ERROR = 0.01, 0.02
_SAMPLES = 512  # that are begun with; all where there are no more than twice as many
_GROWTH = 1.5, 16.0  # at least and at most, as all points are evaluated again
_JUDGED, _ENOUGH = 9, 25  # points whose standard errors are measured, once so many are known
_PLAIN = 2  # times a point's seconds, where its parts are evaluated one by one
_PIECE = 32  # points that are evaluated before time is looked at
_SLACK = 1.1  # times the seconds that are expected
_HALVINGS = 3  # of the tolerances within a limit, before all is evaluated
_MOST = 95  # percentile of predicted errors that is told
_VECTORS = 60  # that a fidelity is of
_STATES = 9  # that are evaluated themselves in any case


class Stage(Sampler):
    """Points over one number of samples: those that were known before, and then what is wanted.

    Args:
        run: decides on points.
        samples: how many.
        first: (G,) points that are evaluated in any case.

    Attributes:
        samples: how many there are in fact.
        landscape: over these samples.
        found: what is known, by the number of the point.
        ends: the losses of the path's ends.
        standard_error: the largest one of those that were measured; NaN before.
        forecast: the surface as it is known, in shares; None before the first points are known.
        shares: from losses to shares.
    """

    def __init__(self, run: BudgetedSurface, samples: int, first: Indices) -> None:
        self.landscape = run.landscape.over(samples)
        self.samples = len(self.landscape.objective)
        self.first, self.found = first, dict[int, Evaluation]()
        self.ends = self.landscape.states(run.options.states, ends=True)
        self.standard_error = 0.0 if self.samples == run.count else np.nan
        self.forecast: Forecast | None = None
        self.shares = Shares(False, 0.0, 1.0)
        self._run, self._points = run, run.grid.points
        self._kept: Mapping[int, Evaluation] = (
            run.options.journal.done if run.options.journal else {}
        )
        self._asked: Indices | None = None
        self._began, self._times = time.monotonic(), list[float]()

    @property
    def total(self) -> int:
        """The grid's number of points."""
        return len(self._points)

    @property
    def is_begun(self) -> bool:
        """Whether what has to be evaluated in any case is known."""
        return all(number in self.found for number in self.first.tolist())

    @property
    def known(self) -> Flags:
        """(m·n,) which points are known."""
        known = np.zeros(self.total, bool)
        known[list(self.found)] = True
        return known

    def ask(self) -> list[Ask]:
        """The first points, and then those that are decided on as all before are known."""
        if self._asked is None:
            self._asked = np.concatenate([self.first, self._run.early(self)])
        elif all(number in self.found for number in self._asked.tolist()):
            self._note_costs()
            self._asked = self._run.decide(self)
        else:
            return []
        numbers = self._asked + self.samples * self.total
        self._began, self._times = time.monotonic(), []
        for number in numbers.tolist():
            if number in self._kept:
                self._take(number, self._kept[number])
        # In pieces, so that time is looked at in between; all share one pass over the path.
        points, some = self._points[self._asked], len(self._run.coarsest)
        ends = [0, *range(some, len(numbers), _PIECE), len(numbers)]
        return [Ask(numbers[a:b], points[a:b], True) for a, b in pairwise(ends) if a < b]

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Takes the result at a point."""
        self._take(number, evaluation)
        self._times.append(time.monotonic())

    def _note_costs(self) -> None:
        """Tells what the points took that were evaluated since the last ones were asked for."""
        if self._times:
            now, count, some = time.monotonic(), len(self._times), len(self._run.coarsest)
            later = max(0, count - some)
            since = now - self._times[some - 1] if later else 0.0
            work = float(self.samples)
            self._run.costs.note(count * work, now - self._began, later * work, since)

    def _take(self, number: int, evaluation: Evaluation) -> None:
        """Keeps a result; those of an earlier call cost what they did."""
        self.found[number % self.total] = evaluation
        self._run.costs.points += self.samples / self._run.count


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
        self._more = 0  # samples that the next stage is over
        self._notes: list[str] = []
        self._evaluation: list[str] = []

    def surfaces(self) -> Iterator[Surface]:
        """Ever better surfaces, each of them whole; the last one is the best."""
        keep = reason_to_keep_all(self.landscape.objective)
        if keep:
            self._notes.append(f"all samples were taken, as {keep}")
        few = self.count <= 2 * _SAMPLES
        best = stage = Stage(self, self.count if keep or few else _SAMPLES, self.coarsest)
        while True:
            for known in self._evaluated(stage, is_first=best is stage):
                yield self._surface(known)
            if not stage.is_begun:  # time was over; what was known before stands
                break
            best = stage
            if not self._more:
                break
            stage, self._more = Stage(self, self._more, np.flatnonzero(stage.known)), 0
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
        if len(stage.first) > len(self.coarsest) or not self._can_afford(
            len(self.coarsest) + len(more), stage.samples
        ):
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
            unsure = np.percentile(stage.forecast.errors, _MOST) / _TOLERANCE
            blurred = 0.0
            if not sampled and len(stage.found) >= min(_ENOUGH, stage.total):
                # Where there was no time to measure it, it is taken to be large.
                blurred = np.nan_to_num(stage.standard_error / _STANDARD_ERROR, nan=np.inf)
            if blurred > unsure or not len(wanted):
                self._more = self._affordable_samples(stage, is_fine=not len(wanted))
                if self._more:
                    return wanted[:0]
            count = self._affordable_points(len(wanted), stage.samples)
            if count or sampled:
                return wanted[:count]
            self._more = self._affordable_samples(stage, is_fine=True)
            return wanted[:0]

    def _look(self, stage: Stage) -> Indices:
        """What is known by now, and which points are wanted."""
        surface = self._raw(stage)
        known = surface.evaluated
        stage.shares = Shares.of(surface)
        tolerance = _TOLERANCE * self._left
        heights = stage.shares(surface.loss)
        stage.forecast = self._refinement.forecast(heights, known, tolerance, top=1.0)
        wanted = stage.forecast.wanted
        enough = known.sum() >= min(_ENOUGH, known.size) or not len(wanted)
        if (
            np.isnan(stage.standard_error)
            and enough
            and self._can_afford(_PLAIN * _JUDGED, stage.samples)
        ):
            stage.standard_error = self._standard_error(stage, heights)
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

    def _standard_error(self, stage: Stage, heights: Floats) -> float:
        """The largest standard error of some points: the lowest, and others of all heights."""
        flat = heights.reshape(-1)
        candidates = np.flatnonzero(stage.known & np.isfinite(flat) & (flat < 1.0))
        if not len(candidates):
            return 0.0
        order = candidates[np.argsort(flat[candidates], kind="stable")]
        spread = np.linspace(0, len(order) - 1, _JUDGED - 3).round().astype(int)
        chosen = order[np.unique([*range(min(3, len(order))), *spread.tolist()])]
        points = self.grid.points[chosen]
        errors = stage.landscape.standard_errors(points, stage.shares, self.count)
        return float(np.max(errors, where=~np.isnan(errors), initial=0.0))

    def _affordable_samples(self, stage: Stage, is_fine: bool) -> int:
        """How many samples the next stage may be over; 0 where more cannot be afforded."""
        wanted = _STANDARD_ERROR * self._left
        needed = float(self.count)
        if wanted and np.isfinite(stage.standard_error):
            needed = 1.1 * stage.samples * (stage.standard_error / wanted) ** 2
        least, most = (factor * stage.samples for factor in _GROWTH)
        needed = max(needed, least) if is_fine else min(max(needed, least), most)
        while needed > least - 1:
            # What is nearly all may as well be all.
            samples = self.count if 1.5 * needed > self.count else int(needed)
            if self._can_afford(len(stage.found), samples):
                return samples
            needed /= 1.2
        return 0

    def _affordable_points(self, count: int, samples: int) -> int:
        while count and not self._can_afford(count, samples):
            count = int(0.8 * count)
        return count

    def _can_afford(self, points: int, samples: int) -> bool:
        budget = self._budget
        if budget.points is not None:
            share = samples / self.count
            return bool(self.costs.points + points * share <= budget.points + 1e-9)
        if budget.seconds is None:
            return True
        states = self._states(points)
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
        """The surface with what was not evaluated filled."""
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
        surface = self._surface(stage, stage.landscape.states(self._states(len(stage.found))))
        if self.options.fidelity:
            journal = self.options.journal
            kept = {} if journal is None else Kept(journal, (self.count + 1) * stage.total)
            fidelity = stage.landscape.fidelity(surface, known=kept)
            surface = replace(surface, fidelity=fidelity)
        reached = {**surface.provenance["budget"], "seconds": self._budget.elapsed}
        return replace(surface, provenance=surface.provenance | {"budget": reached})

    def _reached(self, stage: Stage) -> dict[str, Any]:
        """What the budget came to, as JSON values."""
        assert stage.forecast is not None
        return {
            "asked": self._budget.asked,
            "seconds": self._budget.elapsed,
            "evaluated": len(stage.found),
            "cost": self.costs.points,
            "of_samples": self.count,
            "predicted_error": float(np.percentile(stage.forecast.errors, _MOST)),
            "standard_error": None if np.isnan(stage.standard_error) else stage.standard_error,
            "notes": list(self._notes),
        }
