import dataclasses
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losspath import Trajectory
from losspath.errors import ArgumentError, LosspathError, LosspathWarning, RunError
from losspath.recording.repair import repair_trajectory
from losspath.thesis.checkpoints import load_latest_checkpoint
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import load_dataset
from losspath.thesis.networks import build_network
from losspath.thesis.records import read_history, training_config
from losspath.thesis.training import train

CONFIG = TrainingConfig(network="tiny-cnn", data="digits", lr=0.05)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def contents(directory):
    path = Trajectory(directory)
    return [(directory / "states.bin").read_bytes(), path.digest, path.all_losses.tobytes()]


def losses_of(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def test_history_has_a_row_before_the_first_step_and_one_after_each_epoch(trained_run):
    rows = read_history(trained_run)
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 0), (1, 23), (2, 46)]
    for row in rows:
        assert 0 <= row["training_accuracy"] <= 1
        assert row["validation_loss"] > 0


def test_batch_losses_are_aligned_with_the_states(trained_run, digits):
    path = Trajectory(trained_run)
    order = torch.randperm(len(digits.train_targets), generator=torch.Generator().manual_seed(0))
    model = build_network("tiny-cnn", 1, 10)
    for t in (0, 5):
        path.load_into(model, t)
        batch = order[64 * t : 64 * (t + 1)]
        loss = F.cross_entropy(model(digits.train_inputs[batch]), digits.train_targets[batch])
        assert path.losses[t] == pytest.approx(loss.item(), rel=1e-6)
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        step = torch.cat([g.reshape(-1) for g in gradient]).numpy()
        np.testing.assert_allclose(path[t] - 0.05 * step, path[t + 1], atol=1e-6)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam"}, {"momentum": 0.9, "dropout": 0.5}])
def test_the_same_configuration_gives_the_same_path(tmp_path, digits, changes):
    config = dataclasses.replace(CONFIG, **changes)
    for name in ("one", "two"):
        torch.rand(3)  # the caller's random state plays no part
        train(config, digits, tmp_path / name, epochs=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    other = dataclasses.replace(config, seed=1)
    train(other, digits, tmp_path / "three", epochs=1)
    assert contents(tmp_path / "one") != contents(tmp_path / "three")


def test_training_leaves_the_global_random_state_alone(tmp_path, digits):
    before = torch.get_rng_state()
    train(dataclasses.replace(CONFIG, dropout=0.5), digits, tmp_path / "run", epochs=1)
    assert torch.equal(before, torch.get_rng_state())


def test_epochs_may_grow_and_equal_a_run_in_one_go(tmp_path, digits):
    config = dataclasses.replace(CONFIG, dropout=0.5, record_every=10, optimizer="adam")
    for epochs in (1, 3):
        train(config, digits, tmp_path / "grown", epochs)
    train(config, digits, tmp_path / "whole", 3)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    assert losses_of(read_history(tmp_path / "grown")) == losses_of(
        read_history(tmp_path / "whole")
    )


def test_a_finished_run_is_not_trained_again(run, digits):
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    trained = train(CONFIG, digits, run, epochs=2)
    assert trained.was_done
    after = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    before.pop(run / ".train.lock"), after.pop(run / ".train.lock")
    assert after == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.1), ("network", "vgg"), ("seed", 1), ("optimizer", "adam"), ("record_every", 2)],
)
def test_another_configuration_is_refused_by_name(run, digits, name, value):
    before = contents(run)
    with pytest.raises(RunError, match="--" + name.replace("_", "-")):
        train(dataclasses.replace(CONFIG, **{name: value}), digits, run, epochs=3)
    assert contents(run) == before


def test_other_data_of_the_same_name_are_refused(run, digits):
    other = dataclasses.replace(digits, test_targets=digits.test_targets.flip(0))
    with pytest.raises(RunError, match="other data"):
        train(CONFIG, other, run, epochs=3)


def test_fewer_epochs_are_refused(run, digits):
    with pytest.raises(RunError, match="only grow"):
        train(CONFIG, digits, run, epochs=1)


def test_a_directory_of_something_else_is_refused(tmp_path, digits):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match=r"thesis\.tex"):
        train(CONFIG, digits, tmp_path, epochs=1)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_zero_epochs_record_the_initial_state(tmp_path, digits):
    trained = train(CONFIG, digits, tmp_path / "run", epochs=0)
    assert len(trained.history) == 1
    assert len(Trajectory(tmp_path / "run")) == 1


class Stop(Exception):
    pass


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("record_every", [1, 7])
def test_stopped_anywhere_it_goes_on_exactly(tmp_path, digits, record_every):
    config = dataclasses.replace(
        CONFIG, optimizer="adam", dropout=0.5, record_every=record_every, seed=5
    )
    train(config, digits, tmp_path / "whole", epochs=3)
    moments = random.Random(record_every)
    left = 40
    while True:
        left -= 1
        assert left, "never finished"
        stop_after = moments.randrange(1, 25)
        calls = iter(range(stop_after))

        def stop(done, total, calls=calls):
            if next(calls, None) is None:
                raise Stop

        try:
            train(
                config, digits, tmp_path / "cut", epochs=3, checkpoint_seconds=0.005, on_step=stop
            )
            break
        except Stop:
            continue
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert losses_of(read_history(tmp_path / "cut")) == losses_of(read_history(tmp_path / "whole"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "lion"},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"momentum": 0.9, "optimizer": "adam"},
        {"dropout": 1.0},
        {"batch_size": 0},
        {"record_every": 0},
        {"seed": -1},
    ],
)
def test_wrong_configurations_are_refused(wrong):
    with pytest.raises(ArgumentError, match=r"expected|option of sgd"):
        TrainingConfig(**wrong)


