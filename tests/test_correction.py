"""Losses over a part of the samples, corrected by states over more."""

import types

import numpy as np
import pytest
import torch.nn.functional as F

import losspath
from cases import short_training, small_network
from losspath.evaluation.execution.engine import Engine
from losspath.evaluation.subsets import subset
from losspath.figures.captions import describe_budget
from losspath.surface import budget, stage
from losspath.surface.budgeted import BudgetedSurface
from losspath.surface.correction import Correction, samples_for
from losspath.surface.landscape import Landscape
from losspath.surface.shares import Shares
from losspath.surface.surface import StateLosses, Surface

NUMBERS = 512, 8192, 60_000


def bowl(places):
    return 0.05 + np.square(places).sum(axis=-1)


def surface_of(loss_at, states=9, **values):
    """A picture of a path that runs down a bowl, whose states' losses are those of a function."""
    path = np.stack([np.linspace(1.0, 0.0, 41), np.linspace(0.8, 0.1, 41) ** 2], axis=1)
    x, y = np.linspace(-0.3, 1.2, 21), np.linspace(-0.2, 0.9, 19)
    points = np.stack(np.meshgrid(x, y), axis=-1)
    index = np.linspace(0, 40, states).round().astype(int)
    known = StateLosses(index, loss_at(path[index]))
    loss = loss_at(points)
    evaluated = np.ones(loss.shape, bool)
    return Surface(x, y, loss, None, evaluated, path, np.array([0.7, 0.3]), known, {}, **values)


def apart(one, other):
    return float(np.sqrt(np.mean(np.square(np.log(one) - np.log(other)))))


def test_what_all_states_are_off_by_all_points_are_off_by():
    few = surface_of(lambda p: 0.8 * bowl(p))
    many = surface_of(bowl)
    correction = Correction.of(few, few.states, many.states, NUMBERS)
    found = correction.applied(few, to_states=True)
    np.testing.assert_allclose(found.loss, many.loss, rtol=1e-6)
    np.testing.assert_allclose(found.states.loss, many.states.loss, rtol=1e-6)
    # What is left is that the larger number of samples is off too.
    rest = (1 / 8192 - 1 / 60_000) / (1 / 512 - 1 / 8192)
    off = np.log(1 / 0.8) / Shares.of(few).span
    assert correction.standard_error == pytest.approx(np.sqrt(rest) * off, rel=1e-6)
    assert correction.to_json() == {"states": 9, "samples": 8192, "quantities": ["loss"]}


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_correction_that_differs_from_place_to_place_is_told_to_a_third(scale):
    def fewer(places):  # the lower it is, the more is left out, and to the right more still
        places = places / scale
        return bowl(places) * np.exp(-0.3 * np.exp(-bowl(places)) - 0.1 * places[..., 0])

    def stretched(loss_at):
        made = surface_of(lambda p: loss_at(p * scale))
        sizes = {name: getattr(made, name) * scale for name in ("x", "y", "path")}
        return losspath.Surface(**{**vars(made), **sizes})

    few, many = stretched(fewer), stretched(lambda p: bowl(p / scale))
    correction = Correction.of(few, few.states, many.states, NUMBERS)
    found = correction.applied(few, to_states=True)
    assert apart(found.loss, many.loss) < 0.35 * apart(few.loss, many.loss)
    assert apart(found.states.loss, many.states.loss) < 0.1 * apart(
        few.states.loss, many.states.loss
    )
    plain = surface_of(lambda p: fewer(p * scale))
    expected = Correction.of(plain, plain.states, many.states, NUMBERS).applied(
        plain, to_states=True
    )
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)


