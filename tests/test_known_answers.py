import itertools

import numpy as np
import pytest
import torch

from cases import (
    AS_DRAWN,
    METHODS,
    PROBLEMS,
    named,
    objective_of,
    reference_lines,
    reference_loss,
    reference_plane,
)
from losspath import Grid, compute_surface, fit_plane, methods

PROBLEM = {problem.name: problem for problem in PROBLEMS}
DESCENT = PROBLEM["descent"]


def grid_of(columns, rows):
    return Grid(np.array(columns), np.array(rows))


def affine(plane, offset, along):
    """offset + along · (coordinates in the plane), as a torch function of parameters."""
    slope = torch.from_numpy(plane.basis @ np.array(along))
    shift = torch.from_numpy(plane.origin)
    return lambda w: offset + slope @ (w - shift)


@pytest.mark.mostly_slow(132)
@pytest.mark.parametrize("method", [*METHODS, *AS_DRAWN], ids=named)
@pytest.mark.parametrize("problem", PROBLEMS, ids=named)
def test_surface_equals_the_formulas(problem, method):
    surface = compute_surface(problem.path, problem.objective(), method, 6)
    plane = reference_plane(problem.path)
    x, y = (reference_lines(plane.path, axis, 6) for axis in (0, 1))
    expected = np.array(
        [[reference_loss(problem, method, np.array([a, b]), plane) for a in x] for b in y]
    )
    # Blends of float32 states are summed in float32.
    exact = {"rtol": 1e-8, "atol": 1e-8} if problem.path.dtype == np.float64 else {"rtol": 1e-5}
    scale = np.abs(plane.path).max()
    np.testing.assert_allclose(surface.x, x, atol=1e-11 * scale)
    np.testing.assert_allclose(surface.y, y, atol=1e-11 * scale)
    np.testing.assert_allclose(surface.path, plane.path, atol=1e-11 * scale)
    np.testing.assert_allclose(surface.loss, expected, **exact)
    own = [problem.loss(problem.path[i]) for i in surface.states.index]
    np.testing.assert_allclose(surface.states.loss, own, rtol=1e-12)
    share = plane.variances / np.sum((problem.path - plane.mean) ** 2) * (len(problem.path) - 1)
    np.testing.assert_allclose(surface.explained_variance_ratio, share, atol=1e-12)


def test_every_method_has_a_case():
    assert {method.name for method in METHODS} == set(methods.METHODS)


@pytest.mark.parametrize("method", ["pca", "sampled", "averaged-nd"])
def test_default_grid_of_19_lines_equals_the_formulas(method):
    surface = compute_surface(DESCENT.path, DESCENT.objective(), method)
    plane = reference_plane(DESCENT.path)
    rule = methods.method_named(method)
    assert surface.loss.shape == (19, 19)
    for i, j in itertools.product(range(19), range(19)):
        point = np.array([surface.x[j], surface.y[i]])
        expected = reference_loss(DESCENT, rule, point, plane)
        assert surface.loss[i, j] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]),
        ([-3.0, -1.0, 2.0, 7.0], [0.5, 1.0, 4.0, 4.5]),
        ([-2.0, 0.0, 5.0], [-1.0, 1.0, 2.0, 3.0, 8.0, 9.0]),
        ([-2.0, -1.0, 0.0, 4.0, 6.0], [-1.0, 3.0]),
        ([0.25], [1.5, 2.5]),
    ],
    ids=["odd", "even", "high", "broad", "one column"],
)
def test_loss_that_is_affine_in_the_plane_gives_an_affine_grid(columns, rows, method):
    # Residuals are orthogonal to its slope, so every method must give the same numbers.
    plane = fit_plane(DESCENT.path)
    objective = objective_of(affine(plane, 10.0, (2.0, 7.0)), 6)
    surface = compute_surface(DESCENT.path, objective, method, grid=grid_of(columns, rows))
    assert surface.loss.shape == (len(rows), len(columns))
    for (i, b), (j, a) in itertools.product(enumerate(rows), enumerate(columns)):
        assert surface.loss[i, j] == pytest.approx(10.0 + 2.0 * a + 7.0 * b, abs=1e-11)


def test_x_and_y_are_the_first_and_the_second_axis():
    # Steps of 3 along one parameter and of 1 along another: known axes, known coordinates.
    square = np.array([[-3.0, -1.0], [-3.0, 1.0], [3.0, 1.0], [3.0, -1.0]])
    path = np.zeros((4, 5))
    path[:, 4], path[:, 1] = square.T
    objective = objective_of(lambda w: 100.0 + 10.0 * w[4] + w[1], 5)
    for method in METHODS:
        surface = compute_surface(path, objective, method, 5)
        np.testing.assert_allclose(surface.path, square, atol=1e-12)
        np.testing.assert_allclose(surface.x, [-3.6, -3, 0, 3, 3.6], atol=1e-12)
        np.testing.assert_allclose(surface.y, [-1.2, -1, 0, 1.2], atol=1e-12)
        expected = 100.0 + 10.0 * surface.x[None, :] + surface.y[:, None]
        np.testing.assert_allclose(surface.loss, expected, rtol=1e-12)


@pytest.mark.parametrize("resolution", [3, 5, 7, 19])
def test_centre_cell_has_the_loss_at_the_middle_of_the_box(resolution):
    surface = compute_surface(DESCENT.path, DESCENT.objective(), "pca", resolution)
    plane = reference_plane(DESCENT.path)
    j = np.abs(surface.x - plane.center[0]).argmin()
    i = np.abs(surface.y - plane.center[1]).argmin()
    assert (surface.x[j], surface.y[i]) == pytest.approx(tuple(plane.center), abs=1e-12)
    middle = plane.mean + plane.basis @ plane.center
    assert surface.loss[i, j] == pytest.approx(DESCENT.loss(middle), rel=1e-11)


@pytest.mark.parametrize("name", ["descent", "closed loop", "on a line", "float32"])
@pytest.mark.parametrize("method", [m for m in METHODS if m.name.startswith("sampled")], ids=named)
def test_methods_through_the_nearest_state_are_exact_at_the_start_and_the_end(name, method):
    problem = PROBLEM[name]
    surface = compute_surface(problem.path, problem.objective(), method, 7)
    for t in (0, -1):
        j, i = (
            int(np.flatnonzero(lines == surface.path[t, axis])[0])
            for axis, lines in enumerate((surface.x, surface.y))
        )
        assert surface.loss[i, j] == pytest.approx(problem.loss(problem.path[t]), rel=1e-12)
    np.testing.assert_allclose(surface.states.loss[0], problem.loss(problem.path[0]), rtol=1e-12)
    assert surface.initial_loss == surface.states.loss[0]


def test_sampled_is_exact_at_every_state():
    # A grid through every state; state t is at the crossing of its own two lines.
    plane = fit_plane(DESCENT.path)
    shown = plane.path.coordinates
    grid = grid_of(np.unique(shown[:, 0]), np.unique(shown[:, 1]))
    surface = compute_surface(DESCENT.path, DESCENT.objective(), "sampled", plane=plane, grid=grid)
    for state, (a, b) in zip(DESCENT.path, shown, strict=True):
        i, j = np.searchsorted(surface.y, b), np.searchsorted(surface.x, a)
        assert surface.loss[i, j] == pytest.approx(DESCENT.loss(state), rel=1e-12)
