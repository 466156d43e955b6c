"""Record any PyTorch training run and see the loss surface around the path it took."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from losspath import methods as methods
    from losspath.analysis.distances import DistanceMap as DistanceMap
    from losspath.analysis.distances import distance_map as distance_map
    from losspath.analysis.interpolation import Interpolation as Interpolation
    from losspath.analysis.interpolation import interpolate as interpolate
    from losspath.analysis.steps import StepSizes as StepSizes
    from losspath.analysis.steps import step_sizes as step_sizes
    from losspath.errors import LosspathError as LosspathError
    from losspath.errors import LosspathWarning as LosspathWarning
    from losspath.evaluation.objective import Objective as Objective
    from losspath.evaluation.processes import LocalProcesses as LocalProcesses
    from losspath.figures import plot_distance_map as plot_distance_map
    from losspath.figures import plot_interpolation as plot_interpolation
    from losspath.figures import plot_step_sizes as plot_step_sizes
    from losspath.figures import plot_surface as plot_surface
    from losspath.figures import plot_surfaces as plot_surfaces
    from losspath.geometry.grid import Grid as Grid
    from losspath.geometry.plane import Plane as Plane
    from losspath.geometry.plane import fit_plane as fit_plane
    from losspath.recording.recorder import Recorder as Recorder
    from losspath.recording.trajectory import Trajectory as Trajectory
    from losspath.surface import Surface as Surface
    from losspath.surface import compute_surface as compute_surface
    from losspath.surface import refine_surface as refine_surface

# Name -> module. Loaded on first use, so that the command line's help does not wait for torch and
# `import losspath` never loads a drawing library.
_EXPORTS = {
    "DistanceMap": "losspath.analysis.distances",
    "Grid": "losspath.geometry.grid",
    "Interpolation": "losspath.analysis.interpolation",
    "LocalProcesses": "losspath.evaluation.processes",
    "LosspathError": "losspath.errors",
    "LosspathWarning": "losspath.errors",
    "Objective": "losspath.evaluation.objective",
    "Plane": "losspath.geometry.plane",
    "Recorder": "losspath.recording.recorder",
    "StepSizes": "losspath.analysis.steps",
    "Surface": "losspath.surface",
    "Trajectory": "losspath.recording.trajectory",
    "compute_surface": "losspath.surface",
    "distance_map": "losspath.analysis.distances",
    "fit_plane": "losspath.geometry.plane",
    "interpolate": "losspath.analysis.interpolation",
    "plot_distance_map": "losspath.figures",
    "plot_interpolation": "losspath.figures",
    "plot_step_sizes": "losspath.figures",
    "plot_surface": "losspath.figures",
    "plot_surfaces": "losspath.figures",
    "refine_surface": "losspath.surface",
    "step_sizes": "losspath.analysis.steps",
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
