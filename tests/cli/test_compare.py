import json
import shutil

import pytest

from losspath import Recorder
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import load_dataset
from losspath.thesis.training import train


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Two optimisers with two seeds each."""
    root = tmp_path_factory.mktemp("seeds")
    data = load_dataset("digits")
    for optimizer, lr in (("sgd", 0.05), ("adam", 0.01)):
        for seed in (0, 1):
            config = TrainingConfig("tiny-cnn", "digits", optimizer, lr, seed=seed)
            train(config, data, root / f"{optimizer}-{seed}", epochs=1)
    return sorted(root.iterdir())


def test_runs_that_differ_in_their_seeds_are_one_line(call, seeds, tmp_path):
    code, out, _ = call("compare", *seeds, "--out", tmp_path / "out")
    assert code == 0
    assert "SGD lr 0.05" in out
    assert "Adam lr 0.01" in out
    assert "±" in out
    (figure,) = (tmp_path / "out" / "figures").iterdir()
    assert figure.name.startswith("compare-")
    assert str(figure) in out


def test_json_is_all_that_is_printed(call, seeds, tmp_path):
    arguments = ("compare", *seeds, "--out", tmp_path / "out", "--json", "--by", "epoch")
    code, out, _ = call(*arguments)
    assert code == 0
    numbers = json.loads(out)
    assert list(numbers) == ["Adam lr 0.01", "SGD lr 0.05"]
    row = numbers["SGD lr 0.05"]
    assert row["seeds"] == [0, 1]
    assert row["steps"] == 23
    assert row["validation_accuracy"]["count"] == 2
    assert 0 < row["first_steps"]["mean"] < 1


def test_each_run_can_be_kept_apart(call, seeds, tmp_path):
    code, out, _ = call("compare", *seeds[:2], "--each", "--json", "--out", tmp_path / "out")
    assert code == 0
    assert list(json.loads(out)) == ["seed 0", "seed 1"]


def test_a_run_of_ones_own_is_named_after_its_directory(call, seeds, tmp_path):
    import torch

    model = torch.nn.Linear(2, 1)
    with Recorder(tmp_path / "mine", model) as recorder:
        for step in range(3):
            with torch.no_grad():
                model.weight += 0.1
            recorder.record(float(step))
    code, out, _ = call("compare", seeds[0], tmp_path / "mine", "--out", tmp_path / "out", "--json")
    assert code == 0
    assert list(json.loads(out))[1] == "mine"
    code, _, err = call("compare", tmp_path / "mine", "--by", "epoch", "--out", tmp_path / "out")
    assert code != 0
    assert "only be aligned by step" in err


def test_training_from_a_runs_steps(call, seeds, tmp_path):
    arguments = ("train", "--network", "tiny-cnn", "--lr", "0.05", "--epochs", "1")
    schedule = ("--lr-schedule", f"steps:{seeds[2]}", "--lr-form", "scaled")
    code, out, _ = call(*arguments, *schedule, "--out", tmp_path / "again")
    assert code == 0
    code, out, _ = call("compare", seeds[2], tmp_path / "again", "--json")
    assert code == 0
    scaled = "SGD lr scaled step sizes of sgd-0 to a mean of 0.05"
    assert list(json.loads(out)) == ["SGD lr 0.05", scaled]
    code, _, err = call(*arguments, "--lr-schedule", "cosine")
    assert code != 0
    assert "expected lr_schedule as constant" in err


def test_equal_names_are_told_apart_by_directory(call, seeds, tmp_path):
    train(
        TrainingConfig("tiny-cnn", "digits", "sgd", 0.05, record_every=2),
        load_dataset("digits"),
        tmp_path / "thin",
        epochs=1,
    )
    code, out, _ = call("compare", seeds[2], tmp_path / "thin", "--json", "--out", tmp_path / "out")
    assert code == 0
    names = list(json.loads(out))
    assert len(names) == 2
    assert all("(" in name for name in names)


def test_seeds_of_an_arm_are_one_line(call, seeds, tmp_path):
    sources = [seed for seed in seeds if seed.name.startswith("sgd")]
    for number, source in enumerate(sources):
        arguments = ("train", "--network", "tiny-cnn", "--epochs", 1, "--seed", number)
        schedule = ("--lr-schedule", f"steps:{source}", "--out", tmp_path / f"arm-{number}")
        assert call(*arguments, *schedule)[0] == 0
    arms = [tmp_path / "arm-0", tmp_path / "arm-1"]
    code, out, _ = call("compare", *sources, *arms, "--json", "--out", tmp_path / "out")
    assert code == 0
    numbers = json.loads(out)
    assert [row["seeds"] for row in numbers.values()] == [[0, 1], [0, 1]]
    assert len(numbers) == 2


def test_runs_without_words_that_tell_them_apart_have_their_own_directories(call, seeds, tmp_path):
    """Two seeds, and then two runs that differ in how often a state is kept alone."""
    thin = []
    for every in (2, 3):
        config = TrainingConfig("tiny-cnn", "digits", "sgd", 0.05, record_every=every)
        thin.append(tmp_path / f"every-{every}")
        train(config, load_dataset("digits"), thin[-1], epochs=1)
    code, out, _ = call("compare", *seeds[2:], *thin, "--json", "--out", tmp_path / "out")
    assert code == 0
    names = list(json.loads(out))
    for name, directory in zip(names, (seeds[2], *thin), strict=True):
        assert str(directory) in name


def test_the_numbers_can_be_read_on_a_narrow_screen(call, seeds, tmp_path):
    code, out, _ = call("compare", *seeds, "--out", tmp_path / "out")
    assert code == 0
    for words in ("validation accuracy", "training loss", "first steps"):
        assert out.count(words) == 2
    assert "…" not in out


def test_step_sizes_in_panels(call, seeds, tmp_path):
    config = TrainingConfig("tiny-nn", "digits", "sgd", 0.05)
    train(config, load_dataset("digits"), tmp_path / "other", epochs=1)
    arguments = ("compare", *seeds, tmp_path / "other", "--out", tmp_path / "out")
    code, out, _ = call(*arguments, "--panels")
    assert code == 0
    assert call(*arguments)[0] == 0
    assert len(list((tmp_path / "out" / "figures").iterdir())) == 2
    assert "TinyNN, SGD lr 0.05" in out
    code, _, err = call(*arguments, "--panels", "--by", "epoch")
    assert code != 0
    assert "--panels draws by step" in err


def test_arms_from_saved_step_sizes_are_one_line(call, seeds, tmp_path):
    arms = []
    for number, source in enumerate(seeds[2:]):
        assert call("steps", source)[0] == 0
        (sizes,) = (source / "results").glob("steps-*.npz")
        saved = tmp_path / str(number) / "sizes.npz"
        saved.parent.mkdir()
        saved.write_bytes(sizes.read_bytes())
        arms.append(tmp_path / f"arm-{number}")
        arguments = ("train", "--network", "tiny-cnn", "--epochs", 1, "--seed", number)
        assert call(*arguments, "--lr-schedule", f"steps:{saved}", "--out", arms[-1])[0] == 0
    code, out, _ = call("compare", *arms, "--json", "--out", tmp_path / "out")
    assert code == 0
    (row,) = json.loads(out).values()
    assert row["seeds"] == [0, 1]
    code, out, _ = call("compare", arms[0], "--json", "--out", tmp_path / "out")
    (row,) = json.loads(out).values()
    assert row["training_loss"]["deviation"] is None  # JSON has no NaN


def test_copies_and_longer_runs_are_no_seeds(call, seeds, tmp_path):
    copied = shutil.copytree(seeds[2], tmp_path / "copy")
    config = TrainingConfig("tiny-cnn", "digits", "sgd", 0.05, seed=0)
    train(config, load_dataset("digits"), tmp_path / "long", epochs=2)
    arguments = ("compare", *seeds[2:], copied, tmp_path / "long", "--out", tmp_path / "out")
    code, out, _ = call(*arguments, "--json")
    assert code == 0
    rows = list(json.loads(out).values())
    assert [row["seeds"] for row in rows] == [[0, 1], [0], [0]]
    assert [row["steps"] for row in rows] == [23, 23, 46]


def test_each_and_together_are_two_figures(call, seeds, tmp_path):
    for more in ((), ("--each",)):
        assert call("compare", *seeds, *more, "--out", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out" / "figures").iterdir())) == 2
