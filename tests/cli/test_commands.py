import json

import numpy as np
import pytest
import torch

import losspath
from losspath.cli.jobs import draw_interpolation
from losspath.cli.runs import Run

SMALL = ("--resolution", "5", "--samples", "100")


def result(run, kind):
    (file,) = (run / "results").glob(f"{kind}-{'?' * 12}.npz")
    return file


def figures(run):
    return sorted(file.name for file in (run / "figures").iterdir())


def test_train_names_the_run_after_its_parameters(call, tmp_path):
    arguments = ("train", "--network", "tiny-cnn", "--data", "digits", "--epochs", "1")
    code, out, _ = call(*arguments, "--momentum", "0.9", "--record-every", "5")
    assert code == 0
    (run,) = (tmp_path / "work" / "runs").iterdir()
    assert run.name == "tiny-cnn-digits-sgd-lr0.01-momentum0.9-batch64-seed0-every5"
    assert f"runs/{run.name}" in out
    assert losspath.Trajectory(run).steps.tolist() == [0, 5, 10, 15, 20, 23]


def test_train_twice_says_that_all_is_done(call, run):
    arguments = ("train", "--network", "tiny-cnn", "--lr", "0.05", "--out", run, "--epochs")
    code, out, _ = call(*arguments, "2")
    assert (code, "already trained" in out) == (0, True)
    code, out, _ = call(*arguments, "3")
    assert (code, "went on from step 46" in out) == (0, True)


def test_surface_computes_once_and_draws(call, run):
    code, out, _ = call("surface", run, "--method", "averaged", *SMALL)
    assert code == 0
    surface = losspath.Surface.load(result(run, "surface-averaged"))
    assert surface.loss.shape == (5, 5)
    assert surface.evaluated.all()
    assert surface.provenance["samples"] == 100
    assert surface.provenance["method"]["temperature"] != 1.0  # as the path has it
    assert figures(run) == [f"surface-averaged-5x5-100-{surface.provenance['key'][:8]}.png"]
    written = result(run, "surface-averaged").stat().st_mtime_ns
    code, out, _ = call("surface", run, "--method", "averaged", *SMALL)
    assert (code, "already computed" in out) == (0, True)
    assert result(run, "surface-averaged").stat().st_mtime_ns == written


def test_a_picture_without_what_is_faded_is_another_file(call, run):
    # Of one surface: nothing is computed for it.
    for options, drawn in (((), 1), (("--no-fade",), 2)):
        code, out, err = call("surface", run, "--method", "pca", *SMALL, *options)
        assert (code, err) == (0, "")
        assert len([name for name in figures(run) if name.startswith("surface-pca-5x5")]) == drawn
    assert "already computed" in out
    assert any(name.endswith("-not-faded.png") for name in figures(run))


@pytest.mark.slow
def test_changed_parameters_are_never_mixed_with_old_results(call, run):
    call("surface", run, "--method", "averaged", *SMALL)
    call("surface", run, "--method", "averaged", *SMALL, "--temperature", "0.1")
    call("surface", run, "--method", "averaged", *SMALL, "--temperature", "1")
    call("surface", run, "--method", "averaged", "--resolution", "5", "--samples", "101")
    call("surface", run, "--method", "averaged", "--resolution", "6", "--samples", "100")
    call("surface", run, "--method", "averaged", *SMALL, "--states", "0:30")
    call("surface", run, *SMALL, "--method", "averaged-as-printed")
    assert len(list((run / "results").glob("surface-averaged-*.npz"))) == 7
    assert len(figures(run)) == 7


@pytest.mark.slow
def test_surface_after_more_epochs_is_another_surface(call, run):
    call("surface", run, *SMALL)
    call("train", "--network", "tiny-cnn", "--lr", "0.05", "--out", run, "--epochs", "3")
    call("surface", run, *SMALL)
    assert len(list((run / "results").glob("surface-local-planes-*.npz"))) == 2


@pytest.mark.slow
def test_surface_of_all_methods(call, run):
    code, out, _ = call("surface", run, "--method", "all", *SMALL)
    assert code == 0
    for method in losspath.methods.METHODS:
        assert str(result(run, f"surface-{method}")) in out
    assert len(figures(run)) == 1 + len(losspath.methods.METHODS)
    code, out, _ = call("surface", run, "--method", "averaged-nd", *SMALL)
    assert "already computed" in out


