"""How far pictures hold, on problems whose answer is known."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import losspath
import losspath.figures.surfaces
from cases import objective_of, projection
from losspath import Landscape
from losspath.evaluation.execution.engine import Engine
from losspath.recording.joint import as_path
from losspath.recording.selection import recorded_losses
from losspath.surface import Fidelity
from losspath.surface.fidelity import Interval
from losspath.surface.judging import Heights, Judged, fidelity_of, told_by_losses
from losspath.surface.strata import balls, chords

GENERATOR = np.random.default_rng(0)


def noisy_path(states=400, off=60, noise=1.0, seed=0):
    """A curve in the first two dimensions, with noise of a known covariance in all others."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, states)
    curve = np.stack([8 - 8 * time, 2 * np.sin(5 * time)])  # downhill, as training goes
    return np.concatenate([curve, noise * rng.standard_normal((off, states))]).T


def quadratic(vector):
    """1 + the mean square off the plane + a slope in it: on the noisy path it is 2 + the slope."""
    return 1.0 + vector[2:].square().mean() + 0.1 * vector[:2].square().sum()


def flat_plane(count):
    return losspath.Plane(np.zeros(count), np.eye(count)[:, :2], ("x", "y"))


def landscape(method, path=None, loss=quadratic):
    path = noisy_path() if path is None else path
    count = path.shape[1]
    return Landscape(path, objective_of(loss, count), method, plane=flat_plane(count))


def interval_of(value):
    return Interval(value, value - 0.1, value + 0.1)


# -- vectors ---------------------------------------------------------------------------------------


def test_chords_are_between_two_states_of_one_run():
    shown = dataclasses.replace(projection(GENERATOR.normal(size=(30, 2))), starts=(0, 12))
    found = chords(shown, 200, np.random.default_rng(0))
    weights = found.weights.toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    assert (np.count_nonzero(weights, axis=1) == 2).all()
    assert ((weights >= 0) & (weights <= 0.9)).all()
    assert not (weights[:, :12].any(axis=1) & weights[:, 12:].any(axis=1)).any()
    assert 0.2 < weights[:, :12].any(axis=1).mean() < 0.6
    np.testing.assert_allclose(found.places(shown), weights @ shown.coordinates)


def test_balls_have_the_mean_and_the_covariance_of_the_states_they_are_of():
    states = GENERATOR.normal(size=(5, 3)) + 7.0
    shown = projection(states[:, :2])
    found = balls(shown, 20_000, np.random.default_rng(0))
    draws = found.weights @ states
    np.testing.assert_allclose(np.square(found.weights.toarray()).sum(axis=1), 1.0)
    np.testing.assert_allclose(draws.mean(axis=0), states.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(draws.T), np.cov(states.T, ddof=0), atol=0.06)
    assert (np.bincount(found.block) == 2).all()
    np.testing.assert_array_equal(found.buffers.toarray()[:, 2], 1.0)


def test_balls_are_of_a_short_part_of_a_run():
    shown = projection(GENERATOR.normal(size=(1500, 2)))
    weights = balls(shown, 30, np.random.default_rng(0)).weights.toarray()
    for row in weights:
        used = np.flatnonzero(row)
        assert len(used) == used[-1] - used[0] + 1 == 20


@pytest.mark.parametrize("states", [1, 2, 3])
def test_paths_of_few_states(states):
    shown = projection(np.arange(2.0 * states).reshape(states, 2))
    assert len(chords(shown, 4, np.random.default_rng(0))) == (0 if states < 2 else 4)
    assert len(balls(shown, 4, np.random.default_rng(0))) == (0 if states < 3 else 4)


# -- known answers ---------------------------------------------------------------------------------


