"""Runs a study from end to end and writes its pages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from losspath.errors import ArgumentError, RunError
from losspath.figures import save_figure
from losspath.files import plain_json, read_document, write_atomically, write_document
from losspath.thesis.study import (
    distances,
    fidelity,
    methods,
    prediction,
    surfaces,
    techniques,
    training,
)
from losspath.thesis.study.judgments import Judgment
from losspath.thesis.study.measuring import measure
from losspath.thesis.study.pages import MEASUREMENTS, write_pages
from losspath.thesis.study.plan import Plan, Scale
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.scheduler import Progress, Scheduler
from losspath.thesis.study.sections import Section
from losspath.thesis.study.table import Table

SECTIONS: tuple[Section, ...] = (
    training.DATA,
    training.ACCURACY,
    surfaces.SIZES,
    surfaces.RESOLUTION,
    methods.METHODS,
    fidelity.FIDELITY,
    methods.LAYERS,
    distances.DISTANCES,
    distances.TEMPERATURE,
    techniques.BY_TECHNIQUE,
    techniques.NETWORKS,
    techniques.LOSSES,
    prediction.PREDICTION,
    training.RATES,
    training.DYNAMICS,
)


def chosen_sections(names: Sequence[str], plan: Plan) -> list[Section]:
    """The parts of a study that were asked for, in their order; all if none was.

    Args:
        names: of parts, or of figures in them.
        plan: the study.

    Raises:
        ArgumentError: there is no part and no figure of a name.
    """
    known = {picture.name: each.name for each in SECTIONS for picture in each.pictures_of(plan)}
    known |= {section.name: section.name for section in SECTIONS}
    for name in names:
        if name not in known:
            parts = "|".join(section.name for section in SECTIONS)
            raise ArgumentError(f"expected --only {parts} or the name of a figure, got {name!r}")
    chosen = {known[name] for name in names}
    return [section for section in SECTIONS if not names or section.name in chosen]


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
        only: names of parts, or of figures in them; all by default. The pages have those made
            before, too.
        data_dirs: where data sets are, by their names.
        keep_bytes: recorded paths larger than this are removed once everything is computed of
            them; they are trained again if more is asked of them later.
        executor: trains and computes in other processes, as `losspath.LocalProcesses`. Results
            round by the number of threads that each of them has.
        progress: called with (seconds of work done, in all, what is under way).
        told: called with a line about each file that is written.

    Returns:
        The claims of the parts that were asked for, with what was measured.

    Raises:
        ArgumentError: there is no part of a name.
        RunError: the directory holds a study of another scale, or of other data of the same name.
    """
    plan = Plan(scale)
    sections = chosen_sections(only, plan)
    _check_scale(directory, scale)
    files = ResultFiles(directory, data_dirs or {})
    wanted = [result for section in sections for result in section.needs(plan)]
    Scheduler(files, keep_bytes, progress, executor).make(wanted)
    told = told or (lambda line: None)
    # The page has every part that was made, also by an earlier call.
    there = [each for each in SECTIONS if each in sections or _is_made(each, plan, files)]
    table = measure_sections(there, plan, files)
    for section in sections:
        for picture in section.pictures_of(plan):
            file = directory / "figures" / f"{picture.name}.png"
            save_figure(picture.drawn(table, files), file)
            told(f"figure: {file}")
    judgments = judge_sections(there, table)
    _write_text(directory / MEASUREMENTS, table.csv())
    _write_text(directory / "claims.json", _claims(judgments))
    for page in write_pages(directory, table, judgments):
        told(f"page: {page}")
    return [each for section in sections for each in judgments[section]]


def measure_sections(sections: Iterable[Section], plan: Plan, files: ResultFiles) -> Table:
    """The measurements of the results of some parts.

    Args:
        sections: parts whose results have been made.
        plan: the study.
        files: its results.
    """
    wanted = (result for section in sections for result in section.needs(plan))
    return measure(plan, files.load, dict.fromkeys(wanted))


def judge_sections(sections: Iterable[Section], table: Table) -> dict[Section, list[Judgment]]:
    """Holds the claims of some parts against measurements."""
    return {section: [judge(table) for judge in section.judges] for section in sections}


def _check_scale(directory: Path, scale: Scale) -> None:
    """Figures have the same names at every scale, so a directory has one."""
    file = directory / "results" / "scale.json"
    mine = plain_json({**dataclasses.asdict(scale), "data": list(scale.data)})
    if file.exists():
        known = read_document(file)["scale"]
        if known != mine:
            raise RunError(
                f"{directory} holds a study of another scale ({known['name']}); choose another "
                "directory (--out)"
            )
    else:
        write_document(file, {"scale": mine})


def _is_made(section: Section, plan: Plan, files: ResultFiles) -> bool:
    figures = files.directory / "figures"
    drawn = all((figures / f"{each.name}.png").exists() for each in section.pictures_of(plan))
    return drawn and all(map(files.has, section.needs(plan)))


def _claims(judgments: Mapping[Section, Sequence[Judgment]]) -> str:
    rows = [
        {
            "subject": each.subject,
            "claim": each.claim,
            "verdicts": each.verdicts,
            "checks": [dataclasses.asdict(check) for check in each.checks],
            "figure": each.figure,
        }
        for several in judgments.values()
        for each in several
    ]
    return json.dumps(plain_json(rows), indent=1, ensure_ascii=False) + "\n"


def _write_text(file: Path, text: str) -> None:
    write_atomically(file, lambda out: out.write(text.encode()))
