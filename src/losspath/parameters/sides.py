"""What outputs depend on that is no part of a row: buffers and frozen parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from losspath.parameters.layout import Layout
from losspath.parameters.memory import Memory
from losspath.parameters.names import named_buffers, named_parameters


class SideTensor(NamedTuple):
    """A tensor that outputs depend on and that is no part of a row.

    Attributes:
        name: its canonical name.
        tensor: the model's own.
        kind: "buffer", or "frozen" for a parameter that is not in the rows.
        whole: gives all of one that is sharded; None for others.
    """

    name: str
    tensor: torch.Tensor
    kind: Literal["buffer", "frozen"]
    whole: Callable[[], torch.Tensor] | None = None


def side_tensors(model: torch.nn.Module, layout: Layout) -> list[SideTensor]:
    """Buffers of every dtype, and parameters that are not in the rows.

    Left out are those without a shape yet (lazy ones), and views of memory that is in the rows.

    Args:
        model: the model.
        layout: the layout of its rows.
    """
    rows = {entry.name for entry in layout.parameters}
    taken = Memory()
    found: list[SideTensor] = []
    for name, parameter in named_parameters(model):
        if name in rows:
            taken.add(name, parameter)
        else:
            found.append(SideTensor(name, parameter, "frozen"))
    found += [SideTensor(name, buffer, "buffer") for name, buffer in named_buffers(model)]
    return [
        each
        for each in found
        if not torch.nn.parameter.is_lazy(each.tensor) and not taken.overlapping(each.tensor)
    ]
