import json

import numpy as np
import pytest
import torch

import losspath
from losspath.cli.fidelity import compute_fidelity
from losspath.cli.runs import Run
from losspath.methods import PCA, Sampled
from losspath.parameters import flatten_parameters
from losspath.surface import states, strata
from losspath.thesis import forks as module
from losspath.thesis import training
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import load_dataset
from losspath.thesis.forks import forks_of

CONFIG = TrainingConfig("tiny-cnn", "digits", "adam", dropout=0.2, batch_size=32)
SMALL = ("--resolution", "5", "--samples", "100", "--count", "10")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    training.train(CONFIG, load_dataset("digits"), directory, 4)
    return directory


def test_numbers_as_json(call, run, tmp_path):
    asked = ("fidelity", run, *SMALL, "--method", "local-planes", "--forks", "3", "--json")
    code, out, err = call(*asked, "--out", tmp_path)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found["strata"]) == {"chords", "balls", "held-out", "forks"}
    for name in ("typical_error", "bias", "skill"):
        low, high = found[name][1:]
        assert low <= found[name][0] <= high
    assert found["strata"]["forks"]["count"] == 9
    (kept,) = (tmp_path / "results").glob("fidelity-local-planes-*.npz")
    assert losspath.Fidelity.load(kept).to_json() == found


@pytest.mark.slow
def test_what_is_computed_is_not_computed_again(call, run, tmp_path):
    asked = ("fidelity", run, *SMALL, "--forks", "0", "--out", tmp_path)
    first, again = call(*asked), call(*asked)
    assert "the plane has" in first[1]
    assert "a random walk with its step lengths:" in " ".join(first[1].split())
    assert again[0] == 0
    assert "fidelity of local-planes (already computed)" in " ".join(again[1].split())
    assert first[1].splitlines()[-9:] == again[1].splitlines()[-9:]
    # The surface is the one that `surface` draws.
    _, out, _ = call("surface", run, *SMALL[:4], "--out", tmp_path)
    assert "already computed" in out
    call(*asked, "--control", run)
    assert len(list((tmp_path / "results").glob("fidelity-*.npz"))) == 2


def test_what_no_method_has_a_part_in_is_evaluated_once(run, tmp_path, monkeypatch):
    evaluated = []

    class Counted(strata.Engine):
        def evaluate(self, points, *arguments, **options):
            for found in super().evaluate(points, *arguments, **options):
                evaluated.extend(found)
                yield found

    monkeypatch.setattr(strata, "Engine", Counted)
    monkeypatch.setattr(states, "Engine", Counted)
    counts = []
    for number, methods in enumerate(([PCA()], [PCA(), Sampled()])):
        evaluated.clear()
        recorded = Run(run, out=tmp_path / str(number))
        found = compute_fidelity(recorded, methods, 3, 100, "pca", 0, None, 10)
        counts.append(len(evaluated))
        assert len(found) == len(methods)
    # The second method adds the path's ends, for each of its surfaces.
    assert counts[1] <= counts[0] + 4 < 2 * counts[0] - 100


@pytest.mark.slow
def test_a_table_of_all_methods(call, run, tmp_path):
    code, out, err = call(
        "fidelity", run, *SMALL, "--method", "all", "--forks", "0", "--out", tmp_path
    )
    assert (code, err) == (0, "")
    for method in losspath.methods.METHODS:
        assert f"\n{method}" in out
    assert out.count("\nheld-out ") == 7
    assert "losses of balls at one place spread by" in " ".join(out.split())


def test_a_run_of_ones_own_has_no_forks(call, tmp_path):
    program = tmp_path / "own.py"
    program.write_text(
        "import torch, torch.nn.functional as F, losspath\n"
        "torch.manual_seed(0)\n"
        "X, Y = torch.randn(40, 3), torch.randint(2, (40,))\n"
        "model = lambda: torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), "
        "torch.nn.Linear(4, 2))\n"
        "def objective():\n"
        "    return losspath.Objective(model(), X, Y, F.cross_entropy)\n"
    )
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    with losspath.Recorder(tmp_path / "own", model) as recorder:
        for step in range(30):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
            recorder.record(1.0 / (step + 1))
    asked = ("fidelity", tmp_path / "own", "--objective", f"{program}:objective")
    code, out, err = call(*asked, "--resolution", "5", "--count", "10", "--json")
    assert code == 0
    assert err.startswith("losspath: warning: at state ")  # as these losses were not recorded
    assert err.count("\n") == 1
    assert set(json.loads(out)["strata"]) == {"chords", "balls", "held-out"}
    # A loss that is nowhere finite is refused, as by `losspath surface`.
    nowhere = tmp_path / "nowhere.py"
    nowhere.write_text(program.read_text().replace("model(), X, Y", "model(), X * float('nan'), Y"))
    asked = ("fidelity", tmp_path / "own", "--objective", f"{nowhere}:objective")
    code, _, err = call(*asked, "--resolution", "5", "--count", "10")
    assert code == 1
    assert "finite at none of its states and at no point" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--count", "3"), "--count of at least 4"),
        (("--resolution", "2"), "--resolution of at least 3"),
        (("--method", "kriging"), "--method"),
        (("--forks", "500", *SMALL), "expected a run of 100 steps or more"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, run, tmp_path, arguments, says):
    code, _, err = call("fidelity", run, *arguments, "--out", tmp_path)
    assert code == 1
    assert says in " ".join(err.split())
    assert len(err.strip().splitlines()) <= 4


# -- forks -----------------------------------------------------------------------------------------


def test_forks_begin_at_states_of_the_run_and_go_elsewhere(run):
    path = losspath.Trajectory(run)
    data = load_dataset("digits")
    told = []
    forks = forks_of(run, CONFIG, data, 4, 0, lambda *counts: told.append(counts))
    assert len(forks) == 4
    for fork in forks:
        states = fork.read(0, len(fork))
        (at,) = np.flatnonzero((path[:] == states[0]).all(axis=1))
        apart = np.linalg.norm(states[1:] - states[0], axis=1)
        assert 0 < apart[0] < apart.max()
        assert not (states[1:, None] == path[at:]).all(axis=2).any()
    assert told[-1][0] == told[-1][1]
    again = forks_of(run, CONFIG, data, 4, 0)
    for one, other in zip(forks, again, strict=True):
        np.testing.assert_array_equal(one.read(0, 6), other.read(0, 6))
    assert not np.array_equal(forks_of(run, CONFIG, data, 4, 1)[0].read(0, 6), again[0].read(0, 6))


def test_the_training_is_made_again_to_the_bit(run, monkeypatch):
    path, data = losspath.Trajectory(run), load_dataset("digits")
    found = []
    go_to = module._Replay.go_to

    def watched(self, step):
        go_to(self, step)
        found.append((step, flatten_parameters(self.model).copy()))

    monkeypatch.setattr(module._Replay, "go_to", watched)
    forks_of(run, CONFIG, data, 6, 3)
    for step, vector in found:
        np.testing.assert_array_equal(vector, path[int(np.searchsorted(path.steps, step))])
    # From the checkpoints, or from the beginning: it is the same training.
    monkeypatch.setattr(module, "checkpoint_before", lambda directory, step: None)
    before = found.copy()
    found.clear()
    forks_of(run, CONFIG, data, 6, 3)
    for (_, one), (_, other) in zip(before, found, strict=True):
        np.testing.assert_array_equal(one, other)
