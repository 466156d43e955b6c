"""Surfaces from the command line by other processes."""

import numpy as np
import pytest

import losspath
from losspath.cli import main

SMALL = ("--resolution", "7", "--samples", "100", "--method", "averaged")


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def surface_of(out):
    (file,) = (out / "results").glob("surface-averaged-*.npz")
    return losspath.Surface.load(file)


@pytest.fixture(scope="module")
def alone(trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    assert call("surface", trained_run, *SMALL, "--out", out) == 0
    return surface_of(out)


def test_processes(trained_run, tmp_path, alone, capsys):
    command = ("surface", trained_run, *SMALL, "--out", tmp_path, "--processes", "2", "--explain")
    assert call(*command) == 0
    assert "): by workers" in capsys.readouterr().out
    np.testing.assert_allclose(surface_of(tmp_path).loss, alone.loss, rtol=1e-5)
    assert not list((tmp_path / "results").glob("*.points*"))


@pytest.mark.slow
def test_a_dask_cluster(trained_run, tmp_path, alone):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster:
        command = ("surface", trained_run, *SMALL, "--out", tmp_path)
        assert call(*command, "--scheduler", cluster.scheduler_address) == 0
    np.testing.assert_allclose(surface_of(tmp_path).loss, alone.loss, rtol=1e-5)


@pytest.mark.slow
def test_a_cluster_without_workers_is_refused(trained_run, tmp_path, capsys):
    distributed = pytest.importorskip("distributed")
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard_address": ":0"}}
    with distributed.SpecCluster(workers={}, scheduler=scheduler) as cluster:
        command = ("surface", trained_run, *SMALL, "--out", tmp_path)
        assert call(*command, "--scheduler", cluster.scheduler_address) == 1
    assert "has no workers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--processes", "0"), "at least 1, got 0"),
        (("--processes", "2", "--scheduler", "tcp://127.0.0.1:1"), "got both"),
        (("--scheduler", "nonsense://x"), "no scheduler answers at nonsense://x"),
        (("--scheduler", "tcp://127.0.0.1:1"), "no scheduler answers at tcp://127.0.0.1:1"),
    ],
)
def test_workers_that_cannot_be_had(trained_run, tmp_path, capsys, monkeypatch, options, expected):
    from losspath.cli import workers

    monkeypatch.setattr(workers, "_ANSWER_SECONDS", 1)
    assert call("surface", trained_run, *SMALL, "--out", tmp_path, *options) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.startswith("losspath: error: ")
    assert error.count("\n") == 1


def test_without_dask_it_says_what_to_install(trained_run, tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    command = ("surface", trained_run, *SMALL, "--out", tmp_path, "--scheduler", "tcp://x:1")
    assert call(*command) == 1
    assert "pip install 'losspath[dask]'" in capsys.readouterr().err