def test_a_picture_that_averages_weights_is_too_low_by_a_known_share():
    # On the plane the loss is 1 + slope, on the path 2 + slope.
    pca = landscape("pca").surface(31)
    coordinates = noisy_path()[:, :2]
    slope = 0.1 * np.square(coordinates).sum(axis=1)
    expected = math.expm1(np.mean(np.log((1 + slope) / (2 + slope))))
    assert pca.fidelity.strata["balls"].bias.value == pytest.approx(expected, abs=0.05)
    assert pca.fidelity.bias == pca.fidelity.strata["balls"].bias
    assert pca.fidelity.bias.high < -0.15
    assert pca.fidelity.typical_error.value > 1.25
    # A chord's off-plane part is shorter: (1−α)² + α² of a state's.
    chord = pca.fidelity.strata["chords"].bias.value
    assert expected < chord < -0.1


@pytest.mark.parametrize("method", sorted(losspath.methods.METHODS))
def test_the_bias_of_each_method_is_the_known_one(method):
    # A blend of states by weights w has Σ w² of their mean square off the plane.
    shown = landscape(method)
    coordinates, slope = noisy_path()[:, :2], 0.1 * np.square(noisy_path()[:, :2]).sum(axis=1)
    own = np.ones(len(coordinates))
    if shown.method.vectors_at_a_point == 1:
        own = np.square(shown.method.weights(coordinates, shown.projection)).sum(axis=1)
    expected = math.expm1(np.mean(np.log((1 + own + slope) / (2 + slope))))
    found = shown.surface(31).fidelity.strata["balls"].bias
    assert found.value == pytest.approx(expected, abs=0.06)
    assert (expected < -0.1) == (method in ("pca", "averaged", "averaged-nd"))


def counted(monkeypatch):
    """How many vectors are evaluated."""
    count, evaluate = [0], Engine.evaluate

    def counting(self, *args, **options):
        for found in evaluate(self, *args, **options):
            count[0] += len(found)
            yield found

    monkeypatch.setattr(Engine, "evaluate", counting)
    return count


def test_what_captions_carry_costs_sixty_evaluations(monkeypatch):
    shown, count = landscape("pca"), counted(monkeypatch)
    shown.surface(9, fidelity=False)
    without, count[0] = count[0], 0
    shown.surface(9)
    assert count[0] == without + 60


@pytest.mark.parametrize("method", ["pca", "averaged", "local-planes"])
def test_in_full_it_costs_less_than_three_surfaces(method, monkeypatch):
    path, count = noisy_path(), counted(monkeypatch)
    objective, plane = objective_of(quadratic, path.shape[1]), flat_plane(path.shape[1])
    losspath.compute_surface(path, objective, method, 19, plane=plane, fidelity=False)
    surface, count[0] = count[0], 0
    losspath.measure_fidelity(path, objective, method, 19, plane=plane)
    assert 0 < count[0] <= 3 * surface


def test_a_picture_that_averages_losses_is_right():
    good = landscape("local-planes").surface(15).fidelity
    assert abs(good.bias.value) < 0.08
    assert good.typical_error.value < 1.15
    assert good.bias.low < good.bias.value < good.bias.high
    assert good.typical_error.value >= 0.95 * good.floor > 1.0


def test_the_floor_is_the_spread_at_one_place():
    # Mean squares of 60 standard normal numbers: standard deviation √(2/60) about 1.
    found = landscape("local-planes", path=noisy_path(4000)).surface(5).fidelity
    coordinates = noisy_path()[:, :2]
    middle = 1 / (2 + 0.1 * np.square(coordinates).sum(axis=1))
    spread = 0.99446 * math.sqrt(2 / 60) * np.median(middle)  # 68 % of a normal distribution
    assert math.log(found.floor) == pytest.approx(spread, rel=0.5)


def test_an_exact_picture_has_skill_one():
    path = noisy_path(noise=0.0)
    found = landscape("pca", path, loss=lambda w: 3.0 + w[0]).surface(9).fidelity
    assert found.skill.value == pytest.approx(1.0, abs=1e-3)
    assert found.typical_error.value == pytest.approx(1.0, abs=1e-3)
    told = "against parameter vectors near the path, 68% off by a factor of 1.01 or less, right on "
    told += "average; under 0.01 times the error of the drawn states' losses, interpolated"
    assert found.describe() == told


