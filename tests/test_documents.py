"""What the documentation shows runs."""

import copy
import itertools
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import losspath
from test_h5_surfaces import as_the_script_writes, write_directions, write_projection

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


# How gloo's threads end now and then, a third of all times on a busy machine: also of programs that
# have no recorder, and where all groups were destroyed.
_ABORTED = "terminate called without an active exception"


def run_page(page, directory):
    """Writes a page's programs, and runs the first and its commands; what each printed."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    programs = re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL)
    for name, code in programs:
        (directory / name).write_text(code)
    commands = re.findall(r"```\n((?:losspath|torchrun) .*?)```", text, re.DOTALL)
    lines = [line.split() for block in commands for line in block.splitlines()]
    modules = {"losspath": "losspath", "torchrun": "torch.distributed.run"}
    lines = [["-m", modules[words[0]], *words[1:]] for words in lines]
    if lines[0][1] == "losspath":
        lines.insert(0, [programs[0][0]])
    printed = []
    for words in lines:
        found = [map(str, directory.glob(word)) if "*" in word else [word] for word in words]
        line = [*itertools.chain(*found)]  # as a shell does
        before = [*directory.glob("runs/*")]
        for _ in range(4):
            done = subprocess.run(
                [sys.executable, *line], cwd=directory, capture_output=True, text=True, check=False
            )
            if _ABORTED not in done.stderr:
                break
            for made in {*directory.glob("runs/*")} - {*before}:
                shutil.rmtree(made)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    return printed


def figures_of(run):
    return {figure.name.partition("-")[0] for figure in (run / "figures").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "needs", "states"),
    [
        ("lightning", "lightning", 172),
        ("trainer", "accelerate", 172),
        ("checkpoints", "torch", 21),
        ("own-loop", "torch", 201),
        ("processes", "torch", 172),
    ],
)
def test_the_tutorials_of_digits_run(page, needs, states, tmp_path):
    pytest.importorskip(needs)
    run_page(page, tmp_path)
    path = losspath.Trajectory(tmp_path / "runs" / "digits")
    assert (len(path), path.closed, path.notes) == (states, True, [])
    losses = path.all_losses
    assert losses[-57:].mean() < 0.4 * losses[:10].mean()
    if page == "processes":
        sharded = losspath.Trajectory(tmp_path / "runs" / "sharded")
        assert sharded.steps.tolist() == [*range(0, 171, 10), 171]
        assert (sharded.layout, sharded.closed) == (path.layout, True)
    else:
        assert figures_of(path.directory) >= {"surface"}


def run_program(words, directory):
    done = subprocess.run(
        [sys.executable, *words], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_first_tutorial_goes_on_in_python(tmp_path):
    run_page("own-loop", tmp_path)
    printed = run_program(["look.py"], tmp_path)
    off = int(re.search(r"by (\d+)% at most", printed)[1])
    assert 0 < off < 60
    assert (tmp_path / "surface.png").exists()


@pytest.mark.slow
def test_the_page_of_equations_and_games_is_right(tmp_path):
    printed = run_page("pinn", tmp_path)
    assert float(printed[0].split()[4]) < 0.02  # off the solution
    assert figures_of(tmp_path / "runs" / "poisson") == {"surface", "dynamics"}
    printed = run_program(["game.py"], tmp_path)
    recorded, last = (re.findall(r"\d+\.\d+", line) for line in printed.splitlines())
    assert recorded[0] != last[0]  # against the judge of the moment, and against the last
    assert recorded[-1] == last[-1]


@pytest.mark.slow
def test_the_page_of_comparisons_runs(tmp_path):
    run_page("comparing", tmp_path)
    assert figures_of(tmp_path / "runs" / "sgd-0") == {"surface", "barriers", "compare"}
    firsts = [losspath.Trajectory(run)[0].tobytes() for run in (tmp_path / "runs").iterdir()]
    assert len(firsts) == 6
    assert len(set(firsts)) == 1


@pytest.mark.slow
def test_the_page_of_adapters_runs(tmp_path):
    pytest.importorskip("peft")
    printed = run_page("lora", tmp_path)
    assert "1,536 parameters in the path, of 73,536 in all" in printed[0]
    path = losspath.Trajectory(tmp_path / "runs" / "lora")
    assert path.all_losses[-10:].mean() < path.all_losses[:10].mean() - 0.5
    (file,) = (path.directory / "results").glob("surface-*.npz")
    # The base that was trained is in it, as the states' losses are those that were recorded.
    surface = losspath.Surface.load(file)
    assert abs(surface.states.loss[0] - path.all_losses[0]) < 0.3


@pytest.fixture(scope="module")
def migrated():
    """What the page for users of other tools computes, with the loss by torch alone."""
    text = (ROOT / "docs" / "migration.md").read_text()
    code, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(code, names)

    def loss(vector):
        model = copy.deepcopy(names["model"])
        vector = torch.as_tensor(vector, dtype=torch.float32)
        torch.nn.utils.vector_to_parameters(vector, model.parameters())
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(model(names["x"]), names["y"]).item()

    return types.SimpleNamespace(**names, by_torch=loss)


def test_the_page_for_users_of_other_tools_has_their_lines_and_planes(migrated):
    start, one, two = migrated.states
    assert migrated.loss == pytest.approx(migrated.by_torch(start), rel=1e-5)
    way = [migrated.by_torch(start + share * (one - start)) for share in np.linspace(0, 1, 21)]
    np.testing.assert_allclose(migrated.line.loss[0], way, rtol=1e-5)
    along, across = one - start, two - start
    along = along / np.linalg.norm(along)
    across = across - along * (along @ across)
    across = across / np.linalg.norm(across)
    plane = migrated.plane
    for row, column in ((0, 3), (10, 7)):
        vector = start + plane.x[column] * along + plane.y[row] * across
        assert plane.loss[row, column] == pytest.approx(migrated.by_torch(vector), rel=1e-4)


def test_the_page_for_users_of_other_tools_has_the_scripts_random_plane(migrated):
    """One unit of the script's is as long as the weights: filter by filter, without biases."""
    vector = migrated.states[-1]
    is_weight = np.repeat([True, False, True, False], [16, 8, 16, 2])
    assert migrated.length == pytest.approx(np.linalg.norm(vector[is_weight]))
    directions = migrated.length * migrated.around.basis.T
    assert not directions[:, ~is_weight].any()
    filters = [slice(2 * unit, 2 * unit + 2) for unit in range(8)] + [slice(24, 32), slice(32, 40)]
    for each in filters:
        norms = np.linalg.norm(directions[:, each], axis=1)
        np.testing.assert_allclose(norms, np.linalg.norm(vector[each]), rtol=1e-5)
    for row, column in ((10, 10), (10, 20), (0, 13)):
        moved = vector + np.array([column - 10, row - 10]) / 10 @ directions
        wanted = migrated.by_torch(moved)
        assert migrated.random.loss[row, column] == pytest.approx(wanted, rel=1e-4)


