"""What is said where an optional dependency is missing, tried in processes that refuse it."""

import json
import subprocess
import sys

import pytest

from losspath.errors import MissingExtraError
from losspath.extras import extra

OF_THESIS = ["sklearn", "PIL", "pooch", "requests", "urllib3", "markdown_it"]
OPTIONAL = [*OF_THESIS, "captum", "torchinfo", "skimage", "distributed", "platformdirs"]
# matplotlib cannot do without Pillow, nor rich without markdown-it: they are there in truth.
NEVER_THERE = [name for name in OPTIONAL if name not in ("PIL", "markdown_it")]

REFUSING = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refused())
"""
COMMAND = "from losspath.cli import main\nmain({arguments!r})"
OBJECTIVE = """
import torch, losspath
def objective():
    torch.manual_seed(0)
    inputs = torch.randn(40, 2)
    targets = (inputs[:, 0] > 0).long()
    return losspath.Objective(torch.nn.Linear(2, 2), inputs, targets, torch.nn.CrossEntropyLoss())
"""


def without(refused, code, where):
    """Runs code in a process where some packages are not installed."""
    return subprocess.run(
        [sys.executable, "-c", REFUSING.format(refused=refused) + code],
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("arguments", "package", "name"),
    [
        (["train", "--epochs", "1"], "sklearn", "thesis"),
        (["demo"], "urllib3", "thesis"),
        (["study", "thesis", "--scale", "quick"], "markdown_it", "thesis"),
        (["surface", "RUN"], "pooch", "thesis"),
        (["diagnose", "RUN"], "torchinfo", "diagnose"),
        (["diagnose", "RUN", "--view", "saliency"], "captum", "diagnose"),
        (["surface", "RUN", "--scheduler", "tcp://127.0.0.1:1"], "distributed", "dask"),
    ],
)
def test_a_command_says_in_one_line_what_to_install(run, tmp_path, arguments, package, name):
    given = [str(run) if each == "RUN" else each for each in arguments]
    done = without([package], COMMAND.format(arguments=given), tmp_path)
    expected = f"this needs {package}, which is not installed: pip install 'losspath[{name}]'"
    assert done.stderr == f"losspath: error: {expected}\n"
    assert done.returncode == 1
    assert not (tmp_path / "runs").exists()


def test_comparing_surfaces_says_what_to_install(tmp_path):
    code = """
import numpy as np
from losspath.analysis.comparison import _similarity
_similarity(np.eye(9), np.ones((9, 9)))
"""
    done = without(["skimage"], code, tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "losspath.errors.MissingExtraError: this needs skimage, which is not installed: "
        "pip install 'losspath[compare]'"
    )


@pytest.mark.parametrize(
    ("module", "missing", "package"),
    [
        ("lightning", ["lightning", "pytorch_lightning"], "lightning"),
        ("transformers", ["transformers"], "transformers"),
    ],
)
def test_a_callback_says_what_to_install(tmp_path, module, missing, package):
    done = without(missing, f"import losspath.{module}", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"losspath.errors.MissingExtraError: this needs {package}, which is not installed: "
        f"pip install 'losspath[{module}]'"
    )


@pytest.mark.slow
def test_lightning_is_found_under_its_older_name(tmp_path):
    pytest.importorskip("pytorch_lightning")
    code = """
from losspath.lightning import RecorderCallback
print(RecorderCallback("run").state_key, *RecorderCallback.__bases__)
"""
    done = without(["lightning"], code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "RecorderCallback",
        "<class",
        "'pytorch_lightning.callbacks.callback.Callback'>",
    ]


@pytest.mark.slow
def test_the_core_does_its_work_with_no_extra_at_all(tmp_path):
    (tmp_path / "own.py").write_text(OBJECTIVE)
    code = """
import sys, json, torch, losspath
from losspath.cli import main

sys.path.insert(0, ".")
import own

objective = own.objective()
model = objective.model
with losspath.Recorder("run", model) as recorder:
    for _ in range(8):
        with torch.no_grad():
            for each in model.parameters():
                each += 0.1 * torch.randn_like(each)
        recorder.record(1.0)
common = ["run", "--objective", "own.py:objective"]
codes = []
for command in (
    ["--help"],
    ["info", "run"],
    ["surface", *common, "--resolution", "3", "--method", "all"],
    ["interpolate", *common, "--points", "3"],
    ["steps", "run"],
    ["compare", "run"],
    ["function-space", *common, "--count", "3"],
    ["dynamics", *common, "--states", "3"],
    ["diagnose", *common, "--view", "history", "--view", "confusion", "--view", "activations"],
    ["repair", "run"],
    ["migrate", "run"],
):
    try:
        main(command)
    except SystemExit as end:
        codes.append(end.code)
with open("done.json", "w") as file:
    loaded = {name for name in sys.modules if name.startswith("losspath.thesis")}
    json.dump([codes, sorted(loaded)], file)
"""
    done = without(NEVER_THERE, code, tmp_path)
    assert done.stderr == ""
    codes, loaded = json.loads((tmp_path / "done.json").read_text())
    assert codes == [0] * 11
    # The annex is asked whether it made the run, and for nothing else.
    assert not {"losspath.thesis.datasets", "losspath.thesis.cli", "losspath.thesis.study"} & {
        *loaded
    }
    assert len(list((tmp_path / "run" / "figures").glob("*.png"))) == 16


def test_a_run_of_train_is_told_of_without_the_extra(run, tmp_path):
    done = without(NEVER_THERE, COMMAND.format(arguments=["info", str(run)]), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"network":"tiny-cnn"' in done.stdout.replace(" ", "")
    assert "epoch   2; training loss" in done.stdout


def test_a_missing_package_is_an_import_error_of_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    told = "this needs captum, which is not installed: pip install 'losspath.diagnose.'"
    with pytest.raises(MissingExtraError, match=told) as caught, extra("diagnose"):
        import captum  # noqa: F401
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_defect_is_not_taken_for_a_missing_package():
    with pytest.raises(ModuleNotFoundError, match=r"losspath\.nothing"), extra("thesis"):
        import losspath.nothing  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"), extra("thesis"):
        from json import nothing  # noqa: F401
