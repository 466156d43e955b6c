"""Whatever is given to a public function, an error of the package says what is wrong with it.

None of torch, NumPy, SciPy or Python comes through. What people do wrong by mistake, and what must
be said of it, is in test_mistakes.py.
"""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losspath
from contract import Net, make_world, teaches
from losspath import distances, figures, methods
from losspath.errors import LosspathError

# Values: `Verdict` and the like are made by the package alone, and check nothing.
VALUES = {
    *("Activations", "Confusion", "DistanceMap", "Dynamics", "History", "Interpolation"),
    *("Fidelity", "RunCurves", "Saliency", "StepSizes", "SurfaceDifference", "Verdict"),
    *("Embedding", "RandomWalk"),
    *("LosspathError", "LosspathWarning", "Uncertainty"),
}
# No function of the user's.
BASES = {"Method", "Lift", "METHODS", "method_names", "Distance", "DISTANCES"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Words are names of files too."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def calls(it):
    """Every public function with arguments that are right, by name."""
    drawn = {"title": None}
    lp, path, objective, state = losspath, it.path, it.objective, it.path[-1]
    where = {"resolution": 3, "plane": it.plane, "grid": it.grid, "states": 2}
    options = {"batch_size": 5, "buffers": None, "metrics": None, "name": "n", "check": False}
    asked = {"path": path, "objective": objective}
    at = {"objective": objective, "parameters": state}
    optimizer = torch.optim.SGD(it.model.parameters(), 0.1)

    def recorded(**given):
        with lp.Recorder("recorded", Net(), existing="overwrite") as recorder:
            recorder.record(**given)

    def batch_loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    return {
        "Barriers": (lp.Barriers.load, {"path": it.file}),
        "barriers": (
            lp.barriers,
            {"states": {"a": path, "b": path[0]}, "objective": objective, "points": 3}
            | {"quantity": "loss", "checkpoint": None},
        ),
        "Averaged": (
            methods.Averaged,
            {"temperature": 1.0, "arc_length": True, "distance": "manhattan"},
        ),
        "AveragedND": (
            methods.AveragedND,
            {"temperature": 1.0, "arc_length": True, "distance": "manhattan"},
        ),
        "LocalPlanes": (
            methods.LocalPlanes,
            {"states": 3, "line": 1, "chords": 1, "neighbours": 2, "mean": "loss", "power": 1.0},
        ),
        "LocalDraws": (
            methods.LocalDraws,
            {"draws": 4, "bandwidth": 1.0, "mean": "loss", "seed": 0},
        ),
        "Fidelity.load": (lp.Fidelity.load, {"path": it.file}),
        "measure_fidelity": (
            lp.measure_fidelity,
            {**asked, "method": "pca", "resolution": 3, "plane": it.plane, "count": 4, "seed": 0}
            | {"forks": None, "control": None, "executor": None, "checkpoint": None},
        ),
        "Uncertainty.load": (lp.Uncertainty.load, {"path": it.file}),
        "Uncertainty.save": (it.uncertainty.save, {"path": it.home / "saved.npz"}),
        "line_uncertainty": (
            lp.line_uncertainty,
            {**asked, "start": 0, "end": -1, "alphas": [0, 1], "source": "samples", "level": 0.9}
            | {"draws": 20, "seed": 0, "checkpoint": None},
        ),
        "plot_uncertainty": (
            lp.plot_uncertainty,
            {"uncertainty": it.uncertainty, "surface": None, "wide": 1.5, **drawn},
        ),
        "surface_uncertainty": (
            lp.surface_uncertainty,
            {**asked, "method": "pca", "resolution": 3, "plane": it.plane, "grid": None}
            | {"source": "samples", "level": 0.9, "draws": 20, "seed": 0, "checkpoint": None},
        ),
        "Euclidean": (distances.Euclidean, {}),
        "EuclideanND": (distances.EuclideanND, {}),
        "Grid": (lp.Grid, {"x": it.grid.x, "y": it.grid.y}),
        "Grid.around": (
            lp.Grid.around,
            {"path": it.plane.path.coordinates, "resolution": 3, "margin": 0.6},
        ),
        "Interpolation.load": (lp.Interpolation.load, {"path": it.file}),
        "Interpolation.save": (it.line.save, {"path": it.home / "saved.npz"}),
        "Dynamics.load": (lp.Dynamics.load, {"path": it.file}),
        "Dynamics.binned_cosines": (it.dynamics.binned_cosines, {"bins": 2}),
        "JointPath": (lp.JointPath, {"runs": {"a": path, "b": path}}),
        "JointPath.place_of": (lp.JointPath([path, path]).place_of, {"index": 9}),
        "JointPath.read": (lp.JointPath([path, path]).read, {"start": 5, "stop": 9, "out": None}),
        "JointPath.side_key": (lp.JointPath([path, path]).side_key, {"index": 9}),
        "JointPath.sides": (lp.JointPath([path, path]).sides, {"index": 9}),
        "LocalProcesses": (lp.LocalProcesses, {"count": 1, "threads": 1}),
        "Mahalanobis": (distances.Mahalanobis, {}),
        "MahalanobisND": (distances.MahalanobisND, {}),
        "Manhattan": (distances.Manhattan, {}),
        "ManhattanND": (distances.ManhattanND, {"states": 5}),
        "HeightScale": (
            figures.HeightScale.of,
            {"surfaces": [it.surface], "height": "accuracy"},
        ),
        "Objective": (
            lp.Objective,
            {"model": it.model, "inputs": it.x, "targets": it.y, "loss_fn": F.cross_entropy}
            | options,
        ),
        "Objective.of_batches": (
            lp.Objective.of_batches,
            {"model": it.model, "batches": [(it.x, it.y)], "loss": batch_loss, "stage": False}
            | options,
        ),
        "Objective.__call__": (lambda parameters: objective(parameters), {"parameters": state}),
        "PCA": (methods.PCA, {}),
        "Landscape": (lp.Landscape, {**asked, "method": "pca", "plane": it.plane}),
        "Landscape.evaluate": (it.landscape.evaluate, {"points": [[0.0, 0.0]]}),
        "Landscape.parameters": (
            lambda points: list(it.landscape.parameters(points)),
            {"points": [[0.0, 0.0]]},
        ),
        "Landscape.states": (it.landscape.states, {"states": 2}),
        "Landscape.with_method": (it.landscape.with_method, {"method": "pca"}),
        "Landscape.surface": (it.landscape.surface, {"resolution": 3, "states": 2}),
        "Plane": (
            lp.Plane,
            {"origin": it.plane.origin, "basis": it.plane.basis, "labels": ["x", "y"]},
        ),
        "Plane.projection": (it.plane.projection, {"path": path}),
        "PrincipalPlane": (lp.PrincipalPlane.load, {"path": it.file}),
        "Projection": (
            lp.Projection,
            {
                "coordinates": it.plane.path.coordinates,
                "residual_norms": it.plane.path.residual_norms,
            }
            | {"total_variance": 1.0, "path_digest": "x"},
        ),
        "Plane.project": (it.plane.project, {"states": state}),
        "Plane.save": (it.plane.save, {"path": it.home / "saved.npz"}),
        "LogSpaced": (lp.LogSpaced, {"per_decade": 5}),
        "Pairs": (lp.Pairs, {"every": 5}),
        "Sketch": (lp.Sketch, {"size": 5, "seed": 1}),
        "Recorder": (
            lambda **given: lp.Recorder(**given).close(),
            {
                **{"directory": "recorded", "model": it.model, "every": 1, "step": None},
                **{"existing": "overwrite", "dtype": "float32", "allow_complex": False},
                **{"metadata": {"a": 1}, "parameters": "all"},
            },
        ),
        "Recorder.record": (recorded, {"loss": 1.0, "step": 3, "rate": 0.1}),
        "Sampled": (methods.Sampled, {"distance": "mahalanobis"}),
        "SampledPCA": (methods.SampledPCA, {"side": "hull"}),
        "StepSizeLR": (lp.StepSizeLR, {"optimizer": optimizer, "rates": [1.0], "last_epoch": -1}),
        "StepSizes.averaged": (it.sizes.averaged, {"parts": 2}),
        "StepSizes.binned": (it.sizes.binned, {"bins": 2}),
        "StepSizes.load": (lp.StepSizes.load, {"path": it.file}),
        "Surface": (
            lp.Surface,
            {each.name: getattr(it.surface, each.name) for each in dataclasses.fields(lp.Surface)},
        ),
        "Surface.at": (it.surface.at, {"points": [[0.0, 0.0]], "quantity": "loss"}),
        "Surface.load": (lp.Surface.load, {"path": it.file}),
        "Surface.save": (it.surface.save, {"path": it.home / "saved.npz"}),
        "Trajectory": (lp.Trajectory, {"directory": it.run}),
        "Trajectory.buffers": (path.buffers, {"index": 1}),
        "Trajectory.load_into": (path.load_into, {"model": Net(), "index": 1, "buffers": False}),
        "Trajectory.read": (path.read, {"start": 0, "stop": 1, "out": None}),
        "Trajectory.side_key": (path.side_key, {"index": 1}),
        "Trajectory.sides": (path.sides, {"index": 1}),
        "Trajectory.window": (path.window, {"start": 0, "stop": 3, "stride": 1}),
        "Trajectory.window.buffers": (path.window().buffers, {"index": 1}),
        "Trajectory.window.load_into": (path.window().load_into, {"model": Net(), "index": 1}),
        "Trajectory.window.read": (
            path.window(0, None, 2).read,
            {"start": 0, "stop": 1, "out": None},
        ),
        "Trajectory.window.side_key": (path.window().side_key, {"index": 1}),
        "Trajectory.window.sides": (path.window().sides, {"index": 1}),
        "activations": (
            lp.activations,
            {**asked, "states": 2, "modules": None, "samples": 5, "bins": 3},
        ),
        "architecture": (lp.architecture, {"objective": objective}),
        "compare_surfaces": (
            lp.compare_surfaces,
            {"surface": it.surface, "reference": it.surface, "resolution": 8}
            | {"quantity": "loss", "check": True},
        ),
        "compute_surface": (
            lp.compute_surface,
            {**asked, "method": "pca", "executor": None, "checkpoint": None, **where},
        ),
        "confusion": (lp.confusion, {**at, "labels": ["a", "b"], "predict": None, "sides": None}),
        "distance_named": (distances.distance_named, {"distance": {"name": "manhattan"}}),
        "distance_map": (
            lp.distance_map,
            {"plane": it.plane, "resolution": 3, "grid": None, "method": None},
        ),
        "feature_maps": (lp.feature_maps, {**at, "sample": 0, "sides": None}),
        "filters": (
            lp.filters,
            {"model": it.model, "parameters": state, "input_shape": (1, 4, 4)},
        ),
        "fit_plane": (lp.fit_plane, {"path": path, "components": 2, "tolerance": 0.1, "seed": 0}),
        "FunctionDistances": (lp.FunctionDistances.load, {"path": it.file}),
        "function_distances": (
            lp.function_distances,
            {**asked, "states": 2, "distance": "l2", "samples": 5, "predict": None},
        ),
        "import_checkpoints": (
            lp.import_checkpoints,
            {
                "checkpoints": [it.checkpoint],
                "out": "imported",
                "model": None,
                "key": None,
                "weights": None,
                "prefix": "",
                "parameters": None,
                "steps": None,
                "losses": None,
                "loss_column": None,
                "existing": "overwrite",
                "allow_complex": False,
                "link": False,
            },
        ),
        "interpolate": (
            lp.interpolate,
            {**asked, "start": 0, "end": -1, "alphas": [0, 1], "layers": False, "checkpoint": None},
        ),
        "learning_rates": (
            lp.learning_rates,
            {"sizes": it.sizes, "form": "raw", "smooth": 1, "mean": None, "seed": 0},
        ),
        "load_h5_surface": (
            lp.load_h5_surface,
            {"path": it.surface_h5, "projection": None, "directions": None, "data": "train"},
        ),
        "measure_dynamics": (lp.measure_dynamics, {**asked, "states": 2, "checkpoint": None}),
        "measure_history": (lp.measure_history, {**asked, "states": 2}),
        "method_class": (methods.method_class, {"name": "pca"}),
        "method_named": (methods.method_named, {"method": "pca"}),
        "plot_activations": (lp.plot_activations, {"activations": it.activations, **drawn}),
        "plot_barriers": (lp.plot_barriers, {"barriers": it.barriers, **drawn}),
        "plot_confusion": (lp.plot_confusion, {"confusion": it.confusion, **drawn}),
        "plot_distance_map": (lp.plot_distance_map, {"distance": it.distance, "axes": None}),
        "plot_dynamics": (lp.plot_dynamics, {"dynamics": it.dynamics, "rate": None}),
        "plot_feature_maps": (lp.plot_feature_maps, {"maps": it.maps, "image": None}),
        "plot_filters": (lp.plot_filters, {"filters": it.filters, **drawn}),
        "plot_function_distances": (
            lp.plot_function_distances,
            {"distances": it.functions, **drawn},
        ),
        "plot_history": (lp.plot_history, {"history": it.history, "names": ("a", "b")}),
        "plot_interpolation": (
            lp.plot_interpolation,
            {"interpolation": it.line, "quantities": ["accuracy"], **drawn},
        ),
        "plot_runs": (
            lp.plot_runs,
            {"runs": {"a": [it.runs]}, "by": "step", "bins": 3, "styles": None},
        ),
        "plot_saliency": (lp.plot_saliency, {"saliency": it.saliency, "labels": None}),
        "plot_samples": (
            lp.plot_samples,
            {"images": it.x.numpy(), "targets": it.y.numpy(), "labels": None},
        ),
        "plot_step_panels": (
            lp.plot_step_panels,
            {"panels": {"p": {"a": [it.runs]}}, "bins": 3, "styles": None, "caption": None},
        ),
        "plot_step_sizes": (lp.plot_step_sizes, {"runs": it.sizes, "bins": 3, **drawn}),
        "plot_surface": (
            lp.plot_surface,
            {"surface": it.surface, "height": "accuracy", "axes": None, "scale": None},
        ),
        "plot_surfaces": (
            lp.plot_surfaces,
            {
                "surfaces": [it.surface],
                "height": "loss",
                "distance": None,
                "titles": None,
                "columns": 3,
            },
        ),
        "judge_dynamics": (lp.judge_dynamics, {"dynamics": it.dynamics}),
        "random_walk_variance": (
            lp.random_walk_variance,
            {"path": path, "components": 2, "steps": "equal", "seed": 0},
        ),
        "refine_surface": (
            lambda **given: list(lp.refine_surface(**given)),
            {**asked, "method": "pca", "executor": None, **where},
        ),
        "saliency": (lp.saliency, {**at, "samples": [0], "column": None, "sides": None}),
        "save_figure": (
            figures.save_figure,
            {"figure": lp.plot_history(it.history), "path": it.home / "figure.svg"},
        ),
        "state_distances": (lp.state_distances, {"path": path}),
        "step_cosines": (lp.step_cosines, {"path": path}),
        "step_sizes": (lp.step_sizes, {"path": path}),
    }


NAMES = sorted(
    {
        name
        for module in (losspath, figures, methods, distances)
        for name in module.__all__
        if callable(getattr(module, name)) and name not in VALUES | BASES
    }
)


def nonsense(it):
    """Values that hardly any argument takes, by name."""
    return {
        "None": None,
        "text": "text",
        "no text": "",
        "bytes": b"bytes",
        "minus one": -1,
        "a fraction": 2.5,
        "NaN": float("nan"),
        "much": 10**30,
        "True": True,
        "an object": object(),
        "a model": it.model,
        "a class": nn.Linear,
        "a function": lambda *_: None,
        "a tensor": torch.randn(3),
        "a tensor without numbers": torch.randn(3, device="meta"),
        "complex numbers": np.ones((4, 5)) * 1j,
        "a table": np.ones((4, 5)),
        "rows of unequal length": [[1.0, 2.0], [3.0]],
        "an empty list": [],
        "a dict": {"a": 1},
        "objects": [object()],
        "a directory": str(it.home),
        "a surface": it.surface,
        "a path": it.path,
    }


def test_every_public_function_is_among_them(world):
    assert set(NAMES) <= set(calls(world))


@pytest.mark.filterwarnings("ignore::losspath.LosspathWarning")
@pytest.mark.parametrize("name", NAMES)
def test_wrong_values(world, name):
    raw = []
    every = calls(world)
    for known in (known for known in every if known == name or known.startswith(f"{name}.")):
        function, right = every[known]
        for argument in right:
            for what, value in nonsense(world).items():
                try:
                    function(**{**right, argument: value})
                except LosspathError as error:
                    if not teaches(error):
                        raw.append(f"{known}({argument}={what}): {error}")
                except Exception as error:
                    raw.append(f"{known}({argument}={what}): {type(error).__name__}: {error}")
    assert raw == []
