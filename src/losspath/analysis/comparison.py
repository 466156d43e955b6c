"""How much two surfaces differ, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import KDTree
from scipy.stats import spearmanr

from losspath.arguments import SURFACE, checked, count, flag, text
from losspath.errors import ArgumentError
from losspath.extras import extra
from losspath.surface import ACCURACY, CLIP, LOSS, Surface
from losspath.surface.surface import LOGARITHMIC

Floats = npt.NDArray[np.float64]

_WINDOW = 7  # of the structural similarity, as in its paper's implementation
_LEVELS = 9  # of contours: tenths of the colour scale, as the pictures' forty colours have them
_POINTS = 2000  # of a contour as long as the longer side of the ground
_DEEP = 0.01  # of the colour scale, that a local minimum is deep at least
_FLAT = 1e-9  # of the heights, that they differ at least
_SAME = 1e-3  # of the path's extent, that its states may lie apart in two planes that are one


@dataclass(frozen=True)
class SurfaceDifference:
    """How much a surface differs from another one.

    Heights count as they are drawn: losses up to 1.5 times the reference's initial loss, and on one
    colour scale for both, which is logarithmic where losses span more than a factor of 12.

    Attributes:
        ssim: the structural similarity [1] of the two pictures, 1 for equal ones; of losses up to
            1.5 times the initial loss.
        median_error: the median over the area of |difference| / loss, of losses so clipped; of
            another quantity, of |difference|.
        high_error: its 95 % quantile.
        cost: evaluations of samples, as a multiple of the other's.
        rank_correlation: Spearman's, of all finite heights at the same points: 1 where the two rise
            and fall together, whatever their scales; NaN where one is constant.
        contour_error: how far apart the contour lines of one level are: the mean distance from
            either surface's lines to the nearest one of the other (the average symmetric surface
            distance [2]), at nine levels evenly over the colour scale, as a share of the ground's
            longer side. NaN where no level is in both.
        high_contour_error: the 95 % quantile of these distances.
        common_levels: the share of levels with a line in both, of those with one in either; the
            contour errors are of these alone.
        minima: the number of local minima of the surface that are deeper than 1 % of the colour
            scale (of that persistence [3]), on its own grid; 1 for a bowl and for a slope. Of
            accuracies it is maxima.
        reference_minima: that of the other surface.

    References:
        [1] Z. Wang et al., "Image quality assessment: from error visibility to structural
        similarity", IEEE Transactions on Image Processing 13, 2004.
        [2] T. Heimann et al., "Comparison and evaluation of methods for liver segmentation from CT
        datasets", IEEE Transactions on Medical Imaging 28, 2009.
        [3] H. Edelsbrunner, D. Letscher and A. Zomorodian, "Topological persistence and
        simplification", Discrete & Computational Geometry 28, 2002.
    """

    ssim: float
    median_error: float
    high_error: float
    cost: float
    rank_correlation: float
    contour_error: float
    high_contour_error: float
    common_levels: float
    minima: int
    reference_minima: int

    def to_json(self) -> dict[str, Any]:
        """The numbers by name, as JSON values: None for NaN."""
        return {k: None if np.isnan(value) else value for k, value in asdict(self).items()}


@checked(
    surface=SURFACE,
    reference=SURFACE,
    resolution=count(None, 10_000),
    quantity=text,
    check=flag,
)
def compare_surfaces(
    surface: Surface,
    reference: Surface,
    *,
    resolution: int = 64,
    quantity: str = LOSS,
    check: bool = True,
) -> SurfaceDifference:
    """Compares a surface with another one of the same plane.

    Both are read bilinearly between their points on one even grid over what both cover, so their
    grids may differ. That their planes are the same is told by the states of the path that both
    show: these lie at the same places to a thousandth of the path's extent. Where one has the same
    places turned, moved or mirrored, as planes through the same states in another order, it is read
    through that motion.

    Args:
        surface: the surface to judge.
        reference: what to hold it against.
        resolution: lines of the even grid, along each axis.
        quantity: "loss", "accuracy" or another that both have.
        check: refuse surfaces whose planes differ, or that show other paths; without it coordinates
            are taken as they are, as for the principal planes of a path and of a part of it, which
            are nearly the same.

    Raises:
        ArgumentError: the two are of different planes or have no ground in common, no such
            quantity, or a resolution below 7.
        MissingExtraError: scikit-image is not installed (``pip install 'losspath[compare]'``).
    """
    if resolution < _WINDOW:
        raise ArgumentError(f"expected a resolution of at least {_WINDOW}, got {resolution}")
    motion = _motion(surface, reference) if check else _Motion()
    corners = motion.to_reference(_corners(surface))
    ends = np.stack([corners.min(axis=0), corners.max(axis=0)])
    x, y = (
        _common(ends[:, number], getattr(reference, axis), resolution)
        for number, axis in enumerate("xy")
    )
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    one = surface.at(motion.from_reference(points), quantity).reshape(resolution, resolution)
    other = reference.at(points, quantity).reshape(resolution, resolution)
    known = np.isfinite(one) & np.isfinite(other)
    if not known.any():
        raise ArgumentError(
            f"the two surfaces have no point in common where both have a {quantity}; compute more "
            "of them, on grids that overlap"
        )
    top = _top(other[known], reference, quantity)
    drawn = [np.where(np.isfinite(each), np.minimum(each, top), top) for each in (one, other)]
    errors = np.abs(drawn[0] - drawn[1])[known]
    if quantity == LOSS:
        errors /= np.maximum(np.abs(drawn[1][known]), np.finfo(float).tiny)
    scale = _Scale.of(np.stack([one, other])[:, known], reference, quantity)
    grounds = [np.where(known, each, np.nan) for each in (one, other)]
    mean, high, shared = _contour_errors(grounds, scale, float(np.ptp(x)), float(np.ptp(y)))
    return SurfaceDifference(
        ssim=_similarity(drawn[0], drawn[1]),
        median_error=float(np.median(errors)),
        high_error=float(np.quantile(errors, 0.95)),
        cost=_cost(surface) / _cost(reference),
        rank_correlation=_rank_correlation(one[known], other[known]),
        contour_error=mean,
        high_contour_error=high,
        common_levels=shared,
        minima=_minima(surface, quantity, scale),
        reference_minima=_minima(reference, quantity, scale),
    )


@dataclass(frozen=True)
class _Motion:
    """A rigid motion from a surface's coordinates to the reference's: (p − from) turn + to."""

    turn: Floats | None = None
    start: Floats | float = 0.0
    end: Floats | float = 0.0

    def to_reference(self, points: Floats) -> Floats:
        return points if self.turn is None else (points - self.start) @ self.turn + self.end

    def from_reference(self, points: Floats) -> Floats:
        return points if self.turn is None else (points - self.end) @ self.turn.T + self.start


def _motion(surface: Surface, reference: Surface) -> _Motion:
    """How a surface lies in the reference's plane.

    Raises:
        ArgumentError: it is of another plane, as far as the states tell that both show.
    """
    one, other = surface.path, reference.path
    digests = {each.provenance.get("path_digest") for each in (surface, reference)} - {None}
    if len(digests) > 1 or len(one) != len(other):
        planes = [each.provenance.get("plane") for each in (surface, reference)]
        if None not in planes and planes[0] == planes[1]:
            return _Motion()
        raise ArgumentError(
            f"the two surfaces show other paths, of {len(one):,} and {len(other):,} states, each "
            "in its plane, whose coordinates have nothing to do with each other; compute both in "
            "one plane (plane=), or give check=False if the planes are nearly the same"
        )
    extent = max(float(np.ptp(other, axis=0).max()), np.finfo(float).tiny)
    apart = float(np.abs(one - other).max()) / extent
    if apart <= _SAME:
        return _Motion()
    start, end = one.mean(axis=0), other.mean(axis=0)
    if np.linalg.matrix_rank(other - end, _SAME * extent) == 2:
        motion = _Motion(orthogonal_procrustes(one - start, other - end)[0], start, end)
        if float(np.abs(motion.to_reference(one) - other).max()) <= _SAME * extent:
            return motion
    raise ArgumentError(
        f"the two surfaces are of different planes: states of the path lie up to {apart:.1%} of "
        "its extent apart in them; compute both in one plane (plane=), or give check=False to take "
        "coordinates as they are"
    )


def _corners(surface: Surface) -> Floats:
    return np.array([[x, y] for x in surface.x[[0, -1]] for y in surface.y[[0, -1]]])


def _common(one: Floats, other: Floats, count: int) -> Floats:
    low, high = max(one[0], other[0]), min(one[-1], other[-1])
    if not low < high:
        raise ArgumentError("the two surfaces have no ground in common; compute both in one plane")
    return np.linspace(low, high, count)


def _top(heights: Floats, reference: Surface, quantity: str) -> float:
    """The largest height that counts: of losses no more than the clip, where some are below it."""
    top, limit = float(heights.max()), CLIP * reference.initial_loss
    is_clipped = quantity == LOSS and 0 < limit < top and limit > float(heights.min())
    return limit if is_clipped else top


@dataclass(frozen=True)
class _Scale:
    """The colour scale of both surfaces: see `losspath.figures.HeightScale`."""

    low: float
    high: float
    is_logarithmic: bool

    @classmethod
    def of(cls, heights: Floats, reference: Surface, quantity: str) -> _Scale:
        if quantity == ACCURACY:
            return cls(0.0, 1.0, False)
        low, high = float(heights.min()), _top(heights, reference, quantity)
        return cls(low, high, quantity == LOSS and low > 0 and high > LOGARITHMIC * low)

    @property
    def levels(self) -> Floats:
        """Heights evenly over the scale, without its ends."""
        space = np.geomspace if self.is_logarithmic else np.linspace
        levels: Floats = space(self.low, self.high, _LEVELS + 2)[1:-1]
        return levels[:0] if _is_flat(np.array([self.low, self.high])) else levels

    def shares(self, heights: Floats) -> Floats:
        """Where on the scale heights are, from 0 to 1."""
        inside = np.clip(heights, self.low, self.high)
        low, high = self.low, self.high
        if self.is_logarithmic:
            inside, low, high = np.log(inside), np.log(low), np.log(high)
        shares: Floats = (inside - low) / (high - low)
        return shares


def _rank_correlation(one: Floats, other: Floats) -> float:
    if _is_flat(one) or _is_flat(other):
        return float("nan")
    # In single precision, so that what reading between points rounds makes no ranks of equals.
    with np.errstate(over="ignore"):
        single = one.astype(np.float32), other.astype(np.float32)
    return float(spearmanr(*single).statistic)


def _is_flat(heights: Floats) -> bool:
    """Whether heights are all the same, to what reading between points rounds."""
    return bool(np.ptp(heights) <= _FLAT * np.abs(heights).max())


def _contour_errors(
    grounds: list[Floats], scale: _Scale, width: float, height: float
) -> tuple[float, float, float]:
    """Mean and 95 % quantile of the distances between contours, and the share of common levels."""
    spacing = np.array([height, width]) / max(width, height) / (len(grounds[0]) - 1)
    distances, either = [], 0
    for level in scale.levels:
        first, second = (_contour(each, float(level)) for each in grounds)
        either += bool(first or second)
        if first and second:
            ends = [
                np.concatenate([_even(line * spacing) for line in each]) for each in (first, second)
            ]
            distances.append(np.concatenate([_nearest(*ends), _nearest(*ends[::-1])]))
    if not distances:
        return float("nan"), float("nan"), float("nan") if not either else 0.0
    found = np.concatenate(distances)
    return float(found.mean()), float(np.quantile(found, 0.95)), len(distances) / either


def _contour(heights: Floats, level: float) -> list[Floats]:
    """Lines of one height, as rows and columns of the grid; none through what is not known."""
    with extra("compare"):
        from skimage.measure import find_contours

    return [line for line in find_contours(heights, level) if np.ptp(line, axis=0).any()]


def _even(line: Floats) -> Floats:
    """Points along a line, as near to each other everywhere."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    places = np.linspace(0.0, along[-1], 2 + int(along[-1] * _POINTS))
    return np.stack([np.interp(places, along, column) for column in line.T], axis=1)


