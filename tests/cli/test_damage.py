"""Every file of a run cut short or with a bit flipped: refused or repaired, never believed."""

import random
import shutil

import numpy as np
import pytest

import losspath
from losspath.cli import main

TRAIN = ("train", "--network", "tiny-cnn", "--lr", "0.05", "--epochs", "3")
SURFACE = ("--resolution", "3", "--samples", "50")


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


@pytest.fixture(scope="module")
def whole(tmp_path_factory, trained_run):
    """A run with every kind of file, and the surface and run that it should come to."""
    directory = tmp_path_factory.mktemp("whole")
    run = directory / "run"
    shutil.copytree(trained_run, run)
    for arguments in (("surface", run, *SURFACE), ("interpolate", run, "--points", "3")):
        assert call(*arguments) == 0
    assert call("steps", run) == 0
    grown = directory / "grown"
    shutil.copytree(run, grown)
    assert call(*TRAIN, "--out", grown) == 0
    return run, grown


def damage(path, moments):
    raw = bytearray(path.read_bytes())
    if moments.random() < 0.4 or not raw:
        del raw[moments.randrange(len(raw) + 1) :]
    else:
        raw[moments.randrange(len(raw))] ^= 1 << moments.randrange(8)
    path.write_bytes(raw)


def files(run):
    names = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    return sorted(name for name in names if "figures" not in name.parts)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_run_is_refused_or_repaired_and_then_the_same(whole, tmp_path, capsys, seed):
    run, grown = whole
    moments = random.Random(seed)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    chosen = files(run)[seed % len(files(run))]
    damage(copy / chosen, moments)
    original = losspath.Trajectory(run)
    try:
        path = losspath.Trajectory(copy)
        states = path[:]
    except losspath.LosspathError:
        pass
    else:
        np.testing.assert_array_equal(states, original[:][: len(states)])
        assert len(path) == len(original) or not path.closed
    if call("repair", copy) != 0:
        assert chosen.name == "trajectory.json"
        assert call(*TRAIN, "--out", copy) == 1
        return
    assert call("repair", copy) == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert call(*TRAIN, "--out", copy) == 0
    assert losspath.Trajectory(copy).digest == losspath.Trajectory(grown).digest
    assert call("surface", copy, *SURFACE) == 0
    assert call("surface", grown, *SURFACE) == 0
    np.testing.assert_array_equal(surface_of(copy, grown).loss, surface_of(grown, grown).loss)


def surface_of(run, grown):
    """The surface of a run's whole path, among those of earlier lengths."""
    digest = losspath.Trajectory(grown).digest
    surfaces = map(losspath.Surface.load, sorted(run.glob("results/surface-*.npz")))
    return next(s for s in surfaces if s.provenance["path_digest"] == digest)


@pytest.mark.parametrize("kind", ["surface", "plane", "states", "interpolation", "steps"])
def test_a_damaged_result_is_not_drawn(whole, tmp_path, capsys, kind):
    run, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (file,) = copy.glob(f"results/{kind}-*.npz")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 16
    file.write_bytes(raw)
    command = {"interpolation": ("interpolate", copy, "--points", "3"), "steps": ("steps", copy)}
    if kind == "states":  # only read when a surface has to be computed
        next(copy.glob("results/surface-*.npz")).unlink()
    capsys.readouterr()
    assert call(*command.get(kind, ("surface", copy, *SURFACE))) == 1
    assert "damaged" in capsys.readouterr().err
    assert call("repair", copy) == 0
    assert file.name in capsys.readouterr().out
    assert call(*command.get(kind, ("surface", copy, *SURFACE))) == 0
