"""Several runs in one plane, other planes, heights and distances, as a user gives them."""

import json
import re

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losspath
from losspath import Barriers, FunctionDistances, Surface, Trajectory
from losspath.cli import main
from losspath.planes import PLANES
from losspath.planes.kept import KeptPlane
from losspath.planes.named import NamedPlane

OBJECTIVE = """
import torch, losspath
import torch.nn.functional as F

def objective():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    x, y = torch.randn(20, 3), torch.randint(2, (20,))
    return losspath.Objective(
        model, x, y, F.cross_entropy, metrics={"margin": lambda o, t: (o[:, 0] - o[:, 1]).mean()}
    )
"""
FAST = ("--resolution", "3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs of a small network by two optimisers, and one of another network."""
    place = tmp_path_factory.mktemp("runs")
    (place / "mine.py").write_text(OBJECTIVE)
    for name, kind in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        x, y = torch.randn(20, 3), torch.randint(2, (20,))
        optimizer = kind(model.parameters(), 0.1)
        with losspath.Recorder(place / name, model) as recorder:
            for _ in range(10):
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.record(loss)
    with losspath.Recorder(place / "other", torch.nn.Linear(2, 1)) as recorder:
        recorder.record(1.0)
    return place


@pytest.fixture
def objective(place):
    names = {}
    exec((place / "mine.py").read_text(), names)
    return names["objective"]()


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def with_objective(command, place, *arguments):
    return call(command, *arguments, "--objective", f"{place / 'mine.py'}:objective")


def only(out, pattern):
    (found,) = out.glob(pattern)
    return found


def test_two_runs_in_one_plane(place, objective, tmp_path, capsys):
    runs = (place / "sgd", place / "adam")
    assert with_objective("surface", place, *runs, *FAST, "--out", tmp_path) == 0
    surface = Surface.load(only(tmp_path, "results/surface-local-planes-*.npz"))
    assert list(surface.starts) == ["sgd", "adam"]
    paths = [Trajectory(run) for run in runs]
    plane = losspath.fit_plane(paths)
    np.testing.assert_allclose(surface.path, plane.path.coordinates, atol=1e-9)
    vector = np.asarray(paths[1][10])
    own = dict(zip(surface.states.index.tolist(), surface.states.loss, strict=True))
    assert own[21] == pytest.approx(objective(vector).loss, rel=1e-5)
    assert only(tmp_path, "figures/surface-local-planes-*.png").stat().st_size > 10_000
    capsys.readouterr()
    assert with_objective("surface", place, *runs, *FAST, "--out", tmp_path) == 0
    assert "already computed" in capsys.readouterr().out


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("plane", "label"),
    [
        ("random:layer:1", "random direction 1 (layer)"),
        ("hessian", "eigenvector 1"),
        ("states:first,4,last", "from first to 4"),
        ("windows:4", "PC 1 of 4 window means"),
    ],
)
def test_planes(place, tmp_path, plane, label):
    arguments = (place / "sgd", *FAST, "--plane", plane, "--method", "all", "--out", tmp_path)
    assert with_objective("surface", place, *arguments) == 0
    surface = Surface.load(only(tmp_path, "results/surface-pca-*.npz"))
    assert surface.labels[0].startswith(label)
    assert np.isfinite(surface.loss).all()
    assert len(list(tmp_path.glob("figures/surface*.png"))) == 8  # each, and all


def test_a_hessian_plane_is_made_once(place, tmp_path, monkeypatch, capsys):
    arguments = (place / "sgd", *FAST, "--plane", "hessian", "--out", tmp_path)
    assert with_objective("surface", place, *arguments) == 0
    kept = KeptPlane.load(only(tmp_path, "results/named_plane-hessian-*.npz"))
    surface = Surface.load(only(tmp_path, "results/surface-local-planes-*.npz"))
    assert surface.labels == kept.plane.labels

    def refuse(*arguments):
        raise AssertionError("made again")

    found = NamedPlane("hessian", refuse, is_kept=True)
    monkeypatch.setitem(PLANES, "hessian", found)
    finer = (*arguments[:1], "--resolution", "4", *arguments[3:])
    assert with_objective("surface", place, *finer) == 0
    assert len(list(tmp_path.glob("results/surface-local-planes-*.npz"))) == 2
    # Another loss has another plane.
    other = place / "other.py"
    other.write_text(
        OBJECTIVE.replace("F.cross_entropy,", "lambda o, t: 2 * F.cross_entropy(o, t),")
    )
    assert call("surface", *finer, "--objective", f"{other}:objective") == 1
    assert "made again" in capsys.readouterr().err


