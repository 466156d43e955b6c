"""Runs of checkpoints: in every form that trainers save, bit for bit what a recorder kept."""

import json
import pickle
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import losspath
from losspath import Objective, Recorder, Trajectory, import_checkpoints
from losspath.errors import (
    ArgumentError,
    DamagedError,
    ExistsError,
    LosspathWarning,
    ModelError,
    UnsupportedError,
)
from losspath.recording.repair import repair_trajectory
from losspath.surface import evaluate_states

# What torch says where one process saves a distributed checkpoint.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")

STEPS = (0, 5, 10, 100)
X, Y = (
    torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
    torch.arange(24) % 3,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 2, 3),
            norm=nn.BatchNorm2d(2),
            rest=nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)),
        )
    )


class Trained:
    """A recorded run, and its states at some steps."""

    def __init__(self, directory):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        self.states, self.optimizers = {}, {}
        with Recorder(directory / "recorded", model) as recorder:
            for step in range(max(STEPS) + 1):
                if step:
                    loss = F.cross_entropy(model(X), Y)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    recorder.record(loss)
                if step in STEPS:
                    self.states[step] = {n: t.clone() for n, t in model.state_dict().items()}
                    self.optimizers[step] = optimizer.state_dict()
        self.path = Trajectory(directory / "recorded")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("trained"))


def bare(folder, step, state, optimizer):
    torch.save(state, folder / f"model_{step}.pth")


def nested(folder, step, state, optimizer):
    content = {"epoch": 1, "model": state, "optimizer": optimizer, "step": step, "args": {"lr": 1}}
    torch.save(content, folder / f"{step}.pt")


def deeply_nested(folder, step, state, optimizer):
    content = {"trainer": {"net": {"weights": state}}, "optim": {"state": optimizer}}
    torch.save(content, folder / f"run-3-step{step}.pt")


def old_kind(folder, step, state, optimizer):
    file = folder / f"model_{step}.pth"
    torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=False)


def lightning(folder, step, state, optimizer):
    content = {
        "epoch": 0,
        "global_step": step,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [optimizer],
        "lr_schedulers": [],
    }
    torch.save(content, folder / f"epoch=0-step={step}.ckpt")


def safe(folder, step, state, optimizer):
    save_file(state, folder / f"step-{step}.safetensors")


def hugging_face(folder, step, state, optimizer):
    place = folder / f"checkpoint-{step}"
    place.mkdir()
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    torch.save(optimizer, place / "optimizer.pt")
    log = [{"loss": 1.0 + each, "step": each, "lr": 0.1} for each in range(1, step + 1)]
    trainer = {"global_step": step, "log_history": log}
    (place / "trainer_state.json").write_text(json.dumps(trainer))


def sharded(kind):
    def write(folder, step, state, optimizer):
        place = folder / f"checkpoint-{step}"
        place.mkdir()
        parts = {f"model-0000{k}-of-00002.{kind}": {} for k in (1, 2)}
        for number, (name, tensor) in enumerate(state.items()):
            list(parts.values())[number % 2][name] = tensor
        for part, tensors in parts.items():
            save = save_file if kind == "safetensors" else torch.save
            save(tensors, place / part)
        index = {"weight_map": {name: part for part, own in parts.items() for name in own}}
        stem = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
        (place / f"{stem}.index.json").write_text(json.dumps(index))

    return write


def distributed(folder, step, state, optimizer):
    torch.distributed.checkpoint.save(
        {"model": state, "optimizer": {"state": {"lr": torch.ones(3)}}, "step": torch.tensor(step)},
        checkpoint_id=folder / f"step_{step}",
        no_dist=True,
    )


def wrapped(prefix):
    def write(folder, step, state, optimizer):
        bare(folder, step, {prefix + name: tensor for name, tensor in state.items()}, optimizer)

    return write


FORMS = {
    "bare": bare,
    "nested": nested,
    "deeply nested": deeply_nested,
    "old kind": old_kind,
    "lightning": lightning,
    "safetensors": safe,
    "hugging face": hugging_face,
    "parts of safetensors": sharded("safetensors"),
    "parts of torch": sharded("bin"),
    "distributed": distributed,
    "compiled": wrapped("_orig_mod."),
    "ddp": wrapped("module."),
    "ddp of compiled": wrapped("module._orig_mod."),
}


def saved(folder, trained, write, steps=STEPS):
    folder.mkdir(exist_ok=True)
    for step in steps:
        write(folder, step, trained.states[step], trained.optimizers[step])
    return folder


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_what_is_imported_is_what_was_recorded(trained, write, tmp_path):
    folder = saved(tmp_path / "saved", trained, write)
    path = import_checkpoints(folder / "*", tmp_path / "run")
    assert path.steps.tolist() == [*STEPS]
    assert path.closed
    assert path.notes == []
    recorded = trained.path
    assert {e.name for e in path.layout.parameters} == {e.name for e in recorded.layout.parameters}
    for index, step in enumerate(STEPS):
        for entry in path.layout.parameters:
            (other,) = [e for e in recorded.layout.parameters if e.name == entry.name]
            assert path[index][entry.place].tobytes() == recorded[step][other.place].tobytes()
        buffers = recorded.buffers(step)
        assert path.buffers(index).keys() == buffers.keys()
        for name, value in path.buffers(index).items():
            assert value.tobytes() == buffers[name].tobytes()


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_with_the_model_rows_are_those_of_the_recorder(trained, write, tmp_path):
    folder = saved(tmp_path / "saved", trained, write)
    path = import_checkpoints(folder / "*", tmp_path / "run", model=network())
    assert path.layout == trained.path.layout
    assert [path[i].tobytes() for i in range(4)] == [trained.path[s].tobytes() for s in STEPS]


