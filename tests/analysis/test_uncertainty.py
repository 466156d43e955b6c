"""How uncertain surfaces and lines are, on problems whose answer is known."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losspath
from losspath import line_uncertainty, surface_uncertainty
from losspath.analysis.posterior import Laplace, Swag
from losspath.analysis.uncertainty import SOURCES, Uncertainty, uncertainty_key
from losspath.errors import ArgumentError, DamagedError, ObjectiveError, PathError
from losspath.evaluation.recorded import along
from losspath.geometry.grid import Grid
from losspath.recording.trajectory import as_path

GENERATOR = torch.Generator().manual_seed(0)


def vector_of(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double().numpy()


def trained(model, x, y, steps=60, lr=0.2, seed=0):
    """A short training, as an array of states."""
    generator = torch.Generator().manual_seed(seed)
    optimizer, states = torch.optim.SGD(model.parameters(), lr), [vector_of(model)]
    for _ in range(steps):
        some = torch.randint(len(x), (16,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[some]), y[some]).backward()
        optimizer.step()
        states.append(vector_of(model))
    return np.stack(states)


@pytest.fixture(scope="module")
def scene():
    """A small network with dropout on made-up classes, and a training of it."""
    torch.manual_seed(0)
    x = torch.randn(120, 4, generator=GENERATOR)
    y = (x[:, 0] + 0.5 * torch.randn(120, generator=GENERATOR) > 0).long()
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Dropout(0.4), torch.nn.Linear(6, 2)
    )
    return trained(copy.deepcopy(model), x, y), losspath.Objective(model, x, y, F.cross_entropy)


# -- by samples ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nine_of_ten_intervals_hold_the_loss_over_all_digits():
    """Sets drawn with replacement, so that the loss over all digits is what they are draws of."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 10)
    path = trained(model, x, y, 80, lr=1.0)
    plane = losspath.fit_plane(path)
    grid = Grid.around(plane.path.coordinates, 4)
    true = losspath.compute_surface(
        *(path, losspath.Objective(model, x, y, F.cross_entropy), "pca"),
        plane=plane,
        grid=grid,
        fidelity=False,
    ).loss
    generator, held, sides = torch.Generator().manual_seed(5), [], []
    for _ in range(100):
        some = torch.randint(len(x), (120,), generator=generator)
        objective = losspath.Objective(model, x[some], y[some], F.cross_entropy, check=False)
        found = surface_uncertainty(path, objective, "pca", plane=plane, grid=grid)
        held.append((found.lower <= true) & (true <= found.upper))
        sides.append((found.lower > true).mean() - (found.upper < true).mean())
    assert 0.85 <= np.mean(held) <= 0.95
    assert abs(np.mean(sides)) < 0.05


@pytest.mark.parametrize("method", ["pca", "averaged", "local-planes"])
def test_heights_are_those_of_the_surface(scene, method):
    path, objective = scene
    surface = losspath.compute_surface(path, objective, method, 4, fidelity=False)
    found = surface_uncertainty(path, objective, method, 4)
    np.testing.assert_allclose(found.loss, surface.loss, rtol=1e-12)
    np.testing.assert_array_equal(found.x, surface.x)
    assert (found.lower < found.loss).all()
    assert (found.loss < found.upper).all()
    assert found.is_relative
    assert (found.widths > 1).all()
    assert found.provenance["parts"] == 120


def test_four_times_the_samples_halve_the_intervals(scene):
    path, objective = scene
    data = objective.data
    more = losspath.Objective(
        objective.model, data.inputs.repeat(4, 1), data.targets.repeat(4), F.cross_entropy
    )
    one, other = (surface_uncertainty(path, each, "pca", 3) for each in (objective, more))
    np.testing.assert_allclose(other.deviation, one.deviation / 2, rtol=0.01)


def test_losses_below_zero_have_widths_in_their_own_unit(scene):
    path, objective = scene

    def negative(outputs, targets):
        return F.cross_entropy(outputs, targets) - 2

    data = objective.data
    other = losspath.Objective(objective.model, data.inputs, data.targets, negative)
    one, low = (surface_uncertainty(path, each, "pca", 3) for each in (objective, other))
    assert not low.is_relative
    np.testing.assert_allclose(low.widths, (one.upper - one.lower) / 2, rtol=1e-4)
    assert low.to_json()["unit"] == "loss"


