"""A model's parameters as one flat vector, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from losspath.errors import ModelError
from losspath.parameters.layout import Layout, dtype_name
from losspath.parameters.names import named_parameters

_PART = 1 << 20  # numbers that are taken for a digest at a time


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's numbers, detached and one-dimensional; complex ones as pairs."""
    value = tensor.detach()
    return (torch.view_as_real(value) if value.is_complex() else value).reshape(-1)


def in_order(model: torch.nn.Module, layout: Layout) -> list[torch.Tensor]:
    """The model's parameters that a layout names, in its order.

    Raises:
        ModelError: the model has none of such a name, or of another shape or dtype.
    """
    named = dict(named_parameters(model))
    found = []
    for entry in layout.parameters:
        tensor = named.get(entry.name)
        shape = None if tensor is None else tuple(tensor.shape) + (2,) * tensor.is_complex()
        if tensor is None or shape != entry.shape or dtype_name(tensor) != entry.dtype:
            now = (
                "is not there" if tensor is None else f"is {dtype_name(tensor)} {list(shape or ())}"
            )
            raise ModelError(
                f"the model has changed: parameter {entry.name} was {entry.dtype} "
                f"{list(entry.shape)} and now {now}; begin anew with the changed model"
            )
        found.append(tensor)
    return found


def flatten_parameters(model: torch.nn.Module, layout: Layout | None = None) -> npt.NDArray[Any]:
    """A copy of the model's parameters as one vector (P,), in the order of a recorded state.

    Float32, or float64 if any parameter is float64; half precisions widen exactly.

    Args:
        model: the model.
        layout: which parameters; by default those that are trainable, or all where none is.
    """
    layout = layout or Layout.of(model, dtype="float64", allow_complex=True)
    dtype = torch.float64 if layout.is_wide else torch.float32
    row = torch.empty(layout.parameter_count, dtype=dtype, device="cpu")
    copy_into(row, in_order(model, layout))
    vector: npt.NDArray[Any] = row.numpy()
    return vector


def copy_into(row: torch.Tensor, tensors: Iterable[torch.Tensor]) -> None:
    """Copies tensors one after the other into a one-dimensional CPU tensor of any float dtype."""
    done = 0
    for tensor in map(flat, tensors):
        row[done : done + len(tensor)].copy_(tensor)
        done += len(tensor)


def digest_of_numbers(tensors: Iterable[torch.Tensor], dtype: torch.dtype | None = None) -> int:
    """The XXH3-64 of the bytes that tensors have together, a part of them at a time.

    Args:
        tensors: one-dimensional, on any device.
        dtype: what they are converted to; None for their own.
    """
    hasher = xxhash.xxh3_64()
    for tensor in tensors:
        for part in tensor.split(_PART):  # type: ignore[no-untyped-call]
            numbers = part.to(device="cpu", dtype=dtype or part.dtype).contiguous()
            hasher.update(numbers.view(torch.uint8).numpy().data)
    return hasher.intdigest()


def unflatten(vector: torch.Tensor, layout: Layout) -> dict[str, torch.Tensor]:
    """Views of a parameter vector (P,) by name, each in its shape and dtype in the model."""
    tensors: dict[str, torch.Tensor] = {}
    for entry in layout.parameters:
        value = vector[entry.place].view(entry.shape)
        dtype = getattr(torch, entry.dtype)
        if dtype.is_complex:
            value = torch.complex(value[..., 0], value[..., 1])  # a view needs an even offset
        tensors[entry.name] = value.to(dtype)
    return tensors


def load_parameters(
    model: torch.nn.Module, vector: npt.NDArray[Any], layout: Layout | None = None
) -> None:
    """Copies a parameter vector (P,) into a model; the vector is left as it is.

    Args:
        model: the model.
        vector: the numbers.
        layout: which parameters; by default those that are trainable, or all where none is.

    Raises:
        ModelError: the vector has not as many numbers as the model has parameters.
    """
    layout = layout or Layout.of(model, dtype="float64", allow_complex=True)
    if vector.shape != (layout.parameter_count,):
        raise ModelError(
            f"expected a vector of {layout.parameter_count:,} parameters, got shape {vector.shape}"
        )
    values = unflatten(torch.from_numpy(np.array(vector)), layout)
    with torch.no_grad():
        for parameter, value in zip(in_order(model, layout), values.values(), strict=True):
            parameter.copy_(value)
