"""Surfaces within a budget."""

import functools
import itertools
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losspath
from cases import descent, problem, short_training, small_network
from losspath import Objective, compute_surface, refine_surface
from losspath.errors import ArgumentError
from losspath.evaluation.subsets import disjoint_parts, reason_to_keep_all, subset
from losspath.surface import Budget, budget, stage
from losspath.surface.landscape import Landscape
from losspath.surface.shares import Shares

DESCENT = problem("descent", descent(12, 6))
SAMPLES = 3000


PATH, OBJECTIVE, PARTS = short_training(SAMPLES, 40)
LINES = 41


@functools.cache
def full_surface():
    return compute_surface(PATH, OBJECTIVE, "pca", LINES, fidelity=False)


@pytest.mark.parametrize(
    ("value", "seconds", "points"),
    [
        ("5s", 5.0, None),
        ("0.5 s", 0.5, None),
        (200, None, 200.0),
        ("1e3", None, 1000.0),
        ("2epochs", 6.0, None),
        ("1epoch", 3.0, None),
        ("auto", None, None),
    ],
)
def test_a_budget_is_read(value, seconds, points):
    found = Budget.of(value, epoch_seconds=3.0)
    assert (found.seconds, found.points) == (seconds, points)
    assert Budget.of(found) is found


@pytest.mark.parametrize(
    "value", ["", "5m", "-3", "0s", 0, "s", True, None, float("nan"), [3], 5.0, "2.5", "1e400"]
)
def test_what_is_no_budget_is_refused(value):
    with pytest.raises(ArgumentError, match="expected a budget"):
        Budget.of(value)


def test_epochs_of_a_path_that_knows_of_none_are_refused():
    with pytest.raises(ArgumentError, match="give seconds"):
        compute_surface(PATH, OBJECTIVE, budget="1epoch")


def test_until_nothing_is_seen_it_is_the_full_surface_for_a_part_of_its_cost():
    found = compute_surface(PATH, OBJECTIVE, "pca", LINES, budget="auto", fidelity=False)
    full = full_surface()
    reached = found.provenance["budget"]
    shares = Shares.of(full)
    apart = np.abs(np.minimum(shares(found.loss), 1) - np.minimum(shares(full.loss), 1))
    assert np.quantile(apart, 0.95) < 0.05
    assert apart.max() < 0.1
    assert found.is_filled
    assert found.is_whole
    assert np.isfinite(found.loss).all()
    assert 81 <= found.evaluated.sum() < 0.4 * found.evaluated.size
    assert reached["evaluated"] == found.evaluated.sum()
    assert reached["predicted_error"] <= 0.01
    assert reached["standard_error"] <= 0.02
    assert reached["cost"] < 0.4 * full.loss.size
    difference = losspath.compare_surfaces(found, full, resolution=LINES)
    assert difference.ssim > 0.99


def test_all_of_a_budget_that_is_large_enough_gives_the_full_surface():
    found = compute_surface(PATH, OBJECTIVE, "pca", 11, budget=10_000)
    full = compute_surface(PATH, OBJECTIVE, "pca", 11)
    assert found.evaluated.all()
    assert found.provenance["samples"] == SAMPLES
    np.testing.assert_allclose(found.loss, full.loss, rtol=1e-5)
    np.testing.assert_allclose(found.states.loss, full.states.loss, rtol=1e-5)
    assert found.provenance["budget"]["standard_error"] == 0


def test_what_was_evaluated_is_what_the_plain_loop_gives_over_the_same_samples():
    found = compute_surface(PATH, OBJECTIVE, "averaged", budget=30, fidelity=False)
    count = found.provenance["samples"]
    landscape = Landscape(PATH, subset(OBJECTIVE, count), "averaged")
    rows, columns = np.nonzero(found.evaluated)
    points = np.stack([found.x[columns], found.y[rows]], axis=1)
    expected = [each.loss for each in landscape.evaluate(points)]
    np.testing.assert_allclose(found.loss[rows, columns], expected, rtol=1e-5)


