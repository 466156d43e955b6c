"""Surfaces, lines and steps are what they were."""

import numpy as np
import pytest
from baseline_cases import KEPT, all_numbers, differences


@pytest.mark.slow
def test_every_number_is_as_it_was_kept():
    assert differences(all_numbers()) == []


def test_a_number_that_is_off_would_be_noticed():
    with np.load(KEPT) as kept:
        found = {what: kept[what] for what in kept.files}
    what = "tied | averaged: losses"
    found[what] = found[what] * (1 + 3e-5)
    assert [line.split(":")[0] for line in differences(found)] == ["tied | averaged"]
    del found[what]
    assert differences(found) == [f"{what}: is no more"]
