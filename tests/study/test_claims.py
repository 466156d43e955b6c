import pytest

from losspath.study.claims import (
    FAILS,
    HOLDS,
    IN_PART,
    NOT_JUDGED,
    Check,
    Judgment,
    all_above,
    all_below,
    separated,
    spread,
    verdict_of,
)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([True, True], HOLDS),
        ([True, None], IN_PART),
        ([True, False], IN_PART),
        ([False, False], FAILS),
        ([False, None], FAILS),
        ([None], NOT_JUDGED),
        ([], NOT_JUDGED),
    ],
)
def test_verdicts(found, verdict):
    assert verdict_of(found) == verdict


def test_a_judgment_says_what_was_found():
    checks = (Check("one", True), Check("two", False), Check("three", None))
    judgment = Judgment("steps", "They climb.", checks, "fig")
    assert judgment.verdict == IN_PART
    assert judgment.measured == "✓ one; ✗ two; – three"


def test_every_seed_counts():
    assert all_above([1.2, 1.3], 1.1)
    assert not all_above([1.0, 9.0], 1.1)
    assert all_below([0.5, 0.8], 0.9)
    assert not all_below([0.5, 0.95], 0.9)
    assert separated([1, 2], [3, 4])
    assert not separated([1, 3.5], [3, 4])
    assert all_above([], 1) is all_below([], 1) is separated([], [1]) is None


def test_spread_has_a_deviation_from_two_seeds_on():
    assert spread([1.0]) == "1"
    assert spread([1.0, 3.0]) == "2 ± 1.41"
    assert spread([0.5, 0.7], ".0%") == "60% ± 14%"