@pytest.mark.parametrize("write", [bare, safe, hugging_face])
def test_a_surface_finds_parameters_by_their_names(trained, write, tmp_path):
    folder = saved(tmp_path / "saved", trained, write)
    path = import_checkpoints(folder / "*", tmp_path / "run")
    objective = Objective(network(), X, Y, F.cross_entropy)
    surface = losspath.compute_surface(path, objective, "averaged", 5, states=4)
    assert np.isfinite(surface.loss).all()
    model = network()
    losses = []
    for step in STEPS:
        model.load_state_dict(trained.states[step])
        with torch.no_grad():
            losses.append(float(F.cross_entropy(model.eval()(X), Y)))
    found = evaluate_states(path, objective, np.arange(4)).loss
    assert found.tolist() == pytest.approx(losses, rel=1e-5)
    sizes = losspath.step_sizes(path).sizes
    assert sizes == pytest.approx(
        losspath.step_sizes(np.stack([trained.path[s] for s in STEPS])).sizes, rel=1e-6
    )


def test_the_last_model_beside_its_checkpoints_is_passed_over(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, hugging_face)
    save_file(trained.states[100], folder / "model.safetensors")
    path = import_checkpoints(folder, tmp_path / "run")
    assert path.steps.tolist() == [*STEPS]


def test_losses_and_values_of_a_trainer(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, hugging_face)
    path = import_checkpoints(folder, tmp_path / "run")
    assert path.loss_steps.tolist() == [*range(1, 101)]
    assert path.all_losses.tolist() == [1.0 + step for step in range(1, 101)]
    assert path.losses.tolist() == [2.0, 7.0, 12.0]  # the first that led on from each state
    steps, values = path.values["lr"]
    assert (steps.tolist(), set(values.tolist())) == ([*range(1, 101)], {0.1})
    assert path.unchanged_steps == 0
    assert losspath.step_sizes(path).losses.tolist() == [2.0, 7.0, 12.0]


TABLE = """epoch,step,train_loss,val_loss,note
0,5,2.5,,warm
0,7,,1.5,
0,10,1.25,,
1,50,0.75,,
1,100,,0.25,
"""


def test_losses_of_a_table(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, bare)
    (tmp_path / "metrics.csv").write_text(TABLE)
    path = import_checkpoints(
        folder / "*", tmp_path / "run", losses=tmp_path / "metrics.csv", loss_column="train_loss"
    )
    assert path.loss_steps.tolist() == [5, 10, 50, 100]
    np.testing.assert_array_equal(path.all_losses, [2.5, 1.25, 0.75, np.nan])  # as it was logged
    assert path.losses.tolist() == [2.5, 1.25, 0.75]
    steps, values = path.values["val_loss"]
    assert (steps.tolist(), values.tolist()) == ([7, 100], [1.5, 0.25])
    assert "note" not in path.values
    assert path.steps.tolist() == [*STEPS]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("step,los\n1,2\n", {}, "a column for the loss, say which"),
        ("iter,loss\n1,2\n", {}, "a column for a step, named step or global_step"),
        ("step,loss\n1,2\n", {"loss_column": "other"}, "named other, got step, loss"),
        ("step,loss\n1,2\nx,3\n", {}, "line 3 of .* has no number as step or loss"),
        ("", {}, "got none"),
        ("step,other\n", {}, "got step, other"),
        ("step,loss\nnan,3\n", {}, "line 2 of .* has no number as step or loss"),
        ("step,loss\n1e400,3\n", {}, "line 2 of .* has no number as step or loss"),
        ("step,loss\n1.5,3\n", {}, "line 2 of .* has no number as step or loss"),
    ],
)
def test_tables_without_losses_are_told(trained, tmp_path, text, options, says):
    folder = saved(tmp_path / "saved", trained, bare)
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises((ArgumentError, DamagedError), match=says):
        import_checkpoints(folder / "*", tmp_path / "run", losses=tmp_path / "log.csv", **options)
    assert not (tmp_path / "run").exists()


def test_tables_as_spreadsheets_write_them(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, bare)
    text = "\ufeffstep,loss,train_loss,self\n5,9,0.5,1,more\n10,8,0.25,1\n"
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    path = import_checkpoints(
        folder, tmp_path / "run", losses=tmp_path / "log.csv", loss_column="train_loss"
    )
    assert path.all_losses[:2].tolist() == [0.5, 0.25]
    assert path.values["logged_loss"][1].tolist() == [9.0, 8.0]


def test_a_column_that_a_trainer_never_logged(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, hugging_face)
    with pytest.raises(ArgumentError, match=r"expected nonsense to be logged in .*, got loss"):
        import_checkpoints(folder, tmp_path / "run", loss_column="nonsense")


def test_without_losses_they_are_not_known(trained, tmp_path):
    path = import_checkpoints(saved(tmp_path / "s", trained, bare) / "*", tmp_path / "run")
    assert np.isnan(path.losses).all()
    assert len(path.losses) == 3


# -- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("write", [nested, hugging_face])
def test_new_checkpoints_are_added(trained, write, count, tmp_path):
    folder = saved(tmp_path / "saved", trained, write, STEPS[:count])
    run, whole = tmp_path / "run", tmp_path / "whole"
    import_checkpoints(folder / "*", run)
    saved(folder, trained, write, STEPS[count:])
    path = import_checkpoints(folder / "*", run, existing="resume")
    expected = import_checkpoints(folder / "*", whole)
    assert path.digest == expected.digest
    assert path.notes == []
    written = (run / "states.bin").stat().st_mtime_ns
    assert len(import_checkpoints(folder / "*", run, existing="resume")) == 4
    assert (run / "states.bin").stat().st_mtime_ns == written