def test_the_page_for_users_of_other_tools_loads_their_files(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "migration.md").read_text()
    _, code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    x, y = np.linspace(-1, 1, 5), np.linspace(-1, 1, 4)
    as_the_script_writes("surface.h5", x, y, lambda x, y: 9 + x + 2 * y, lambda x, y: 50)
    write_directions("directions.h5", [np.array([[1.0, 0.0]])], [np.array([[0.0, 1.0]])])
    write_projection("directions.h5_proj_cos.h5", [0.5, 0.0], [-0.5, 0.0])
    exec(code, {"losspath": losspath})
    assert losspath.Surface.load("surface.npz").path.tolist() == [[0.5, -0.5], [0, 0]]


def save_as_others(folder, form, content):
    folder.mkdir()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    for epoch in range(4):
        torch.save(content(epoch, model.state_dict()), folder / form.format(epoch))
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)


@pytest.mark.slow
def test_the_commands_for_users_of_other_tools_run(tmp_path):
    text = (ROOT / "docs" / "migration.md").read_text()
    tutorial = (ROOT / "docs" / "own-loop.md").read_text()
    for name, code in re.findall(r"```python\n# (\S+)\n(.*?)```", tutorial, re.DOTALL):
        (tmp_path / name).write_text(code)
    save_as_others(
        tmp_path / "trained",
        "model_{}.t7",
        lambda epoch, state: {"acc": 10.0, "epoch": epoch, "state_dict": state},
    )
    save_as_others(tmp_path / "DIR", "checkpoint_{:06}.pt", lambda epoch, state: state)
    patterns = re.findall(r"losspath import '(\S+)' --out RUN", text)
    assert len(patterns) == 2
    lines = [["import", each, "--out", f"run-{n}"] for n, each in enumerate(patterns)]
    planes = re.findall(r"--method pca --plane ([\w:,]+)", text)
    assert planes == ["random:filter", "states:A,B,C"]
    asked = ["run-0", "--objective", "objective.py:training_loss"]
    for plane in (*planes, "random:layer", "random:filter:7", "hessian"):
        plane = plane.replace("A,B,C", "0,1,last")
        options = ["--method", "pca", "--plane", plane, "--resolution", "3"]
        lines.append(["surface", *asked, *options])
    lines += [["interpolate", *asked], ["dynamics", *asked]]
    for line in lines:
        run_program(["-m", "losspath", *line], tmp_path)
    for run in ("run-0", "run-1"):
        assert losspath.Trajectory(tmp_path / run).steps.tolist() == [0, 1, 2, 3]


def test_every_public_name_is_in_the_reference_once():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    text = "\n".join(page.read_text() for page in pages)
    there = re.findall(r"\.\. auto(?:class|function|exception):: (\w+)$", text, re.MULTILINE)
    assert sorted(there) == sorted({*losspath.__all__} - {"__version__", "methods"})


def test_every_page_is_in_the_sites_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    listed = {line for line in index.splitlines() if re.fullmatch(r"[\w/-]+", line)}
    pages = {
        str(page.relative_to(ROOT / "docs").with_suffix(""))
        for page in (ROOT / "docs").rglob("*.md")
        if not {"runs", "results"} & {*page.relative_to(ROOT / "docs").parts[1:-1]}
    }
    assert listed == pages - {"index"}


def test_links_between_pages_work_in_the_repository():
    """Those of the site are the build's to find."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            target = page.parent / link.partition("#")[0]
            assert link.startswith("https:") or target.exists(), (page, link)


def test_the_page_of_large_models_runs(tmp_path):
    text = (ROOT / "docs" / "large.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(losspath.Trajectory(tmp_path / "runs" / "sketches")) == 101
    assert (tmp_path / "surface.png").exists()


def test_the_version_is_the_same_wherever_it_is_said():
    wanted = losspath.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == wanted
    changes = (ROOT / "CHANGELOG.md").read_text()
    # Above it may stand what is to come.
    assert re.search(r"^## \[(\d.*?)\]", changes, re.MULTILINE)[1] == wanted