def test_a_picture_that_shows_nothing_has_none():
    # The loss turns quickly in the plane, and the grid is too coarse to show it.
    rng = np.random.default_rng(0)
    path = np.concatenate([rng.uniform(-1, 1, (2, 900)), np.zeros((2, 900))]).T
    waves = landscape("pca", path, loss=lambda w: 2.0 + torch.sin(20 * w[0]))
    coarse, fine = (waves.surface(lines).fidelity for lines in (4, 64))
    assert coarse.typical_error.value > 1.3 > fine.typical_error.value
    # The 25 states that are drawn tell what the path tells.
    assert coarse.skill.value < 0.3 < 0.8 < fine.skill.value


def test_losses_that_are_not_positive_count_by_the_drawn_range():
    found = landscape("pca", loss=lambda w: quadratic(w) - 5.0).surface(15).fidelity
    assert not found.is_logarithmic
    assert found.bias.value < 0
    assert 0 < found.typical_error.value < 1
    off, bias = found.typical_error.value, -found.bias.value
    told = f"68% off by {off:.1%} of the range or less, {bias:.0%} of the range too low on average"
    assert told in found.describe()


def test_losses_that_are_not_finite_are_left_out():
    found = landscape("pca", loss=lambda w: quadratic(w) / (w[0] > 3)).surface(15)
    assert 0 < found.fidelity.strata["balls"].count < 30
    assert math.isfinite(found.fidelity.typical_error.value)


def test_scale_and_mirror_change_nothing():
    path = noisy_path(100)
    one = landscape("local-planes", path).surface(9).fidelity
    mirrored = path * np.where(np.arange(62) == 0, -1.0, 1.0)
    for other, factor in ((mirrored, 1.0), (path * 1e3, 1e-3)):
        found = landscape("local-planes", other, loss=lambda w, f=factor: quadratic(w * f))
        found = found.surface(9).fidelity
        for name in ("typical_error", "bias", "skill"):
            value = getattr(found, name).value
            assert value == pytest.approx(getattr(one, name).value, rel=1e-6)


# -- numbers ---------------------------------------------------------------------------------------


HEIGHTS = Heights(True, math.inf, 0.1)


def judged(name, errors, others=None, block=None):
    errors = np.asarray(errors, np.float64)
    others = np.ones(len(errors)) if others is None else np.asarray(others)
    block = np.arange(len(errors)) if block is None else np.asarray(block)
    return Judged(name, np.zeros(len(errors)), errors, others, 2 * others, block)


def test_strata_have_equal_weight_however_large():
    many = judged("balls", np.full(90, 0.1))
    few = judged("held-out", np.full(10, 0.5))
    found = fidelity_of([many, few], HEIGHTS, 0.0)
    # 68 % of the weight is reached within the second stratum.
    assert found.typical_error.value == pytest.approx(math.exp(0.5))
    assert found.bias.value == pytest.approx(math.expm1(0.3))
    assert found.skill.value == pytest.approx(1 - (0.1 + 0.5) / 2)
    assert found.skill_over_recorded.value == pytest.approx(1 - (0.1 + 0.5) / 4)
    assert found.strata["balls"].typical_error.value == pytest.approx(math.exp(0.1))
    assert {name: each.count for name, each in found.strata.items()} == {
        "balls": 90,
        "held-out": 10,
    }


def test_chords_count_in_the_skill_alone():
    found = fidelity_of([judged("balls", [0.2] * 9), judged("chords", [0.6] * 9)], HEIGHTS, 0.0)
    assert found.bias.value == pytest.approx(math.expm1(0.2))
    assert found.typical_error.value == pytest.approx(math.exp(0.2))
    assert found.skill.value == pytest.approx(1 - 0.4)