def test_the_surface_is_that_of_the_library(call, run):
    from losspath.thesis.datasets import load_dataset, sample_indices
    from losspath.thesis.networks import build_network

    call("surface", run, "--method", "sampled", *SMALL)
    data = load_dataset("digits")
    chosen = sample_indices(100, len(data.train_targets))
    objective = losspath.Objective(
        build_network("tiny-cnn", 1, 10),
        data.train_inputs[chosen],
        data.train_targets[chosen],
        torch.nn.functional.cross_entropy,
    )
    expected = losspath.compute_surface(losspath.Trajectory(run), objective, "sampled", 5)
    np.testing.assert_array_equal(
        losspath.Surface.load(result(run, "surface-sampled")).loss, expected.loss
    )


def test_explain_says_how_points_were_evaluated(call, run, monkeypatch):
    from losspath.evaluation.execution import engine

    _, out, _ = call("surface", run, "--method", "averaged", *SMALL, "--explain")
    assert "): the plain loop, as there was little to do" in out
    monkeypatch.setattr(engine, "_SMALL", 0)
    _, out, _ = call("surface", run, *SMALL, "--method", "pca", "--explain")
    assert "pca: few points on a plane or line: batches of" in out
    assert "same input at every point: conv1.weight" in out
    _, out, _ = call("surface", run, *SMALL, "--method", "pca", "--explain")
    assert "already computed" in out
    assert "pca: few points on a plane or line: batches of" in out


def test_a_first_figure_comes_before_the_surface_is_complete(call, run, monkeypatch):
    from losspath.cli.pictures import Pictures

    drawn = []
    original = Pictures.draw

    def watched(pictures, surface):
        drawn.append((int(surface.evaluated.sum()), original(pictures, surface)))
        return drawn[-1][1]

    monkeypatch.setattr(Pictures, "draw", watched)
    code, out, _ = call("surface", run, "--samples", "100", "--resolution", "9", "--method", "pca")
    assert code == 0
    assert [count for count, _ in drawn] == [9, 81]
    assert drawn[0][1] == drawn[1][1]
    assert f"first figure, of 9 of 81 points: {drawn[0][1]}" in out


@pytest.mark.slow
def test_fewer_samples_than_asked_are_all_taken_and_said_so(call, run):
    code, out, _ = call("surface", run, "--resolution", "3", "--samples", "99999")
    assert code == 0
    assert "1,437" in out
    assert losspath.Surface.load(result(run, "surface-local-planes")).provenance["samples"] == 1437


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("extension", ["png", "pdf", "svg"])
def test_the_figure_goes_where_and_how_it_is_asked_for(call, run, tmp_path, extension):
    target = tmp_path / "deep" / f"mine.{extension}"
    assert call("surface", run, *SMALL, "--figure", target)[0] == 0
    start = target.read_bytes()[:5]
    assert start[:4] in (b"\x89PNG", b"%PDF", b"<?xm")
    assert not (run / "figures").exists()


@pytest.mark.slow
def test_results_can_go_elsewhere(call, run, tmp_path):
    before = sorted(run.iterdir())
    assert call("surface", run, *SMALL, "--out", tmp_path / "else")[0] == 0
    assert call("interpolate", run, "--points", "3", "--out", tmp_path / "else")[0] == 0
    assert call("steps", run, "--out", tmp_path / "else")[0] == 0
    assert len(list((tmp_path / "else" / "figures").iterdir())) == 3
    assert sorted(run.iterdir()) == before


def test_interpolation_equals_the_recorded_validation_at_its_ends(call, run):
    assert call("interpolate", run)[0] == 0
    curves = losspath.Interpolation.load(result(run, "interpolation"))
    history = json.loads((run / "history.json").read_text())["history"]
    at = {alpha: column for column, alpha in enumerate(curves.alpha.tolist())}
    assert len(at) == 13
    for alpha, row in ((0.0, history[0]), (1.0, history[-1])):
        assert curves.loss[0, at[alpha]] == row["validation_loss"]
        assert curves.accuracy[0, at[alpha]] == row["validation_accuracy"]
    assert curves.names == ("whole model", "conv1", "conv2", "conv3", "fc")
    assert "already computed" in call("interpolate", run)[1]


