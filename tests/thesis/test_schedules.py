import dataclasses
import shutil

import numpy as np
import pytest

from losspath import StepSizes, Trajectory, step_sizes
from losspath.errors import ArgumentError, RunError, StoreError
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import load_dataset
from losspath.thesis.schedules import make_schedule
from losspath.thesis.training import train

CONFIG = TrainingConfig(network="tiny-cnn", data="digits", lr=0.05)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def from_steps(source, **options):
    return dataclasses.replace(CONFIG, lr_schedule=f"steps:{source}", **options)


def test_a_constant_rate():
    schedule = make_schedule(CONFIG, 23)
    assert {schedule.rate(step) for step in range(100)} == {0.05}
    assert schedule.digest is None


def test_step_decay_is_torchs():
    config = dataclasses.replace(CONFIG, lr_schedule="step-decay:2:0.1")
    schedule = make_schedule(config, 23)
    rates = [schedule.rate(step) for step in (0, 45, 46, 91, 92)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005])


@pytest.mark.parametrize("form", ["raw", "scaled", "shuffled", "mean"])
def test_rates_come_from_a_runs_steps(run, form):
    sizes = step_sizes(Trajectory(run)).sizes
    schedule = make_schedule(from_steps(run, lr_form=form), 23)
    rates = np.array([schedule.rate(step) for step in range(46)])
    expected = {
        "raw": sizes,
        "scaled": sizes * 0.05 / sizes.mean(),
        "shuffled": np.random.default_rng(0).permutation(sizes),
        "mean": np.full(46, sizes.mean()),
    }
    np.testing.assert_allclose(rates, expected[form])


def test_saved_sizes_serve_as_well_as_the_run(run, tmp_path):
    step_sizes(Trajectory(run)).save(tmp_path / "sizes.npz")
    one = make_schedule(from_steps(run), 23)
    other = make_schedule(from_steps(tmp_path / "sizes.npz"), 23)
    assert one.digest == other.digest


def test_a_training_takes_the_recorded_steps_as_its_rates(run, tmp_path, digits):
    # Sizes that any training can be told from: a gradient step of rate 0 goes nowhere.
    sizes = np.zeros(46)
    sizes[10:20] = 0.05
    StepSizes(sizes, np.arange(47), np.zeros(46), {}).save(tmp_path / "sizes.npz")
    train(from_steps(tmp_path / "sizes.npz"), digits, tmp_path / "again", epochs=2)
    moved = step_sizes(Trajectory(tmp_path / "again")).sizes > 0
    np.testing.assert_array_equal(moved, sizes > 0)


def test_decay_makes_smaller_steps(tmp_path, digits):
    config = dataclasses.replace(CONFIG, lr_schedule="step-decay:1:0.01")
    train(config, digits, tmp_path / "again", epochs=2)
    sizes = step_sizes(Trajectory(tmp_path / "again")).sizes
    assert sizes[23:].max() < 0.1 * sizes[:23].min()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("schedule", ["step-decay:1:0.5", "steps"])
def test_a_stopped_run_goes_on_with_the_rates_of_its_steps(run, tmp_path, digits, schedule):
    config = from_steps(run, lr_smooth=3)
    if schedule != "steps":
        config = dataclasses.replace(CONFIG, lr_schedule=schedule)
    for epochs in (1, 2):
        train(config, digits, tmp_path / "parts", epochs)
    train(config, digits, tmp_path / "whole", 2)
    assert Trajectory(tmp_path / "parts").digest == Trajectory(tmp_path / "whole").digest


def test_the_source_may_move_and_may_not_change(run, tmp_path, digits):
    train(from_steps(run), digits, tmp_path / "again", epochs=1)
    moved = shutil.copytree(run, tmp_path / "moved")
    assert train(from_steps(moved), digits, tmp_path / "again", epochs=1).was_done
    with pytest.raises(RunError, match="other step sizes"):
        train(from_steps(tmp_path / "again"), digits, tmp_path / "again", epochs=1)
    with pytest.raises(RunError, match="holds a run with --lr-schedule steps"):
        train(CONFIG, digits, tmp_path / "again", epochs=1)


def test_more_steps_than_rates_are_refused_before_any_is_taken(run, tmp_path, digits):
    with pytest.raises(RunError, match="rates for 46 steps and 69"):
        train(from_steps(run), digits, tmp_path / "again", epochs=3)
    assert not (tmp_path / "again").exists()


def test_a_source_that_is_not_there_is_refused(tmp_path, digits):
    with pytest.raises(StoreError, match="no run and no file of step sizes"):
        train(from_steps(tmp_path / "none"), digits, tmp_path / "again", epochs=1)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr_schedule": "cosine"},
        {"lr_schedule": "steps:"},
        {"lr_schedule": "steps"},
        {"lr_schedule": "step-decay:0:0.1"},
        {"lr_schedule": "step-decay:2"},
        {"lr_schedule": "step-decay:x:0.1"},
        {"lr_schedule": "step-decay:2:-1"},
        {"lr_schedule": "step-decay:2:nan"},
        {"lr_form": "mean"},
        {"lr_smooth": 5},
        {"lr_schedule": "steps:x", "lr_form": "sorted"},
        {"lr_schedule": "steps:x", "lr_smooth": 0},
    ],
)
def test_wrong_schedules_are_refused(wrong):
    with pytest.raises(ArgumentError, match=r"expected|options of the schedule"):
        TrainingConfig(**wrong)


def test_titles_and_directories_name_the_schedule():
    decay = dataclasses.replace(CONFIG, lr_schedule="step-decay:5:0.1")
    assert decay.title == "TinyCNN on digits, SGD lr 0.05 ×0.1 every 5 epochs"
    assert "x0.1-every-5-epochs" in decay.directory_name
    steps = from_steps("/runs/sgd", lr_form="scaled", lr_smooth=9)
    assert (
        steps.title
        == "TinyCNN on digits, SGD lr scaled step sizes of sgd, smoothed over 9 to a mean of 0.05"
    )
    assert "scaled-step-sizes-of-sgd" in steps.directory_name
