"""Where the user's cache is, on each system."""

import sys
from pathlib import Path

import pytest

from losspath.user_cache import user_cache


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/losspath"),
        ("linux", {"XDG_CACHE_HOME": " "}, "/home/who/.cache/losspath"),
        ("linux", {}, "/home/who/.cache/losspath"),
        ("darwin", {}, "/home/who/Library/Caches/losspath"),
        ("darwin", {"XDG_CACHE_HOME": "/caches"}, "/caches/losspath"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/losspath/Cache"),
        ("win32", {}, "/home/who/AppData/Local/losspath/Cache"),
    ],
)
def test_the_cache_is_where_the_system_has_caches(monkeypatch, system, variables, expected):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/who", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    assert user_cache() == Path(expected)


def test_a_user_without_a_home_stops_nothing(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    assert user_cache().name == "losspath"