# -- by draws --------------------------------------------------------------------------------------


def test_masks_are_the_same_at_all_points():
    """A loss that is a slope times what dropout leaves: draws are the same factors everywhere."""

    class Slope(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = torch.nn.Parameter(torch.ones(3))
            self.drop = torch.nn.Dropout(0.25)

        def forward(self, inputs):
            return self.drop(inputs) * self.factors.sum()

    model, x = Slope(), torch.ones(120, 1)
    objective = losspath.Objective(model, x, None, lambda out: out.mean(), batch_size=50)
    path = 1.0 + np.random.default_rng(0).uniform(0, 1, (8, 3))
    found = surface_uncertainty(path, objective, "pca", 3, source="dropout", draws=60)
    low, high = found.lower / found.loss, found.upper / found.loss
    np.testing.assert_allclose(low, low[0, 0], rtol=1e-5)
    np.testing.assert_allclose(high, high[0, 0], rtol=1e-5)
    # Of n = 120 samples each is there with 3/4, 4/3 as large: variance p/(1−p)/n.
    np.testing.assert_allclose(found.deviation / found.loss, math.sqrt(1 / 360), rtol=0.3)
    assert low[0, 0] < 1 < high[0, 0]
    few, again, other = (
        line_uncertainty(path, objective, alphas=[0, 1], source="dropout", seed=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(again.upper, few.upper)
    assert not np.array_equal(other.upper, few.upper)


def test_dropout_leaves_normalisation_in_evaluation_mode():
    torch.manual_seed(0)
    x, y = torch.randn(60, 3), torch.randint(2, (60,))
    model = torch.nn.Sequential(
        torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.3), torch.nn.Linear(3, 2)
    )
    objective = losspath.Objective(model, x, y, F.cross_entropy)
    before = copy.deepcopy(model.state_dict())
    states = np.random.default_rng(0).normal(size=(6, 14))
    found = surface_uncertainty(states, objective, "pca", 3, source="dropout")
    assert (found.deviation > 0).all()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Attending(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = torch.nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

    def forward(self, inputs):
        return self.attend(inputs, inputs, inputs)[0].mean(dim=(1, 2))


class Hidden(torch.nn.Module):
    """Dropout by a function, with a share of its own."""

    def __init__(self, name):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
        setattr(self, name, 0.5)

    def forward(self, inputs):
        return self.linear(F.dropout(inputs, 0.5, self.training)).mean(dim=(1, 2))


@pytest.mark.parametrize("make", [Attending, lambda: Hidden("attention_dropout")])
def test_dropout_within_other_modules(make):
    torch.manual_seed(0)
    model, x = make(), torch.randn(30, 5, 4)
    objective = losspath.Objective(model, x, None, lambda out: out.square().mean() + 1)
    path = vector_of(model) + np.random.default_rng(0).normal(size=(5, len(vector_of(model))))
    found = surface_uncertainty(path, objective, "pca", 3, source="dropout")
    assert (found.deviation > 0).all()


@pytest.mark.parametrize(
    "model",
    [
        torch.nn.Linear(4, 2),
        torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Linear(4, 2)),
        torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Identity()),
    ],
)
def test_a_network_without_dropout_is_refused(model):
    x, y = torch.randn(20, 4), torch.randint(2, (20,))
    objective = losspath.Objective(model, x, y, F.cross_entropy)
    states = np.random.default_rng(0).normal(size=(6, 10))
    with pytest.raises(ObjectiveError, match="a network with dropout"):
        surface_uncertainty(states, objective, "pca", 3, source="dropout")


def test_swag_draws_have_half_the_covariance_twice():
    states = np.random.default_rng(0).normal(size=(80, 3)) @ np.array(
        [[2.0, 0, 0], [1.8, 0.5, 0], [0, 0, 0.1]]
    )
    posterior = Swag(as_path(states), 0)
    last = states[np.unique(np.linspace(60, 79, 20).round().astype(int))]
    draws = np.stack([posterior.shift(draw) for draw in range(6000)])
    full, diagonal = np.cov(last.T), np.diag(last.var(axis=0))
    np.testing.assert_allclose(np.cov(draws.T), (full + diagonal) / 2, rtol=0.06, atol=0.03)
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.1)
    np.testing.assert_array_equal(posterior.shift(3), draws[3])
    assert not np.array_equal(Swag(as_path(states), 1).shift(3), draws[3])


