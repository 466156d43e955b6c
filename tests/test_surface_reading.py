"""Reading a surface between its grid points."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from losspath import Grid, Surface
from losspath.errors import ArgumentError
from losspath.surface import StateLosses


def make(loss, x=(-1.0, 0.0, 2.0), y=(0.0, 0.5, 1.0, 3.0), own=(1.0, 1.0)):
    x, y = np.array(x), np.array(y)
    values = loss(*np.meshgrid(x, y)) + np.zeros((len(y), len(x)))
    path = np.array([[-0.5, 0.25], [0.3, 0.9], [1.5, 2.0]])
    states = StateLosses(np.array([0, 2]), np.array(own))
    evaluated = np.ones(values.shape, bool)
    return Surface(x, y, values, None, evaluated, path, np.array([0.9, 0.1]), states, {})


coefficients = st.floats(-10, 10)


@given(
    coefficients, coefficients, coefficients, hnp.arrays(float, (5, 2), elements=st.floats(0, 1))
)
@settings(deadline=None, max_examples=50)
def test_an_affine_loss_is_read_exactly(a, b, c, unit):
    points = np.array([-1.0, 0.0]) + unit * [3.0, 3.0]
    read = make(lambda x, y: a + b * x + c * y).at(points)
    np.testing.assert_allclose(read, a + points @ [b, c], atol=1e-12)


def test_grid_points_give_their_own_loss():
    surface = make(lambda x, y: np.sin(5 * x) + y**2)
    x, y = np.meshgrid(surface.x, surface.y)
    read = surface.at(np.stack([x.ravel(), y.ravel()], 1)).reshape(x.shape)
    np.testing.assert_array_equal(read, surface.loss)


def test_outside_and_beside_unknown_losses_nothing_is_known():
    surface = make(lambda x, y: x + y)
    surface.loss[3, 2] = np.inf
    read = surface.at([[-1.1, 1.0], [0.0, 3.1], [1.0, 2.0], [1.0, 0.7]])
    np.testing.assert_array_equal(np.isnan(read), [True, True, True, False])


def test_a_surface_that_is_not_complete_is_read_between_the_points_there_are():
    lines = np.linspace(-1.0, 2.0, 7) ** 3, np.linspace(0.0, 3.0, 9)
    surface = make(lambda x, y: 1 + x + 2 * y, *lines)
    for level, numbers in enumerate(Grid(surface.x, surface.y).levels()):
        if level > 0:
            surface.evaluated.reshape(-1)[numbers] = False
            surface.loss.reshape(-1)[numbers] = -999.0
    assert not surface.evaluated.all()
    places = np.random.default_rng(0).uniform(
        [surface.x[0], surface.y[0]], [surface.x[-1], surface.y[-1]], (50, 2)
    )
    np.testing.assert_allclose(surface.at(places), 1 + places @ [1, 2])
    assert np.isnan(surface.at([[surface.x[-1] + 0.1, surface.y[0]]])).all()
    first = surface.loss.reshape(-1)[0]
    surface.loss.reshape(-1)[0] = np.inf
    assert np.isnan(surface.at([[surface.x[0], surface.y[0]]])).all()
    surface.loss.reshape(-1)[0] = first
    surface.evaluated[1:] = False
    assert np.isnan(surface.at(places)).all()


unit = st.floats(0, 1) | st.sampled_from([0.0, 1 / 3, 1.0])  # lines of the grid among them


@given(hnp.arrays(float, st.tuples(st.integers(0, 6), st.just(2)), elements=unit))
@settings(deadline=None, max_examples=50)
def test_what_is_read_needs_the_points_around_it_alone(places):
    whole = make(lambda x, y: np.sin(5 * x) + y**2, y=(0.0, 1.0, 2.0, 3.0))
    places = np.array([-1.0, 0.0]) + places * 3.0
    wanted = Grid(whole.x, whole.y).around_places(places)
    evaluated = np.zeros(whole.loss.size, bool)
    evaluated[wanted] = True
    assert len(wanted) <= 4 * len(places)
    evaluated = evaluated.reshape(whole.loss.shape)
    loss = np.where(evaluated, whole.loss, np.nan)
    part = dataclasses.replace(whole, evaluated=evaluated, loss=loss)
    np.testing.assert_array_equal(part.at(places), whole.at(places))


def test_places_outside_the_grid_need_no_points():
    surface = make(lambda x, y: x + y)
    assert not len(Grid(surface.x, surface.y).around_places(np.array([[-9.0, 1.0], [0.0, 3.1]])))


def test_state_errors_are_relative_to_the_states_own_loss():
    surface = make(lambda x, y: x + y + 2, own=(1.75, 11.0))
    np.testing.assert_allclose(surface.state_errors, [0.0, 5.5 / 11])
    assert np.isnan(make(lambda x, y: x, own=(np.nan, 1.0)).state_errors).tolist() == [True, False]


def test_wrong_points_are_refused():
    with pytest.raises(ArgumentError, match=r"\(k, 2\)"):
        make(lambda x, y: x).at([1.0, 2.0])
    with pytest.raises(ArgumentError, match="2 × 2"):
        make(lambda x, y: x, x=(0.0,)).at([[0.0, 0.0]])