def test_old_checkpoints_may_be_gone_when_new_ones_are_added(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, nested, STEPS[:2])
    import_checkpoints(folder / "*", tmp_path / "run")
    for file in folder.iterdir():
        file.unlink()
    saved(folder, trained, nested, STEPS[2:])
    path = import_checkpoints(folder / "*", tmp_path / "run", existing="resume")
    assert path.steps.tolist() == [*STEPS]
    assert [path[i].tobytes() for i in range(4)] == [trained.path[s].tobytes() for s in STEPS]


def test_a_checkpoint_between_those_that_are_there_is_refused(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, nested, (0, 100))
    import_checkpoints(folder / "*", tmp_path / "run")
    saved(folder, trained, nested, (5,))
    with pytest.raises(ArgumentError, match=r"5.pt is of step 5, .* begin the run anew"):
        import_checkpoints(folder / "*", tmp_path / "run", existing="resume")
    with pytest.raises(ExistsError, match="not empty"):
        import_checkpoints(folder / "*", tmp_path / "run")
    path = import_checkpoints(folder / "*", tmp_path / "run", existing="overwrite")
    assert path.steps.tolist() == [0, 5, 100]


def test_checkpoints_of_another_training_are_not_added(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, nested, STEPS[:3])
    import_checkpoints(folder / "*", tmp_path / "run")
    before = Trajectory(tmp_path / "run").digest
    other = {name: tensor.clone() for name, tensor in trained.states[5].items()}
    other["conv.bias"] += 1
    nested(folder, 5, other, {})
    saved(folder, trained, nested, STEPS[3:])
    with pytest.raises(ArgumentError, match=r"other numbers at step 5 than .*5.pt, .*conv.bias"):
        import_checkpoints(folder / "*", tmp_path / "run", existing="resume")
    assert Trajectory(tmp_path / "run").digest == before


def keep(folder, **states):
    folder.mkdir(exist_ok=True)
    for step, state in states.items():
        torch.save(state, folder / f"{step}.pt")
    return folder / "*.pt"


def full(value, count=4, dtype=torch.float32):
    return torch.full((count,), value, dtype=dtype)


@pytest.mark.parametrize(
    ("later", "error", "says"),
    [
        ({"a": full(3.0), "c": full(3.0)}, ModelError, "it lacks b"),
        ({"a": full(3.0), "b": full(3.0), "c": full(3.0)}, ModelError, "it has besides c"),
        (
            {"a": full(3.0), "b": full(3.0, 5)},
            ModelError,
            r"of another shape are b \[5\] for \[4\]",
        ),
        ({"a": full(3.0), "b": full(3.0, dtype=torch.float64)}, ArgumentError, "b is float32 in"),
    ],
)
def test_checkpoints_of_another_network_are_not_added(tmp_path, later, error, says):
    first = {"a": full(1.0), "b": full(1.0)}
    pattern = keep(tmp_path / "saved", s1=first, s2={"a": full(2.0), "b": full(2.0)})
    import_checkpoints(pattern, tmp_path / "run", steps=[1, 2])
    before = Trajectory(tmp_path / "run").digest
    for file in (tmp_path / "saved").iterdir():
        file.unlink()
    keep(tmp_path / "saved", s3=later)
    with pytest.raises(error, match=says):
        import_checkpoints(pattern, tmp_path / "run", steps=[3], existing="resume")
    assert Trajectory(tmp_path / "run").digest == before


def test_what_was_frozen_and_is_trained_now_is_told(tmp_path):
    def states(value, head):
        return {"body": full(value, 100), "head": full(head)}

    pattern = keep(tmp_path / "saved", s1=states(1.0, 1.0), s2=states(1.0, 2.0))
    path = import_checkpoints(pattern, tmp_path / "run", steps=[1, 2])
    assert path.side_kinds == {"body": "frozen"}
    keep(tmp_path / "saved", s3=states(5.0, 3.0))
    with pytest.raises(ArgumentError, match="body was the same in all checkpoints"):
        import_checkpoints(pattern, tmp_path / "run", steps=[1, 2, 3], existing="resume")


def test_going_on_where_there_is_no_run_begins_one(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, nested, STEPS[1:])
    path = import_checkpoints(folder, tmp_path / "run", existing="resume")
    assert path.steps.tolist() == [5, 10, 100]


@pytest.mark.filterwarnings("error")
def test_an_import_that_was_stopped_goes_on(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, hugging_face)

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_checkpoints(folder, tmp_path / "run", progress=stop)
    path = import_checkpoints(folder, tmp_path / "run", existing="resume")
    assert path.digest == import_checkpoints(folder, tmp_path / "whole").digest


def test_progress(trained, tmp_path):
    told = []
    folder = saved(tmp_path / "saved", trained, bare)
    import_checkpoints(folder, tmp_path / "run", progress=lambda *args: told.append(args))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


# -- which steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["a2.pt", "a10.pt", "a1.pt"], [1, 2, 10]),
        (["lr0.1-epoch3-step7.pt", "lr0.1-epoch4-step20.pt"], [7, 20]),
        (["lr0.1_7.pt", "lr0.1_20.pt"], [7, 20]),
        (["step=300.ckpt", "step=20.ckpt"], [20, 300]),
        (["v2_global_step5_last.pt"], [5]),
        (["7/model.pt", "20/model.pt"], [7, 20]),
        (["Step12.pt", "step_3.pt"], [3, 12]),
    ],
)
def test_steps_are_read_from_names(tmp_path, names, steps):
    for number, name in enumerate(names):
        (tmp_path / "saved" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"w": torch.full((3,), float(number))}, tmp_path / "saved" / name)
    path = import_checkpoints([tmp_path / "saved" / name for name in names], tmp_path / "run")
    assert path.steps.tolist() == steps


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["best.pt", "last.pt"], "pass steps="),
        (["a1-b2.pt", "a2-b3.pt"], "do not differ in one alone"),
        (["step-5.pt", "again-step-5.pt"], "both of step 5; give a pattern"),
    ],
)
def test_steps_that_names_do_not_tell_are_asked_for(tmp_path, names, says):
    for number, name in enumerate(names):
        torch.save({"w": torch.full((3,), float(number))}, tmp_path / name)
    with pytest.raises(ArgumentError, match=says):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run", steps=[10, 20])
    assert path.steps.tolist() == [10, 20]
    with pytest.raises(ArgumentError, match="a step for each of 2 checkpoints, got 1"):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "other", steps=[10])


