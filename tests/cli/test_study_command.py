"""The study from the command line."""

import json

import pytest


@pytest.mark.slow
def test_one_part_of_the_study(call, tmp_path):
    arguments = ("study", "thesis", "--scale", "quick", "--only", "layers", "--out", tmp_path)
    code, out, _ = call(*arguments)
    assert code == 0
    assert f"figure: {tmp_path / 'figures' / 'layers.png'}" in out
    assert f"page: {tmp_path / 'README.md'}" in out
    assert (tmp_path / "index.html").exists()
    page = (tmp_path / "README.md").read_text()
    assert "hold no claims" in page
    assert "verdict" not in page


def test_wrong_parts_are_refused_before_anything_is_made(call, tmp_path):
    code, _, err = call("study", "thesis", "--only", "7.1", "--out", tmp_path / "study")
    assert code != 0
    assert "expected --only" in err
    assert "6.10" in err
    assert not (tmp_path / "study").exists()
    code, _, err = call("study", "thesis", "--scale", "quick", "--data-dir", tmp_path)
    assert code != 0
    assert "--data-dir and --cifar10 go with --scale full" in err


def test_data_that_are_not_there_are_told_before_anything_is_trained(call, tmp_path):
    arguments = ("study", "thesis", "--out", tmp_path / "study", "--only", "6.9")
    missing = f"images:{tmp_path / 'nothing'}"
    (tmp_path / "data").mkdir()
    code, _, err = call(*arguments, "--cifar10", missing, "--data-dir", tmp_path / "data")
    assert code != 0
    assert "losspath: error:" in err
    assert not (tmp_path / "study" / "runs").exists()


@pytest.mark.slow
def test_progress_is_told_in_lines_where_there_is_no_terminal(call, tmp_path):
    arguments = ("study", "thesis", "--scale", "quick", "--only", "layers", "--out", tmp_path)
    code, _, err = call(*arguments)
    assert code == 0
    assert "0%, training Modified-LeNet on digits" in err


@pytest.mark.slow
def test_two_processes_make_the_same_study(call, tmp_path):
    arguments = ("study", "thesis", "--scale", "quick", "--only", "networks", "--out", tmp_path)
    code, out, _ = call(*arguments, "--processes", "2")
    assert code == 0
    claims = json.loads((tmp_path / "claims.json").read_text())
    assert claims[0]["subject"] == "accuracy"
    assert "accuracy" in out
    code, again, _ = call(*arguments)
    assert (code, again) == (0, out)


@pytest.mark.slow
def test_the_whole_study_on_a_small_scale(call, tmp_path):
    code, out, _ = call("study", "thesis", "--scale", "quick", "--out", tmp_path)
    assert code == 0
    assert out.count("figure: ") == len(list((tmp_path / "figures").iterdir())) > 15
    claims = json.loads((tmp_path / "claims.json").read_text())
    assert len(claims) > 10
    for claim in claims:
        assert f": {claim['subject']}: {claim['claim']}" in out
