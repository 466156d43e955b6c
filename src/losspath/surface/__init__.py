"""The loss surface around a path: what it is, and how it is computed."""

from losspath.surface.compute import check_same_network as check_same_network
from losspath.surface.compute import compute_surface as compute_surface
from losspath.surface.compute import evaluate_states as evaluate_states
from losspath.surface.compute import path_fingerprint as path_fingerprint
from losspath.surface.compute import probes_of as probes_of
from losspath.surface.compute import refine_surface as refine_surface
from losspath.surface.compute import spread_states as spread_states
from losspath.surface.compute import surface_key as surface_key
from losspath.surface.value import StateLosses as StateLosses
from losspath.surface.value import Surface as Surface
