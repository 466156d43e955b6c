"""The table of measurements, and judges that are given a table made by hand."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from losspath.thesis.study import methods, surfaces, techniques, training
from losspath.thesis.study.judgments import (
    DRAWN,
    FAILS,
    HOLDS,
    IN_PART,
    NOT_JUDGED,
    REPAIRED,
)
from losspath.thesis.study.plan import Plan, full_scale, quick_scale
from losspath.thesis.study.result_files import ResultFiles
from losspath.thesis.study.run import SECTIONS, measure_sections
from losspath.thesis.study.table import Measurement, Table

PUBLISHED = Path(__file__).parents[3] / "docs" / "study"
FULL = Plan(full_scale(cifar10="images:cifar10-jpeg.zip"))


@pytest.fixture(scope="module")
def published():
    return measure_sections(SECTIONS, FULL, ResultFiles(PUBLISHED, {}))


@pytest.mark.slow
def test_the_published_table_has_what_result_files_have(published):
    for run in (*FULL.runs(), FULL.run("vgg", FULL.scale.first, "adam", True)):
        file = PUBLISHED / "results" / run.name / "history.json"
        last = json.loads(file.read_text())["history"][-1]
        (accuracy,) = published.of([run], "final validation accuracy")
        (loss,) = published.of([run], "final training loss")
        assert accuracy == pytest.approx(last["validation_accuracy"])
        assert loss == pytest.approx(last["training_loss"])
    run = FULL.run(optimizer="adam")
    file = PUBLISHED / "results" / run.name / "explained.json"
    shares = json.loads(file.read_text())["explained_variance_ratio"]
    assert published.of([run], "explained variance") == pytest.approx([sum(shares)])


def test_known_rows_of_the_published_table(published):
    assert [*published.values("parameters", network="lenet5")] == [61_706] * 3
    assert [*published.values("parameters")] == [1_830] * 3
    assert [*published.values("optimizer steps")] == [12_194] * 3
    assert [*published.values("local extremes", "averaged")] == [1, 1, 1]
    lengths = published.values("length of the path", setting="stride 100")
    assert np.mean(lengths / published.values("length of the path")) == pytest.approx(
        0.05, abs=0.01
    )
    off = published.values("off the states' losses", "pca-as-drawn")
    assert np.mean(off) == pytest.approx(1.38, abs=0.005)
    assert published.settings("reads as", optimizer="adam") == ["smooth", "smooth", "unclear"]
    with pytest.raises(KeyError):
        published.values("height of the author")


def test_every_number_is_there_once(published):
    keys = [row.key for row in published.rows]
    assert len(set(keys)) == len(keys)


def test_the_file_says_what_the_table_says(published):
    text = (PUBLISHED / "measurements.csv").read_text()
    assert text == published.csv()
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == len(published.rows)
    values = {tuple(row.values())[:-1]: float(row["value"]) for row in read}
    for row in published.rows:
        named = tuple(f"{v:.9g}" if isinstance(v, float) else str(v) for v in row.key)
        np.testing.assert_allclose(values[named], row.value, rtol=1e-8)


def table_of(plan, *numbers):
    """A table of (run, quantity, values by seed, and what else a measurement has)."""
    rows = [
        Measurement.of(run, quantity, value, *labels)
        for options, quantity, values, *labels in numbers
        for run, value in zip(plan.runs(**options), values, strict=True)
    ]
    return Table(plan, rows)


def judgment_of(section, subject, table):
    (judge,) = (judge for judge in section.judges if judge.subject == subject)
    return judge(table)


def pca(sgd, adam, drawn=(1.0, 1.0, 1.0)):
    off = "off the states' losses"
    return table_of(
        FULL,
        ({}, off, sgd, "pca"),
        ({"optimizer": "adam"}, off, adam, "pca"),
        ({}, off, drawn, "pca-as-drawn"),
        ({"optimizer": "adam"}, off, drawn, "pca-as-drawn"),
    )


@pytest.mark.parametrize(
    ("sgd", "adam", "verdict"),
    [
        ([0.3, 0.4, 0.5], [0.3, 0.3, 0.3], HOLDS),
        ([0.1, 0.1, 0.1], [0.3, 0.3, 0.3], IN_PART),
        ([0.1, 0.3, 0.1], [0.3, 0.3, 0.3], IN_PART),
        ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1], FAILS),
        ([0.1, 0.3, 0.1], [0.1, 0.3, 0.1], NOT_JUDGED),
    ],
)
def test_a_table_decides_a_verdict(sgd, adam, verdict):
    judgment = judgment_of(methods.METHODS, "pca", pca(sgd, adam))
    assert judgment.verdicts == {DRAWN: HOLDS, REPAIRED: verdict}


@pytest.mark.parametrize(("bump", "found"), [(2.0, True), (1.0, None)])
def test_larger_networks_have_larger_bumps_where_there_are_bumps(bump, found):
    plan = Plan(quick_scale())
    sizes = {"tiny-cnn": 300, "modified-lenet": 1_000, "tiny-nn": 650}
    rows = []
    for place, (network, count) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        rows.append(({"network": network}, "parameters", [count] * 2))
        rows.append(({"network": network}, "bump", [1 + (bump - 1) * place / 2 + 0.001] * 2))
    judgment = judgment_of(techniques.NETWORKS, "SGD's bump", table_of(plan, *rows))
    assert judgment.checks[0].found is found
    assert "TinyCNN (300)" in judgment.checks[0].what


@pytest.mark.parametrize(("shares", "verdict"), [([0.1] * 3, HOLDS), ([0.95] * 3, IN_PART)])
def test_a_sampled_path_is_judged_by_likeness_and_length(shares, verdict):
    stride, surface = "stride 100", ("averaged", "stride 100")
    table = table_of(
        FULL,
        ({}, "similarity to all states", [0.99] * 3, *surface),
        ({}, "median difference from all states", [0.01] * 3, *surface),
        ({}, "length of the path", [1.0] * 3),
        ({}, "length of the path", shares, "", stride),
    )
    assert judgment_of(surfaces.SIZES, "sampled path", table).verdict == verdict


def test_a_claim_of_the_full_scale_is_not_judged_on_a_small_one():
    plan = Plan(quick_scale())
    rows = [
        ({"network": network}, quantity, [value] * 2)
        for network, count in (("lenet5", 60_000), ("modified-lenet", 2_000))
        for quantity, value in (("final validation accuracy", 0.98), ("parameters", count))
    ]
    judgment = judgment_of(training.ACCURACY, "accuracy", table_of(plan, *rows))
    assert [check.found for check in judgment.checks] == [None, None, True]


def test_a_judge_without_its_measurements_says_so():
    with pytest.raises(KeyError, match="bump"):
        judgment_of(techniques.BY_TECHNIQUE, "SGD's steps", Table(FULL, []))
