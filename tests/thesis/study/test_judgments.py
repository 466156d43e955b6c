import pytest

from losspath.thesis.study.judgments import (
    BOTH,
    DRAWN,
    FAILS,
    HOLDS,
    IN_PART,
    NOT_JUDGED,
    REPAIRED,
    Check,
    Judgment,
    verdict_of,
)
from losspath.thesis.study.statistics import (
    all_above,
    all_below,
    all_of,
    paired_below,
    separated,
    spread,
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
    assert judgment.measured == ["✓ one", "✗ two", "– three"]
    assert judgment.verdicts == {"": IN_PART}


def test_variants_are_judged_each():
    checks = (
        Check("same", True, BOTH),
        Check("before", False, DRAWN),
        Check("after", True, REPAIRED),
    )
    judgment = Judgment("pca", "It is right.", checks)
    assert judgment.verdicts == {DRAWN: IN_PART, REPAIRED: HOLDS}
    assert judgment.measured[1] == "✗ as drawn: before"
    alone = Judgment("sampled", "It is jagged.", (Check("same", True, BOTH),))
    assert alone.verdicts == {BOTH: HOLDS}


def test_every_seed_counts():
    assert all_above([1.2, 1.3], 1.1) is True
    assert all_above([1.0, 9.0], 1.1) is None  # the seeds disagree
    assert all_above([1.0, 0.9], 1.1) is False
    assert all_below([0.5, 0.8], 0.9) is True
    assert all_below([0.5, 0.95], 0.9) is None
    assert all_below([0.9, 0.95], 0.9) is False
    assert separated([1, 2], [3, 4]) is True
    assert separated([1, 3.5], [3, 4]) is None
    assert separated([3, 4], [1, 2]) is False
    assert paired_below([1, 3.5], [2, 4]) is True
    assert paired_below([1, 4.5], [2, 4]) is None
    assert paired_below([3, 4.5], [2, 4]) is False
    assert paired_below([], []) is None
    assert all_above([], 1) is all_below([], 1) is separated([], [1]) is None


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([True, True], True),
        ([True, False], False),
        ([None, False], False),
        ([True, None], None),
    ],
)
def test_several_things_are_all_so(found, told):
    assert all_of(found) is told


def test_spread_has_a_deviation_from_two_seeds_on():
    assert spread([1.0]) == "1"
    assert spread([1.0, 3.0]) == "2.0 ± 1.4"
    assert spread([10.0, 30.0]) == "20 ± 14"
    assert spread([0.1, 0.3], "+.0%") == "+20% ± 14%"
    assert spread([0.9973, 0.9967]) == "0.9970 ± 0.0004"
    assert spread([2.0, 2.0]) == "2 ± 0"
    assert spread([2.0, float("nan")]) == "nan"
    assert spread([0.5, 0.7], ".0%") == "60% ± 14%"
