"""Figures (matplotlib) of surfaces, interpolations and step sizes.

Every function returns a `matplotlib.figure.Figure` that no global state knows of, in the width of a
paper's column (3.5 inches) or page (7.2). Those that take ``axes`` draw into them instead, so that
figures can be composed. Colour maps are perceptually uniform, lines take the colours of Okabe and
Ito, and line styles are a second cue.
"""

from losspath.figures.barriers import plot_barriers
from losspath.figures.curves import plot_interpolation, plot_step_sizes
from losspath.figures.diagnostics import (
    plot_activations,
    plot_confusion,
    plot_feature_maps,
    plot_filters,
    plot_saliency,
    plot_samples,
)
from losspath.figures.dynamics import plot_dynamics
from losspath.figures.functions import plot_function_distances
from losspath.figures.runs import plot_history, plot_runs, plot_step_panels
from losspath.figures.scale import HeightScale
from losspath.figures.style import save_figure
from losspath.figures.surfaces import plot_distance_map, plot_surface, plot_surfaces
from losspath.figures.uncertainty import plot_uncertainty

__all__ = [
    "HeightScale",
    "plot_activations",
    "plot_barriers",
    "plot_confusion",
    "plot_distance_map",
    "plot_dynamics",
    "plot_feature_maps",
    "plot_filters",
    "plot_function_distances",
    "plot_history",
    "plot_interpolation",
    "plot_runs",
    "plot_saliency",
    "plot_samples",
    "plot_step_panels",
    "plot_step_sizes",
    "plot_surface",
    "plot_surfaces",
    "plot_uncertainty",
    "save_figure",
]
