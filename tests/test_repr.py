"""What results print as: one line that says what they are, and no array."""

import dataclasses

import numpy as np
import pytest

import losspath
from contract import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def results(it):
    """Each result, and how its line begins."""
    plane = losspath.fit_plane(it.path)
    surface = losspath.compute_surface(it.path, it.objective, "averaged", 5, plane=plane, states=3)
    low, high = surface.loss.min(), surface.loss.max()
    sizes = losspath.step_sizes(it.path)
    line = losspath.interpolate(it.path, it.objective)
    return [
        (surface, f"Surface({surface.description!r}): 5 × 5 points, loss {low:.4g} to {high:.4g}"),
        (surface.states, "StateLosses: 3 states, loss "),
        (
            plane,
            f"PrincipalPlane: {len(it.path)} states, {it.path.parameter_count} parameters, 2 ax",
        ),
        (losspath.JointPath({"a": it.path, "b": it.path}), "JointPath: 2 runs (a, b), "),
        (losspath.Grid.around(plane.path.coordinates, 5), "Grid: 5 × 5 points, x "),
        (sizes, f"StepSizes: {len(it.path) - 1} sizes, {sizes.sizes.min():.4g} to "),
        (line, f"Interpolation: 13 positions, {len(line.names) - 1} layers, loss "),
        (losspath.measure_dynamics(it.path, it.objective, 3), "Dynamics: 3 states, loss "),
        (losspath.distance_map(plane, 4), "DistanceMap: 4 × 4 points, distance 0 to "),
        (losspath.activations(it.path, it.objective, 3), "Activations: "),
        (losspath.confusion(it.objective, it.path[-1]), "Confusion: 2 classes, 12 samples, "),
        (losspath.measure_history(it.path, it.objective, 3), "History: 3 rows, training loss "),
        (losspath.saliency(it.objective, it.path[-1], [0, 1]), "Saliency: inputs (2, 1, 4, 4), by"),
        (losspath.RunCurves(sizes), f"RunCurves(sizes=StepSizes: {len(it.path) - 1} sizes, "),
    ]


def test_results_print_as_one_line_without_their_arrays(world):
    for result, begins in results(world):
        line = repr(result)
        assert line.startswith(begins)
        assert "\n" not in line
        assert "array(" not in line
        assert len(line) < 200


def test_what_is_not_known_is_said(world):
    surface = losspath.compute_surface(world.path, world.objective, "pca", 3, states=2)
    done = np.zeros((3, 3), bool)
    done[0] = True
    nothing = dataclasses.replace(surface, loss=np.full((3, 3), np.nan), evaluated=done)
    assert repr(nothing).endswith("3 × 3 points (3 evaluated), loss not known")
