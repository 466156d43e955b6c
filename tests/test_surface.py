import dataclasses
import json

import numpy as np
import pytest
import torch

from cases import (
    AS_DRAWN,
    METHODS,
    SURFACE_ARRAYS,
    Watched,
    assert_same,
    classifier,
    descent,
    mirrored_plane,
    named,
    objective_of,
    problem,
)
from losspath import (
    Grid,
    Recorder,
    Surface,
    Trajectory,
    compute_surface,
    fit_plane,
)
from losspath.errors import ArgumentError, DamagedError, ModelError, StoreError
from losspath.geometry import blend
from losspath.methods import Averaged, method_named
from losspath.surface import StateLosses, spread_states

DESCENT = problem("descent", descent(12, 6))


@pytest.mark.parametrize("method", [*METHODS, *AS_DRAWN], ids=named)
def test_two_calls_are_bit_equal(method):
    assert_same(*(compute_surface(DESCENT.path, DESCENT.objective(), method, 5) for _ in range(2)))


@pytest.mark.mostly_slow(24)
@pytest.mark.parametrize("method", [*METHODS, *AS_DRAWN], ids=named)
@pytest.mark.parametrize("points", [1, 5])
def test_groups_of_points_give_the_same_numbers(monkeypatch, method, points):
    whole = compute_surface(DESCENT.path, DESCENT.objective(), method, 5)
    monkeypatch.setattr(blend, "_GROUP_BYTES", points * 8 * 6)
    parts = compute_surface(DESCENT.path, DESCENT.objective(), method, 5)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-12)


@pytest.mark.mostly_slow(24)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("method", [*METHODS, *AS_DRAWN], ids=named)
def test_mirroring_an_axis_mirrors_the_surface(method, axis):
    plane = fit_plane(DESCENT.path)
    grid = Grid.around(plane.path.coordinates, 5)
    surface = compute_surface(DESCENT.path, DESCENT.objective(), method, plane=plane, grid=grid)
    lines = [-grid.x[::-1], grid.y] if axis == 0 else [grid.x, -grid.y[::-1]]
    # Above the path is below it in the mirror: which of the two a program draws is chance.
    swapped = {"above": "below", "below": "above"}.get(getattr(method, "side", ""))
    mirrored = compute_surface(
        DESCENT.path,
        DESCENT.objective(),
        dataclasses.replace(method, side=swapped) if swapped and axis == 1 else method,
        plane=mirrored_plane(plane, axis),
        grid=Grid(*lines),
    )
    expected = surface.loss[:, ::-1] if axis == 0 else surface.loss[::-1]
    np.testing.assert_allclose(mirrored.loss, expected, rtol=1e-10)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_what_is_evaluated_projects_onto_its_grid_point(method):
    objective = DESCENT.objective(Watched)
    states = StateLosses(np.array([0, 11]), np.zeros(2))
    surface = compute_surface(DESCENT.path, objective, method, 5, states=states, fidelity=False)
    plane = fit_plane(DESCENT.path)
    grid = Grid.around(plane.path.coordinates, 5)
    points = grid.points[np.concatenate(grid.levels())]
    assert points.shape == (surface.loss.size, 2)
    if method.vectors_at_a_point > 1:  # in any order
        count = len(method.lift(points, plane.path))
        places = plane.project(objective.vectors[-count:])
        apart = np.abs(places[:, None] - points).max(axis=2)
        assert apart.min(axis=1).max() < 1e-13
        assert {*apart.argmin(axis=1).tolist()} == {*range(len(points))}
        return
    evaluated = objective.vectors[-len(points) :]
    np.testing.assert_allclose(plane.project(evaluated), points, rtol=0, atol=1e-14 * 6 * 4)


def test_duplicated_states_do_not_change_a_surface_by_arc_length():
    once = compute_surface(DESCENT.path, DESCENT.objective(), Averaged(1.0, arc_length=True), 5)
    path = np.repeat(DESCENT.path, 3, axis=0)
    thrice = compute_surface(path, DESCENT.objective(), Averaged(1.0, arc_length=True), 5)
    np.testing.assert_allclose(thrice.x, once.x, atol=1e-12)
    np.testing.assert_allclose(thrice.loss, once.loss, rtol=1e-9)


@pytest.mark.parametrize("method", ["averaged", "averaged-nd"])
def test_temperature_carries_the_surface_from_sampled_to_pca(method):
    kind = type(method_named(method))

    def surface(rule):
        return compute_surface(DESCENT.path, DESCENT.objective(), rule, 5).loss

    np.testing.assert_allclose(surface(kind(temperature=1e9)), surface("pca"), rtol=1e-6)
    if method == "averaged":
        np.testing.assert_allclose(surface(kind(temperature=1e-7)), surface("sampled"), rtol=1e-9)


def test_automatic_temperature_is_in_the_provenance():
    surface = compute_surface(DESCENT.path, DESCENT.objective(), Averaged("auto"), 4)
    plane = fit_plane(DESCENT.path)
    expected = np.sqrt(np.mean(np.sum(plane.path.coordinates**2, axis=1)) / 2) * 12 ** (-1 / 6)
    assert surface.provenance["method"]["temperature"] == pytest.approx(expected)
    assert f"{expected:.3g}" in surface.description
    same = compute_surface(
        DESCENT.path, DESCENT.objective(), Averaged(surface.provenance["method"]["temperature"]), 4
    )
    assert_same(surface, same)


