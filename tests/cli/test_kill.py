"""Commands killed at random moments and started again."""

import json
import random

import numpy as np
import pytest

import losspath


def history(run):
    rows = json.loads((run / "history.json").read_text())["history"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("options", [(), ("--optimizer", "adam", "--dropout", "0.5")])
@pytest.mark.slow
def test_training_killed_anywhere_equals_one_that_was_not(server, tmp_path, options):
    train = ("train", "--network", "tiny-cnn", "--epochs", "25", "--batch-size", "32", *options)
    status, output = server.run(*train, "--out", tmp_path / "whole")
    assert status == 0, output
    run, kills = tmp_path / "killed", 0
    moments = random.Random(len(options))
    for attempt in range(60):
        begun = run / "trajectory.json" if moments.random() < 0.8 else None
        seconds = moments.uniform(0.0, 0.5 + 0.2 * attempt)  # ever longer, so that it ends
        status = server.run_and_kill(
            seconds, *train, "--out", run, begun=begun, checkpoint_seconds=0.05
        )
        if status == 0:
            break
        assert status == -9
        kills += 1
    else:
        pytest.fail("never finished")
    status, output = server.run(*train, "--out", run)
    assert (status, "already trained" in output) == (0, True)
    assert kills >= 3
    assert (run / "states.bin").read_bytes() == (tmp_path / "whole" / "states.bin").read_bytes()
    assert history(run) == history(tmp_path / "whole")
    assert losspath.Trajectory(run).digest == losspath.Trajectory(tmp_path / "whole").digest


@pytest.mark.slow
def test_a_surface_killed_anywhere_equals_one_that_was_not(server, run, tmp_path):
    surface = ("surface", run, "--method", "averaged", "--resolution", "15")
    status, output = server.run(*surface, "--out", tmp_path / "whole")
    assert status == 0, output
    moments, kills, points = random.Random(1), 0, []
    for attempt in range(60):
        status = server.run_and_kill(moments.uniform(0.2, 1.0 + 0.2 * attempt), *surface)
        if status == 0:
            break
        assert status == -9
        kills += 1
        points += [len(file.read_bytes().splitlines()) for file in run.glob("results/*.points")]
    else:
        pytest.fail("never finished")
    assert kills >= 2
    assert points == sorted(points)  # what is computed is not computed again
    (killed,) = run.glob("results/surface-*.npz")
    (whole,) = (tmp_path / "whole").glob("results/surface-*.npz")
    one, other = losspath.Surface.load(killed), losspath.Surface.load(whole)
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_array_equal(one.accuracy, other.accuracy)
    assert one.provenance == other.provenance
    assert not list(run.glob("results/*.points*"))


def test_two_commands_at_once_do_not_mix(server, run, tmp_path):
    from losspath.files import only_writer

    with only_writer(run / ".train.lock", "to the run"):
        status, output = server.run(
            "train", "--network", "tiny-cnn", "--lr", "0.05", "--epochs", "3", "--out", run
        )
    assert status == 1
    assert "another process" in output
