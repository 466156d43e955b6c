import subprocess
import sys

import numpy as np
import pytest
import torch

import losspath
from losspath import Recorder
from losspath.cli import main


@pytest.fixture
def fails(capsys):
    """Runs the command line, expects an error, and returns its one line."""

    def fails(*arguments, code=1):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        err = capsys.readouterr().err
        assert end.value.code == code
        lines = [line for line in err.splitlines() if not line.startswith("losspath: note:")]
        assert len(lines) == 1
        assert lines[0].startswith("losspath: error: ")
        return lines[0]

    return fails


def test_missing_data_say_which_files_go_where(fails, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    line = fails("train", "--data", "mnist", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert "train-images-idx3-ubyte" in line
    assert str(tmp_path) in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "--network", "lenet6"), "lenet5"),
        (("train", "--data", "minst"), "mnist"),
        (("train", "--data", "images:/no/such/dir"), "/no/such/dir"),
        (("train", "--lr", "-1"), "lr"),
        (("train", "--epochs", "-1"), "epochs"),
        (("train", "--batch-size", "0"), "batch_size"),
        (("train", "--dropout", "1.5"), "dropout"),
        (("train", "--device", "cuda"), "GPU"),
    ],
)
def test_unknown_names_and_bad_numbers_of_train(fails, tmp_path, arguments, says):
    if says == "GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert says in fails(*arguments, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--optimizer", "lion"),
        ("train", "--lr", "fast"),
        ("nothing",),
        ("surface",),
        ("info", "run", "--yaml"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(fails, arguments):
    assert "--help" in fails(*arguments, code=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--method", "average"), "sampled-pca"),
        (("--resolution", "1"), "at least 3"),
        (("--resolution", "2"), "expected --resolution of at least 3, got 2"),
        (("--samples", "0"), "sample"),
        (("--samples", "-5"), "sample"),
        (("--temperature", "hot"), "temperature"),
        (("--temperature", "0"), "temperature"),
        (("--temperature", "-1"), "temperature"),
        (("--temperature", "nan"), "temperature"),
        (("--method", "pca", "--temperature", "2"), "--temperature is not an option"),
        (
            ("--method", "pca", "--option", "power=2"),
            "--power is not an option of the method 'pca'",
        ),
        (("--method", "all", "--option", "kernel=2"), "it has distance, side, temperature"),
        (("--option", "temperature"), "expected --option NAME=VALUE, got 'temperature'"),
        (("--option", "=2"), "expected --option NAME=VALUE, got '=2'"),
        (("--option", "temperature=1", "--temperature", "2"), "temperature once, got it twice"),
        (("--method", "averaged", "--option", "temperature=hot"), "temperature"),
        (("--method", "averaged", "--option", "arc-length=maybe"), "arc_length"),
        (("--temperature", "1"), "mean, power, reach; give --method averaged|averaged-nd"),
        (("--method", "sampled-pca", "--side", "left"), "side"),
        (("--method", "sampled-pca", "--side", "above"), "side"),
        (("--states", "5"), "START:STOP"),
        (("--states", "a:b"), "START:STOP"),
        (("--states", "40:30"), "take some of the"),
        (("--states", "::-1"), "window"),
        (("--states", "0:3:0"), "stride"),
        (("--figure", "picture.gif"), "png"),
        (("--figure", "/proc/picture.png"), "cannot write into /proc"),
        (("--data-dir", "/no/such/place", "--objective", "none.py:f"), "none.py"),
    ],
)
def test_wrong_options_of_surface(fails, run, options, says):
    samples = () if "--objective" in options else ("--samples", "50")
    assert says in fails("surface", run, "--resolution", "3", *samples, *options)


@pytest.mark.parametrize("command", ["info", "surface", "interpolate", "steps", "repair"])
def test_no_run_where_one_is_expected(fails, command, tmp_path):
    assert "no such directory" in fails(command, tmp_path / "none")
    assert "no recorded trajectory" in fails(command, tmp_path)
    (tmp_path / "file").write_text("x")
    assert "no recorded trajectory" in fails(command, tmp_path / "file")


@pytest.mark.parametrize("command", ["info", "surface", "steps", "barriers"])
def test_a_directory_of_checkpoints_is_told_how_to_make_a_run_of_them(fails, command, tmp_path):
    folder = tmp_path / "out of it"
    for step in (5, 15, 100):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "model.safetensors").touch()
    line = fails(command, folder)
    assert "holds no recorded trajectory itself but 3 checkpoints, from checkpoint-5; " in line
    assert line.endswith(f"losspath import '{folder}/checkpoint-*' --out RUN")
    line = fails(command, folder / "checkpoint-5")
    assert "itself but is a checkpoint; " in line
    assert line.endswith(f"losspath import '{folder}/checkpoint-*' --out RUN")
    (folder / "last.pt").touch()
    assert fails(command, folder).endswith(f"losspath import '{folder}' --out RUN")


