"""Captions say what a reader must know of the path and of the buffers that losses are of."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losspath
from losspath import Objective, Recorder, Trajectory

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
OF_AN_OPEN_RUN = "Recording is going on: 6 states so far."
OF_LOSSES = ["Buffers: those recorded with each state.", "Not checked against the model."]

PICTURES = {
    "dynamics": lambda p, o: losspath.plot_dynamics(losspath.measure_dynamics(p, o, 3)),
    "several dynamics": lambda p, o: losspath.plot_dynamics(
        [losspath.measure_dynamics(p, o, 3)] * 2
    ),
    "activations": lambda p, o: losspath.plot_activations(losspath.activations(p, o, 3)),
    "history": lambda p, o: losspath.plot_history(losspath.measure_history(p, o, 3)),
    "steps": lambda p, o: losspath.plot_step_sizes(losspath.step_sizes(p)),
}


def caption_of(figure):
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


@pytest.fixture
def recording(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.3)
    with Recorder(tmp_path / "run", model, parameters="all") as recorder:
        for _ in range(5):
            loss = F.cross_entropy(model(X), Y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
        recorder.flush()
        yield recorder, model


@pytest.mark.parametrize("what", PICTURES)
def test_an_open_run_buffers_and_what_was_not_checked_are_told(recording, what):
    recorder, model = recording
    path = Trajectory(recorder.directory)
    objective = Objective(model, X, Y, F.cross_entropy, check=False)
    caption = caption_of(PICTURES[what](path, objective))
    for sentence in [OF_AN_OPEN_RUN, *(OF_LOSSES if what != "steps" else [])]:
        assert caption.count(sentence) == 1
    if "dynamics" in what:
        assert "Derivatives: by the 14 of 29 parameters that are trained." in caption
    recorder.close()
    checked = Objective(model, X, Y, F.cross_entropy)
    caption = caption_of(PICTURES[what](Trajectory(recorder.directory), checked))
    assert "Recording" not in caption
    assert "Not checked" not in caption


def test_what_was_saved_before_is_drawn(recording, tmp_path):
    recorder, model = recording
    found = losspath.measure_dynamics(
        Trajectory(recorder.directory), Objective(model, X, Y, F.cross_entropy), 3
    )
    for name in ("has_buffers", "path_notes", "parameters", "trained_parameters"):
        found.provenance.pop(name, None)
    found.save(tmp_path / "dynamics.npz")
    old = losspath.Dynamics.load(tmp_path / "dynamics.npz")
    assert "Buffers" not in caption_of(losspath.plot_dynamics(old))


@pytest.mark.parametrize("buffers", [None, "model"])
def test_buffers_that_never_change_need_no_word(tmp_path, buffers):
    """Tables that were recorded and are the same at every state, as a transformer's positions."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    model.register_buffer("table", torch.arange(3.0))
    with Recorder(tmp_path / "run", model) as recorder:
        for _ in range(3):
            with torch.no_grad():
                model[0].weight.add_(torch.randn(3, 4))
            recorder.record(1.0)
    path = Trajectory(tmp_path / "run")
    objective = Objective(model, X, Y, F.cross_entropy, buffers=buffers)
    surface = losspath.compute_surface(path, objective, "averaged", 3)
    assert ("Buffers" in caption_of(losspath.plot_surface(surface))) == (buffers == "model")
