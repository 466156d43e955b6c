import json

import pytest

import losspath
from losspath.thesis import training
from losspath.thesis.config import TrainingConfig
from losspath.thesis.datasets import load_dataset

CONFIG = TrainingConfig("tiny-nn", "digits", "adam", batch_size=64)
SMALL = ("--resolution", "4", "--samples", "100")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    training.train(CONFIG, load_dataset("digits"), directory, 2)
    return directory


def test_a_figure_and_a_line_and_not_computed_again(call, run, tmp_path):
    asked = ("uncertainty", run, *SMALL, "--out", tmp_path)
    code, out, err = call(*asked)
    assert (code, err) == (0, "")
    assert "half of the 90% intervals: ×1." in out
    (figure,) = (tmp_path / "figures").glob("uncertainty-local-planes-samples-*.png")
    assert figure.stat().st_size > 10_000
    (kept,) = (tmp_path / "results").glob("uncertainty-samples-*.npz")
    found = losspath.Uncertainty.load(kept)
    assert found.loss.shape == (4, 4)
    assert found.provenance["parts"] == 100
    assert "by samples (already computed)" in " ".join(call(*asked)[1].split())
    call(*asked, "--level", "0.5")
    assert len(list((tmp_path / "results").glob("uncertainty-samples-*.npz"))) == 2
    # The surface beside it is the one that `surface` draws.
    assert "already computed" in call("surface", run, *SMALL, "--out", tmp_path)[1]


def test_numbers_as_json(call, run, tmp_path):
    asked = ("uncertainty", run, *SMALL, "--source", "off-plane", "--json", "--out", tmp_path)
    code, out, err = call(*asked)
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["unit"] == "factor"
    assert told["known"] == told["points"] == 16
    assert told["held_out"] > 10
    assert 1 < told["median_width"] <= told["largest_width"]
    assert not (tmp_path / "figures").exists()


def test_a_line_between_two_states(call, run, tmp_path):
    asked = ("uncertainty", run, "--line", "first,last", "--points", "4", "--out", tmp_path)
    code, out, err = call(*asked, "--figure", tmp_path / "line.pdf")
    assert (code, err) == (0, "")
    assert (tmp_path / "line.pdf").exists()
    assert "uncertainty of the line by samples" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--source", "prior"), "expected --source samples|"),
        (("--level", "1"), "--level between 0 and 1"),
        (("--source", "swag", "--draws", "3"), "19 draws or more"),
        (("--source", "dropout"), "a network with dropout"),
        (("--source", "off-plane", "--method", "pca"), "averages losses of several vectors"),
        (("--line", "first"), "expected --line as two states"),
        (("--method", "all"), "one --method"),
    ],
)
def test_what_makes_no_interval_is_refused(call, run, options, words):
    code, _, err = call("uncertainty", run, *SMALL, *options)
    assert code == 1
    assert words in " ".join(err.split())