def test_heights_and_distances(place, objective, tmp_path, capsys):
    arguments = (place / "sgd", *FAST, "--method", "sampled", "--distance", "manhattan")
    arguments += ("--out", tmp_path, "--height", "margin")
    assert with_objective("surface", place, *arguments) == 0
    surface = Surface.load(only(tmp_path, "results/surface-sampled-*.npz"))
    assert surface.description == "sampled (distance manhattan)"
    last = np.asarray(Trajectory(place / "sgd")[10])
    assert surface.states.values["margin"][-1] == pytest.approx(
        objective(last).metrics["margin"], rel=1e-4
    )
    assert only(tmp_path, "figures/surface-sampled-*-margin.png").stat().st_size > 10_000
    arguments = (place / "sgd", *FAST, "--out", tmp_path / "none", "--height", "depth")
    assert with_objective("surface", place, *arguments) == 1
    said = capsys.readouterr().err
    assert "expected --height of loss, accuracy, margin, loss spread; got 'depth'" in said
    # Not all of the methods have several vectors at a point.
    arguments = (*arguments[:-1], "loss spread", "--method", "all")
    assert with_objective("surface", place, *arguments) == 1
    assert "of loss, accuracy, margin; got 'loss spread'" in capsys.readouterr().err
    assert not (tmp_path / "none" / "results").exists()  # before anything was computed


def test_barriers(place, objective, tmp_path, capsys):
    runs = (place / "sgd", place / "adam")
    arguments = (*runs, "--points", "5", "--out", tmp_path)
    assert with_objective("barriers", place, *arguments) == 0
    file = only(tmp_path, "results/barriers-loss-*.npz")
    found = Barriers.load(file)
    ends = [np.asarray(Trajectory(run)[10], np.float64) for run in runs]
    line = [objective((1 - a) * ends[0] + a * ends[1]).loss for a in np.linspace(0, 1, 5)]
    np.testing.assert_allclose(found.values[0, 1], line, rtol=1e-5)
    excess = max(line - np.interp(np.linspace(0, 1, 5), [0, 1], [line[0], line[-1]]))
    assert f"sgd to adam: loss barrier {excess:.4g}"[:30] in capsys.readouterr().out
    assert only(tmp_path, "figures/barriers-loss-*.png").stat().st_size > 10_000
    assert with_objective("barriers", place, *arguments) == 0
    assert "barriers (already computed)" in capsys.readouterr().out
    assert with_objective("barriers", place, *arguments, "--quantity", "accuracy") == 0
    assert Barriers.load(only(tmp_path, "results/barriers-accuracy-*.npz")).is_better_high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("surface", "sgd", "other"), "parameter"),
        (("surface", "sgd", "--plane", "tsne"), "expected a plane as one of pca"),
        (("surface", "sgd", "--method", "pca", "--distance", "manhattan"), "--distance is not an"),
        (
            ("surface", "sgd", "--method", "averaged", "--distance", "hamming"),
            "expected distance among euclidean",
        ),
        (("barriers", "sgd"), "expected two runs or more"),
        (("barriers", "sgd", "sgd"), "expected two runs or more"),
        (("barriers", "sgd", "adam", "--points", "2"), "points"),
        (
            ("barriers", "sgd", "adam", "--quantity", "depth"),
            "expected quantity as one of loss, accuracy, margin",
        ),
    ],
)
def test_what_is_refused(place, tmp_path, capsys, arguments, message):
    command, *given = arguments
    given = [place / each if (place / each).is_dir() else each for each in given]
    assert with_objective(command, place, *given, "--out", tmp_path) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert message in told