@pytest.mark.parametrize("command", ["info", "surface", "interpolate", "steps"])
def test_a_directory_of_runs_lists_them(fails, command, run):
    line = fails(command, run.parent)
    assert f"no recorded trajectory itself but a run; give one: {run}" in line
    other = run.parent / "another"
    record(other, [[0.0, 0.0], [1.0, 1.0]])
    assert fails(command, run.parent).endswith(f"but 2 runs; give one: {other}, {run}")


def test_a_file_where_the_run_should_go(fails, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "is a file" in fails("train", "--out", tmp_path / "file", "--epochs", "1")
    assert "directory" in fails("train", "--out", tmp_path / "file" / "run", "--epochs", "1")


def record(directory, states, losses=None):
    model = torch.nn.Linear(2, 1)
    with losspath.Recorder(directory, model) as recorder:
        for number, state in enumerate(states[1:]):
            with torch.no_grad():
                model.weight.copy_(torch.tensor([state]))
            recorder.record(losses[number] if losses else 1.0)


def test_a_path_of_one_state(fails, tmp_path):
    record(tmp_path / "run", [[0.0, 0.0]])
    (tmp_path / "o.py").write_text(OBJECTIVE)
    objective = ("--objective", f"{tmp_path / 'o.py'}:make")
    assert "one state" in fails("surface", tmp_path / "run", *objective)
    assert "one state" in fails("steps", tmp_path / "run")


OBJECTIVE = """
import torch, losspath

def make():
    x = torch.arange(20.0).reshape(10, 2) / 20
    loss = torch.nn.functional.mse_loss
    return losspath.Objective(torch.nn.Linear(2, 1), x, x.sum(1, keepdim=True), loss)
"""


def test_a_path_of_two_states_has_a_surface(tmp_path, capsys):
    record(tmp_path / "run", [[0.0, 0.0], [1.0, 1.0]])
    (tmp_path / "o.py").write_text(OBJECTIVE)
    for method in ("pca", "sampled", "sampled-pca", "averaged", "averaged-nd"):
        with pytest.raises(SystemExit) as end:
            main(
                [
                    *("surface", str(tmp_path / "run"), "--method", method, "--resolution", "4"),
                    *("--objective", f"{tmp_path / 'o.py'}:make"),
                ]
            )
        assert end.value.code == 0
    for file in (tmp_path / "run" / "results").glob("surface-*.npz"):
        surface = losspath.Surface.load(file)
        assert surface.explained_variance_ratio[0] == pytest.approx(1.0, abs=1e-12)
        assert surface.explained_variance_ratio[1] == 0.0
        assert np.isfinite(surface.loss).all()
        assert surface.y.ptp() if hasattr(surface.y, "ptp") else np.ptp(surface.y) > 0


def test_a_constant_path(fails, tmp_path):
    model = torch.nn.Linear(2, 1)
    with losspath.Recorder(tmp_path / "run", model) as recorder:
        for _ in range(3):
            recorder.record(0.0)
    (tmp_path / "o.py").write_text(OBJECTIVE)
    line = fails("surface", tmp_path / "run", "--objective", f"{tmp_path / 'o.py'}:make")
    assert "the same" in line
    assert "learning rate" in line


def test_nan_losses_are_kept_and_shown(tmp_path, capsys):
    record(tmp_path / "run", [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]], [float("nan"), 1.0])
    for command in ("steps", "info"):
        with pytest.raises(SystemExit) as end:
            main([command, str(tmp_path / "run")])
        assert end.value.code == 0
    assert "1 losses are not finite" in capsys.readouterr().out


def test_a_run_of_other_data(fails, run, tmp_path, monkeypatch):
    import losspath.thesis.datasets as datasets

    original = datasets.load_dataset

    def other(*arguments, **options):
        import dataclasses

        data = original(*arguments, **options)
        return dataclasses.replace(data, train_targets=data.train_targets.flip(0))

    monkeypatch.setattr(datasets, "load_dataset", other)
    assert "not those that" in fails("surface", run, "--samples", "10")