def test_states_that_do_not_tell_of_each_other_say_how_far_off_they_are_and_correct_nothing():
    few = surface_of(bowl)
    noise = 0.3 * np.array([1, -1, 1, -1, 1, -1, 1, -1, 1])
    index, loss = few.states.index, few.states.loss
    own = StateLosses(index, loss, np.full(9, 0.9))
    few = with_values(few, own, np.full((19, 21), 0.7))
    many = StateLosses(index, loss * np.exp(noise), np.full(9, 0.8))
    correction = Correction.of(few, own, many, NUMBERS)
    found = correction.applied(few, to_states=True)
    np.testing.assert_array_equal(found.loss, few.loss)
    np.testing.assert_array_equal(found.states.loss, loss)
    rest = (1 / 8192 - 1 / 60_000) / (1 / 512 - 1 / 8192)
    off = 0.3 / Shares.of(few).span
    assert correction.standard_error == pytest.approx(np.hypot(off, np.sqrt(rest) * off))
    # Each quantity is judged by itself.
    assert correction.to_json()["quantities"] == ["accuracy"]
    np.testing.assert_allclose(found.accuracy, 0.6)


def test_states_without_a_finite_loss_tell_nothing():
    few, many = surface_of(lambda p: 0.8 * bowl(p)), surface_of(bowl)
    broken = many.states.loss.copy()
    broken[[0, 3]] = np.nan, np.inf
    correction = Correction.of(few, few.states, StateLosses(many.states.index, broken), NUMBERS)
    assert correction.states == 7
    np.testing.assert_allclose(correction.applied(few, to_states=True).loss, many.loss, rtol=1e-6)
    broken[4:] = np.nan
    assert Correction.of(few, few.states, StateLosses(many.states.index, broken), NUMBERS) is None


def test_points_without_a_finite_loss_keep_none():
    few, many = surface_of(lambda p: 0.8 * bowl(p)), surface_of(bowl)
    few.loss[0, :3] = np.nan, np.inf, 1e300
    found = Correction.of(few, few.states, many.states, NUMBERS).applied(few, to_states=True)
    assert np.isnan(found.loss[0, 0])
    assert np.isinf(found.loss[0, 1])
    np.testing.assert_allclose(found.loss[0, 2], 1e300 / 0.8, rtol=1e-6)
    np.testing.assert_allclose(found.loss[1:], many.loss[1:], rtol=1e-6)


def with_values(surface, states, accuracy=None, metrics=None):
    made = {**vars(surface), "states": states, "accuracy": accuracy, "metrics": metrics or {}}
    return Surface(**made)


def test_accuracies_and_other_quantities_are_corrected_as_far_as_states_have_them():
    shape, ones = (19, 21), np.ones(9)
    plain = surface_of(lambda p: 0.8 * bowl(p))
    index, loss = plain.states.index, plain.states.loss
    own = StateLosses(index, loss, 0.9 * ones, {"error": 0.5 * ones, "signed": -ones})
    values = {"error": np.full(shape, 0.4), "signed": np.full(shape, -2.0)}
    values |= {"loss spread": np.full(shape, 0.1), "lost": np.full(shape, 3.0)}
    few = with_values(plain, own, np.linspace(0.5, 1, 399).reshape(shape), values)
    many = StateLosses(index, loss / 0.8, 0.95 * ones, {"error": 0.6 * ones, "signed": 2 * ones})
    correction = Correction.of(few, own, many, NUMBERS)
    assert correction.to_json()["quantities"] == ["loss", "accuracy", "error"]
    found = correction.applied(few, to_states=True)
    np.testing.assert_allclose(found.accuracy, np.minimum(few.accuracy + 0.05, 1), rtol=1e-6)
    np.testing.assert_allclose(found.metrics["error"], 0.48, rtol=1e-6)  # by a factor
    np.testing.assert_array_equal(found.metrics["signed"], -2.0)  # which has no logarithm
    np.testing.assert_array_equal(found.metrics["lost"], 3.0)
    np.testing.assert_allclose(found.metrics["loss spread"], 0.125, rtol=1e-6)  # beside the loss
    np.testing.assert_allclose(found.states.accuracy, 0.95, rtol=1e-6)
    np.testing.assert_allclose(found.states.metrics["error"], 0.6, rtol=1e-6)