@pytest.mark.parametrize("points", [10, 40, 150])
def test_no_more_is_evaluated_than_the_budget_allows(points):
    found = compute_surface(PATH, OBJECTIVE, "pca", budget=points, fidelity=False)
    reached = found.provenance["budget"]
    assert reached["cost"] <= points
    assert found.provenance["samples"] == SAMPLES or points < 100
    again = compute_surface(PATH, OBJECTIVE, "pca", budget=points, fidelity=False)
    np.testing.assert_array_equal(again.loss, found.loss)
    np.testing.assert_array_equal(again.evaluated, found.evaluated)


def test_more_of_a_budget_is_a_better_picture():
    errors = []
    for points in (3, 30, 500):
        found = compute_surface(PATH, OBJECTIVE, "pca", LINES, budget=points, fidelity=False)
        errors.append(losspath.compare_surfaces(found, full_surface()).high_error)
    assert errors[-1] < 0.5 * errors[1] < 0.5 * errors[0]


def test_a_budget_that_is_too_small_gives_the_coarsest_picture_and_says_so():
    found = compute_surface(PATH, OBJECTIVE, "pca", budget=1)
    assert found.evaluated.sum() == 9
    assert np.isfinite(found.loss).all()
    assert "too small" in found.provenance["budget"]["notes"][-1]
    figure = losspath.plot_surface(found)
    assert "too small" in "".join(text.get_text() for text in figure.findobj(plt.Text))


def ticking(monkeypatch, seconds):
    """A clock that goes on at each look."""
    ticks = itertools.count()
    clock = types.SimpleNamespace(monotonic=lambda: seconds * next(ticks))
    monkeypatch.setattr(budget, "time", clock)
    monkeypatch.setattr(stage, "time", clock)


@pytest.mark.parametrize("seconds", [0.5, 3, 30, 3000])
def test_within_any_time_the_picture_is_whole(monkeypatch, seconds):
    ticking(monkeypatch, 0.1)
    surfaces = list(refine_surface(PATH, OBJECTIVE, "pca", 31, budget=f"{seconds}s"))
    for surface in surfaces:
        assert np.isfinite(surface.loss).all()
        assert surface.evaluated.sum() >= 9
        assert np.isfinite(surface.at(surface.path)).all()
    assert surfaces[-1].fidelity is not None
    if seconds == 0.5:
        assert surfaces[-1].evaluated.sum() == 9
        assert "which took more" in surfaces[-1].provenance["budget"]["notes"][-1]
    if seconds == 3000:
        assert surfaces[-1].evaluated.sum() > 300
        assert surfaces[-1].provenance["samples"] == SAMPLES


def test_a_stage_that_time_runs_out_of_is_as_if_it_had_not_begun(monkeypatch):
    whole = Budget("forever", seconds=1e9)
    out_of_time = []
    began = stage.Stage.__init__

    def init(self, run, samples, first):
        began(self, run, samples, first)
        if samples > 512:  # time is over as more samples have begun
            out_of_time.append(samples)
            object.__setattr__(run._budget, "seconds", 1e-9)

    monkeypatch.setattr(stage.Stage, "__init__", init)
    monkeypatch.setattr(stage, "_PIECE", 4)
    found = compute_surface(PATH, OBJECTIVE, "pca", budget=whole, fidelity=False)
    assert out_of_time
    assert found.provenance["samples"] == 512
    assert np.isfinite(found.loss).all()