def test_no_checkpoints(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    for pattern in ("*.pt", "notes.txt", "missing/*"):
        with pytest.raises(ArgumentError, match=r"expected checkpoints at .*, found none"):
            import_checkpoints(tmp_path / pattern, tmp_path / "run")


@pytest.mark.parametrize(
    "names",
    [
        ["ckpt_500.pt", "ckpt_1k.pt", "ckpt_10k.pt"],
        ["loss_0.52.pt", "loss_0.31.pt"],
        ["model_1.5M.pt", "model_2.5M.pt"],
        ["2024-01-02.pt", "2024-01-03.pt"],
        ["step_1_000.pt", "step_2_000.pt"],
        ["seed0/m.pt", "seed1/m.pt"],
        ["ck-1e3.pt", "ck-1e4.pt"],
    ],
    ids=str,
)
def test_numbers_that_are_no_steps_are_not_taken_for_them(tmp_path, names):
    for number, name in enumerate(names):
        (tmp_path / "saved" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"w": torch.full((3,), float(number))}, tmp_path / "saved" / name)
    with pytest.raises(ArgumentError, match="pass steps="):
        import_checkpoints([tmp_path / "saved" / name for name in names], tmp_path / "run")


def save_with(folder, **notes):
    """One checkpoint for each set of notes, by its file's name."""
    for number, (name, content) in enumerate(notes.items()):
        torch.save(
            {"model": {"w": torch.full((3,), float(number))}, **content}, folder / f"{name}.pt"
        )


def test_steps_that_some_do_not_say(tmp_path):
    save_with(tmp_path, m1={"step": 500}, m2={"step": 1000}, m3={})
    with pytest.raises(ArgumentError, match=r"as some do, but .*m3.pt does not"):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "run")


def test_steps_that_begin_anew_in_each_epoch(tmp_path):
    save_with(
        tmp_path,
        a={"epoch": 0, "step": 100},
        b={"epoch": 1, "step": 50},
        c={"epoch": 2, "step": 70},
    )
    with pytest.raises(ArgumentError, match="steps and epochs contradict each other"):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run", steps=[100, 150, 220])
    assert path.steps.tolist() == [100, 150, 220]


@pytest.mark.parametrize("value", [500.0, "500", np.int64(500), torch.tensor(500)])
def test_steps_of_every_type(tmp_path, value):
    content = {"model": {"w": torch.ones(3)}, "iter_num": value}
    if isinstance(value, np.generic):
        content["iter_num"] = int(value)
    torch.save(content, tmp_path / "ckpt1.pt")
    assert import_checkpoints(tmp_path / "*.pt", tmp_path / "run").steps.tolist() == [500]


def test_epochs_are_not_matched_with_losses_of_steps(tmp_path):
    for epoch in (1, 2, 3):
        torch.save({"w": torch.full((3,), float(epoch))}, tmp_path / f"epoch_{epoch}.pt")
    (tmp_path / "log.csv").write_text("step,loss\n1,9.0\n100,1.0\n")
    with pytest.raises(ArgumentError, match="numbered by epochs, and losses by steps"):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "run", losses=tmp_path / "log.csv")
    assert import_checkpoints(tmp_path / "*.pt", tmp_path / "run").steps.tolist() == [1, 2, 3]


def test_checkpoints_of_two_trainings_are_not_mixed(tmp_path):
    for version in ("version_0", "version_1"):
        (tmp_path / version).mkdir()
        for step in (100, 200):
            torch.save({"w": torch.ones(3) * step}, tmp_path / version / f"step={step}.ckpt")
    with pytest.raises(ArgumentError, match="expected checkpoints of one training"):
        import_checkpoints(tmp_path / "**" / "*.ckpt", tmp_path / "run")


@pytest.mark.parametrize("left", [(), ("optimizer.pt",), ("optimizer.pt", "trainer_state.json")])
def test_a_checkpoint_without_weights_is_named(trained, left, tmp_path):
    folder = saved(tmp_path / "saved", trained, hugging_face)
    last = folder / "checkpoint-100"
    torch.save({}, last / "scheduler.pt")
    torch.save({}, last / "rng_state.pth")
    for file in last.iterdir():
        if file.name not in left:
            file.unlink()
    for pattern in (folder / "checkpoint-*", last):
        with pytest.raises(ArgumentError, match=r"saved/checkpoint-100, .* no weights .* leave it"):
            import_checkpoints(pattern, tmp_path / "run")
    path = import_checkpoints(folder, tmp_path / "run")  # those that it holds
    assert path.steps.tolist() == [*STEPS[:3]]


def test_files_of_ones_own_in_a_folder_as_of_a_trainer(trained, tmp_path):
    folder = tmp_path / "checkpoint-7"
    saved(folder, trained, bare)
    assert len(import_checkpoints(folder, tmp_path / "run")) == 4


def relog(folder, losses):
    """Other losses in the logs of checkpoints of a trainer."""
    for place in folder.iterdir():
        file = place / "trainer_state.json"
        content = json.loads(file.read_text())
        step = content["global_step"]
        content["log_history"] = [
            {"loss": loss, "step": at} for at, loss in losses.items() if at <= step
        ]
        file.write_text(json.dumps(content))