@pytest.mark.slow
def test_no_traceback_without_debug(run):
    command = [sys.executable, "-m", "losspath", "surface", str(run), "--resolution", "1"]
    plain = subprocess.run(command, capture_output=True, text=True)
    assert plain.returncode == 1
    assert "Traceback" not in plain.stderr
    debugged = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


def test_a_defect_of_ours_is_named_as_one(fails, run, monkeypatch):
    import losspath.cli.info

    monkeypatch.setattr(losspath.cli.info, "describe", lambda run: 1 / 0)
    line = fails("info", run)
    assert "ZeroDivisionError" in line
    assert "--debug" in line


@pytest.mark.slow
def test_a_read_only_directory(server, run, tmp_path):
    files = [run, *run.iterdir()]
    for path in files:
        path.chmod(0o555 if path.is_dir() else 0o444)
    tmp_path.chmod(0o555)
    try:
        before = {path: path.stat().st_mtime_ns for path in files}
        status, output = server.run("info", run, powerless=True)
        assert status == 0, output
        assert "47 states" in output
        small = ("--resolution", "3", "--samples", "50")
        for arguments in (
            ("surface", run, *small),
            ("interpolate", run, "--points", "3"),
            ("steps", run),
            ("train", "--network", "tiny-cnn", "--lr", "0.05", "--epochs", "3", "--out", run),
            ("train", "--network", "tiny-cnn", "--out", tmp_path / "new"),
            ("repair", run),
        ):
            status, output = server.run(*arguments, powerless=True)
            assert status == 1, output
            assert output.splitlines()[-1].startswith("losspath: error: cannot"), output
            assert "Permission denied" in output
            assert "Traceback" not in output
            if arguments[0] in ("surface", "interpolate", "steps"):
                assert output.splitlines()[-1].endswith("give another by --out DIR"), output
                assert "fitting" not in output
        for command in ("diagnose", "dynamics", "compare"):
            status, output = server.run(command, run, powerless=True)
            assert status == 1, output
            assert output.splitlines()[-1].endswith("give another by --out DIR"), output
        assert {path: path.stat().st_mtime_ns for path in files} == before
    finally:
        tmp_path.chmod(0o755)
        for path in files:
            path.chmod(0o755)


def test_a_place_for_results_that_cannot_be_one(fails, run, tmp_path):
    (tmp_path / "file").write_text("x")
    line = fails("steps", run, "--out", tmp_path / "file")
    assert f"cannot write into {tmp_path / 'file' / 'results'}" in line
    assert "choose another directory (--out DIR)" in line


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 3000, 20_000, 100_000])
def test_a_full_disk_while_training(server, tmp_path, limit):
    run = tmp_path / "run"
    arguments = ("train", "--network", "tiny-cnn", "--epochs", "4", "--out", run)
    status, output = server.run(*arguments, file_limit=limit)
    assert status == 1, output
    last = output.splitlines()[-1]
    assert last.startswith("losspath: error: ")
    # Where no file at all can be written, Python itself may be the first to say so.
    assert "File too large" in last or (limit == 0 and "temporary directory" in last)
    assert "Traceback" not in output
    status, output = server.run(*arguments)  # there is room again
    assert status == 0, output
    server.run(*arguments[:-1], tmp_path / "whole")
    assert (run / "states.bin").read_bytes() == (tmp_path / "whole" / "states.bin").read_bytes()
    assert losspath.Trajectory(run).digest == losspath.Trajectory(tmp_path / "whole").digest


@pytest.mark.slow
def test_a_full_disk_while_drawing(server, run):
    arguments = ("surface", run, "--resolution", "4", "--samples", "50")
    for limit in (0, 200, 2000, 15_000):
        status, output = server.run(*arguments, file_limit=limit)
        assert status == 1, output
        assert "File too large" in output.splitlines()[-1]
    status, output = server.run(*arguments)
    assert status == 0, output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("def f(:", "SyntaxError"),
        ("def f(): return 1 / 0", "ZeroDivisionError"),
        ("def f(): return 1", "to return a losspath.Objective"),
    ],
)
def test_a_mistake_in_the_users_own_file_is_told_as_such(fails, run, tmp_path, text, says):
    (tmp_path / "own.py").write_text(text)
    line = fails("surface", run, "--objective", f"{tmp_path / 'own.py'}:f")
    assert says in line
    assert "defect" not in line


def test_samples_do_not_go_with_an_objective_of_ones_own(fails, run, tmp_path):
    (tmp_path / "o.py").write_text(OBJECTIVE)
    objective = ("--objective", f"{tmp_path / 'o.py'}:make")
    assert "--samples" in fails("surface", run, *objective, "--samples", "5")


