"""Loss surfaces around a path: computed coarse first, and one value with all that is needed."""

from losspath.evaluation.quantities import ACCURACY as ACCURACY
from losspath.evaluation.quantities import LOSS as LOSS
from losspath.evaluation.quantities import SPREAD as SPREAD
from losspath.evaluation.quantities import value_named as value_named
from losspath.surface.budget import Budget as Budget
from losspath.surface.compute import compute_surface as compute_surface
from losspath.surface.compute import refine_surface as refine_surface
from losspath.surface.fidelity import Fidelity as Fidelity
from losspath.surface.h5 import load_h5_surface as load_h5_surface
from losspath.surface.landscape import Landscape as Landscape
from losspath.surface.states import check_same_network as check_same_network
from losspath.surface.states import evaluate_states as evaluate_states
from losspath.surface.states import loss_notes as loss_notes
from losspath.surface.states import path_fingerprint as path_fingerprint
from losspath.surface.states import probes_of as probes_of
from losspath.surface.states import spread_states as spread_states
from losspath.surface.surface import CLIP as CLIP
from losspath.surface.surface import StateLosses as StateLosses
from losspath.surface.surface import Surface as Surface
