"""Which of torch's kernels a forward pass takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def unfused() -> Iterator[None]:
    """Turns the fused evaluation kernels of attention off inside; afterwards as they were.

    In evaluation mode `nn.MultiheadAttention` and `nn.TransformerEncoder` take kernels that
    training has no part in. With masks these give NaN, or zeros for padding, where the kernels
    that the network was trained with give numbers. The setting is the whole process's.
    """
    with fused(False):
        yield


@contextmanager
def fused(is_on: bool) -> Iterator[None]:
    """Turns those kernels on or off inside."""
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        try:
            torch.backends.mha.set_fastpath_enabled(is_on)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(before)
    finally:  # again, as an interrupt may have come before the first
        torch.backends.mha.set_fastpath_enabled(before)