@pytest.mark.parametrize("method", ["averaged", "local-planes"])
def test_a_stopped_one_goes_on_and_is_the_same(tmp_path, method):
    options = {"method": method, "resolution": 31, "budget": 60}
    whole = compute_surface(PATH, OBJECTIVE, **options)
    assert bool(whole.provenance["budget"]["corrected"]) == (method == "local-planes")
    checkpoint = tmp_path / "points"
    surfaces = refine_surface(PATH, OBJECTIVE, checkpoint=checkpoint, **options)
    next(surfaces)
    surfaces.close()
    size = checkpoint.stat().st_size
    again = compute_surface(PATH, OBJECTIVE, checkpoint=checkpoint, **options)
    assert checkpoint.stat().st_size > size
    np.testing.assert_array_equal(again.loss, whole.loss)
    np.testing.assert_array_equal(again.evaluated, whole.evaluated)
    assert again.fidelity == whole.fidelity
    # And once more, of what is there alone.
    size = checkpoint.stat().st_size
    once_more = compute_surface(PATH, OBJECTIVE, checkpoint=checkpoint, **options)
    np.testing.assert_array_equal(once_more.loss, whole.loss)
    assert checkpoint.stat().st_size == size
    with pytest.raises(losspath.errors.StoreError):
        compute_surface(PATH, OBJECTIVE, checkpoint=checkpoint, **(options | {"budget": 61}))


def test_it_is_saved_read_and_drawn_as_any_other(tmp_path):
    found = compute_surface(PATH, OBJECTIVE, "local-planes", 21, budget=40)
    found.save(tmp_path / "surface.npz")
    again = losspath.Surface.load(tmp_path / "surface.npz")
    assert again.is_filled
    np.testing.assert_array_equal(again.evaluated, found.evaluated)
    np.testing.assert_array_equal(again.at(found.path), found.at(found.path))
    assert again.provenance["budget"] == found.provenance["budget"]
    assert again.fidelity == found.fidelity
    figure = losspath.plot_surface(again)
    words = " ".join("".join(t.get_text() for t in figure.findobj(plt.Text)).split())
    for each in (f"of {SAMPLES:,} samples", "the others interpolated", "Budget 40 points"):
        assert each in words
    losspath.plot_surface(again, height="accuracy")
    losspath.plot_surfaces([again, compute_surface(PATH, OBJECTIVE, "pca", 21, budget=20)])


@pytest.mark.parametrize("scale", [0.0, 1.0, np.inf, np.nan])
def test_points_that_others_foretell_exactly_do_not_keep_it(scale):
    # All of a picture is known before the budget is spent, though no point ever was in doubt.
    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(3, 1), torch.randn(SAMPLES, 3), torch.randn(SAMPLES, 1)
    objective = Objective(model, x, y, lambda out, y: (out - y).square().mean() * scale)
    path = np.random.default_rng(0).normal(size=(20, 4)).cumsum(axis=0)
    found = compute_surface(path, objective, "pca", 9, budget=500, fidelity=False)
    assert found.is_whole
    assert found.provenance["samples"] == SAMPLES  # as there was room for all
    assert found.provenance["budget"]["cost"] < 500


def test_losses_that_are_not_finite_or_negative_are_borne():
    def holes(outputs, targets):
        loss = F.cross_entropy(outputs, targets)
        return torch.where(loss > 1.0, torch.full_like(loss, float("nan")), loss - 0.7)

    model, x, y = PARTS
    objective = Objective(model, x, y, holes, check=False)
    found = compute_surface(PATH, objective, "pca", 31, budget="auto")
    full = compute_surface(PATH, objective, "pca", 31)
    assert 0.05 < np.isnan(full.loss).mean() < 0.95
    assert (np.isfinite(found.loss) != np.isfinite(full.loss)).mean() < 0.05
    assert (full.loss < 0).any()


