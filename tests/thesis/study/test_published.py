"""The study that is published in docs/study: its page is what its result files say."""

import json
from pathlib import Path

import pytest

from losspath.thesis.study import pages
from losspath.thesis.study.plan import Plan, full_scale
from losspath.thesis.study.run import SECTIONS
from losspath.thesis.study.section import Evidence, Finding
from losspath.thesis.study.workshop import Workshop

PUBLISHED = Path(__file__).parents[3] / "docs" / "study"


def no_data(name):
    raise AssertionError(f"judging took the data set {name}, and not result files alone")


@pytest.fixture(scope="module")
def findings():
    plan = Plan(full_scale(cifar10="images:cifar10-jpeg.zip"))
    workshop = Workshop(PUBLISHED, {})
    evidence = Evidence(plan, workshop.load, no_data)
    return plan, [Finding.of(section, evidence) for section in SECTIONS]


def test_the_page_is_what_the_results_say(findings):
    plan, found = findings
    assert pages.markdown(plan, found) == (PUBLISHED / "README.md").read_text()


def test_the_claims_are_what_the_results_say(findings):
    _, found = findings
    judged = [(each.subject, each.verdicts) for part in found for each in part.judgments]
    claims = json.loads((PUBLISHED / "claims.json").read_text())
    assert [(claim["subject"], claim["verdicts"]) for claim in claims] == judged


def test_every_picture_is_there(findings):
    plan, _ = findings
    names = {picture.name for section in SECTIONS for picture in section.pictures(plan)}
    assert {file.stem for file in (PUBLISHED / "figures").iterdir()} == names
