"""The examples of "How to add …": each is one file, put beside the package's own and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import losspath

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"```\w+\n# (\S+)\n(.*?)```", re.DOTALL)
USE = """
import sys
import numpy as np
import torch
import torch.nn.functional as F
import losspath
from losspath.figures.profile import plot_profile
from losspath.planes import plane_named
sys.path.insert(0, ".")
import objective as mine

objective = mine.objective()
model = objective.model
x, y = torch.randn(20, 3), torch.randint(2, (20,))
optimizer = torch.optim.SGD(model.parameters(), 0.3)
with losspath.Recorder("run", model) as recorder:
    for _ in range(12):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.record(loss)
path = losspath.Trajectory("run")
plane = plane_named("ends", path, objective)
np.testing.assert_allclose(plane.project(path[0]), 0.0, atol=1e-6)
inside = plane.origin + plane.basis @ plane.project(path[1])
np.testing.assert_allclose(inside, path[1], atol=1e-6)
for method in ("two-nearest", losspath.methods.Sampled(distance="chebyshev")):
    surface = losspath.compute_surface(path, objective, method, 5, plane=plane)
    assert np.isfinite(surface.loss).all()
    assert surface.labels == ("to the last state", "first step")
    assert ((surface.values["confidence"] >= 0.5) & (surface.values["confidence"] <= 1)).all()
own = losspath.Landscape(path, objective, "two-nearest", plane=plane)
point = own.projection.coordinates[[-1]]
(vector,) = own.parameters(point)
np.testing.assert_allclose(vector, path[-1], atol=1e-5)
plot_profile(surface, title="a cut").savefig("profile.png")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the package with the examples' files in it."""
    place = tmp_path_factory.mktemp("adding")
    shutil.copytree(
        Path(losspath.__file__).parent,
        place / "src" / "losspath",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    examples = dict(FENCE.findall((ROOT / "docs" / "adding.md").read_text()))
    assert len(examples) == 7
    for name, code in examples.items():
        assert not (place / name).exists(), f"{name} is no file of its own"
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(code)
    info = place / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[losspath.commands]\nnorms = my_package.norms:norms\n")
    return place


def run(place, *command):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place / "src"), str(place)])}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_examples_do_what_they_say(place):
    run(place, "-c", USE)
    assert (place / "profile.png").stat().st_size > 5_000
    surface = ("-m", "losspath", "surface", "run", "--objective", "objective.py:objective")
    asked = ("--method", "averaged", "--distance", "chebyshev", "--plane", "ends")
    told = run(place, *surface, *asked, "--height", "confidence", "--resolution", "3")
    assert "averaged" in told
    assert list((place / "run" / "figures").glob("surface-averaged-*-confidence.png"))
    run(place, *surface, "--method", "two-nearest", "--resolution", "3")
    assert list((place / "run" / "results").glob("surface-two-nearest-*.npz"))
    assert "Print the norm of a run's first and last state." in run(
        place, "-m", "losspath", "--help"
    )
    first, last = run(place, "-m", "losspath", "norms", "run").split("\n")[:2]
    assert first.startswith("first ")
    assert last.startswith("last ")