def test_no_command_at_all_shows_the_help(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert "Usage" in captured.out + captured.err
    assert "error" not in captured.err


def test_bins_are_refused_before_anything_is_computed(fails, run):
    assert "--bins" in fails("steps", run, "--bins", "0")
    assert not (run / "results").exists()


OWN = """
import torch, losspath
from torch.nn import functional as F

class Classes(torch.utils.data.Dataset):
    def __len__(self): return 10
    def __getitem__(self, index): raise KeyError("label")

def made(model=None, x=None, y=None, loss=F.mse_loss, **options):
    x = torch.arange(20.0).reshape(10, 2) / 20 if x is None else x
    y = x.sum(1, keepdim=True) if y is None else y
    return losspath.Objective(model or torch.nn.Linear(2, 1), x, y, loss, **options)
"""


@pytest.mark.parametrize(
    ("command", "text", "says"),
    [
        ("surface", "made(loss=torch.nn.MSELoss)", "the class MSELoss; make one"),
        ("surface", "made(y=torch.arange(10.0))", "squeeze(1)"),
        ("surface", "made(x=torch.zeros(10, 3))", "(tensors (10, 3) float32; targets (10,"),
        ("surface", "made(torch.nn.Linear(2, 1, device='meta'))", "to_empty"),
        ("surface", "made(batch_size=2.5)", "a whole number, at least 1, got 2.5"),
        ("surface", "made(torch.nn.Linear(3, 1), x=torch.zeros(10, 3))", "of the same network"),
        (
            "surface",
            "losspath.Objective.of_batches(torch.nn.Linear(2, 1), Classes(), F.mse_loss)",
            "KeyError: 'label'",
        ),
        ("dynamics", "made(loss=lambda out, to: F.mse_loss(out, to).item())", "without .item()"),
        ("dynamics", "made(loss=lambda out, to: F.mse_loss(out, to).detach())", "has no graph"),
    ],
)
def test_mistakes_in_an_objective_of_ones_own(fails, tmp_path, command, text, says):
    record(tmp_path / "run", [[0.0, 0.0], [1.0, 1.0], [2.0, 0.5]])
    (tmp_path / "o.py").write_text(f"{OWN}\ndef make(): return {text}\n")
    line = fails(command, tmp_path / "run", "--objective", f"{tmp_path / 'o.py'}:make")
    assert says in line
    assert "defect" not in line


def test_a_loss_that_fails_in_the_middle(fails, tmp_path):
    record(tmp_path / "run", [[0.0, 0.0], [1.0, 1.0], [2.0, 0.5]])
    (tmp_path / "o.py").write_text(
        f"{OWN}\ncalls = []\ndef loss(out, to):\n    calls.append(None)\n"
        "    if len(calls) > 150: raise IndexError('no such class')\n"
        "    return F.mse_loss(out, to)\ndef make(): return made(loss=loss)\n"
    )
    objective = ("--objective", f"{tmp_path / 'o.py'}:make")
    line = fails("surface", tmp_path / "run", "--resolution", "19", *objective)
    assert "IndexError: no such class" in line
    assert "expected what one step of the training loop computes" in line


def test_states_that_are_not_finite(fails, tmp_path):
    record(tmp_path / "run", [[0.0, 0.0], [1.0, 1.0], [float("nan"), 0.5]])
    (tmp_path / "o.py").write_text(OBJECTIVE)
    line = fails("surface", tmp_path / "run", "--objective", f"{tmp_path / 'o.py'}:make")
    assert "state 2" in line
    assert "--states :2" in line


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "training",
    ["resnet", ["a", "b"], {"lr": 0.1}, {"network": "mine", "data": "mine", "optimizer": "mine"}],
)
def test_metadata_of_ones_own_are_not_taken_for_those_of_train(training, tmp_path, call):
    model, directory = torch.nn.Linear(2, 1), tmp_path / "run"
    torch.manual_seed(0)
    with Recorder(directory, model, metadata={"training": training}) as recorder:
        for _ in range(6):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter))
            recorder.record(1.0)
    (directory / "history.json").write_text('{"loss": [1.0]}')
    code, out, _ = call("info", directory)
    assert code == 0
    assert '"training"' in out
    for command in ("steps", "compare"):
        assert call(command, directory)[0] == 0
    code, out, _ = call("repair", directory)
    assert (code, "nothing to repair" in out) == (0, True)
    assert (directory / "history.json").exists()
    code, _, error = call("surface", directory)
    assert code == 1
    assert "a training loop of your own" in error