def test_samples_that_cannot_be_taken_apart_are_all_taken():
    found = compute_surface(DESCENT.path, DESCENT.objective(), "pca", budget="auto")
    assert found.provenance["samples"] == 3
    assert "fewer than 64" in found.provenance["budget"]["notes"][0]
    model, x, y = PARTS
    one = Objective.of_batches(model, [(x, y)], lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    assert "batches" in reason_to_keep_all(one)
    again = Objective(model, x, y, F.cross_entropy, buffers="recalibrated")
    assert "statistics" in reason_to_keep_all(again)
    assert not reason_to_keep_all(OBJECTIVE)


def test_a_subset_is_of_the_same_samples_and_more():
    small, large = subset(OBJECTIVE, 100), subset(OBJECTIVE, 200)
    assert len(small) == 100
    assert len(large) == 200
    torch.testing.assert_close(small.data.inputs, large.data.inputs[:100])
    assert small.samples_digest != large.samples_digest != OBJECTIVE.samples_digest
    assert subset(OBJECTIVE, SAMPLES) is OBJECTIVE
    x, y = OBJECTIVE.data.inputs, OBJECTIVE.data.targets
    rows = {tuple(row) for row in torch.cat([x, y[:, None].float()], 1).tolist()}
    pairs = torch.cat([small.data.inputs, small.data.targets[:, None].float()], 1)
    assert {tuple(row) for row in pairs.tolist()} <= rows


def test_batches_are_taken_whole():
    model, x, y = PARTS
    batches = [(x[at : at + 100], y[at : at + 100]) for at in range(0, SAMPLES, 100)]
    objective = Objective.of_batches(model, batches, lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    some = subset(objective, 450)
    assert len(some) == 500
    assert len(disjoint_parts(some, 16)) == 5
    found = compute_surface(PATH, objective, "pca", 21, budget="auto", fidelity=False)
    full = compute_surface(PATH, OBJECTIVE, "pca", 21, fidelity=False)
    assert found.provenance["samples"] % 100 == 0
    assert losspath.compare_surfaces(found, full).ssim > 0.98


def test_standard_errors_are_those_of_many_draws():
    landscape = Landscape(PATH, OBJECTIVE, "pca")
    full = landscape.surface(9, fidelity=False)
    points = np.stack(np.meshgrid(full.x[::4], full.y[::4]), -1).reshape(-1, 2)
    shares = Shares.of(full)
    own = landscape.over(500).standard_errors(points, shares, SAMPLES)
    _, x, y = PARTS
    vectors = [torch.from_numpy(v).float() for _, _, v in landscape.vectors(points)]
    losses = []
    for vector in vectors:
        given = torch.nn.utils.vector_to_parameters
        clone = small_network()
        given(vector, clone.parameters())
        with torch.no_grad():
            losses.append(F.cross_entropy(clone(x), y, reduction="none").double().numpy())
    generator = np.random.default_rng(0)
    drawn = np.array(
        [
            [shares(each[generator.permutation(SAMPLES)[:500]].mean()) for each in losses]
            for _ in range(400)
        ]
    )
    expected = np.minimum(drawn, 1.0).std(axis=0)
    ratios = own[expected > 1e-6] / expected[expected > 1e-6]
    assert np.abs(np.log(ratios)).mean() < 0.35  # of 16 parts each is known to a fifth or so
    assert 0.7 < ratios.mean() < 1.4


def test_workers_find_the_same():
    from concurrent.futures import ThreadPoolExecutor

    here = compute_surface(PATH, OBJECTIVE, "averaged", 21, budget=30)
    with ThreadPoolExecutor(1) as executor:
        there = compute_surface(PATH, OBJECTIVE, "averaged", 21, budget=30, executor=executor)
    np.testing.assert_array_equal(there.evaluated, here.evaluated)
    np.testing.assert_allclose(there.loss, here.loss, rtol=1e-5)
    assert there.provenance["evaluation"][0] == "by workers"


def test_a_long_path_is_taken_a_part_of_where_time_is_short(monkeypatch):
    monkeypatch.setattr(budget, "_NUMBERS", len(PATH[0]) * 20 / 3)
    monkeypatch.setattr(budget, "_LEAST_STATES", 5)
    path = losspath.JointPath({"one": PATH, "other": PATH[:10]})
    found = Budget.of("3s").states_of(path)
    assert 19 <= len(found) <= 22
    np.testing.assert_array_equal(found.read(0, 1)[0], PATH[0])
    first = found.starts["other"]
    np.testing.assert_array_equal(found.read(first - 1, first)[0], PATH[-1])
    np.testing.assert_array_equal(found.read(first, first + 1)[0], PATH[0])
    np.testing.assert_array_equal(found.read(len(found) - 1, len(found))[0], PATH[9])
    assert Budget.of(100).states_of(path) is path
    ticking(monkeypatch, 0.01)
    assert len(compute_surface(path, OBJECTIVE, budget="3s").path) == len(found)
