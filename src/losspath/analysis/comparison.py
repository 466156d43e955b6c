"""How much two surfaces differ, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from losspath.arguments import SURFACE, checked, count
from losspath.errors import ArgumentError
from losspath.extras import extra
from losspath.surface import CLIP, Surface

Floats = npt.NDArray[np.float64]

_WINDOW = 7  # of the structural similarity, as in its paper's implementation


@dataclass(frozen=True)
class SurfaceDifference:
    """How much a surface differs from another one.

    Attributes:
        ssim: the structural similarity [1] of the two pictures, 1 for equal ones; of losses up to
            1.5 times the initial loss.
        median_error: the median over the area of |difference| / loss, of losses so clipped.
        high_error: its 95 % quantile.
        cost: evaluations of samples, as a multiple of the other's.

    References:
        [1] Z. Wang et al., "Image quality assessment: from error visibility to structural
        similarity", IEEE Transactions on Image Processing 13, 2004.
    """

    ssim: float
    median_error: float
    high_error: float
    cost: float


@checked(surface=SURFACE, reference=SURFACE, resolution=count(None, 10_000))
def compare_surfaces(
    surface: Surface, reference: Surface, *, resolution: int = 64
) -> SurfaceDifference:
    """Compares a surface with another one of the same plane, or nearly the same.

    Both are read between their points on one even grid over what both cover. Coordinates are taken
    as they are: that the planes are the same, or how far apart, is for the caller to know.

    Args:
        surface: the surface to judge.
        reference: what to hold it against.
        resolution: lines of the even grid, along each axis.

    Raises:
        ArgumentError: the two have no ground in common, or a resolution below 7.
    """
    if resolution < _WINDOW:
        raise ArgumentError(f"expected a resolution of at least {_WINDOW}, got {resolution}")
    x, y = (
        _common(getattr(surface, axis), getattr(reference, axis), resolution) for axis in ("x", "y")
    )
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    one, other = (each.at(points).reshape(resolution, resolution) for each in (surface, reference))
    known = np.isfinite(one) & np.isfinite(other)
    if not known.any():
        raise ArgumentError(
            "the two surfaces have no point in common where both have a loss; compute more of "
            "them, on grids that overlap"
        )
    limit = CLIP * reference.initial_loss
    top = float(other[known].max())
    if 0 < limit < top and limit > float(other[known].min()):
        top = limit
    drawn = [np.where(np.isfinite(each), np.minimum(each, top), top) for each in (one, other)]
    errors = np.abs(drawn[0] - drawn[1])[known] / np.maximum(
        np.abs(drawn[1][known]), np.finfo(float).tiny
    )
    return SurfaceDifference(
        ssim=_similarity(drawn[0], drawn[1]),
        median_error=float(np.median(errors)),
        high_error=float(np.quantile(errors, 0.95)),
        cost=_cost(surface) / _cost(reference),
    )


def _common(one: Floats, other: Floats, count: int) -> Floats:
    low, high = max(one[0], other[0]), min(one[-1], other[-1])
    if not low < high:
        raise ArgumentError("the two surfaces have no ground in common; compute both in one plane")
    return np.linspace(low, high, count)


def _similarity(one: Floats, other: Floats) -> float:
    with extra("compare"):
        from skimage.metrics import structural_similarity

    span = float(max(one.max(), other.max()) - min(one.min(), other.min()))
    if span == 0:
        return 1.0
    return float(structural_similarity(one, other, win_size=_WINDOW, data_range=span))


def _cost(surface: Surface) -> float:
    return float(surface.evaluated.sum()) * float(surface.provenance.get("samples", 1))