def test_checkpoints_of_two_trainings_in_one_folder_are_told_apart_by_their_logs(trained, tmp_path):
    old = saved(tmp_path / "old", trained, hugging_face)
    folder = saved(tmp_path / "saved", trained, hugging_face, STEPS[:3])
    relog(old, {5: 4.354, 10: 4.1, 50: 3.25})
    relog(folder, {5: 4.34, 10: 4.1})
    (old / "checkpoint-100").rename(folder / "checkpoint-100")
    says = (
        r"got \S*saved/checkpoint-5, .* has a loss of 4\.34 at step 5, and "
        r"\S*saved/checkpoint-100, whose has 4\.354; give a pattern"
    )
    (tmp_path / "table.csv").write_text(TABLE)
    for losses in (None, tmp_path / "table.csv"):
        with pytest.raises(ArgumentError, match=says):
            import_checkpoints(folder, tmp_path / "run", losses=losses)
        assert not (tmp_path / "run").exists()
    path = import_checkpoints(
        [folder / f"checkpoint-{step}" for step in STEPS[:3]], tmp_path / "run"
    )
    assert path.steps.tolist() == [*STEPS[:3]]


@pytest.mark.parametrize(
    ("early", "late"),
    [
        ({5: 4.354, 10: 4.1}, {5: 4.354, 10: 4.1, 50: 3.25}),  # the earlier log ends earlier
        ({5: 4.3541, 10: 4.1}, {5: 4.3542, 10: 4.1, 50: 3.25}),  # 4.35415 to four places
        ({5: 4.354}, {5: 4.35387654321, 50: 3.25}),
        ({5: float("nan")}, {5: float("nan"), 50: 3.25}),
        ({}, {5: 4.354}),
    ],
)
def test_logs_of_one_training_agree(trained, early, late, tmp_path):
    folder = saved(tmp_path / "saved", trained, hugging_face, STEPS[:3])
    relog(folder, early)
    last = saved(tmp_path / "last", trained, hugging_face, STEPS[3:])
    relog(last, late)
    path = import_checkpoints([folder, last / "checkpoint-100"], tmp_path / "run")
    assert path.steps.tolist() == [*STEPS]


@pytest.mark.parametrize(
    ("early", "late"), [({5: 2.0}, {5: float("nan")}), ({5: 4.3541}, {5: 4.3543, 50: 3.0})]
)
def test_logs_of_two_trainings_contradict_each_other(trained, early, late, tmp_path):
    folder = saved(tmp_path / "saved", trained, hugging_face, STEPS[:3])
    relog(folder, early)
    last = saved(tmp_path / "last", trained, hugging_face, STEPS[3:])
    relog(last, late)
    with pytest.raises(ArgumentError, match="at step 5"):
        import_checkpoints([folder, last / "checkpoint-100"], tmp_path / "run")


def test_a_log_without_a_history_contradicts_nothing(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, hugging_face)
    (folder / "checkpoint-5" / "trainer_state.json").write_text('{"global_step": 5}')
    assert len(import_checkpoints(folder, tmp_path / "run")) == 4


@pytest.mark.parametrize("link", [False, True])
def test_checkpoints_whose_log_contradicts_the_run_are_not_added(trained, link, tmp_path):
    folder = saved(tmp_path / "saved", trained, hugging_face, STEPS[:3])
    import_checkpoints(folder, tmp_path / "run", link=link)
    before = Trajectory(tmp_path / "run").digest
    last = saved(tmp_path / "last", trained, hugging_face, STEPS[3:])
    place = last / "checkpoint-100"
    relog(last, {5: 4.354, 50: 3.25})
    says = r"has a loss of 6.0 at step 5, and .*checkpoint-100 .* logged 4\.354 there; .*--losses"
    with pytest.raises(ArgumentError, match=says):
        import_checkpoints(place, tmp_path / "run", existing="resume", link=link)
    assert Trajectory(tmp_path / "run").digest == before
    relog(last, {5: 6.0, 50: 3.25})
    path = import_checkpoints(place, tmp_path / "run", existing="resume", link=link)
    assert path.steps.tolist() == [*STEPS]


def test_a_link_to_the_newest_is_no_other_checkpoint(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, nested)
    (folder / "last.pt").symlink_to(folder / "100.pt")
    path = import_checkpoints(folder / "*.pt", tmp_path / "run")
    assert path.steps.tolist() == [*STEPS]


def test_a_run_among_its_checkpoints_is_none_of_them(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, nested)
    import_checkpoints(folder / "*", folder / "run")
    path = import_checkpoints(folder / "*", folder / "run", existing="resume")
    assert path.steps.tolist() == [*STEPS]
    assert import_checkpoints(folder, tmp_path / "other").digest == path.digest


@pytest.mark.parametrize("suffix", [".pth.tar", ".t7"])
def test_files_with_the_names_of_old_examples(trained, tmp_path, suffix):
    saved(tmp_path / "saved", trained, bare)
    for file in (tmp_path / "saved").iterdir():
        file.rename(file.with_name(f"{file.stem}{suffix}"))
    assert len(import_checkpoints(tmp_path / "saved", tmp_path / "run")) == 4


# -- which state dict -----------------------------------------------------------------------------


def averaged(folder, step, state, optimizer):
    """As Lightning's WeightAveraging saves it."""
    half = {n: t * 0.5 if t.is_floating_point() else t for n, t in state.items()}
    content = {
        "global_step": step,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": half,
        "current_model_state": state,
        "averaging_state": {"n_averaged": torch.tensor(step)},
        "optimizer_states": [optimizer],
    }
    torch.save(content, folder / f"step={step}.ckpt")


def with_ema(folder, step, state, optimizer):
    half = {n: t * 0.5 if t.is_floating_point() else t for n, t in state.items()}
    content = {"model": state, "model_ema": half, "optimizer": optimizer, "iteration": step}
    torch.save(content, folder / f"{step}.pth")


