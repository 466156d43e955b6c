"""The programs of benchmarks/headlines: fewer lines than their peers', and right."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = BENCHMARKS / "headlines"
NAMES = sorted(file.stem.removesuffix("_losspath") for file in PROGRAMS.glob("*_losspath.py"))
SURFACES = [name for name in NAMES if not name.startswith("nngeom")]


@pytest.fixture(scope="module")
def benchmark():
    """The modules that make what programs are given, run them and judge them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROGRAMS))
        patch.syspath_prepend(str(BENCHMARKS))
        for variable in ("SCENE", "PROGRAM", "TRACE"):
            patch.setenv(f"HEADLINES_{variable}", "")
        yield {name: importlib.import_module(name) for name in ("headlines", "run", "judge")}
    sys.modules.pop("shared", None)


@pytest.fixture(scope="module")
def truth(benchmark, tmp_path_factory):
    """Plain torch, and a small scene on which every program of losspath has run."""
    scene = tmp_path_factory.mktemp("scene")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark["headlines"], "STATES", 8)
        benchmark["headlines"].make(scene, None, 64, 4)
        for name in NAMES:
            patch.chdir(tmp_path_factory.mktemp(name))
            benchmark["run"].execute(scene, PROGRAMS / f"{name}_losspath.py")
            assert list(Path.cwd().glob("*.png")), name
    return benchmark["judge"].Truth(benchmark["judge"].Scene(scene))


def test_every_example_has_two_programs_and_a_judge(benchmark):
    assert sorted(benchmark["headlines"].EXAMPLES) == NAMES == sorted(benchmark["judge"].JUDGES)
    theirs = {file.stem.removesuffix("_theirs") for file in PROGRAMS.glob("*_theirs.py")}
    assert sorted(theirs) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_losspath_takes_fewer_lines(benchmark, name):
    theirs, ours = map(
        benchmark["headlines"].lines_of, benchmark["headlines"].EXAMPLES[name].programs
    )
    assert ours < theirs


def test_lines_are_statements_however_they_are_written(benchmark):
    count = benchmark["headlines"].statements
    assert count('"""What it does."""\nimport a\n\n# why\nx = a.b(\n    1,\n    2,\n)\n') == 2
    assert count("def f(x):\n    '''What.'''\n    return x\n\n\nfor i in f(3): print(i)\n") == 4
    assert count("a = 1; b = 2") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SURFACES)
def test_surfaces_are_those_of_plain_torch(truth, name):
    assert truth.own_picture(f"{name}_losspath") < 1e-4


@pytest.mark.slow
def test_a_surface_that_is_a_row_off_is_seen(truth, tmp_path):
    file = truth.scene.directory / "loss_landscapes_losspath.npz"
    kept = truth.kept("loss_landscapes_losspath")
    rows = kept["loss"].copy()
    rows[1::2] = np.roll(rows[1::2], 1, axis=1)
    np.savez(file, **(kept | {"loss": rows}))
    assert truth.own_picture("loss_landscapes_losspath") > 1e-3
    np.savez(file, **kept)


@pytest.mark.slow
def test_numbers_are_those_of_plain_torch(truth):
    sharpness = truth.kept("nngeom_losspath")["sharpness"]
    assert sharpness == pytest.approx(truth.curvature[0][0], rel=0.01)
    kept = truth.kept("nngeom_barrier_losspath")
    other = np.load(truth.scene.directory / "other.npy")
    ends = truth.losses(np.stack([other, truth.last]).astype(np.float64))
    np.testing.assert_allclose(kept["loss"][[0, -1]], ends, rtol=1e-4)
    assert kept["barrier"] == pytest.approx(
        np.max(kept["loss"] - np.linspace(*kept["loss"][[0, -1]], len(kept["loss"])))
    )
