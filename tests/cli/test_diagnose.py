import json
import sys

import numpy as np
import pytest

import losspath
from losspath.cli.runs import Run
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.recorded import along

OWN = """
import torch
from losspath import Objective

def objective():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    return Objective(model, torch.randn(20, 3), torch.randint(2, (20,)),
                     torch.nn.functional.cross_entropy)
"""


def figures(run):
    return sorted(file.name for file in (run / "figures").iterdir())


@pytest.mark.slow
def test_every_view_of_a_run(call, run):
    code, out, _ = call("diagnose", run)
    assert code == 0
    assert figures(run) == [
        "activations.png",
        "confusion-step46.png",
        "feature-maps-step46.png",
        "filters-step46.png",
        "history.png",
        "saliency-step46.png",
        "samples.png",
    ]
    assert "Total params: 328" in out  # of the table of layers
    table = (run / "results" / "architecture.txt").read_text()
    assert "Conv2d (conv1)" in table
    assert max(map(len, table.splitlines())) <= 80
    for name in figures(run):
        assert f"figures/{name}" in out


def test_one_view_at_a_step(call, run):
    code, out, _ = call("diagnose", run, "--step", "7", "--view", "confusion", "--format", "svg")
    assert code == 0
    assert figures(run) == ["confusion-step7.svg"]
    assert "Total params" not in out
    code, _, err = call("diagnose", run, "--step", "47")
    assert code != 0
    assert "expected --step from 0 to 46, got 47" in err
    code, _, err = call("diagnose", run, "--view", "weights")
    assert code != 0
    assert "architecture|history|samples" in err


def test_a_step_without_a_state_is_replaced_and_told(call, tmp_path):
    arguments = ("train", "--network", "tiny-nn", "--epochs", "1", "--record-every", "10")
    assert call(*arguments, "--out", tmp_path / "run")[0] == 0
    code, out, _ = call("diagnose", tmp_path / "run", "--step", "12", "--view", "confusion")
    assert code == 0
    assert "no state was recorded at step 12: step 10 is shown" in out


@pytest.mark.slow
def test_a_network_without_convolutions(call, tmp_path):
    arguments = ("train", "--network", "tiny-nn", "--epochs", "1")
    assert call(*arguments, "--out", tmp_path / "run")[0] == 0
    code, out, _ = call("diagnose", tmp_path / "run")
    assert code == 0
    assert "feature-maps: left out, as this network has no convolutions" in out
    assert "filters-step23.png" in figures(tmp_path / "run")  # its templates


@pytest.mark.slow
def test_a_chosen_input(call, run):
    arguments = ("diagnose", run, "--view", "saliency", "--view", "feature-maps")
    assert call(*arguments)[0] == 0
    first = {name: (run / "figures" / name).read_bytes() for name in figures(run)}
    assert call(*arguments, "--sample", "3")[0] == 0
    assert len(figures(run)) == 4  # one sample's figures do not meet another's
    for name, drawn in first.items():
        own = name.replace(".png", "-sample3.png")
        assert (
            (run / "figures" / own).read_bytes() != drawn == (run / "figures" / name).read_bytes()
        )
    code, _, err = call(*arguments, "--sample", "999")
    assert code != 0
    assert "expected --sample from 0 to" in err
    assert "got 999" in err


def test_a_run_that_went_wrong_is_shown_where_it_was_whole(call, tmp_path):
    arguments = ("train", "--network", "tiny-nn", "--epochs", "1", "--lr", "1e38")
    assert call(*arguments, "--out", tmp_path / "run")[0] == 0
    states = losspath.Trajectory(tmp_path / "run")
    last = int(np.flatnonzero(np.isfinite(states[:]).all(axis=1))[-1])
    assert last < len(states) - 1
    code, out, _ = call("diagnose", tmp_path / "run", "--view", "confusion", "--view", "filters")
    assert code == 0
    assert f"not finite: training went wrong; the last finite one, at step {last}, is shown" in out
    assert f"confusion-step{last}.png" in figures(tmp_path / "run")
    code, _, err = call("diagnose", tmp_path / "run", "--step", "20")
    assert code != 0
    assert "the state at step 20 is not finite: training went wrong" in err
    assert f"the last finite one before is --step {last}" in err


