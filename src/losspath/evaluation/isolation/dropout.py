"""Dropout that is active while all else is in evaluation mode (Y. Gal and Z. Ghahramani, 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def dropping_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules of a model that drop something in training mode.

    Torch's own, those whose class has "drop" in its name (DropPath, StochasticDepth), and those
    that have a share of their own to drop, as attention and recurrent layers have. Modules that
    keep running statistics stay out, whatever they are called.
    """
    return [
        module
        for module in model.modules()
        if (_is_dropout(module) or _has_share(module)) and not hasattr(module, "running_mean")
    ]


def _is_dropout(module: torch.nn.Module) -> bool:
    return any("drop" in kind.__name__.lower() for kind in type(module).__mro__)


def _has_share(module: torch.nn.Module) -> bool:
    shares = (value for name, value in vars(module).items() if "dropout" in name)
    return any(isinstance(share, float) and 0.0 < share < 1.0 for share in shares)


@contextmanager
def dropping(model: torch.nn.Module, seed: int | None) -> Iterator[None]:
    """Inside, dropout is active, with masks that the seed decides; None for nothing of that.

    Random states are the caller's to put back.

    Args:
        model: in evaluation mode.
        seed: of the masks.
    """
    if seed is None:
        yield
        return
    before = [(module, module.training) for module in dropping_modules(model)]
    torch.manual_seed(seed)
    try:
        for module, _ in before:
            module.training = True
        yield
    finally:
        for module, training in before:
            module.training = training