def test_method_by_name_and_as_a_rule_are_one():
    for name in ("pca", "sampled", "sampled-pca", "averaged", "averaged-nd"):
        by_name = compute_surface(DESCENT.path, DESCENT.objective(), name, 4)
        assert_same(
            by_name, compute_surface(DESCENT.path, DESCENT.objective(), method_named(name), 4)
        )
        assert by_name.provenance["method"]["name"] == name
    with pytest.raises(ArgumentError, match=r"averaged-nd.*'kriging'"):
        compute_surface(DESCENT.path, DESCENT.objective(), "kriging")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_array_tensor_and_recorded_path_give_one_surface(tmp_path, dtype):
    model = DESCENT.objective().model.to(getattr(torch, dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    matrix, bottom = (
        torch.from_numpy(values.astype(dtype)) for values in (DESCENT.matrix, DESCENT.bottom)
    )
    with Recorder(tmp_path / "run", model, dtype=dtype) as recorder:
        for step in range(8):
            optimizer.zero_grad()
            vector = torch.cat([model.first, model.second.reshape(-1)])
            away = vector - bottom
            loss = 0.5 * away @ (matrix @ away) + 0.1 * step * vector[step % 6]
            loss.backward()
            optimizer.step()
            recorder.record(loss)
    recorded = Trajectory(tmp_path / "run")
    objective = DESCENT.objective()
    surface = compute_surface(recorded, objective, "averaged", 5)
    for path in (recorded[:], torch.from_numpy(recorded[:])):
        other = compute_surface(path, objective, "averaged", 5)
        assert other.loss.tobytes() == surface.loss.tobytes()
        assert other.x.tobytes() == surface.x.tobytes()
    own = [DESCENT.loss(recorded[int(i)]) for i in surface.states.index]
    np.testing.assert_allclose(surface.states.loss, own, rtol=1e-12)
    window = compute_surface(recorded.window(2, 7), objective, "averaged", 5)
    part = compute_surface(recorded[2:7], objective, "averaged", 5)
    assert window.loss.tobytes() == part.loss.tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_path_gives_the_surface_of_its_values(dtype):
    states = torch.from_numpy(DESCENT.path).to(dtype)
    half = compute_surface(states, DESCENT.objective(), "averaged", 4)
    single = compute_surface(states.float(), DESCENT.objective(), "averaged", 4)
    np.testing.assert_allclose(half.loss, single.loss, rtol=1e-5)


def test_plane_and_objective_of_something_else_are_refused():
    other = fit_plane(descent(12, 7, seed=5))
    with pytest.raises(ArgumentError, match=r"7 parameters, as the plane has, got one of 6"):
        compute_surface(DESCENT.path, DESCENT.objective(), plane=other)
    with pytest.raises(ArgumentError, match="2 components, got 3"):
        compute_surface(DESCENT.path, DESCENT.objective(), plane=fit_plane(DESCENT.path, 3))
    with pytest.raises(ModelError, match=r"6 numbers.*7 parameters"):
        compute_surface(DESCENT.path, objective_of(lambda w: w.sum(), 7))
    with pytest.raises(ArgumentError, match="resolution"):
        compute_surface(DESCENT.path, DESCENT.objective(), resolution=2)


def test_recorded_path_of_another_network_is_refused(tmp_path):
    with Recorder(tmp_path / "run", torch.nn.Linear(5, 1)) as recorder:
        recorder.record(0.0)
    with pytest.raises(ModelError, match="not of the same network"):  # also of six numbers
        compute_surface(Trajectory(tmp_path / "run"), DESCENT.objective())


@pytest.mark.parametrize("method", ["pca", "averaged"])
def test_losses_that_are_nan_or_infinite_stay_so(tmp_path, method):
    plane = fit_plane(DESCENT.path)
    first, second = (torch.from_numpy(plane.basis[:, k].copy()) for k in (0, 1))
    origin = torch.from_numpy(plane.origin)

    def function(w):
        x, y = first @ (w - origin), second @ (w - origin)
        nan, inf = torch.full_like(x, torch.nan), torch.full_like(x, torch.inf)
        return torch.where(x > 1.0, nan, torch.where(y > 0.5, inf, x))

    objective = objective_of(function, 6)
    grid = Grid(np.array([-2.0, 0.0, 2.0]), np.array([-1.0, 1.0]))
    file = tmp_path / "points"
    for _ in range(2):  # as evaluated, and as the checkpoint has them
        surface = compute_surface(DESCENT.path, objective, method, grid=grid, checkpoint=file)
        np.testing.assert_allclose(
            surface.loss, [[-2, 0, np.nan], [np.inf, np.inf, np.nan]], atol=1e-12
        )
        assert surface.evaluated.all()
    surface.save(tmp_path / "surface.npz")
    assert_same(Surface.load(tmp_path / "surface.npz"), surface)


def test_accuracy_is_that_of_each_point():
    objective, path = classifier()
    surface = compute_surface(path, objective, "pca", 4)
    plane = fit_plane(path)
    for i, y in enumerate(surface.y):
        for j, x in enumerate(surface.x):
            evaluation = objective(plane.origin + plane.basis @ [x, y])
            assert surface.loss[i, j] == pytest.approx(evaluation.loss, rel=1e-5)
            assert surface.accuracy[i, j] == pytest.approx(evaluation.accuracy, abs=0.051)
    assert len(np.unique(surface.accuracy)) > 2
    assert compute_surface(DESCENT.path, DESCENT.objective(), "pca", 4).accuracy is None


@pytest.mark.parametrize("kind", ["loss", "accuracy"])
def test_saved_surface_is_loaded_bit_for_bit(tmp_path, kind):
    objective, path = classifier() if kind == "accuracy" else (DESCENT.objective(), DESCENT.path)
    surface = compute_surface(path, objective, Averaged("auto"), 5)
    surface.save(tmp_path / "surface.npz")
    loaded = Surface.load(tmp_path / "surface.npz")
    assert_same(loaded, surface)
    assert loaded.description == surface.description
    assert (loaded.accuracy is None) == (kind == "loss")


def test_saved_surface_opens_with_numpy_alone(tmp_path):
    surface = compute_surface(DESCENT.path, DESCENT.objective(), Averaged(temperature=1.0), 5)
    surface.save(tmp_path / "surface.npz")
    with np.load(tmp_path / "surface.npz", allow_pickle=False) as archive:
        for field in SURFACE_ARRAYS:
            np.testing.assert_array_equal(archive[field], getattr(surface, field))
        assert archive["loss"].shape == (len(archive["y"]), len(archive["x"]))
        assert int(archive["format_version"]) == 1
        provenance = json.loads(str(archive["provenance"]))
    # Keys of results that are kept depend on this: an option that is as usual adds nothing.
    usual = {"name": "averaged", "temperature": 1.0, "arc_length": False}
    assert provenance["method"] == usual
    assert (provenance["states"], provenance["parameters"], provenance["samples"]) == (12, 6, 3)
    assert provenance["path_digest"] == fit_plane(DESCENT.path).path.path_digest
    assert {"losspath", "torch", "threads", "device", "plane_residual"} <= set(provenance)


def test_damaged_surface_is_refused(tmp_path):
    file = tmp_path / "surface.npz"
    surface = compute_surface(DESCENT.path, DESCENT.objective(), "pca", 4)
    surface.save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    with pytest.raises(DamagedError):
        Surface.load(file)
    number = surface.loss[1, 2].tobytes()
    file.write_bytes(whole.replace(number, number[:3] + bytes([number[3] ^ 1]) + number[4:]))
    with pytest.raises(StoreError):
        Surface.load(file)
    fit_plane(DESCENT.path).save(file)
    with pytest.raises(StoreError, match="'plane' and not a surface"):
        Surface.load(file)
    with pytest.raises(StoreError, match="no file"):
        Surface.load(tmp_path / "none.npz")


def test_progress_counts_every_point(tmp_path):
    calls = []
    options = {"resolution": 4, "checkpoint": tmp_path / "points"}
    for expected in (range(1, 17), [16]):  # the second finds all of them done
        calls.clear()
        compute_surface(
            DESCENT.path,
            DESCENT.objective(),
            "pca",
            progress=lambda *call: calls.append(call),
            **options,
        )
        assert calls == [(done, 16) for done in expected]


def test_model_is_as_it_was():
    objective, path = classifier()
    objective.model.train()
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    torch.manual_seed(3)
    random = torch.get_rng_state()
    kept = path.copy()
    compute_surface(path, objective, "averaged", 4)
    assert objective.model.training
    for name, value in objective.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(torch.get_rng_state(), random)
    assert path.tobytes() == kept.tobytes()


@pytest.mark.parametrize("count", [2, 3, 8, 25, 1000])
def test_spread_states_are_even_along_the_path(count):
    # Steps that shrink a hundredfold: even along the path is far from even in time.
    steps = np.geomspace(1.0, 0.01, 199)
    path = np.stack([np.append(0.0, np.cumsum(steps)), np.zeros(200)], axis=1)
    index = spread_states(path, count)
    assert (index[0], index[-1]) == (0, 199)
    assert (np.diff(index) > 0).all()
    assert len(index) <= count
    if count <= 25:
        wanted = np.linspace(0.0, path[-1, 0], count)
        assert len(index) == count
        assert np.abs(path[index, 0] - wanted).max() <= 0.5 + 1e-12
    for few in (1, 0):
        with pytest.raises(ArgumentError, match="at least 2"):
            spread_states(path, few)


def test_states_given_are_not_evaluated_again():
    first = compute_surface(DESCENT.path, DESCENT.objective(), "pca", 4, states=5)
    assert len(first.states.index) <= 5
    watched = DESCENT.objective(Watched)
    second = compute_surface(DESCENT.path, watched, "pca", 4, states=first.states, fidelity=False)
    assert second.states is first.states
    assert len(watched.vectors) == 16
