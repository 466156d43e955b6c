"""NumPy arrays among data: as tensors, and in single precision where that loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import is_
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from losspath.evaluation.containers import map_tensors

# What rounding may take of what sets samples apart.
_LOST = 1e-6


def as_tensors(value: Any) -> Any:
    """A nested value with tensors in place of arrays of numbers, in lists, tuples and mappings.

    Float64 is what NumPy makes of everything, and not what most models take: it becomes float32
    where the caller of this finds a model of single precision. Arrays in named tuples and in
    objects are what the caller means to get, and stay arrays.
    """
    return _with_arrays(value, _as_tensor)


def _as_tensor(array: Any) -> Any:
    if isinstance(array, np.ma.MaskedArray) or not _is_numeric(array):
        return array
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    # torch takes neither read-only arrays nor negative strides.
    return torch.from_numpy(np.require(native, requirements=["C", "W"]))


def _is_numeric(array: Any) -> bool:
    return array.dtype.kind in "biufc" and array.dtype.itemsize <= (
        16 if array.dtype.kind == "c" else 8
    )


def _with_arrays(value: Any, function: Callable[[Any], Any]) -> Any:
    """A nested value with a function of its arrays; all else is what it was."""
    if isinstance(value, np.ndarray):
        return function(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        items = [_with_arrays(item, function) for item in value]
        are_same = all(map(is_, items, value))
    elif isinstance(value, Mapping):
        named = {key: _with_arrays(item, function) for key, item in value.items()}
        items, are_same = list(named.values()), all(map(is_, named.values(), value.values()))
    else:
        return value
    if are_same:
        return value
    if type(value) in (list, tuple, dict):
        return named if isinstance(value, Mapping) else type(value)(items)
    return map_tensors(value, lambda tensor: tensor, function)


def narrowed(value: Any) -> Any:
    """A nested value with its float64 arrays as float32, but where that loses what matters.

    Times in seconds since 1970 are all the same in float32, so that they stay as they are.
    """
    return _with_arrays(value, _narrowed)


def _narrowed(array: Any) -> Any:
    if array.dtype != np.float64 or isinstance(array, np.ma.MaskedArray):
        return array
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    return array if is_lossy(array, single) else single


def is_lossy(double: npt.NDArray[Any], single: npt.NDArray[Any], most: float = _LOST) -> bool:
    """Whether single precision loses more than a share of the spread in any column."""
    if not double.size:
        return False
    columns = double.reshape(-1, double.shape[-1]) if double.ndim > 1 else double.reshape(-1, 1)
    finite = np.isfinite(columns)
    known = np.where(finite, columns, 0.0)
    error = known - np.where(finite, single.reshape(columns.shape), 0.0)
    count = np.maximum(finite.sum(0), 1)
    middle = known.sum(0) / count
    spread = np.sqrt((np.where(finite, known - middle, 0.0) ** 2).sum(0) / count)
    # Of a single number nothing is known but that it is rounded.
    spread = np.where(spread > 0, spread, 1.0)
    return bool((np.sqrt((error**2).sum(0) / count) > most * spread).any())
