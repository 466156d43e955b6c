"""What long work says where there is no terminal."""

import io

import pytest
from rich.console import Console

from losspath.cli import console


@pytest.fixture
def written(monkeypatch):
    """What is written to standard error, by a clock that goes on by ten seconds a look."""
    file, now = io.StringIO(), iter(range(0, 10_000, 10))
    monkeypatch.setattr(console, "err", Console(file=file, force_terminal=False))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(now)))
    return file


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is(written):
    with console.progress_bar("local-planes") as progress:
        for done in range(0, 2001, 200):
            progress(done, 2000)
    lines = written.getvalue().splitlines()
    assert lines
    assert len(lines) < 6  # of eleven calls
    assert lines[0].startswith("local-planes: ")
    assert lines[-1].endswith(" of 2,000")


def test_a_warning_is_one_line(written):
    console.warn("a [bold] word, and many more " * 10)
    assert written.getvalue().startswith("losspath: warning: a [bold] word")
    assert written.getvalue().count("\n") == 1
