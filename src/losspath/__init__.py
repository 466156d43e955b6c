"""Record any PyTorch training run and see the loss surface around the path it took."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from losspath import methods as methods
    from losspath.analysis.activations import Activations as Activations
    from losspath.analysis.activations import activations as activations
    from losspath.analysis.barriers import Barriers as Barriers
    from losspath.analysis.barriers import barriers as barriers
    from losspath.analysis.comparison import SurfaceDifference as SurfaceDifference
    from losspath.analysis.comparison import compare_surfaces as compare_surfaces
    from losspath.analysis.diagnostics import Confusion as Confusion
    from losspath.analysis.diagnostics import architecture as architecture
    from losspath.analysis.diagnostics import confusion as confusion
    from losspath.analysis.distances import DistanceMap as DistanceMap
    from losspath.analysis.distances import distance_map as distance_map
    from losspath.analysis.distances import state_distances as state_distances
    from losspath.analysis.dynamics import Dynamics as Dynamics
    from losspath.analysis.dynamics import measure_dynamics as measure_dynamics
    from losspath.analysis.embedding import Embedding as Embedding
    from losspath.analysis.fidelity import measure_fidelity as measure_fidelity
    from losspath.analysis.filters import feature_maps as feature_maps
    from losspath.analysis.filters import filters as filters
    from losspath.analysis.function_space import FunctionDistances as FunctionDistances
    from losspath.analysis.function_space import function_distances as function_distances
    from losspath.analysis.interpolation import Interpolation as Interpolation
    from losspath.analysis.interpolation import interpolate as interpolate
    from losspath.analysis.rates import StepSizeLR as StepSizeLR
    from losspath.analysis.rates import learning_rates as learning_rates
    from losspath.analysis.runs import History as History
    from losspath.analysis.runs import RunCurves as RunCurves
    from losspath.analysis.runs import measure_history as measure_history
    from losspath.analysis.saliency import Saliency as Saliency
    from losspath.analysis.saliency import saliency as saliency
    from losspath.analysis.steps import StepSizes as StepSizes
    from losspath.analysis.steps import step_cosines as step_cosines
    from losspath.analysis.steps import step_sizes as step_sizes
    from losspath.analysis.uncertainty import Uncertainty as Uncertainty
    from losspath.analysis.uncertainty import line_uncertainty as line_uncertainty
    from losspath.analysis.uncertainty import surface_uncertainty as surface_uncertainty
    from losspath.analysis.verdict import Verdict as Verdict
    from losspath.analysis.verdict import judge_dynamics as judge_dynamics
    from losspath.errors import LosspathError as LosspathError
    from losspath.errors import LosspathWarning as LosspathWarning
    from losspath.evaluation.execution.processes import LocalProcesses as LocalProcesses
    from losspath.evaluation.objective import Objective as Objective
    from losspath.figures import plot_activations as plot_activations
    from losspath.figures import plot_barriers as plot_barriers
    from losspath.figures import plot_confusion as plot_confusion
    from losspath.figures import plot_distance_map as plot_distance_map
    from losspath.figures import plot_dynamics as plot_dynamics
    from losspath.figures import plot_feature_maps as plot_feature_maps
    from losspath.figures import plot_filters as plot_filters
    from losspath.figures import plot_function_distances as plot_function_distances
    from losspath.figures import plot_history as plot_history
    from losspath.figures import plot_interpolation as plot_interpolation
    from losspath.figures import plot_runs as plot_runs
    from losspath.figures import plot_saliency as plot_saliency
    from losspath.figures import plot_samples as plot_samples
    from losspath.figures import plot_step_panels as plot_step_panels
    from losspath.figures import plot_step_sizes as plot_step_sizes
    from losspath.figures import plot_surface as plot_surface
    from losspath.figures import plot_surfaces as plot_surfaces
    from losspath.figures import plot_uncertainty as plot_uncertainty
    from losspath.geometry.grid import Grid as Grid
    from losspath.geometry.plane import Plane as Plane
    from losspath.geometry.plane import PrincipalPlane as PrincipalPlane
    from losspath.geometry.plane import fit_plane as fit_plane
    from losspath.geometry.projection import Projection as Projection
    from losspath.geometry.walk import RandomWalk as RandomWalk
    from losspath.geometry.walk import random_walk_variance as random_walk_variance
    from losspath.importing import import_checkpoints as import_checkpoints
    from losspath.recording.joint import JointPath as JointPath
    from losspath.recording.recorder import Recorder as Recorder
    from losspath.recording.schedules import LogSpaced as LogSpaced
    from losspath.recording.schedules import Pairs as Pairs
    from losspath.recording.sketch import Sketch as Sketch
    from losspath.recording.trajectory import Trajectory as Trajectory
    from losspath.surface import Fidelity as Fidelity
    from losspath.surface import Landscape as Landscape
    from losspath.surface import Surface as Surface
    from losspath.surface import compute_surface as compute_surface
    from losspath.surface import load_h5_surface as load_h5_surface
    from losspath.surface import refine_surface as refine_surface

# Name -> module. Loaded on first use, so that the command line's help does not wait for torch and
# `import losspath` never loads a drawing library.
_EXPORTS = {
    "Activations": "losspath.analysis.activations",
    "Barriers": "losspath.analysis.barriers",
    "Confusion": "losspath.analysis.diagnostics",
    "DistanceMap": "losspath.analysis.distances",
    "Dynamics": "losspath.analysis.dynamics",
    "Embedding": "losspath.analysis.embedding",
    "Fidelity": "losspath.surface",
    "FunctionDistances": "losspath.analysis.function_space",
    "Grid": "losspath.geometry.grid",
    "History": "losspath.analysis.runs",
    "Interpolation": "losspath.analysis.interpolation",
    "JointPath": "losspath.recording.joint",
    "Landscape": "losspath.surface",
    "LocalProcesses": "losspath.evaluation.execution.processes",
    "LogSpaced": "losspath.recording.schedules",
    "LosspathError": "losspath.errors",
    "LosspathWarning": "losspath.errors",
    "Objective": "losspath.evaluation.objective",
    "Pairs": "losspath.recording.schedules",
    "Plane": "losspath.geometry.plane",
    "PrincipalPlane": "losspath.geometry.plane",
    "Projection": "losspath.geometry.projection",
    "RandomWalk": "losspath.geometry.walk",
    "Verdict": "losspath.analysis.verdict",
    "Recorder": "losspath.recording.recorder",
    "RunCurves": "losspath.analysis.runs",
    "Saliency": "losspath.analysis.saliency",
    "Sketch": "losspath.recording.sketch",
    "StepSizeLR": "losspath.analysis.rates",
    "StepSizes": "losspath.analysis.steps",
    "Surface": "losspath.surface",
    "SurfaceDifference": "losspath.analysis.comparison",
    "Trajectory": "losspath.recording.trajectory",
    "Uncertainty": "losspath.analysis.uncertainty",
    "activations": "losspath.analysis.activations",
    "architecture": "losspath.analysis.diagnostics",
    "barriers": "losspath.analysis.barriers",
    "compare_surfaces": "losspath.analysis.comparison",
    "compute_surface": "losspath.surface",
    "confusion": "losspath.analysis.diagnostics",
    "distance_map": "losspath.analysis.distances",
    "feature_maps": "losspath.analysis.filters",
    "filters": "losspath.analysis.filters",
    "fit_plane": "losspath.geometry.plane",
    "function_distances": "losspath.analysis.function_space",
    "import_checkpoints": "losspath.importing",
    "interpolate": "losspath.analysis.interpolation",
    "learning_rates": "losspath.analysis.rates",
    "line_uncertainty": "losspath.analysis.uncertainty",
    "load_h5_surface": "losspath.surface",
    "measure_dynamics": "losspath.analysis.dynamics",
    "measure_fidelity": "losspath.analysis.fidelity",
    "measure_history": "losspath.analysis.runs",
    "plot_activations": "losspath.figures",
    "plot_barriers": "losspath.figures",
    "plot_confusion": "losspath.figures",
    "plot_distance_map": "losspath.figures",
    "plot_dynamics": "losspath.figures",
    "plot_feature_maps": "losspath.figures",
    "plot_filters": "losspath.figures",
    "plot_function_distances": "losspath.figures",
    "plot_history": "losspath.figures",
    "plot_interpolation": "losspath.figures",
    "plot_runs": "losspath.figures",
    "plot_saliency": "losspath.figures",
    "plot_samples": "losspath.figures",
    "plot_step_panels": "losspath.figures",
    "plot_step_sizes": "losspath.figures",
    "plot_surface": "losspath.figures",
    "plot_surfaces": "losspath.figures",
    "plot_uncertainty": "losspath.figures",
    "judge_dynamics": "losspath.analysis.verdict",
    "random_walk_variance": "losspath.geometry.walk",
    "refine_surface": "losspath.surface",
    "saliency": "losspath.analysis.saliency",
    "state_distances": "losspath.analysis.distances",
    "step_cosines": "losspath.analysis.steps",
    "step_sizes": "losspath.analysis.steps",
    "surface_uncertainty": "losspath.analysis.uncertainty",
}

__all__ = ["__version__", "methods", *_EXPORTS]


def __getattr__(name: str) -> object:
    if name == "methods":
        return importlib.import_module("losspath.methods")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'losspath' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
