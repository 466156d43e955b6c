"""Surfaces, states and lines of every quantity of an objective: known answers, files, workers."""

import inspect
import math

import numpy as np
import pytest
import torch

import losspath
from cases import descent
from losspath import Interpolation, LocalProcesses, Objective, Surface
from losspath.errors import ArgumentError
from losspath.recording.trajectory import as_path
from losspath.surface import LOSS, evaluate_states, spread_states

PATH = descent(12, 6)


class Columns(torch.nn.Module):
    """Three numbers of a vector, the same for every sample: its square, its first, half its sum."""

    def __init__(self):
        super().__init__()
        self.vector = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))

    def forward(self, inputs):
        w = self.vector
        return torch.stack([w @ w, w[0], w.sum() / 2]).expand(len(inputs), 3)


def square(outputs, targets):
    return outputs[:, 0].mean()


def first(outputs, targets):
    return outputs[:, 1].mean()


def half(outputs, targets):
    return outputs[:, 2].mean()


def share(outputs, targets):
    return torch.sigmoid(outputs[:, 1]).mean()


METRICS = {"first": first, "exp of half the sum": (half, math.exp), "accuracy": share}


def objective(metrics=METRICS):
    return Objective(Columns(), torch.zeros(3, 1), torch.zeros(3), square, metrics=metrics)


def expected(vectors):
    """What each quantity is, by definition."""
    w = np.asarray(vectors, np.float64)
    return {
        "loss": np.sum(w**2, axis=-1),
        "accuracy": 1 / (1 + np.exp(-w[..., 0])),
        "first": w[..., 0],
        "exp of half the sum": np.exp(w.sum(axis=-1) / 2),
    }


def assert_values(values, known):
    assert set(values) == set(known)
    for name, found in values.items():
        np.testing.assert_allclose(found, known[name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("method", ["pca", "sampled", "sampled-pca", "averaged", "averaged-nd"])
def test_every_quantity_has_its_surface(method):
    landscape = losspath.Landscape(PATH, objective(), method)
    surface = landscape.surface(7, states=4)
    points = losspath.Grid(surface.x, surface.y).points
    vectors = np.stack(list(landscape.parameters(points))).reshape(*surface.loss.shape, 6)
    assert_values(surface.values, expected(vectors))
    assert_values(surface.states.values, expected(PATH[surface.states.index]))
    assert surface.values["loss"] is surface.loss
    assert surface.values["accuracy"] is surface.accuracy


def test_one_that_has_the_loss_alone_has_its_surface_alone():
    surface = losspath.compute_surface(PATH, objective(metrics=None), "pca", 3)
    assert list(surface.values) == list(surface.states.values) == [LOSS]
    assert surface.accuracy is None


def test_a_coarse_surface_has_what_is_known_and_nothing_else():
    coarse = next(iter(losspath.refine_surface(PATH, objective(), "pca", 9)))
    for values in coarse.values.values():
        np.testing.assert_array_equal(np.isfinite(values), coarse.evaluated)
    assert set(coarse.values) == set(METRICS) | {LOSS}


def test_workers_and_checkpoints_have_the_same(tmp_path):
    surface = losspath.compute_surface(PATH, objective(), "averaged", 5)
    with LocalProcesses(1) as pool:
        there = losspath.compute_surface(PATH, objective(), "averaged", 5, executor=pool)
    assert_values(there.values, surface.values)
    for _ in range(2):
        again = losspath.compute_surface(
            PATH, objective(), "averaged", 5, checkpoint=tmp_path / "points"
        )
        assert_values(again.values, surface.values)


def test_they_are_saved_under_any_name(tmp_path):
    names = {"a/b c": first, "loss of it": half, "θ": (half, math.exp)}
    surface = losspath.compute_surface(PATH, objective(names), "pca", 3)
    surface.save(tmp_path / "surface.npz")
    again = Surface.load(tmp_path / "surface.npz")
    assert_values(again.values, surface.values)
    assert_values(again.states.values, surface.states.values)
    line = losspath.interpolate(PATH, objective(names))
    line.save(tmp_path / "line.npz")
    assert_values(Interpolation.load(tmp_path / "line.npz").values, line.values)


def test_a_file_of_before_has_loss_and_accuracy(tmp_path):
    from losspath.files import save_archive

    surface = losspath.compute_surface(PATH, objective(), "pca", 3)
    names = ("x", "y", "loss", "accuracy", "evaluated", "path", "explained_variance_ratio")
    arrays = {name: getattr(surface, name) for name in names}
    arrays |= {"state_index": surface.states.index, "state_loss": surface.states.loss}
    save_archive(tmp_path / "old.npz", "surface", 1, arrays, surface.provenance)
    old = Surface.load(tmp_path / "old.npz")
    assert list(old.values) == ["loss", "accuracy"]
    assert list(old.states.values) == ["loss"]
    np.testing.assert_array_equal(old.accuracy, surface.accuracy)


def test_every_quantity_is_read_between_points():
    surface = losspath.compute_surface(PATH, objective(), "pca", 9)
    plane = losspath.fit_plane(PATH)
    points = np.array([[0.1, -0.2], [0.3, 0.05]])
    # Linear in the vector, so that reading it bilinearly is exact.
    vectors = plane.origin + points @ plane.basis.T
    np.testing.assert_allclose(surface.at(points, "first"), vectors[:, 0], rtol=1e-9)
    np.testing.assert_array_equal(surface.at(points), surface.at(points, "loss"))
    with pytest.raises(ArgumentError, match=r"quantity as one of loss, accuracy, first.*'second'"):
        surface.at(points, "second")


def test_states_differ_from_the_ground_by_what_is_off_the_plane():
    surface = losspath.compute_surface(PATH, objective(), "pca", 9, states=5)
    plane = losspath.fit_plane(PATH)
    states = PATH[surface.states.index]
    off = states[:, 0] - (plane.origin + plane.project(states) @ plane.basis.T)[:, 0]
    np.testing.assert_allclose(surface.state_differences("first"), np.abs(off), atol=1e-9)
    np.testing.assert_allclose(
        surface.state_errors, surface.state_differences("loss") / surface.states.loss
    )


def test_states_themselves_have_every_quantity():
    index = spread_states(losspath.fit_plane(PATH).path.coordinates, 5)
    found = evaluate_states(as_path(PATH), objective(), index)
    assert_values(found.values, expected(PATH[index]))


def test_every_quantity_has_its_curve():
    line = losspath.interpolate(PATH, objective(), 2, -1, layers=False)
    vectors = (1 - line.alpha)[:, None] * PATH[2] + line.alpha[:, None] * PATH[-1]
    assert_values(line.values, {n: v[None] for n, v in expected(vectors).items()})


def test_barriers_of_a_metric_and_one_that_is_not_there():
    found = losspath.barriers(list(PATH[[0, -1]]), objective(), points=5, quantity="first")
    between = (1 - found.alpha) * PATH[0, 0] + found.alpha * PATH[-1, 0]
    np.testing.assert_allclose(found.values[0, 1], between, rtol=1e-9)
    with pytest.raises(ArgumentError, match="one of loss, accuracy, first, exp of half the sum"):
        losspath.barriers(list(PATH[[0, -1]]), objective(), points=3, quantity="second")


def test_metrics_of_another_form_are_refused():
    surface = losspath.compute_surface(PATH, objective(), "pca", 3)
    fields = {name: getattr(surface, name) for name in inspect.signature(Surface).parameters}
    with pytest.raises(ArgumentError, match="expected first of shape"):
        Surface(**{**fields, "metrics": {"first": np.zeros(3)}})
