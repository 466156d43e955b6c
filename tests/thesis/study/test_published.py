"""The study that is published in docs/study: its page is what its result files say."""

import dataclasses
import json
from pathlib import Path

import pytest

from losspath.thesis.study import pages
from losspath.thesis.study.plan import Plan, full_scale
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.run import SECTIONS, judge_sections, measure_sections

PUBLISHED = Path(__file__).parents[3] / "docs" / "study"


@pytest.fixture(scope="module")
def table():
    plan = Plan(full_scale(cifar10="images:cifar10-jpeg.zip"))
    return measure_sections(SECTIONS, plan, ResultFiles(PUBLISHED, {}))


@pytest.fixture(scope="module")
def judgments(table):
    return judge_sections(SECTIONS, table)


def test_the_page_is_what_the_results_say(table, judgments):
    assert pages.markdown(table, judgments) == (PUBLISHED / "README.md").read_text()


def test_the_claims_are_what_the_results_say(judgments):
    judged = [
        (each.subject, each.verdicts, [dataclasses.asdict(check) for check in each.checks])
        for part in judgments.values()
        for each in part
    ]
    claims = json.loads((PUBLISHED / "claims.json").read_text())
    kept = [(claim["subject"], claim["verdicts"], claim["checks"]) for claim in claims]
    assert kept == judged


def test_every_picture_is_there(table):
    names = {picture.name for section in SECTIONS for picture in section.pictures_of(table.plan)}
    assert {file.stem for file in (PUBLISHED / "figures").iterdir()} == names
