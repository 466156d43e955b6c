"""The loss at points of a plane: any plane, any rule, and several vectors at a point."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from cases import METHODS, PROBLEMS, descent, named, objective_of
from losspath import Grid, Landscape, Plane, compute_surface, fit_plane, refine_surface
from losspath.errors import ArgumentError, UnsupportedError
from losspath.evaluation.quantities import Evaluation
from losspath.geometry import pca
from losspath.methods import Lift, Method, Sampled
from losspath.surface.lifted import LiftedPlane
from losspath.surface.running import evaluated
from losspath.surface.sampling import Ask, Sampler

DESCENT = PROBLEMS[0]
POINTS = np.array([[0.0, 0.0], [0.7, -1.1], [-2.0, 0.3], [3.0, 2.0]])


def any_plane(count, seed=0):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((count, 2)))[0]
    return Plane(rng.standard_normal(count), basis, ("one", "other"))


@dataclass(frozen=True)
class Two(Method):
    """A third of the plane through the first state, and two thirds of that through the last."""

    name: ClassVar[str] = "two"
    vectors_at_a_point: ClassVar[int] = 2

    def weights(self, points, path):
        raise NotImplementedError

    def lift(self, points, path):
        count = len(points)
        ends = np.zeros((2, len(path)))
        ends[0, 0] = ends[1, -1] = 1.0
        return Lift(
            places=np.repeat(points, 2, axis=0),
            weights=np.tile(ends, (count, 1)),
            point=np.repeat(np.arange(count), 2),
            share=np.tile([1 / 3, 2 / 3], count),
        )


# -- planes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5, 1000])
@pytest.mark.parametrize("problem", PROBLEMS, ids=named)
def test_a_path_as_any_plane_shows_it(monkeypatch, problem, rows):
    states = np.asarray(problem.path, np.float64)
    monkeypatch.setattr(pca, "_BLOCK_BYTES", rows * 16 * states.shape[1])
    plane = any_plane(states.shape[1])
    found = plane.projection(problem.path)
    inside = (states - plane.origin) @ plane.basis
    off = states - plane.origin - inside @ plane.basis.T
    np.testing.assert_allclose(found.coordinates, inside, atol=1e-11 * np.abs(states).max())
    np.testing.assert_allclose(
        found.residual_norms, np.linalg.norm(off, axis=1), atol=1e-6 * np.abs(states).max()
    )
    total = states.var(axis=0, ddof=1).sum()
    assert found.total_variance == pytest.approx(total, rel=1e-6)
    np.testing.assert_allclose(found.explained_variance, inside.var(axis=0, ddof=1), rtol=1e-8)


def test_the_plane_that_was_fitted_shows_other_paths_too():
    plane, other = fit_plane(DESCENT.path), descent(7, 6, seed=3)
    assert plane.projection(DESCENT.path) is plane.path
    found = plane.projection(other)
    np.testing.assert_allclose(found.coordinates, plane.project(other), atol=1e-12)
    assert len(found) == 7


@pytest.mark.parametrize("shape", [(5, 5), (4, 7)])
def test_an_affine_loss_is_an_affine_grid_on_any_plane(shape):
    slope = np.random.default_rng(1).standard_normal(6)
    objective = objective_of(lambda w: 2.0 + w @ torch.from_numpy(slope), 6)
    plane = any_plane(6)
    grid = Grid(np.linspace(-2, 3, shape[1]), np.linspace(-1, 1, shape[0]))
    surface = compute_surface(DESCENT.path, objective, "pca", plane=plane, grid=grid)
    x, y = np.meshgrid(grid.x, grid.y)
    along = plane.basis.T @ slope
    expected = 2.0 + plane.origin @ slope + x * along[0] + y * along[1]
    np.testing.assert_allclose(surface.loss, expected, rtol=1e-12, atol=1e-12)
    assert surface.labels == ("one", "other")
    np.testing.assert_allclose(surface.path, plane.project(DESCENT.path), atol=1e-12)


def test_a_line_in_a_plane():
    slope = np.random.default_rng(1).standard_normal(6)
    objective = objective_of(lambda w: 2.0 + w @ torch.from_numpy(slope), 6)
    landscape = Landscape(DESCENT.path, objective, "pca", plane=any_plane(6))
    start, end = POINTS[1], POINTS[2]
    line = landscape.line(start, end, 5)
    assert line.alpha.tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_array_equal(line.points[[0, -1]], [start, end])
    one, other = (found.loss for found in landscape.evaluate([start, end]))
    np.testing.assert_allclose(line.loss, np.linspace(one, other, 5), rtol=1e-12)
    assert repr(line) == "Line: 5 positions, loss"
    for wrong in ([0.0], [0.0, np.nan], "end"):
        with pytest.raises(ArgumentError):
            landscape.line(start, wrong)
    with pytest.raises(ArgumentError, match="positions"):
        landscape.line(start, end, 1)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_points_project_to_where_they_are_drawn_on_any_plane(method):
    plane = any_plane(6)
    landscape = Landscape(DESCENT.path, DESCENT.objective(), method, plane=plane)
    point, share, vectors = (
        np.array(part) for part in zip(*landscape.vectors(POINTS), strict=True)
    )
    np.testing.assert_allclose(plane.project(vectors), POINTS[point], atol=1e-12)
    losses = np.array([DESCENT.loss(vector) for vector in vectors])
    if method.is_logarithmic:
        expected = np.exp(np.bincount(point, share * np.log(losses)))
    else:
        expected = np.bincount(point, share * losses)
    drawn = [each.loss for each in landscape.evaluate(POINTS)]
    np.testing.assert_allclose(drawn, expected, rtol=1e-10)


def test_sampled_is_exact_at_states_on_any_plane():
    plane = any_plane(6)
    landscape = Landscape(DESCENT.path, DESCENT.objective(), Sampled(), plane=plane)
    places = landscape.projection.coordinates
    for state, found in zip(DESCENT.path, landscape.evaluate(places), strict=True):
        assert found.loss == pytest.approx(DESCENT.loss(state), rel=1e-10)


@pytest.mark.parametrize(
    ("origin", "basis", "labels", "says"),
    [
        (np.zeros(3), np.eye(3)[:, :2] * 2, "ab", "orthonormal"),
        (np.zeros(3), np.ones((3, 2)) / np.sqrt(3), "ab", "orthonormal"),
        (np.zeros(4), np.eye(3)[:, :2], "ab", r"origin \(P,\)"),
        (np.zeros(3), np.eye(3)[:, :2], "abc", "label for each of 2 axes"),
        (np.zeros(3), np.full((3, 2), np.nan), "ab", "orthonormal"),
    ],
)
def test_what_is_no_plane_is_refused(origin, basis, labels, says):
    with pytest.raises(ArgumentError, match=says):
        Plane(origin, basis, tuple(labels))


# -- several vectors at a point --------------------------------------------------------------------


def expected_of_two(point, plane):
    shown = plane.projection(DESCENT.path)
    inside = plane.origin + plane.basis @ point
    ends = [DESCENT.path[i] - plane.origin - plane.basis @ shown.coordinates[i] for i in (0, -1)]
    losses = [DESCENT.loss(inside + end) for end in ends]
    return losses[0] / 3 + 2 * losses[1] / 3


def test_another_method_on_the_same_plane_projects_nothing_again(monkeypatch):
    path, objective = DESCENT.path, DESCENT.objective()
    plane = any_plane(np.shape(path)[1])
    first = Landscape(path, objective, "pca", plane=plane)
    alone = Landscape(path, objective, "sampled", plane=plane)
    monkeypatch.setattr(Plane, "projection", lambda *given: pytest.fail("projected"))
    other = first.with_method("sampled")
    assert (first.method.name, other.method.name) == ("pca", "sampled")
    assert other.evaluate(POINTS) == alone.evaluate(POINTS)
    assert first.evaluate(POINTS) != alone.evaluate(POINTS)
    ends, some = first.states(ends=True), first.states(5)
    assert ends.index.tolist() == [0, len(path) - 1]
    assert set(ends.index) <= set(some.index)
    assert first.states(some) is some


def test_a_point_of_several_vectors_has_the_mean_of_their_losses():
    landscape = Landscape(DESCENT.path, DESCENT.objective(), Two())
    for point, found in zip(POINTS, landscape.evaluate(POINTS), strict=True):
        assert found.loss == pytest.approx(expected_of_two(point, landscape.plane), rel=1e-10)
    shares = [(number, share) for number, share, _ in landscape.vectors(POINTS[:2])]
    assert shares == [(0, 1 / 3), (0, 2 / 3), (1, 1 / 3), (1, 2 / 3)]
    with pytest.raises(UnsupportedError, match="several vectors at a point"):
        list(landscape.parameters(POINTS))


def test_surfaces_of_several_vectors_are_refined_and_gone_on_with(tmp_path):
    plane = fit_plane(DESCENT.path)
    whole = compute_surface(DESCENT.path, DESCENT.objective(), Two(), 7, plane=plane)
    x, y = np.meshgrid(whole.x, whole.y)
    expected = [expected_of_two(point, plane) for point in zip(x.flat, y.flat, strict=True)]
    np.testing.assert_allclose(whole.loss.reshape(-1), expected, rtol=1e-10)
    file = tmp_path / "points"
    steps = refine_surface(DESCENT.path, DESCENT.objective(), Two(), 7, checkpoint=file)
    assert not next(steps).evaluated.all()
    steps.close()
    objective = DESCENT.objective()
    again = compute_surface(DESCENT.path, objective, Two(), 7, checkpoint=file)
    np.testing.assert_array_equal(again.loss, whole.loss)


def test_what_one_vector_lacks_the_mean_lacks():
    one = Evaluation(1.0, 0.5, {"a": 2.0, "b": 1.0})
    other = Evaluation(3.0, None, {"a": 4.0})
    found = Evaluation.mean([one, other], [0.25, 0.75])
    assert found == Evaluation(2.5, None, {"a": 3.5})
    assert Evaluation.mean([one], [1.0]) is one


# -- asking and telling ----------------------------------------------------------------------------


class Bisecting(Sampler):
    """Looks for the lowest loss along the first axis, by what it is told."""

    def __init__(self, left, right, steps):
        self.ends, self.steps, self.losses, self.numbers = [left, right], steps, {}, {}
        self.asked = 0

    @property
    def total(self):
        return 2 * self.steps

    def ask(self):
        if self.asked == 2 * self.steps or len(self.losses) < self.asked:
            return []
        left, right = self.ends
        if self.asked:
            lower = self.losses[self.asked - 2] < self.losses[self.asked - 1]
            middle = (left + right) / 2
            self.ends = left, right = (left, middle) if lower else (middle, right)
        third = (right - left) / 3
        points = np.array([[left + third, 0.0], [right - third, 0.0]])
        numbers = np.arange(self.asked, self.asked + 2)
        self.asked += 2
        return [Ask(numbers, points, False)]

    def tell(self, number, evaluation):
        self.losses[number] = evaluation.loss


def test_a_sampler_may_ask_by_what_it_was_told():
    landscape = Landscape(DESCENT.path, DESCENT.objective(), "pca")
    lifted = LiftedPlane(landscape.path, landscape.plane, landscape.projection, landscape.method)
    sampler = Bisecting(-5.0, 5.0, 20)
    for found in evaluated(lifted, landscape._bound, sampler):
        for number, evaluation in found:
            sampler.tell(number, evaluation)
    dense = np.stack([np.linspace(-5, 5, 2001), np.zeros(2001)], axis=1)
    losses = [DESCENT.loss(vector) for vector in landscape.parameters(dense)]
    assert sampler.ends[0] == pytest.approx(dense[np.argmin(losses), 0], abs=0.02)