@pytest.mark.parametrize("write", [averaged, with_ema])
def test_averaged_weights_are_never_taken_unasked(trained, write, tmp_path):
    folder = saved(tmp_path / "saved", trained, write)
    with pytest.raises(ArgumentError, match=r"two sets of weights, .*weights='raw'.*'averaged'"):
        import_checkpoints(folder, tmp_path / "run")
    raw = import_checkpoints(folder, tmp_path / "raw", weights="raw")
    half = import_checkpoints(folder, tmp_path / "half", weights="averaged")
    for index, step in enumerate(STEPS):
        assert raw[index].tobytes() == trained.path[step].tobytes()
        assert half[index].tobytes() == (trained.path[step] * np.float32(0.5)).tobytes()
    plain = saved(tmp_path / "plain", trained, nested)
    with pytest.raises(ArgumentError, match="holds no averaged weights"):
        import_checkpoints(plain, tmp_path / "none", weights="averaged")
    with pytest.raises(ArgumentError, match="weights='raw', and now it is 'averaged'"):
        import_checkpoints(folder, tmp_path / "raw", weights="averaged", existing="resume")


def test_several_networks_are_told_apart_by_their_keys(tmp_path):
    for step in (1, 2):
        both = {
            "generator": {"a.weight": torch.full((2, 3), float(step))},
            "discriminator": {"b.weight": torch.full((4,), -float(step))},
        }
        torch.save(both, tmp_path / f"{step}.pt")
    with pytest.raises(ArgumentError, match=r"state dicts, generator \(1 tensors\) and dis"):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run", key="discriminator")
    assert path[:].tolist() == [[-1.0] * 4, [-2.0] * 4]
    with pytest.raises(ArgumentError, match="got 'other'; there are generator"):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "other", key="other")


def test_a_prefix_takes_a_network_out_of_another(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, wrapped("model.net."))
    path = import_checkpoints(folder, tmp_path / "run", prefix="model.net.", model=network())
    assert [path[i].tobytes() for i in range(4)] == [trained.path[s].tobytes() for s in STEPS]
    with pytest.raises(ArgumentError, match=r"prefix that names in .* begin with, got 'net.'"):
        import_checkpoints(folder, tmp_path / "other", prefix="net.")
    with pytest.raises(ModelError, match=r"conv.weight .* is absent; names there are like model"):
        import_checkpoints(folder, tmp_path / "other", model=network())


def test_patterns_of_names(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, bare)
    path = import_checkpoints(folder, tmp_path / "run", parameters=["conv.*", "rest.*.bias"])
    assert [e.name for e in path.layout.parameters] == ["conv.weight", "conv.bias", "rest.2.bias"]
    assert set(path.side_kinds) == set()
    with pytest.raises(ArgumentError, match=r"match no.such in"):
        import_checkpoints(folder, tmp_path / "other", parameters="no.such")


def test_tensors_beside_another_state_dict_are_not_dropped(tmp_path):
    for step in (1, 2):
        state = {"a.weight": torch.full((2, 3), float(step))}
        half = {"a.weight": torch.full((2, 3), step / 2)}
        torch.save({**state, "ema": half}, tmp_path / f"{step}.pt")
    with pytest.raises(ArgumentError, match="two sets of weights, the top"):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run", weights="raw")
    assert path[:].tolist() == [[1.0] * 6, [2.0] * 6]
    half = import_checkpoints(tmp_path / "*.pt", tmp_path / "half", weights="averaged")
    assert half[:].tolist() == [[0.5] * 6, [1.0] * 6]


def test_weights_that_are_not_what_they_are_said_to_be(tmp_path):
    torch.save({"ema": {"w": torch.ones(3)}}, tmp_path / "1.pt")
    with pytest.raises(ArgumentError, match=r"raw weights .* under ema, which are averaged"):
        import_checkpoints(tmp_path / "1.pt", tmp_path / "run", weights="raw")
    path = import_checkpoints(tmp_path / "1.pt", tmp_path / "run", weights="averaged")
    assert len(path) == 1