def test_surfaces_are_compared(place, tmp_path, capsys):
    for resolution in ("9", "5"):
        arguments = (place / "sgd", "--resolution", resolution, "--out", str(tmp_path / resolution))
        assert with_objective("surface", place, *arguments) == 0
    fine, coarse = (only(tmp_path / n, "results/surface-local-planes-*.npz") for n in ("9", "5"))
    capsys.readouterr()
    assert call("compare-surfaces", str(fine), str(coarse), "--json") == 0
    ((name, numbers),) = json.loads(capsys.readouterr().out).items()
    assert name == str(coarse)
    expected = losspath.compare_surfaces(Surface.load(coarse), Surface.load(fine))
    assert numbers == expected.to_json()
    assert 0.5 < numbers["rank_correlation"] < 1.0
    assert call("compare-surfaces", str(fine), str(fine), "--quantity", "margin") == 0
    words = capsys.readouterr().out
    assert re.search(r"rank correlation of heights +1\.000\n", words.replace(" \n", "\n"))
    assert re.search(r"contour lines apart, mean +0\.00%", words)


def test_what_cannot_be_compared_is_told(place, tmp_path, capsys):
    for run in ("sgd", "adam"):
        arguments = (place / run, "--resolution", "5", "--out", str(tmp_path / run))
        assert with_objective("surface", place, *arguments) == 0
    one, other = (only(tmp_path / n, "results/surface-local-planes-*.npz") for n in ("sgd", "adam"))
    capsys.readouterr()
    assert call("compare-surfaces", str(one), str(other)) == 1
    told = capsys.readouterr().err
    assert f"{other}: the two surfaces show other paths" in told
    assert "--as-they-are" in told
    assert call("compare-surfaces", str(one), str(other), "--as-they-are") == 0
    assert call("compare-surfaces", str(tmp_path / "sgd"), str(other)) == 1
    assert str(one) in capsys.readouterr().err


def test_runs_by_what_they_predict(place, objective, tmp_path, capsys):
    runs = (place / "sgd", place / "adam")
    arguments = (*runs, "--count", "3", "--samples", "15", "--out", tmp_path)
    assert with_objective("function-space", place, *arguments) == 0
    words = capsys.readouterr().out
    assert "end of sgd to end of adam: jensen-shannon" in words
    found = FunctionDistances.load(only(tmp_path, "results/functions-*.npz"))
    assert found.steps.tolist() == [0, 5, 10] * 2
    expected = losspath.function_distances(
        [Trajectory(run) for run in runs], objective, states=3, samples=15
    )
    np.testing.assert_allclose(found.functions, expected.functions, atol=1e-6)
    assert only(tmp_path, "figures/functions-jensen-shannon-*.png").stat().st_size > 10_000
    assert with_objective("function-space", place, *arguments) == 0
    assert "function distances (already computed)" in capsys.readouterr().out
    asked = (*arguments, "--distance", "disagreement", "--json")
    assert with_objective("function-space", place, *asked) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["distance"] == "disagreement"
    assert numbers["starts"] == {"sgd": 0, "adam": 3}
    assert np.shape(numbers["function_embedding"]["coordinates"]) == (6, 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--distance", "cosine"), "--distance l2|disagreement|jensen-shannon, got 'cosine'"),
        (("--count", "0"), "--count of at least 1, got 0"),
        (("--samples", "0"), "--samples of at least 1, got 0"),
    ],
)
def test_predictions_that_cannot_be_compared_are_refused(place, arguments, says, capsys):
    assert with_objective("function-space", place, place / "sgd", *arguments) == 1
    assert says in " ".join(capsys.readouterr().err.split())


def test_surfaces_of_other_programs_are_compared(tmp_path, capsys):
    files = {"one.h5": 0.0, "other.h5": 0.1}
    for name, shift in files.items():
        axis = np.linspace(-1, 1, 9)
        x, y = np.meshgrid(axis, axis)
        with h5py.File(tmp_path / name, "w") as content:
            content["xcoordinates"] = content["ycoordinates"] = axis
            content["train_loss"] = 3 + x - shift + 0 * y
    one, other = (tmp_path / name for name in files)
    assert call("compare-surfaces", one, other, "--json") == 0
    (numbers,) = json.loads(capsys.readouterr().out).values()
    assert numbers["contour_error"] == pytest.approx(0.05)
    assert numbers["rank_correlation"] == pytest.approx(1.0)