def descend(directory, model, x, y, steps):
    """A loop of one's own, recorded."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with losspath.Recorder(directory, model) as recorder:
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)


@pytest.fixture
def own(tmp_path):
    """A run of a loop of one's own, and the file of its objective."""
    import torch

    (tmp_path / "own.py").write_text(OWN)
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2)
    x, y = torch.randn(20, 3), torch.randint(2, (20,))
    descend(tmp_path / "own", model, x, y, steps=12)
    return tmp_path / "own", f"{tmp_path / 'own.py'}:objective"


def test_a_run_of_ones_own_has_the_views_that_make_sense(call, own):
    run, source = own
    code, out, _ = call("diagnose", run, "--objective", source)
    assert code == 0
    assert figures(run) == ["activations.png", "confusion-step12.png", "history.png"]
    for name in ("samples", "filters", "feature-maps", "saliency"):
        assert f"{name}: left out, as" in out
    code, out, _ = call("dynamics", run, "--objective", source, "--states", "4")
    assert code == 0
    assert any(name.startswith("dynamics-") for name in figures(run))


FORMS = {
    "regression": "torch.nn.Conv2d(1, 1, 6)",
    "segmentation": "torch.nn.Conv2d(1, 4, 3, padding=1)",
}
OTHER = """
import torch
from losspath import Objective

def objective():
    torch.manual_seed(0)
    if {what!r} == "regression":
        model = torch.nn.Sequential({layer}, torch.nn.Flatten())
        return Objective(model, torch.randn(9, 1, 6, 6), torch.randn(9, 1), torch.nn.MSELoss())
    targets = torch.randint(4, (9, 6, 6))
    return Objective({layer}, torch.randn(9, 1, 6, 6), targets, torch.nn.CrossEntropyLoss())
"""


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("what", FORMS)
def test_targets_that_are_not_classes_of_samples(call, tmp_path, what):
    import torch

    (tmp_path / "own.py").write_text(OTHER.format(what=what, layer=FORMS[what]))
    layer = eval(FORMS[what], {"torch": torch})
    model = torch.nn.Sequential(layer, torch.nn.Flatten()) if what == "regression" else layer
    with losspath.Recorder(tmp_path / "run", model) as recorder:
        for _ in range(3):
            recorder.record(1.0)
    source = f"{tmp_path / 'own.py'}:objective"
    code, out, err = call("diagnose", tmp_path / "run", "--objective", source)
    assert code == 0, err
    assert "samples: left out, as the targets are not classes (N,)" in out
    assert "confusion: left out, as a confusion matrix needs a score for each" in out
    drawn = {"filters-step3.png", "feature-maps-step3.png", "history.png"}
    if what == "regression":  # one number, which explains itself
        drawn.add("saliency-step3.png")
    else:
        assert "saliency: left out, as saliency needs outputs (N, K) or (N,)" in out
    assert drawn <= set(figures(tmp_path / "run"))
    assert "saliency-step3.png" not in set(figures(tmp_path / "run")) - drawn


PAIRS = """
import torch
from losspath import Objective

class Pairs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.head = torch.nn.Linear(32, 2)

    def forward(self, image, scale):
        return self.head((self.conv(image) * scale[:, None, None]).relu_().flatten(1))

def objective():
    torch.manual_seed(0)
    inputs = {"image": torch.randn(9, 1, 6, 6), "scale": torch.rand(9, 1)}
    return Objective(Pairs(), inputs, torch.randint(2, (9,)), torch.nn.functional.cross_entropy)
"""


def test_a_network_of_several_inputs(call, tmp_path):
    (tmp_path / "own.py").write_text(PAIRS)
    names: dict[str, object] = {}
    exec(PAIRS, names)
    with losspath.Recorder(tmp_path / "run", names["Pairs"]()) as recorder:
        recorder.record(1.0)
    source = f"{tmp_path / 'own.py'}:objective"
    code, out, err = call("diagnose", tmp_path / "run", "--objective", source)
    assert code == 0, err
    assert "Conv2d (conv)" in out
    for name in ("samples", "feature-maps", "saliency"):
        assert f"{name}: left out, as this needs an objective whose inputs are one tensor" in out
    assert figures(tmp_path / "run") == [
        "activations.png",
        "confusion-step1.png",
        "filters-step1.png",
        "history.png",
    ]