def test_directory_names_differ_where_configurations_do():
    fields = {
        "network": "vgg",
        "data": "images:/some/where",
        "optimizer": "adam",
        "lr": 0.1,
        "weight_decay": 0.01,
        "dropout": 0.5,
        "batch_size": 32,
        "seed": 4,
        "record_every": 10,
    }
    names = {TrainingConfig().directory_name}
    for name, value in fields.items():
        names.add(TrainingConfig(**{name: value}).directory_name)
    names.add(TrainingConfig(momentum=0.9).directory_name)
    assert len(names) == len(fields) + 2
    assert all("/" not in name for name in names)


def test_the_configuration_is_kept_with_the_run(run):
    assert training_config(run) == CONFIG


def test_a_damaged_checkpoint_is_refused(run, digits):
    newest = sorted(run.glob("checkpoint-*"))[-1]
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 4
    newest.write_bytes(raw)
    with pytest.raises(LosspathError, match="losspath repair"):
        train(CONFIG, digits, run, epochs=3)


def test_an_older_checkpoint_is_taken_where_states_are_missing(run):
    assert load_latest_checkpoint(run, range(47)).step == 46
    assert load_latest_checkpoint(run, range(46)).step == 23
    assert load_latest_checkpoint(run, range(23)) is None


# --------------------------------------------------------------------------------------------------
# Nothing true is deleted


def damage_row(directory, step):
    """One bit of a state's row, as a bad disk would have it, and the repair."""
    size = 4 * Trajectory(directory).parameter_count
    raw = bytearray((directory / "states.bin").read_bytes())
    raw[step * size + 5] ^= 1
    (directory / "states.bin").write_bytes(raw)
    repair_trajectory(directory)


def rows_of(directory):
    path = Trajectory(directory)
    return {int(step): path[index].tobytes() for index, step in enumerate(path.steps)}


def stop_at_once(directory, digits, epochs):
    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        train(CONFIG, digits, directory, epochs, on_step=stop)


def test_a_hole_before_the_checkpoint_stays_and_training_goes_on(run, tmp_path, digits):
    damage_row(run, 5)
    before = rows_of(run)
    stop_at_once(run, digits, 3)
    assert before.items() <= rows_of(run).items()
    train(CONFIG, digits, run, epochs=3)
    train(CONFIG, digits, tmp_path / "whole", epochs=3)
    whole = rows_of(tmp_path / "whole")
    del whole[5]
    assert rows_of(run) == whole
    assert Trajectory(run).holes == (4,)
    assert not list(run.glob("aside-*/states.bin"))


@pytest.mark.parametrize("step", [0, 46])
def test_a_lost_row_of_the_first_or_last_state_does_not_end_training(run, tmp_path, digits, step):
    damage_row(run, step)
    before = rows_of(run)
    train(CONFIG, digits, run, epochs=3)
    train(CONFIG, digits, tmp_path / "whole", epochs=3)
    assert before.items() <= rows_of(run).items() <= rows_of(tmp_path / "whole").items()
    assert max(rows_of(run)) == 69


@pytest.mark.parametrize(("removed", "gone_on_from"), [(1, 23), (2, 0)])
def test_states_behind_a_lost_checkpoint_are_put_aside(run, digits, removed, gone_on_from):
    before = rows_of(run)
    for file in sorted(run.glob("checkpoint-*"))[-removed:]:
        file.unlink()
    with pytest.warns(LosspathWarning, match=r"later records, with their states, were put into"):
        stop_at_once(run, digits, 3)
    (aside,) = run.glob("aside-*")
    aside_rows = rows_of(aside)
    assert set(aside_rows) == set(range(gone_on_from + 1, 47))
    assert before.items() == (aside_rows | {t: before[t] for t in range(gone_on_from + 1)}).items()
    with warnings.catch_warnings():
        # With one checkpoint left, whether another was lost cannot be told: the state that was
        # made again may be put aside too.
        warnings.simplefilter("ignore", LosspathWarning)
        train(CONFIG, digits, run, epochs=3)
    assert before.items() <= rows_of(run).items()


def test_what_comes_after_the_newest_checkpoint_is_made_again_without_a_copy(tmp_path, digits):
    def stop(done, total):
        if done == 30:
            raise Stop

    with pytest.raises(Stop):
        train(CONFIG, digits, tmp_path / "run", 2, on_step=stop)
    assert max(rows_of(tmp_path / "run")) == 30
    train(CONFIG, digits, tmp_path / "run", epochs=2)
    assert not list((tmp_path / "run").glob("aside-*"))


def test_a_run_without_its_first_state_and_checkpoints_is_left_alone(run, digits):
    damage_row(run, 0)
    for file in run.glob("checkpoint-*"):
        file.unlink()
    before = {file: file.read_bytes() for file in run.glob("*.bin")}
    with pytest.raises(RunError, match=r"first state .* is lost and no checkpoint is left"):
        train(CONFIG, digits, run, epochs=3)
    assert {file: file.read_bytes() for file in run.glob("*.bin")} == before
