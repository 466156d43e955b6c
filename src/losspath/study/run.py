"""Runs a study from end to end and writes its pages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from losspath.errors import ArgumentError
from losspath.figures import save_figure
from losspath.files import plain_json, write_atomically
from losspath.study import distances, methods, prediction, surfaces, techniques, training
from losspath.study.claims import Judgment
from losspath.study.pages import write_pages
from losspath.study.plan import Plan, Scale
from losspath.study.section import Evidence, Finding, Section
from losspath.study.workshop import Progress, Workshop

SECTIONS: tuple[Section, ...] = (
    training.DATA,
    training.ACCURACY,
    surfaces.SIZES,
    surfaces.RESOLUTION,
    methods.METHODS,
    methods.LAYERS,
    distances.DISTANCES,
    distances.TEMPERATURE,
    techniques.TECHNIQUES,
    techniques.NETWORKS,
    techniques.LOSSES,
    prediction.PREDICTION,
    training.RATES,
    training.DYNAMICS,
)


def chosen_sections(names: Sequence[str]) -> list[Section]:
    """The parts of a study that were asked for, in their order; all if none was.

    Raises:
        ArgumentError: there is no part of a name.
    """
    known = {section.name: section for section in SECTIONS}
    for name in names:
        if name not in known:
            raise ArgumentError(f"expected --only {'|'.join(known)}, got {name!r}")
    return [section for section in SECTIONS if not names or section.name in names]


def run_study(
    scale: Scale,
    directory: Path,
    *,
    only: Sequence[str] = (),
    data_dirs: Mapping[str, Path | None] | None = None,
    keep_bytes: float = float("inf"),
    executor: Executor | None = None,
    progress: Progress | None = None,
    told: Callable[[str], None] | None = None,
) -> list[Judgment]:
    """Makes what is missing of a study, draws its figures and writes its pages.

    A study that was stopped anywhere goes on when it is called again, and comes to the same files.

    Args:
        scale: how large it is.
        directory: where everything goes.
        only: names of parts; all by default.
        data_dirs: where data sets are, by their names.
        keep_bytes: recorded paths larger than this are removed once everything is computed of
            them; they are trained again if more is asked of them later.
        executor: trains and computes in other processes, as `losspath.LocalProcesses`. Results
            round by the number of threads that each of them has.
        progress: called with (seconds of work done, in all, what is under way).
        told: called with a line about each file that is written.

    Returns:
        The claims with what was measured.

    Raises:
        ArgumentError: there is no part of a name.
    """
    sections = chosen_sections(only)
    plan = Plan(scale)
    workshop = Workshop(directory, data_dirs or {}, keep_bytes, progress, executor)
    workshop.make(result for section in sections for result in section.needs(plan))
    evidence = Evidence(plan, workshop.load, workshop.dataset)
    for section in sections:
        for picture in section.pictures(plan):
            file = directory / "figures" / f"{picture.name}.png"
            save_figure(picture.draw(evidence), file)
            if told:
                told(f"figure: {file}")
    findings = [Finding.of(section, evidence) for section in sections]
    judgments = [judgment for found in findings for judgment in found.judgments]
    _write_claims(directory / "claims.json", judgments)
    for page in write_pages(directory, plan, findings):
        if told:
            told(f"page: {page}")
    return judgments


def _write_claims(file: Path, judgments: Sequence[Judgment]) -> None:
    rows = [
        {
            "subject": each.subject,
            "claim": each.claim,
            "verdict": each.verdict,
            "checks": [dataclasses.asdict(check) for check in each.checks],
            "figure": each.figure,
        }
        for each in judgments
    ]
    text = json.dumps(plain_json(rows), indent=1, ensure_ascii=False) + "\n"
    write_atomically(file, lambda out: out.write(text.encode()))
