"""Examples in docstrings do what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import losspath

ROOT = Path(losspath.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in ROOT.rglob("*.py")
    if ">>>" in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
