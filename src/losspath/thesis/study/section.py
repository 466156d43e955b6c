"""A part of a study: what it needs, what it draws, and what it judges."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from losspath.analysis.dynamics import Dynamics
from losspath.analysis.interpolation import Interpolation
from losspath.analysis.runs import History, RunCurves
from losspath.analysis.steps import StepSizes
from losspath.geometry.plane import PrincipalPlane
from losspath.methods import Method
from losspath.surface import Surface
from losspath.thesis.datasets import Dataset
from losspath.thesis.study.claims import Judgment
from losspath.thesis.study.plan import Plan
from losspath.thesis.study.runs import (
    Accuracies,
    DynamicsOf,
    Explained,
    LineOf,
    PlaneOf,
    Result,
    Run,
    Steps,
    SurfaceOf,
    Thinned,
)

LINEAR_PATH_POINTS = 41


class Evidence:
    """The results of a study, by what they are of.

    Args:
        plan: which runs there are.
        load: reads a result that was made.
        dataset: gives a data set by its name.
    """

    def __init__(
        self, plan: Plan, load: Callable[[Result], Any], dataset: Callable[[str], Dataset]
    ) -> None:
        self.plan = plan
        self.dataset = dataset
        self._load = functools.cache(load)  # many figures and claims are of the same results

    def sizes(self, run: Run) -> StepSizes:
        """The step sizes of a run."""
        sizes: StepSizes = self._load(Steps(run))
        return sizes

    def history(self, run: Run) -> History:
        """The losses and accuracies of a run."""
        history: History = self._load(Accuracies(run))
        return history

    def accuracies(self, runs: Sequence[Run]) -> list[float]:
        """The validation accuracies that runs end with."""
        return [float(self.history(run).validation_accuracy[-1]) for run in runs]

    def curves(self, runs: Sequence[Run]) -> list[RunCurves]:
        """What runs are compared by."""
        return [RunCurves(self.sizes(r), self.history(r), r.config.seed) for r in runs]

    def plane(self, run: Run) -> PrincipalPlane:
        """The plane of a run."""
        plane: PrincipalPlane = self._load(PlaneOf(run))
        return plane

    def explained(self, run: Run) -> float:
        """The share of the path's variance in its plane."""
        share: float = self._load(Explained(run))
        return share

    def surface(self, run: Run, method: Method, **options: Any) -> Surface:
        """A surface of a run."""
        surface: Surface = self._load(surface_of(self.plan, run, method, **options))
        return surface

    def linear_path(self, run: Run) -> Interpolation:
        """The losses of the straight line between the ends, by the surfaces' objective."""
        line: Interpolation = self._load(linear_path_of(self.plan, run))
        return line

    def layers(self, run: Run) -> Interpolation:
        """The interpolation layer by layer."""
        line: Interpolation = self._load(LineOf(run))
        return line

    def dynamics(self, run: Run) -> Dynamics:
        """How training moved."""
        found: Dynamics = self._load(dynamics_of(self.plan, run))
        return found

    def lengths(self, run: Run) -> dict[int, float]:
        """The path's length by the stride that it is sampled with."""
        lengths: dict[int, float] = self._load(thinned_of(self.plan, run))
        return lengths


def surface_of(plan: Plan, run: Run, method: Method, **options: Any) -> SurfaceOf:
    """A surface at the study's resolution and samples, unless options say otherwise."""
    usual = {"resolution": plan.scale.resolution, "samples": plan.scale.samples}
    return SurfaceOf(run, method, **{**usual, **options})


def linear_path_of(plan: Plan, run: Run) -> LineOf:
    """The line that surfaces are held against."""
    return LineOf(run, layers=False, samples=plan.scale.samples, count=LINEAR_PATH_POINTS)


def dynamics_of(plan: Plan, run: Run) -> DynamicsOf:
    """Gradient and curvature of a run."""
    return DynamicsOf(run, plan.scale.states, min(1000, plan.scale.samples))


def thinned_of(plan: Plan, run: Run) -> Thinned:
    """A path's lengths when it is sampled."""
    return Thinned(run, strides_of(plan))


def strides_of(plan: Plan) -> tuple[int, ...]:
    """The strides that paths are thinned by; the study's own is the last but one."""
    usual = plan.scale.stride
    return (max(2, usual // 10), max(3, usual // 3), usual, 3 * usual)


def curves_of(runs: Iterable[Run]) -> list[Result]:
    """Step sizes and histories of runs."""
    return [kind(run) for run in runs for kind in (Steps, Accuracies)]


@dataclass(frozen=True)
class Picture:
    """A figure of the study.

    Attributes:
        name: of its file.
        caption: what to see in it.
        draw: draws it.
        captioned: whether the caption stands in the figure itself.
    """

    name: str
    caption: str
    draw: Callable[[Evidence], Figure]
    captioned: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the study.

    Attributes:
        name: what ``--only`` calls it: the thesis's figure where there is one.
        title: over the part.
        needs: the results that its pictures and judgments are made of.
        pictures: its figures.
        judges: hold claims against the results.
        notes: what else the results say, in sentences with their numbers.
    """

    name: str
    title: str
    needs: Callable[[Plan], list[Result]]
    pictures: Callable[[Plan], list[Picture]]
    judges: tuple[Callable[[Evidence], Judgment], ...] = ()
    notes: tuple[Callable[[Evidence], str], ...] = ()


@dataclass(frozen=True)
class Finding:
    """What the results say of a part.

    Attributes:
        section: the part.
        judgments: its claims with what was measured.
        notes: what else there is to say.
    """

    section: Section
    judgments: tuple[Judgment, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, section: Section, evidence: Evidence) -> Finding:
        """Judges a part whose results have been made."""
        return cls(
            section,
            tuple(judge(evidence) for judge in section.judges),
            tuple(tell(evidence) for tell in section.notes),
        )
