"""Networks whose only child is called ``module``, as what DDP adds; how often files are read."""

from collections import Counter, OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import losspath
from losspath import Objective, Recorder, Trajectory, import_checkpoints
from losspath.importing import formats, look
from losspath.surface import evaluate_states

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
Y = torch.arange(20) % 3


def inner():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def holder():
    """A network whose only child is called module."""
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(module=inner()))


def trained(folder, model, steps=(0, 4, 9)):
    """Checkpoints of a training, and the states."""
    folder.mkdir(exist_ok=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    states = {}
    for step in range(max(steps) + 1):
        if step:
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
        if step in steps:
            states[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            torch.save(states[step], folder / f"step-{step}.pt")
    return states


def losses(model, states):
    found = []
    for state in states.values():
        model.load_state_dict(state)
        with torch.no_grad():
            found.append(float(F.cross_entropy(model.eval()(X), Y)))
    return found


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("knows", [False, True])
def test_a_child_called_module_keeps_its_place(tmp_path, link, knows):
    states = trained(tmp_path / "saved", holder())
    model = holder() if knows else None
    path = import_checkpoints(tmp_path / "saved" / "*", tmp_path / "run", model=model, link=link)
    own = {name for name, _ in holder().named_parameters()}
    assert {entry.name for entry in path.layout_in(own).parameters} == own
    if knows:
        assert {entry.name for entry in path.layout.parameters} == own
    # The loss is of its own parameters and its own statistics, at every state.
    objective = Objective(holder(), X, Y, F.cross_entropy)
    found = evaluate_states(path, objective, np.arange(3)).loss
    assert found.tolist() == pytest.approx(losses(holder(), states), rel=1e-5)
    surface = losspath.compute_surface(path, objective, "averaged", 3, states=3)
    assert surface.provenance.get("notes", []) == []
    loaded = holder()
    path.load_into(loaded, 1, buffers=True)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, states[4][name]), name


@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize("knew", [False, True])
def test_more_of_its_checkpoints_are_added(tmp_path, knew, knows):
    states = trained(tmp_path / "saved", holder())
    model = {False: None, True: holder()}
    import_checkpoints(tmp_path / "saved" / "step-[04]*", tmp_path / "run", model=model[knew])
    path = import_checkpoints(
        tmp_path / "saved" / "*", tmp_path / "run", model=model[knows], existing="resume"
    )
    assert path.steps.tolist() == [0, 4, 9]
    objective = Objective(holder(), X, Y, F.cross_entropy)
    found = evaluate_states(path, objective, np.arange(3)).loss
    assert found.tolist() == pytest.approx(losses(holder(), states), rel=1e-5)


@pytest.mark.parametrize("knows", [False, True])
def test_of_a_wrapped_network_the_wrapper_is_still_taken_off(tmp_path, knows):
    states = trained(tmp_path / "saved", nn.DataParallel(inner()))
    model = inner() if knows else None
    path = import_checkpoints(tmp_path / "saved" / "*", tmp_path / "run", model=model)
    assert {e.name for e in path.layout.parameters} == {n for n, _ in inner().named_parameters()}
    objective = Objective(inner(), X, Y, F.cross_entropy)
    found = evaluate_states(path, objective, np.arange(3)).loss
    assert found.tolist() == pytest.approx(losses(nn.DataParallel(inner()), states), rel=1e-5)


def test_recording_goes_on_in_a_child_called_module(tmp_path):
    states = trained(tmp_path / "saved", holder())
    path = import_checkpoints(tmp_path / "saved" / "*", tmp_path / "run")
    model = holder()
    model.load_state_dict(states[9])
    with Recorder(tmp_path / "run", model, existing="resume") as recorder:
        with torch.no_grad():
            model.module[0].bias += 1
        recorder.record(1.0)
    assert len(Trajectory(tmp_path / "run")) == len(path) + 1


# -- how often files are read ---------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """How often each file is opened, and how many numbers are compared."""
    counts = Counter()
    torch_load, load_file, digest = torch.load, safetensors.torch.load_file, look.digest_of_numbers

    def count(read):
        def counted(file, *arguments, **options):
            counts[file.name] += 1
            return read(file, *arguments, **options)

        return counted

    def compared(tensors):
        counts["numbers"] += sum(tensor.numel() for tensor in tensors)
        return digest(tensors)

    monkeypatch.setattr(torch, "load", count(torch_load))
    monkeypatch.setattr(formats, "load_file", count(load_file))
    monkeypatch.setattr(look, "digest_of_numbers", compared)
    return counts


def saved(folder, ending, states):
    folder.mkdir()
    for step, state in enumerate(states):
        if ending == "pt":
            torch.save({"model": state, "step": step}, folder / f"{step}.pt")
        else:
            safetensors.torch.save_file(state, folder / f"{step}.safetensors")
    return folder / "*"


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_each_checkpoint_is_opened_twice_and_two_are_compared(tmp_path, opened, ending):
    states = [{"a": torch.full((50, 2), float(k)), "b": torch.ones(3)} for k in range(6)]
    import_checkpoints(saved(tmp_path / "saved", ending, states), tmp_path / "run")
    assert opened.pop("numbers") == 2 * 103  # all others are of a network that is trained
    assert set(opened.values()) == {2}
    assert len(opened) == 6


def test_what_is_frozen_is_compared_in_all(tmp_path, opened):
    states = [{"head": torch.full((5,), float(k)), "body": torch.ones(60)} for k in range(6)]
    states[5]["body"] = torch.zeros(60)  # at last it changes
    path = import_checkpoints(saved(tmp_path / "saved", "pt", states), tmp_path / "run")
    assert path.side_kinds == {}
    assert opened["numbers"] == 6 * 60 + 2 * 5


def test_a_network_that_is_given_needs_no_comparison(tmp_path, opened):
    states = trained(tmp_path / "first", inner())
    pattern = saved(tmp_path / "saved", "pt", states.values())
    import_checkpoints(pattern, tmp_path / "run", model=inner())
    assert opened["numbers"] == 0
    assert import_checkpoints(pattern, tmp_path / "run", existing="resume").closed
    assert opened["numbers"] == 0
