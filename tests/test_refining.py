"""Surfaces that come coarse first and then finer."""

import numpy as np
import pytest

import losspath
from cases import descent, problem
from losspath import Grid, compute_surface, fit_plane, refine_surface
from losspath.geometry import blend
from losspath.methods import METHODS
from losspath.surface import StateLosses
from losspath.surface.lifted import LiftedPlane
from losspath.surface.sampling import GridSampler

DESCENT = problem("descent", descent(12, 6))


@pytest.mark.parametrize("method", METHODS)
def test_each_surface_has_more_points_and_the_last_is_the_surface(method):
    surfaces = list(refine_surface(DESCENT.path, DESCENT.objective(), method, 9))
    whole = compute_surface(DESCENT.path, DESCENT.objective(), method, 9)
    assert [int(s.evaluated.sum()) for s in surfaces] == [9, 25, 81]
    for surface in surfaces:
        np.testing.assert_array_equal(np.isfinite(surface.loss), surface.evaluated)
        there = surface.evaluated
        np.testing.assert_array_equal(surface.loss[there], whole.loss[there])
        np.testing.assert_array_equal(surface.path, whole.path)
        assert surface.provenance["key"] == whole.provenance["key"]
    np.testing.assert_array_equal(surfaces[-1].loss, whole.loss)
    np.testing.assert_array_equal(surfaces[-1].states.loss, whole.states.loss)
    # The first picture waits for the losses of the path's ends alone.
    assert surfaces[0].states.index.tolist() == [0, len(DESCENT.path) - 1]
    assert surfaces[1].states.index.tolist() == whole.states.index.tolist()


def test_stopped_early_a_surface_can_be_saved_read_drawn_and_gone_on_with(tmp_path):
    checkpoint = tmp_path / "points"
    options = {"method": "averaged", "resolution": 9, "checkpoint": checkpoint}
    surfaces = refine_surface(DESCENT.path, DESCENT.objective(), **options)
    next(surfaces)
    coarse = next(surfaces)
    surfaces.close()  # and with it the checkpoint
    coarse.save(tmp_path / "coarse.npz")
    again = losspath.Surface.load(tmp_path / "coarse.npz")
    np.testing.assert_array_equal(again.evaluated, coarse.evaluated)
    assert np.isfinite(again.state_errors).all()
    losspath.plot_surface(again)
    calls = []
    whole = compute_surface(
        DESCENT.path, DESCENT.objective(), progress=lambda *call: calls.append(call), **options
    )
    assert calls[0] == (25, 81)
    np.testing.assert_array_equal(
        whole.loss, compute_surface(DESCENT.path, DESCENT.objective(), "averaged", 9).loss
    )


def test_states_that_are_given_are_in_every_surface():
    states = StateLosses(np.array([0, 3, 11]), np.array([3.0, 2.0, 1.0]))
    for surface in refine_surface(DESCENT.path, DESCENT.objective(), "pca", 9, states=states):
        assert surface.states is states


@pytest.mark.parametrize("room", [1, 20, 1000])
def test_the_path_is_read_once_for_the_first_levels_and_once_for_the_last(monkeypatch, room):
    plane = fit_plane(DESCENT.path)
    monkeypatch.setattr(blend, "_GROUP_BYTES", room * 8 * len(plane.origin))
    path = losspath.recording.trajectory.as_path(DESCENT.path)
    sampler = GridSampler(Grid.around(plane.path.coordinates, 9))
    lifted = LiftedPlane(path, plane, plane.path, METHODS["averaged"]())
    passes = []
    while asks := sampler.ask():
        passes += lifted._passes(asks, 7)
    numbers = np.concatenate([ask.numbers for each in passes for ask in each])
    np.testing.assert_array_equal(numbers, np.concatenate(sampler.grid.levels()))
    assert all(sum(len(ask.numbers) for ask in each) <= room for each in passes)
    if room == 1000:
        assert len(passes) == 2
