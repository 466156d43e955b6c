import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from losspath import StepSizeLR, StepSizes, learning_rates
from losspath.errors import ArgumentError

SIZES = np.array([0.1, 0.4, 0.2, 0.3])


def test_raw_rates_are_the_sizes():
    rates = learning_rates(SIZES)
    np.testing.assert_array_equal(rates, SIZES)
    rates[0] = 9.0  # a copy
    assert SIZES[0] == 0.1


def test_a_run_gives_its_sizes():
    sizes = StepSizes(SIZES, np.arange(5), np.ones(4), {})
    np.testing.assert_array_equal(learning_rates(sizes), SIZES)


def test_scaled_rates_have_the_mean_that_is_asked_for():
    rates = learning_rates(SIZES, "scaled", mean=0.01)
    assert rates.mean() == pytest.approx(0.01)
    np.testing.assert_allclose(rates / rates[0], SIZES / SIZES[0])


def test_shuffled_rates_are_the_same_in_another_order():
    sizes = np.arange(1.0, 101.0)
    one, again, other = (learning_rates(sizes, "shuffled", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(np.sort(one), sizes)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, sizes)


def test_the_mean_at_every_step():
    np.testing.assert_allclose(learning_rates(SIZES, "mean"), [0.25] * 4)


def test_smoothing_is_a_moving_average_over_what_there_is():
    np.testing.assert_allclose(learning_rates(SIZES, smooth=3), [0.25, 0.7 / 3, 0.3, 0.25])


@given(
    arrays.arrays(float, st.integers(1, 40), elements=st.floats(0, 10)),
    st.integers(1, 60),
)
def test_smoothed_rates_stay_between_the_extremes(sizes, smooth):
    rates = learning_rates(sizes, smooth=smooth)
    assert rates.shape == sizes.shape
    assert rates.min() >= sizes.min() - 1e-9
    assert rates.max() <= sizes.max() + 1e-9


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        (SIZES, {"form": "sorted"}, "raw, scaled, shuffled, mean, got 'sorted'"),
        (SIZES, {"smooth": 0}, "smooth ≥ 1"),
        (SIZES, {"form": "scaled"}, "needs a mean"),
        (SIZES, {"form": "scaled", "mean": 0.0}, "needs a mean"),
        (np.zeros(3), {"form": "scaled", "mean": 1.0}, "needs a mean"),
        ([], {}, "at least one step"),
        ([1.0, np.nan], {}, "all finite"),
        ([[1.0]], {}, r"numbers \(S,\), got shape \(1, 1\)"),
        ([-1.0], {}, "at least one step"),
        (StepSizes(SIZES, np.arange(5) * 10, np.ones(4), {}), {}, "states were left out"),
    ],
)
def test_what_gives_no_rates_is_refused(sizes, options, message):
    with pytest.raises(ArgumentError, match=message):
        learning_rates(sizes, **options)


def test_the_scheduler_sets_one_rate_a_step_and_keeps_the_last():
    one, two = torch.nn.Linear(2, 1), torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD([{"params": one.parameters()}, {"params": two.parameters()}], 9.0)
    scheduler = StepSizeLR(optimizer, SIZES)
    seen = []
    for _ in range(6):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert seen == [[rate] * 2 for rate in [*SIZES.tolist(), 0.3, 0.3]]


def test_the_scheduler_goes_on_where_it_was():
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), 9.0)
    scheduler = StepSizeLR(optimizer, SIZES)
    optimizer.step()
    scheduler.step()
    state = scheduler.state_dict()
    again = StepSizeLR(torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), 9.0), [1.0])
    again.load_state_dict(state)
    again.step()
    assert again.get_last_lr() == [0.2]


@pytest.mark.parametrize("rates", [[], [0.1, np.nan], [np.inf], [-0.1], [[0.1]], 0.1])
def test_the_scheduler_needs_rates(rates):
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), 0.1)
    with pytest.raises(ArgumentError, match="expected \\(S,\\) learning rates"):
        StepSizeLR(optimizer, rates)


def test_the_scheduler_refuses_step_sizes():
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), 0.1)
    with pytest.raises(ArgumentError, match="pass learning_rates"):
        StepSizeLR(optimizer, StepSizes(SIZES, np.arange(5), np.ones(4), {}))


def test_sizes_across_lost_states_give_no_rates():
    sizes = np.array([0.1, np.nan, 0.2])
    steps = StepSizes(sizes, np.array([0, 1, 4, 5]), np.ones(3), {"holes": [1]})
    with pytest.raises(ArgumentError, match="states of this run were lost after state 1"):
        learning_rates(steps)
    with pytest.raises(ArgumentError, match="all finite and ≥ 0"):
        learning_rates(sizes)


def test_a_run_that_lost_its_first_states_gives_no_rates():
    # Step 0 would get the size of step 3.
    steps = StepSizes(SIZES, np.arange(3, 8), np.ones(4), {})
    with pytest.raises(ArgumentError, match=r"from step 3 on .*pass their \.sizes"):
        learning_rates(steps)
    np.testing.assert_array_equal(learning_rates(steps.sizes), SIZES)
