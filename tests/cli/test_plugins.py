"""Commands and makers of runs that other packages bring, by entry points alone."""

import importlib
import json

import pytest
import torch

import losspath
from losspath.errors import LosspathWarning
from losspath.makers import Kind, MadeRun, made_by

MODULE = '''"""Say a word of another package."""

import typer

print("a plug-in is imported")


def greet(name: str = "you") -> None:
    """Greet whoever is named.

    More of it.
    """
    print(f"good day, {name}")


app = typer.Typer(epilog="An epilogue.")


@app.command(epilog="Example: losspath wave 3")
def _wave(times: int) -> None:
    print("wave " * times)


number = 7
'''
MAKER = """
import torch
from losspath import Objective
from losspath.makers import MadeRun

class OwnRun(MadeRun):
    title = "a run of another package"
    seed = 5

    def training_objective(self, samples=None):
        torch.manual_seed(0)
        inputs = torch.randn(12, 2)[:samples]
        return Objective(torch.nn.Linear(2, 1), inputs, inputs[:, :1], torch.nn.functional.mse_loss)

def open_run(directory, metadata, data_dir):
    return OwnRun(directory, metadata, data_dir) if metadata.get("by") == "another" else None
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package with a module and entry points, as pip would; gives its folder."""

    def install(module, text, **groups):
        place = tmp_path / f"site-{module}"
        info = place / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (place / f"{module}.py").write_text(text)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = []
        for group, entries in groups.items():
            lines += [f"[losspath.{group}]", *entries]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(place)
        importlib.invalidate_caches()
        return place

    return install


@pytest.fixture
def run(tmp_path):
    """A run that a loop with metadata of its own recorded."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    with losspath.Recorder(tmp_path / "own", model, metadata={"by": "another"}) as recorder:
        for _ in range(6):
            with torch.no_grad():
                for each in model.parameters():
                    each += torch.randn_like(each)
            recorder.record(1.0)
    return tmp_path / "own"


def test_help_lists_commands_of_other_packages_and_imports_none(call, package):
    entries = [
        "greet = words:greet",
        "wave = words:app",
        "gone = losspath_without_such_a_package.at.all:app",
    ]
    package("words", MODULE, commands=entries)
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    told = [" ".join(line.strip("│ ").split()) for line in out.splitlines()]
    assert "greet Greet whoever is named." in told
    assert "wave Say a word of another package." in told
    assert "gone" in told
    assert any(line.startswith("train Train a reference network and record its") for line in told)
    assert "imported" not in out


def test_a_function_or_an_app_of_another_package_is_a_command(call, package):
    package("words", MODULE, commands=["greet = words:greet", "wave = words:app"])
    assert call("greet", "--name", "all") == (0, "a plug-in is imported\ngood day, all\n", "")
    assert call("wave", "2") == (0, "wave wave \n", "")
    code, out, _ = call("wave", "--help")
    assert code == 0
    assert "losspath wave" in out
    assert "Example: losspath wave 3" in out
    code, _, err = call("wave", "often")
    assert code == 2
    assert err.startswith("losspath: error: ")
    assert "see losspath wave --help" in err


def test_a_command_cannot_stand_in_for_one_of_the_core(call, package, run):
    package("words", MODULE, commands=["info = words:greet"])
    code, out, _ = call("info", run)
    assert code == 0
    assert "7 states of 3 parameters" in out


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("words:number", "TypeError: expected a typer.Typer or a function, got int"),
        ("words:nothing", "AttributeError: module 'words' has no attribute 'nothing'"),
        (
            "losspath_without_such_a_package:app",
            "ModuleNotFoundError: No module named 'losspath_without_such_a_package'",
        ),
    ],
)
def test_a_command_that_cannot_be_loaded_is_told_in_one_line(call, package, value, reason):
    package("words", MODULE, commands=[f"odd = {value}"])
    code, _, err = call("odd")
    assert code == 1
    assert err == (
        f"losspath: error: the command 'odd' of the package words ({value}) cannot be loaded: "
        f"{reason}; mend or uninstall that package\n"
    )


def test_a_mistyped_name_is_answered_with_one_of_another_package(call, package):
    package("words", MODULE, commands=["greet = words:greet"])
    code, _, err = call("gret")
    assert code == 2
    assert "Did you mean 'greet'?" in err


def test_commands_take_what_a_run_needs_from_its_maker(call, package, run):
    package("maker_of_runs", MAKER, makers=["another = maker_of_runs:open_run"])
    code, out, err = call("surface", run, "--method", "pca", "--resolution", "3", "--samples", "20")
    assert code == 0
    assert "error" not in err
    assert "the training set has 12 samples, fewer than 20: all are used" in out
    (file,) = (run / "results").glob("surface-*.npz")
    assert losspath.Surface.load(file).provenance["run"] == "a run of another package"
    code, out, _ = call("compare", run, run.with_name("own"), "--json")
    assert (code, json.loads(out)["own"]["seeds"]) == (0, [5])


def test_a_run_without_a_maker_needs_an_objective(call, run):
    code, _, err = call("surface", run)
    assert code == 1
    assert "recorded by a training loop of your own" in err
    assert "--objective FILE.py:FUNCTION" in err


def test_a_maker_that_cannot_be_loaded_is_told_and_spoils_no_other_run(package, run, trained_run):
    package("broken", "1 / 0", makers=["a-broken-one = broken:open_run"])
    for directory, title in ((run, "own"), (trained_run, "TinyCNN on digits, SGD lr 0.05")):
        metadata = losspath.Trajectory(directory).metadata
        with pytest.warns(LosspathWarning, match=r"'a-broken-one' .* ZeroDivisionError"):
            assert made_by(directory, metadata).title == title


def test_what_is_known_of_a_run_of_ones_own_loop(run):
    made = made_by(run, {"by": "nobody"})
    assert type(made) is MadeRun
    assert (made.title, made.parts, made.seed, made.kind) == ("own", ("own",), None, None)
    assert (made.config, made.rate, made.class_names, made.history()) == (None, None, None, [])
    assert list(made.broken_files()) == []
    for objective in (made.training_objective, made.validation_objective):
        with pytest.raises(losspath.errors.RunError, match="pass --objective"):
            objective()


def test_what_is_known_of_a_run_of_train(trained_run):
    metadata = losspath.Trajectory(trained_run).metadata
    assert "losspath" not in json.dumps(metadata)  # so that modules may be moved
    made = made_by(trained_run, metadata)
    assert made.title == "TinyCNN on digits, SGD lr 0.05"
    assert made.parts == ("TinyCNN", "digits", "SGD lr 0.05")
    assert (made.seed, made.rate) == (0, 0.05)
    assert made.config["network"] == "tiny-cnn"
    assert [row["epoch"] for row in made.history()] == [0, 1, 2]
    assert made.class_names == tuple("0123456789")
    assert isinstance(made.kind, Kind)
    assert (len(made.training_objective(100)), len(made.training_objective())) == (100, 1437)
    assert len(made.validation_objective()) == 360
    named = made.named(losspath.step_sizes(losspath.Trajectory(trained_run)))
    assert (named.provenance["run"], named.provenance["seed"]) == (
        "tiny-cnn-digits-sgd-lr0.05-batch64-seed0",
        0,
    )
