"""The numbers that a training loop gives: steps, losses, and values with names."""

from __future__ import annotations

import operator

import numpy as np
import torch

from losspath.arguments import described
from losspath.errors import ArgumentError
from losspath.parameters import is_sharded, whole
from losspath.recording.settings import MARK
from losspath.recording.snapshots import DEVICES


def as_step(step: int) -> int:
    """A step as a whole number, 0 or more."""
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if isinstance(step, bool) or not 0 <= number < 1 << 62:
        raise ArgumentError(f"expected a step as an integer ≥ 0, got {described(step)}")
    return number


def as_number(value: float | torch.Tensor, name: str = "the loss") -> float | torch.Tensor:
    """One real number: a float, or a tensor on a device that is not waited for here."""
    if isinstance(value, torch.Tensor) and is_sharded(value):
        value = whole(value)  # here, where all processes come by
    if isinstance(value, torch.Tensor) and value.device.type in DEVICES:
        value = value.detach()
        if value.numel() == 1 and not value.is_complex():
            return value
    return as_float(value, name)


def as_value(name: str, value: float | torch.Tensor) -> float | torch.Tensor:
    """A named value as one real number: see `as_number`."""
    if name.startswith(MARK):
        raise ArgumentError(
            f"expected names of values that do not begin with {MARK!r}, as those are the "
            f"recorder's own, got {name!r}"
        )
    return as_number(value, name)


def as_float(value: float | torch.Tensor, name: str = "the loss") -> float:
    """One real number, of whatever a loop has it in, as a float."""
    if type(value) is torch.Tensor:
        try:  # what nearly every loop gives; whatever else it is, is seen to below
            if type(number := value.item()) is float:
                return number
        except RuntimeError:
            pass
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if value.numel() != 1 or value.is_complex():
            raise ArgumentError(
                f"expected {name} as one real number, got a {value.dtype} tensor of shape "
                f"{tuple(value.shape)}; take its mean first"
            )
        if value.is_meta:
            raise ArgumentError(
                f"expected {name} as one real number, got a tensor on the meta device, which holds "
                "none"
            )
        return float(value.item())
    try:
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        if isinstance(value, (str, bytes, bytearray)) or np.iscomplexobj(value):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(
            f"expected {name} as a float or a tensor of one number, got {described(value)}"
        ) from None


def not_after(before: int, step: int) -> str:
    """What to say of a step that does not follow the one before."""
    return f"expected a step after the last one, {before}, got {step}; " + (
        "step 0 is the state before training, so count from 1"
        if before == 0
        else "steps are recorded in order (to go on from an earlier one, use "
        'Recorder(..., existing="resume", step=…))'
    )
