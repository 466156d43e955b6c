"""How far a point's loss can be off because it is over a part of the samples."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from losspath.evaluation.evaluator import Evaluator
from losspath.evaluation.quantities import LOSS
from losspath.evaluation.recorded import PathObjective
from losspath.evaluation.subsets import disjoint_parts
from losspath.geometry.blend import blend
from losspath.surface.lifted import LiftedPlane
from losspath.surface.running import sides_of
from losspath.surface.shares import Shares

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_PARTS = 16
_LEAST = 4  # parts, of which a spread can be told


def standard_errors(
    lifted: LiftedPlane, bound: PathObjective, points: Floats, shares: Shares, of: int
) -> Floats:
    """The standard errors of points' heights, from the losses of disjoint parts of the samples.

    By the jackknife [1] over at most 16 parts, which needs no formula for what a height is of the
    parts' losses: a logarithm, clipped, of a mean or of a mean over several vectors. Times
    √(1 − n/N), as n of N samples are drawn without replacement.

    Args:
        lifted: which vectors points stand for.
        bound: the loss over some of the samples.
        points: (k, 2) where.
        shares: from losses to shares of the drawn range.
        of: N, how many samples there are in all.

    Returns:
        (k,) in shares of the drawn range; NaN where a loss is not finite, infinite where the
        samples cannot be taken apart.

    References:
        [1] B. Efron and C. Stein, "The jackknife estimate of variance", Annals of Statistics 9
        (1981) 586-596.
    """
    objective = bound.for_points(lifted.method.is_flat)
    parts = disjoint_parts(objective, _PARTS)
    if len(parts) < _LEAST:
        return np.full(len(points), np.inf)
    lift = lifted.lift(points)
    vectors = np.arange(len(lift))
    sides = sides_of(lifted, bound, lift, vectors)
    blended = blend(lifted.path, lifted.plane, lift.places, lift.weights_of(vectors))
    sums = np.empty((len(lift), len(parts), 2))  # the sum and the weight of each part
    evaluator = Evaluator(objective)
    with evaluator.lent():
        for vector, parameters in enumerate(blended):
            given = None if sides is None else sides[vector]
            evaluator.write(torch.from_numpy(parameters), given)
            for number, part in enumerate(parts):
                counts = [evaluator.count_part(each)[LOSS] for each in part]
                sums[vector, number] = np.sum(counts, axis=0)
    left_out = sums.sum(axis=1, keepdims=True) - sums
    with np.errstate(all="ignore"):
        losses = left_out[..., 0] / left_out[..., 1]  # (V, parts)
    heights = np.empty((len(points), len(parts)))
    for point in range(len(points)):
        own = lift.point == point
        mean = _mean(losses[own], lift.share[own], lifted.method.is_logarithmic)
        heights[point] = np.minimum(shares(mean), 1.0)
    spread = heights.std(axis=1) * math.sqrt(len(parts) - 1)
    errors: Floats = spread * math.sqrt(max(0.0, 1 - len(objective) / of))
    return errors


def of_all_heights(heights: Floats, known: npt.NDArray[np.bool_], count: int) -> Indices:
    """Numbers of points, the three lowest and others of all heights below the top.

    Args:
        heights: (G,) in shares of the drawn range.
        known: (G,) which there are.
        count: how many are wanted.

    Returns:
        (k,) at most so many; none where none is known below the top.
    """
    candidates = np.flatnonzero(known & np.isfinite(heights) & (heights < 1.0))
    order: Indices = candidates[np.argsort(heights[candidates], kind="stable")]
    if not len(order):
        return order
    spread = np.linspace(0, len(order) - 1, count - 3).round().astype(int)
    chosen: Indices = order[np.unique([*range(min(3, len(order))), *spread.tolist()])]
    return chosen


def _mean(losses: Floats, shares: Floats, is_logarithmic: bool) -> Floats:
    """(J,) the mean over a point's vectors (v, J), as `Evaluation.mean` has it."""
    if is_logarithmic and len(losses) > 1 and (losses > 0).all() and np.isfinite(losses).all():
        found: Floats = np.exp(shares @ np.log(losses))
        return found
    return shares @ losses
