"""losspath surface --budget."""

import numpy as np
import pytest

import losspath
from losspath.cli.budgets import budget_of
from losspath.cli.runs import Run


def newest(run):
    return max((run / "results").glob("surface-pca-*.npz"), key=lambda file: file.stat().st_mtime)


@pytest.mark.slow
def test_a_number_of_points_is_computed_once_drawn_and_told_of(call, run, tmp_path):
    options = ("surface", run, "--method", "pca", "--budget", "12", "--out", tmp_path / "out")
    status, out, told = call(*options)
    assert status == 0
    assert " points over " in told
    assert "Budget 12 points over all samples" in told
    surface = losspath.Surface.load(newest(tmp_path / "out"))
    assert surface.is_filled
    assert np.isfinite(surface.loss).mean() > 0.9
    assert surface.fidelity is not None
    assert surface.provenance["budget"]["cost"] <= 12
    assert list((tmp_path / "out" / "figures").glob("surface-pca-*.png"))
    status, out, _ = call(*options)
    assert status == 0
    assert "already computed" in out
    # A full surface is another one.
    call("surface", run, "--method", "pca", "--resolution", "4", "--out", tmp_path / "out")
    assert not losspath.Surface.load(newest(tmp_path / "out")).is_filled


def test_a_time_of_the_runs_own_epochs(call, run, tmp_path):
    epoch = budget_of("1epoch", Run(run))
    assert epoch.seconds > 0
    rows = Run(run).made.history()
    assert min(r["seconds"] for r in rows[1:]) <= epoch.seconds <= max(r["seconds"] for r in rows)
    status, _, told = call(
        "surface", run, "--method", "pca", "--budget", "2epochs", "--out", tmp_path / "out"
    )
    assert status == 0
    assert "2 epochs of training" in told


def test_what_is_no_budget_is_refused_before_anything(call, run):
    status, out, told = call("surface", run, "--budget", "5 minutes")
    assert status not in (0, None)
    assert "expected a budget" in told
    assert not out


def test_epochs_of_a_run_that_knows_of_none_are_refused(call, run, monkeypatch):
    monkeypatch.setattr(type(Run(run).made), "history", lambda self: [])
    status, _, told = call("surface", run, "--budget", "1epoch")
    assert status not in (0, None)
    assert "give seconds" in told
