"""Surfaces and interpolations by the fast evaluation, against those by the plain loop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losspath
from losspath.evaluation.execution import engine, tuning
from losspath.evaluation.execution.tuning import EngineConfig
from losspath.methods import METHODS
from losspath.thesis.as_drawn import AveragedAsPrinted, PCAAsDrawn
from losspath.thesis.networks import build_network


@pytest.fixture(scope="module")
def walk():
    """A path of a small network, and its objective."""
    torch.manual_seed(0)
    model = build_network("tiny-cnn", 1, 10)
    inputs, targets = torch.randn(60, 1, 32, 32), torch.randint(10, (60,))
    objective = losspath.Objective(model, inputs, targets, F.cross_entropy)
    start = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
    steps = 0.05 * np.random.default_rng(0).standard_normal((12, len(start)))
    return (start + np.cumsum(steps, axis=0)).astype(np.float32), objective


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(engine, "_SMALL", 0)
    chosen = EngineConfig(batch_size=16, threads=2, first_layer_group=3, group_size=5)
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: chosen)


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("method", [*METHODS, PCAAsDrawn(), AveragedAsPrinted()], ids=str)
def test_surfaces_equal_those_of_the_plain_loop(walk, fast, monkeypatch, method):
    path, objective = walk
    quick = losspath.compute_surface(path, objective, method, resolution=6)
    monkeypatch.setattr(engine, "_SMALL", 1e99)
    plain = losspath.compute_surface(path, objective, method, resolution=6)
    notes = quick.provenance["evaluation"]
    assert any("batches of 16" in note for note in notes)
    assert plain.provenance["evaluation"] == []
    np.testing.assert_allclose(quick.loss, plain.loss, rtol=1e-5)
    np.testing.assert_array_equal(quick.accuracy, plain.accuracy)
    np.testing.assert_allclose(quick.states.loss, plain.states.loss, rtol=1e-5)
    flat = str(method).lower().startswith("pca")
    kind = "points on a plane or line" if flat else "separate points"
    assert notes[0].startswith(f"few {kind}")
    assert any(note.startswith(kind) for note in notes)


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", ["pca", "averaged"])
def test_a_fast_surface_that_is_stopped_equals_one_that_is_not(walk, fast, tmp_path, method):
    path, objective = walk
    whole = losspath.compute_surface(path, objective, method, resolution=6)
    checkpoint = tmp_path / "points"
    for stop_after in (1, 7, 12, 23, 99):

        def stop(done, total, after=stop_after):
            if done == after:
                raise Stop

        try:
            found = losspath.compute_surface(
                path, objective, method, resolution=6, checkpoint=checkpoint, progress=stop
            )
        except Stop:
            continue
    np.testing.assert_array_equal(found.loss, whole.loss)
    np.testing.assert_array_equal(found.accuracy, whole.accuracy)


def test_a_surface_goes_on_as_it_began_whatever_has_been_measured_since(
    walk, fast, monkeypatch, tmp_path
):
    path, objective = walk
    whole = losspath.compute_surface(path, objective, "pca", resolution=6)

    def stop(done, total):
        if done == 30:
            raise Stop

    options = {"resolution": 6, "checkpoint": tmp_path / "points"}
    with pytest.raises(Stop):
        losspath.compute_surface(path, objective, "pca", progress=stop, **options)
    other = EngineConfig(batch_size=25, threads=1, first_layer_group=1, group_size=3)
    monkeypatch.setattr(tuning, "remembered", lambda key, measure: other)
    found = losspath.compute_surface(path, objective, "pca", **options)
    np.testing.assert_array_equal(found.loss, whole.loss)
    assert set(found.provenance["evaluation"]) <= set(whole.provenance["evaluation"])
    assert any("batches of 16" in note for note in found.provenance["evaluation"])


def test_interpolations_equal_those_of_the_plain_loop(walk, fast, monkeypatch, tmp_path):
    path, objective = walk
    quick = losspath.interpolate(path, objective, checkpoint=tmp_path / "points")
    again = losspath.interpolate(path, objective, checkpoint=tmp_path / "points")
    monkeypatch.setattr(engine, "_SMALL", 1e99)
    plain = losspath.interpolate(path, objective)
    np.testing.assert_allclose(quick.loss, plain.loss, rtol=1e-5)
    np.testing.assert_array_equal(quick.loss, again.loss)
    for alpha in (0.0, 1.0):
        column = quick.alpha.tolist().index(alpha)
        assert quick.loss[0, column] == objective(path[0 if alpha == 0 else -1]).loss


def test_interpolating_to_a_state_that_is_not_finite_keeps_what_is(walk, fast):
    path, objective = walk
    broken = path.copy()
    broken[-1, 3] = np.inf
    curves = losspath.interpolate(broken, objective, layers=False)
    assert curves.loss[0, curves.alpha.tolist().index(0.0)] == objective(path[0]).loss
    assert np.isnan(curves.loss[0, -1])


def test_forward_hooks_run_a_number_of_times_that_does_not_depend_on_the_grid(walk, fast):
    path, objective = walk
    calls = []
    handle = objective.model.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for resolution in (5, 9, 13):
        calls.clear()
        losspath.compute_surface(path, objective, "pca", resolution, states=3)
        counts.append(len(calls))
    handle.remove()
    assert counts[1] == counts[2]
    assert counts[2] < 13 * 13 * 4 / 2  # the plain loop has four batches a point
