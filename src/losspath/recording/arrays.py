"""Arrays that are handed out."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

N = TypeVar("N", bound=np.generic)


def read_only(array: npt.NDArray[N]) -> npt.NDArray[N]:
    """A copy that nothing can be written into."""
    array = array.copy()
    array.flags.writeable = False
    return array


def as_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor's numbers; of a dtype that NumPy has not, as float32."""
    try:
        array: npt.NDArray[Any] = tensor.numpy()
    except TypeError:
        array = tensor.float().numpy()
    return array