def test_what_is_known_over_few_samples_alone_is_left_as_it_is():
    # As where a class that no accuracy is defined for is among the others.
    plain, ones = surface_of(lambda p: 0.8 * bowl(p)), np.ones(9)
    own = StateLosses(plain.states.index, plain.states.loss, 0.9 * ones)
    few = with_values(plain, own, np.full((19, 21), 0.7))
    many = StateLosses(own.index, own.loss / 0.8)
    found = Correction.of(few, own, many, NUMBERS).applied(few, to_states=True)
    np.testing.assert_array_equal(found.accuracy, 0.7)
    np.testing.assert_allclose(found.loss, few.loss / 0.8, rtol=1e-6)


@pytest.mark.parametrize(
    "quantity", [lambda loss: np.exp(6 * loss), lambda loss: np.minimum(loss / 2.3, 1.0)]
)
def test_a_quantity_of_many_sizes_or_a_part_of_one_stays_such(quantity):
    plain = surface_of(lambda p: 0.8 * bowl(p))
    own = StateLosses(
        plain.states.index, plain.states.loss, None, {"q": quantity(plain.states.loss)}
    )
    few = with_values(plain, own, None, {"q": quantity(plain.loss)})
    true = quantity(few.loss / 0.8)
    many = StateLosses(own.index, own.loss / 0.8, None, {"q": quantity(own.loss / 0.8)})
    found = Correction.of(few, own, many, NUMBERS).applied(few, to_states=True).metrics["q"]
    assert found.min() > 0
    assert found.max() <= 1 or true.max() > 1
    assert apart(found, true) < 0.5 * apart(few.metrics["q"], true)


def test_a_loss_without_a_logarithm_is_left_where_others_are_corrected_by_it():
    few, many = surface_of(lambda p: 0.8 * bowl(p)), surface_of(bowl)
    correction = Correction.of(few, few.states, many.states, NUMBERS)
    few.loss[5, 5] = -0.01
    assert not correction.is_of(Shares.of(few))
    assert correction.applied(few, to_states=True).loss[5, 5] == -0.01


@pytest.mark.parametrize(
    ("samples", "count", "expected"),
    [
        (512, 60_000, [16_384, 8192, 4096]),
        (512, 8000, [8000, 4096]),
        (512, 2048, [2048]),
        (512, 2047, []),
        (700, 700, []),
    ],
)
def test_states_are_over_so_many_samples_as_are_worth_it(samples, count, expected):
    assert samples_for(samples, count) == expected


def training(samples=6000):
    return short_training(samples, 60)[:2]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("method", ["local-planes", "local-draws"])
def test_a_picture_within_a_budget_is_nearer_to_the_one_of_all_samples(method, monkeypatch):
    path, objective = training(3000)
    options = {"method": method, "resolution": 15, "fidelity": False, "budget": 30}
    found = losspath.compute_surface(path, objective, **options)
    reached = found.provenance["budget"]
    assert reached["corrected"]["states"] == 9
    assert reached["corrected"]["samples"] == 3000
    assert "loss" in reached["corrected"]["quantities"]
    assert reached["cost"] <= 30
    monkeypatch.setattr(Correction, "applied", lambda self, surface, to_states: surface)
    plain = losspath.compute_surface(path, objective, **options)
    np.testing.assert_array_equal(found.evaluated, plain.evaluated)
    full = losspath.compute_surface(path, objective, method, 15, fidelity=False)
    errors = [apart(each.loss, full.loss) for each in (found, plain)]
    assert errors[0] < 0.6 * errors[1]
    errors = [apart(each.states.loss, full.states.loss) for each in (found, plain)]
    assert errors[0] < 0.6 * errors[1]
    # What it says of itself is of the right size: the drawn range is of logarithms.
    span = Shares.of(full).span
    assert 0.3 < reached["standard_error"] / (apart(found.loss, full.loss) / span) < 3


def test_losses_of_states_that_were_given_are_left_as_they_are():
    path, objective = training()
    given = Landscape(path, objective).states(11)
    found = losspath.compute_surface(path, objective, budget=30, states=given, fidelity=False)
    assert found.provenance["budget"]["corrected"]
    np.testing.assert_array_equal(found.states.loss, given.loss)


