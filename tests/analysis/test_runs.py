import numpy as np
import pytest

from losspath import History, RunCurves, StepSizes
from losspath.analysis.runs import Spread

SIZES = StepSizes(np.ones(4), np.arange(5), np.ones(4), {})


def test_a_history_is_columns_of_rows():
    rows = [
        {"epoch": 0, "step": 0, "training_loss": 2.0, "validation_accuracy": None, "seconds": 0.0},
        {"epoch": 2, "step": 46, "training_loss": 1.0, "validation_accuracy": 0.5},
    ]
    history = History.of(rows)
    np.testing.assert_array_equal(history.step, [0, 46])
    np.testing.assert_array_equal(history.training_loss, [2.0, 1.0])
    np.testing.assert_array_equal(history.validation_accuracy, [np.nan, 0.5])
    assert np.isnan(history.validation_loss).all()
    run = RunCurves(SIZES, history)
    assert run.steps_per_epoch == 23
    assert run.final("training_loss") == 1.0


@pytest.mark.parametrize("history", [None, History.of([]), History.of([{"epoch": 0, "step": 0}])])
def test_a_run_without_epochs_has_no_steps_in_one(history):
    run = RunCurves(SIZES, history)
    assert run.steps_per_epoch is None
    assert np.isnan(run.final("validation_loss"))


def test_spread():
    spread = Spread.of([1.0, 3.0, float("nan"), 5.0])
    assert (spread.count, spread.mean, spread.low, spread.high) == (3, 3.0, 1.0, 5.0)
    assert spread.deviation == pytest.approx(2.0)
    assert np.isnan(Spread.of([1.0]).deviation)
    assert Spread.of([]).count == 0
