import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losspath import History, Objective, RunCurves, StepSizes, measure_history
from losspath.analysis.runs import Spread
from losspath.recording.trajectory import as_path

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


def test_a_history_is_measured_where_none_was_kept():
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.randint(2, (40,))
    objective = Objective(torch.nn.Linear(3, 2), x, y, F.cross_entropy)
    path = np.random.default_rng(0).standard_normal((9, 8))
    path[8] = np.nan
    history = measure_history(as_path(path), objective, states=5)
    np.testing.assert_array_equal(history.step, [0, 2, 4, 6, 8])
    expected = [objective(path[i]) for i in (0, 2, 4, 6)]
    np.testing.assert_allclose(history.training_loss[:4], [each.loss for each in expected])
    np.testing.assert_allclose(history.training_accuracy[:4], [e.accuracy for e in expected])
    assert np.isnan(history.training_loss[4])
    assert np.isnan(history.validation_loss).all()
    assert RunCurves(SIZES, history).steps_per_epoch is None


class Recorded:
    """A path whose states have running statistics of their own."""

    def __init__(self, states, sides):
        self._path, self._sides = as_path(states), sides

    def __len__(self):
        return len(self._path)

    def read(self, *arguments):
        return self._path.read(*arguments)

    def sides(self, index):
        return self._sides[index]

    def side_key(self, index):
        return str(index)

    def __getattr__(self, name):
        return getattr(self._path, name)


def test_a_measured_history_has_the_running_statistics_of_its_states():
    torch.manual_seed(0)
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3, affine=False), torch.nn.Linear(3, 1))
    objective = Objective(model, x, y, F.mse_loss)
    sides = [
        {"0.running_mean": torch.full((3,), 1.0 * k), "0.running_var": torch.full((3,), 1.0 + k)}
        for k in range(4)
    ]
    states = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    history = measure_history(Recorded(states, sides), objective)
    expected = []
    for state, own in zip(torch.from_numpy(states), sides, strict=True):
        normed = (x - own["0.running_mean"]) / torch.sqrt(own["0.running_var"] + 1e-5)
        expected.append((normed @ state[:3, None] + state[3] - y).pow(2).mean().item())
    np.testing.assert_allclose(history.training_loss, expected, rtol=1e-5)
    assert np.isnan(history.training_accuracy).all()


def test_one_column_of_logits_has_no_accuracy():
    torch.manual_seed(0)
    x, y = torch.randn(20, 3), torch.randint(2, (20, 1))

    def loss(outputs, targets):
        return F.binary_cross_entropy_with_logits(outputs, targets.float())

    for targets in (y, y[:, 0]):
        objective = Objective(
            torch.nn.Linear(3, 1), x, targets, lambda out, t: loss(out.reshape(t.shape), t)
        )
        history = measure_history(as_path(np.ones((2, 4))), objective)
        assert np.isnan(history.training_accuracy).all()
        assert np.isfinite(history.training_loss).all()


def test_spread():
    spread = Spread.of([1.0, 3.0, float("nan"), 5.0])
    assert (spread.count, spread.mean, spread.low, spread.high) == (3, 3.0, 1.0, 5.0)
    assert spread.deviation == pytest.approx(2.0)
    assert np.isnan(Spread.of([1.0]).deviation)
    assert Spread.of([]).count == 0
