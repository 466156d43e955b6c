"""`losspath import`, as a user runs it."""

import json

import pytest
import torch

import losspath

OBJECTIVE = """
import torch
import losspath

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

def objective():
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 2
    return losspath.Objective(network(), x, y, torch.nn.functional.cross_entropy)
"""


def save(folder, *steps):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    for step in steps:
        state = {name: tensor * (1 - step / 100) for name, tensor in model.state_dict().items()}
        torch.save({"model": state, "step": step}, folder / f"{step}.pt")


def test_from_checkpoints_to_figures(call, tmp_path):
    work = tmp_path / "work"
    save(work / "saved", 0, 10, 20)
    (work / "objective.py").write_text(OBJECTIVE)
    code, out, err = call("import", "saved/*.pt", "--out", "run")
    assert (code, err) == (0, "")
    assert "run: 3 states of 26 parameters, steps 0 to 20" in out
    assert "no losses were found; --losses FILE" in out
    code, out, _ = call("info", "run")
    assert code == 0
    assert "no losses, as none were imported" in out
    assert "(3 checkpoints)" in out
    objective = ("--objective", "objective.py:objective")
    code, out, _ = call("surface", "run", *objective, "--resolution", "5")
    assert (code, "figure: " in out) == (0, True)
    code, out, _ = call("steps", "run")
    assert (code, "figure: " in out) == (0, True)


def test_called_again_it_adds_what_is_new(call, tmp_path):
    work = tmp_path / "work"
    save(work / "saved", 0, 10)
    call("import", "saved/*.pt", "--out", "run")
    code, out, _ = call("import", "saved/*.pt", "--out", "run")
    assert (code, "; nothing new" in out) == (0, True)
    save(work / "saved", 20, 30)
    code, out, _ = call("import", "saved/*.pt", "--out", "run")
    assert (code, "4 states of 26 parameters, steps 0 to 30; 2 of them new" in out) == (0, True)
    assert losspath.Trajectory(work / "run").steps.tolist() == [0, 10, 20, 30]


def test_info_says_of_which_steps_the_losses_are(call, tmp_path):
    work = tmp_path / "work"
    save(work / "saved", 0, 10, 40, 60)
    (work / "log.csv").write_text("step,loss\n20,3.25\n40,3.0\n50,2.5\n")
    call("import", "saved/*.pt", "--out", "run", "--losses", "log.csv")
    code, out, _ = call("info", "run")
    assert (code, "batch loss 3.25 at step 20, 2.5 at step 50\n" in out) == (0, True)
    told = json.loads(call("info", "run", "--json")[1])
    names = ("first_loss", "first_loss_step", "last_loss", "last_loss_step")
    assert [told[name] for name in names] == [3.25, 20, 2.5, 50]


@pytest.mark.parametrize("options", [(), ("--link",)])
def test_what_it_cannot_add_to_a_run_is_told_with_what_the_command_can_do(call, options, tmp_path):
    work = tmp_path / "work"
    save(work / "saved", 0, 10)
    call("import", "saved/*.pt", "--out", "run")
    save(work / "saved", 5)
    code, _, err = call("import", "saved/*.pt", "--out", "run", *options)
    assert code == 1
    assert "another directory (--out)" in err
    assert "on the command line, remove it first" in err


def test_losses_steps_and_the_network_are_options(call, tmp_path):
    work = tmp_path / "work"
    save(work / "saved", 1, 2)
    for old, new in (("1.pt", "best.pt"), ("2.pt", "last.pt")):
        content = torch.load(work / "saved" / old)["model"]
        torch.save(content, work / "saved" / new)
        (work / "saved" / old).unlink()
    (work / "log.csv").write_text("step,train_loss\n100,0.5\n200,0.25\n")
    (work / "objective.py").write_text(OBJECTIVE)
    arguments = ("import", "saved/*.pt", "--out", "run", "--losses", "log.csv")
    code, _, err = call(*arguments)
    assert (code, "pass steps=[…] (--steps)" in err) == (1, True)
    assert len(err.splitlines()) == 1
    code, _, err = call(*arguments, "--steps", "100,200", "--model", "objective.py:network")
    assert (code, err) == (0, "")
    path = losspath.Trajectory(work / "run")
    assert path.steps.tolist() == [100, 200]
    assert path.losses.tolist() == [0.25]
    code, out, _ = call("info", "run", "--json")
    assert json.loads(out)["last_loss"] == 0.25


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("none/*",), "expected checkpoints at none/*, found none"),
        (("saved/*", "--steps", "a,b"), "expected --steps as N,N,…"),
        (("saved/*", "--weights", "both"), "weights among raw, averaged"),
        (("saved/*", "--weights", "averaged"), "holds no averaged weights"),
        (("saved/*", "--losses", "none.csv"), "none.csv"),
        (("saved/*", "--model", "none.py:f"), "there is no file none.py to take --model from"),
        (("saved/*", "--parameters", "none.*"), "match none.*"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(call, tmp_path, options, says):
    save(tmp_path / "work" / "saved", 0, 10)
    code, _, err = call("import", *options, "--out", "run")
    assert code != 0
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "work" / "run").exists()


def test_a_run_that_was_recorded_is_left_alone(call, tmp_path):
    work = tmp_path / "work"
    save(work / "saved", 0, 10)
    with losspath.Recorder(work / "run", torch.nn.Linear(2, 1)) as recorder:
        recorder.record(1.0)
    before = losspath.Trajectory(work / "run").digest
    code, _, err = call("import", "saved/*", "--out", "run")
    assert (code, "holds a run that was recorded, not imported" in err) == (1, True)
    assert losspath.Trajectory(work / "run").digest == before