def test_interpolation_between_chosen_states(call, run):
    assert call("interpolate", run, "--from", "10", "--to", "-2", "--points", "3")[0] == 0
    curves = losspath.Interpolation.load(result(run, "interpolation"))
    assert (curves.provenance["from"], curves.provenance["to"]) == (10, 45)
    for wrong in ("47", "-48", "middle"):
        code, _, err = call("interpolate", run, "--to", wrong)
        assert code == 1
        assert "from 0 to 46" in err


def test_a_negative_share_is_explained(capsys, run, tmp_path):
    alpha, loss = np.array([0.0, 1.0]), np.array([[3.0, 1.0], [0.5, 1.0], [1.5, 1.0]])
    names = ("whole model", "one", "two")
    for first, says in ((0.5, "(negative: the loss is lower with that layer put back)"), (2.0, "")):
        loss[1, 0] = first
        line = losspath.Interpolation(alpha, names, loss, None, {"key": "k" * 8})
        draw_interpolation(Run(run), line, tmp_path / "line.png", "png")
        out = capsys.readouterr().out
        assert f"two 25.0% {says}".strip() in out
        assert ("(negative" in out) == bool(says)


def test_a_line_between_one_state_and_itself_is_refused(call, run):
    status, _, err = call("interpolate", run, "--from", "last", "--to", "-1")
    assert status == 1
    assert "expected two states" in err
    assert not (run / "results").exists()


def test_steps_of_one_run_and_of_several(call, run, tmp_path):
    other = tmp_path / "other"
    call("train", "--network", "tiny-nn", "--epochs", "1", "--out", other)
    assert call("steps", run)[0] == 0
    code, out, _ = call("steps", run, other, "--figure", tmp_path / "both.pdf")
    assert code == 0
    assert str(tmp_path / "both.pdf") in out
    sizes = losspath.StepSizes.load(result(run, "steps")).sizes
    states = losspath.Trajectory(run)[:].astype(float)
    np.testing.assert_allclose(
        sizes, np.linalg.norm(np.diff(states, axis=0), axis=1), rtol=1e-5, atol=1e-8
    )


def test_info_for_people_and_for_programs(call, run):
    call("surface", run, *SMALL)
    code, out, _ = call("info", run, "--json")
    description = json.loads(out)
    assert code == 0
    assert (description["states"], description["parameters"]) == (47, 328)
    assert description["closed"]
    assert description["history"][-1]["epoch"] == 2
    assert len(description["results"]) == 3
    plane = losspath.fit_plane(losspath.Trajectory(run))
    assert description["plane"]["random_walk"] == plane.random_walk.to_json()
    share = sum(description["plane"]["explained_variance_ratio"])
    assert share == pytest.approx(plane.path.explained_variance_ratio.sum())
    code, out, _ = call("info", run)
    assert code == 0
    for part in (
        f"the principal plane has {plane.random_walk.describe(share)}",
        "47 states of 328 parameters",
        "46 steps",
        "MB; closed",
        "conv1.weight",
        "epoch   2",
    ):
        assert part in out


def test_info_shows_a_run_that_was_cut_off(call, run):
    with (run / "states.bin").open("ab") as file:
        file.write(b"torn")
    assert "4 bytes of an unfinished write" in call("info", run)[1]


OBJECTIVE = """
import torch, losspath

def make():
    model = torch.nn.Linear(3, 1)
    x = torch.arange(30.0).reshape(10, 3) / 30
    return losspath.Objective(model, x, x.sum(1, keepdim=True), torch.nn.functional.mse_loss)
"""


@pytest.fixture
def own_run(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with losspath.Recorder(tmp_path / "own", model) as recorder:
        for _ in range(20):
            loss = (model(torch.rand(4, 3)) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)
    return tmp_path / "own"


def test_a_run_of_ones_own_loop(call, own_run, tmp_path):
    code, _, err = call("surface", own_run)
    assert code == 1
    assert "--objective" in err
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    source = f"{tmp_path / 'mine.py'}:make"
    assert call("surface", own_run, "--resolution", "4", "--objective", source)[0] == 0
    assert call("interpolate", own_run, "--points", "3", "--objective", source)[0] == 0
    assert call("steps", own_run)[0] == 0
    assert call("info", own_run)[0] == 0


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("mine.py", "FILE.py:FUNCTION"),
        ("none.py:make", "no file"),
        ("mine.py:nothing", "no function"),
        ("mine.py:losspath", "no function"),
    ],
)
def test_a_wrong_objective_is_one_clear_line(call, own_run, tmp_path, source, says):
    (tmp_path / "work" / "mine.py").write_text(OBJECTIVE)
    code, _, err = call("surface", own_run, "--objective", source)
    assert code == 1
    assert says in err