def ticking(monkeypatch, seconds):
    """A clock that goes on with every vector that is evaluated, by its samples."""
    now = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(budget, "time", clock)
    monkeypatch.setattr(stage, "time", clock)
    evaluate = Engine.evaluate

    def slow(self, rows, *args, **options):
        for found in evaluate(self, rows, *args, **options):
            now[0] += seconds * len(found) * len(self.objective)
            yield found

    monkeypatch.setattr(Engine, "evaluate", slow)
    return now


@pytest.mark.parametrize("seconds", [0.4, 0.7, 1.5, 4.0])
def test_within_seconds_it_is_corrected_and_in_time(monkeypatch, seconds):
    path, objective = training()
    now = ticking(monkeypatch, 6e-6)
    found = losspath.compute_surface(
        path, objective, "local-planes", 41, budget=f"{seconds}s", fidelity=False
    )
    reached = found.provenance["budget"]
    assert reached["corrected"]["states"] == 9 or found.provenance["samples"] == 6000
    assert now[0] < 1.25 * seconds
    assert now[0] > 0.6 * seconds


def test_ends_of_many_runs_count_as_what_corrects(monkeypatch):
    # Forty runs have eighty ends, over as many samples as nine states would be.
    path, objective = training()
    parts = {f"run {number}": path[number : number + 20] for number in range(40)}
    now = ticking(monkeypatch, 6e-6)
    losspath.compute_surface(parts, objective, "local-planes", 21, budget="1s", fidelity=False)
    assert now[0] < 1.5


def test_a_metric_that_more_samples_lose_is_no_error():
    path, objective = training()
    x, y = objective.data.inputs, objective.data.targets.clone()
    few = subset(objective, 512).data.inputs
    missing = [n for n in range(6000) if not (few == x[n]).all(dim=1).any()]
    y[missing[:3]] = -100  # which the loss leaves out, and no accuracy is defined for

    def loss(outputs, targets):
        known = targets != -100
        return F.cross_entropy(outputs[known], targets[known], reduction="sum"), known.sum()

    objective = losspath.Objective(small_network(), x, y, loss)
    found = losspath.compute_surface(path, objective, budget=40, fidelity=False)
    assert np.isfinite(found.loss).all()
    assert found.accuracy is not None
    assert found.provenance["budget"]["corrected"]["samples"] == 6000


@pytest.mark.parametrize(
    ("quantities", "words"),
    [
        (["loss", "accuracy"], "about 1.2% of it, corrected by 9 states over 5,000."),
        (["accuracy"], "about 1.2% of it, told by 9 states over 5,000."),
        ([], "about 1.2% of it, told by 9 states over 5,000."),
    ],
)
def test_a_caption_says_whether_losses_were_corrected(quantities, words):
    corrected = {"states": 9, "samples": 5000, "quantities": quantities}
    told = {"asked": "auto", "seconds": 2.0, "predicted_error": 0.004, "notes": []}
    caption = describe_budget({**told, "standard_error": 0.012, "corrected": corrected})
    assert caption.endswith(words)


@pytest.mark.parametrize(("loss", "kept"), [(None, 1024), (lambda features: features[:, 0], 512)])
def test_only_what_was_corrected_can_be_better_than_more_samples(loss, kept):
    # Of more samples there is no time to tell the standard error.
    told = Correction(Shares(True, 0.0, 1.0), 1.0, 9, 8192, 0.001, loss, {})
    forecast = types.SimpleNamespace(errors=np.zeros(3))
    few, more = (
        types.SimpleNamespace(
            samples=samples, correction=correction, standard_error=error, forecast=forecast
        )
        for samples, correction, error in ((512, told, 0.001), (1024, None, np.nan))
    )
    run = BudgetedSurface.__new__(BudgetedSurface)
    run.count = 60_000
    assert run._better(more, few).samples == kept