@pytest.mark.parametrize("method", ["pca", "averaged", "local-planes"])
def test_draws_are_added_to_every_vector(method, scene):
    """Against the plain loop over vectors."""
    path, objective = scene
    found = surface_uncertainty(path, objective, method, 3, source="swag", draws=19)
    landscape = losspath.Landscape(path, objective, method)
    grid = Grid.around(landscape.projection.coordinates, 3)
    posterior = Swag(landscape.path, 0)
    point = 4
    draws = []
    for draw in range(19):
        shift = posterior.shift(draw)
        losses = [
            (share, objective(vector + shift).loss)
            for _, share, vector in landscape.vectors(grid.points[point : point + 1])
        ]
        mean = sum(share * math.log(loss) for share, loss in losses)
        draws.append(math.exp(mean) if len(losses) > 1 else losses[0][1])
    flat = (found.lower.ravel()[point], found.upper.ravel()[point])
    assert flat == pytest.approx((min(draws), max(draws)), rel=1e-5)
    assert found.deviation.ravel()[point] == pytest.approx(np.std(draws, ddof=1), rel=1e-4)


def test_laplace_is_the_known_posterior_of_a_line():
    """½(y − θ·x)²: the Fisher matrix is the sum of squared residuals times inputs."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(100, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 3.0])
    y = x @ torch.tensor([1.0, -2.0], dtype=torch.float64)
    y += torch.randn(100, generator=generator, dtype=torch.float64)
    best = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    model = torch.nn.Linear(2, 1, bias=False).double()

    def loss(outputs, targets):
        return (outputs[:, 0] - targets).square().mean() / 2

    path = np.stack([np.zeros(2), best.numpy() / 2, best.numpy()])
    objective = losspath.Objective(model, x, y, loss)
    states = as_path(path)
    deviation = Laplace(along(objective, states), states, 0)._deviation
    squares = ((x @ best - y)[:, None] * x).square().sum(dim=0).numpy() * 100 / 99
    precision = 1.0
    for _ in range(500):
        precision = (squares / (squares + precision)).sum() / best.square().sum().item()
    np.testing.assert_allclose(deviation, 1 / np.sqrt(squares + precision), rtol=0.03)


def test_laplace_leaves_what_is_not_trained(scene):
    path, objective = scene
    model = copy.deepcopy(objective.model)
    data = objective.data
    model[0].weight.requires_grad_(False)
    whole = losspath.Objective(model, data.inputs, data.targets, F.cross_entropy)
    states = as_path(path)  # of all parameters
    shift = Laplace(along(whole, states), states, 0).shift(0)
    assert not shift[:24].any()
    assert shift[24:].all()


def test_the_curvature_is_the_same_by_larger_parts(scene):
    """Of samples of which the mean gradient is nothing: parts of two against single ones."""
    from losspath.evaluation.fisher import Fisher

    x, y = torch.randn(4000, 3, generator=GENERATOR), torch.zeros(4000)
    objective = losspath.Objective(
        torch.nn.Linear(3, 1), x, y, lambda out, target: (out[:, 0] - target).mean()
    )
    parts = [Fisher(objective.with_parts_of(size), np.zeros(4)).diagonal()[:3] for size in (1, 8)]
    np.testing.assert_allclose(parts[0], x.square().sum(dim=0), rtol=0.02)
    np.testing.assert_allclose(parts[1], parts[0], rtol=0.25)


# -- off the plane ---------------------------------------------------------------------------------


def noisy(states=400, off=60, seed=0):
    """A curve in a plane, with noise of the same size in all other dimensions."""
    generator = np.random.default_rng(seed)
    time = np.linspace(0, 1, states)
    curve = np.stack([8 - 8 * time, 2 * np.sin(5 * time)])
    return np.concatenate([curve, generator.standard_normal((off, states))]).T


class Bowl(torch.nn.Module):
    def __init__(self, count, base):
        super().__init__()
        self.vector = torch.nn.Parameter(torch.zeros(count, dtype=torch.float64))
        self.base = base

    def forward(self, inputs):
        off, inside = self.vector[2:], self.vector[:2]
        loss = self.base + off.square().mean() + 0.1 * inside.square().sum()
        return loss.expand(len(inputs))


def bowl(count=62, base=1.0):
    return losspath.Objective(Bowl(count, base), torch.zeros(3, 1), None, lambda out: out.mean())


def flat(count=62):
    return losspath.Plane(np.zeros(count), np.eye(count)[:, :2], ("x", "y"))


@pytest.mark.slow
@pytest.mark.parametrize("base", [1.0, -3.0])
def test_nine_of_ten_other_states_have_losses_within_the_intervals(base):
    states, objective = noisy(800), bowl(base=base)
    made, others = states[::2], states[1::2]
    grid = Grid.around(made[:, :2], 9)
    found = surface_uncertainty(
        made, objective, "local-planes", plane=flat(), grid=grid, source="off-plane"
    )
    assert found.is_relative == (base > 0)
    from scipy.interpolate import RegularGridInterpolator

    read = [
        RegularGridInterpolator((found.y, found.x), each)(others[:, 1::-1])
        for each in (found.lower, found.upper)
    ]
    own = np.array([objective(state).loss for state in others])
    assert 0.85 <= np.mean((read[0] <= own) & (own <= read[1])) <= 0.97
    assert found.provenance["held_out"] >= 100
    # Without noise off the plane there is nothing to spread.
    still = states.copy()
    still[:, 2:] = 0.0
    narrow = surface_uncertainty(
        still[::2], objective, "local-planes", plane=flat(), grid=grid, source="off-plane"
    )
    assert np.median(narrow.upper - narrow.lower) < 0.1 * np.median(found.upper - found.lower)


def test_losses_that_are_not_finite_leave_the_others_their_intervals():
    class Broken(Bowl):
        def forward(self, inputs):
            return torch.where(self.vector[0] > 9, torch.nan, super().forward(inputs))

    broken = losspath.Objective(Broken(62, 1.0), torch.zeros(3, 1), None, lambda out: out.mean())
    states = noisy(60)
    grid = Grid(np.array([0.0, 5.0, 10.0]), np.array([-1.0, 1.0]))
    found = surface_uncertainty(
        states, broken, "local-planes", plane=flat(), grid=grid, source="off-plane"
    )
    assert np.isnan(found.upper[:, 2]).all()
    assert (found.upper[:, :2] > found.lower[:, :2]).all()
    assert found.is_relative
    assert found.provenance["held_out"] > 10
    nothing = surface_uncertainty(
        states, broken, "pca", plane=flat(), grid=Grid(np.array([11.0, 12.0]), grid.y)
    )
    assert nothing.to_json()["known"] == 0
    losspath.plot_uncertainty(nothing)


def test_a_short_path_has_students_intervals():
    found = surface_uncertainty(
        noisy(10), bowl(), "local-planes", 3, plane=flat(), source="off-plane"
    )
    assert found.provenance["held_out"] == 0
    assert found.provenance["widening"] == pytest.approx(2.3534 * math.sqrt(5 / 4), rel=1e-3)
    assert (found.upper > found.lower).all()


def test_several_runs_have_a_spread_off_the_plane():
    found = surface_uncertainty(
        [noisy(40), noisy(40, seed=1)], bowl(), "local-planes", 3, source="off-plane"
    )
    assert np.isfinite(found.upper).all()
    assert found.provenance["starts"] == [0, 40]


# -- lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["samples", "dropout", "swag", "laplace"])
def test_a_lines_losses_are_those_of_the_interpolation(scene, source):
    path, objective = scene
    line = losspath.interpolate(path, objective, 5, -1, layers=False)
    found = line_uncertainty(path, objective, 5, -1, source=source)
    np.testing.assert_allclose(found.loss, line.loss[0], rtol=1e-6)
    np.testing.assert_array_equal(found.x, line.alpha)
    assert found.is_line
    assert (found.upper > found.lower).all()
    assert found.provenance["from"] == 5
    assert found.provenance["to"] == 60


def test_a_state_that_is_not_finite_leaves_the_rest_of_a_line(scene):
    path, objective = scene
    broken = path.copy()
    broken[-1] = np.inf
    found = line_uncertainty(broken, objective, 0, -1, alphas=[0, 0.5, 1])
    assert np.isfinite(found.upper[0])
    assert np.isnan(found.upper[1:]).all()


# -- arguments, files, going on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"source": "off-plane"}, ArgumentError, "averages losses of several vectors"),
        ({"source": "swag", "draws": 18}, ArgumentError, "19 draws or more"),
        ({"source": "prior"}, ArgumentError, "source"),
        ({"level": 1.0}, ArgumentError, "between 0 and 1"),
        ({"level": 0}, ArgumentError, "level"),
    ],
)
def test_what_makes_no_interval_is_refused(scene, options, error, words):
    path, objective = scene
    with pytest.raises(error, match=words):
        surface_uncertainty(path, objective, "pca", 3, **options)


def test_a_line_has_nothing_off_the_plane(scene):
    with pytest.raises(ArgumentError, match="a surface by a method"):
        line_uncertainty(*scene, source="off-plane")


@pytest.mark.parametrize("source", ["swag", "laplace"])
def test_last_states_are_those_of_one_run(scene, source):
    path, objective = scene
    with pytest.raises(ArgumentError, match="one run"):
        surface_uncertainty([path, path + 1], objective, "pca", 3, source=source)


def test_a_path_too_short_for_swag(scene):
    path, objective = scene
    with pytest.raises(PathError, match="12 states or more"):
        surface_uncertainty(path[:5], objective, "pca", 3, source="swag")


@pytest.mark.parametrize("source", ["samples", "off-plane", "swag"])
def test_a_stopped_call_goes_on(scene, source, tmp_path, monkeypatch):
    path, objective = scene
    method = "local-planes" if source == "off-plane" else "averaged"
    whole = surface_uncertainty(path, objective, method, 4, source=source)
    file, seen = tmp_path / "points", []

    def stop(done, total):
        seen.append((done, total))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surface_uncertainty(
            path, objective, method, 4, source=source, checkpoint=file, progress=stop
        )
    again = []
    found = surface_uncertainty(
        *(path, objective, method, 4),
        source=source,
        checkpoint=file,
        progress=lambda *told: again.append(told),
    )
    for name in ("loss", "lower", "upper", "deviation"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert again[0][0] >= seen[-1][0]
    assert again[-1][0] == again[-1][1] == (16 * 21 if source == "swag" else 16)


def test_keys_are_of_all_that_intervals_depend_on():
    asked = [("samples", 0.9, 20, 0), ("samples", 0.8, 20, 0), ("swag", 0.9, 20, 0)]
    asked += [("swag", 0.9, 30, 0), ("swag", 0.9, 20, 1)]
    assert len({uncertainty_key("k", *each) for each in asked}) == 5
    assert uncertainty_key("k", *asked[0]) == uncertainty_key("k", "samples", 0.9, 99, 0)


def test_it_is_saved_and_loaded(scene, tmp_path):
    found = surface_uncertainty(*scene, "pca", 3)
    found.save(tmp_path / "u.npz")
    loaded = Uncertainty.load(tmp_path / "u.npz")
    assert loaded.to_json() == found.to_json()
    assert loaded.provenance == found.provenance
    np.testing.assert_array_equal(loaded.upper, found.upper)
    assert repr(loaded) == repr(found)
    assert "by samples" in repr(found)
    raw = bytearray((tmp_path / "u.npz").read_bytes())
    raw[raw.index(found.upper.tobytes()) + 3] ^= 1
    (tmp_path / "u.npz").write_bytes(raw)
    with pytest.raises(DamagedError):
        Uncertainty.load(tmp_path / "u.npz")


def test_sources_are_named_once():
    assert set(SOURCES) == {"samples", "off-plane", "dropout", "swag", "laplace"}
