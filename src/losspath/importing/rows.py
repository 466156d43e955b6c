"""The row that a checkpoint's tensors make, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from losspath.parameters import Entry, Layout, digest_of_numbers, flat


def numbers_of(tensors: Mapping[str, torch.Tensor], entry: Entry) -> torch.Tensor | None:
    """The numbers of one tensor of a row, in its own dtype; None where it is not of that shape."""
    tensor = tensors.get(entry.name)
    if tensor is None:
        return None
    if entry.dtype.startswith("complex") and not tensor.is_complex():
        tensor = tensor.to(getattr(torch, entry.dtype))
    numbers = flat(tensor)
    return numbers if numbers.numel() == entry.size else None


def parts_of(tensors: Mapping[str, torch.Tensor], layout: Layout) -> Iterator[torch.Tensor]:
    """The numbers of a row, in order.

    Args:
        tensors: by their names in the run.
        layout: of the row.

    Raises:
        KeyError: a tensor is not there, or of another shape.
    """
    for entry in layout.parameters:
        numbers = numbers_of(tensors, entry)
        if numbers is None:
            raise KeyError(entry.name)
        yield numbers


def digest_of_row(
    tensors: Mapping[str, torch.Tensor], layout: Layout, dtype: torch.dtype
) -> int | None:
    """The XXH3-64 of a row's bytes; None where tensors are not there, or of another shape.

    Args:
        tensors: by their names in the run.
        layout: of the row.
        dtype: of the row.
    """
    try:
        return digest_of_numbers(parts_of(tensors, layout), dtype)
    except KeyError:
        return None
