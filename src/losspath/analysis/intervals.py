"""Intervals for losses: of means over samples, of draws, and of real vectors at a place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]


def mean_interval(
    mean: Floats, deviation: Floats, skewness: Floats, parts: Floats, level: float
) -> tuple[Floats, Floats]:
    """Confidence intervals of means, where what they are means of is skewed, as losses are.

    With T = (x̄ − μ)/s and the skewness γ of n samples, g(T) = T + aγT²/√n + a²γ²T³/(3n) + bγ/√n,
    a = 1/3, b = 1/6, is symmetric to order 1/n and monotone [1]; its quantiles, those of Student's
    t with n − 1 degrees of freedom, are turned back to T's. Without skewness this is the usual
    interval.

    Args:
        mean: (G,) the means.
        deviation: (G,) their standard errors.
        skewness: (G,) of the samples.
        parts: (G,) how many samples.
        level: the share of intervals that hold the true mean.

    Returns:
        (G,) lower and (G,) upper ends.

    References:
        [1] P. Hall, "On the removal of skewness by transformation", Journal of the Royal
        Statistical Society B 54 (1992) 221-228.
    """
    root = np.sqrt(parts)
    bend = skewness / (3 * root)  # aγ/√n
    ends = []
    for tail in ((1 + level) / 2, (1 - level) / 2):
        quantile = stats.t.ppf(tail, parts - 1)
        inner = 1 + 3 * bend * (quantile - skewness / (6 * root))
        turned = np.where(
            np.abs(bend) < 1e-6,
            quantile,
            np.divide(np.cbrt(inner) - 1, bend, out=np.zeros_like(bend), where=bend != 0),
        )
        ends.append(mean - deviation * turned)
    return ends[0], ends[1]


def least_draws(level: float) -> int:
    """How many draws an interval of this level needs: so many that some lie beyond each end."""
    return int(np.ceil(2 / (1 - level) - 1 - 1e-9))


def draws_interval(draws: Floats, level: float) -> tuple[Floats, Floats]:
    """Intervals that another draw is in with the probability of the level.

    Between order statistics at p(T+1) of T draws (Weibull's plotting positions), whose coverage is
    the level for any distribution.

    Args:
        draws: (T, …) values, at least `least_draws` of each.
        level: the probability.

    Returns:
        (…) lower and (…) upper ends; NaN where a draw is.
    """
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0, method="weibull")
    return low, high


def spread(values: Sequence[float] | Floats, shares: Sequence[float] | Floats) -> float:
    """The standard deviation of values with shares, of each other: NaN of a single one.

    √(½ Σ s_a s_b (x_a − x_b)² / Σ s_a s_b) over pairs a ≠ b, which is unbiased for values that are
    alike in distribution, and does not shrink to nothing where one value has nearly all.
    """
    x, s = np.asarray(values, np.float64), np.asarray(shares, np.float64)
    if len(x) < 2:
        return float("nan")
    mean = float(s @ x)
    return float(np.sqrt(s @ np.square(x - mean) / (1 - s @ s)))


def conformal(scores: Floats, level: float) -> float:
    """The factor that makes so large a share of scores be below it, with one score to come.

    The ⌈(n+1)·level⌉-th smallest of n scores [1]; the largest where there are too few.

    Args:
        scores: (n,) how far truth was from what was foretold, in units of its stated deviation.
        level: the share.

    References:
        [1] J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani and L. Wasserman, "Distribution-free
        predictive inference for regression", JASA 113 (2018) 1094-1111.
    """
    ordered = np.sort(scores)
    return float(ordered[min(len(ordered), int(np.ceil((len(ordered) + 1) * level))) - 1])