def test_names_that_are_one_without_wrappers(tmp_path):
    state = {"net.weight": torch.ones(3), "net._orig_mod.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "1.pt")
    with pytest.raises(ModelError, match=r"net.weight and net._orig_mod.weight"):
        import_checkpoints(tmp_path / "1.pt", tmp_path / "run")


def test_statistics_stay_with_the_layers_that_are_taken(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, bare)
    path = import_checkpoints(folder, tmp_path / "run", parameters=["*.weight", "*.bias"])
    assert set(path.buffers(0)) == set(trained.path.buffers(0))


class Larger(nn.Module):
    """The network, and a frozen part that checkpoints have not."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.rest = network()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_a_model_is_as_strict_as_loading_it(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, bare)
    with pytest.raises(ModelError, match=r"not of the model: frozen.weight \[2, 2\] is absent"):
        import_checkpoints(folder, tmp_path / "run", model=Larger())
    smaller = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3)))
    with pytest.raises(ModelError, match=r"has no norm.weight, norm.bias, norm.running_mean and 4"):
        import_checkpoints(folder, tmp_path / "run", model=smaller)
    path = import_checkpoints(folder, tmp_path / "run", model=smaller, parameters="conv.*")
    assert path.parameter_count == 20


def test_a_network_that_holds_its_own_average_is_told(tmp_path):
    for step in (1, 2):
        names = ("net.a", "net.b", "ema_model.module.a", "ema_model.module.b")
        torch.save({name: full(float(step)) for name in names}, tmp_path / f"{step}.pt")
    with pytest.warns(LosspathWarning, match="each parameter twice, as ema_model is an average"):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "net", prefix="net.")
    assert path.parameter_count == 8


# -- what differs ---------------------------------------------------------------------------------


def test_checkpoints_of_other_networks_are_refused(tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(4)}, tmp_path / "1.pt")
    torch.save({"a": torch.ones(2), "b": torch.ones(4), "d": torch.ones(4)}, tmp_path / "2.pt")
    says = r"2.pt is not of .*1.pt: it lacks c; it has besides d; of another shape are b \[4\] for"
    with pytest.raises(ModelError, match=says):
        import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run", parameters="a")
    assert path.parameter_count == 2


def test_what_never_changes_is_kept_once(tmp_path):
    for step in (0, 1, 2):
        state = {
            "backbone": torch.arange(100.0),
            "head": torch.full((5,), float(step)),
            "head_bias": torch.zeros(3),
        }
        torch.save(state, tmp_path / f"{step}.pt")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    assert path.side_kinds == {"backbone": "frozen", "head_bias": "frozen"}
    assert path[:].tolist() == [[0.0] * 5, [1.0] * 5, [2.0] * 5]
    assert path.sides(2)["backbone"].tolist() == [*range(100)]


def test_what_is_trained_and_does_not_change_is_in_the_path(tmp_path):
    for step in (0, 1, 2):
        torch.save(
            {"a": torch.full((5,), float(step)), "b": torch.zeros(3)}, tmp_path / f"{step}.pt"
        )
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    assert [entry.name for entry in path.layout.parameters] == ["a", "b"]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.float16, torch.float16), "float32"),
        ((torch.bfloat16, torch.float32), "float32"),
        ((torch.float32, torch.bfloat16), "float32"),
        ((torch.float32, torch.float64), "float64"),
        ((torch.float8_e4m3fn, torch.float8_e4m3fn), "float32"),
    ],
)
def test_dtypes_widen_exactly(tmp_path, dtypes, expected):
    values = torch.tensor([0.1, -3.0, 7.3])
    tensors = [values.to(dtype) for dtype in dtypes]
    for step, tensor in enumerate(tensors):
        torch.save({"w": tensor}, tmp_path / f"{step}.pt")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    assert path.dtype == expected
    assert path[:].tolist() == [tensor.double().tolist() for tensor in tensors]


def test_tied_tensors_count_once(tmp_path):
    for step in (0, 1):
        shared = torch.full((4, 2), float(step))
        state = {"embed.weight": shared, "head.weight": shared, "other": torch.ones(3) * step}
        torch.save(state, tmp_path / f"{step}.pt")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    assert [entry.name for entry in path.layout.parameters] == ["other", "embed.weight"]
    assert path.metadata["imported"]["tied"] == {"head.weight": "embed.weight"}


def test_names_that_are_a_module_and_a_tensor(tmp_path):
    for step in (0, 1):
        state = {
            "a": torch.ones(2) * step,
            "a.b": torch.ones(3) * step,
            "b..c": torch.ones(1) * step,
        }
        torch.save(state, tmp_path / f"{step}.pt")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    assert {entry.name for entry in path.layout.parameters} == {"a", "a.b", "b..c"}


# -- what is no checkpoint ------------------------------------------------------------------------


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def test_no_code_of_a_file_is_run(tmp_path):
    torch.save({"w": torch.ones(3), "args": Evil(tmp_path / "ran")}, tmp_path / "1.pt")
    with pytest.raises(UnsupportedError, match=r"holds (io|_io).open, and not only tensors"):
        import_checkpoints(tmp_path / "1.pt", tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def test_no_code_of_a_distributed_checkpoint_is_run(trained, tmp_path):
    import pickle

    folder = saved(tmp_path / "saved", trained, distributed)
    for protocol in (2, 4):
        table = pickle.dumps([Evil(tmp_path / "ran"), "torch.Size"], protocol=protocol)
        (folder / "step_5" / ".metadata").write_bytes(table)
        with pytest.raises(UnsupportedError, match=r"would load (io|_io).open"):
            import_checkpoints(folder / "*", tmp_path / "run")
    (folder / "step_5" / ".metadata").write_bytes(b"(S'x'\np0\n0cos\nsystem\n.")
    with pytest.raises(UnsupportedError, match="no plain pickle"):
        import_checkpoints(folder / "*", tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def test_a_builtin_is_named_as_any_other_global(tmp_path):
    torch.save({"weight": torch.ones(2), "call": len}, tmp_path / "1.pt")
    with pytest.raises(UnsupportedError, match=r"holds len, and not only tensors"):
        import_checkpoints(tmp_path / "1.pt", tmp_path / "run")


def test_a_whole_model_is_named_with_what_to_do(tmp_path):
    torch.save(network(), tmp_path / "1.pt")
    with pytest.raises(UnsupportedError, match=r"holds torch.nn.\S*.Sequential.*state"):
        import_checkpoints(tmp_path / "1.pt", tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("1.pt", b"", "cannot be read as a checkpoint of torch"),
        ("1.pt", b"garbage" * 50, "cannot be read as a checkpoint of torch: [^\n]{,99}$"),
        ("1.pt", pickle.dumps({"a": 1}, protocol=4), r"checkpoint of torch: Unsupported.{,50}$"),
        ("1.safetensors", b"garbage" * 50, "cannot be read as safetensors"),
        ("model.safetensors.index.json", b"{", "is no index of a checkpoint"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../x.safetensors"}}', "outside"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, raw, says):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DamagedError, match=says):
        import_checkpoints(tmp_path / name, tmp_path / "run", steps=[1])
    assert not (tmp_path / "run").exists()


def test_a_cut_file_is_named(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, safe)
    file = folder / "step-5.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DamagedError, match=r"step-5.safetensors cannot be read"):
        import_checkpoints(folder, tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3}, "holds no state dict: .* a mapping with epoch"),
        ([1, 2], "a list"),
        ({"state": {}, "param_groups": []}, "holds no state dict"),
        ({"rng": {"cpu": torch.zeros(9, dtype=torch.uint8)}}, "holds no state dict"),
    ],
)
def test_files_without_a_state_dict_are_told(tmp_path, content, says):
    torch.save(content, tmp_path / "1.pt")
    with pytest.raises(UnsupportedError, match=says):
        import_checkpoints(tmp_path / "1.pt", tmp_path / "run")


def test_emptied_parameters_are_never_zeros(tmp_path):
    torch.save({"a.weight": torch.empty(0), "b": torch.ones(2)}, tmp_path / "1.pt")
    with pytest.raises(ModelError, match=r"a.weight in .* has no numbers, as where DeepSpeed"):
        import_checkpoints(tmp_path / "1.pt", tmp_path / "run")


def test_a_part_is_no_checkpoint(trained, tmp_path):
    folder = saved(tmp_path / "saved", trained, sharded("safetensors"))
    with pytest.raises(ArgumentError, match="is a part of one: give its folder"):
        import_checkpoints(
            folder / "checkpoint-5" / "model-00001-of-00002.safetensors", tmp_path / "run"
        )


# -- runs that begin later ------------------------------------------------------------------------


def test_a_run_may_begin_at_any_step(tmp_path):
    model = nn.Linear(2, 1)
    with Recorder(tmp_path / "run", model, step=500) as recorder:
        assert recorder.steps == 500
        with torch.no_grad():
            model.weight += 1
        recorder.record(0.5)
    path = Trajectory(tmp_path / "run")
    assert path.steps.tolist() == [500, 501]
    assert path.loss_steps.tolist() == [501]
    with Recorder(tmp_path / "run", model, existing="resume") as recorder:
        recorder.record(0.25)
    assert Trajectory(tmp_path / "run").steps.tolist() == [500, 501, 502]


# -- what a log says between two states -----------------------------------------------------------


def noted(directory, trained):
    """An imported run with losses, values and neither at steps between its states."""
    folder = saved(directory / "saved", trained, bare)
    (directory / "metrics.csv").write_text(TABLE)
    options = {"losses": directory / "metrics.csv", "loss_column": "train_loss"}
    import_checkpoints(folder / "*", directory / "run", **options)
    return directory / "run"


def told(run):
    path = Trajectory(run)
    values = {name: (s.tolist(), v.tolist()) for name, (s, v) in path.values.items()}
    logged = (path.loss_steps.tolist(), path.all_losses.tolist(), path.losses.tolist())
    return path.digest, str(logged), values, [path[i].tobytes() for i in range(len(path))]


def test_any_byte_of_one_copy_of_the_records_may_be_wrong(trained, tmp_path):
    run = noted(tmp_path, trained)
    expected = told(run)
    for name in ("records.bin", "records.copy.bin"):
        raw = (run / name).read_bytes()
        for place in range(0, len(raw), 7):
            wrong = bytearray(raw)
            wrong[place] ^= 1 << place % 8
            (run / name).write_bytes(wrong)
            assert told(run) == expected
        (run / name).write_bytes(raw)


def test_a_record_that_both_copies_lost_costs_no_state(trained, tmp_path):
    run = noted(tmp_path, trained)
    before, states = told(run), [row.tobytes() for row in Trajectory(run)[:]]
    size = len((run / "records.bin").read_bytes()) // 64
    copies = {name: (run / name).read_bytes() for name in ("records.bin", "records.copy.bin")}
    for slot in range(size):
        for name, raw in copies.items():
            (run / name).write_bytes(raw[: 64 * slot] + b"\xff" * 64 + raw[64 * slot + 64 :])
        if slot < size - 1:  # the last one says that the run was closed
            with pytest.raises(DamagedError):
                Trajectory(run)
            repair_trajectory(run)
        path = Trajectory(run)
        assert {row.tobytes() for row in path[:]} <= set(states)
        assert len(path) >= len(states) - 1
        assert set(path.all_losses[~np.isnan(path.all_losses)]) <= {2.5, 1.25, 0.75}
        for place in [*run.iterdir()]:
            if place.name.startswith("aside"):
                shutil.rmtree(place)
        for name, raw in copies.items():
            (run / name).write_bytes(raw)
    assert told(run) == before


def test_recording_goes_on_in_a_run_with_a_log(trained, tmp_path):
    run = noted(tmp_path, trained)
    model = network()
    Trajectory(run).load_into(model, -1, buffers=True)
    with Recorder(run, model, existing="resume") as recorder:
        with torch.no_grad():
            model.conv.bias += 1
        recorder.record(0.5)
    path = Trajectory(run)
    assert path.steps.tolist() == [*STEPS, 101]
    np.testing.assert_array_equal(path.all_losses, [2.5, 1.25, 0.75, np.nan, 0.5])


def test_checkpoints_in_the_folder_of_a_recorded_run(trained, tmp_path):
    folder = tmp_path / "run"
    with Recorder(folder, network()) as recorder:
        recorder.record(1.0)
    saved(folder, trained, nested)
    path = import_checkpoints(folder / "*", tmp_path / "imported")
    assert path.steps.tolist() == [*STEPS]
    assert import_checkpoints(folder / "*.pt", tmp_path / "other").digest == path.digest


def test_whole_numbers_beside_another_state_dict_are_not_dropped(tmp_path):
    for step in (1, 2):
        state = {
            "norm.weight": torch.ones(3) * step,
            "norm.num_batches_tracked": torch.tensor(step),
        }
        content = {**state, "step": torch.tensor(step), "epoch": 0}
        torch.save(content, tmp_path / f"{step}.pt")
    path = import_checkpoints(tmp_path / "*.pt", tmp_path / "run")
    assert path.side_kinds == {"norm.num_batches_tracked": "buffer"}
    assert [int(path.buffers(i)["norm.num_batches_tracked"]) for i in range(2)] == [1, 2]
