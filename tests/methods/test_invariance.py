"""What no surface may depend on: the unit of the parameters, and the signs of the plane's axes."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cases import METHODS, descent, named, objective_of
from losspath import Landscape, fit_plane
from losspath.geometry.plane import Plane
from losspath.methods import METHODS as REGISTERED
from losspath.methods import Averaged, AveragedND, Sampled

# All methods as they are by default, and by the distance that has no unit. A temperature that is a
# number is one of the parameters' unit, and no such method claims to be of any.
CLAIM = [
    *(kind() for kind in REGISTERED.values()),
    *(kind(distance="mahalanobis") for kind in (Sampled, Averaged)),
    AveragedND(distance="mahalanobis"),
    AveragedND(distance="manhattan"),
    Averaged(arc_length=True),
    Averaged(temperature=0.3, distance="mahalanobis"),
]
PLACES = np.array([[0.1, 0.2], [-0.7, 0.3], [0.45, -0.9], [1.3, 1.1], [-0.05, -0.02]])


def bumpy(w):
    """Neither even nor scale-free, so that no place has the loss of another."""
    return (w * w).sum() + (3 * w).sin().sum() + 0.3 * w[0] * w[1]


def losses(method, path, scale, signs):
    """The losses at places of a plane: of the path times `scale`, the axes' signs as given."""
    fitted = fit_plane(path)
    half = np.abs(fitted.projection(path).coordinates).max(axis=0)
    plane = Plane(fitted.origin * scale, fitted.basis * signs, ("one", "two"))
    objective = objective_of(lambda w: bumpy(w / scale), path.shape[1])
    landscape = Landscape(path * scale, objective, method, plane=plane)
    found = landscape.evaluate(PLACES * half * scale * signs)
    return np.array([each.loss for each in found])


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("method", CLAIM, ids=named)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    states=st.sampled_from([2, 3, 12, 60]),
    exponent=st.floats(-6, 6),
    signs=st.sampled_from([(1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)]),
)
@example(seed=0, states=12, exponent=3.0, signs=(1.0, 1.0))
@example(seed=0, states=12, exponent=0.0, signs=(-1.0, 1.0))
def test_neither_the_scale_of_a_path_nor_the_signs_of_axes_change_a_surface(
    method, seed, states, exponent, signs
):
    path = descent(states, 5, seed)
    expected = losses(method, path, 1.0, np.ones(2))
    np.testing.assert_allclose(
        losses(method, path, 10.0**exponent, np.array(signs)), expected, rtol=1e-6
    )


def test_a_temperature_that_is_a_number_does_not_claim_it():
    path, method = descent(12, 5), Averaged(temperature=1.0)
    assert method in METHODS
    expected = losses(method, path, 1.0, np.ones(2))
    assert np.abs(losses(method, path, 100.0, np.ones(2)) / expected - 1).max() > 0.01
