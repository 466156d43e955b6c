"""Learning rates taken from the size of the steps that another training took."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.optim.lr_scheduler import LRScheduler

from losspath.analysis.steps import StepSizes
from losspath.arguments import OPTIMIZER, WHOLE, as_floats, checked, count, number, one_of, optional
from losspath.errors import ArgumentError

Floats = npt.NDArray[np.float64]
Form = Literal["raw", "scaled", "shuffled", "mean"]

FORMS: tuple[Form, ...] = get_args(Form)


@checked(form=one_of(FORMS), smooth=WHOLE, mean=optional(number()), seed=count(0))
def learning_rates(
    sizes: StepSizes | npt.ArrayLike,
    form: Form = "raw",
    *,
    smooth: int = 1,
    mean: float | None = None,
    seed: int = 0,
) -> Floats:
    """A learning rate for every step, from the sizes of recorded steps.

    The thesis trains again with lr_t = s_t (its Fig. 6.13). A step's size and a learning rate have
    no common unit, so what is gained by it may be the rates' mean or their order in time; the other
    forms tell these apart.

    Args:
        sizes: the recorded step sizes, or an array (S,) of them.
        form: of all sizes, also where fewer are used in the end: "raw" takes them as they are;
            "scaled" multiplies them so that their mean is `mean`; "shuffled" takes them in random
            order; "mean" is their mean at every step.
        smooth: a moving average over so many steps comes first, over fewer at the ends; 1 for none.
        mean: of the form "scaled": what the rates' mean shall be.
        seed: of the form "shuffled".

    Returns:
        (S,) learning rates.

    Raises:
        ArgumentError: an unknown form, sizes that are no steps of one optimiser step each, are
            not finite or not known as states were lost, that do not begin at step 0, or "scaled"
            without a mean.
    """
    if isinstance(sizes, StepSizes):
        if sizes.holes:
            raise ArgumentError(
                f"expected the size of every step, but states of this run were lost after state "
                f"{sizes.holes[0]}, and the steps between have no known size; take the rates from "
                "a run without holes, or from a window of it before them"
            )
        if len(sizes.steps) and sizes.steps[0] > 0:
            raise ArgumentError(
                f"expected the sizes of all steps from the first on, got those from step "
                f"{sizes.steps[0]} on (the states before were lost, or are not in this window), so "
                f"that step 0 would get the rate of step {sizes.steps[0]}; take them from a whole "
                "run, or pass their .sizes if this is meant"
            )
        if (np.diff(sizes.steps) > 1).any():
            raise ArgumentError(
                "states were left out between the recorded ones, so that sizes are of several "
                "steps together; record every step"
            )
        sizes = sizes.sizes
    rates = np.array(as_floats("sizes", "step sizes, or numbers (S,)", sizes))
    if rates.ndim != 1:
        raise ArgumentError(f"expected step sizes, or numbers (S,), got shape {rates.shape}")
    if not len(rates) or not np.isfinite(rates).all() or (rates < 0).any():
        raise ArgumentError(
            "expected the sizes of at least one step, all finite and ≥ 0, got "
            f"{np.array2string(rates, 1000, threshold=5)}; where training went wrong, take a "
            "window of its path before that"
        )
    if smooth < 1:
        raise ArgumentError(f"expected smooth ≥ 1, got {smooth}")
    if smooth > 1:
        rates = _moving_average(rates, min(smooth, len(rates)))
    if form == "shuffled":
        return np.random.default_rng(seed).permutation(rates)
    if form == "mean":
        return np.full_like(rates, rates.mean())
    if form == "scaled":
        if mean is None or not 0 < mean < float("inf") or not rates.any():
            raise ArgumentError(f'the form "scaled" needs a mean > 0 to scale to, got {mean}')
        rates *= mean / rates.mean()
    return rates


def _moving_average(values: Floats, width: int) -> Floats:
    window = np.ones(width)
    sums = np.convolve(values, window, mode="same")
    average: Floats = sums / np.convolve(np.ones_like(values), window, mode="same")
    return average


class StepSizeLR(LRScheduler):
    """Sets the learning rate of every step to a given one, as for `learning_rates`.

    Like torch's own schedulers: its ``step()`` is called after each step of the optimiser. Past the
    last rate it keeps that one.

    Args:
        optimizer: the optimiser; all its parameter groups get the rate.
        rates: (S,) a rate for each step.
        last_epoch: how many steps were taken before, less one; −1 to begin.

    Raises:
        ArgumentError: no rates, or such as are not finite or below zero; or step sizes that
            `learning_rates` has yet to make rates of.

    Example:
        >>> steps = losspath.step_sizes(Trajectory("runs/plain"))  # doctest: +SKIP
        >>> scheduler = StepSizeLR(optimizer, learning_rates(steps))  # doctest: +SKIP
    """

    @checked(optimizer=OPTIMIZER, last_epoch=count(-1))
    def __init__(
        self, optimizer: torch.optim.Optimizer, rates: npt.ArrayLike, last_epoch: int = -1
    ) -> None:
        if isinstance(rates, StepSizes):
            raise ArgumentError("expected learning rates, got step sizes; pass learning_rates(…)")
        given = as_floats("rates", "learning rates, numbers (S,)", rates)
        if given.ndim != 1 or not len(given) or not np.isfinite(given).all() or given.min() < 0:
            raise ArgumentError(
                "expected (S,) learning rates, at least one, all finite and ≥ 0, got "
                f"{np.array2string(given.reshape(-1), 1000, threshold=5)} of shape {given.shape}"
            )
        self.rates = given.tolist()
        try:
            super().__init__(optimizer, last_epoch)
        except KeyError as cause:
            raise ArgumentError(
                f"expected an optimiser that a schedule was at work on before, as last_epoch is "
                f"{last_epoch}, got a new one; load its state, or begin with last_epoch=-1"
            ) from cause

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rate of the next step, for each parameter group."""
        rate = self.rates[min(self.last_epoch, len(self.rates) - 1)]
        return [rate for _ in self.optimizer.param_groups]
