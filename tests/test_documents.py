"""What the documentation shows runs."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import losspath

ROOT = Path(__file__).parents[1]


def test_the_programs_of_the_readme_run(tmp_path, monkeypatch):
    code, resuming = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    inputs, targets = torch.randn(40, 2), torch.randint(2, (40,))
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.5),
        "loader": list(zip(inputs.split(8), targets.split(8), strict=True)),
        "loss_fn": torch.nn.CrossEntropyLoss(),
        "inputs": inputs,
        "targets": targets,
    }
    exec(code, names)
    assert (tmp_path / "surface.png").stat().st_size > 10_000
    assert names["surface"].loss.shape == (19, 19)

    def train(model, optimizer, recorder):
        for x, y in names["loader"]:
            loss = names["loss_fn"](model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.record(loss)

    torch.save(names["optimizer"].state_dict(), "optimizer.pt")
    torch.nn.init.zeros_(model[0].weight)  # a process that begins anew
    exec(resuming, {**names, "torch": torch, "train": train})
    assert len(losspath.Trajectory("runs/mine")) == 11


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "needs", "states"),
    [("lightning", "lightning", 172), ("trainer", "accelerate", 172), ("checkpoints", "torch", 21)],
)
def test_the_tutorials_run(page, needs, states, tmp_path):
    pytest.importorskip(needs)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    for name, code in re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(code)
    (commands,) = re.findall(r"```\n(losspath .*?)```", text, re.DOTALL)
    lines = [["train_digits.py"]]
    lines += [["-m", *line.split()] for line in commands.splitlines()]
    assert len(lines) >= 3
    for words in lines:
        found = [map(str, tmp_path.glob(word)) if "*" in word else [word] for word in words]
        line = [*itertools.chain(*found)]  # as a shell does
        done = subprocess.run(
            [sys.executable, *line], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    path = losspath.Trajectory(tmp_path / "runs" / "digits")
    assert (len(path), path.closed, path.notes) == (states, True, [])
    losses = path.all_losses
    assert losses[-57:].mean() < 0.4 * losses[:10].mean()
    figures = {figure.name.partition("-")[0] for figure in (path.directory / "figures").iterdir()}
    assert figures >= {"surface"}, figures


@pytest.mark.slow
@pytest.mark.parametrize("program", [["own_model.py"], ["distances.py", "1"]], ids=" ".join)
def test_the_examples_run(program, tmp_path):
    example = ROOT / "examples" / program[0]
    done = subprocess.run(
        [sys.executable, example, *program[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1]).stat().st_size > 10_000


def test_the_page_of_large_models_runs(tmp_path):
    text = (ROOT / "docs" / "large.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(losspath.Trajectory(tmp_path / "runs" / "sketches")) == 101
    assert (tmp_path / "surface.png").exists()
