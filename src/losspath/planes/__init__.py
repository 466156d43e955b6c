"""Planes in parameter space beside a path's principal one; each is a function that gives a `Plane`.

>>> import numpy as np
>>> from losspath.planes import states_plane
>>> plane = states_plane(np.eye(3))  # through the three unit vectors of a space of three parameters
>>> plane.project(np.eye(3)).round(3).tolist()
[[0.0, 0.0], [1.414, 0.0], [0.707, 1.225]]
"""

from __future__ import annotations

from losspath.discovery import modules_in
from losspath.planes.curvature import hessian_plane
from losspath.planes.named import PLANES, NamedPlane, named, plane_named
from losspath.planes.random import random_plane
from losspath.planes.states import states_plane, windows_plane

__all__ = [
    "PLANES",
    "NamedPlane",
    "hessian_plane",
    "named",
    "plane_named",
    "random_plane",
    "states_plane",
    "windows_plane",
]

# A plane is one file: those that are here are known by name without being listed anywhere.
list(modules_in(__name__, __path__))