def test_the_objective_of_another_network_is_refused(call, run, tmp_path):
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    code, _, err = call("surface", run, "--objective", f"{tmp_path / 'mine.py'}:make")
    assert code == 1
    assert "not of the same network" in err


def test_states_before_a_divergence_can_be_drawn(call, tmp_path):
    run = tmp_path / "diverged"
    arguments = ("train", "--network", "tiny-nn", "--lr", "1e38", "--epochs", "1", "--out", run)
    code, out, _ = call(*arguments)
    assert (code, "nan" in out) == (0, True)
    code, _, err = call("surface", run, *SMALL)
    assert code == 1
    assert "--states :" in err
    stop = err.rpartition("--states :")[2].split()[0]
    if int(stop) > 1:
        assert call("surface", run, *SMALL, "--states", f":{stop}")[0] in (0, 1)
    assert call("steps", run)[0] == 0
    assert call("interpolate", run, "--points", "3", "--to", "1")[0] == 0
    code, out, _ = call("info", run)
    assert code == 0
    assert "not finite" in out
    assert "training loss nan" in out
    code, out, _ = call("info", run, "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail)["history"][-1]["training_loss"] == "nan"


def test_info_tells_what_is_beside_the_states(call, tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)
    )
    model[0].requires_grad_(False)
    with losspath.Recorder(tmp_path / "run", model) as recorder:
        recorder.record(torch.tensor(1 / 3))
    code, out, _ = call("info", tmp_path / "run")
    assert code == 0
    assert "beside the states: 2 frozen tensors, 3 buffers" in out
    assert "batch loss 0.333333 at step 1, 0.333333 at step 1" in out
    with losspath.Recorder(tmp_path / "plain", torch.nn.Linear(2, 1)):
        pass
    assert "beside the states" not in call("info", tmp_path / "plain")[1]


@pytest.mark.parametrize(
    "command", ["demo", "train", "info", "surface", "interpolate", "steps", "repair"]
)
def test_help_of_every_command_has_an_example(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert f"losspath {command}" in out
    assert "Example" in out


def test_info_after_recording_over_a_trained_run_says_nothing_of_the_old_one(call, run):
    with losspath.Recorder(run, torch.nn.Linear(2, 1), existing="overwrite") as recorder:
        recorder.record(1.0)
    code, out, _ = call("info", run)
    assert (code, "2 states of 3 parameters" in out, "epoch" in out) == (0, True, False)


@pytest.mark.slow
def test_the_distance_map_beside_the_surfaces_is_of_their_rule(call, run, monkeypatch):
    from losspath.cli import pictures

    rules = []
    original = pictures.distance_map

    def seen(plane, **options):
        rules.append(options["method"])
        return original(plane, **options)

    monkeypatch.setattr(pictures, "distance_map", seen)
    assert call("surface", run, *SMALL, "--method", "all", "--side", "hull")[0] == 0
    assert rules == [losspath.methods.SampledPCA(side="hull")]


def test_folders_of_images_are_found_from_anywhere(call, tmp_path, monkeypatch):
    from PIL import Image

    for number in range(8):
        folder = tmp_path / "work" / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 30 * number).save(folder / f"{number}.png")
    train = ("train", "--network", "tiny-nn", "--data", "images:images", "--epochs", "1")
    assert call(*train, "--out", "run")[0] == 0
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    code, _, err = call("surface", "../work/run", "--resolution", "3")
    assert code == 0, err


def test_a_run_goes_on_only_on_the_device_that_it_was_begun_on(call, run):
    from losspath.files import read_document, write_document

    header = read_document(run / "trajectory.json")
    header["metadata"]["device"] = "cuda"
    write_document(run / "trajectory.json", header)
    code, _, err = call(
        "train",
        "--network",
        "tiny-cnn",
        "--lr",
        "0.05",
        "--epochs",
        "3",
        "--device",
        "cpu",
        "--out",
        run,
    )
    assert code == 1
    assert "--device cuda" in err


def test_the_version_is_said(call):
    code, out, _ = call("--version")
    assert code == 0
    assert out.strip() == f"losspath {losspath.__version__}"