def test_intervals_cover_what_is_drawn_anew():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        bias = fidelity_of([judged("balls", 0.3 + rng.normal(size=40))], HEIGHTS, 0.0).bias
        covered += bias.low <= math.expm1(0.3) <= bias.high
    assert covered >= 51  # 95 % of 60, but for chance


def test_blocks_are_drawn_whole():
    errors = np.repeat(np.random.default_rng(0).normal(size=10), 20)
    alone = fidelity_of([judged("balls", errors)], HEIGHTS, 0.0).bias
    together = fidelity_of([judged("balls", errors, block=np.arange(200) // 20)], HEIGHTS, 0.0).bias
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_a_recorded_loss_of_zero_is_drawn_as_the_least():
    heights = Heights(True, 2.0, 0.5)
    np.testing.assert_allclose(heights(np.array([0.0, -1.0, 1.0, 3.0])), np.log([0.5, 0.5, 1, 2]))


def test_recorded_losses_alone():
    coordinates = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    told = told_by_losses(coordinates, np.array([1.0, np.nan, 3.0, 4.0]))
    np.testing.assert_allclose(told(np.array([[1.0, 0.0], [2.5, 0.0]])), [2.0, 3.5], atol=0.1)
    far = told_by_losses(coordinates * 1e-8, np.array([1.0, np.nan, 3.0, 4.0]))
    np.testing.assert_allclose(far(np.array([[1e-8, 0.0]])), told(np.array([[1.0, 0.0]])))
    assert np.isnan(told_by_losses(coordinates, np.full(4, np.nan))(coordinates)).all()
    same = told_by_losses(np.ones((5, 2)), np.full(5, 2.0))
    np.testing.assert_allclose(same(np.ones((2, 2))), 2.0)


def test_the_losses_of_several_runs(tmp_path):
    for name in ("one", "other"):
        model = torch.nn.Linear(2, 1)
        with losspath.Recorder(tmp_path / name, model) as recorder:
            for loss in (1.0, 2.0):
                with torch.no_grad():
                    model.weight += 1
                recorder.record(loss)
    runs = [losspath.Trajectory(tmp_path / name) for name in ("one", "other")]
    expected = [1.0, 2.0, np.nan]
    np.testing.assert_array_equal(recorded_losses(runs[0]), expected)
    np.testing.assert_array_equal(recorded_losses(losspath.JointPath(runs)), expected * 2)
    assert np.isnan(recorded_losses(as_path(np.eye(3)))).all()


# -- in a surface ----------------------------------------------------------------------------------


def test_a_surface_keeps_it_in_its_file(tmp_path):
    surface = landscape("pca", noisy_path(40)).surface(5)
    surface.save(tmp_path / "surface.npz")
    found = losspath.Surface.load(tmp_path / "surface.npz")
    assert found.fidelity == surface.fidelity
    assert found.provenance == surface.provenance
    bare = dataclasses.replace(surface, fidelity=None)
    bare.save(tmp_path / "bare.npz")
    assert losspath.Surface.load(tmp_path / "bare.npz").fidelity is None


def test_it_can_be_left_out():
    assert landscape("pca", noisy_path(40)).surface(5, fidelity=False).fidelity is None
    path, objective = noisy_path(40), objective_of(quadratic, 62)
    assert losspath.compute_surface(path, objective, "pca", 5, fidelity=False).fidelity is None
    *_, last = losspath.refine_surface(path, objective, "pca", 5)
    first = next(iter(losspath.refine_surface(path, objective, "pca", 5)))
    assert first.fidelity is None
    assert last.fidelity is not None


def test_json_of_what_is_not_known():
    nothing = Interval(math.nan, math.nan, math.nan)
    found = Fidelity(nothing, nothing, nothing, {}, math.nan, True, nothing)
    values = found.to_json()
    assert values["skill"] == [None] * 3
    assert values["floor"] is None
    again = Fidelity.from_json(values)
    assert math.isnan(again.skill.low)
    assert math.isnan(again.floor)
    assert found.describe() == ""


@pytest.mark.parametrize(
    ("error", "bias", "skill", "said"),
    [
        (1.294, 0.09, 0.25, "1.29 or less, 9% too high on average; 0.75 times the error of the"),
        (1.001, -0.004, 0.997, "1.01 or less, right on average; under 0.01 times the error of the"),
        (12.34, -0.96, -2.1, "12 or less, 96% too low on average; 3.10 times the error of the"),
        (2, 3.4, -1e9, "2.00 or less, 340% too high on average; over 1000 times the error of the"),
        (2.0, 0.0, -0.05, "2.00 or less, right on average; not clearly better or worse than the"),
        (2.0, 0.0, math.nan, "2.00 or less, right on average"),
    ],
)
def test_captions_say_which_way_and_over_what(error, bias, skill, said):
    numbers = [interval_of(value) for value in (error, bias, skill)]
    told = Fidelity(*numbers, {}, 1.0, True).describe()
    start = "against parameter vectors near the path, 68% off by a factor of "
    assert told == start + said + (
        " drawn states' losses, interpolated" if said.endswith("the") else ""
    )


@pytest.fixture
def recorded(tmp_path):
    """A run of which losses were recorded, and a function that makes objectives for it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2)
    )
    inputs, targets = torch.randn(60, 3), torch.randint(2, (60,))
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    with losspath.Recorder(tmp_path / "run", model) as recorder:
        for _ in range(40):
            loss = torch.nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.record(loss)

    def objective(scale=1.0, model=model):
        def scaled(outputs, targets):
            return scale * torch.nn.functional.cross_entropy(outputs, targets)

        return losspath.Objective(model, inputs, targets, scaled)

    return losspath.Trajectory(tmp_path / "run"), objective


def test_the_skill_does_not_depend_on_what_was_recorded(recorded):
    path, objective = recorded
    one, other = (losspath.compute_surface(path, objective(f), "pca", 5) for f in (1.0, 50.0))
    assert other.fidelity.skill.value == pytest.approx(one.fidelity.skill.value, rel=1e-3)


def test_a_loss_that_is_not_the_recorded_one_is_told_of(recorded):
    path, objective = recorded
    surface = losspath.compute_surface(path, objective(), "pca", 5)
    assert "loss_notes" not in surface.provenance
    for factor in (9.0, 0.1):
        surface = losspath.compute_surface(path, objective(factor), "pca", 5)
        (note,) = surface.provenance["loss_notes"]
        assert "other data or another network than training" in note
        caption = losspath.figures.surfaces.describe_surface(surface)
        assert f"{note[:1].upper()}{note[1:]}." in caption
    bare = losspath.compute_surface(path[:], objective(9.0), "pca", 5)  # nothing was recorded
    assert "loss_notes" not in bare.provenance


def test_a_loss_that_is_nowhere_finite_is_told_of(recorded):
    path, objective = recorded
    surface = losspath.compute_surface(path, objective(math.nan), "pca", 4)
    assert surface.provenance["loss_notes"] == [
        "the loss is finite at none of the states that were evaluated"
    ]


def test_statistics_that_the_model_has_no_place_for_are_told_of(recorded):
    path, objective = recorded
    other = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 2))
    with pytest.warns(losspath.LosspathWarning, match=r"has no place for .*: 1\.running_mean"):
        surface = losspath.compute_surface(path, objective(model=other), "pca", 4)
    assert any("1.running_mean" in note for note in surface.provenance["notes"])


def test_it_is_the_same_each_time():
    found = landscape("pca", noisy_path(40))
    surface = found.surface(5)
    assert found.fidelity(surface) == surface.fidelity
    assert found.fidelity(surface, seed=1) != surface.fidelity
