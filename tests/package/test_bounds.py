"""The versions that are asked for are those that the tests were run with."""

import tomllib

import pytest
from package_environments import NEWEST, OLDEST, ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_EXTRAS = [
    text
    for name, several in PROJECT["optional-dependencies"].items()
    if name not in ("all", "dev", "docs")
    for text in several
]
ASKED = [
    requirement
    for requirement in map(Requirement, PROJECT["dependencies"] + OF_EXTRAS)
    if requirement.name != PROJECT["name"]
]


def pinned(constraints):
    lines = [line for line in constraints.read_text().splitlines() if not line.startswith("#")]
    pairs = (line.split("==") for line in lines)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("requirement", ASKED, ids=str)
def test_the_range_is_what_was_tried(requirement):
    (bound,) = requirement.specifier
    name = canonicalize_name(requirement.name)
    assert bound.operator == ">="
    assert pinned(OLDEST)[name] == Version(bound.version)
    assert pinned(NEWEST)[name] >= Version(bound.version)