def test_dynamics_are_measured_once(call, run):
    arguments = ("dynamics", run, "--states", "4", "--samples", "100")
    code, out, _ = call(*arguments)
    assert code == 0
    assert any(word in out for word in ("smooth:", "unclear:", "stuck:", "oscillating:"))
    (file,) = (run / "results").glob("dynamics-*.npz")
    assert losspath.Dynamics.load(file).steps.tolist() == [0, 15, 31, 46]
    written = file.stat().st_mtime_ns
    code, out, _ = call(*arguments)
    assert (code, "already computed" in out) == (0, True)
    assert file.stat().st_mtime_ns == written
    assert not list((run / "results").glob("*.states"))


def test_interpolation_prints_what_each_layer_accounts_for(call, run):
    code, out, _ = call("interpolate", run, "--points", "3")
    assert code == 0
    assert "share of the drop in loss" in out
    for layer in ("conv1", "conv2", "conv3", "fc"):
        assert layer in out


def test_json_of_info_is_not_disturbed(call, run):
    call("dynamics", run, "--states", "2", "--samples", "50")
    code, out, _ = call("info", run, "--json")
    assert code == 0
    assert np.isin(json.loads(out)["results"], [f.name for f in (run / "results").iterdir()]).all()


NORMED = """
import torch
from losspath import Objective
from neighbour import layers

def objective():
    torch.manual_seed(0)
    x = 3 * torch.randn(60, 4) + 2
    return Objective(layers(), x, (x[:, 0] > 2).long(), torch.nn.functional.cross_entropy)
"""
NEIGHBOUR = """
import torch

def layers():
    return torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Linear(5, 2)
    )
"""


def test_a_model_made_anew_has_the_statistics_that_training_ended_with(call, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    (tmp_path / "normed.py").write_text(NORMED)
    names = {}
    exec(NEIGHBOUR, names)
    torch.manual_seed(0)
    x = 3 * torch.randn(60, 4) + 2
    y = (x[:, 0] > 2).long()
    model = names["layers"]()
    descend(tmp_path / "run", model, x, y, steps=40)
    right = (model.eval()(x).argmax(dim=1) == y).float().mean().item()
    source = f"{tmp_path / 'normed.py'}:objective"
    run = Run(tmp_path / "run", objective_source=source)
    bound = along(run.validation_objective(), run.trajectory)
    found = Engine(bound.objective).plain(run.trajectory[-1], bound.sides_of(-1))
    assert found.accuracy == pytest.approx(right)
    assert right > 0.8
    code, _, err = call("diagnose", tmp_path / "run", "--objective", source, "--view", "confusion")
    assert (code, err) == (0, "")


def test_a_step_is_shown_with_the_statistics_of_its_own(call, tmp_path, monkeypatch):
    import torch
    from torch.nn.functional import batch_norm

    from losspath import figures as drawing

    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    (tmp_path / "normed.py").write_text(NORMED)
    names = {}
    exec(NEIGHBOUR, names)
    torch.manual_seed(0)
    x = 3 * torch.randn(60, 4) + 2
    y = (x[:, 0] > 2).long()
    descend(tmp_path / "run", names["layers"](), x, y, steps=30)
    drawn = []
    draw = drawing.plot_confusion
    monkeypatch.setattr(
        drawing, "plot_confusion", lambda found, **more: drawn.append(found) or draw(found, **more)
    )
    source = f"{tmp_path / 'normed.py'}:objective"
    path = losspath.Trajectory(tmp_path / "run")
    for step in (2, 30):
        arguments = ("--objective", source, "--view", "confusion", "--step", step)
        assert call("diagnose", tmp_path / "run", *arguments)[0] == 0
        own = {name: torch.from_numpy(value) for name, value in path.buffers(step).items()}
        w1, b1, scale, shift, w2, b2 = torch.from_numpy(path[step]).split([20, 5, 5, 5, 10, 2])
        hidden = batch_norm(
            x @ w1.view(5, 4).T + b1, own["1.running_mean"], own["1.running_var"], scale, shift
        )
        answers = (hidden.relu() @ w2.view(2, 5).T + b2).argmax(1)
        expected = np.zeros((2, 2), int)
        np.add.at(expected, (y.numpy(), answers.numpy()), 1)
        np.testing.assert_array_equal(drawn.pop().counts, expected)