def _nearest(points: Floats, others: Floats) -> Floats:
    distances: Floats = KDTree(others).query(points)[0]
    return distances


def _minima(surface: Surface, quantity: str, scale: _Scale) -> int:
    """The number of local minima that are deep enough to be seen; of accuracies, of maxima."""
    with extra("compare"):
        from skimage.measure import label
        from skimage.morphology import h_minima

    heights = surface.values[quantity]
    if not surface.evaluated.all():
        points = np.stack(np.meshgrid(surface.x, surface.y), axis=-1).reshape(-1, 2)
        heights = surface.at(points, quantity).reshape(heights.shape)
    heights = -heights if quantity == ACCURACY else heights
    scale = _Scale(-scale.high, -scale.low, False) if quantity == ACCURACY else scale
    if not len(scale.levels):
        return 1
    shares = np.where(np.isfinite(heights), scale.shares(heights), 1.0)
    if np.ptp(shares) < _DEEP:
        return 1
    return int(label(h_minima(shares, _DEEP), connectivity=2).max())


def _similarity(one: Floats, other: Floats) -> float:
    with extra("compare"):
        from skimage.metrics import structural_similarity

    span = float(max(one.max(), other.max()) - min(one.min(), other.min()))
    if span == 0:
        return 1.0
    return float(structural_similarity(one, other, win_size=_WINDOW, data_range=span))


def _cost(surface: Surface) -> float:
    return float(surface.evaluated.sum()) * float(surface.provenance.get("samples", 1))
